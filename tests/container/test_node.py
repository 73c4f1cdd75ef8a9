# SPDX-License-Identifier: Apache-2.0
"""Real containerd nodes: a container's whole life, a restart beneath it, and an end that leaves nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support import system
from tests.support.cri import ContainerSpec, InitError, PodSpec, State, static_pod
from tests.support.image import FIRST
from tests.support.node import Node, NodeError, NodeOptions, Runc, Runtime, default_spec
from tests.support.oci_hooks import CREATE_CONTAINER, CREATE_RUNTIME, POSTSTOP, Recorder
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

VERSIONS = {Runtime.CONTAINERD_2: "2.", Runtime.CONTAINERD_1_7: "1.7."}
SLEEP = ContainerSpec(name="sleeper", command=("sleep", "1000"))


@pytest.fixture(params=list(Runtime), ids=lambda runtime: runtime.name.lower(), scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    with Node(request.param) as running:
        yield running


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "hook")


Case = tuple[Runtime, Runc]
CASES = [(Runtime.CONTAINERD_2, Runc.SYSTEM), (Runtime.CONTAINERD_2, Runc.NEW), (Runtime.CONTAINERD_1_7, Runc.SYSTEM)]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(part.name.lower() for part in case))
def runtime_and_runc(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


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


def test_init_containers_run_one_after_the_other_and_before_the_rest(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("ordered"))
    first, second = node.cri.run_init(
        pod,
        ContainerSpec(name="first", command=("echo", "1")),
        ContainerSpec(name="second", command=("echo", "2")),
    )
    assert node.cri.status(first).finished_at <= node.cri.status(second).started_at
    assert (node.cri.log_text(first), node.cri.log_text(second)) == ("1\n", "2\n")
    node.cri.remove_pod(pod)


def test_init_container_that_fails_ends_the_sequence(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("failing"))
    fails = ContainerSpec(name="fails", command=("sh", "-c", "echo why; exit 3"))
    with pytest.raises(InitError, match="init container fails ended with 3: why"):
        node.cri.run_init(pod, fails, ContainerSpec(name="never", command=("true",)))
    assert [entry.name for entry in node.cri.list_entries() if entry.pod_id == pod.id] == ["fails"]
    node.cri.remove_pod(pod)


def test_restart_is_another_container_of_the_same_name_with_the_next_attempt(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("again"))
    spec = ContainerSpec(command=("echo", "run"))
    first = node.cri.run(pod, spec)
    node.cri.wait_exit(first)
    second = node.cri.restart(first, spec)
    node.cri.wait_exit(second)
    entries = {entry.id: entry for entry in node.cri.list_entries() if entry.pod_id == pod.id}
    assert [(entries[which.id].name, entries[which.id].attempt) for which in (first, second)] == [
        ("main", 0),
        ("main", 1),
    ]
    assert entries[second.id].annotations["io.kubernetes.container.restartCount"] == "1"
    assert (node.cri.log_text(first), node.cri.log_text(second)) == ("run\n", "run\n")
    node.cri.remove_pod(pod)


def test_memory_limit_holds_the_container(node: Node) -> None:
    pod = node.cri.run_pod(PodSpec("small"))
    container = node.cri.run(pod, ContainerSpec(command=("sleep", "1000"), memory_bytes=32 << 20))
    assert node.cri.info(container)["runtimeSpec"]["linux"]["resources"]["memory"]["limit"] == 32 << 20
    node.cri.remove_pod(pod)


def test_sandbox_tells_labels_annotations_process_and_end(node: Node) -> None:
    spec = static_pod("apiserver", labels={"tier": "control-plane"})
    pod = node.cri.run_pod(spec)
    status = node.cri.pod_status(pod)
    assert status.ready
    assert (status.name, status.namespace, status.uid) == ("apiserver", "kube-system", spec.uid)
    assert status.labels["tier"] == "control-plane"
    assert status.annotations["kubernetes.io/config.source"] == "file"
    assert status.annotations["kubernetes.io/config.hash"] == spec.uid
    assert system.is_running(node.cri.pod_info(pod)["pid"])
    node.cri.stop_pod(pod)
    assert not node.cri.pod_status(pod).ready
    node.cri.remove_pod(pod)


def test_hooks_of_the_base_spec_run_for_containers(runtime_and_runc: Case, recorder: Recorder) -> None:
    runtime, runc = runtime_and_runc
    stages = (CREATE_RUNTIME, CREATE_CONTAINER, POSTSTOP)
    options = NodeOptions(oci_runtime=runc.path, hooks=tuple(map(recorder.hook, stages)))
    with Node(runtime, options) as node:
        pod = node.cri.run_pod(PodSpec("hooked", "team", uid="u-9"))
        container = node.cri.run(pod, SLEEP)
        records = {record.stage: record for record in recorder.records(container.id)}
        assert sorted(records) == [CREATE_CONTAINER, CREATE_RUNTIME]
        inside, outside = records[CREATE_CONTAINER], records[CREATE_RUNTIME]
        pid = node.cri.pid(container)
        assert inside.cgroup == f"/{node.name}/podu-9/{container.id}"
        assert (inside.ppid, inside.state["pid"], outside.state["pid"]) == (pid, 1, pid)
        assert node.name not in outside.cgroup
        annotations = inside.state["annotations"]
        assert annotations["io.kubernetes.cri.container-type"] == "container"
        assert annotations["io.kubernetes.cri.sandbox-namespace"] == "team"
        node.cri.remove_pod(pod)
        wait_until(lambda: stopped(recorder) == [container.id], 20, "the poststop hook")


@pytest.mark.parametrize("runtime", list(Runtime))
def test_base_spec_is_not_that_of_sandboxes(runtime: Runtime, recorder: Recorder) -> None:
    """containerd takes its own default for a pod's sandbox process, whatever base spec its handler has."""
    with Node(runtime, NodeOptions(hooks=(recorder.hook(CREATE_RUNTIME),))) as node:
        pod = node.cri.run_pod(PodSpec("bare"))
        assert "hooks" not in node.cri.pod_info(pod)["runtimeSpec"]
    assert recorder.records() == []


def stopped(recorder: Recorder) -> list[str]:
    """For which containers poststop ran."""
    return [record.container for record in recorder.records() if record.stage == POSTSTOP]


@pytest.mark.parametrize("runtime", list(Runtime))
def test_status_1_of_a_hook_refuses_the_container(runtime: Runtime, recorder: Recorder) -> None:
    options = NodeOptions(hooks=(recorder.hook(CREATE_CONTAINER, status=1),))
    with Node(runtime, options) as node:
        container = node.cri.create(node.cri.run_pod(PodSpec("refused")), SLEEP)
        with pytest.raises(grpc.RpcError, match="exit status 1"):
            node.cri.start(container)
        assert node.cri.status(container).state is State.EXITED
    assert [record.container for record in recorder.records()] == [container.id]


def test_hooks_are_added_to_the_base_spec_that_is_named(tmp_path: Path, recorder: Recorder) -> None:
    spec = default_spec(Runtime.CONTAINERD_2)
    spec["annotations"] = {"from": "base"}
    base = tmp_path / "base.json"
    base.write_text(json.dumps(spec))
    with Node(options=NodeOptions(base_spec=base, hooks=(recorder.hook(CREATE_RUNTIME),))) as node:
        container = node.cri.run(node.cri.run_pod(PodSpec("based")), SLEEP)
        (record,) = recorder.records(container.id)
    assert record.state["annotations"]["from"] == "base"


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
