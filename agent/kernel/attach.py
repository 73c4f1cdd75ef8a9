# SPDX-License-Identifier: Apache-2.0
"""Attaching to a hook point, by its kind, and what is attached: a dispatcher.

A dispatcher is six instructions that tail-call one slot of a PROG_ARRAY, the head of its side of the hook point. It
stays attached while the rules in the slot change; an empty slot falls through and the call goes on. Its link is pinned
and holds it, and the pinned PROG_ARRAY holds the rules: all of it stays in force when the agent is killed.

An offset means something in one file only. So a probe is attached through a descriptor of the file that is there now,
once that is known to be the one that was looked at; the path is not looked up a second time.

A function that a kprobe keeps from running has a second probe, the overrider of dispatcher.py, which cannot have tail
calls. It is attached before the dispatcher: of the probes at one address the kernel runs the last one first
(list_add_rcu in add_new_kprobe of kernel/kprobes.c), so it comes after the rules. They leave it their verdict.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.attach_hints import function_hint, overrider_hint, probe_hint
from agent.kernel.dispatcher import dispatcher, overrider
from agent.kernel.errors import KernelError
from agent.kernel.probe_device import DEVICES, ProbeDevice
from agent.kernel.targets import PROGRAM_TYPES as PROGRAM_TYPES
from agent.kernel.targets import SLOT_MAPS as SLOT_MAPS
from agent.kernel.targets import Targets
from agent.kernel.tracepoint import Tracepoints, syscall_event
from agent.kernel.user_files import file_identity, open_regular
from agent.policy.access import OVERRIDING, TRAMPOLINES, TWO_SIDED, HookPoint, PointKind
from agent.policy.codegen_unit import Side, form_kind
from agent.policy.user_facts import UserFileError

MAX_REF_COUNTER = (1 << 32) - 1  # 32 bits of the event's config: uprobe_format_group of kernel/events/core.c
PIN_NAME = 64  # characters of a hook point's name in its pin's: names of files in bpffs have at most 255
OVERRIDER_PIN = "_override"  # behind the dispatcher's: pins are removed in the order of their names
_UNSAFE = re.compile(r"[^A-Za-z0-9_]")  # bpffs keeps names with dots to itself

_TWO_SIDED = TWO_SIDED | {PointKind.USDT}
_OVERRIDERS = OVERRIDING - TRAMPOLINES
_KPROBES = _OVERRIDERS | {PointKind.KPROBE, PointKind.SYSCALL_KPROBE}
_ENTRIES = {
    PointKind.SYSCALL_FENTRY: "fentry",
    PointKind.FENTRY: "fentry",
    PointKind.FMOD_RET: "fmod_ret",
    PointKind.LSM: "lsm",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a dispatcher leads to, slot `slot` of the PROG_ARRAY `array`, and where its link is pinned. attachment: the
    serial number of the hook point that it is at.
    """

    array: int
    slot: int
    pin: Path
    attachment: int


class Attachment:
    """One side of a hook point that is attached. program: the dispatcher's id. follower: the overrider's."""

    def __init__(self, link: bpf.Fd, program: int, pin: Path, follower: Attachment | None = None) -> None:
        self._link = link
        self.program = program
        self._pin = pin
        self._follower = follower
        self._misses = 0
        self._lock = threading.Lock()  # misses are asked for at any time, and a number that was closed may be another's
        self._attached = True

    def misses(self) -> int:
        """How often the kernel left the dispatcher out, since its processor was in another BPF program (on trampolines:
        in the same), or in a probe; what was known last of one that is gone. The kernel does not count those of ftrace
        that were left out since ftrace itself was being traced; LSM programs are never left out.
        """
        program = bpf.program_by_id(self.program)
        if program:
            with program, self._lock:
                if self._attached:
                    self._misses = bpf.program_info(program.fileno()).misses + bpf.probe_misses(self._link.fileno())
        return self._misses

    def memory(self) -> int:
        """Bytes of kernel memory that the dispatcher takes."""
        follower = self._follower.memory() if self._follower else 0
        program = bpf.program_by_id(self.program)
        if program is None:
            return follower
        with program:
            return bpf.program_memory(program.fileno()) + follower

    def is_gone(self) -> bool:
        """Whether the kernel has taken the dispatcher down: it does so some time after `detach`."""
        program = bpf.program_by_id(self.program)
        if program:
            program.close()
        return program is None and (self._follower is None or self._follower.is_gone())

    def detach(self) -> None:
        with self._lock:
            self._attached = False
            self._pin.unlink(missing_ok=True)
            self._link.close()
        if self._follower:
            self._follower.detach()


