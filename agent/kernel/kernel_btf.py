# SPDX-License-Identifier: Apache-2.0
"""The types of the running kernel and of its modules, wherever they are found.

The kernel shows its own BTF in /sys/kernel/btf, and gives it through bpf(2) where that is hidden or not mounted: both
are right by construction. Only when it has none, files are looked for (btf_files.py). What is read is megabytes, and
lives as long as its users hold it; kept is where the kernel's records lie, half a megabyte, so that reading it again
takes milliseconds. A module's BTF that is damaged hurts nobody but those who ask for that module.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from agent.kernel.btf import Btf, BtfError
from agent.kernel.btf_files import BtfFileError, Node, read_btf_file
from agent.kernel.btf_format import MAX_BTF_BYTES
from agent.kernel.btf_names import Records
from agent.kernel.btf_objects import KERNEL, held_btf, held_names
from agent.kernel.errors import KernelError

T = TypeVar("T")

BTF_DIR: Final = Path("/sys/kernel/btf")
_NO_BTF = (
    "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or make its BTF from its debug package with pahole "
    "--btf_encode_detached and name the file with --btf"
)


class NoBtfError(KernelError):
    """There is no BTF of the kernel or of a module, or it is damaged: what was tried, and what to do."""


@dataclass(frozen=True, slots=True)
class BtfSources:
    """Where BTF is looked for. configured: a file, for a kernel that has none. held: what bpf(2) gives, None when the
    kernel has none of that name; held_names: of the modules that it has some of.
    """

    directory: Path = BTF_DIR
    configured: Path | None = None
    node: Node = field(default_factory=lambda: Node(os.uname().release))
    held: Callable[[str], bytes | None] = held_btf
    held_names: Callable[[], Iterable[str]] = held_names


class KernelBtf:
    """Of one kernel. Not for several threads at a time."""

    def __init__(self, sources: BtfSources | None = None) -> None:
        self._sources = sources or BtfSources()
        self._records: tuple[int, Records] | None = None
        """With the checksum of the bytes that they are of."""
        self._live: WeakValueDictionary[str, Btf] = WeakValueDictionary()

    def read(self) -> bytes:
        """The kernel's raw BTF. Raises NoBtfError."""
        found = self._own(KERNEL)
        return self._from_files() if found is None else found

    def kernel(self) -> Btf:
        """Raises NoBtfError."""
        found = self._live.get(KERNEL)
        return self._remember(KERNEL, self._parse()) if found is None else found

    def module(self, name: str) -> Btf:
        """A module's types, behind the kernel's. Raises NoBtfError."""
        found = self._live.get(name)
        return self._remember(name, self._parse_module(name)) if found is None else found

    def modules(self) -> tuple[str, ...]:
        """Those that the kernel has BTF of, in order. Raises NoBtfError."""
        try:
            names = {path.name for path in self._sources.directory.iterdir()}
        except OSError:
            names = set()
        if KERNEL not in names:
            names |= set(_asked(self._sources.held_names))
        return tuple(sorted(names - {KERNEL}))

    def read_module(self, name: str) -> bytes:
        """The raw BTF of a module. Raises NoBtfError."""
        found = self._own(name)
        if found is None:
            raise NoBtfError(f"there is no BTF of {name}", 0, "load the module, or leave out what needs types")
        return found

    def _remember(self, name: str, btf: Btf) -> Btf:
        self._live[name] = btf
        return btf

    def _parse(self) -> Btf:
        data = self.read()
        checksum = zlib.crc32(data)
        known = self._records[1] if self._records and self._records[0] == checksum else None
        try:
            btf = Btf.parse(data, known)
        except BtfError as error:
            hint = "report the kernel's version"
            raise NoBtfError(f"the BTF of {KERNEL} cannot be read: {error}", 0, hint) from error
        self._records = (checksum, btf.records)
        return btf

    def _parse_module(self, name: str) -> Btf:
        kernel, data = self.kernel(), self.read_module(name)
        try:
            return Btf.parse_split(kernel, data)
        except BtfError as error:
            hint = "load the module again, or hook what needs none of its types"
            raise NoBtfError(f"the BTF of {name} cannot be read: {error}", 0, hint) from error

    def _own(self, name: str) -> bytes | None:
        """As the kernel shows or gives it; None when it has none."""
        path = self._sources.directory / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BTF_BYTES + 1)
        except FileNotFoundError:
            return _asked(lambda: self._sources.held(name))
        except OSError as error:
            raise NoBtfError(str(path), error.errno or 0, "the agent needs to read BTF") from error
        if len(data) > MAX_BTF_BYTES:
            raise NoBtfError(f"{path} has more than {MAX_BTF_BYTES:,} bytes", 0, "report the kernel's version")
        return data

    def _from_files(self) -> bytes:
        """The one that is named, or the first that there is."""
        configured, node = self._sources.configured, self._sources.node
        if configured is not None:
            try:
                return read_btf_file(configured, node)
            except BtfFileError as error:
                raise NoBtfError(error.operation, error.code, error.hint) from error
        refused = []
        for path in node.places():
            if not path.exists():
                continue
            try:
                return read_btf_file(path, node)
            except BtfFileError as error:
                refused.append(error.operation)
        what = f"the kernel has no BTF ({self._sources.directory / KERNEL}), and no file has it"
        places = f"; {'; '.join(refused)}" if refused else f" (looked for {', '.join(map(str, node.places()))})"
        raise NoBtfError(what + places, 0, _NO_BTF)


def _asked(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except KernelError as error:
        raise NoBtfError(error.operation, error.code, error.hint) from error
