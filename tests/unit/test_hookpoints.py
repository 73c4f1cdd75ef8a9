# SPDX-License-Identifier: Apache-2.0
"""The order in which hook points change, and that a change which fails anywhere has not happened."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from agent.kernel import bpf, hookpoints
from agent.kernel.attach import PROGRAM_TYPES, SLOT_MAPS, Attacher, Attachment, Place
from agent.kernel.errors import KernelError, LoaderError
from agent.kernel.hookpoints import HookPoints, PointParts
from agent.kernel.loader import ProgramForm, ProgramSource
from agent.kernel.point_arrays import OwnArray, PointArrays
from agent.kernel.point_loader import PointLoader
from agent.kernel.slots import Grace, SlotArray
from agent.kernel.targets import ATTACH_TYPES, Targets
from agent.policy.access import HookPoint, PointKind
from agent.policy.codegen_unit import Placement, ProgramName, Side
from agent.policy.plan import PlanError

ENTRIES = 64
READ = HookPoint(PointKind.SYSCALL, "read")
WRITE = HookPoint(PointKind.SYSCALL, "write")
EVENT = HookPoint(PointKind.TRACEPOINT, "sched/sched_switch")
RAW = HookPoint(PointKind.RAW_TRACEPOINT, "sched_switch")
PROBE = HookPoint(PointKind.UPROBE, "/bin/sh", 16)
OPEN = HookPoint(PointKind.FMOD_RET, "security_file_open")
CONNECT = HookPoint(PointKind.FENTRY, "tcp_connect")


@dataclass(frozen=True)
class Plan:
    point: HookPoint
    mark: str
    chunks: tuple[int, ...] = (1,)
    has_return: bool = False
    too_large: int = 100  # for the verifier

    def halve(self) -> Plan:
        if max(self.chunks) == 1:
            raise PlanError(self.point.name, "one rule is too large")
        return replace(self, chunks=tuple(n for size in self.chunks for n in (size // 2, size - size // 2)))


class Program(bpf.Fd):
    def __init__(self, name: str) -> None:
        super().__init__(-1)
        self.name = name


class Compiler:
    def __init__(self) -> None:
        self.generations: list[int] = []

    def programs(self, plan: Plan, _placement: Placement, /) -> tuple[ProgramName, ...]:
        sides = [Side.ENTER, *([Side.EXIT] if plan.has_return else [])]
        return tuple(
            ProgramName(f"{plan.point.name}:{plan.mark}:{side.value}:{n}:{plan.chunks[n] > plan.too_large}", side, n)
            for side in sides
            for n in range(len(plan.chunks))
        )

    def compile_module(self, plans: list[tuple[Plan, Placement]], _chunks: Collection[int] | None = None, /) -> str:
        self.generations += [placement.generation for _, placement in plans]
        return f"{len(plans)} plans"


class Faults:
    """Counts operations; the one of number `at`, from 0, fails. log: what was done."""

    def __init__(self) -> None:
        self.at = -1
        self.count = 0
        self.log: list[str] = []

    def step(self, what: str) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            raise KernelError(f"injected: {what}", 12)
        self.log.append(what)


class Loader:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.requests: list[int] = []
        self.sources: list[ProgramSource] = []

    def load(self, source: ProgramSource) -> dict[str, bpf.Fd]:
        self.faults.step("load")
        self.requests.append(len(source.programs))
        self.sources.append(source)
        large = tuple(name for name in source.programs if name.endswith("True"))
        if large:
            raise LoaderError("load", "too large", True, large)
        return {name: Program(name) for name in source.programs}


class Array(SlotArray):
    def __init__(self, name: str, faults: Faults) -> None:
        super().__init__(name, id(self), ENTRIES)
        self.faults = faults
        self.contents: dict[int, str] = {}

    def put(self, slot: int, program: bpf.Fd) -> None:
        name = cast(Program, program).name.rpartition(":")[0]
        self.faults.step(f"put {slot} {name}")
        self.contents[slot] = cast(Program, program).name

    def empty(self, slot: int) -> None:
        self.faults.step(f"empty {slot}")
        self.contents.pop(slot, None)

    def get(self, slot: int) -> bpf.Fd | None:
        self.faults.step("get")
        return Program(self.contents[slot]) if slot in self.contents else None

    def instructions(self, slot: int) -> int:
        return 10 * (slot in self.contents)


class OwnedArray(Array):
    """One side's own."""

    def close(self) -> None:
        self.faults.log.append(f"close {self.name}")
        assert not self.contents


