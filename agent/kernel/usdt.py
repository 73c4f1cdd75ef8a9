# SPDX-License-Identifier: Apache-2.0
"""USDT probes: the notes that <sys/sdt.h>, or anything like it, leaves in a program.

Each location of a probe is a note of type 3 and owner `stapsdt` in .note.stapsdt: the address of a nop, where
.stapsdt.base was when the file was linked, the address of a semaphore or 0, and three texts: provider, name,
arguments. prelink moves sections and not the notes, so all addresses move with .stapsdt.base.
Source: the "UserSpaceProbeImplementation" page of the SystemTap project.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from agent.kernel.elf import Elf, ElfError, Note
from agent.policy.user_facts import UsdtProbe

# The Java virtual machine has some thousand locations, more than anything else known.
MAX_PROBES: Final = 65536
MAX_DESCRIPTION: Final = 4096  # bytes of a note: three addresses, two names and at most twelve operands

_ADDRESSES: Final = struct.Struct("<QQQ")
_U64: Final = (1 << 64) - 1
NT_STAPSDT: Final = 3


def parse_probes(elf: Elf) -> Iterator[UsdtProbe]:
    """In the order of the file. Raises ElfError."""
    base = elf.section(".stapsdt.base")
    count = 0
    for note in elf.notes(".note.stapsdt"):
        if note.owner != b"stapsdt" or note.kind != NT_STAPSDT:
            continue
        count += 1
        if count > MAX_PROBES:
            raise ElfError(f"it has more than {MAX_PROBES} USDT probes")
        yield _parse_probe(note, base.address if base else 0)


def _parse_probe(note: Note, base_address: int) -> UsdtProbe:
    description = note.description
    if not _ADDRESSES.size < len(description) <= MAX_DESCRIPTION:
        raise ElfError(f"a USDT note of {len(description)} bytes is none")
    address, base, semaphore = _ADDRESSES.unpack_from(description)
    texts = description[_ADDRESSES.size :].split(b"\0")
    if len(texts) < 4:  # three ends
        raise ElfError("a USDT note does not have three texts")
    try:
        provider, name, arguments = (text.decode("ascii") for text in texts[:3])
    except UnicodeDecodeError as error:
        raise ElfError("a USDT note has a text that is not ASCII") from error
    moved = base_address - base if base_address and base else 0
    return UsdtProbe(
        provider, name, (address + moved) & _U64, (semaphore + moved) & _U64 if semaphore else 0, arguments
    )
