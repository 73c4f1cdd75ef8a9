# SPDX-License-Identifier: Apache-2.0
"""From NRI's calls to actions."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_plugin import synchronize
from nri_plugin.api import nri_pb2
from nri_plugin.containers import MAX_LABELS_SIZE, MAX_NAME, MAX_PATH, MAX_PID, Rejection, find_image
from nri_plugin.handlers import (
    PLUGIN_SERVICE,
    Action,
    Answer,
    Bind,
    BindSandbox,
    Configure,
    Refuse,
    Synchronize,
    Unbind,
    Unreadable,
    compute_event_mask,
    handle,
)
from nri_plugin.synchronize import SynchronizeParts
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2
from tests.protocol.fakes import GENERATIONS, PID, Generation, make_container, make_pod, start_event


def act(method: str, payload: bytes = b"", parts: SynchronizeParts | None = None) -> Action:
    return handle(Request(1, PLUGIN_SERVICE, method, payload), parts or SynchronizeParts())


def refusal_of(pod: nri_pb2.PodSandbox, container: nri_pb2.Container) -> str:
    """Why the start is refused."""
    action = act("StartContainer", nri_pb2.StartContainerRequest(pod=pod, container=container).SerializeToString())
    assert isinstance(action, Unreadable)
    return action.rejection.reason


def synchronized(*containers: nri_pb2.Container) -> Synchronize:
    request = nri_pb2.SynchronizeRequest(pods=[make_pod()], containers=containers)
    action = act("Synchronize", request.SerializeToString())
    assert isinstance(action, Synchronize)
    return action


RUNTIMES = (
    ("containerd", "1.7.24~ds1", ""),
    ("containerd", "2.1.9+unknown", ""),
    ("cri-o", "1.37.0", "0.12.0"),
    ("", "", ""),
)


@pytest.mark.parametrize(("name", "version", "nri_version"), RUNTIMES)
def test_the_mask_names_the_events_that_have_handlers_and_every_runtime_knows(
    name: str, version: str, nri_version: str
) -> None:
    request = nri_pb2.ConfigureRequest(runtime_name=name, runtime_version=version, NRI_version=nri_version)
    action = act("Configure", request.SerializeToString())
    assert isinstance(action, Configure)
    assert (action.runtime.name, action.runtime.version, action.runtime.nri_version) == (name, version, nri_version)
    assert action.events == (1 << 0) | (1 << 2) | (1 << 5) | (1 << 10)
    # The runtime ends the connection on any bit outside of its own; containerd 1.7 knows the fewest.
    assert action.events & ~0x7FF == 0


@pytest.mark.parametrize(("told", "taken"), [(500, 500), (0, 0), (-1, 0), (1 << 62, 0)])
def test_a_timeout_out_of_range_counts_as_not_told(told: int, taken: int) -> None:
    action = act("Configure", nri_pb2.ConfigureRequest(request_timeout=told).SerializeToString())
    assert isinstance(action, Configure)
    assert action.runtime.request_timeout_ms == taken


def test_an_event_named_twice_counts_once() -> None:
    assert compute_event_mask([6, 6]) == 1 << 5


@pytest.mark.parametrize(
    ("method", "payload"),
    [
        ("StateChange", start_event(make_container())),
        (
            "StartContainer",
            nri_pb2.StartContainerRequest(pod=make_pod(), container=make_container()).SerializeToString(),
        ),
    ],
)
def test_a_start_of_either_generation_is_a_bind(method: str, payload: bytes) -> None:
    action = act(method, payload)
    assert isinstance(action, Bind)
    assert action.container == hook_pb2.Container(
        id="c1",
        name="nginx",
        pod_name="web-0",
        pod_namespace="shop",
        pod_uid="uid-1",
        pod_labels={"app": "web"},
        cgroups_path="/kubepods/pod1/c1",
        pid=PID,
        image="registry/nginx:1",
        sandbox_id="sandbox-1",
        phase=hook_pb2.PHASE_HELD,
    )
    assert (action.subject.pod, action.subject.namespace) == ("web-0", "shop")


def test_the_image_field_comes_before_the_annotation() -> None:
    container = make_container()
    container.image.name = "registry/other:2"
    action = act("StateChange", start_event(container))
    assert isinstance(action, Bind)
    assert action.container.image == "registry/other:2"


@pytest.mark.parametrize("identifier", ["sha256:" + "0a" * 32, "0a" * 32])
def test_a_name_in_the_annotation_comes_before_an_id_in_the_field(identifier: str) -> None:
    container = make_container()
    container.image.name = identifier
    assert find_image(container) == "registry/nginx:1"
    container.annotations.clear()
    assert find_image(container) == identifier


def test_of_a_container_of_crio_its_own_annotations_count() -> None:
    """The others may be the pod's, which anybody writes."""
    container = make_container("c1")
    container.annotations["io.kubernetes.cri-o.ImageName"] = "0a" * 32
    container.annotations["io.kubernetes.cri-o.Image"] = "quay.io/web:1"
    assert find_image(container) == "registry/nginx:1"
    container.annotations["io.kubernetes.cri-o.ContainerID"] = "another"
    assert find_image(container) == "registry/nginx:1"
    container.annotations["io.kubernetes.cri-o.ContainerID"] = "c1"
    assert find_image(container) == "quay.io/web:1"
    container.annotations["io.kubernetes.cri-o.ImageName"] = "quay.io/web@sha256:0a"
    assert find_image(container) == "quay.io/web@sha256:0a"


