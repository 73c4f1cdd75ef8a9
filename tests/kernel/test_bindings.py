# SPDX-License-Identifier: Apache-2.0
"""Who is bound: nested cgroups, the moment of arming, and announcements that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.mounts import cgroup2_root
from rthook.errors import AgentRefused
from tests.support.wait import wait_until
from tests.support.workload import (
    HELD,
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

VIOLATION = step("lseek", -1, 0, 0)
# The kernel releases cgroups one after the other, each after a grace period, and a busy machine takes its time for it.
RELEASE_S = 60.0
OTHER = Identity("other")
DEFAULT = Identity("default")
EXEC_FORBIDDEN = Identity("exec-forbidden")


@pytest.fixture(scope="module")
def bound(calls_program: Path) -> Iterator[Node]:
    """Policies that kill lseek(-1) in default and the execve of the test's own program in exec-forbidden."""
    own = selector(match(0, "Equal", str(calls_program)))
    with start_node(calls_program) as node:
        node.add(
            lseek_policy("p", namespace="default"),
            policy("e", kprobe("execve", {0: "string"}, own), namespace="exec-forbidden"),
        )
        yield node


def violates(group: Cgroup, at: Path | None = None) -> bool:
    """Whether a process that violates the policy there is killed."""
    return group.run(VIOLATION, at).killed


def test_nested_cgroups_are_covered_at_any_depth(bound: Node) -> None:
    with bound.cgroup() as group:
        before = group.child("before", "deeper", "deepest")
        with_init(bound, group)
        after = group.child("after", "1", "2", "3", "4", "5", "6", "7", "8")
        beside = group.child("before", "deeper", "new")
        assert [violates(group, at) for at in (before, after, beside)] == [True, True, True]
        bound.hook.unbind(group.path.name)


def with_init(node: Node, group: Cgroup, identity: Identity = DEFAULT) -> Running:
    """Announces a waiting process of the group as a container that runs."""
    init = group.start(["wait"])
    init.await_waiting()
    node.announce(init.pid, identity, id=group.path.name)
    return init


def test_process_that_moves_into_a_nested_cgroup_stays_covered(bound: Node) -> None:
    with bound.container() as group:
        child = group.child("child")
        words = steps(["enter", str(child)], VIOLATION)
        assert group.run(words).killed


def test_fork_without_execve_is_covered(bound: Node) -> None:
    with bound.container() as group:
        assert group.run(steps(["fork"], VIOLATION)).status == 128 + 9
        assert group.run(steps(["fork"], ["fork"], step("lseek", -2, 0, 0))).status == 0


def test_thread_is_covered(bound: Node) -> None:
    with bound.container() as group:
        assert group.run(steps(["thread"], VIOLATION)).killed


def test_removed_cgroups_leave_no_record(bound: Node) -> None:
    wait_until(lambda: bound.agent.control.status().bindings == 0, RELEASE_S, "the records of earlier tests to go")
    with bound.container() as group:
        group.child("a", "b")
        assert bound.agent.control.status().bindings == 3
        (group.path / "a/b").rmdir()
        wait_until(lambda: bound.agent.control.status().bindings == 2, RELEASE_S, "the nested record to go")
    wait_until(lambda: bound.agent.control.status().bindings == 0, RELEASE_S, "all records to go")


def test_container_whose_cgroup_went_is_forgotten(bound: Node) -> None:
    with bound.cgroup() as group:
        with_init(bound, group).end()
    wait_until(lambda: bound.agent.control.status().containers == 0, 10, "the container to be forgotten")
    assert any(line["event"] == "cgroup_removed" for line in bound.agent.background.lines())


def test_unbound_container_is_covered_no_more(bound: Node) -> None:
    with bound.container() as group:
        child = group.child("child")
        assert violates(group, child)
        assert bound.hook.unbind(group.path.name).was_bound
        assert not violates(group)
        assert not violates(group, child)
        assert not bound.hook.unbind(group.path.name).was_bound


def test_policy_added_later_covers_nested_cgroups(bound: Node) -> None:
    with bound.container("later") as group:
        child = group.child("x", "y")
        assert not violates(group, child)
        bound.add(lseek_policy("later", namespace="later"))
        assert violates(group, child)


def held(node: Node, group: Cgroup, words: list[str], identity: Identity = DEFAULT) -> Running:
    """A process that is announced while it is held at its first `wait`."""
    init = group.start(steps(["wait"], words))
    init.await_waiting()
    node.announce(init.pid, identity, HELD, id=group.path.name)
    return init