class Arrays(PointArrays):
    def __init__(self, shared: dict[bpf.ProgType, Array], faults: Faults) -> None:
        super().__init__(shared, Path("/maps"))
        self.faults = faults
        self.owned: list[OwnedArray] = []

    @property
    def names(self) -> list[str]:
        """Of those that there are."""
        return sorted(array.name for array in self._own.values())

    def _make(self, name: str) -> OwnArray:
        self.faults.step(f"make {name}")
        self.owned.append(OwnedArray(name, self.faults))
        return cast(OwnArray, self.owned[-1])


class NoBtf(Targets):
    """The id of a function is the length of its name."""

    released = 0

    def form(self, point: HookPoint, side: Side) -> ProgramForm:
        return ProgramForm(PROGRAM_TYPES[point.kind], ATTACH_TYPES.get((point.kind, side), 0), len(point.function))

    def release(self) -> None:
        self.released += 1


class Attached(Attachment):
    def __init__(self, node: Node, key: tuple[HookPoint, Side]) -> None:
        super().__init__(bpf.Fd(-1), 1000 + len(node.made), Path("/nowhere"))
        self.node, self.key = node, key

    def misses(self) -> int:
        return 7

    def is_gone(self) -> bool:
        return not self.node.lingering

    def detach(self) -> None:
        self.node.faults.log.append(f"detach {self.key[1].value} {self.key[0].name}")
        del self.node.attached[self.key]


@dataclass
class Node:
    """What HookPoints stands on. lingering: detached dispatchers do not go."""

    faults: Faults = field(default_factory=Faults)
    attached: dict[tuple[HookPoint, Side], int] = field(default_factory=dict)
    places: dict[tuple[HookPoint, Side], Place] = field(default_factory=dict)
    made: list[Attached] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)
    lingering: bool = False
    compiler: Compiler = field(default_factory=Compiler)

    def __post_init__(self) -> None:
        self.loader = Loader(self.faults)
        self.arrays = {kind: Array(kind.name, self.faults) for kind in sorted(SLOT_MAPS)}
        self.own = Arrays(self.arrays, self.faults)
        self.targets = NoBtf()
        self.points: HookPoints[Plan] = HookPoints(
            PointParts(
                PointLoader(self.loader, self.compiler, self.own, self.targets),
                cast(Attacher, self),
                self.own,
                self.targets,
                cast(Grace, self),
                lambda: self.waiting,
                Path("/links"),
            )
        )

    def attach(self, point: HookPoint, side: Side, place: Place) -> Attachment:
        self.faults.step(f"attach {side.value} {point.name}")
        attached = Attached(self, (point, side))
        self.attached[point, side] = place.slot
        self.places[point, side] = place
        self.made.append(attached)
        return attached

    def wait(self) -> None:
        self.faults.step("wait")

    def close(self) -> None:
        self.faults.log.append("close")

    def apply(self, *plans: Plan) -> None:
        self.points.apply({plan.point: plan for plan in plans})

    def state(self) -> object:
        """All that calls come across: what is attached, and the chains' first programs there."""
        arrays = {array.fd: array for array in (*self.arrays.values(), *self.own.owned)}
        heads = {key: arrays[self.places[key].array].contents.get(slot) for key, slot in self.attached.items()}
        return heads, self.points.points()

    @property
    def free(self) -> list[int]:
        return [array.free for array in self.arrays.values()]

    @property
    def filled(self) -> int:
        return sum(len(array.contents) for array in (*self.arrays.values(), *self.own.owned))


@pytest.fixture
def node() -> Node:
    return Node()


def test_new_chain_is_complete_before_its_head_and_the_return_comes_first(node: Node) -> None:
    node.apply(Plan(READ, "a", (1, 1), has_return=True))
    assert [each for each in node.faults.log if each != "get"] == [
        "load",
        "put 1 read:a:enter:1",
        "put 3 read:a:exit:1",
        "attach exit read",
        "attach enter read",
        "put 2 read:a:exit:0",
        "put 0 read:a:enter:0",
    ]


