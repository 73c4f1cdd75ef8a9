# SPDX-License-Identifier: Apache-2.0
"""The programs and libraries of this node, as `agent.policy.user_facts` asks about them.

A file is opened without running or waiting for anything (not a device, not a pipe), and read through that one
descriptor. When it is closed, the path must still lead to the same, unchanged file: what was found in it would
otherwise be taken for true of another one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from agent.kernel.btf import Btf
from agent.kernel.btf_format import MAX_BTF_BYTES, BtfError
from agent.kernel.btf_types import BtfTypes
from agent.kernel.elf import Elf, ElfError, RawSymbol
from agent.kernel.usdt import parse_probes
from agent.policy.facts import Types
from agent.policy.user_facts import FileIdentity, Segment, Symbol, SymbolKind, UsdtProbe, UserFileError

# No program comes near; hashing as much takes a few seconds.
MAX_DIGEST_BYTES: Final = 1 << 30
CHUNK: Final = 1 << 20
MAX_KNOWN_DIGESTS: Final = 256  # several hooks on one file hash it once
MAX_KNOWN_TYPES: Final = 4  # a file of BTF takes megabytes

_ELF_MAGIC = b"\x7fELF"
_FLAG_EXECUTABLE, _FLAG_WRITABLE = 1, 2  # PF_X, PF_W
_NOTYPE, _OBJECT, _FUNCTION, _INDIRECT = 0, 1, 2, 10  # STT_*
_FIRST_RESERVED, _EXTENDED = 0xFF00, 0xFFFF  # SHN_LORESERVE, SHN_XINDEX: absolute and common symbols lie between
_INTERRUPTED = "the file is being changed"
_AGAIN = "try again when it has been installed"


Digests = dict[tuple[FileIdentity, str], str]


class UserFiles:
    """The files of this process's mount namespace. Implements `agent.policy.user_facts.UserFacts`.

    Digests and types are kept for as long as a batch of policies takes: `release` gives them up.
    """

    def __init__(self) -> None:
        self._digests: Digests = {}
        self._file_types: dict[FileIdentity, BtfTypes] = {}

    def release(self) -> None:
        """Give up what was read. It is read again when it is asked for."""
        self._digests.clear()
        self._file_types.clear()

    @contextmanager
    def open_file(self, path: str) -> Iterator[OpenFile]:
        """Raises UserFileError."""
        fd = open_regular(path)
        try:
            identity = file_identity(os.fstat(fd))
            yield OpenFile(fd, path, identity, self._digests)
            if self.identity(path) != identity:
                raise UserFileError(f"{path}: {_INTERRUPTED}", _AGAIN)
        finally:
            os.close(fd)

    def identity(self, path: str) -> FileIdentity:
        """Raises UserFileError."""
        try:
            return file_identity(os.stat(path))
        except (OSError, ValueError) as error:
            raise _refusal(path, error) from error

    def file_types(self, path: str) -> Types:
        """Raises UserFileError."""
        identity = self.identity(path)
        if identity not in self._file_types:
            if len(self._file_types) >= MAX_KNOWN_TYPES:
                self._file_types.clear()
            self._file_types[identity] = _read_types(path)
        return self._file_types[identity]


class OpenFile:
    """One file, from `UserFiles.open_file`; not to be used after that."""

    def __init__(
        self, fd: int, path: str, identity: FileIdentity, digests: dict[tuple[FileIdentity, str], str]
    ) -> None:
        self._fd = fd
        self._path = path
        self._known = digests
        self.identity = identity
        try:
            self._elf = Elf(self._read, identity.size)
            self._segments = tuple(_segments(self._elf, identity.size))
            self._build_id = self._elf.build_id()
        except ElfError as error:
            raise self._damaged(error) from error

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those that are loaded from the file."""
        return self._segments

    @property
    def build_id(self) -> str:
        """In hexadecimal, or ""."""
        return self._build_id

    def symbols(self, names: Collection[str]) -> tuple[Symbol, ...]:
        """The symbols with any of these names."""
        try:
            found = list(self._elf.symbols({name.encode() for name in names}))
        except ElfError as error:
            raise self._damaged(error) from error
        return tuple(dict.fromkeys(symbol for raw in found if (symbol := self._symbol(raw))))

    def function_names(self) -> Iterator[str]:
        """The names of the functions that it defines."""
        try:
            for raw in self._elf.symbols():
                if raw.section and raw.kind in (_FUNCTION, _INDIRECT):
                    yield raw.name.partition(b"@")[0].decode(errors="replace")
        except ElfError as error:
            raise self._damaged(error) from error

    def probes(self) -> tuple[UsdtProbe, ...]:
        """Its USDT probes."""
        try:
            return tuple(parse_probes(self._elf))
        except ElfError as error:
            raise self._damaged(error) from error

    def digest(self, algorithm: str) -> str:
        """Of the whole file, in hexadecimal."""
        key = (self.identity, algorithm)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN_DIGESTS:
                self._known.clear()
            self._known[key] = self._hash(algorithm)
        return self._known[key]

    def _hash(self, algorithm: str) -> str:
        size = self.identity.size
        if size > MAX_DIGEST_BYTES:
            advice = "use its build-id, or no binaryDigests"
            raise UserFileError(
                f"{self._path}: {size} bytes are more than the {MAX_DIGEST_BYTES} that are hashed", advice
            )
        state = hashlib.new(algorithm, usedforsecurity=False)
        for offset in range(0, size, CHUNK):
            state.update(self._read(offset, min(CHUNK, size - offset)))
        return state.hexdigest()

    def _symbol(self, raw: RawSymbol) -> Symbol | None:
        """None for what has no address in the file: sections, absolute numbers, thread-local variables."""
        if _FIRST_RESERVED <= raw.section < _EXTENDED or raw.kind not in (_NOTYPE, _OBJECT, _FUNCTION, _INDIRECT):
            return None
        name, at, version = raw.name.partition(b"@")
        default = not at or version.startswith(b"@")
        text = version.lstrip(b"@").decode(errors="replace")
        return Symbol(
            name.decode(errors="replace"), raw.value, raw.size, self._kind(raw), text, default, raw.section != 0
        )

    def _kind(self, raw: RawSymbol) -> SymbolKind:
        if raw.kind == _INDIRECT:
            return SymbolKind.INDIRECT
        # Assemblers leave out the type; where the symbol lies says what it is.
        inside = any(part.executable and 0 <= raw.value - part.address < part.size for part in self._segments)
        is_code = raw.kind == _FUNCTION or (raw.kind == _NOTYPE and (inside or not raw.section))
        return SymbolKind.FUNCTION if is_code else SymbolKind.DATA

    def _read(self, offset: int, size: int) -> bytes:
        return _read_all(self._fd, self._path, offset, size)

    def _damaged(self, error: ElfError) -> UserFileError:
        return UserFileError(f"{self._path}: {error}", "name a program or a shared library for 64-bit x86")


