# SPDX-License-Identifier: Apache-2.0
"""A process of the host in a container's cgroup: the runtime's helper of an exec until it calls execve there, and the
container's from then on. Who comes from the container itself is never taken for one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel import bpf as kernel
from agent.kernel import layout
from rthook import bpf
from rthook.process import read_stat
from tests.support.wait import wait_until
from tests.support.workload import (
    Cgroup,
    Identity,
    Node,
    kprobe,
    lseek_policy,
    match,
    outside,
    policy,
    selector,
    start_node,
    step,
    steps,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

VIOLATION = step("lseek", -1, 0, 0)
SOON_S = 20.0
KILLED = 128 + 9  # of a parent whose child was
MOVES = 10
MAX_BINDINGS = 64  # the least that the agent takes


@pytest.fixture(scope="module")
def entered(calls_program: Path) -> Iterator[Node]:
    """Policies that kill lseek(-1) in default and the execve of the test's own program in exec-forbidden."""
    own = selector(match(0, "Equal", str(calls_program)))
    with start_node(calls_program, "--cri-socket", "none") as node:
        node.add(
            lseek_policy("p", namespace="default"),
            policy("e", kprobe("execve", {0: "string"}, own), namespace="exec-forbidden"),
        )
        yield node


@pytest.fixture
def container(entered: Node) -> Iterator[Cgroup]:
    with entered.container() as group:
        yield group


@pytest.fixture
def forbidding(entered: Node) -> Iterator[Cgroup]:
    with entered.container("exec-forbidden") as group:
        yield group


def entries(node: Node) -> tuple[int, dict[int, tuple[int, int]]]:
    """How many entries the kernel's side counts, and which there are: process to (cgroup, until)."""
    fds = [bpf.open_object(node.agent.pin_dir / "maps" / name) for name in ("entered", "entering")]
    found = {}
    try:
        count = bpf.lookup(fds[0], bytes(4), 4) or b""
        for key in bpf.read_keys(fds[1], bpf.read_shape(fds[1])):
            value = bpf.lookup(fds[1], key, layout.ENTERING.size)
            if value:
                found[int.from_bytes(key, "little")] = layout.ENTERING.unpack(value)
    finally:
        for fd in fds:
            os.close(fd)
    return int.from_bytes(count, "little"), found


def helpers(node: Node) -> tuple[int, list[int]]:
    """How many helpers the kernel's side counts in a container's cgroup, and which they are."""
    count, found = entries(node)
    pids = [pid for pid, (_, until) in found.items() if not until]
    return count - len(found) + len(pids), pids


@pytest.fixture(autouse=True)
def nobody_stays(entered: Node) -> Iterator[None]:
    """Whoever has called execve or ended is no helper any more."""
    yield
    wait_until(lambda: entries(entered) == (0, {}), SOON_S, "all helpers to be forgotten")


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(wait_until(lambda: children.read_text().split(), SOON_S, "a child")[0])


def test_helper_is_free_until_its_execve(entered: Node, container: Cgroup) -> None:
    with outside(entered.program, steps(VIOLATION, ["wait"], ["exec"], ["wait"], VIOLATION)) as process:
        container.put(process.pid)
        process.go()
        assert process.await_waiting() == (-9,)
        assert helpers(entered) == (1, [process.pid])
        process.go()
        process.await_waiting()
        assert helpers(entered) == (0, [])
        process.go()
        assert process.end().killed


def test_helpers_execve_is_the_containers(entered: Node, forbidding: Cgroup) -> None:
    with outside(entered.program, steps(VIOLATION, ["exec"], VIOLATION)) as process:
        forbidding.put(process.pid)
        process.go()
        ended = process.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def test_execve_before_it_is_moved_is_the_hosts(entered: Node, forbidding: Cgroup) -> None:
    with outside(entered.program, steps(["exec"], ["wait"])) as process:
        process.go()
        process.await_waiting()
        forbidding.put(process.pid)
        assert helpers(entered) == (1, [process.pid])
        assert process.end().status == 0


def test_execve_that_fails_leaves_it_a_helper(entered: Node, container: Cgroup) -> None:
    with outside(entered.program, steps(step("execve", "/no/such/file", 0, 0), VIOLATION, ["exec"], VIOLATION)) as one:
        container.put(one.pid)
        one.go()
        ended = one.end()
    assert (ended.killed, ended.results) == (True, (-2, -9))


