# SPDX-License-Identifier: Apache-2.0
"""Real containerd nodes: a container's whole life, a restart beneath it, and an end that leaves nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support import system
from tests.support.cri import ContainerSpec, PodSpec, State
from tests.support.image import FIRST
from tests.support.node import Node, NodeError, NodeOptions, Runtime
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

VERSIONS = {Runtime.CONTAINERD_2: "2.", Runtime.CONTAINERD_1_7: "1.7."}
SLEEP = ContainerSpec(name="sleeper", command=("sleep", "1000"))


@pytest.fixture(params=list(Runtime), ids=lambda runtime: runtime.name.lower(), scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    with Node(request.param) as running:
        yield running


def find_traces(node: Node) -> list[str]:
    """What is left of a node that was stopped."""
    traces = [str(tree) for tree in system.cgroup_trees(node.name)] + system.mounts_below(node.folder)
    traces += [f"process {pid}" for pid in system.find_processes(str(node.folder))]
    return traces + ([str(node.folder)] if node.folder.exists() else [])


def test_first_instruction_program_reports_a_bad_file_descriptor(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("first", "demo", {"app": "first"}))
    container = node.cri.run(pod, ContainerSpec(image=FIRST.reference))
    assert node.cri.wait_exit(container) == 0
    assert node.cri.log_text(container) == "Bad file descriptor\n"
    node.cri.remove_pod(pod)


def test_node_runs_the_version_it_names(node: Node) -> None:
    assert node.version.startswith(VERSIONS[node.runtime])
    assert node.nri_socket.is_socket()


def test_container_has_the_cgroup_and_labels_of_its_pod(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("web", "prod", {"app": "web"}, uid="u-1"))
    container = node.cri.run(pod, SLEEP)
    cgroups = node.cri.exec(container, "cat", "/proc/1/cgroup").stdout.splitlines()
    assert f"0::/{node.name}/podu-1/{container.id}" in cgroups
    labels = node.cri.info(container)["config"]["labels"]
    assert labels["io.kubernetes.pod.namespace"] == "prod"
    node.cri.remove_pod(pod)


def test_exit_code_of_a_killed_container_names_the_signal(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("killed"))
    container = node.cri.run(pod, SLEEP)
    os.kill(node.cri.pid(container), signal.SIGKILL)
    assert node.cri.wait_exit(container) == 128 + signal.SIGKILL
    node.cri.remove_pod(pod)


def test_containers_outlive_a_crash_of_the_runtime(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("lasting"))
    container = node.cri.run(pod, SLEEP)
    before = node.pid
    node.restart(crash=True)
    assert node.pid not in (0, before)
    assert node.cri.list_containers()[container.id] is State.RUNNING
    node.cri.remove_pod(pod)
    assert container.id not in node.cri.list_containers()


def test_eight_threads_run_pods_at_once(node: Node) -> None:
    def cycle(number: int) -> str:
        pod = node.cri.run_pod(PodSpec(f"pod-{number}"))
        container = node.cri.run(pod, ContainerSpec(command=("echo", str(number))))
        node.cri.wait_exit(container)
        text = node.cri.log_text(container)
        node.cri.remove_pod(pod)
        return text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(cycle, range(8))) == [f"{number}\n" for number in range(8)]


def test_stop_removes_running_pods_and_every_trace() -> None:
    node = Node()
    container = node.cri.run(node.cri.run_pod(PodSpec("left")), SLEEP)
    pid = node.cri.pid(container)
    assert find_traces(node)
    node.stop()
    assert not system.is_running(pid)
    assert find_traces(node) == []


@pytest.mark.parametrize("runtime", list(Runtime))
def test_stop_cleans_up_after_a_runtime_that_has_crashed(runtime: Runtime) -> None:
    node = Node(runtime)
    container = node.cri.run(node.cri.run_pod(PodSpec("orphan")), SLEEP)
    pid = node.cri.pid(container)
    os.kill(node.pid, signal.SIGKILL)
    wait_until(lambda: not node.pid, 10, "containerd to end")
    assert system.is_running(pid)
    node.stop()
    assert not system.is_running(pid)
    assert find_traces(node) == []
    node.stop()


def test_node_without_nri_has_no_nri_socket() -> None:
    with Node(options=NodeOptions(nri=False), images=()) as node:
        assert not node.nri_socket.exists()


def test_unusable_oci_runtime_is_reported_by_the_start_of_a_pod(tmp_path: Path) -> None:
    options = NodeOptions(oci_runtime=tmp_path / "absent")
    with Node(options=options) as node, pytest.raises(grpc.RpcError, match="absent"):
        node.cri.run_pod(PodSpec("never"))


def test_node_that_cannot_start_reports_the_log_and_cleans_up() -> None:
    with pytest.raises(NodeError) as caught:
        Node(options=NodeOptions(nri_request_timeout="no-duration"))
    name = caught.value.what.partition(":")[0]
    assert "no-duration" in caught.value.log
    assert list(Path("/tmp").glob(f"{name}*")) == []