def _read_types(path: str) -> BtfTypes:
    """Raw BTF, or that of an ELF file."""
    fd = open_regular(path)
    try:
        data = _read_btf(fd, path)
        return BtfTypes(Btf.parse(data))
    except (BtfError, ElfError) as error:
        raise UserFileError(f"{path}: {error}", "name a file of BTF, or one with a section .BTF, in btfPath") from error
    finally:
        os.close(fd)


def _read_btf(fd: int, path: str) -> bytes:
    size = os.fstat(fd).st_size

    def read(offset: int, length: int) -> bytes:
        return _read_all(fd, path, offset, length)

    if read(0, min(size, len(_ELF_MAGIC))) == _ELF_MAGIC:
        file = Elf(read, size)
        section = file.section(".BTF")
        if section is None:
            raise ElfError("it has no section .BTF: its types were not kept")
        return file.read_section(section, MAX_BTF_BYTES)
    if size > MAX_BTF_BYTES:
        raise ElfError(f"{size} bytes are more than the {MAX_BTF_BYTES} that BTF has")
    return read(0, size)


def _read_all(fd: int, path: str, offset: int, size: int) -> bytes:
    """Raises UserFileError: for a short read, too, as the file was long enough when it was opened."""
    parts = []
    while size > 0:
        try:
            part = os.pread(fd, size, offset)
        except OSError as error:
            raise _refusal(path, error) from error
        if not part:
            raise UserFileError(f"{path}: {_INTERRUPTED}", _AGAIN)
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _segments(file: Elf, size: int) -> Iterator[Segment]:
    for header in file.program_headers:
        mapped = min(header.size, size - header.offset)
        if header.kind == "PT_LOAD" and mapped > 0:
            flags = header.flags
            yield Segment(
                header.address, header.offset, mapped, bool(flags & _FLAG_EXECUTABLE), bool(flags & _FLAG_WRITABLE)
            )


def open_regular(path: str) -> int:
    """A descriptor for reading, the caller's. Opening a device or a pipe can do something or wait, so the kind is asked
    first. Raises UserFileError.
    """
    if not path.startswith("/"):
        raise UserFileError(f"{path} is no absolute path", "write it from the root directory on")
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise UserFileError(f"{path} is no regular file", "name a program or a shared library")
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error


def file_identity(found: os.stat_result) -> FileIdentity:
    """Of a file by what fstat(2) says of a descriptor."""
    return FileIdentity(found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)


def _refusal(path: str, error: OSError | ValueError) -> UserFileError:
    """ValueError: a NUL in a path."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return UserFileError(f"{path}: {reason}", "name a file that the agent can read, as a path of the node")