@pytest.mark.parametrize("fork", [["fork"], ["fork", "--", "fork"], ["newpid"]], ids="-".join)
def test_helpers_children_are_helpers(entered: Node, container: Cgroup, fork: list[str]) -> None:
    with outside(entered.program, steps(fork, VIOLATION, ["exec"], VIOLATION)) as process:
        container.put(process.pid)
        process.go()
        ended = process.end()
    assert (ended.status, ended.results) == (KILLED, (-9,))


def test_execve_of_a_helpers_child_is_the_containers(entered: Node, forbidding: Cgroup) -> None:
    with outside(entered.program, steps(["fork"], ["exec"])) as process:
        forbidding.put(process.pid)
        process.go()
        assert process.end().status == KILLED


def test_helpers_child_that_outlives_its_execve_is_the_containers(entered: Node, container: Cgroup) -> None:
    """What it forks after the execve too."""
    with outside(entered.program, steps(["exec"], ["fork"], VIOLATION)) as process:
        container.put(process.pid)
        process.go()
        ended = process.end()
    assert (ended.status, ended.results) == (KILLED, ())


@pytest.mark.parametrize("thread", ["thread", "last"])
def test_threads_of_a_helper_are_of_no_account(entered: Node, container: Cgroup, thread: str) -> None:
    """Nor whether its first thread has ended."""
    with outside(entered.program, steps([thread], ["wait"], VIOLATION, ["exec"], VIOLATION)) as process:
        process.go()
        process.await_waiting()
        if thread == "last":
            wait_until(lambda: is_zombie(process.pid), SOON_S, "the first thread to end")
        container.put(process.pid)
        assert helpers(entered) == (1, [process.pid])
        process.go()
        ended = process.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def test_thread_that_ends_leaves_its_process_a_helper(entered: Node, container: Cgroup) -> None:
    with outside(entered.program, steps(["last"], ["wait"], VIOLATION, ["exec"], VIOLATION)) as process:
        container.put(process.pid)
        process.go()
        process.await_waiting()
        wait_until(lambda: is_zombie(process.pid), SOON_S, "the first thread to end")
        assert helpers(entered) == (1, [process.pid])
        process.go()
        ended = process.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def is_zombie(pid: int) -> bool:
    stat = read_stat(Path(f"/proc/{pid}"))
    return stat is not None and stat.state == "Z"


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_helper_that_ends_leaves_nothing_to_its_pid(entered: Node, container: Cgroup, end: str) -> None:
    with outside(entered.program, steps(["thread"], VIOLATION, ["wait"])) as process:
        container.put(process.pid)
        process.go()
        process.await_waiting()
        assert helpers(entered) == (1, [process.pid])
        if end == "kill":
            process.kill()
        process.end()
        assert helpers(entered) == (0, [])


def test_several_helpers_are_counted_one_by_one(entered: Node, container: Cgroup) -> None:
    with outside(entered.program, []) as one, outside(entered.program, []) as two:
        for process in (one, two, one):
            container.put(process.pid)
            container.put(process.pid, container.child("below"))
        count, pids = helpers(entered)
        assert (count, sorted(pids)) == (2, sorted([one.pid, two.pid]))
        one.end()
        assert helpers(entered) == (1, [two.pid])


def test_helper_in_a_nested_cgroup_is_free_until_its_execve(entered: Node, container: Cgroup) -> None:
    with outside(entered.program, steps(VIOLATION, ["exec"], VIOLATION)) as process:
        container.put(process.pid, container.child("below", "deeper"))
        process.go()
        ended = process.end()
    assert (ended.killed, ended.results) == (True, (-9,))


def test_helper_that_is_taken_out_again_is_nobodys(entered: Node, container: Cgroup) -> None:
    with entered.cgroup() as other, outside(entered.program, steps(["exec"], VIOLATION)) as process:
        container.put(process.pid)
        other.put(process.pid)
        process.go()
        ended = process.end()
    assert (ended.status, ended.results) == (0, (-9,))


def test_process_in_no_container_is_no_helper(entered: Node) -> None:
    with entered.cgroup() as group, outside(entered.program, steps(["fork"], ["wait"])) as process:
        group.put(process.pid)
        process.go()
        process.await_waiting()
        assert helpers(entered) == (0, [])


def test_child_that_the_host_makes_in_the_container_is_free_until_its_execve(entered: Node, container: Cgroup) -> None:
    words = steps(["into", str(container.path)], VIOLATION, ["exec"], VIOLATION)
    ended = entered.host(words)
    assert (ended.status, ended.results) == (KILLED, (-9,))