def test_change_swaps_the_heads_and_empties_the_old_chain_after_a_grace_period(node: Node) -> None:
    node.apply(Plan(READ, "a", (1, 1), has_return=True))
    node.faults.log.clear()
    node.apply(Plan(READ, "b", (1, 1), has_return=True))
    assert [each for each in node.faults.log if each != "get"] == [
        "load",
        "put 4 read:b:enter:1",
        "put 5 read:b:exit:1",
        "put 2 read:b:exit:0",
        "put 0 read:b:enter:0",
        "wait",
        "empty 1",
        "empty 3",
    ]
    assert sorted(set(node.compiler.generations)) == [1, 2]


def test_head_stays_and_old_slots_are_used_again(node: Node) -> None:
    for mark in "abcdef":
        node.apply(Plan(READ, mark, (1,) * 5))
        assert node.attached == {(READ, Side.ENTER): 0}
        assert node.free[1] == ENTRIES - 5
    assert len(node.made) == 1


def test_all_heads_change_after_everything_is_attached(node: Node) -> None:
    node.apply(Plan(READ, "a"), Plan(RAW, "a"), Plan(PROBE, "a", has_return=True))
    log = [each.partition(" ")[0] for each in node.faults.log if each != "get"]
    assert log == ["load"] + ["attach"] * 4 + ["put"] * 4


def test_kinds_have_arrays_of_their_own(node: Node) -> None:
    node.apply(*(Plan(point, "a") for point in (READ, EVENT, RAW, PROBE)))
    types = (bpf.ProgType.TRACEPOINT, bpf.ProgType.RAW_TRACEPOINT, bpf.ProgType.KPROBE)
    assert [len(node.arrays[kind].contents) for kind in types] == [2, 1, 1]


def test_each_side_of_a_function_has_an_array_of_its_own(node: Node) -> None:
    node.apply(Plan(READ, "a"), Plan(OPEN, "a", (1, 1), has_return=True))
    node.apply(Plan(CONNECT, "a"))
    contents = {array.name: array.contents for array in node.own.owned}
    assert contents == {
        "slots_2_enter": {0: "security_file_open:a:enter:0:False", 1: "security_file_open:a:enter:1:False"},
        "slots_2_exit": {0: "security_file_open:a:exit:0:False", 1: "security_file_open:a:exit:1:False"},
        "slots_3_enter": {0: "tcp_connect:a:enter:0:False"},
    }
    assert [len(array.contents) for array in node.arrays.values()] == [0, 1, 0]
    assert node.points.describe()[0].through == ("fentry tcp_connect",)


def test_request_has_the_arrays_of_its_hook_points_and_the_forms_of_their_programs(node: Node) -> None:
    node.apply(Plan(CONNECT, "a"))
    node.apply(Plan(READ, "a"), Plan(OPEN, "a", has_return=True))
    last = node.loader.sources[-1]
    assert list(last.maps) == ["slots_3_enter", "slots_3_exit"]
    assert list(last.maps.values()) == [array.fd for array in node.own.owned[1:]]
    forms = {name.split(":")[0] + name.split(":")[2]: form for name, form in last.programs.items()}
    function = len("security_file_open")
    assert forms == {
        "readenter": ProgramForm(bpf.ProgType.TRACEPOINT),
        "security_file_openenter": ProgramForm(bpf.ProgType.TRACING, 26, function),
        "security_file_openexit": ProgramForm(bpf.ProgType.TRACING, 25, function),
    }
    assert node.targets.released == 2


def test_array_of_its_own_goes_with_its_side_when_no_dispatcher_is_left(node: Node) -> None:
    node.apply(Plan(OPEN, "a", (1, 1), has_return=True))
    node.apply(Plan(OPEN, "b", (1, 1)))
    assert node.own.names == ["slots_1_enter"]
    node.lingering = True
    node.points.apply({OPEN: None})
    assert (node.own.names, node.filled) == (["slots_1_enter"], 1)  # emptied is the head alone
    node.lingering = False
    node.faults.log.clear()
    assert node.points.settle()
    assert node.faults.log == ["wait", "empty 0", "empty 2", "close slots_1_enter"]
    assert node.own.names == []


def test_change_that_fails_closes_the_arrays_that_it_made(node: Node) -> None:
    with pytest.raises(KernelError, match="64 slots left, 64 needed"):
        node.apply(Plan(OPEN, "a"), Plan(CONNECT, "a", (1,) * (ENTRIES + 1)))
    assert (len(node.own.owned), node.own.names) == (2, [])


