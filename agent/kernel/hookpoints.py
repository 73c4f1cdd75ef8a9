# SPDX-License-Identifier: Apache-2.0
"""System call hook points: what is attached, and which rules are in its slot.

Each hook point has two slots of the PROG_ARRAY, for the entry and for the exit of the call. Rules change by one
update of a slot: there is no moment without the old or the new ones. Everything that can fail, compiling, loading and
attaching, comes before the first update; an update that fails is undone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.loader import Loader, ProgramSource
from agent.kernel.tracepoint import Side, Tracepoints
from agent.policy.codegen import compile_module, enter_name, exit_name
from agent.policy.plan import HookPlan

MAX_HOOK_POINTS = 512  # two slots each: layout.map_specs
BATCH = 100  # hook points in one request to the loader: two programs each, below its MAX_PROGRAMS


@dataclass(slots=True)
class _Point:
    index: int
    attachment: int
    programs: dict[Side, bpf.Fd] = field(default_factory=dict)
    links: dict[Side, bpf.Fd] = field(default_factory=dict)
    dispatchers: dict[Side, bpf.Fd] = field(default_factory=dict)


class HookPoints:
    """slots: the PROG_ARRAY's descriptor. links: the directory for pins. Not thread-safe: policies change one at a
    time.
    """

    def __init__(self, loader: Loader, tracepoints: Tracepoints, slots: int, links: Path) -> None:
        self._loader = loader
        self._tracepoints = tracepoints
        self._slots = slots
        self._links = links
        self._points: dict[str, _Point] = {}
        self._attachments = 0

    def syscalls(self) -> tuple[str, ...]:
        return tuple(sorted(self._points))

    def missing(self, syscalls: Iterable[str]) -> tuple[str, ...]:
        """Those that this kernel has no tracepoint for."""
        return tuple(sorted(name for name in syscalls if not self._tracepoints.exists(name)))

    def apply(self, plans: Mapping[str, HookPlan | None]) -> None:
        """Puts each call's rules in force; None: it has none any more. Raises KernelError, and then nothing has
        changed.
        """
        points = self._reserve([name for name, plan in plans.items() if plan])
        loaded = self._load([(plan, points[plan.syscall].attachment) for plan in plans.values() if plan])
        before = {name: dict(point.programs) for name, point in points.items()}
        try:
            for name, point in points.items():
                self._swap(name, point, loaded[name])
        except (KernelError, OSError):
            for name, point in points.items():
                self._restore(name, point, before[name])
            raise
        self._points |= points
        for name in [name for name, plan in plans.items() if plan is None and name in self._points]:
            self._detach(name, self._points.pop(name))

    def missed(self) -> int:
        """Calls that the kernel did not hand to the rules, since its processor was in another BPF program."""
        points = list(self._points.values())
        return sum(bpf.recursion_misses(program.fileno()) for point in points for program in point.dispatchers.values())

    def close(self) -> None:
        while self._points:
            self._detach(*self._points.popitem())

    def _reserve(self, names: list[str]) -> dict[str, _Point]:
        """The hook points by name; those that are new get an index that is free and a serial number that never was."""
        used = {point.index for point in self._points.values()}
        free = iter([index for index in range(MAX_HOOK_POINTS) if index not in used])
        points = {}
        for name in names:
            point = self._points.get(name)
            if point is None:
                self._attachments += 1
                index = next(free, None)
                if index is None:
                    raise KernelError(f"more than {MAX_HOOK_POINTS} system calls are hooked")
                point = _Point(index, self._attachments)
            points[name] = point
        return points

    def _load(self, plans: list[tuple[HookPlan, int]]) -> dict[str, dict[Side, bpf.Fd]]:
        loaded: dict[str, dict[Side, bpf.Fd]] = {}
        for start in range(0, len(plans), BATCH):
            loaded |= self._load_batch(plans[start : start + BATCH])
        return loaded

    def _load_batch(self, plans: list[tuple[HookPlan, int]]) -> dict[str, dict[Side, bpf.Fd]]:
        names = {enter_name(plan): (plan.syscall, Side.ENTER) for plan, _ in plans}
        names |= {exit_name(plan): (plan.syscall, Side.EXIT) for plan, _ in plans if plan.reads_text}
        source = ProgramSource(compile_module(plans), dict.fromkeys(names, bpf.ProgType.TRACEPOINT))
        loaded: dict[str, dict[Side, bpf.Fd]] = {}
        for name, fd in self._loader.load(source).items():
            syscall, side = names[name]
            loaded.setdefault(syscall, {})[side] = fd
        return loaded

    def _swap(self, name: str, point: _Point, programs: dict[Side, bpf.Fd]) -> None:
        """The exit first: a call that the new entry rules defer finds its exit watched. It stays watched until the
        hook point goes.
        """
        for side in (Side.EXIT, Side.ENTER):
            if side not in programs:
                continue
            self._set_slot(point, side, programs[side])
            point.programs[side] = programs[side]
            if side not in point.links:
                self._attach(name, point, side)
        if Side.EXIT in point.programs and Side.EXIT not in programs:  # no rule defers a call any more
            bpf.delete(self._slots, struct.pack("<I", _slot(point, Side.EXIT)))
            del point.programs[Side.EXIT]

    def _attach(self, name: str, point: _Point, side: Side) -> None:
        program, link = self._tracepoints.attach(name, side, self._slots, _slot(point, side))
        point.links[side], point.dispatchers[side] = link, program
        bpf.pin(link.fileno(), str(self._pin(name, side)))

    def _restore(self, name: str, point: _Point, before: dict[Side, bpf.Fd]) -> None:
        """Back to the rules that were in force; a hook point that had none is detached again."""
        if not before:
            self._detach(name, point)
            return
        for side, program in before.items():
            self._set_slot(point, side, program)
        point.programs = before

    def _detach(self, name: str, point: _Point) -> None:
        for side, link in point.links.items():
            self._pin(name, side).unlink(missing_ok=True)
            link.close()
            point.dispatchers[side].close()
        for side in Side:
            bpf.delete(self._slots, struct.pack("<I", _slot(point, side)))

    def _set_slot(self, point: _Point, side: Side, program: bpf.Fd) -> None:
        bpf.update(self._slots, struct.pack("<I", _slot(point, side)), struct.pack("<I", program.fileno()))

    def _pin(self, name: str, side: Side) -> Path:
        return self._links / f"{side.value}_{name}"


def _slot(point: _Point, side: Side) -> int:
    return 2 * point.index + (side is Side.EXIT)
