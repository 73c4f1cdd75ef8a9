# SPDX-License-Identifier: Apache-2.0
"""What a pod goes through as the kubelet does it: init and ephemeral containers, restarts, static pods; and what a
process may do in its container: fork without execve, be moved, make cgroups of its own.
"""

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
    kill_at,
    move_into_nested,
    policy_text,
    stopped,
    unified_root,
)
from tests.support import system
from tests.support.agent import EventReader, PluginProcess
from tests.support.cri import ContainerSpec, InitError, State, static_pod
from tests.support.node import Runtime
from tests.support.wait import wait_until
from tests.support.workload import build_calls, step, steps

pytestmark = [
    pytest.mark.container,
    pytest.mark.kernel,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("node", [Runtime.CONTAINERD_2], indirect=True, ids=["containerd_2"]),
]

LABELS = {"tier": "control-plane"}
STANDING = join_policies(
    policy_text("by-namespace", Pods(namespace="guarded"), KILL_LSEEK),
    policy_text("by-label", Pods(labels=LABELS), KILL_LSEEK),
)
LSEEK = step("lseek", -1, 0, 0)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with calls.c's program."""
    folder: Path = tmp_path_factory.mktemp("calls")
    build_calls(folder)
    return folder


def calling(calls: Path, *parts: list[str]) -> ContainerSpec:
    """A container that makes system calls; -: it stays in its cgroup."""
    return ContainerSpec(image=TOOLS.reference, command=("/calls/calls", "-", *steps(*parts)), mounts={"/calls": calls})


def test_pod_has_records_of_its_own_until_it_is_removed(stage: Stage) -> None:
    pod = stage.pod("guarded")
    assert (stage.pods(), stage.records()) == (1, 2)
    directory = unified_root() / stage.node.name / f"pod{pod.config.metadata.uid}"
    assert (directory / pod.id).is_dir()
    stage.node.cri.remove_pod(pod)
    wait_until(lambda: (stage.pods(), stage.records()) == (0, 0), SETTLE_S, "the pod to be forgotten")


def test_init_containers_are_guarded_like_the_rest(stage: Stage) -> None:
    pod = stage.pod("guarded")
    harmless = ContainerSpec(name="harmless", image=TOOLS.reference, command=("true",))
    stage.node.cri.run_init(pod, harmless)
    with pytest.raises(InitError) as caught:
        stage.node.cri.run_init(pod, replace(VIOLATE, name="offender"))
    assert (caught.value.exit_code, caught.value.log) == STOPPED
    assert stage.outcome(stage.node.cri.run(pod, VIOLATE)) == STOPPED


def test_ephemeral_container_is_guarded_as_its_pod_is(stage: Stage) -> None:
    """The kubelet adds it to a pod that runs already."""
    guarded, other = stage.pod("guarded"), stage.pod("other")
    for pod in (guarded, other):
        stage.node.cri.run(pod, SLEEP)
    debugger = replace(VIOLATE, name="debugger")
    assert stage.outcome(stage.node.cri.run(guarded, debugger)) == STOPPED
    assert stage.outcome(stage.node.cri.run(other, debugger)) == FREE


def test_restarted_container_is_another_one_and_guarded(stage: Stage, events: EventReader) -> None:
    pod = stage.pod("guarded")
    first = stage.node.cri.run(pod, VIOLATE)
    assert stage.outcome(first) == STOPPED
    second = stage.node.cri.restart(first, VIOLATE)
    assert stage.outcome(second) == STOPPED
    assert stage.find_event(events, second)["container"]["name"] == VIOLATE.name
    assert (second.attempt, second.id != first.id) == (1, True)


def test_containers_in_the_place_of_guarded_ones_are_not_taken_for_them(stage: Stage) -> None:
    """Pids and cgroups are made anew as soon as they are free."""
    for _ in range(5):
        assert stage.violate("guarded") == STOPPED
        assert stage.violate("other") == FREE
        stage.node.cri.remove_all_pods()


def test_static_pod_is_selected_by_its_labels(stage: Stage) -> None:
    selected = stage.node.cri.run_pod(static_pod("apiserver", labels=LABELS))
    other = stage.node.cri.run_pod(static_pod("proxy"))
    assert stage.outcome(stage.node.cri.run(selected, VIOLATE)) == STOPPED
    assert stage.outcome(stage.node.cri.run(other, VIOLATE)) == FREE