def test_function_without_a_return_is_told_as_the_kernel_names_it(node: Node) -> None:
    with pytest.raises(KernelError, match="lsm file_open has no return"):
        node.apply(Plan(HookPoint(PointKind.LSM, "file_open"), "a", has_return=True))


def test_removed_hook_point_is_empty_before_it_is_detached_and_the_entry_goes_first(node: Node) -> None:
    node.apply(Plan(READ, "a", (1, 1), has_return=True))
    node.faults.log.clear()
    node.points.apply({READ: None})
    assert node.faults.log[:4] == ["empty 0", "detach enter read", "empty 2", "detach exit read"]
    assert (node.points.points(), node.filled, node.free) == ((), 0, [ENTRIES] * 3)


def test_slots_wait_for_a_dispatcher_that_is_not_gone(node: Node) -> None:
    node.apply(Plan(READ, "a", (1, 1)))
    node.lingering = True
    node.points.apply({READ: None})
    node.apply(Plan(WRITE, "a"))
    assert (node.attached[WRITE, Side.ENTER], node.free[1]) == (2, ENTRIES - 3)
    node.lingering = False
    assert node.points.settle()
    assert node.free[1] == ENTRIES - 1


def test_no_plan_for_a_hook_point_that_is_not_there_changes_nothing(node: Node) -> None:
    node.points.apply({READ: None})
    assert node.faults.log == []


def test_plan_that_is_in_force_is_not_loaded_again(node: Node) -> None:
    node.apply(Plan(READ, "a"), Plan(WRITE, "a"))
    node.apply(Plan(READ, "a"), Plan(WRITE, "b"))
    assert node.loader.requests == [2, 1]


OLD = (Plan(READ, "a", (1, 1), has_return=True), Plan(RAW, "a"), Plan(OPEN, "a", (1, 1)))
NEW = (
    Plan(READ, "b", (1, 1, 1), has_return=True),
    Plan(RAW, "b", (1, 1)),
    Plan(WRITE, "b", (1, 1), has_return=True),
    Plan(EVENT, "b"),
    Plan(PROBE, "b", has_return=True),
    Plan(OPEN, "b", (1, 1, 1), has_return=True),
    Plan(CONNECT, "b"),
)


def _steps() -> int:
    """How many operations a change takes that does not fail."""
    node = Node()
    node.apply(*OLD)
    before = node.faults.count
    node.apply(*NEW)
    return node.faults.count - before


def test_change_that_fails_at_any_step_has_not_happened() -> None:
    outcomes = {_fail_at(step) for step in range(_steps())}
    assert outcomes == {False, True}


def _try(node: Node) -> bool:
    try:
        node.apply(*NEW)
    except KernelError:
        return False
    return True


def _fail_at(step: int) -> bool:
    """True when the change was made before the fault."""
    node = Node()
    node.apply(*OLD)
    before, free = node.state(), node.free
    node.faults.at = node.faults.count + step
    made = _try(node)
    if not made:
        assert node.state() == before
        assert node.points.settle()
        assert (node.free, node.filled, node.own.names) == (free, 7, ["slots_3_enter"])
        node.apply(*NEW)
    assert set(node.points.points()) == {plan.point for plan in NEW}
    node.points.settle()
    assert ENTRIES * 3 - sum(node.free) == 3 + 3 + 2 + 2 + 2 + 1 + 2
    assert (node.filled, len(node.own.names)) == (15 + 3 + 3 + 1, 3)
    return made


def test_return_that_rules_need_no_more_stays_until_nothing_waits(node: Node) -> None:
    node.apply(Plan(READ, "a", (1, 1), has_return=True))
    node.waiting = {1}
    node.apply(Plan(READ, "b"))
    exit_slot = node.attached[READ, Side.EXIT]
    assert node.arrays[bpf.ProgType.TRACEPOINT].contents[exit_slot] == "read:a:exit:0:False"
    assert ([status.settling for status in node.points.describe()], node.points.settle()) == ([True], False)
    node.waiting = set()
    assert node.points.settle()
    assert (list(node.attached), node.filled, node.free[1]) == ([(READ, Side.ENTER)], 1, ENTRIES - 1)


