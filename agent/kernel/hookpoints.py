# SPDX-License-Identifier: Apache-2.0
"""Hook points: what is attached, and which rules are in force there.

Theory of operation. Each side of a hook point, its begin and its return, has a dispatcher that stays attached and
tail-calls one slot of a PROG_ARRAY, the side's *head*. The rules are a chain of programs: the first is in the head,
each tail-calls the next one's slot. Rules change in this order, and only step 4 touches what is in force:

1. the new chain is compiled and loaded, its further programs into slots that nobody uses;
2. new hook points are attached: their heads are empty, and calls go on;
3. (all of the above for every hook point of the change; whatever fails undoes it)
4. each head gets its new program, the return's first: what the new rules defer finds its return watched;
5. after a grace period no program runs the old chain any more: its slots are emptied, and free. An array that only
   this side of the hook point has goes with the last of its slots.

A call is checked by the old chain or by the new one, whole: a head changes at once, and a slot that a running program
may still reach changes only after it has ended.

When no rule needs the return any more, calls can be on their way to it that rules at the entry have deferred. The
return stays attached until nothing waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from agent.kernel import bpf
from agent.kernel.attach import SLOT_MAPS, Attacher, Attachment, Place, check_side, pin_name, through
from agent.kernel.errors import KernelError
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.layout import MAX_PROGRAM_SLOTS
from agent.kernel.loader import Loader
from agent.kernel.maps import Maps
from agent.kernel.pins import Pins
from agent.kernel.point_arrays import PointArrays
from agent.kernel.point_loader import Draft, Loaded, P, PointLoader, make_draft
from agent.kernel.slots import Grace, SlotArray
from agent.kernel.targets import Targets
from agent.kernel.waiting import waiting_attachments
from agent.logs import fields
from agent.policy import codegen
from agent.policy.access import HookPoint
from agent.policy.codegen_unit import Placement, Side
from agent.policy.plan import PointPlan

log = logging.getLogger("podgate.hookpoints")

# Of all kinds together. Each has two heads of MAX_PROGRAM_SLOTS, and two descriptors for as long as it is attached;
# a change has as many again for the programs that it brings.
MAX_HOOK_POINTS = 512


@dataclass(frozen=True, slots=True)
class PointParts(Generic[P]):
    """What a HookPoints works with. links: the directory for pins. waiting: gives the attachments for whose return
    calls wait.
    """

    loader: PointLoader[P]
    attacher: Attacher
    arrays: PointArrays
    targets: Targets
    grace: Grace
    waiting: Callable[[], Collection[int]]
    links: Path


@dataclass(frozen=True, slots=True)
class PointStatus:
    """A hook point for people. through: what each side is attached to; dispatchers: the ids of the programs there.
    programs: how many run for a call, at most; instructions: in all of them. missed: calls that were not checked.
    settling: its return is only watched for calls that began under earlier rules.
    """

    point: HookPoint
    through: tuple[str, ...]
    dispatchers: tuple[int, ...]
    programs: int
    instructions: int
    missed: int
    settling: bool


@dataclass(slots=True)
class _Half:
    """One side that is attached; further: the slots of its chain after the head."""

    array: SlotArray
    head: int
    attachment: Attachment
    further: tuple[int, ...] = ()

    @property
    def slots(self) -> tuple[int, ...]:
        return self.head, *self.further


@dataclass(slots=True)
class _Point(Generic[P]):
    """asked: the plan that was given; it may be in force with smaller programs, after so many halvings."""

    asked: P
    attachment: int
    halves: dict[Side, _Half] = field(default_factory=dict)
    halvings: int = 0
    settling: bool = False


@dataclass(slots=True)
class _Change(Generic[P]):
    """What is being put in force at one hook point. arrays: of the sides that it has slots of. fresh: the new heads.
    further: the slots of its new chains.
    """

    asked: P
    state: _Point[P]
    arrays: dict[Side, SlotArray] = field(default_factory=dict)
    fresh: dict[Side, int] = field(default_factory=dict)
    further: dict[Side, tuple[int, ...]] = field(default_factory=dict)
    attached: dict[Side, Attachment] = field(default_factory=dict)

    def head(self, side: Side) -> int:
        half = self.state.halves.get(side)
        return half.head if half else self.fresh[side]


@dataclass(frozen=True, slots=True)
class _Retired:
    """Slots that are free when nothing leads to them any more: after a grace period, and when the dispatchers that
    did are gone.
    """

    array: SlotArray
    slots: tuple[int, ...]
    dispatchers: tuple[Attachment, ...] = ()


class HookPoints(Generic[P]):
    """Not thread-safe: policies change one at a time. `points`, `describe` and `missed` may be called meanwhile."""

    def __init__(self, parts: PointParts[P]) -> None:
        self._parts = parts
        self._points: dict[HookPoint, _Point[P]] = {}
        self._retired: list[_Retired] = []
        self._attachments = 0
        self._generations = 0
        self._missed_before = 0  # by dispatchers that are detached

    def points(self) -> tuple[HookPoint, ...]:
        return tuple(sorted(self._points, key=lambda point: point.sort_key))

    def apply(self, plans: Mapping[HookPoint, P | None]) -> None:
        """Puts each hook point's rules in force; None: it has none any more. A plan that is in force already costs
        nothing. Raises KernelError or PlanError, and then nothing has changed.
        """
        self.settle()
        asked = [plan for plan in plans.values() if plan is not None and not self._is_in_force(plan)]
        self._check_room([plan.point for plan in asked])
        with ExitStack() as undo, self._parts.targets:
            undo.callback(self._settle_if_possible)
            changes = {plan.point: self._begin(plan) for plan in asked}
            undo.callback(self._take_back, changes.values())
            loaded = self._load(changes)
            for point, change in changes.items():
                self._attach(change, loaded[point])
            for point, change in changes.items():
                self._swap(change, loaded[point], undo)
            undo.pop_all()
        for point, change in changes.items():
            self._commit(change, loaded[point])
        self._remove([point for point, plan in plans.items() if plan is None and point in self._points])
        self._settle_if_possible()

    def settle(self) -> bool:
        """Takes down what only calls of earlier rules still needed, where none does any more; frees the slots of
        earlier programs. True when nothing of earlier rules is left: their policies' bits may be used again.
        """
        settling = [state for state in self._points.values() if state.settling]
        if settling:
            self._parts.grace.wait()  # a call that still ran the old rules at the entry may wait now
            waiting = self._parts.waiting()
            for state in settling:
                if state.attachment not in waiting:
                    self._drop_half(state, Side.EXIT)
                    state.settling = False
        self._reclaim()
        return not any(state.settling for state in self._points.values())

    def missed(self) -> int:
        """Calls that the kernel did not hand to the rules, since its processor was in another BPF program."""
        return self._missed_before + sum(_missed(state) for state in list(self._points.values()))

    def describe(self) -> tuple[PointStatus, ...]:
        """Every hook point, in the order of `points`."""
        return tuple(self._status(point, self._points[point]) for point in self.points())

    def memory(self) -> dict[HookPoint, int]:
        """Bytes of kernel memory that the programs of each hook point take, its dispatchers too."""
        return {point: self._memory(state) for point, state in list(self._points.items())}

    def _memory(self, state: _Point[P]) -> int:
        halves = list(state.halves.values())
        programs = sum(half.array.memory(slot) for half in halves for slot in half.slots)
        return programs + sum(half.attachment.memory() for half in halves)

    def close(self) -> None:
        """Detaches everything."""
        self._remove(list(self._points))
        self._settle_if_possible()
        self._parts.grace.close()

    def _is_in_force(self, plan: P) -> bool:
        state = self._points.get(plan.point)
        return state is not None and state.asked == plan

    def _check_room(self, points: list[HookPoint]) -> None:
        number = len(self._points.keys() | set(points))
        if number > MAX_HOOK_POINTS:
            raise KernelError(f"{number} hook points, at most {MAX_HOOK_POINTS}", 0, "have fewer of them in policies")

    def _begin(self, plan: P) -> _Change[P]:
        state = self._points.get(plan.point)
        if state is None:
            self._attachments += 1
            state = _Point(plan, self._attachments)
        return _Change(plan, state)

    def _load(self, changes: Mapping[HookPoint, _Change[P]]) -> dict[HookPoint, Loaded[P]]:
        drafts = [_draft(change) for change in changes.values()]
        return self._parts.loader.load(drafts, lambda plan: self._place(changes[plan.point], plan))

    def _place(self, change: _Change[P], plan: P) -> Placement:
        """Slots for its programs. A side that is watched gets its programs anew even when the plan does not need it:
        calls of the earlier rules may still come to it.
        """
        for side, taken in change.further.items():
            change.arrays[side].give_back(taken)
        change.further = {}
        sides = [Side.ENTER]
        if plan.has_return or Side.EXIT in change.state.halves:
            check_side(plan.point, Side.EXIT)
            sides.append(Side.EXIT)
        slots: dict[Side, tuple[int, ...]] = {}
        for side in sides:
            array = change.arrays[side] = self._parts.arrays.of(plan.point, change.state.attachment, side)
            if side not in change.state.halves and side not in change.fresh:
                (change.fresh[side],) = array.take(1)
            change.further[side] = array.take(len(plan.chunks) - 1)
            slots[side] = (change.head(side), *change.further[side])
        self._generations += 1
        return Placement(change.state.attachment, self._generations, slots[Side.ENTER], slots.get(Side.EXIT, ()))

    def _attach(self, change: _Change[P], loaded: Loaded[P]) -> None:
        """What is not yet, to heads that are empty."""
        point = change.asked.point
        for side in (Side.EXIT, Side.ENTER):
            if side in change.fresh and side in loaded.heads:
                pin = self._parts.links / pin_name(point, side, change.state.attachment)
                place = Place(change.arrays[side].fd, change.fresh[side], pin, change.state.attachment)
                change.attached[side] = self._parts.attacher.attach(point, side, place)

    def _swap(self, change: _Change[P], loaded: Loaded[P], undo: ExitStack) -> None:
        for side in (Side.EXIT, Side.ENTER):
            if side in loaded.heads:
                array, head = change.arrays[side], change.head(side)
                undo.callback(_put_back, array, head, array.get(head))
                array.put(head, loaded.heads[side])

    def _commit(self, change: _Change[P], loaded: Loaded[P]) -> None:
        state = change.state
        for side, head in loaded.heads.items():
            head.close()  # the slot holds it
            if side in change.attached:
                state.halves[side] = _Half(change.arrays[side], change.fresh[side], change.attached[side])
            half = state.halves[side]
            self._retire(half.array, half.further)
            half.further = change.further[side]
        for side in change.further.keys() - loaded.heads.keys():  # the compiler had no programs for it
            self._retire(change.arrays[side], change.further[side])
        for side in change.fresh.keys() - loaded.heads.keys():
            self._retire(change.arrays[side], (change.fresh[side],))
        state.asked, state.halvings = change.asked, loaded.halvings
        state.settling = Side.EXIT in state.halves and not change.asked.has_return
        self._points[change.asked.point] = state

    def _take_back(self, changes: Iterable[_Change[P]]) -> None:
        """What a change that failed has attached and taken. A program may be on its way through its slots."""
        for change in changes:
            for attachment in change.attached.values():
                attachment.detach()
            for side, array in change.arrays.items():
                fresh = (change.fresh[side],) if side in change.fresh else ()
                dispatchers = (change.attached[side],) if side in change.attached else ()
                self._retire(array, (*fresh, *change.further.get(side, ())), dispatchers)

    def _remove(self, points: Iterable[HookPoint]) -> None:
        """Each of them, also after one that fails. The entry first: nothing is deferred to a return that nobody
        watches.
        """
        with ExitStack() as stack:
            for state in [self._points.pop(point) for point in points]:
                for side in (Side.EXIT, Side.ENTER):  # the last one is called first
                    if side in state.halves:
                        stack.callback(self._drop_half, state, side)

    def _drop_half(self, state: _Point[P], side: Side) -> None:
        half = state.halves[side]
        try:
            half.array.empty(half.head)
            self._missed_before += half.attachment.misses()
        finally:
            del state.halves[side]
            self._retire(half.array, half.slots, (half.attachment,))
            half.attachment.detach()

    def _retire(self, array: SlotArray, slots: tuple[int, ...], dispatchers: tuple[Attachment, ...] = ()) -> None:
        if slots:
            self._retired.append(_Retired(array, slots, dispatchers))

    def _reclaim(self) -> None:
        """Empties and frees slots that nothing leads to; those of dispatchers that are not gone yet wait longer."""
        self._free_retired()
        self._parts.arrays.close_unused()

    def _free_retired(self) -> None:
        ready = [retired for retired in self._retired if all(each.is_gone() for each in retired.dispatchers)]
        if not ready:
            return
        self._parts.grace.wait()
        for retired in ready:
            for slot in retired.slots:
                retired.array.empty(slot)
            self._retired.remove(retired)
            retired.array.give_back(retired.slots)

    def _settle_if_possible(self) -> None:
        """The change is made or undone, whatever comes; what is left is tried again with the next one, which fails if
        it must.
        """
        try:
            self.settle()
        except (KernelError, OSError) as error:
            log.warning("slots of earlier rules are not free yet", extra=fields(error=str(error)))

    def _status(self, point: HookPoint, state: _Point[P]) -> PointStatus:
        slots = [(half.array, slot) for half in state.halves.values() for slot in half.slots]
        return PointStatus(
            point,
            tuple(through(point, side) for side in Side if side in state.halves),
            tuple(state.halves[side].attachment.program for side in Side if side in state.halves),
            len(slots),
            sum(array.instructions(slot) for array, slot in slots),
            _missed(state),
            state.settling,
        )


def _missed(state: _Point[P]) -> int:
    return sum(half.attachment.misses() for half in list(state.halves.values()))


def _draft(change: _Change[P]) -> Draft[P]:
    """Rules that had to be in smaller programs begin with these, unless they have become fewer."""
    fewer = len(change.asked.chunks) < len(change.state.asked.chunks)
    return make_draft(change.asked, 0 if fewer else change.state.halvings)


def _put_back(array: SlotArray, head: int, program: bpf.Fd | None) -> None:
    if program is None:
        array.empty(head)
        return
    with program:
        array.put(head, program)


def open_hookpoints(
    loader: Loader, maps: Maps, tracefs: Path, pins: Pins, btf: KernelBtf | None = None
) -> HookPoints[PointPlan]:
    """tracefs: where it is mounted. btf: the agent's, which knows where its records are."""
    shared = {kind: SlotArray(name, maps.fileno(name), MAX_PROGRAM_SLOTS) for kind, name in SLOT_MAPS.items()}
    arrays, targets = PointArrays(shared, pins.maps), Targets(btf)
    points: PointLoader[PointPlan] = PointLoader(loader, codegen, arrays, targets)
    attacher = Attacher(tracefs, targets, maps.fileno("overrides"))
    return HookPoints(
        PointParts(points, attacher, arrays, targets, Grace(), lambda: waiting_attachments(maps), pins.links)
    )