class Attacher:
    """tracefs: where it is mounted. overrides: the descriptor of that map. devices: of perf events, in sysfs."""

    def __init__(self, tracefs: Path, targets: Targets, overrides: int, devices: Path = DEVICES) -> None:
        self._tracepoints = Tracepoints(tracefs)
        self._targets = targets
        self._overrides = overrides
        self._uprobes = ProbeDevice("uprobe", devices)
        self._kprobes = ProbeDevice("kprobe", devices)

    def attach(self, point: HookPoint, side: Side, place: Place) -> Attachment:
        """A new dispatcher at one side. Raises KernelError, and then nothing is attached."""
        check_side(point, side)
        with ExitStack() as undo:
            follower = None
            if point.kind in _OVERRIDERS and side is Side.ENTER:
                follower = self._attach_overrider(point, place)
                undo.callback(follower.detach)
            with self._load_dispatcher(point, side, place) as program:
                attachment = _hold(program, self._link(point, side, program), place.pin, follower)
            undo.pop_all()
        return attachment

    def _load_dispatcher(self, point: HookPoint, side: Side, place: Place) -> bpf.Fd:
        form = self._targets.form(point, side)
        target = (form.attach_type, form.btf_id, form.btf_fd)
        try:
            return bpf.load_program(form.type, dispatcher(place.array, place.slot), f"pg_{side.value}", *target)
        except KernelError as error:
            if form_kind(point, side) not in TRAMPOLINES:
                raise
            hint = error.hint or function_hint(point, error.code)
            raise KernelError(through(point, side), error.code, hint) from error

    def _attach_overrider(self, point: HookPoint, place: Place) -> Attachment:
        """The kernel checks here that it may be done: bpf_override_return is there, and for that function."""
        code = overrider(self._overrides, place.attachment)
        pin = place.pin.with_name(place.pin.name + OVERRIDER_PIN)
        try:
            program = bpf.load_program(PROGRAM_TYPES[point.kind], code, "pg_override")
        except KernelError as error:
            raise KernelError(through(point, Side.ENTER), error.code, overrider_hint(loaded=False)) from error
        with program, self._kprobe(point, Side.ENTER) as event:
            try:
                link = bpf.link_perf_event(program.fileno(), event)
            except KernelError as error:
                hint = overrider_hint(loaded=True) if error.code == EINVAL else ""
                raise KernelError(through(point, Side.ENTER), error.code, hint) from error
            return _hold(program, link, pin)

    def _link(self, point: HookPoint, side: Side, program: bpf.Fd) -> bpf.Fd:
        if point.kind is PointKind.RAW_TRACEPOINT:
            return bpf.open_raw_tracepoint(point.name, program.fileno())
        if form_kind(point, side) in TRAMPOLINES:
            return _link_function(point, side, program)
        with self._event(point, side) as event:
            return bpf.link_perf_event(program.fileno(), event)

    def _event(self, point: HookPoint, side: Side) -> bpf.Fd:
        if form_kind(point, side) is PointKind.SYSCALL:
            return bpf.open_tracepoint_event(self._tracepoints.event_id(point.name, side))
        if point.kind is PointKind.TRACEPOINT:
            return bpf.open_tracepoint_event(self._tracepoints.id_of(point.name))
        return self._kprobe(point, side) if point.kind in _KPROBES else self._uprobe(point, side)

    def _kprobe(self, point: HookPoint, side: Side) -> bpf.Fd:
        """At the one function of this name, of whichever module: the kernel takes none that has several."""
        config = self._kprobes.at_return() if side is Side.EXIT else 0
        number = self._kprobes.number()
        try:
            return bpf.open_kprobe_event(number, point.function, config)
        except KernelError as error:
            raise KernelError(through(point, side), error.code, function_hint(point, error.code)) from error

    def _uprobe(self, point: HookPoint, side: Side) -> bpf.Fd:
        if not 0 <= point.ref_counter <= MAX_REF_COUNTER:
            hint = f"the kernel takes offsets up to {MAX_REF_COUNTER:#x}"
            raise KernelError(f"{through(point, side)}: its reference counter", EINVAL, hint)
        config = point.ref_counter << self._uprobes.first_bit("ref_ctr_offset") if point.ref_counter else 0
        if side is Side.EXIT:
            config |= self._uprobes.at_return()
        number = self._uprobes.number()
        with _looked_at(point, side) as fd:
            event = _open_uprobe(point, side, number, config, fd)
            try:
                _check_file(point, side, fd)
            except KernelError:
                event.close()
                raise
            return event