def test_held_process_is_free_until_its_execve(bound: Node) -> None:
    armed = bound.counter("armed")
    with bound.cgroup() as group:
        init = held(bound, group, steps(VIOLATION, ["exec"], ["wait"], VIOLATION))
        init.go()
        assert init.await_waiting() == (-9,)
        assert bound.counter("armed") == armed + 1
        init.go()
        ended = init.end()
    assert (ended.killed, ended.results) == (True, ())


def test_execve_of_another_process_does_not_arm(bound: Node) -> None:
    with bound.cgroup() as group:
        init = held(bound, group, steps(VIOLATION, ["wait"], ["exec"], VIOLATION))
        setup = group.run(steps(["exec"], VIOLATION))
        assert (setup.status, setup.results) == (0, (-9,))
        init.go()
        assert init.await_waiting() == (-9,)
        init.go()
        assert init.end().killed
        assert violates(group)


def test_held_process_that_forks_is_armed_by_its_own_execve(bound: Node) -> None:
    with bound.cgroup() as group:
        init = held(bound, group, steps(["fork"], ["exec"], VIOLATION))
        init.go()
        ended = init.end()
    assert (ended.status, ended.results) == (0, (-9,))


def test_execve_of_the_entrypoint_is_checked(bound: Node) -> None:
    with bound.cgroup() as group:
        init = held(bound, group, steps(["exec"], VIOLATION), EXEC_FORBIDDEN)
        init.go()
        ended = init.end()
        assert (ended.killed, ended.results) == (True, ())


def test_execve_by_the_runtime_beside_the_held_process_is_not_checked(bound: Node) -> None:
    with bound.cgroup() as group:
        init = held(bound, group, [], EXEC_FORBIDDEN)
        assert group.run(steps(["exec"], VIOLATION)).results == (-9,)
        init.end()


@pytest.mark.parametrize("again", [HELD, RUNNING])
def test_second_announcement_does_not_disarm(bound: Node, again: Any) -> None:
    with bound.cgroup() as group:
        init = held(bound, group, steps(["exec"], ["wait"], VIOLATION))
        init.go()
        init.await_waiting()
        bound.announce(init.pid, DEFAULT, again, id=group.path.name)
        init.go()
        assert init.end().killed


@pytest.mark.parametrize("again", [HELD, RUNNING])
def test_second_announcement_of_a_held_process_keeps_it_pending(bound: Node, again: Any) -> None:
    """Who says that it runs has let it go a moment ago, and its execve is still to come."""
    with bound.cgroup() as group:
        init = held(bound, group, steps(VIOLATION, ["exec"], VIOLATION))
        bound.announce(init.pid, DEFAULT, again, id=group.path.name)
        init.go()
        ended = init.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def test_policy_added_while_a_process_is_held_waits_for_its_execve(bound: Node) -> None:
    with bound.cgroup() as group:
        init = held(bound, group, steps(VIOLATION, ["exec"], VIOLATION), Identity("held-later"))
        bound.add(lseek_policy("held-later", namespace="held-later"))
        init.go()
        ended = init.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def test_process_that_never_calls_execve_is_armed_at_the_deadline(calls_program: Path) -> None:
    with start_node(calls_program, "--arming-deadline", "0.3") as node, node.cgroup() as group:
        node.add(lseek_policy("p", namespace="default"))
        init = held(node, group, VIOLATION)
        node.agent.background.await_event("armed_late", 20)
        init.go()
        assert init.end().killed
        assert node.agent.control.status().outcomes["armed_late"] == 1


def test_full_map_refuses_containers_and_keeps_nested_cgroups_covered(calls_program: Path) -> None:
    with start_node(calls_program, "--max-bindings", "64") as node, ExitStack() as stack:
        node.add(lseek_policy("p", namespace="default"))
        group = stack.enter_context(node.container())
        children = [group.child(f"n{number}") for number in range(80)]
        assert node.agent.control.status().bindings == 64
        assert node.counter("inherit_failed") == 17
        assert all(
            violates(group, child) for child in (children[0], children[-1], group.child("n79", "deep", "deeper"))
        )
        with pytest.raises(AgentRefused, match="E2BIG"):
            stack.enter_context(node.container(pod="second"))
        status = node.agent.control.status()
        assert (status.containers, status.outcomes["kernel"]) == (1, 1)
        assert [failure.site.split(":")[0] for failure in status.failed_helpers] == ["bpf/base/base.c"]
        for child in children[:40]:
            child.rmdir()
        wait_until(lambda: node.agent.control.status().bindings == 24, RELEASE_S, "room in the map")
        with node.container(pod="third") as third:
            assert violates(third)


