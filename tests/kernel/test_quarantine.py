# SPDX-License-Identifier: Apache-2.0
"""A container that a hook binds to every policy, by the program that the agent has pinned, because the agent does not
say whose it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.layout import BINDING, CGROUP_KEY, QUARANTINE, BindingRecord
from agent.workload.identity import WORKLOAD_QUARANTINED, CgroupId, WorkloadId
from agent.workload.operations import Binding
from rthook import bpf
from rthook.quarantine import ARGUMENTS, NO_INIT, put_in_quarantine
from tests.support.agent import EventReader
from tests.support.base_programs import Base, Sizes, attach_base
from tests.support.names import project_dir
from tests.support.wait import wait_until
from tests.support.workload import (
    HELD,
    POST,
    RUNNING,
    Cgroup,
    Identity,
    Node,
    Running,
    kprobe,
    lseek_policy,
    match,
    policy,
    selector,
    start_node,
    step,
    steps,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

RELEASE_S = 60.0  # as in test_bindings.py
FIRST, SECOND, THIRD = (step("lseek", -number, 0, 0) for number in (1, 2, 3))
DEFAULT = Identity("default")


@pytest.fixture(scope="module")
def forbidden(calls_program: Path) -> Path:
    """A copy of the test's program that no container of the namespace exec-forbidden may execute."""
    return Path(shutil.copy(calls_program, calls_program.with_name("forbidden")))


@pytest.fixture(scope="module")
def quarantining(calls_program: Path, forbidden: Path) -> Iterator[Node]:
    """lseek(-1) is killed in default, lseek(-2) in other, and lseek(-3) nowhere."""
    with start_node(calls_program, "--cri-socket", "none") as node:
        own = selector(match(0, "Equal", str(forbidden)))
        node.add(
            lseek_policy("one", namespace="default"),
            lseek_policy("two", match(0, "Equal", -2), namespace="other"),
            policy("exec", kprobe("execve", {0: "string"}, own), namespace="exec-forbidden"),
        )
        yield node


@pytest.fixture
def group(quarantining: Node) -> Iterator[Cgroup]:
    with quarantining.cgroup() as cgroup:
        yield cgroup
        quarantining.hook.unbind(cgroup.path.name)


def quarantine(node: Node, group: Cgroup, init_pid: int = NO_INIT) -> None:
    assert put_in_quarantine(node.agent.pin_dir, group.id, init_pid) == 1


def killed(group: Cgroup, at: Path | None = None) -> tuple[bool, bool, bool]:
    """Which of the three calls are killed in a cgroup."""
    first, second, third = (group.run(words, at).killed for words in (FIRST, SECOND, THIRD))
    return first, second, third


def read_map(node: Node, name: str, cgroup: int, size: int) -> bytes | None:
    fd = bpf.open_object(node.agent.pin_dir / "maps" / name)
    try:
        return bpf.lookup(fd, CGROUP_KEY.pack(cgroup), size)
    finally:
        os.close(fd)


def read_record(node: Node, cgroup: int) -> BindingRecord | None:
    data = read_map(node, "bindings", cgroup, BINDING.size)
    return BindingRecord.unpack(data) if data else None


def is_waited_for(node: Node, cgroup: int) -> bool:
    """Whether some process's execve would arm the container."""
    return read_map(node, "arming", cgroup, 4) is not None


def test_quarantined_container_is_subject_to_every_namespaces_policies(quarantining: Node, group: Cgroup) -> None:
    assert killed(group) == (False, False, False)
    quarantine(quarantining, group)
    assert killed(group) == (True, True, False)


def test_asking_for_the_status_changes_nothing(quarantining: Node, group: Cgroup) -> None:
    quarantine(quarantining, group)
    assert quarantining.agent.control.status().quarantined >= 1  # earlier cgroups go late
    assert killed(group)[0]


def test_cgroups_below_a_quarantined_one_are_too(quarantining: Node, group: Cgroup) -> None:
    quarantine(quarantining, group)
    assert killed(group, group.child("below")) == (True, True, False)
    assert killed(group, group.child("below", "deeper", "deepest")) == (True, True, False)


def test_quarantine_of_a_quarantined_container_changes_nothing(quarantining: Node, group: Cgroup) -> None:
    quarantine(quarantining, group)
    quarantine(quarantining, group, os.getpid())
    assert not is_waited_for(quarantining, group.id)
    assert killed(group) == (True, True, False)


def held(node: Node, group: Cgroup, *parts: list[str]) -> Running:
    """A process in quarantine whose setup goes on until its execve."""
    process = group.start(steps(["wait"], *parts))
    process.await_waiting()
    quarantine(node, group, process.pid)
    return process


