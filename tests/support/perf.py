# SPDX-License-Identifier: Apache-2.0
"""Uprobes through perf_event_open(2), without BPF: how often a place in a file was reached, and with which registers.

Layouts: struct perf_event_attr and struct perf_event_mmap_page in include/uapi/linux/perf_event.h; the numbers of
registers in arch/x86/include/uapi/asm/perf_regs.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from agent.policy.access import HookPoint, Input, InputKind, Memory, Read
from agent.policy.registers import REGISTERS

SYS_PERF_EVENT_OPEN = 298
ATTR_SIZE = 128
PMU = Path("/sys/bus/event_source/devices/uprobe")
PERF_SAMPLE_REGS_USER = 1 << 12
PERF_RECORD_SAMPLE = 9
FD_CLOEXEC = 8
DATA_HEAD = 1024  # offset in struct perf_event_mmap_page
PAGES = 8
# By number: rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, rip, eflags, cs, ss (not the other segments), r8 to r15.
_NUMBERS = (*range(12), *range(16, 24))
_NAMES = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags", "cs", "ss"),
    *(f"r{number}" for number in range(8, 16)),
)
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Hit:
    """One time that a place was reached. registers: as `struct pt_regs` has them, in bytes."""

    registers: bytes


class Uprobe:
    """Watches a place for one process."""

    def __init__(self, point: HookPoint, pid: int, *, at_return: bool = False, path: str = "") -> None:
        """path: to reach the file by another one than the point's."""
        name = ctypes.create_string_buffer(os.fsencode(path or point.name))
        counter = int((PMU / "format/ref_ctr_offset").read_text().partition(":")[2].partition("-")[0])
        config = int(at_return) | point.ref_counter << counter
        head = struct.pack(
            "<IIQQQQQI", int((PMU / "type").read_text()), ATTR_SIZE, config, 1, PERF_SAMPLE_REGS_USER, 0, 0, 1
        )
        mask = sum(1 << number for number in _NUMBERS)
        attr = head + struct.pack("<IQQQQIi", 0, ctypes.addressof(name), point.offset, 0, mask, 0, 0)
        buffer = ctypes.create_string_buffer(attr, ATTR_SIZE)
        self._fd = int(_libc.syscall(SYS_PERF_EVENT_OPEN, buffer, pid, -1, -1, ctypes.c_ulong(FD_CLOEXEC)))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), f"perf_event_open of {point}")
        self._ring = mmap.mmap(self._fd, (1 + PAGES) * mmap.PAGESIZE)

    def count(self) -> int:
        """How often it was reached."""
        return int(struct.unpack("<Q", os.read(self._fd, 8))[0])

    def hits(self) -> list[Hit]:
        """What was sampled since the begin, in order; the ring must not have wrapped."""
        (head,) = struct.unpack_from("<Q", self._ring, DATA_HEAD)
        assert head <= PAGES * mmap.PAGESIZE
        found, at = [], mmap.PAGESIZE
        while at < mmap.PAGESIZE + head:
            kind, _, size = struct.unpack_from("<IHH", self._ring, at)
            if kind == PERF_RECORD_SAMPLE:
                values = struct.unpack_from(f"<{len(_NUMBERS)}Q", self._ring, at + 16)
                found.append(Hit(_pt_regs(dict(zip(_NAMES, values, strict=True)))))
            at += size
        return found

    def close(self) -> None:
        self._ring.close()
        os.close(self._fd)


def _pt_regs(registers: dict[str, int]) -> bytes:
    data = bytearray(21 * 8)
    for name, value in registers.items():
        struct.pack_into("<Q", data, REGISTERS[name].offset, value)
    return bytes(data)


def evaluate(read: Read, hit: Hit, pid: int) -> int:
    """What a program would get by `read` at a hit, as 64 bits; memory is that of the process as it is now."""
    value = _input(read.input, hit)
    if read.index is not None:
        value += _input(read.index, hit) * read.scale
    if not read.offsets:
        return value
    assert read.memory is Memory.USER
    *pointers, last = read.offsets
    for offset in pointers:
        value = int.from_bytes(read_memory(pid, value + offset, 8), "little")
    address = (value + last) % (1 << 64)
    if read.in_place:
        return address
    number = int.from_bytes(read_memory(pid, address, read.size), "little", signed=read.signed)
    if read.bit_size:
        number = number >> read.bit_offset & ((1 << read.bit_size) - 1)
    return number % (1 << 64)


def _input(source: Input, hit: Hit) -> int:
    if source.kind is InputKind.CONSTANT:
        return source.number
    offset = source.number if source.kind is InputKind.REGISTER else REGISTERS[_ARGUMENTS[source.number]].offset
    if source.kind is InputKind.RETURN:
        offset = REGISTERS["rax"].offset
    data = hit.registers[offset : offset + source.size]
    return int.from_bytes(data, "little", signed=source.signed) % (1 << 64)


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Of a process that this one may trace."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)
