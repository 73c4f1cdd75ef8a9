# SPDX-License-Identifier: Apache-2.0
"""Policies are in force before a container's first instruction, for every process in it, until it is gone."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.container.stage import (
    FREE,
    KILL_LSEEK,
    KILLED,
    SETTLE_S,
    SLEEP,
    STOPPED,
    TOOLS,
    VIOLATE,
    WAITING,
    Pods,
    Stage,
    join_policies,
    move_into_nested,
    policy_text,
    stopped,
    unified_root,
)
from tests.support import system
from tests.support.agent import EventReader, PluginProcess
from tests.support.cri import Container, ContainerSpec, Pod, State
from tests.support.node import Node, NodeOptions
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

# A held container is looked at from outside here, which must not end the runtime's patience.
NODE_OPTIONS = NodeOptions(nri_request_timeout="20s")
LABELS = {"app": "guarded"}
STANDING = join_policies(
    policy_text("by-namespace", Pods(namespace="guarded"), KILL_LSEEK),
    policy_text("by-label", Pods(labels=LABELS), KILL_LSEEK),
)
SYS_OPENAT = "257"


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        ("guarded", {}, STOPPED),
        ("other", {}, FREE),
        ("guarded-not", {}, FREE),
        ("other", LABELS, STOPPED),
        ("guarded", LABELS, STOPPED),
        ("other", {"app": "guarded2"}, FREE),
        ("other", {"tier": "guarded"}, FREE),
    ],
)
def test_first_instruction_is_stopped_where_a_policy_selects(
    stage: Stage, namespace: str, labels: dict[str, str], expected: tuple[int, str]
) -> None:
    assert stage.violate(namespace, labels) == expected


def test_event_names_pod_container_labels_and_what_was_done(stage: Stage, events: EventReader) -> None:
    pod = stage.pod("guarded", {"app": "web", "tier": "front"}, name="named")
    container = stage.node.cri.run(pod, replace(VIOLATE, name="offender"))
    stage.node.cri.wait_exit(container)
    event = stage.find_event(events, container)
    labels = event["pod"].pop("labels")
    assert event["pod"] == {"namespace": "guarded", "name": "named", "uid": "uid-guarded-named"}
    assert {"app": "web", "tier": "front"}.items() <= labels.items()
    assert event["container"]["name"] == "offender"
    assert event["container"]["image"] == VIOLATE.image
    assert event["policy"] == {"name": "by-namespace", "namespace": "guarded"}
    assert (event["function"], event["args"][0]["value"]) == ("__x64_sys_lseek", -1)
    assert (event["action"], event["enforced"], event["process"]["binary"]) == ("SIGKILL", True, "/first")


def test_policies_added_later_stop_running_containers_and_free_them_when_deleted(stage: Stage) -> None:
    storm = replace(VIOLATE, args=("storm", "1000000000000"))
    victim = stage.run(storm, "later")
    bystander, spared = stage.run(SLEEP, "other"), stage.run(SLEEP, "later")
    stage.agent.add(policy_text("late", Pods(namespace="later"), KILL_LSEEK))
    assert stage.node.cri.wait_exit(victim) == KILLED
    assert stage.violate_inside(bystander) == FREE
    assert stage.violate_inside(spared) == STOPPED
    stage.agent.control.delete("late", "later")
    assert stage.violate_inside(spared) == FREE
    assert stage.violate("later") == FREE


def test_label_policy_added_later_selects_running_pods_by_their_labels(stage: Stage) -> None:
    selected, other = stage.run(WAITING, labels={"phase": "two"}), stage.run(WAITING, labels={"phase": "one"})
    stage.agent.add(policy_text("phase-two", Pods(labels={"phase": "two"}), KILL_LSEEK))
    stage.release(selected)
    stage.release(other)
    assert stage.node.cri.wait_exit(selected) == KILLED
    assert stage.outcome(other) == FREE
    stage.agent.control.delete("phase-two", "")


def test_removed_containers_leave_no_record(stage: Stage) -> None:
    first, second = stage.run(SLEEP), stage.run(SLEEP)
    stage.await_counts(2, 2)
    stage.node.cri.remove(first)
    stage.await_counts(1, 1)
    stage.node.cri.remove(second)
    stage.await_counts(0, 0)


def test_container_that_has_ended_leaves_no_record_although_it_is_not_removed(stage: Stage) -> None:
    stage.node.cri.wait_exit(stage.run(VIOLATE))
    stage.await_counts(0, 0)


def test_nested_cgroups_are_guarded_and_go_with_the_container(stage: Stage) -> None:
    container = stage.run(WAITING, "guarded")
    move_into_nested(stage.node.cri.pid(container), "inner")
    stage.await_counts(1, 2)
    stage.release(container)
    assert stage.outcome(container)[0] == KILLED
    stage.node.cri.remove(container)
    stage.await_counts(0, 0)


def test_container_with_limits_is_guarded(stage: Stage) -> None:
    limited = replace(SLEEP, memory_bytes=64 << 20, cpu_quota_us=50_000)
    container = stage.run(limited, "guarded")
    memory = next(tree for tree in system.cgroup_trees(stage.node.name) if tree.parent.name == "memory")
    limit = next(memory.glob(f"*/{container.id}/memory.limit_in_bytes"))
    assert int(limit.read_text()) == 64 << 20
    assert stage.violate_inside(container) == STOPPED
    assert stage.outcome(stage.run(replace(limited, command=("/first",)), "guarded")) == STOPPED


def test_two_containers_of_a_pod_are_told_apart(stage: Stage, plugin: PluginProcess, events: EventReader) -> None:
    pod = stage.pod("guarded")
    sleeper = stage.node.cri.run(pod, SLEEP)
    offender = stage.node.cri.run(pod, VIOLATE)
    assert stage.outcome(offender) == STOPPED
    assert stage.node.cri.status(sleeper).state is State.RUNNING
    assert stage.find_event(events, offender)["container"]["name"] == offender.name
    ids = {line["workload_id"] for line in plugin.decisions() if line["container_id"] in (sleeper.id, offender.id)}
    assert len(ids) == 2


def test_pod_with_many_labels_is_selected_by_one_of_them(stage: Stage, events: EventReader) -> None:
    many = {f"example.com/label-{number:03}": "v" * 63 for number in range(100)}
    container = stage.run(VIOLATE, labels=many | LABELS)
    assert stage.outcome(container) == STOPPED
    assert many.items() <= stage.find_event(events, container)["pod"]["labels"].items()


def test_container_that_is_started_again_under_its_name_is_guarded_again(stage: Stage, events: EventReader) -> None:
    pod = stage.pod("guarded", name="again")
    first = run_to_end(stage, pod)
    stage.node.cri.remove(first)
    second = run_to_end(stage, pod)
    stage.node.cri.remove_pod(pod)
    third = run_to_end(stage, stage.pod("guarded", name="again"))
    assert len({first.id, second.id, third.id}) == 3
    for container in (first, second, third):
        assert stage.find_event(events, container)["pod"]["name"] == "again"


def run_to_end(stage: Stage, pod: Pod) -> Container:
    container = stage.node.cri.run(pod, VIOLATE)
    assert stage.outcome(container) == STOPPED
    return container


def test_exec_into_a_container_is_guarded(stage: Stage, events: EventReader) -> None:
    guarded, other = stage.run(SLEEP, "guarded"), stage.run(SLEEP)
    assert stage.violate_inside(guarded) == STOPPED
    assert stage.find_event(events, guarded)["container"]["name"] == SLEEP.name
    assert stage.violate_inside(other) == FREE
    assert stage.node.cri.status(guarded).state is State.RUNNING


def test_forked_processes_are_guarded_each_by_itself(stage: Stage) -> None:
    script = "/first; echo child $?; (/first; echo grandchild $?)"
    forking = ContainerSpec(image=TOOLS.reference, command=("sh", "-c", script))
    code, output = stage.outcome(stage.run(forking, "guarded"))
    assert code == 0
    assert [line for line in output.splitlines() if "child" in line] == [f"child {KILLED}", f"grandchild {KILLED}"]


def test_containers_that_start_at_once_are_all_guarded(stage: Stage) -> None:
    namespaces = ["guarded", "other"] * 4
    with ThreadPoolExecutor(len(namespaces)) as pool:
        results = list(pool.map(stage.violate, namespaces))
    assert results == [STOPPED, FREE] * 4


def test_container_that_dies_while_it_is_held_is_refused_and_forgotten(stage: Stage, plugin: PluginProcess) -> None:
    container = stage.node.cri.create(stage.pod("guarded"), SLEEP)
    with ThreadPoolExecutor(1) as pool, stopped(plugin.background.pid):
        starting = pool.submit(stage.node.cri.start, container)
        os.kill(find_held(stage.node, container), signal.SIGKILL)
        os.kill(plugin.background.pid, signal.SIGCONT)
        with pytest.raises(grpc.RpcError) as caught:
            starting.result()
    assert "stopped" in str(caught.value.details())
    line = next(line for line in plugin.decisions() if line["container_id"] == container.id)
    assert (line["outcome"], line["cause"]) == ("open", "refused")
    assert stage.counts() == (0, 0)
    assert stage.violate("guarded") == STOPPED


def find_held(node: Node, container: Container) -> int:
    """The container's init process once it waits to be let go: in openat(2) of the runtime's fifo."""

    def look() -> int:
        for procs in (unified_root() / node.name).glob(f"*/{container.id}/cgroup.procs"):
            for pid in procs.read_text().split():
                if Path(f"/proc/{pid}/syscall").read_text().split()[0] == SYS_OPENAT:
                    return int(pid)
        return 0

    return wait_until(look, SETTLE_S, "a held init process")
