# SPDX-License-Identifier: Apache-2.0
"""Plans that are compiled together, and what becomes of those that are too large."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.kernel import bpf, point_loader
from agent.kernel.errors import LoaderError
from agent.kernel.loader import MAX_PROGRAMS, ProgramSource
from agent.kernel.point_arrays import PointArrays
from agent.kernel.point_loader import MAX_CHUNKS, Draft, PointLoader, make_draft
from agent.kernel.slots import SlotArray
from agent.kernel.targets import Targets
from agent.policy import plan as plans
from agent.policy.access import HookPoint, PointKind
from agent.policy.codegen_unit import Placement, ProgramName, Side
from agent.policy.plan import PlanError


@dataclass(frozen=True)
class Plan:
    point: HookPoint
    chunks: tuple[int, ...] = (1,)
    has_return: bool = False
    smallest: int = 1

    def halve(self) -> Plan:
        if max(self.chunks) <= self.smallest:
            raise PlanError(self.point.name, "one rule is too large")
        return replace(self, chunks=tuple(n for size in self.chunks for n in (size // 2, size - size // 2)))


def plan(name: str, *chunks: int, smallest: int = 1) -> Plan:
    return Plan(HookPoint(PointKind.SYSCALL, name), chunks or (1,), False, smallest)


class Compiler:
    def programs(self, plan: Plan, _placement: Placement, /) -> tuple[ProgramName, ...]:
        return tuple(ProgramName(f"{plan.point.name}_{n}_{size}", Side.ENTER, n) for n, size in enumerate(plan.chunks))

    def compile_module(self, plans: list[tuple[Plan, Placement]], chunks: Collection[int] | None = None, /) -> str:
        names = " ".join(plan.point.name for plan, _ in plans)
        return names if chunks is None else f"{names} {min(chunks)}-{max(chunks)}"


Refusal = Callable[[ProgramSource], LoaderError | None]


@dataclass
class Loader:
    """refuse: what a request comes to."""

    refuse: Refusal = lambda _: None
    texts: list[str] = field(default_factory=list)
    given: list[bpf.Fd] = field(default_factory=list)

    def load(self, source: ProgramSource) -> dict[str, bpf.Fd]:
        self.texts.append(source.text)
        error = self.refuse(source)
        if error:
            raise error
        programs = {name: bpf.Fd(os.open(os.devnull, os.O_RDONLY)) for name in source.programs}
        self.given += programs.values()
        return programs


class Array(SlotArray):
    def __init__(self) -> None:
        super().__init__("slots", 0, 4096)
        self.filled: list[int] = []

    def put(self, slot: int, _program: bpf.Fd) -> None:
        self.filled.append(slot)


class Rig:
    def __init__(self, refuse: Refusal = lambda _: None) -> None:
        self.loader = Loader(refuse)
        self.array = Array()
        self.placed: list[tuple[str, int]] = []
        arrays = PointArrays({bpf.ProgType.TRACEPOINT: self.array}, Path("/maps"))
        self.points: PointLoader[Plan] = PointLoader(self.loader, Compiler(), arrays, Targets())

    def place(self, plan: Plan) -> Placement:
        self.placed.append((plan.point.name, len(plan.chunks)))
        return Placement(1, len(self.placed), self.array.take(len(plan.chunks)), ())

    def load(self, *plans: Plan) -> dict[str, tuple[int, ...]]:
        """The chunks that came out of it, by name."""
        loaded = self.points.load([Draft(each) for each in plans], self.place)
        return {point.name: each.plan.chunks for point, each in loaded.items()}


def larger_than(size: int) -> Refusal:
    """The verifier gives up on programs of more than that."""

    def refuse(source: ProgramSource) -> LoaderError | None:
        large = tuple(name for name in source.programs if int(name.rpartition("_")[2]) > size)
        return LoaderError("load", "too large", True, large) if large else None

    return refuse


def more_than(size: int, stage: str) -> Refusal:
    """The compiler dies of texts with more programs than that."""

    def refuse(source: ProgramSource) -> LoaderError | None:
        return LoaderError(stage, "died", True) if len(source.programs) > size else None

    return refuse


def test_many_hook_points_are_one_request() -> None:
    rig = Rig()
    assert rig.load(plan("a"), plan("b", 1, 1)) == {"a": (1,), "b": (1, 1)}
    assert (rig.loader.texts, rig.array.filled) == (["a b"], [2])


def test_requests_are_bounded_by_their_chunks() -> None:
    rig = Rig()
    rig.load(*(plan(f"p{n}", *[1] * 31) for n in range(7)))
    assert rig.loader.texts == ["p0 p1 p2", "p3 p4 p5", "p6"]
    assert 2 * max(MAX_CHUNKS, plans.MAX_CHUNKS) <= MAX_PROGRAMS


def test_requests_are_bounded_by_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_loader, "MAX_TEXT", 5)
    rig = Rig()
    rig.load(*(plan(name) for name in ("aa", "bb", "longer", "c", "d")))
    assert rig.loader.texts == ["aa bb", "longer", "c d"]


def test_a_plan_that_is_too_long_for_a_request_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_loader, "MAX_TEXT", len("a 0-0") * 2)
    rig = Rig()
    assert rig.load(plan("a", 1, 1, 1, 1, 1)) == {"a": (1,) * 5}
    assert rig.loader.texts == ["a 0-1", "a 2-3", "a 4-4"]
    assert rig.array.filled == [1, 2, 3, 4]


def test_a_part_that_is_refused_leaves_no_other_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_loader, "MAX_TEXT", 1)
    rig = Rig(lambda source: LoaderError("load", "refused") if "a_2_1" in source.programs else None)
    with pytest.raises(LoaderError, match="refused"):
        rig.load(plan("a", 1, 1, 1))
    assert rig.array.filled == []
    assert len(rig.loader.given) == 2
    for program in rig.loader.given:
        with pytest.raises(ValueError, match="closed"):
            program.fileno()


def test_only_those_that_are_too_large_are_halved_all_at_once() -> None:
    rig = Rig(larger_than(4))
    assert rig.load(plan("a"), plan("b", 8), plan("c", 8)) == {"a": (1,), "b": (4, 4), "c": (4, 4)}
    assert rig.loader.texts == ["a b c"] * 2
    assert rig.placed == [("a", 1), ("b", 1), ("c", 1), ("a", 1), ("b", 2), ("c", 2)]


def test_they_are_halved_until_they_fit() -> None:
    rig = Rig(larger_than(2))
    assert rig.load(plan("a", 16)) == {"a": (2,) * 8}
    assert len(rig.loader.texts) == 4


def test_one_rule_that_is_too_large_is_the_plans_error() -> None:
    with pytest.raises(PlanError, match="b: one rule is too large"):
        Rig(larger_than(1)).load(plan("a"), plan("b", 4, smallest=2))


def test_halving_that_makes_no_more_programs_is_no_help() -> None:
    class Stuck(Plan):
        def halve(self) -> Plan:
            return self

    with pytest.raises(LoaderError, match="too large"):
        Rig(larger_than(1)).load(Stuck(HookPoint(PointKind.SYSCALL, "a"), (4,)))


@pytest.mark.parametrize("stage", ["memory", "compile", "deadline"])
def test_compiler_that_dies_of_all_gets_less_at_a_time(stage: str) -> None:
    rig = Rig(more_than(2, stage))
    assert set(rig.load(*(plan(name) for name in "abcdef"))) == set("abcdef")
    assert rig.loader.texts == ["a b c d e f", "a b c", "a", "b c", "d e f", "d", "e f"]


def test_compiler_that_dies_of_one_gets_smaller_programs() -> None:
    def refuse(source: ProgramSource) -> LoaderError | None:
        return LoaderError("compile", "died", True) if any(name.endswith("_8") for name in source.programs) else None

    rig = Rig(refuse)
    assert rig.load(plan("a"), plan("b", 8)) == {"a": (1,), "b": (4, 4)}
    assert rig.loader.texts == ["a b", "a", "b", "b"]


def test_one_hook_point_beyond_the_deadline_is_an_error() -> None:
    rig = Rig(more_than(0, "deadline"))
    with pytest.raises(LoaderError, match="deadline"):
        rig.load(plan("a", 8))
    assert len(rig.loader.texts) == 1


def test_other_errors_are_not_tried_again() -> None:
    rig = Rig(lambda _: LoaderError("compile", "use of undeclared identifier", False))
    with pytest.raises(LoaderError, match="undeclared"):
        rig.load(plan("a", 8), plan("b"))
    assert len(rig.loader.texts) == 1


def test_program_that_is_refused_is_told_with_its_hook_point() -> None:
    refused = LoaderError("load", "b_0_1: EINVAL; b() is not modifiable", False, ("b_0_1",))
    with pytest.raises(LoaderError, match=r"load: tracepoint syscalls/sys_enter_b: b_0_1: EINVAL; b\(\) is not"):
        Rig(lambda _: refused).load(plan("a"), plan("b"))


def test_draft_begins_as_small_as_it_had_to_be_or_can() -> None:
    assert make_draft(plan("a", 8), 2) == Draft(plan("a", 2, 2, 2, 2), 2)
    assert make_draft(plan("a", 2), 3) == Draft(plan("a", 1, 1), 1)