@pytest.mark.parametrize("method", ["StateChange", "RemoveContainer"])
def test_a_removal_of_either_generation_is_an_unbind(method: str) -> None:
    event = nri_pb2.StateChangeEvent(event=nri_pb2.REMOVE_CONTAINER, container=make_container())
    remove = nri_pb2.RemoveContainerRequest(container=make_container())
    payload = {"StateChange": event, "RemoveContainer": remove}[method].SerializeToString()
    assert act(method, payload) == Unbind("c1")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_sandbox_of_either_generation_is_bound_as_running(generation: Generation) -> None:
    action = act(*generation.run_sandbox(make_pod(pid=PID)))
    assert isinstance(action, BindSandbox)
    assert action.sandbox == hook_pb2.Container(
        id="sandbox-1",
        pod_name="web-0",
        pod_namespace="shop",
        pod_uid="uid-1",
        pod_labels={"app": "web"},
        cgroups_path="/kubepods/pod1/sandbox-1",
        cgroup_parent="/kubepods/pod1",
        pid=PID,
        sandbox_id="sandbox-1",
        phase=hook_pb2.PHASE_RUNNING,
        kind=hook_pb2.KIND_SANDBOX,
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_sandbox_of_either_generation_without_a_process_is_no_fault(generation: Generation) -> None:
    action = act(*generation.run_sandbox(make_pod()))
    assert isinstance(action, BindSandbox)
    assert action.sandbox is None


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_sandbox_of_either_generation_is_forgotten_at_its_removal(generation: Generation) -> None:
    assert act(*generation.remove_sandbox(make_pod())) == Unbind("sandbox-1")


def test_a_sandbox_with_a_huge_field_is_rejected() -> None:
    pod = make_pod(pid=PID)
    pod.linux.cgroup_parent = "/" * (MAX_PATH + 1)
    action = act(*GENERATIONS[0].run_sandbox(pod))
    assert isinstance(action, BindSandbox)
    assert isinstance(action.sandbox, Rejection)
    assert action.sandbox.reason.startswith("cgroup_parent is longer")


def test_an_event_that_was_not_subscribed_to_is_answered() -> None:
    event = nri_pb2.StateChangeEvent(event=nri_pb2.STOP_POD_SANDBOX, pod=make_pod())
    assert act("StateChange", event.SerializeToString()) == Answer()


def test_shutdown_is_answered() -> None:
    assert act("Shutdown") == Answer()


@pytest.mark.parametrize(
    ("service", "method"), [(PLUGIN_SERVICE, "CreateContainer"), (PLUGIN_SERVICE, ""), ("other", "StateChange")]
)
def test_an_unknown_method_is_unimplemented(service: str, method: str) -> None:
    action = handle(Request(1, service, method, b""), SynchronizeParts())
    assert isinstance(action, Refuse)
    assert action.code == 12


METHODS = (
    "Configure",
    "Synchronize",
    "StateChange",
    "StartContainer",
    "RemoveContainer",
    "RunPodSandbox",
    "RemovePodSandbox",
)


@pytest.mark.parametrize("method", METHODS)
def test_a_malformed_message_is_invalid(method: str) -> None:
    action = act(method, b"\xff")
    assert isinstance(action, Refuse)
    assert action.code is Code.INVALID_ARGUMENT


@given(st.sampled_from(METHODS), st.binary(max_size=100))
def test_junk_is_an_action(method: str, payload: bytes) -> None:
    assert isinstance(act(method, payload), Action)


@pytest.mark.parametrize("pid", [0, MAX_PID + 1])
def test_a_start_without_a_process_is_refused(pid: int) -> None:
    assert refusal_of(make_pod(), make_container(pid=pid)) == f"the runtime sent pid {pid}"


def test_a_start_without_an_id_is_refused() -> None:
    assert refusal_of(make_pod(), make_container(container_id="")) == "the runtime sent no id"


def test_a_start_without_a_namespace_is_refused() -> None:
    assert refusal_of(nri_pb2.PodSandbox(name="web-0"), make_container()) == "the runtime sent no pod_namespace"


def test_huge_fields_are_refused() -> None:
    container = make_container(container_id="x" * (MAX_NAME + 1))
    assert refusal_of(make_pod(), container).startswith("id is longer")
    assert refusal_of(make_pod("u" * (MAX_NAME + 1)), make_container()).startswith("pod_uid is longer")
    container = make_container()
    container.linux.cgroups_path = "/" * (MAX_PATH + 1)
    assert refusal_of(make_pod(), container).startswith("cgroups_path is longer")
    pod = make_pod()
    pod.labels["k"] = "v" * MAX_LABELS_SIZE
    assert refusal_of(pod, make_container()).startswith("the pod's labels are larger")


def test_the_subject_of_a_refusal_is_cut() -> None:
    container = make_container(container_id="x" * (1 << 20))
    action = act("StateChange", start_event(container))
    assert isinstance(action, Unreadable)
    assert len(action.rejection.subject.container_id) == MAX_NAME


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (nri_pb2.CONTAINER_CREATED, hook_pb2.PHASE_HELD),
        (nri_pb2.CONTAINER_RUNNING, hook_pb2.PHASE_RUNNING),
        (nri_pb2.CONTAINER_PAUSED, hook_pb2.PHASE_RUNNING),
        (nri_pb2.CONTAINER_UNKNOWN, hook_pb2.PHASE_RUNNING),
    ],
)
def test_containers_with_a_process_are_announced(state: "nri_pb2.ContainerState", phase: "hook_pb2.Phase") -> None:
    (container,) = synchronized(make_container(state=state)).inventory.containers
    assert (container.id, container.pid, container.phase) == ("c1", PID, phase)
    assert (container.pod_namespace, dict(container.pod_labels)) == ("shop", {"app": "web"})


