# SPDX-License-Identifier: Apache-2.0
"""Perf tracepoints of system calls: their ids and layouts from tracefs, and the dispatcher that is attached to them.

A dispatcher is six instructions that tail-call one slot of the PROG_ARRAY `slots`. It stays attached while the rules
in the slot change; an empty slot falls through and the call goes on.
"""

from __future__ import annotations

import re
import struct
from enum import Enum
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.policy.syscalls import kernel_name

ARGS_OFFSET = 16  # of the first argument, and of the return value: bpf/lib/syscall.h
_FIELD = re.compile(r"^\tfield:(?P<type>.*?)\s*(?P<name>\w+);\toffset:(?P<offset>\d+);\tsize:(?P<size>\d+);")


class Side(Enum):
    ENTER = "sys_enter"
    EXIT = "sys_exit"


def parse_format(text: str) -> dict[str, tuple[int, int]]:
    """Fields of a tracepoint's format file: name -> (offset, size), bytes."""
    found = (_FIELD.match(line) for line in text.splitlines())
    return {m["name"]: (int(m["offset"]), int(m["size"])) for m in found if m}


def check_layout(text: str, event: str) -> None:
    """Refuses a kernel whose record of system calls is not the one that bpf/lib/syscall.h reads."""
    fields = {name: place for name, place in parse_format(text).items() if not name.startswith("common_")}
    offsets = sorted(offset for offset, _ in fields.values())
    if fields.get("__syscall_nr", (0, 0))[0] != 8 or (len(offsets) > 1 and offsets[1] != ARGS_OFFSET):
        raise KernelError(
            f"tracepoint {event} has an unknown layout", 0, "report the kernel's version; nothing is attached to it"
        )


class Tracepoints:
    def __init__(self, tracefs: Path) -> None:
        self._events = tracefs / "events" / "syscalls"

    def exists(self, syscall: str) -> bool:
        return (self._events / f"{Side.ENTER.value}_{kernel_name(syscall)}").is_dir()

    def event_id(self, syscall: str, side: Side) -> int:
        name = f"{side.value}_{kernel_name(syscall)}"
        try:
            check_layout((self._events / name / "format").read_text(), name)
            return int((self._events / name / "id").read_text())
        except FileNotFoundError as error:
            raise KernelError(
                f"no tracepoint syscalls/{name}", 0, "this kernel does not have that system call"
            ) from error

    def attach(self, syscall: str, side: Side, slots: int, index: int) -> tuple[bpf.Fd, bpf.Fd]:
        """A dispatcher to one slot, and its link."""
        identifier = self.event_id(syscall, side)
        program = bpf.load_program(bpf.ProgType.TRACEPOINT, dispatcher(slots, index), f"pg_{side.value}")
        try:
            with bpf.open_tracepoint_event(identifier) as event:
                return program, bpf.link_perf_event(program.fileno(), event)
        except BaseException:
            program.close()
            raise


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)


def dispatcher(slots: int, index: int) -> bytes:
    """bpf_tail_call(ctx, slots, index); return 0. slots: the map's descriptor."""
    return b"".join(
        (
            _instruction(0x18, dst=2, src=1, immediate=slots),  # r2 = map, BPF_PSEUDO_MAP_FD
            _instruction(0),
            _instruction(0xB7, dst=3, immediate=index),  # r3 = index
            _instruction(0x85, immediate=12),  # call bpf_tail_call
            _instruction(0xB7, dst=0),  # r0 = 0
            _instruction(0x95),  # exit
        )
    )