@pytest.mark.parametrize("kind", ["fork", "thread", "exec"])
def test_process_that_did_not_come_by_execve_is_guarded(stage: Stage, calls: Path, kind: str) -> None:
    spec = calling(calls, [kind], LSEEK)
    assert stage.node.cri.wait_exit(stage.run(spec, "guarded")) == KILLED
    assert stage.outcome(stage.run(spec, "other")) == (0, "-9\n")


def test_cgroups_that_a_container_makes_are_guarded(stage: Stage) -> None:
    """One that has the cgroup tree moves itself into a cgroup of its own making, two levels down."""
    script = (
        "while read -r line; do case $line in 0::*) own=/tree${line#0::} ;; esac; done </proc/self/cgroup; "
        "mkdir -p $own/a/b && echo $$ >$own/a/b/cgroup.procs && echo moved; exec /first"
    )
    mounts = {"/tree": unified_root()}
    spec = ContainerSpec(image=TOOLS.reference, command=("busybox", "sh", "-c", script), mounts=mounts)
    assert stage.outcome(stage.run(spec, "guarded")) == (KILLED, "moved\n")
    assert stage.outcome(stage.run(spec, "other")) == (0, f"moved\n{FREE[1]}")


def test_process_that_the_host_moves_within_its_container_stays_guarded(stage: Stage) -> None:
    container = stage.run(WAITING, "guarded")
    pid = stage.node.cri.pid(container)
    inner = move_into_nested(pid, "inner")
    (inner.parent / "cgroup.procs").write_text(str(pid))
    stage.release(container)
    assert stage.outcome(container) == STOPPED


def test_call_of_a_process_that_the_host_has_moved_is_checked_without_another_execve(stage: Stage) -> None:
    """The container's own program, which has called execve before it was moved, makes the call itself."""
    storm = replace(VIOLATE, args=("loop", "1000000000000"))
    container = stage.run(storm, "later")
    move_into_nested(stage.node.cri.pid(container), "inner")
    stage.agent.add(policy_text("loops", Pods(namespace="later"), kill_at("lseek", kind="int", value="3")))
    assert stage.node.cri.wait_exit(container) == KILLED
    stage.agent.control.delete("loops", "later")


def test_agent_that_hangs_for_a_moment_only_delays_a_start(stage: Stage) -> None:
    container = stage.node.cri.create(stage.pod("guarded"), VIOLATE)
    with ThreadPoolExecutor(1) as pool, stopped(stage.agent.pid):
        starting = pool.submit(stage.node.cri.start, container)
        wait_until(lambda: system.find_processes(container.id) or starting.running(), SETTLE_S, "the start")
        os.kill(stage.agent.pid, signal.SIGCONT)
        starting.result()
    assert stage.outcome(container) == STOPPED


def test_container_whose_init_dies_while_the_agent_hangs_is_forgotten(stage: Stage, plugin: PluginProcess) -> None:
    container = stage.node.cri.create(stage.pod("guarded"), SLEEP)
    with ThreadPoolExecutor(1) as pool, stopped(stage.agent.pid):
        starting = pool.submit(stage.node.cri.start, container)
        os.kill(wait_until(lambda: find_init(stage, container.id), SETTLE_S, "the init process"), signal.SIGKILL)
        os.kill(stage.agent.pid, signal.SIGCONT)
        with pytest.raises(grpc.RpcError):
            starting.result()
    assert stage.node.cri.status(container).state is State.EXITED
    line = next(line for line in plugin.decisions() if line["container_id"] == container.id)
    assert line["outcome"] in ("open", "bound")
    stage.await_counts(0, 0)


def find_init(stage: Stage, container: str) -> int:
    """Once the plugin was told of it: before, its death would end the start without us."""
    for procs in (unified_root() / stage.node.name).glob(f"*/{container}/cgroup.procs"):
        for pid in map(int, procs.read_text().split()):
            if Path(f"/proc/{pid}/syscall").read_text().split()[0] == "257":  # openat(2) of the runtime's fifo
                return pid
    return 0