@pytest.mark.parametrize(
    ("state", "pid"),
    [
        (nri_pb2.CONTAINER_CREATED, 0),
        (nri_pb2.CONTAINER_RUNNING, 0),
        (nri_pb2.CONTAINER_UNKNOWN, 0),
        (nri_pb2.CONTAINER_STOPPED, 0),
        # Its pid may be anybody's by now.
        (nri_pb2.CONTAINER_STOPPED, PID),
    ],
)
def test_containers_without_a_process_are_left_out(state: "nri_pb2.ContainerState", pid: int) -> None:
    inventory = synchronized(make_container(state=state, pid=pid)).inventory
    assert (inventory.containers, inventory.rejected) == ((), ())


def test_a_container_without_its_pod_is_rejected_and_the_others_are_not() -> None:
    stray = make_container("c2", state=nri_pb2.CONTAINER_RUNNING)
    stray.pod_sandbox_id = "elsewhere"
    inventory = synchronized(stray, make_container("c1", state=nri_pb2.CONTAINER_RUNNING)).inventory
    assert [container.id for container in inventory.containers] == ["c1"]
    assert [(r.subject.container_id, r.reason) for r in inventory.rejected] == [
        ("c2", "the runtime sent no pod_namespace")
    ]


def test_sandboxes_with_a_process_are_announced_before_the_containers() -> None:
    pods = [make_pod(pid=PID), nri_pb2.PodSandbox(id="stopped", namespace="shop")]
    containers = [make_container(state=nri_pb2.CONTAINER_RUNNING)]
    action = act("Synchronize", nri_pb2.SynchronizeRequest(pods=pods, containers=containers).SerializeToString())
    assert isinstance(action, Synchronize)
    told = [(container.id, container.kind) for container in action.inventory.containers]
    assert told == [("sandbox-1", hook_pb2.KIND_SANDBOX), ("c1", hook_pb2.KIND_CONTAINER)]
    assert action.inventory.rejected == ()


