# SPDX-License-Identifier: Apache-2.0
"""Perf tracepoints, of system calls and others: their ids and layouts from tracefs."""

from __future__ import annotations

import re
from pathlib import Path

from agent.kernel.errors import KernelError
from agent.policy.codegen_unit import Side as Side
from agent.policy.syscalls import kernel_name

ARGS_OFFSET = 16  # of the first argument, and of the return value: bpf/lib/syscall.h
_FIELD = re.compile(r"^\tfield:(?P<type>.*?)\s*(?P<name>\w+);\toffset:(?P<offset>\d+);\tsize:(?P<size>\d+);")
_EVENT = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")  # what TRACE_EVENT and TRACE_SYSTEM can be, with a module's dash


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


def syscall_event(syscall: str, side: Side) -> str:
    """The name of a system call's tracepoint, `sys_enter_openat`."""
    return f"sys_{side.value}_{kernel_name(syscall)}"


class Tracepoints:
    def __init__(self, tracefs: Path) -> None:
        self._events = tracefs / "events"

    def exists(self, syscall: str) -> bool:
        return (self._events / "syscalls" / syscall_event(syscall, Side.ENTER)).is_dir()

    def event_id(self, syscall: str, side: Side) -> int:
        """Of a system call's tracepoint, whose layout is checked."""
        name = syscall_event(syscall, side)
        try:
            check_layout((self._events / "syscalls" / name / "format").read_text(), name)
            return int((self._events / "syscalls" / name / "id").read_text())
        except FileNotFoundError as error:
            raise KernelError(
                f"no tracepoint syscalls/{name}", 0, "this kernel does not have that system call"
            ) from error

    def id_of(self, event: str) -> int:
        """Of the tracepoint `subsystem/event`."""
        path = self._events / event / "id"
        if not _EVENT.fullmatch(event) or not path.is_file():
            raise KernelError(f"no tracepoint {event}", 0, "neither this kernel nor a loaded module has it")
        return int(path.read_text())