def test_execve_of_a_child_that_the_host_makes_in_the_container_is_checked(entered: Node, forbidding: Cgroup) -> None:
    ended = entered.host(steps(["into", str(forbidding.path)], VIOLATION, ["exec"]))
    assert (ended.status, ended.results) == (KILLED, (-9,))


def test_child_that_the_host_makes_elsewhere_is_no_helper(entered: Node) -> None:
    with entered.cgroup() as group, outside(entered.program, steps(["into", str(group.path)], ["wait"])) as process:
        process.go()
        process.await_waiting()
        assert helpers(entered) == (0, [])


@pytest.mark.parametrize("fork", ["fork", "newpid"])
def test_containers_fork_is_the_containers(container: Cgroup, fork: str) -> None:
    ended = container.run(steps([fork], VIOLATION))
    assert (ended.status, ended.results) == (KILLED, ())


def test_process_that_moves_itself_within_the_container_is_the_containers(entered: Node, container: Cgroup) -> None:
    below, beside = container.child("below"), container.child("beside")
    there_and_back = steps(*(["enter", str(path)] for path in (below, beside, container.path)), ["wait"], VIOLATION)
    process = container.start(there_and_back)
    process.await_waiting()
    assert helpers(entered) == (0, [])
    process.go()
    assert process.end().killed


def test_process_that_another_of_the_container_moves_is_the_containers(container: Cgroup) -> None:
    below = container.child("below")
    assert container.run(steps(["child", str(below)], VIOLATION)).status == KILLED
    assert container.run(steps(["child", str(container.path)], VIOLATION), below).status == KILLED


def test_child_that_the_container_makes_in_a_nested_cgroup_is_the_containers(container: Cgroup) -> None:
    below = container.child("below")
    assert container.run(steps(["into", str(below)], VIOLATION)).status == KILLED
    assert container.run(steps(["into", str(container.path)], VIOLATION), below).status == KILLED


def test_process_that_goes_from_one_container_to_another_is_the_others(entered: Node, container: Cgroup) -> None:
    with entered.container("elsewhere", pod="elsewhere") as other:
        for how in ("child", "into"):
            assert other.run(steps([how, str(container.path)], VIOLATION)).status == KILLED


def test_helper_that_was_forked_into_a_pid_namespace_first_is_free_until_its_execve(
    entered: Node, container: Cgroup
) -> None:
    """As runc's, which is put into the cgroup only then."""
    with outside(entered.program, steps(["newpid"], ["wait"], VIOLATION, ["exec"], VIOLATION)) as process:
        process.go()
        process.await_waiting()
        helper = child_of(process.pid)
        container.put(helper)
        assert helpers(entered) == (1, [helper])
        process.go()
        ended = process.end()
    assert (ended.status, ended.results) == (KILLED, (-9,))


@pytest.mark.parametrize("fork", ["newpid", "sibling"])
def test_helper_is_free_while_it_is_moved(entered: Node, container: Cgroup, fork: str) -> None:
    """It makes forbidden calls while the host puts it into the cgroup: none is made too early."""
    for _ in range(MOVES):
        with outside(entered.program, steps([fork], ["spin", "300"], ["wait"], ["exec"], VIOLATION)) as process:
            process.go()
            helper = wait_until(lambda: [pid for pid, _ in sent(entered, process.pid)], SOON_S, "a helper")[0]
            time.sleep(0.01)
            container.put(helper)
            process.await_waiting()
            assert helpers(entered) == (1, [helper])
            process.go()
            assert process.end().status == KILLED