def test_sandboxes_beyond_the_limit_are_rejected_and_no_container_is() -> None:
    pods = [nri_pb2.PodSandbox(id=f"p{i}", namespace="shop", pid=PID) for i in range(3)]
    container = make_container(state=nri_pb2.CONTAINER_RUNNING)
    container.pod_sandbox_id = "p2"
    with patch.object(synchronize, "MAX_SANDBOXES", 2):
        request = nri_pb2.SynchronizeRequest(pods=pods, containers=[container])
        action = act("Synchronize", request.SerializeToString())
    assert isinstance(action, Synchronize)
    assert [container.id for container in action.inventory.containers] == ["p0", "p1", "c1"]
    [rejection] = action.inventory.rejected
    assert (rejection.subject.container_id, rejection.reason) == ("p2", "more than 2 sandboxes run")


def test_parts_that_keep_too_many_bytes_are_refused_and_forgotten() -> None:
    parts = SynchronizeParts()
    containers = [make_container(f"c{i}") for i in range(3)]
    for container in containers:
        container.name = "n" * 1000
    request = nri_pb2.SynchronizeRequest(containers=containers, more=True)
    with patch.object(synchronize, "MAX_KEPT", 2000):
        action = act("Synchronize", request.SerializeToString(), parts)
    assert isinstance(action, Refuse)
    assert action.code is Code.RESOURCE_EXHAUSTED
    assert parts.finish().containers == ()


def test_annotations_that_are_not_read_are_not_kept() -> None:
    container = make_container(state=nri_pb2.CONTAINER_RUNNING)
    container.annotations["huge"] = "x" * 5000
    with patch.object(synchronize, "MAX_KEPT", 2000):
        (told,) = synchronized(container).inventory.containers
    assert told.image == "registry/nginx:1"


def test_parts_are_joined_whichever_carries_the_pod() -> None:
    parts = SynchronizeParts()
    first = nri_pb2.SynchronizeRequest(containers=[make_container("c1")], more=True)
    answer = act("Synchronize", first.SerializeToString(), parts)
    assert isinstance(answer, Answer)
    assert nri_pb2.SynchronizeResponse.FromString(answer.payload).more
    last = nri_pb2.SynchronizeRequest(pods=[make_pod()], containers=[make_container("c2")])
    action = act("Synchronize", last.SerializeToString(), parts)
    assert isinstance(action, Synchronize)
    assert [container.id for container in action.inventory.containers] == ["c1", "c2"]


def test_a_second_synchronize_starts_empty() -> None:
    parts = SynchronizeParts()
    full = nri_pb2.SynchronizeRequest(pods=[make_pod()], containers=[make_container()]).SerializeToString()
    act("Synchronize", full, parts)
    action = act("Synchronize", b"", parts)
    assert isinstance(action, Synchronize)
    assert action.inventory.containers == ()


def test_parts_without_end_are_refused_and_forgotten() -> None:
    parts = SynchronizeParts()
    request = nri_pb2.SynchronizeRequest(containers=[make_container(f"c{i}") for i in range(3)], more=True)
    with patch.object(synchronize, "MAX_CONTAINERS", 2):
        action = act("Synchronize", request.SerializeToString(), parts)
    assert isinstance(action, Refuse)
    assert action.code is Code.RESOURCE_EXHAUSTED
    assert parts.finish().rejected == ()
