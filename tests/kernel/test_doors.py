# SPDX-License-Identifier: Apache-2.0
"""What becomes of a process that calls execve in the cgroup of a container nobody has announced.

Every treatment but a report is in force for the cgroups of the test alone: this machine has containers of others.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.doors import TICKS_NS, DoorPolicy, Doors, Fallback, Held, NoticeKind, Treatment
from agent.kernel.layout import HELD, HOOK, QUARANTINE, STATE_ARMED, TGID, BindingRecord
from agent.workload.identity import WORKLOAD_QUARANTINED, CgroupId, WorkloadId
from agent.workload.operations import Binding
from rthook.process import read_stat
from tests.support.base_programs import Base, Sizes, attach_base, container_id
from tests.support.names import project_dir
from tests.support.wait import wait_until
from tests.support.workload import Cgroup, Running, build_first, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

STOP_S = 20.0
HELD_MAX = 8
NO_PID = 2**22 + 1  # above PID_MAX_LIMIT of a 64-bit kernel


@dataclass(frozen=True, slots=True)
class First:
    """A program that makes a file with its first instructions."""

    program: Path
    made: Path

    @property
    def has_run(self) -> bool:
        return self.made.exists()

    @property
    def execve(self) -> list[str]:
        return step("execve", str(self.program), 0, 0)


class Stranger:
    """The cgroup of a container that nobody announced."""

    def __init__(self, group: Cgroup) -> None:
        self.group = group
        self.name = f"cri-containerd-{container_id()}.scope"
        self.path = group.child(self.name)

    @property
    def id(self) -> CgroupId:
        return CgroupId(self.path.stat().st_ino)

    def start(self, *parts: list[str]) -> Running:
        """A process in it that waits first; it has called no execve there."""
        running = self.group.start(steps(["wait"], *parts), self.path)
        running.await_waiting()
        return running


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with attach_base(Sizes(held=HELD_MAX)) as attached:
        yield attached


@pytest.fixture
def group(calls_program: Path) -> Iterator[Cgroup]:
    cgroup = Cgroup(calls_program)
    yield cgroup
    cgroup.remove()


@pytest.fixture
def stranger(base: Base, group: Cgroup) -> Stranger:  # noqa: ARG001 - the kernel notes what is made after it
    return Stranger(group)


@pytest.fixture
def first(tmp_path: Path) -> First:
    return First(*build_first(tmp_path))


def is_stopped(pid: int) -> bool:
    stat = read_stat(Path(f"/proc/{pid}"))
    return stat is not None and stat.state == "T"


def await_stopped(pid: int) -> None:
    wait_until(lambda: is_stopped(pid), STOP_S, f"process {pid} to be stopped")


def record_of(base: Base, stranger: Stranger) -> BindingRecord | None:
    return base.bindings.read(stranger.id)


def is_quarantined(base: Base, stranger: Stranger) -> bool:
    """Subject to every policy now, and not only once something is armed."""
    record = record_of(base, stranger)
    if record is None:
        return False
    armed = record.state == STATE_ARMED and not base.bindings.is_pending(stranger.id)
    return (record.owner, record.workload, armed) == (QUARANTINE, WORKLOAD_QUARANTINED, True)


def held_by(doors: Doors, process: Running) -> Held:
    """The entry of a process, which is waited for."""
    await_stopped(process.pid)
    return next(held for held in doors.held() if held.pid == process.pid)


def test_first_execve_is_reported_once(base: Base, stranger: Stranger) -> None:
    before = base.counter("unannounced")
    process = stranger.start(["exec"], ["wait"], ["exec"], ["wait"])
    assert base.notices(stranger.path) == []
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    process.go()
    process.await_waiting()
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    process.go()
    process.await_waiting()
    (notice,) = base.notices(stranger.path)
    assert (notice.kind, notice.treatment) == (NoticeKind.EXEC, Treatment.REPORT)
    assert (notice.pid, notice.parent, notice.level, notice.ns_pid) == (process.pid, os.getpid(), 0, process.pid)
    assert (notice.comm, notice.name, notice.above) == ("calls", stranger.name, stranger.group.id)
    assert began < notice.time_ns < ended
    assert base.counter("unannounced") >= before + 1
    assert base.execs(stranger.path) == 2
    assert record_of(base, stranger) is None
    assert process.end().status == 0


def test_process_of_its_own_pid_namespace_is_told_with_both_its_pids(base: Base, stranger: Stranger) -> None:
    process = stranger.start(["newpid"], ["exec"], ["wait"])
    process.go()
    process.await_waiting()
    (notice,) = base.notices(stranger.path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert [str(notice.pid)] == children
    assert (notice.parent, notice.level, notice.ns_pid) == (process.pid, 1, 1)
    assert process.end().status == 0


def test_fork_without_execve_is_not_reported(base: Base, stranger: Stranger) -> None:
    assert stranger.group.run(steps(["fork"], step("getpid")), stranger.path).status == 0
    assert base.notices(stranger.path) == []


def test_strict_binds_the_container_to_every_policy(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.STRICT, stranger.path):
        process.go()
        assert process.end().status == 0
    assert is_quarantined(base, stranger)
    (notice,) = base.notices(stranger.path)
    assert (notice.pid, notice.treatment) == (process.pid, Treatment.STRICT)
    assert first.has_run


def test_strict_meets_each_container_once(base: Base, stranger: Stranger) -> None:
    process = stranger.start(["exec"], ["exec"], ["exec"])
    with base.treating(Treatment.STRICT, stranger.path):
        process.go()
        assert process.end().status == 0
    assert len(base.notices(stranger.path)) == 1


def test_held_process_has_run_nothing_of_its_new_image(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    counted = base.counter("held")
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        process.go()
        held = held_by(doors, process)
        assert not first.has_run
        assert Path(f"/proc/{process.pid}/exe").resolve() == first.program
        assert (held.cgroup, doors.held()) == (stranger.id, [held])
        assert began < held.since_ns < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        (notice,) = base.notices(stranger.path)
        assert (notice.pid, notice.treatment, notice.comm) == (process.pid, Treatment.HOLD, "first")
        assert notice.time_ns >= held.since_ns
        assert is_quarantined(base, stranger)
        assert base.counter("held") == counted + 1
        assert is_stopped(process.pid)
        assert doors.release(held)
        assert process.end().status == 0
        assert doors.held() == []
    assert first.has_run


@pytest.mark.parametrize("kind", ["newpid", "thread", "last", "fork"])
def test_whoever_calls_execve_is_held(base: Base, stranger: Stranger, first: First, kind: str) -> None:
    """Also the first process of a pid namespace, which ignores most signals, and a thread that is not the first."""
    process = stranger.start([kind], first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        (notice,) = wait_until(partial(base.notices, stranger.path), STOP_S, "a notice")
        await_stopped(notice.pid)
        assert not first.has_run
        (held,) = doors.held()
        assert held.pid == notice.pid
        assert (notice.pid == process.pid) is (kind in ("thread", "last"))
        assert doors.release(held)
        assert process.end().status == 0
    assert first.has_run


def test_held_process_that_another_continues_is_under_every_policy(
    base: Base, stranger: Stranger, first: First
) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        held = held_by(doors, process)
        os.kill(process.pid, signal.SIGCONT)
        assert process.end().status == 0
        assert first.has_run
        assert is_quarantined(base, stranger)
        assert doors.held() == [held]
        assert not doors.release(held), "it has ended"
        assert doors.held() == []


def test_held_process_can_be_ended(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        assert doors.release(held_by(doors, process), signal.SIGKILL)
        assert process.end().killed
        assert doors.held() == []
    assert not first.has_run


def test_every_process_of_the_container_is_held(base: Base, stranger: Stranger, first: First) -> None:
    processes = [stranger.start(first.execve) for _ in range(3)]
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        for process in processes:
            process.go()
            await_stopped(process.pid)
        assert sorted(held.pid for held in doors.held()) == sorted(process.pid for process in processes)
        assert [notice.pid for notice in base.notices(stranger.path)] == [process.pid for process in processes]
        assert not first.has_run
        for held in doors.held():
            assert doors.release(held)
        assert [process.end().status for process in processes] == [0, 0, 0]


def test_container_that_was_identified_is_held_no_more(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(["exec"], first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        held = held_by(doors, process)
        base.bindings.bind(stranger.id, Binding(0, WorkloadId(1), True, process.pid))
        assert doors.release(held)
        assert process.end().status == 0
    assert first.has_run
    assert len(base.notices(stranger.path)) == 1


def test_container_that_nobody_could_identify_is_let_go_for_good(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(["exec"], first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        held = held_by(doors, process)
        doors.forget(stranger.id)
        assert base.bindings.release_quarantined(stranger.id)
        assert doors.release(held)
        assert process.end().status == 0
    assert record_of(base, stranger) is None


@pytest.mark.parametrize("treatment", [Treatment.REPORT, Treatment.STRICT, Treatment.HOLD])
def test_bound_container_is_not_touched(base: Base, stranger: Stranger, first: First, treatment: Treatment) -> None:
    """A start that is pending neither: its own execve arms it before anybody looks."""
    process = stranger.start(["exec"], first.execve)
    base.bindings.bind(stranger.id, Binding(1, WorkloadId(7), False, process.pid))
    with base.treating(treatment, stranger.path):
        process.go()
        assert process.end().status == 0
    assert first.has_run
    record = record_of(base, stranger)
    assert record is not None
    assert (record.owner, record.policies, record.workload) == (stranger.id, 1, 7)
    assert not base.bindings.is_pending(stranger.id)
    assert base.notices(stranger.path) == []


@pytest.mark.parametrize("treatment", [Treatment.STRICT, Treatment.HOLD])
def test_process_that_is_in_no_container_is_not_touched(
    base: Base, stranger: Stranger, first: First, treatment: Treatment
) -> None:
    """Not even next to one."""
    with base.treating(treatment, stranger.path) as doors:
        assert stranger.group.run(steps(["exec"], first.execve)).status == 0
        assert doors.held() == []
    assert first.has_run
    assert base.notices(stranger.group.path) == []
    assert base.bindings.read(CgroupId(stranger.group.id)) is None


def test_nobody_is_held_whom_nobody_would_release(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path, alive=False):
        process.go()
        assert process.end().status == 0
    assert first.has_run
    (notice,) = base.notices(stranger.path)
    assert notice.treatment is Treatment.REPORT
    assert record_of(base, stranger) is None


@pytest.mark.parametrize("fallback", [Fallback.STRICT, Fallback.KILL])
def test_without_a_sign_of_life_all_but_open_binds_to_every_policy(
    base: Base, stranger: Stranger, first: First, fallback: Fallback
) -> None:
    """Nobody is killed for want of an agent: its own container has to start."""
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path, fallback=fallback, alive=False):
        process.go()
        assert process.end().status == 0
    assert first.has_run
    (notice,) = base.notices(stranger.path)
    assert notice.treatment is Treatment.STRICT
    assert is_quarantined(base, stranger)


def test_sign_of_life_lasts_as_long_as_it_says(base: Base, stranger: Stranger, first: First) -> None:
    early, late = stranger.start(first.execve), stranger.start(["exec"])
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        early.go()
        held = held_by(doors, early)
        doors.policy = DoorPolicy(Treatment.HOLD, Fallback.OPEN, stale_s=0.05)
        doors.beat()
        end = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 50_000_000
        wait_until(lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) > end, STOP_S, "the sign of life to be old")
        late.go()
        assert late.end().status == 0
        assert doors.held() == [held], "whoever was held before is"


def test_another_process_with_a_held_ones_pid_is_let_be(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        held = held_by(doors, process)
        for number in (signal.SIGCONT, signal.SIGKILL):
            assert not doors.release(replace(held, start_ns=held.start_ns - TICKS_NS), number)
        assert is_stopped(process.pid)
        assert doors.held() == []
        os.kill(process.pid, signal.SIGCONT)
        assert process.end().status == 0


def fail_line(after: str) -> str:
    """Where bpf/base/doors.c counts a failure of the statement that begins so."""
    lines = (project_dir() / "bpf/base/doors.c").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if after in line)
    return f"bpf/base/doors.c:{next(n for n in range(start, len(lines)) if 'pg_failed' in lines[n]) + 1}"


def test_process_that_cannot_be_held_is_under_every_policy(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    counted = base.counter("held")
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        for number in range(HELD_MAX):
            bpf.update(base.maps.fileno("held"), TGID.pack(NO_PID + number), HELD.pack(0, 0, 0))
        process.go()
        assert process.end().status == 0
        assert process.pid not in [held.pid for held in doors.held()]
    assert is_quarantined(base, stranger)
    assert base.counter("held") == counted
    site = fail_line("pg_update(held, &tgid")
    assert [(where, code) for where, code, _ in base.errors() if where == site] == [(site, 7)]  # E2BIG


def test_hooks_own_execve_is_let_be(base: Base, stranger: Stranger, first: First) -> None:
    """The container is not announced yet, and the hook is about to do it."""
    hook, other = stranger.start(first.execve), stranger.start(["exec"])
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        assert doors.exempt_hook(first.program)
        hook.go()
        assert hook.end().status == 0
        assert first.has_run
        assert (doors.held(), base.notices(stranger.path), base.execs(stranger.path)) == ([], [], 0)
        assert record_of(base, stranger) is None
        other.go()
        held_by(doors, other)
        assert not doors.exempt_hook(first.made.with_name("no-such-file"))


def test_hook_that_is_not_there_any_more_exempts_nothing(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        assert doors.exempt_hook(first.program)
        assert not doors.exempt_hook(first.made)
        process.go()
        held_by(doors, process)
        assert not first.has_run


def test_file_of_another_file_system_is_not_the_hook(base: Base, stranger: Stranger, first: First) -> None:
    process = stranger.start(first.execve)
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        hook = base.maps.fileno("hook")
        assert doors.exempt_hook(first.program)
        inode, device, _ = HOOK.unpack(bpf.lookup(hook, bytes(4), HOOK.size) or b"")
        bpf.update(hook, bytes(4), HOOK.pack(inode, device + 1, 0))
        process.go()
        held_by(doors, process)
        assert not doors.exempt_hook(first.made)


NEW_MOUNTS = step("unshare", 0x20000)  # CLONE_NEWNS


def set_apart(doors: Doors) -> None:
    """Containers have mount namespaces of their own."""
    doors.policy = replace(doors.policy, apart=True)
    doors.beat()


def test_execve_with_the_parents_mounts_is_the_setups(base: Base, stranger: Stranger, first: First) -> None:
    """Until the first one of the container, whose parent is outside of it."""
    process, another = stranger.start(["exec"], ["wait"], NEW_MOUNTS, first.execve), stranger.start(["exec"])
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        set_apart(doors)
        process.go()
        process.await_waiting()
        assert (base.notices(stranger.path), base.execs(stranger.path), doors.held()) == ([], 0, [])
        assert record_of(base, stranger) is None
        process.go()
        held = held_by(doors, process)
        assert not first.has_run
        assert [notice.pid for notice in base.notices(stranger.path)] == [process.pid]
        another.go()
        assert doors.release(held_by(doors, another)), "the container's by now"
        assert doors.release(held)
        assert (process.end().status, another.end().status) == (0, 0)


def test_setup_of_a_container_that_runs_already_is_over(base: Base, stranger: Stranger) -> None:
    """One that was found, whose cgroup nobody saw being made."""
    process = stranger.start(["exec"])
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        set_apart(doors)
        doors.watch(stranger.id)
        process.go()
        assert doors.release(held_by(doors, process))
        assert process.end().status == 0


def test_setup_is_not_told_by_its_mounts_where_containers_share_the_hosts(base: Base, stranger: Stranger) -> None:
    process = stranger.start(["exec"])
    with base.treating(Treatment.HOLD, stranger.path) as doors:
        process.go()
        assert doors.release(held_by(doors, process))
        assert process.end().status == 0
