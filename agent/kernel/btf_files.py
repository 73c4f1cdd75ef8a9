# SPDX-License-Identifier: Apache-2.0
"""The kernel's BTF in files, for a kernel that has none itself: raw BTF, or a vmlinux with a section .BTF.

Types of another build of the kernel compile and then read wrong memory. So a vmlinux must have the build id of the
running kernel, and a file without one has at least to be named for its release.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.kernel.btf_format import MAX_BTF_BYTES
from agent.kernel.elf import NT_GNU_BUILD_ID, Elf, ElfError, iterate_notes
from agent.kernel.errors import KernelError
from agent.kernel.user_files import open_regular
from agent.policy.user_facts import UserFileError

# Where distributions put a kernel's uncompressed image or its types; libbpf looks in the same places.
PLACES: Final = (
    "boot/vmlinux-{release}",
    "boot/vmlinux-{release}.btf",
    "lib/modules/{release}/vmlinux-{release}",
    "lib/modules/{release}/vmlinux",
    "lib/modules/{release}/build/vmlinux",
    "usr/lib/modules/{release}/kernel/vmlinux",
    "usr/lib/debug/boot/vmlinux-{release}",
    "usr/lib/debug/boot/vmlinux-{release}.debug",
    "usr/lib/debug/lib/modules/{release}/vmlinux",
)
NOTES: Final = "sys/kernel/notes"
MAX_NOTES: Final = 1 << 16  # the kernel's own are some hundred bytes
_ELF_MAGIC: Final = b"\x7fELF"
_NAME_IT = "name the BTF of exactly this kernel with --btf"


class BtfFileError(KernelError):
    """A file has no BTF, or not this kernel's: which one, and why."""


@dataclass(frozen=True, slots=True)
class Node:
    """The running kernel, and where its node's files are."""

    release: str
    root: Path = Path("/")

    def places(self) -> tuple[Path, ...]:
        """Where its BTF may be."""
        return tuple(self.root / place.format(release=self.release) for place in PLACES)

    def build_id(self) -> str:
        """In hexadecimal; "" when the kernel does not say."""
        try:
            with (self.root / NOTES).open("rb") as file:
                data = file.read(MAX_NOTES)
            notes = [note for note in iterate_notes(data, 4) if note.owner == b"GNU" and note.kind == NT_GNU_BUILD_ID]
        except (OSError, ElfError):
            return ""
        return notes[0].description.hex() if notes else ""


def read_btf_file(path: Path, node: Node) -> bytes:
    """The raw BTF in a file. Raises BtfFileError."""
    try:
        fd = open_regular(str(path))
    except UserFileError as error:
        raise BtfFileError(str(error)) from error
    try:
        return _read(fd, path, node)
    except ElfError as error:
        raise BtfFileError(f"{path}: {error}", error.code, _NAME_IT) from error
    finally:
        os.close(fd)


def _read(fd: int, path: Path, node: Node) -> bytes:
    size = os.fstat(fd).st_size
    if _read_at(fd, 0, min(size, len(_ELF_MAGIC))) == _ELF_MAGIC:
        return _read_image(Elf(lambda offset, length: _read_at(fd, offset, length), size), path, node)
    if size > MAX_BTF_BYTES:
        raise ElfError(f"{size} bytes are more than the {MAX_BTF_BYTES} that BTF has")
    _check_name(path, node)
    return _read_at(fd, 0, size)


def _read_image(file: Elf, path: Path, node: Node) -> bytes:
    section = file.section(".BTF")
    if section is None:
        raise ElfError("it has no section .BTF")
    found = file.build_id()
    if not found:
        _check_name(path, node)
    elif found != (expected := node.build_id()):
        known = f"the running one is {expected}" if expected else f"{node.root / NOTES} does not tell the running one's"
        raise ElfError(f"it is of the kernel with build id {found}, {known}")
    return file.read_section(section, MAX_BTF_BYTES)


def _check_name(path: Path, node: Node) -> None:
    if not re.search(rf"(?<![\d.]){re.escape(node.release)}(?![\w+-]|\.\d)", str(path)):
        advice = f"if it is, put the release, {node.release}, into its name"
        raise ElfError(f"nothing in it tells whether it is this kernel's; {advice}")


def _read_at(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0:
        try:
            part = os.pread(fd, size, offset)
        except OSError as error:
            raise ElfError("it cannot be read", error.errno or 0) from error
        if not part:
            raise ElfError("it is shorter than it was")
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)
