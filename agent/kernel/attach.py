# SPDX-License-Identifier: Apache-2.0
"""Attaching to a hook point, by its kind, and what is attached: a dispatcher.

A dispatcher is six instructions that tail-call one slot of a PROG_ARRAY, the head of its side of the hook point. It
stays attached while the rules in the slot change; an empty slot falls through and the call goes on. Its link is pinned
and holds it, and the pinned PROG_ARRAY holds the rules: all of it stays in force when the agent is killed.

An offset means something in one file only. So a probe is attached through a descriptor of the file that is there now,
once that is known to be the one that was looked at; the path is not looked up a second time.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.tracepoint import Tracepoints, syscall_event
from agent.kernel.user_files import file_identity, open_regular
from agent.policy.access import HookPoint, PointKind
from agent.policy.codegen_unit import Side
from agent.policy.user_facts import UserFileError

DEVICES = Path("/sys/bus/event_source/devices")
MAX_REF_COUNTER = (1 << 32) - 1  # 32 bits of the event's config: uprobe_format_group of kernel/events/core.c
PIN_NAME = 64  # characters of a hook point's name in its pin's: names of files in bpffs have at most 255
_BITS = re.compile(r"config:(?P<first>\d+)(-(?P<last>\d+))?")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]")  # bpffs keeps names with dots to itself

PROGRAM_TYPES: Mapping[PointKind, bpf.ProgType] = {
    PointKind.SYSCALL: bpf.ProgType.TRACEPOINT,
    PointKind.TRACEPOINT: bpf.ProgType.TRACEPOINT,
    PointKind.RAW_TRACEPOINT: bpf.ProgType.RAW_TRACEPOINT,
    PointKind.UPROBE: bpf.ProgType.KPROBE,
    PointKind.USDT: bpf.ProgType.KPROBE,
}
# Which map of agent/kernel/layout.py has the slots: a PROG_ARRAY takes programs of one type.
SLOT_MAPS = {
    bpf.ProgType.TRACEPOINT: "slots",
    bpf.ProgType.RAW_TRACEPOINT: "slots_raw",
    bpf.ProgType.KPROBE: "slots_probe",
}
_TWO_SIDED = frozenset({PointKind.SYSCALL, PointKind.UPROBE, PointKind.USDT})


@dataclass(frozen=True, slots=True)
class Place:
    """What a dispatcher leads to, slot `slot` of the PROG_ARRAY `array`, and where its link is pinned."""

    array: int
    slot: int
    pin: Path


class Attachment:
    """One side of a hook point that is attached. program: the dispatcher's id."""

    def __init__(self, link: bpf.Fd, program: int, pin: Path) -> None:
        self._link = link
        self.program = program
        self._pin = pin
        self._misses = 0

    def misses(self) -> int:
        """How often the kernel left the dispatcher out, since its processor was in another BPF program; what was known
        last of one that is gone.
        """
        program = bpf.program_by_id(self.program)
        if program:
            with program:
                self._misses = bpf.program_info(program.fileno()).misses
        return self._misses

    def memory(self) -> int:
        """Bytes of kernel memory that the dispatcher takes."""
        program = bpf.program_by_id(self.program)
        if program is None:
            return 0
        with program:
            return bpf.program_memory(program.fileno())

    def is_gone(self) -> bool:
        """Whether the kernel has taken the dispatcher down: it does so some time after `detach`."""
        program = bpf.program_by_id(self.program)
        if program:
            program.close()
        return program is None

    def detach(self) -> None:
        self._pin.unlink(missing_ok=True)
        self._link.close()