def _hold(program: bpf.Fd, link: bpf.Fd, pin: Path, follower: Attachment | None = None) -> Attachment:
    """Pins the link."""
    try:
        bpf.pin(link.fileno(), str(pin))
        return Attachment(link, bpf.program_info(program.fileno()).id, pin, follower)
    except BaseException:
        pin.unlink(missing_ok=True)
        link.close()
        raise


def _link_function(point: HookPoint, side: Side, program: bpf.Fd) -> bpf.Fd:
    """The function is the one that the program was loaded for."""
    try:
        return bpf.open_raw_tracepoint("", program.fileno())
    except KernelError as error:
        raise KernelError(through(point, side), error.code, function_hint(point, error.code)) from error


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


def _open_uprobe(point: HookPoint, side: Side, pmu: int, config: int, fd: int | None) -> bpf.Fd:
    path = point.name if fd is None else f"/proc/self/fd/{fd}"
    try:
        return bpf.open_uprobe_event(pmu, config, path, point.offset)
    except KernelError as error:
        raise KernelError(through(point, side), error.code, probe_hint(error.code)) from error


def _check_file(point: HookPoint, side: Side, fd: int | None) -> None:
    if fd is not None and file_identity(os.fstat(fd)) != point.file:
        hint = "another file is there than the one that was looked at, or it was written to since: add the policy again"
        raise KernelError(through(point, side), 0, hint)


def check_side(point: HookPoint, side: Side) -> None:
    """Only calls have a return."""
    if side is Side.EXIT and point.kind not in _TWO_SIDED:
        raise KernelError(f"{through(point, Side.ENTER)} has no return", EINVAL)


def through(point: HookPoint, side: Side) -> str:
    """What one side is attached to, in the kernel's words."""
    if form_kind(point, side) is PointKind.SYSCALL:
        return f"tracepoint syscalls/{syscall_event(point.name, side)}"
    if point.kind is PointKind.TRACEPOINT:
        return f"tracepoint {point.name}"
    if point.kind is PointKind.RAW_TRACEPOINT:
        return f"raw tracepoint {point.name}"
    if point.function:
        return _through_function(point, side)
    counter = f", reference counter {point.ref_counter:#x}" if point.ref_counter else ""
    return f"{'uretprobe' if side is Side.EXIT else 'uprobe'} {point.name}+{point.offset:#x}{counter}"


def _through_function(point: HookPoint, side: Side) -> str:
    """`fentry tcp_connect`, `kretprobe ovl_open [overlay]`, `kprobe __x64_sys_openat (override)`."""
    name = point.name if point.kind is PointKind.LSM else point.function
    owned = f"{name} [{point.module}]" if point.module else name
    if point.kind in TRAMPOLINES:
        return f"{'fexit' if side is Side.EXIT else _ENTRIES[point.kind]} {owned}"
    if side is Side.EXIT:
        return f"kretprobe {owned}"
    return f"kprobe {owned}{' (override)' if point.kind in _OVERRIDERS else ''}"


def pin_name(point: HookPoint, side: Side, attachment: int) -> str:
    """Of a link: unique by its attachment, the rest is for people."""
    readable = _UNSAFE.sub("_", point.name.rpartition("/")[2])[:PIN_NAME]
    return f"{attachment}_{point.kind.value}_{readable}_{side.value}"
