# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory for the BPF maps and programs of one agent, as the kernel counts it.

Bytes: of a map `memlock` of /proc/PID/fdinfo (bpf_map_show_fdinfo of kernel/bpf/syscall.c), of a program what
agent.kernel.bpf.program_memory says. Programs that only a slot of a PROG_ARRAY holds are found there: to user space an
element's value is the program's id.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import bpf
from tests.support.agent import AgentProcess

PROGRAM_ARRAYS = "*slots*"  # their pins


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """Bytes."""

    maps: int
    programs: int

    @property
    def total(self) -> int:
        return self.maps + self.programs


def read_kernel_memory(agent: AgentProcess) -> KernelMemory:
    """Of what the agent has descriptors of, and of the programs in its PROG_ARRAYs."""
    maps: dict[int, int] = {}
    programs = {number for pin in agent.pin_dir.rglob(PROGRAM_ARRAYS) for number in _programs_in(pin)}
    for facts in _descriptors(Path(f"/proc/{agent.pid}/fdinfo")):
        if "prog_id" in facts:  # of a program, and of a link
            programs.add(int(facts["prog_id"]))
        elif "map_id" in facts:
            maps[int(facts["map_id"])] = int(facts["memlock"])
    return KernelMemory(sum(maps.values()), sum(map(_program_memory, programs)))


def _descriptors(folder: Path) -> Iterator[Mapping[str, str]]:
    for entry in folder.iterdir():
        try:
            lines = entry.read_text().splitlines()
        except FileNotFoundError:  # closed since it was listed
            continue
        yield dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _programs_in(pin: Path) -> Iterator[int]:
    with bpf.open_pinned(pin) as array:
        for key in bpf.keys(array.fileno(), 4):
            if value := bpf.lookup(array.fileno(), key, 4):
                yield struct.unpack("<I", value)[0]


def _program_memory(number: int) -> int:
    """0 when it has just gone."""
    program = bpf.program_by_id(number)
    if program is None:
        return 0
    with program:
        return bpf.program_memory(program.fileno())
