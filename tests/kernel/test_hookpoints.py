# SPDX-License-Identifier: Apache-2.0
"""Hook points of every kind in this kernel: attached, changed without a gap, left behind by a crash, and gone."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.errors import KernelError, LoaderError
from agent.kernel.maps import Maps
from agent.policy.access import HookPoint, PointKind
from agent.policy.codegen_unit import Side
from agent.policy.plan import MAX_CHUNKS, PlanError
from tests.support.points import (
    Bench,
    HandPlan,
    Target,
    build_target,
    create_maps,
    list_programs,
    open_bench,
    open_tracefs,
    passing,
    prepare_pins,
    read_seen,
)
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

LSEEK = HookPoint(PointKind.SYSCALL, "lseek")
EVENT = HookPoint(PointKind.TRACEPOINT, "syscalls/sys_enter_lseek")
RAW = HookPoint(PointKind.RAW_TRACEPOINT, "sys_exit")
ROUNDS = 20
MUCH = 6_000  # branches: nearly as many as the verifier keeps in mind
TOO_MUCH = 20_000


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return build_target(tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def tracefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with open_tracefs(tmp_path_factory.mktemp("podgate-tracefs")) as path:
        yield path


@pytest.fixture
def bench(tracefs: Path) -> Iterator[Bench]:
    with open_bench(tracefs) as opened:
        yield opened


def probe(target: Target) -> HookPoint:
    return HookPoint(PointKind.UPROBE, str(target.path), target.offsets["probe"])


def gated(target: Target) -> HookPoint:
    return HookPoint(PointKind.USDT, str(target.path), target.offsets["gated"], target.offsets["gate"])


def test_each_kind_sees_every_call_and_its_return(bench: Bench, target: Target) -> None:
    with passing(target, ROUNDS) as passer:
        plans = [
            HandPlan(LSEEK, 1, passer.pid, has_return=True),
            HandPlan(EVENT, 2, passer.pid),
            HandPlan(RAW, 3, passer.pid),
            HandPlan(probe(target), 4, passer.pid, has_return=True),
            HandPlan(gated(target), 5, passer.pid, has_return=True),
        ]
        bench.apply(*plans)
        assert passer.come() == (ROUNDS, ROUNDS)
        assert {plan.mark: bench.seen(plan.mark) for plan in plans} == {1: 20, 2: 20, 3: bench.seen(3), 4: 20, 5: 20}
        assert {mark: bench.seen(mark, Side.EXIT) for mark in (1, 4, 5)} == dict.fromkeys((1, 4, 5), ROUNDS)
        assert bench.seen(3) >= ROUNDS  # every system call of the process


def test_reference_counter_is_down_again_when_the_probe_is_gone(bench: Bench, target: Target) -> None:
    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(gated(target), 1, passer.pid))
        assert passer.come() == (ROUNDS, ROUNDS)
        bench.remove(gated(target))
        wait_until(lambda: passer.come() == (ROUNDS, 0), 10, "the semaphore to be zero")
        assert bench.seen(1) >= ROUNDS


def test_hook_points_are_described(bench: Bench, target: Target) -> None:
    bench.apply(HandPlan(LSEEK, 1, 1, chunks=(0, 0), has_return=True), HandPlan(probe(target), 2, 1))
    lseek, uprobe = bench.points.describe()
    assert lseek.through == ("tracepoint syscalls/sys_enter_lseek", "tracepoint syscalls/sys_exit_lseek")
    assert uprobe.through == (f"uprobe {target.path}+{target.offsets['probe']:#x}",)
    assert (lseek.point, lseek.programs, uprobe.programs) == (LSEEK, 4, 1)
    assert lseek.instructions > uprobe.instructions > 20
    assert (lseek.missed, bench.points.missed(), lseek.settling) == (0, 0, False)


@pytest.mark.parametrize("kind", ["syscall", "uprobe"])
def test_chain_runs_to_its_end(bench: Bench, target: Target, kind: str) -> None:
    """As long a chain as a plan can be: the kernel has a limit on tail calls in a row, and ends the rest silently."""
    point = LSEEK if kind == "syscall" else probe(target)
    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(point, 1, passer.pid, chunks=(0,) * MAX_CHUNKS, has_return=True))
        passer.come()
        for side in Side:
            assert [bench.seen(1, side, chunk) for chunk in range(MAX_CHUNKS)] == [ROUNDS] * MAX_CHUNKS
    assert bench.mixed == 0


@pytest.mark.parametrize("kind", ["syscall", "uprobe"])
def test_change_under_a_loop_lets_no_call_through_and_mixes_no_rules(bench: Bench, target: Target, kind: str) -> None:
    point = LSEEK if kind == "syscall" else probe(target)
    with passing(target) as first, passing(target) as second:
        changes = 12

        def plan(mark: int) -> HandPlan:
            return HandPlan(point, mark, first.pid, chunks=(0,) * (1 + mark % 3), has_return=True)

        bench.apply(plan(1))
        first.go()
        second.go()
        for mark in range(2, 2 + changes):
            wait_until(lambda mark=mark: bench.seen(mark - 1) > 100, 20, "calls under the rules")  # type: ignore[misc]
            bench.apply(plan(mark))
        rounds, _ = first.stop()
        second.stop()
        for side in Side:
            counts = {mark: bench.seen(mark, side) for mark in range(1, 2 + changes)}
            assert sum(counts.values()) == rounds
            lasts = {mark: bench.seen(mark, side, mark % 3) for mark in counts}
            assert lasts == counts  # each call went through its chain to the end
    assert bench.mixed == 0
    assert min(counts.values()) > 0


@pytest.mark.parametrize("kind", ["syscall", "raw", "uprobe"])
def test_call_that_is_among_the_old_rules_gets_to_their_end(bench: Bench, target: Target, kind: str) -> None:
    """The way through these takes longer than it takes to swap a head and to empty a slot."""
    point = {"syscall": LSEEK, "raw": RAW, "uprobe": probe(target)}[kind]
    with passing(target) as passer:
        slow = (MUCH,) * 8 + (0,)
        bench.apply(HandPlan(point, 1, passer.pid, slow))
        passer.go()
        for mark in range(2, 6):
            wait_until(lambda mark=mark: bench.seen(mark - 1) > 10, 20, "calls under the rules")  # type: ignore[misc]
            bench.apply(HandPlan(point, mark, passer.pid, slow))
        wait_until(lambda: bench.seen(5) > 10, 20, "calls under the last rules")
        passer.stop()

    def at(chunk: int) -> list[int]:
        return [bench.seen(mark, Side.ENTER, chunk) for mark in range(1, 6)]

    assert min(at(0)) > 10
    assert at(len(slow) - 1) == at(0)  # no call is on its way any more: the process is gone
    assert bench.mixed == 0


def test_slots_of_earlier_rules_come_free(bench: Bench, target: Target) -> None:
    before = bench.free
    with passing(target, ROUNDS) as passer:
        for mark in range(1, 6):
            bench.apply(HandPlan(LSEEK, mark, passer.pid, chunks=(0,) * 4))
            passer.come()
            assert bench.free == [before[0] - 4, *before[1:]]
    bench.remove(LSEEK)
    wait_until(lambda: bench.points.settle() and bench.free == before, 10, "the dispatcher to go")


def test_equal_plan_is_not_loaded_again(bench: Bench) -> None:
    plan = HandPlan(LSEEK, 1, 1)
    bench.apply(plan)
    before = chain_programs()
    bench.apply(HandPlan(LSEEK, 1, 1), HandPlan(EVENT, 2, 1))
    assert before < chain_programs()


def test_rules_that_are_too_large_are_split(bench: Bench, target: Target) -> None:
    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(LSEEK, 1, passer.pid), HandPlan(EVENT, 2, passer.pid, chunks=(TOO_MUCH,)))
        passer.come()
        programs = {status.point: status.programs for status in bench.points.describe()}
        last = programs[EVENT] - 1
        assert (programs[LSEEK], programs[EVENT] in (4, 8)) == (1, True)
        assert [bench.seen(2, Side.ENTER, chunk) for chunk in range(last + 2)] == [ROUNDS] * (last + 1) + [0]


def test_rules_that_cannot_be_split_leave_the_old_ones(bench: Bench, target: Target) -> None:
    class Whole(HandPlan):
        def halve(self) -> HandPlan:
            raise PlanError(self.point.name, "one rule is too large")

    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(EVENT, 1, passer.pid))
        with pytest.raises(PlanError, match="one rule is too large"):
            bench.apply(HandPlan(LSEEK, 2, passer.pid), Whole(EVENT, 3, passer.pid, chunks=(TOO_MUCH,)))
        passer.come()
        assert (bench.seen(1), bench.seen(2), bench.points.points()) == (ROUNDS, 0, (EVENT,))


def test_text_that_is_no_c_is_an_error_and_not_split(bench: Bench) -> None:
    with pytest.raises(LoaderError, match="undeclared"):
        bench.apply(HandPlan(LSEEK, 1, 1, chunks=("no_such_name",)))  # type: ignore[arg-type]
    assert bench.points.points() == ()


def test_third_of_five_that_does_not_attach_undoes_the_others(bench: Bench, target: Target) -> None:
    before, slots = chain_programs(), bench.free
    nowhere = HookPoint(PointKind.TRACEPOINT, "syscalls/sys_enter_nowhere")
    with passing(target, ROUNDS) as passer:
        points = [LSEEK, EVENT, nowhere, RAW, probe(target)]
        with pytest.raises(KernelError, match="no tracepoint syscalls/sys_enter_nowhere"):
            bench.apply(*(HandPlan(point, n + 1, passer.pid) for n, point in enumerate(points)))
        passer.come()
        assert [bench.seen(n + 1) for n in range(5)] == [0] * 5
    assert (bench.points.points(), list(bench.links.iterdir())) == ((), [])
    wait_until(lambda: bench.points.settle() and bench.free == slots, 10, "the slots to be free")
    assert chain_programs() == before


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (HookPoint(PointKind.UPROBE, "/no/such/file", 64), "uprobe /no/such/file.*ENOENT.*no such file"),
        (HookPoint(PointKind.UPROBE, "/proc", 64), "uprobe /proc.*EINVAL.*regular file"),
        (HookPoint(PointKind.USDT, "/bin/true", 64, 1 << 32), "reference counter.*0xffffffff"),
        (HookPoint(PointKind.RAW_TRACEPOINT, "no_such_event"), "raw tracepoint no_such_event.*ENOENT"),
        (HookPoint(PointKind.TRACEPOINT, "../../etc/x"), "no tracepoint ../../etc/x"),
    ],
    ids=lambda value: value.name.strip("/").replace("/", "-") if isinstance(value, HookPoint) else "",
)
def test_place_that_is_not_there_is_named(bench: Bench, point: HookPoint, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        bench.apply(HandPlan(point, 1, 1))
    assert bench.points.points() == ()


def test_tracepoint_has_no_return(bench: Bench) -> None:
    with pytest.raises(KernelError, match="tracepoint syscalls/sys_enter_lseek has no return"):
        bench.apply(HandPlan(EVENT, 1, 1, has_return=True))


def test_return_is_watched_until_no_call_waits_for_it(bench: Bench, target: Target) -> None:
    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(LSEEK, 1, passer.pid, has_return=True, defers=True))
        passer.come()
        bench.apply(HandPlan(LSEEK, 2, passer.pid))
        passer.come()
        assert (bench.seen(2), bench.seen(1, Side.EXIT)) == (ROUNDS, 2 * ROUNDS)
        assert [status.settling for status in bench.points.describe()] == [True]
        assert not bench.points.settle()
        assert bpf.delete(bench.maps.fileno("deferred"), struct.pack("<II", passer.pid, passer.pid))
        assert bench.points.settle()
        passer.come()
        assert (bench.seen(2), bench.seen(1, Side.EXIT)) == (2 * ROUNDS, 2 * ROUNDS)
        assert len(bench.points.describe()[0].through) == 1
        bench.apply(HandPlan(LSEEK, 3, passer.pid, has_return=True))
        passer.come()
        assert bench.seen(3, Side.EXIT) == ROUNDS


def test_detached_hook_points_leave_nothing(bench: Bench, target: Target) -> None:
    before, slots = chain_programs(), bench.free
    points = (LSEEK, EVENT, RAW, probe(target), gated(target))
    bench.apply(*(HandPlan(point, 1, 1, chunks=(0, 0), has_return=point is LSEEK) for point in points))
    dispatchers = {number for status in bench.points.describe() for number in status.dispatchers}
    assert len(dispatchers) == len(list(bench.links.iterdir())) == len(points) + 1
    assert len(chain_programs() - before) == 2 * (len(points) + 1)
    bench.remove(*points)
    assert list(bench.links.iterdir()) == []
    wait_until(lambda: not dispatchers & list_programs(), 10, "the dispatchers to go")
    wait_until(lambda: bench.points.settle() and bench.free == slots, 10, "the slots to be free")
    assert chain_programs() == before


def test_all_stays_in_force_when_its_owner_is_killed(tracefs: Path, target: Target) -> None:
    with prepare_pins() as pins, passing(target, ROUNDS) as passer:
        points = (LSEEK, EVENT, RAW, probe(target), gated(target))
        returning = (LSEEK, probe(target), gated(target))
        child = os.fork()
        if not child:
            try:
                maps = create_maps(pins.maps)
                bench = Bench(maps, tracefs, pins)
                plans = [(point, n + 1, point in returning) for n, point in enumerate(points)]
                bench.apply(*(HandPlan(p, n, passer.pid, (0, 0), returns) for p, n, returns in plans))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        left = Maps({path.name: bpf.open_pinned(path) for path in pins.maps.iterdir()})
        assert len(list(pins.links.iterdir())) == len(points) + len(returning)
        assert passer.come() == (ROUNDS, ROUNDS)
        assert [read_seen(left, n, Side.ENTER, 1) for n in (1, 2, 4, 5)] == [ROUNDS] * 4
        assert [read_seen(left, n, Side.EXIT, 1) for n in (1, 4, 5)] == [ROUNDS] * 3
        assert read_seen(left, 3, Side.ENTER, 1) >= ROUNDS
        left.close()
        pins.release_previous()
        pins.release()
        pins.prepare()
        wait_until(lambda: passer.come() == (ROUNDS, 0), 10, "the probes to go with their pins")


def chain_programs() -> frozenset[int]:
    """Ids of this process's hand-made programs."""
    return list_programs(f"t{os.getpid()}_")
