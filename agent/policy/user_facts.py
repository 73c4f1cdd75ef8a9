# SPDX-License-Identifier: Apache-2.0
"""What `resolve_user` asks about programs and libraries: their symbols, segments, USDT probes and digests.

The node's answers come from `agent.kernel.user_files`. Whatever is wrong with a file is a UserFileError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from agent.policy.facts import Facts, FactsError, Types


class UserFileError(FactsError):
    """A file cannot be probed: what is wrong with it, and what to do instead."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file stood under a path, and in which state; times in ns since the epoch, size in bytes.

    A probe stays on the inode that it was attached to. When device or inode of the path are others later, a package was
    upgraded, and programs that were started since then are not probed; when only the rest differs, the same file was
    written to, and the probe may stand at another instruction than it was made for.
    """

    device: int
    inode: int
    changed_ns: int
    modified_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a PT_LOAD that comes from the file: `size` bytes at file offset `offset` are mapped at `address`."""

    address: int
    offset: int
    size: int
    executable: bool
    writable: bool


@unique
class SymbolKind(Enum):
    """What a symbol names."""

    FUNCTION = "function"
    INDIRECT = "indirect function"
    """STT_GNU_IFUNC: the address is that of a function that chooses among implementations, once."""
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Symbol:
    """One entry of .symtab or .dynsym.

    version: `GLIBC_2.14`, "" without; default: what an unversioned reference is bound to. size: bytes, 0 unknown.
    defined: here, not in another library.
    """

    name: str
    address: int
    size: int
    kind: SymbolKind
    version: str = ""
    default: bool = True
    defined: bool = True


@dataclass(frozen=True, slots=True)
class UsdtProbe:
    """One location of a USDT probe, from a note of .note.stapsdt.

    address, semaphore: virtual addresses, moved by what prelink moved the file; semaphore 0: none. arguments: as the
    compiler wrote them, `-4@%edi 8@-16(%rbp)`.
    """

    provider: str
    name: str
    address: int
    semaphore: int
    arguments: str


class UserFile(Protocol):
    """An ELF file for this machine: a program or a shared library. Methods raise UserFileError."""

    @property
    def identity(self) -> FileIdentity:
        """Which file it is."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All that are loaded from the file, in the order of the file."""

    @property
    def build_id(self) -> str:
        """In lower case hexadecimal, "" when the file has none."""

    def symbols(self, names: Collection[str]) -> tuple[Symbol, ...]:
        """The symbols with any of these names, whatever their version, each once."""

    def function_names(self) -> Iterable[str]:
        """The names of the functions that it defines, without versions."""

    def probes(self) -> tuple[UsdtProbe, ...]:
        """Its USDT probes, one for each location, in the order of the file."""

    def digest(self, algorithm: str) -> str:
        """Of the whole file, in lower case hexadecimal. algorithm: sha1, sha256, sha384 or sha512."""


class UserFacts(Protocol):
    """Files of this node. Paths are those of the agent's own mount namespace."""

    def open_file(self, path: str) -> AbstractContextManager[UserFile]:
        """Raises UserFileError; at the end too, when another file stands under the path by then."""

    def identity(self, path: str) -> FileIdentity:
        """The file under a path as it is now. Raises UserFileError."""

    def file_types(self, path: str) -> Types:
        """The types of a file of raw BTF, or of the section .BTF of an ELF file. Raises UserFileError."""


class HookFacts(Facts, UserFacts, Protocol):
    """The files and the kernel of this node: `data` of a hook in a program can begin in the kernel."""

    def write_refusal(self) -> str:
        """Why this kernel lets no program write to the memory of processes; "" when it does. Raises FactsError."""
