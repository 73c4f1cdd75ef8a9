# SPDX-License-Identifier: Apache-2.0
"""The first root of a guest: busybox, init.sh, and the modules with which it mounts this machine's root."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.vm.errors import VmError

# 9P over virtio for the files, overlay for what is written.
WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
BUSYBOX = Path("/bin/busybox")
INIT = Path(__file__).with_name("init.sh")
FOLDERS = ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "new")
APPLETS = ("sh", "mount", "insmod", "mkdir", "switch_root", "cat", "echo", "ip")
_FILE, _LINK, _FOLDER, _DEVICE = 0o100755, 0o120777, 0o40755, 0o20600


def module_key(name: str) -> str:
    """File names of modules have either sign."""
    return name.replace("-", "_")


def find_modules(folder: Path) -> dict[str, Path]:
    """The files of all modules, by name."""
    return {module_key(path.name.partition(".ko")[0]): path for path in folder.rglob("*.ko*")}


def read_builtin(folder: Path) -> frozenset[str]:
    """Modules that are part of the kernel itself."""
    lines = (folder / "modules.builtin").read_text().split()
    return frozenset(module_key(Path(line).name.removesuffix(".ko")) for line in lines)


def read_module(path: Path) -> bytes:
    """Raises VmError."""
    data = path.read_bytes()
    match path.suffix:
        case ".ko":
            return data
        case ".xz":
            return lzma.decompress(data)
    raise VmError(f"{path} is compressed in a way not known here")


def needed_by(data: bytes) -> list[str]:
    """The modules that one has to come after: `depends` and `softdep` of its .modinfo."""
    hard = [name for found in re.findall(rb"\0depends=([^\0]*)", data) for name in found.split(b",") if name]
    soft = [name for found in re.findall(rb"\0softdep=pre: ([^\0]*)", data) for name in found.split()]
    return [module_key(name.decode()) for name in (*hard, *soft)]


@dataclass(frozen=True, slots=True)
class Modules:
    """What a kernel has as modules and what it has built in."""

    files: Mapping[str, Path]
    builtin: frozenset[str]

    def ordered(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """The wanted ones and those that they need, each after what it needs. Raises VmError."""
        loaded: dict[str, bytes] = {}
        for name in wanted:
            self._add(module_key(name), loaded, ())
        return loaded

    def _add(self, name: str, loaded: dict[str, bytes], above: tuple[str, ...]) -> None:
        if name in loaded or name in self.builtin or name in above:
            return
        if name not in self.files:
            raise VmError(f"the kernel has no module {name}")
        data = read_module(self.files[name])
        for needed in needed_by(data):
            self._add(needed, loaded, (*above, name))
        loaded[name] = data


def _entry(number: int, name: str, mode: int, body: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One file of a cpio archive in the format newc (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(head) + _padded(body)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _files(modules: Mapping[str, bytes]) -> Iterator[tuple[str, int, bytes]]:
    yield from ((name, _FOLDER, b"") for name in FOLDERS)
    yield "bin/busybox", _FILE, BUSYBOX.read_bytes()
    yield from ((f"bin/{applet}", _LINK, b"busybox") for applet in APPLETS)
    yield from ((f"modules/{name}.ko", _FILE, data) for name, data in modules.items())
    yield "modules/order", _FILE, "".join(f"{name}\n" for name in modules).encode()
    yield "init", _FILE, INIT.read_bytes()


def build_initrd(modules: Mapping[str, bytes]) -> bytes:
    """A cpio archive. modules: in the order in which they are to be loaded."""
    entries = [_entry(number, *file) for number, file in enumerate(_files(modules), 1)]
    console = _entry(len(entries) + 1, "dev/console", _DEVICE, device=(5, 1))
    return b"".join((*entries, console, _entry(0, "TRAILER!!!", 0)))


def modules_for_boot(folder: Path | None) -> dict[str, bytes]:
    """folder: /lib/modules/RELEASE of the kernel; None for one that has everything built in."""
    if folder is None:
        return {}
    return Modules(find_modules(folder), read_builtin(folder)).ordered(WANTED)
