# SPDX-License-Identifier: Apache-2.0
"""Containers that no hook announced: told of, bound to every policy, or held at their first execve until identified.

The kernel's side sees every container of the machine: others that run here meanwhile are held for a moment too, and
then go on. So nothing is asserted of them, and whoever is held goes unguarded when nobody knows it, except in tests of
just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rthook.process import read_stat
from tests.container.doors import start_agent
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
    policy_text,
    stopped,
)
from tests.support.agent import EventReader, PluginProcess
from tests.support.cri import Container, ContainerSpec, State
from tests.support.image import FIRST
from tests.support.node import IMAGES, Node, NodeOptions, Runc, Runtime
from tests.support.oci_hooks import CREATE_CONTAINER, Hook
from tests.support.podman import PodmanNode, RunSpec
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

MOUNT = ("busybox", "mount", "-t", "tmpfs", "none", "/tmp")
SETUP_CALLS = ("mount", "pivot_root", "write", "openat", "capset")
FIRST_ONLY = policy_text("first", Pods(namespace="guarded"), KILL_LSEEK)
STANDING = join_policies(
    FIRST_ONLY,
    policy_text("setup", Pods(namespace="sealed"), *map(kill_at, SETUP_CALLS)),
)
MOUNTS = ContainerSpec(image=TOOLS.reference, command=MOUNT)
AT_ONCE = 16


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Without NRI, so that nobody announces; with another's hook, which starts programs in the container's cgroup."""
    other = Hook(CREATE_CONTAINER, Path("/bin/sh"), ("-c", "/bin/true; /bin/true"))
    with Node(Runtime.CONTAINERD_2, NodeOptions(nri=False, hooks=(other,)), (*IMAGES, TOOLS)) as running:
        yield running


@pytest.fixture
def pods(node: Node) -> Iterator[None]:
    """Removes those of the test."""
    yield
    node.cri.remove_all_pods()


@contextmanager
def treated(node: Node, *options: str, policies: str = STANDING) -> Iterator[Stage]:
    """The node with an agent of its own."""
    with start_agent(node.socket, *options) as agent:
        agent.add(policies)
        yield Stage(node, agent)


def event_of(events: EventReader, container: Container) -> dict[str, Any]:
    """The event of a container that was not announced."""
    return events.find(lambda event: event["type"] == "unannounced" and event["cgroup"]["name"] == container.id)


def is_known(stage: Stage, container: Container) -> bool:
    """Whether the agent has it bound as what it is."""
    lines = stage.agent.background.lines()
    return "identified" in [line.get("outcome") for line in lines if line.get("container_id") == container.id]


def await_known(stage: Stage, container: Container) -> None:
    wait_until(lambda: is_known(stage, container), SETTLE_S, f"container {container.id} to be identified")


@pytest.mark.usefixtures("pods")
def test_report_tells_counts_and_binds_soon(node: Node) -> None:
    with treated(node, "--unannounced", "report") as stage, EventReader(stage.agent.run_dir) as events:
        container = stage.run(WAITING, "guarded")
        event = event_of(events, container)
        assert (event["treatment"], event["outcome"]) == ("report", "identified")
        pod = container.pod.spec
        assert event["pod"] == {"namespace": "guarded", "name": pod.name, "uid": f"uid-guarded-{pod.name}"}
        assert event["container"] == {"id": container.id, "name": WAITING.name}
        status = stage.agent.control.status()
        assert status.counters["unannounced"] >= 1
        assert status.unannounced["identified"] == 1
        assert status.starts == {}
        assert status.hook_coverage_ratio == 0.0
        stage.release(container)
        assert stage.outcome(container) == STOPPED


@pytest.mark.usefixtures("pods")
def test_pause_container_is_bound_and_makes_no_event(node: Node) -> None:
    with treated(node, "--unannounced", "hold") as stage, EventReader(stage.agent.run_dir) as events:
        pod = stage.pod("guarded")
        wait_until(lambda: stage.agent.control.status().unannounced["sandbox"], SETTLE_S, "the sandbox to be known")
        container = node.cri.run(pod, SLEEP)
        event_of(events, container)
        assert all(event["cgroup"]["name"] != pod.id for event in events.all() if event["type"] == "unannounced")
        assert stage.agent.control.status().sandboxes == 1


@pytest.mark.usefixtures("pods")
def test_strict_stops_the_first_instruction_and_lets_be_whom_no_policy_selects(node: Node) -> None:
    with treated(node, "--unannounced", "strict", policies=FIRST_ONLY) as stage:
        assert stage.violate("guarded") == STOPPED
        waiting = stage.run(WAITING, "other")
        await_known(stage, waiting)
        stage.release(waiting)
        assert stage.outcome(waiting) == FREE


@pytest.mark.usefixtures("pods")
@pytest.mark.parametrize("treatment", ["report", "strict", "hold"])
def test_setup_by_the_runtime_and_by_anothers_hook_is_not_the_containers(node: Node, treatment: str) -> None:
    """Policies on nearly everything that runc does, and on what the hook of another does, in the container's cgroup."""
    with treated(node, "--unannounced", treatment) as stage, EventReader(stage.agent.run_dir) as events:
        running = [stage.run(SLEEP, "sealed") for _ in range(6)]
        for container in running:
            await_known(stage, container)
        states = [node.cri.status(container).state for container in running]
        assert states == [State.RUNNING] * 6, [event for event in events.all() if event["type"] == "policy"]


