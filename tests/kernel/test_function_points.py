# SPDX-License-Identifier: Apache-2.0
"""Hook points at functions of this kernel: attached at both ends, changed without a gap, with verdicts that come
through a tail call, left behind by a crash, and gone.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.abilities import KPROBE_TYPE, override_program_refusal
from agent.kernel.errors import KernelError
from agent.kernel.maps import Maps
from agent.kernel.node_facts import NodeFacts
from agent.policy.access import HookPoint, PointKind
from agent.policy.codegen_unit import Side
from agent.policy.facts import Abilities
from agent.policy.plan import MAX_CHUNKS
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

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not KPROBE_TYPE.exists(), reason="this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"),
]

CALL = "__x64_sys_lseek"
KPROBE = HookPoint(PointKind.KPROBE, CALL)
FENTRY = HookPoint(PointKind.FENTRY, CALL)
SYSCALL = HookPoint(PointKind.SYSCALL_FENTRY, "lseek")
FMOD_RET = HookPoint(PointKind.FMOD_RET, "security_file_open")
LSM = HookPoint(PointKind.LSM, "file_open")
OVERRIDE = HookPoint(PointKind.SYSCALL_OVERRIDE, "lseek")
ROUNDS = 20
OPENED = "/dev/null"
LAYERED = "/etc/hostname"  # on an overlay, which opens a file of another file system for it


class Opener:
    """A process that opens a file when it is asked to."""

    def __init__(self) -> None:
        request, self._ask = os.pipe()
        self._read, answer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._serve(request, answer)
        os.close(request)
        os.close(answer)

    def _serve(self, request: int, answer: int) -> None:
        """Until the other end of the pipe is closed, of which this process has a copy too."""
        os.close(self._ask)
        os.close(self._read)
        try:
            while path := os.read(request, 4096):
                os.write(answer, json.dumps([_open(path.decode()) for _ in range(ROUNDS)]).encode())
        finally:
            os._exit(0)

    def come(self, path: str = OPENED) -> set[int]:
        """The errors of as many tries as there are rounds; 0: it was opened."""
        os.write(self._ask, path.encode())
        return set(json.loads(os.read(self._read, 4096)))

    def close(self) -> None:
        os.close(self._ask)
        os.close(self._read)
        os.waitpid(self.pid, 0)


def _open(path: str) -> int:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno or -1
    return 0


@contextmanager
def opening() -> Iterator[Opener]:
    opener = Opener()
    try:
        yield opener
    finally:
        opener.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return build_target(tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def tracefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with open_tracefs(tmp_path_factory.mktemp("podgate-tracefs")) as path:
        yield path


@pytest.fixture(scope="module")
def facts(tracefs: Path) -> Iterator[NodeFacts]:
    with NodeFacts(tracefs) as node:
        yield node


@pytest.fixture(scope="module")
def can(facts: NodeFacts) -> Abilities:
    return facts.abilities()


@pytest.fixture
def bench(tracefs: Path) -> Iterator[Bench]:
    """And nothing of it is left afterwards."""
    with open_bench(tracefs) as opened:
        yield opened
        points = opened.points.points()
        dispatchers = {number for status in opened.points.describe() for number in status.dispatchers}
        opened.remove(*points)
        wait_until(lambda: opened.points.settle() and not own_arrays(opened), 10, "the arrays to go")
        assert list(opened.links.iterdir()) == []
        wait_until(lambda: not dispatchers & list_programs(), 10, "the dispatchers to go")
        assert list_programs(f"t{os.getpid()}_") == frozenset()


def own_arrays(bench: Bench) -> list[str]:
    """Those of single hook points that are pinned."""
    shared = {"slots", "slots_raw", "slots_probe"}
    return sorted(path.name for path in bench.links.with_name("maps").glob("slots*") if path.name not in shared)


def need(reason: str) -> None:
    if reason:
        pytest.skip(reason)


def test_each_kind_sees_every_call_and_its_return(bench: Bench, target: Target, can: Abilities) -> None:
    need(can.fentry)
    plans = [HandPlan(point, n + 1, 0, (0, 0), has_return=True) for n, point in enumerate((KPROBE, FENTRY, SYSCALL))]
    with passing(target, ROUNDS) as passer:
        bench.apply(*(HandPlan(p.point, p.mark, passer.pid, p.chunks, p.has_return) for p in plans))
        assert passer.come() == (ROUNDS, 0)
        seen = {(n, side, chunk): bench.seen(n, side, chunk) for n in (1, 2, 3) for side in Side for chunk in (0, 1)}
        assert seen == dict.fromkeys(seen, ROUNDS)
    assert bench.mixed == 0
    assert own_arrays(bench) == ["slots_2_enter", "slots_2_exit", "slots_3_enter"]
    kprobe, fentry, syscall = (bench.points.describe()[n] for n in (1, 0, 2))
    assert kprobe.through == (f"kprobe {CALL}", f"kretprobe {CALL}")
    assert fentry.through == (f"fentry {CALL}", f"fexit {CALL}")
    assert syscall.through == (f"fentry {CALL}", "tracepoint syscalls/sys_exit_lseek")
    assert (kprobe.missed, fentry.missed, kprobe.programs, fentry.programs) == (0, 0, 4, 4)


def test_chain_of_a_function_runs_to_its_end(bench: Bench, target: Target, can: Abilities) -> None:
    need(can.fentry)
    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(FENTRY, 1, passer.pid, chunks=(0,) * MAX_CHUNKS))
        passer.come()
        assert [bench.seen(1, Side.ENTER, chunk) for chunk in range(MAX_CHUNKS)] == [ROUNDS] * MAX_CHUNKS


@pytest.mark.parametrize("point", [KPROBE, FENTRY], ids=lambda point: point.kind.value)
def test_change_under_a_loop_lets_no_call_through_and_mixes_no_rules(
    bench: Bench, target: Target, can: Abilities, point: HookPoint
) -> None:
    need(can.fentry if point is FENTRY else can.kprobe)
    changes = 4
    with passing(target) as passer:
        bench.apply(HandPlan(point, 1, passer.pid, (0, 0), has_return=True))
        passer.go()
        for mark in range(2, 2 + changes):
            wait_until(lambda mark=mark: bench.seen(mark - 1) > 50, 20, "calls under the rules")  # type: ignore[misc]
            bench.apply(HandPlan(point, mark, passer.pid, (0,) * (1 + mark % 3), has_return=True))
        wait_until(lambda: bench.seen(1 + changes) > 50, 20, "calls under the last rules")
        rounds, _ = passer.stop()
        for side in Side:
            counts = {mark: bench.seen(mark, side) for mark in range(1, 2 + changes)}
            lasts = {mark: bench.seen(mark, side, 1 if mark == 1 else mark % 3) for mark in counts}
            assert (sum(counts.values()), lasts) == (rounds, counts)
    assert bench.mixed == 0


@pytest.mark.parametrize("point", [FMOD_RET, LSM], ids=lambda point: point.kind.value)
def test_verdict_comes_through_the_chain_and_goes_with_its_rules(
    bench: Bench, can: Abilities, point: HookPoint
) -> None:
    need(can.fmod_ret if point is FMOD_RET else can.lsm)
    with opening() as opener, opening() as other:
        bench.apply(HandPlan(point, 1, opener.pid, (0, 0, 0), verdict=-errno.EXDEV))
        assert (opener.come(), other.come()) == ({errno.EXDEV}, {0})
        assert [bench.seen(1, Side.ENTER, chunk) for chunk in range(3)] == [ROUNDS] * 3
        bench.apply(HandPlan(point, 2, opener.pid))
        assert opener.come() == {0}
        bench.apply(HandPlan(point, 3, opener.pid, verdict=-errno.EACCES))
        assert (opener.come(), bench.seen(2)) == ({errno.EACCES}, ROUNDS)
        bench.remove(point)
        assert opener.come() == {0}


def test_return_of_a_function_is_seen_with_its_verdict(bench: Bench, can: Abilities) -> None:
    """The kernel calls fexit programs whether or not the function ran."""
    need(can.fmod_ret)
    with opening() as opener:
        bench.apply(HandPlan(FMOD_RET, 1, opener.pid, has_return=True, verdict=-errno.EXDEV))
        assert opener.come() == {errno.EXDEV}
        assert (bench.seen(1), bench.seen(1, Side.EXIT)) == (ROUNDS, ROUNDS)


def test_function_of_a_module(bench: Bench, facts: NodeFacts, can: Abilities) -> None:
    need(can.fentry)
    if not Path("/sys/kernel/btf/overlay").exists():
        pytest.skip("the module overlay is not loaded")
    assert facts.function("ovl_open").module == "overlay"
    fentry, kprobe = (HookPoint(kind, "ovl_open", module="overlay") for kind in (PointKind.FENTRY, PointKind.KPROBE))
    with opening() as opener:
        bench.apply(
            HandPlan(fentry, 1, opener.pid, (0, 0), has_return=True), HandPlan(kprobe, 2, opener.pid, has_return=True)
        )
        assert opener.come(LAYERED) == {0}
        assert [bench.seen(1, side, chunk) for side in Side for chunk in (0, 1)] == [ROUNDS] * 4
        assert [bench.seen(2, side) for side in Side] == [ROUNDS] * 2
        assert bench.points.describe()[0].through == ("fentry ovl_open [overlay]", "fexit ovl_open [overlay]")


def test_call_is_overridden_by_a_kprobe(bench: Bench, target: Target) -> None:
    need(override_program_refusal())
    with passing(target, ROUNDS) as passer:
        bench.apply(HandPlan(OVERRIDE, 1, passer.pid, (0, 0), verdict=-errno.EXDEV), HandPlan(KPROBE, 2, passer.pid))
        assert passer.come() == (ROUNDS, 0)
        assert [bench.seen(1, Side.ENTER, chunk) for chunk in (0, 1)] == [ROUNDS] * 2
        (override,) = (status for status in bench.points.describe() if status.point == OVERRIDE)
        assert override.through == (f"kprobe {CALL} (override)",)
        assert len(list(bench.links.iterdir())) == 3
    with tempfile.TemporaryFile() as file:
        bench.apply(HandPlan(OVERRIDE, 3, os.getpid(), verdict=-errno.EXDEV))
        with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
            os.lseek(file.fileno(), 0, os.SEEK_CUR)
        bench.apply(HandPlan(OVERRIDE, 4, os.getpid()))
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (HookPoint(PointKind.KPROBE, "pg_no_such"), "kprobe pg_no_such: ENOENT .*no such function"),
        (HookPoint(PointKind.FENTRY, "pg_no_such"), "no function pg_no_such in the BTF of vmlinux"),
        (HookPoint(PointKind.OVERRIDE, "tcp_connect"), r"kprobe tcp_connect \(override\): EINVAL .*(CONFIG_|list)"),
        (HookPoint(PointKind.FMOD_RET, "tcp_connect"), "fmod_ret tcp_connect: .*not modifiable"),
    ],
    ids=lambda value: value.kind.value if isinstance(value, HookPoint) else "",
)
def test_function_that_is_refused_undoes_the_others(
    bench: Bench, target: Target, can: Abilities, point: HookPoint, words: str
) -> None:
    need(can.fentry)
    before = list_programs()
    with passing(target, ROUNDS) as passer:
        with pytest.raises(KernelError, match=words):
            bench.apply(HandPlan(FENTRY, 1, passer.pid), HandPlan(point, 2, passer.pid))
        passer.come()
    assert (bench.seen(1), bench.points.points(), list(bench.links.iterdir())) == (0, (), [])
    wait_until(lambda: bench.points.settle() and not own_arrays(bench), 10, "the arrays to go")
    wait_until(lambda: list_programs() <= before, 10, "the programs to go")


def test_all_stays_in_force_when_its_owner_is_killed(tracefs: Path, target: Target, can: Abilities) -> None:
    need(can.fmod_ret)
    with prepare_pins() as pins, passing(target, ROUNDS) as passer, opening() as opener:
        child = os.fork()
        if not child:
            try:
                bench = Bench(create_maps(pins.maps), tracefs, pins)
                bench.apply(
                    HandPlan(FENTRY, 1, passer.pid, (0, 0), has_return=True),
                    HandPlan(KPROBE, 2, passer.pid, (0, 0), has_return=True),
                    HandPlan(FMOD_RET, 3, opener.pid, (0, 0), verdict=-errno.EXDEV),
                )
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        left = Maps({path.name: bpf.open_pinned(path) for path in pins.maps.iterdir()})
        assert (passer.come(), opener.come()) == ((ROUNDS, 0), {errno.EXDEV})
        assert [read_seen(left, mark, side, 1) for mark in (1, 2) for side in Side] == [ROUNDS] * 4
        left.close()
        pins.release()
        pins.prepare()
        wait_until(lambda: opener.come() == {0}, 10, "the verdict to go with its pins")
        wait_until(lambda: not list_programs(f"t{child}_"), 10, "the programs to go")