def test_held_process_sets_up_until_its_execve(quarantining: Node, group: Cgroup) -> None:
    process = held(quarantining, group, FIRST, SECOND, ["wait"], ["exec"], ["wait"], SECOND)
    process.go()
    assert process.await_waiting() == (-9, -9)
    assert killed(group) == (False, False, False), "what else sets the container up"
    process.go()
    process.await_waiting()
    assert killed(group) == (True, True, False)
    process.go()
    assert process.end().killed


def test_held_process_is_not_armed_by_anothers_execve(quarantining: Node, group: Cgroup) -> None:
    process = held(quarantining, group, FIRST)
    assert group.run(steps(["exec"], FIRST)).results == (-9,)
    process.go()
    assert process.end().results == (-9,)


def test_execve_of_a_held_process_is_checked(quarantining: Node, group: Cgroup, forbidden: Path) -> None:
    process = held(quarantining, group, step("execve", str(forbidden), 0, 0))
    process.go()
    ended = process.end()
    assert (ended.killed, ended.results) == (True, ())


@pytest.mark.parametrize("phase", [HELD, RUNNING])
def test_cgroups_below_a_held_one_that_becomes_known_are_its_own(quarantining: Node, group: Cgroup, phase: int) -> None:
    process = held(quarantining, group, ["exec"], ["wait"])
    below = group.child("below", "deeper")
    quarantining.announce(process.pid, DEFAULT, phase, id=group.path.name)
    process.go()
    process.await_waiting()
    assert killed(group, below) == (True, False, False)


def test_known_container_is_subject_to_its_own_policies_only(quarantining: Node, group: Cgroup) -> None:
    """So are the cgroups that were made below it meanwhile."""
    quarantine(quarantining, group)
    init = group.start(["wait"])
    init.await_waiting()
    below, deepest = group.child("below"), group.child("below", "deeper", "deepest")
    answer = quarantining.announce(init.pid, DEFAULT, RUNNING, id=group.path.name)
    assert (answer.cgroup_id, answer.policies) == (group.id, 1)
    for at in (group.path, below, deepest, group.child("after")):
        assert killed(group, at) == (True, False, False)
    assert quarantining.hook.unbind(group.path.name).was_bound
    for at in (group.path, below, deepest, group.path / "after"):
        assert killed(group, at) == (False, False, False)


@pytest.mark.parametrize("phase", [HELD, RUNNING])
def test_held_process_that_becomes_known_sets_up_until_its_execve(
    quarantining: Node, group: Cgroup, phase: int
) -> None:
    """Whatever is said of it: that it runs is said by who let it go a moment ago."""
    process = held(quarantining, group, FIRST, SECOND, ["exec"], ["wait"], SECOND, FIRST)
    quarantining.announce(process.pid, DEFAULT, phase, id=group.path.name)
    assert killed(group) == (False, False, False)
    process.go()
    assert process.await_waiting() == (-9, -9)
    process.go()
    ended = process.end()
    assert (ended.killed, ended.results) == (True, (-9,))
    assert killed(group) == (True, False, False)


@pytest.mark.parametrize("phase", [HELD, RUNNING])
def test_process_that_has_called_execve_in_quarantine_stays_armed(
    quarantining: Node, group: Cgroup, phase: int
) -> None:
    process = held(quarantining, group, ["exec"], ["wait"], SECOND, FIRST)
    process.go()
    process.await_waiting()
    quarantining.announce(process.pid, DEFAULT, phase, id=group.path.name)
    assert killed(group) == (True, False, False)
    process.go()
    ended = process.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def test_policy_that_is_added_counts_at_once(quarantining: Node, group: Cgroup) -> None:
    quarantine(quarantining, group)
    below = group.child("below")
    quarantining.add(lseek_policy("three", match(0, "Equal", -3), namespace="nobodys"))
    assert killed(group) == killed(group, below) == (True, True, True)
    quarantining.agent.control.delete("three", "nobodys")
    assert killed(group) == killed(group, below) == (True, True, False)


def test_bound_container_is_not_changed(quarantining: Node, group: Cgroup) -> None:
    init = group.start(["wait"])
    init.await_waiting()
    quarantining.announce(init.pid, DEFAULT, id=group.path.name)
    before = read_record(quarantining, group.id)
    quarantine(quarantining, group)
    quarantine(quarantining, group, init.pid)
    assert read_record(quarantining, group.id) == before
    assert not is_waited_for(quarantining, group.id)
    assert killed(group) == (True, False, False)


