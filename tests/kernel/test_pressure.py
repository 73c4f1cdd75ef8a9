# SPDX-License-Identifier: Apache-2.0
"""What a hostile container tries: many cgroups, many signals, registers with rubbish, calls that never come back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.layout import NESTED_MAX, map_specs
from agent.kernel.maps import Maps, drop_dead_calls
from tests.support.agent import EventReader
from tests.support.wait import wait_until
from tests.support.workload import Identity, Node, kprobe, lseek_policy, match, policy, selector, start_node, step

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

USR1 = ({"action": "Signal", "argSig": signal.SIGUSR1},)
RUBBISH = 0xDEAD << 32


def test_sigkill_comes_alone_whatever_else_other_policies_want(node: Node, events: EventReader) -> None:
    """The weaker signal must not be the one that gets through."""
    node.add(
        lseek_policy("weak", actions=USR1, namespace="default"),
        lseek_policy("strong", namespace="default"),
    )
    with node.container() as group:
        ended = group.call("lseek", -1, 0, 0)

        def told() -> set[str]:
            mine = [event for event in events.all() if event.get("process", {}).get("pid") == ended.pid]
            return {event["policy"]["name"] for event in mine if event["enforced"]}

        assert ended.status == -signal.SIGKILL
        wait_until(lambda: told() == {"weak", "strong"}, 10, "both events")


def test_upper_half_of_an_int_length_is_not_looked_at(node: Node) -> None:
    """connect takes an int: the kernel ignores the rest of the register, and so must the rule."""
    own = selector(match(1, "Equal", "ADDRESS!"))
    node.add(policy("c", kprobe("connect", {1: "char_buf:2"}, own), namespace="default"))
    with node.container() as group:
        assert group.call("connect", -1, b"ADDRESS!", 8).killed
        assert group.call("connect", -1, b"ADDRESS!", RUBBISH | 8).killed
        assert not group.call("connect", -1, b"ADDRESS?", RUBBISH | 8).killed


def test_declared_int_length_is_an_int(node: Node) -> None:
    own = selector(match(1, "Equal", "SECRET"))
    hook = kprobe("pwrite64", {1: "char_buf:2", 2: "int"}, own)
    node.add(policy("c", hook, namespace="default"))
    with node.container() as group:
        assert group.call("pwrite64", -1, b"SECRET", RUBBISH | 6, 0).killed


def test_one_container_cannot_fill_the_map_with_cgroups(calls_program: Path) -> None:
    """It gets so many records and no more; what is in the others is found by what is above them."""
    with start_node(calls_program) as node, node.container() as group:
        node.add(lseek_policy("p", namespace="default"))
        children = [group.child(f"n{number}") for number in range(NESTED_MAX + 50)]
        status = node.agent.control.status()
        assert status.bindings == NESTED_MAX + 1
        assert node.counter("inherit_failed") == 50
        assert group.run(step("lseek", -1, 0, 0), children[-1]).killed
        assert group.run(step("lseek", -1, 0, 0), group.child("n0", "deep")).killed
        # The housekeeping may link the 51 that got no record, once there is room.
        for child in children[1:101]:
            child.rmdir()
        wait_until(lambda: node.agent.control.status().bindings <= NESTED_MAX - 45, 60, "records of cgroups to go")
        assert node.host(step("lseek", -1, 0, 0)).status == 0


def test_announcing_a_container_with_too_many_cgroups_is_bounded(calls_program: Path) -> None:
    with start_node(calls_program) as node, node.cgroup() as group:
        node.add(lseek_policy("p", namespace="default"))
        children = [group.child(f"n{number}") for number in range(NESTED_MAX + 50)]
        with node.container(pod="first"):
            placeholder = group.start(["wait"])
            placeholder.await_waiting()
            node.announce(placeholder.pid, Identity(), id=group.path.name)
            assert node.agent.control.status().bindings == 1 + 1 + NESTED_MAX
            assert all(group.run(step("lseek", -1, 0, 0), child).killed for child in (children[0], children[-1]))
            node.hook.unbind(group.path.name)
            placeholder.end()


THREAD_MAPS = ("deferred", "exec_text", "enforcer", "exec_awaited", "awaited", "returns")


def test_calls_of_threads_that_died_are_taken_out() -> None:
    """Neither a call that waited for its exit or its return nor what was kept for it stays."""
    specs = {spec.name: spec for spec in map_specs(4096, 64) if spec.name in THREAD_MAPS}
    maps = Maps({n: bpf.create_map(s.kind, s.key, s.value, s.entries, n, s.flags) for n, s in specs.items()})
    alive, dead = os.getpid(), 1 << 30
    try:
        for thread in (alive, dead):
            for name, spec in specs.items():
                bpf.update(maps.fileno(name), _thread_key(alive, thread, spec.key), bytes(spec.value))
        assert drop_dead_calls(maps, lambda thread: thread == alive) == len(THREAD_MAPS)
        for name, spec in specs.items():
            assert bpf.keys(maps.fileno(name), spec.key) == [_thread_key(alive, alive, spec.key)]
    finally:
        maps.close()


def _thread_key(process: int, thread: int, size: int) -> bytes:
    return (process << 32 | thread).to_bytes(8, "little").ljust(size, b"\0")
