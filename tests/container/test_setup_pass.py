# SPDX-License-Identifier: Apache-2.0
"""Rules hold from the entrypoint's execve on; what the runtime does before it in the cgroup is not the container's."""

from __future__ import annotations

import pytest

from tests.container.stage import KILLED, SLEEP, TOOLS, VIOLATE, Pods, Stage, join_policies, kill_at, policy_text
from tests.support.agent import EventReader
from tests.support.cri import Container, ContainerSpec
from tests.support.node import Runtime

pytestmark = [
    pytest.mark.container,
    pytest.mark.kernel,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("node", [Runtime.CONTAINERD_2], indirect=True, ids=["containerd_2"]),
]

MOUNT = ("busybox", "mount", "-t", "tmpfs", "none", "/tmp")
PIVOT = ("busybox", "pivot_root", "/tmp", "/tmp")
STANDING = join_policies(
    policy_text("no-mounts", Pods(namespace="sealed"), kill_at("mount"), kill_at("pivot_root")),
    # runc's init process writes into the fifo that holds it, after the container was bound.
    policy_text("no-writes", Pods(namespace="mute"), kill_at("write")),
    policy_text("no-first", Pods(namespace="chosen"), kill_at("execve", kind="string", value="/first")),
    policy_text("no-execs", Pods(namespace="still"), kill_at("execve")),
)


def tool(*command: str) -> ContainerSpec:
    return ContainerSpec(image=TOOLS.reference, command=command)


def exit_code(stage: Stage, spec: ContainerSpec, namespace: str) -> int:
    return stage.outcome(stage.run(spec, namespace))[0]


@pytest.mark.parametrize("command", [MOUNT, PIVOT], ids=["mount", "pivot_root"])
def test_entrypoint_that_mounts_is_killed_and_the_runtimes_own_mounts_are_not(
    stage: Stage, command: tuple[str, ...]
) -> None:
    assert exit_code(stage, tool("true"), "sealed") == 0
    assert exit_code(stage, tool(*command), "sealed") == KILLED
    assert exit_code(stage, tool(*command), "other") == 1


def test_exec_into_a_container_whose_mounts_are_forbidden(stage: Stage) -> None:
    container = stage.run(SLEEP, "sealed")
    assert stage.node.cri.exec(container, "true").exit_code == 0
    assert stage.node.cri.exec(container, *MOUNT).exit_code == KILLED


def test_calls_of_the_held_init_process_are_not_checked(stage: Stage, events: EventReader) -> None:
    silent, loud = stage.run(tool("true"), "mute"), stage.run(tool("sh", "-c", "echo one; echo two"), "mute")
    assert stage.outcome(silent) == (0, "")
    # The call that is killed at its entry may still do its work.
    assert stage.outcome(loud) in ((KILLED, "one\n"), (KILLED, ""))
    assert stage.find_event(events, loud)["process"]["binary"] == "/bin/busybox"
    assert not seen(events, silent)


def test_container_counts_as_armed_after_its_entrypoint(stage: Stage) -> None:
    before = stage.agent.control.status()
    stage.run(SLEEP, "sealed")
    after = stage.agent.control.status()
    assert after.counters["armed"] - before.counters["armed"] == 1
    assert "armed_late" not in after.outcomes


def test_entrypoint_is_checked_by_its_path_at_its_own_execve(stage: Stage, events: EventReader) -> None:
    chosen, other = stage.run(VIOLATE, "chosen"), stage.run(tool("true"), "chosen")
    assert stage.outcome(chosen) == (KILLED, "")
    event = stage.find_event(events, chosen)
    assert (event["function"], event["args"][0]["value"]) == ("__x64_sys_execve", "/first")
    assert event["pod"]["namespace"] == "chosen"
    assert exit_code(stage, VIOLATE, "other") == 0
    assert stage.outcome(other)[0] == 0


def test_path_is_checked_in_processes_that_the_entrypoint_starts(stage: Stage) -> None:
    code, output = stage.outcome(stage.run(tool("sh", "-c", "true; echo true $?; /first; echo first $?"), "chosen"))
    assert code == 0
    assert [line for line in output.splitlines() if line != "Killed"] == ["true 0", f"first {KILLED}"]


def test_forbidden_execve_leaves_no_container_running(stage: Stage, events: EventReader) -> None:
    container = stage.run(tool("true"), "still")
    assert stage.outcome(container) == (KILLED, "")
    assert stage.find_event(events, container)["policy"]["name"] == "no-execs"


def seen(events: EventReader, container: Container) -> bool:
    return any((event.get("container") or {}).get("id") == container.id for event in events.all())