def test_events_of_a_quarantined_container_name_no_pod(quarantining: Node, group: Cgroup) -> None:
    quarantine(quarantining, group)
    quarantining.add(lseek_policy("told", match(0, "Equal", -7), actions=POST, namespace="other"))
    try:
        with EventReader(quarantining.agent.run_dir) as heard:
            pid = group.call("lseek", -7, 0, 0).pid
            event = heard.find(lambda line: line.get("process", {}).get("pid") == pid)
    finally:
        quarantining.agent.control.delete("told", "other")
    assert event["policy"]["name"] == "told"
    where = {key: event.get(key) for key in ("pod", "container", "quarantined", "cgroup", "unresolved")}
    assert where == {"pod": None, "container": None, "quarantined": True, "cgroup": group.id, "unresolved": None}


OWN = """
import sys
from pathlib import Path
from rthook.quarantine import put_in_quarantine
put_in_quarantine(Path(sys.argv[1]), 0, 0)
"""


def test_hook_in_the_container_quarantines_its_own_cgroup_and_waits_for_its_parent(
    quarantining: Node, group: Cgroup
) -> None:
    script = 'echo 0 >"$1/cgroup.procs" && "$2" -c "$3" "$4"; exit $?'
    words = ["sh", "-c", script, "sh", str(group.path), sys.executable, OWN, str(quarantining.agent.pin_dir)]
    with subprocess.Popen(words, cwd=project_dir()) as shell:
        assert shell.wait(60) == 0
    record = read_record(quarantining, group.id)
    assert record is not None
    assert (record.owner, record.workload, record.init_pid) == (QUARANTINE, WORKLOAD_QUARANTINED, shell.pid)
    assert killed(group) == (False, False, False), "its parent has not called execve"


def test_removed_cgroups_leave_no_record(quarantining: Node) -> None:
    with quarantining.cgroup() as group:
        quarantine(quarantining, group, os.getpid())
        ids = [group.id, group.child("below").stat().st_ino]
        assert [read_record(quarantining, cgroup) is not None for cgroup in ids] == [True, True]
    wait_until(lambda: not any(read_record(quarantining, one) for one in ids), RELEASE_S, "the records to go")


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with attach_base() as attached:
        yield attached


@pytest.fixture
def own_group(base: Base, calls_program: Path) -> Iterator[Cgroup]:  # noqa: ARG001 - it sees the cgroup made
    cgroup = Cgroup(calls_program)
    yield cgroup
    cgroup.remove()


def test_agent_lists_and_ends_a_quarantine(base: Base, own_group: Cgroup) -> None:
    cgroup = CgroupId(own_group.id)
    assert base.bindings.put_in_quarantine(cgroup)
    assert not base.bindings.put_in_quarantine(cgroup), "it is already"
    below = CgroupId(own_group.child("below").stat().st_ino)
    assert sorted(base.bindings.quarantined()) == sorted([cgroup, below])
    assert base.bindings.release_quarantined(cgroup)
    assert not base.bindings.release_quarantined(cgroup)
    assert base.bindings.read(cgroup) is None


def nested_of(base: Base, owner: int) -> int:
    """How many records of nested cgroups are counted as a container's, or as all quarantined ones'."""
    count = bpf.lookup(base.maps.fileno("nested"), CGROUP_KEY.pack(owner), 8)
    return int.from_bytes(count or b"", "little")


def test_nested_cgroups_of_a_known_container_leave_the_quarantines_room(base: Base, own_group: Cgroup) -> None:
    before, cgroup = nested_of(base, QUARANTINE), CgroupId(own_group.id)
    assert base.bindings.put_in_quarantine(cgroup)
    for number in range(5):
        own_group.child(f"n{number}", "deeper")
    assert nested_of(base, QUARANTINE) == before + 10
    base.bindings.bind(cgroup, Binding(0, WorkloadId(1), True, 0))
    assert base.bindings.inherit(cgroup, 1, own_group.path) == 10
    assert (nested_of(base, QUARANTINE), nested_of(base, cgroup)) == (before, 10)


def test_quarantine_that_finds_no_room_says_so_and_leaves_nothing(group: Cgroup) -> None:
    with attach_base(Sizes(bindings=4)) as base:
        cgroups = [CgroupId(group.child(f"c{number}").stat().st_ino) for number in range(8)]
        fd = bpf.open_object(base.pins.directory / "quarantine")
        try:
            results = [bpf.run_program(fd, ARGUMENTS.pack(cgroup, os.getpid())) for cgroup in cgroups]
        finally:
            os.close(fd)
        assert results == [0] * 4 + [-7] * 4  # E2BIG
        assert [base.bindings.read(cgroup) is not None for cgroup in cgroups] == [True] * 4 + [False] * 4
        assert [base.bindings.is_pending(cgroup) for cgroup in cgroups] == [True] * 4 + [False] * 4
        assert [(site.split(":")[0], code, count) for site, code, count in base.errors()] == [
            ("bpf/base/doors.c", 7, 4)
        ]