def sent(node: Node, parent: int) -> list[tuple[int, int]]:
    """Those that a process has, and that look like helpers: (pid, until)."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [(pid, until) for pid, (_, until) in entries(node)[1].items() if until and str(pid) in children]


def test_what_looks_like_a_helper_does_so_for_seconds(entered: Node, container: Cgroup) -> None:
    """Which is the time that a move may take; from then on it is judged by where it is."""
    with outside(entered.program, steps(["newpid"], ["wait"], VIOLATION, ["wait"], VIOLATION)) as process:
        process.go()
        process.await_waiting()
        ((helper, until),) = sent(entered, process.pid)
        assert 0 < until - time.monotonic_ns() < 10 * 10**9
        container.put(helper)
        note(entered, helper, time.monotonic_ns() + 60 * 10**9)
        process.go()
        assert process.await_waiting() == (-9,)
        note(entered, helper, time.monotonic_ns() - 1)
        process.go()
        assert process.end().status == KILLED


def note(node: Node, pid: int, until: int) -> None:
    """As of a process that is in no cgroup yet."""
    with kernel.open_pinned(node.agent.pin_dir / "maps" / "entering") as fd:
        kernel.update(fd.fileno(), layout.TGID.pack(pid), layout.ENTERING.pack(0, until))


@pytest.mark.parametrize("fork", ["newpid", "sibling"])
def test_process_that_is_there_before_its_container_is_known_is_no_helper(entered: Node, fork: str) -> None:
    """Nobody has put it anywhere since it was made."""
    with entered.cgroup() as group:
        process = group.start(steps([fork], ["wait"], VIOLATION))
        process.await_waiting()
        ((_, until),) = sent(entered, process.pid)
        entered.announce(process.pid, Identity("default"), id=group.path.name)
        assert time.monotonic_ns() < until
        process.go()
        assert process.end().status == KILLED
        entered.hook.unbind(group.path.name)


def test_what_looks_like_a_helper_and_moves_itself_is_the_containers(entered: Node, container: Cgroup) -> None:
    with outside(entered.program, steps(["newpid"], ["enter", str(container.path)], ["wait"], VIOLATION)) as process:
        process.go()
        process.await_waiting()
        assert entries(entered) == (0, {})
        process.go()
        assert process.end().status == KILLED


@pytest.mark.parametrize("fork", ["fork", "into"])
def test_child_of_what_looks_like_a_helper_does_not(entered: Node, fork: str) -> None:
    with entered.cgroup() as group:
        words = steps(["newpid"], [fork, *([str(group.path)] if fork == "into" else [])], ["wait"])
        with outside(entered.program, words) as process:
            process.go()
            process.await_waiting()
            assert [pid for pid, _ in sent(entered, process.pid)] == list(entries(entered)[1])


def test_execve_ends_what_looks_like_a_helper(entered: Node) -> None:
    with outside(entered.program, steps(["newpid"], ["exec"], ["wait"])) as process:
        process.go()
        process.await_waiting()
        assert entries(entered) == (0, {})


@pytest.mark.parametrize("fork", ["newpid", "sibling"])
def test_containers_process_never_looks_like_a_helper(entered: Node, container: Cgroup, fork: str) -> None:
    process = container.start(steps([fork], ["wait"], VIOLATION))
    process.await_waiting()
    assert entries(entered) == (0, {})
    process.go()
    assert process.end().status == KILLED


@pytest.mark.parametrize("way", [["exec"], ["fork"], ["exec", "--", "fork"]], ids="-".join)
def test_process_of_a_container_that_the_host_moves_is_the_containers(
    entered: Node, container: Cgroup, way: list[str]
) -> None:
    """It has a pid namespace of its own, and has called execve there, or has a parent who is in it too."""
    with outside(entered.program, steps(["newpid"], way, ["wait"], VIOLATION)) as process:
        process.go()
        process.await_waiting()
        inside = child_of(process.pid)
        container.put(child_of(inside) if "fork" in way else inside)
        assert helpers(entered) == (0, [])
        process.go()
        assert process.end().status == KILLED


@pytest.fixture(scope="module")
def crowded(calls_program: Path) -> Iterator[tuple[Node, Cgroup, Path]]:
    """A container with more nested cgroups than have records, and one of those without."""
    options = ("--max-bindings", str(MAX_BINDINGS), "--cri-socket", "none")
    with start_node(calls_program, *options) as node, node.container() as group:
        node.add(lseek_policy("p", namespace="default"))
        children = [group.child(f"n{number}") for number in range(MAX_BINDINGS + 16)]
        assert node.counter("inherit_failed") > 0
        yield node, group, children[-1]


@pytest.mark.parametrize("how", ["enter", "child", "into"])
def test_nested_cgroup_without_a_record_does_not_make_a_helper(crowded: tuple[Node, Cgroup, Path], how: str) -> None:
    """A container cannot make so many that whoever comes from there is taken for the host's."""
    node, group, below = crowded
    for target in (group.path, group.path / "n0"):
        ended = group.run(steps([how, str(target)], VIOLATION), below)
        assert (ended.status, ended.results) == (-9 if how == "enter" else KILLED, ())
    assert helpers(node) == (0, [])