def test_return_is_looked_for_after_a_grace_period(node: Node) -> None:
    """A call that still runs the old rules at its entry may be about to wait."""
    node.apply(Plan(READ, "a", has_return=True))
    node.faults.log.clear()
    node.apply(Plan(READ, "b"))
    assert node.faults.log.index("wait") < node.faults.log.index("detach exit read")
    assert (READ, Side.EXIT) not in node.attached


def test_return_that_is_needed_again_settles_no_more(node: Node) -> None:
    node.apply(Plan(READ, "a", has_return=True))
    node.waiting = {1}
    node.apply(Plan(READ, "b"))
    node.apply(Plan(READ, "c", has_return=True))
    node.waiting = set()
    assert node.points.settle()
    exit_slot = node.attached[READ, Side.EXIT]
    assert node.arrays[bpf.ProgType.TRACEPOINT].contents[exit_slot] == "read:c:exit:0:False"
    assert len(node.made) == 2


def test_kind_without_a_return_is_refused_before_anything_is_loaded(node: Node) -> None:
    with pytest.raises(KernelError, match="raw tracepoint sched_switch has no return"):
        node.apply(Plan(READ, "a"), Plan(RAW, "a", has_return=True))
    assert (node.loader.requests, node.points.points()) == ([], ())


def test_too_many_hook_points_are_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookpoints, "MAX_HOOK_POINTS", 2)
    node.apply(Plan(READ, "a"))
    with pytest.raises(KernelError, match="3 hook points, at most 2; have fewer"):
        node.apply(Plan(READ, "b"), Plan(WRITE, "a"), Plan(EVENT, "a"))
    node.apply(Plan(READ, "b"), Plan(WRITE, "a"))
    assert node.points.points() == (READ, WRITE)


def test_full_array_is_told_and_changes_nothing(node: Node) -> None:
    node.apply(Plan(READ, "a", (1,) * 40))
    with pytest.raises(KernelError, match="TRACEPOINT has 24 of 64 slots left, 39 needed"):
        node.apply(Plan(READ, "b", (1,) * 40))
    node.apply(Plan(READ, "c", (1,) * 25))
    assert node.free[1] == ENTRIES - 25


def test_missed_calls_are_counted_beyond_their_hook_point(node: Node) -> None:
    node.apply(Plan(READ, "a", has_return=True), Plan(RAW, "a"))
    assert node.points.missed() == 21
    node.points.apply({READ: None})
    assert node.points.missed() == 21


def test_description_has_what_is_attached(node: Node) -> None:
    node.apply(Plan(READ, "a", (1, 1), has_return=True), Plan(PROBE, "a"))
    read, probe = node.points.describe()
    assert read.through == ("tracepoint syscalls/sys_enter_read", "tracepoint syscalls/sys_exit_read")
    assert (read.dispatchers, read.programs, read.instructions, read.missed) == ((1001, 1000), 4, 40, 14)
    assert (probe.through, probe.programs) == (("uprobe /bin/sh+0x10",), 1)


def test_closing_detaches_everything(node: Node) -> None:
    node.apply(Plan(READ, "a", has_return=True), Plan(RAW, "a"), Plan(PROBE, "a"))
    node.points.close()
    assert (node.attached, node.filled, node.faults.log[-1]) == ({}, 0, "close")


def test_one_that_does_not_detach_leaves_no_other_attached(node: Node) -> None:
    node.apply(Plan(READ, "a"), Plan(RAW, "a"), Plan(PROBE, "a"))
    node.faults.at = node.faults.count + 1
    with pytest.raises(KernelError, match="injected: empty"):
        node.points.apply({READ: None, RAW: None, PROBE: None})
    assert (node.attached, node.points.points()) == ({}, ())
    assert node.points.settle()
    assert (node.filled, node.free) == (0, [ENTRIES] * 3)


def test_smaller_programs_are_remembered_while_the_rules_are_as_many(node: Node) -> None:
    node.apply(Plan(READ, "a", (8, 8), too_large=3))
    assert node.loader.requests == [2, 4, 8]
    node.apply(Plan(READ, "b", (8, 8), too_large=3))
    assert node.loader.requests == [2, 4, 8, 8]
    node.apply(Plan(READ, "c", (2,), too_large=3))
    assert node.loader.requests == [2, 4, 8, 8, 1]
    assert node.free[1] == ENTRIES - 1