@pytest.mark.usefixtures("pods")
def test_hold_stops_the_first_instruction_of_whom_a_policy_selects_and_nobody_elses(node: Node) -> None:
    with treated(node, "--unannounced", "hold") as stage, EventReader(stage.agent.run_dir) as events:
        namespaces = ["guarded", "other"] * (AT_ONCE // 2)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pods = list(pool.map(stage.pod, namespaces))
            containers = list(pool.map(lambda pod: node.cri.create(pod, VIOLATE), pods))
            list(pool.map(node.cri.start, containers))
        assert [stage.outcome(container) for container in containers] == [STOPPED, FREE] * (AT_ONCE // 2)
        told = {event["outcome"] for event in (event_of(events, container) for container in containers)}
        assert told == {"identified"}
        status = stage.agent.control.status()
        assert status.starts["hold"] == 0
        (held,) = (each for each in status.stages if each.stage == "hold")
        assert held.outcomes["continued"] >= AT_ONCE
        assert 0 < held.p50_us < held.timeout_us == 500_000
        assert stage.outcome(stage.run(MOUNTS, "sealed"))[0] == KILLED


@pytest.mark.usefixtures("pods")
def test_coverage_is_the_share_of_announced_starts() -> None:
    """One start with a plugin, one without."""
    options = NodeOptions(oci_runtime=Runc.NEW.path)
    with Node(Runtime.CONTAINERD_2, options, (*IMAGES, TOOLS)) as node, treated(node) as stage:
        with PluginProcess(stage.agent, node.nri_socket):
            stage.run(SLEEP)
            assert "identified" not in stage.agent.control.status().unannounced
        await_known(stage, stage.run(SLEEP))
        status = stage.agent.control.status()
        strangers = status.unannounced["unidentified"]
        assert status.starts == {"nri": 1}
        assert status.hook_coverage_ratio == pytest.approx(1 / (2 + strangers))


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanNode]:
    with PodmanNode(Runc.NEW, (FIRST, TOOLS)) as running:
        yield running


@pytest.mark.parametrize(
    ("fallback", "expected", "outcome"),
    [
        ("open", FREE, "unidentified_open"),
        ("strict", STOPPED, "unidentified_strict"),
        ("kill", STOPPED, "unidentified_kill"),
    ],
)
def test_container_that_the_runtime_does_not_know_is_treated_as_the_fallback_says(
    podman: PodmanNode, node: Node, fallback: str, expected: tuple[int, str], outcome: str
) -> None:
    options = ("--unannounced", "hold", "--hold-deadline", "0.2", "--hold-fallback", fallback)
    with treated(node, *options) as stage, EventReader(stage.agent.run_dir) as events:
        ended = podman.run(RunSpec(image=FIRST.reference))
        assert (ended.status, ended.stdout) == expected
        event = events.find(lambda event: event["type"] == "unannounced" and event["process"]["comm"] == "first")
        assert (event["outcome"], "pod" in event) == (outcome, False)
        if fallback == "kill":
            assert podman.run(RunSpec(image=TOOLS.reference, command=("true",))).status == KILLED


@contextmanager
def held_in(podman: PodmanNode) -> Iterator[int]:
    """A process of a container that nobody knows, stopped by an agent which waits long for the runtime's answer."""
    container = podman.create(RunSpec(image=TOOLS.reference, command=("sleep", "1000")))
    try:
        assert podman.start(container).status == 0
        pid = podman.pid(container)
        await_state(pid, "T")
        yield pid
    finally:
        podman.remove(container)


HOLD_LONG = ("--unannounced", "hold", "--hold-deadline", "4")


def await_released(pid: int) -> None:
    """The process goes on, and sleeps as it is told to."""
    await_state(pid, "S")


def await_state(pid: int, state: str) -> None:
    def reached() -> bool:
        stat = read_stat(Path(f"/proc/{pid}"))
        return stat is not None and stat.state == state

    wait_until(reached, 20, f"process {pid} to be in state {state}")


def test_event_process_releases_what_an_agent_held_that_was_killed(podman: PodmanNode, node: Node) -> None:
    with treated(node, *HOLD_LONG) as stage, held_in(podman) as pid:
        stage.agent.background.process.kill()
        stage.agent.background.process.wait()
        await_released(pid)
        assert "event process: continued_unguarded" in stage.agent.background.log.read_text()
        stage.agent.restart(crash=True)


def test_next_agent_releases_what_an_agent_held_that_was_killed(podman: PodmanNode, node: Node) -> None:
    with treated(node, *HOLD_LONG) as stage, held_in(podman) as pid:
        events_pid = stage.agent.control.status().events_pid
        with stopped(events_pid):
            stage.agent.restart(crash=True)
            await_released(pid)


def test_plugin_releases_what_an_agent_held_that_was_killed(podman: PodmanNode) -> None:
    with (
        Node(Runtime.CONTAINERD_2) as node,
        treated(node, *HOLD_LONG) as stage,
        PluginProcess(stage.agent, node.nri_socket) as plugin,
        held_in(podman) as pid,
    ):
        with stopped(stage.agent.control.status().events_pid):
            stage.agent.background.process.kill()
            stage.agent.background.process.wait()
            await_released(pid)
        released = [line for line in plugin.background.lines() if line["event"] == "held_released"]
        assert [line["outcome"] for line in released if line["pid"] == pid] == ["continued_unguarded"]
        stage.agent.restart(crash=True)


def test_event_process_releases_what_an_agent_holds_that_hangs(podman: PodmanNode, node: Node) -> None:
    with treated(node, *HOLD_LONG) as stage, held_in(podman) as pid:
        with stopped(stage.agent.pid):
            await_released(pid)
        assert stage.agent.control.status().pid == stage.agent.pid


def test_agent_that_stops_in_order_lets_go_whom_it_holds(podman: PodmanNode, node: Node) -> None:
    with treated(node, *HOLD_LONG) as stage, held_in(podman) as pid:
        assert stage.agent.background.stop() == 0
        await_released(pid)
        stage.agent.restart(crash=False)
