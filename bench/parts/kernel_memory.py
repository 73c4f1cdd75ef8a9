# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory for the BPF maps and programs of one agent, as the kernel counts it.

Bytes: `memlock` of /proc/PID/fdinfo (bpf_map_show_fdinfo and bpf_prog_show_fdinfo of kernel/bpf/syscall.c). Programs
that only a slot of a PROG_ARRAY holds are found there: to user space an element's value is the program's id.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SYS_BPF = 321  # x86_64
MAP_LOOKUP_ELEM = 1  # enum bpf_cmd, include/uapi/linux/bpf.h
PROG_GET_FD_BY_ID = 13
MAP_GET_FD_BY_ID = 14
PROG_ARRAY = 3  # enum bpf_map_type
_BY_ID = struct.Struct("<III")
_ELEMENT = struct.Struct("<IIQQQ")  # map_fd, padding, key, value, flags
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """Bytes."""

    maps: int
    programs: int

    @property
    def total(self) -> int:
        return self.maps + self.programs


def read_kernel_memory(pid: int) -> KernelMemory:
    """Of what a process has descriptors of, and of the programs in its PROG_ARRAYs."""
    maps: dict[int, int] = {}
    programs: set[int] = set()
    for facts in _descriptors(Path(f"/proc/{pid}/fdinfo")):
        if "prog_id" in facts:  # of a program, and of a link
            programs.add(int(facts["prog_id"]))
        elif "map_id" in facts:
            maps[int(facts["map_id"])] = int(facts["memlock"])
            if int(facts["map_type"]) == PROG_ARRAY:
                programs |= _programs_in(int(facts["map_id"]), int(facts["max_entries"]))
    return KernelMemory(sum(maps.values()), sum(map(_program_memory, programs)))


def _descriptors(folder: Path) -> Iterator[Mapping[str, str]]:
    for entry in folder.iterdir():
        try:
            lines = entry.read_text().splitlines()
        except FileNotFoundError:  # closed since it was listed
            continue
        yield dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _programs_in(number: int, entries: int) -> set[int]:
    fd = _open(MAP_GET_FD_BY_ID, number)
    key, value = ctypes.c_uint32(), ctypes.c_uint32()
    found = set()
    try:
        for slot in range(entries):
            key.value = slot
            element = _ELEMENT.pack(fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
            if _bpf(MAP_LOOKUP_ELEM, element) == 0:
                found.add(value.value)
    finally:
        os.close(fd)
    return found


def _program_memory(number: int) -> int:
    fd = _open(PROG_GET_FD_BY_ID, number)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    finally:
        os.close(fd)
    return sum(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def _open(command: int, number: int) -> int:
    fd = _bpf(command, _BY_ID.pack(number, 0, 0))
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command} of {number}: {os.strerror(ctypes.get_errno())}")
    return fd


def _bpf(command: int, attr: bytes) -> int:
    """Its result, -1 and errno."""
    return int(_libc.syscall(SYS_BPF, command, ctypes.create_string_buffer(attr, len(attr)), len(attr)))