class Attacher:
    """tracefs: where it is mounted. devices: of perf events, in sysfs."""

    def __init__(self, tracefs: Path, devices: Path = DEVICES) -> None:
        self._tracepoints = Tracepoints(tracefs)
        self._device = devices / "uprobe"

    def attach(self, point: HookPoint, side: Side, place: Place) -> Attachment:
        """A new dispatcher at one side. Raises KernelError, and then nothing is attached."""
        check_side(point, side)
        name = f"pg_{side.value}"
        with bpf.load_program(PROGRAM_TYPES[point.kind], dispatcher(place.array, place.slot), name) as program:
            link = self._link(point, side, program)
            try:
                bpf.pin(link.fileno(), str(place.pin))
                return Attachment(link, bpf.program_info(program.fileno()).id, place.pin)
            except BaseException:
                place.pin.unlink(missing_ok=True)
                link.close()
                raise

    def _link(self, point: HookPoint, side: Side, program: bpf.Fd) -> bpf.Fd:
        if point.kind is PointKind.RAW_TRACEPOINT:
            return bpf.open_raw_tracepoint(point.name, program.fileno())
        with self._event(point, side) as event:
            return bpf.link_perf_event(program.fileno(), event)

    def _event(self, point: HookPoint, side: Side) -> bpf.Fd:
        if point.kind is PointKind.SYSCALL:
            return bpf.open_tracepoint_event(self._tracepoints.event_id(point.name, side))
        if point.kind is PointKind.TRACEPOINT:
            return bpf.open_tracepoint_event(self._tracepoints.id_of(point.name))
        return self._probe(point, side)

    def _probe(self, point: HookPoint, side: Side) -> bpf.Fd:
        if not 0 <= point.ref_counter <= MAX_REF_COUNTER:
            hint = f"the kernel takes offsets up to {MAX_REF_COUNTER:#x}"
            raise KernelError(f"{through(point, side)}: its reference counter", errno.EINVAL, hint)
        config = point.ref_counter << self._first_bit("ref_ctr_offset") if point.ref_counter else 0
        if side is Side.EXIT:
            config |= 1 << self._first_bit("retprobe")
        pmu = self._pmu()
        with _looked_at(point, side) as fd:
            event = _open_probe(point, side, pmu, config, fd)
            try:
                _check_file(point, side, fd)
            except KernelError:
                event.close()
                raise
            return event

    def _pmu(self) -> int:
        try:
            return int((self._device / "type").read_text())
        except FileNotFoundError as error:
            raise KernelError("no uprobe device", 0, "the kernel needs CONFIG_UPROBE_EVENTS=y") from error

    def _first_bit(self, field: str) -> int:
        """Of a field of the event's config, by its format file: `config:0`, `config:32-63`."""
        path = self._device / "format" / field
        found = _BITS.fullmatch(path.read_text().strip()) if path.exists() else None
        if found is None:
            raise KernelError(f"no {path}", 0, f"this kernel's uprobes have no {field}")
        return int(found["first"])


@contextmanager
def _looked_at(point: HookPoint, side: Side) -> Iterator[int | None]:
    """Of the file that the point's offset belongs to; None when the point names none. Raises KernelError."""
    if point.file is None:
        yield None
        return
    try:
        fd = open_regular(point.name)
    except UserFileError as error:
        raise KernelError(through(point, side), 0, str(error)) from error
    try:
        _check_file(point, side, fd)
        yield fd
    finally:
        os.close(fd)


def _open_probe(point: HookPoint, side: Side, pmu: int, config: int, fd: int | None) -> bpf.Fd:
    path = point.name if fd is None else f"/proc/self/fd/{fd}"
    try:
        return bpf.open_uprobe_event(pmu, config, path, point.offset)
    except KernelError as error:
        raise KernelError(through(point, side), error.code, _probe_hint(error.code)) from error


def _check_file(point: HookPoint, side: Side, fd: int | None) -> None:
    if fd is not None and file_identity(os.fstat(fd)) != point.file:
        hint = "another file is there than the one that was looked at, or it was written to since: add the policy again"
        raise KernelError(through(point, side), 0, hint)


def check_side(point: HookPoint, side: Side) -> None:
    """Only calls have a return."""
    if side is Side.EXIT and point.kind not in _TWO_SIDED:
        raise KernelError(f"{through(point, Side.ENTER)} has no return", errno.EINVAL)


def through(point: HookPoint, side: Side) -> str:
    """What one side is attached to, in the kernel's words."""
    if point.kind is PointKind.SYSCALL:
        return f"tracepoint syscalls/{syscall_event(point.name, side)}"
    if point.kind is PointKind.TRACEPOINT:
        return f"tracepoint {point.name}"
    if point.kind is PointKind.RAW_TRACEPOINT:
        return f"raw tracepoint {point.name}"
    counter = f", reference counter {point.ref_counter:#x}" if point.ref_counter else ""
    return f"{'uretprobe' if side is Side.EXIT else 'uprobe'} {point.name}+{point.offset:#x}{counter}"


def pin_name(point: HookPoint, side: Side, attachment: int) -> str:
    """Of a link: unique by its attachment, the rest is for people."""
    readable = _UNSAFE.sub("_", point.name.rpartition("/")[2])[:PIN_NAME]
    return f"{attachment}_{point.kind.value}_{readable}_{side.value}"


def dispatcher(array: int, slot: int) -> bytes:
    """bpf_tail_call(ctx, array, slot); return 0. array: the map's descriptor."""
    return b"".join(
        (
            _instruction(0x18, dst=2, src=1, immediate=array),  # r2 = map, BPF_PSEUDO_MAP_FD
            _instruction(0),
            _instruction(0xB7, dst=3, immediate=slot),  # r3 = slot
            _instruction(0x85, immediate=12),  # call bpf_tail_call
            _instruction(0xB7, dst=0),  # r0 = 0
            _instruction(0x95),  # exit
        )
    )


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)


def _probe_hint(code: int) -> str:
    return {
        errno.ENOENT: "there is no such file",
        errno.EINVAL: "it must be a regular file with code at that offset; all probes of one offset have the same "
        "reference counter",
        errno.EIO: "the file system of that file has no pages to put a probe into",
    }.get(code, "")