def dead(group: Cgroup) -> Running:
    process = group.start(["wait"])
    process.await_waiting()
    process.end()
    return process


def zombie(group: Cgroup) -> Running:
    process = group.start(["wait"])
    process.await_waiting()
    process.kill()
    return process


def alive(group: Cgroup) -> Running:
    process = group.start(["wait"])
    process.await_waiting()
    return process


def in_root(group: Cgroup) -> Running:
    process = group.start(["wait"], cgroup2_root())
    process.await_waiting()
    return process


@pytest.mark.parametrize(
    ("process", "fields", "reason", "text"),
    [
        (dead, {}, "no_cgroup", "is gone"),
        (zombie, {}, "no_cgroup", "has exited"),
        (in_root, {}, "no_cgroup", "root cgroup"),
        (alive, {"pid": 0}, "no_cgroup", "no init process"),
        (alive, {"cgroups_path": "/pods/another-container"}, "no_cgroup", "not in the container's"),
        (alive, {"pod_namespace": ""}, "unidentified", "no pod"),
        (alive, {"pod_name": ""}, "unidentified", "no pod"),
        (alive, {"id": ""}, "unidentified", "no container id"),
        (alive, {"id": "x" * 300}, "invalid", "longer than"),
        (alive, {"pod_name": "x" * 254}, "invalid", "longer than"),
        (alive, {"pod_labels": {f"key{n}": "v" * 60 for n in range(5000)}}, "invalid", "labels are larger"),
        (alive, {"phase": 0}, "invalid", "unknown phase"),
        (alive, {"phase": 77}, "invalid", "unknown phase 77"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:40],
)
def test_announcement_is_refused_with_a_reason(
    bound: Node, process: Callable[[Cgroup], Running], fields: dict[str, Any], reason: str, text: str
) -> None:
    before = bound.agent.control.status()
    with bound.cgroup() as group:
        init = process(group)
        with pytest.raises(AgentRefused, match=text):
            bound.announce(init.pid, DEFAULT, **fields)
        if process is not dead:
            init.end()
    after = bound.agent.control.status()
    assert after.outcomes[reason] == before.outcomes[reason] + 1
    assert (after.containers, after.bindings) == (before.containers, before.bindings)
    refusals = [line for line in bound.agent.background.lines() if line["event"] == "refused"]
    assert refusals[-1]["reason"] == reason


def test_pod_in_two_namespaces_is_a_conflict(bound: Node) -> None:
    with bound.cgroup() as first, bound.cgroup() as second:
        one, two = alive(first), alive(second)
        bound.announce(one.pid, DEFAULT, id=first.path.name, pod_uid="u-1")
        with pytest.raises(AgentRefused, match="u-1 is known in namespace 'default'"):
            bound.announce(two.pid, OTHER, pod_uid="u-1")
        assert violates(first)
        assert not violates(second)
        bound.hook.unbind(first.path.name)
        one.end()
        two.end()


def test_cgroups_path_of_the_container_is_accepted(bound: Node) -> None:
    with bound.cgroup() as group:
        init = alive(group)
        answer = bound.announce(init.pid, DEFAULT, id="x1", cgroups_path=f"/kubepods/{group.path.name}")
        assert (answer.cgroup_id, answer.policies) == (group.id, 1)
        bound.hook.unbind("x1")
        init.end()


def test_held_process_below_the_containers_cgroup_binds_the_container(bound: Node) -> None:
    """crun puts the init process into a cgroup `container` of the container's: both are the container."""
    with bound.cgroup() as group:
        below = group.child("container")
        init = group.start(steps(["wait"], VIOLATION, ["exec"], ["wait"], VIOLATION), below)
        init.await_waiting()
        path = f"/kubepods/{group.path.name}"
        assert bound.announce(init.pid, DEFAULT, HELD, id="x2", cgroups_path=path).cgroup_id == group.id
        init.go()
        assert init.await_waiting() == (-9,)
        assert violates(group)
        assert violates(group, below)
        init.go()
        assert init.end().killed
        bound.hook.unbind("x2")
