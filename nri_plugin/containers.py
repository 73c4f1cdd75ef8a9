# SPDX-License-Identifier: Apache-2.0
"""From NRI's PodSandbox and Container to what the agent is told. Pure.

A runtime is trusted with the node, but a field that is missing or huge means that we misunderstand each other: such a
container is rejected with the reason, not bound by guess.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from nri_plugin.api import nri_pb2
from rthook.api import hook_pb2

# Container and sandbox ids are 64 hex digits; names and namespaces are Kubernetes' DNS names of 253 characters at
# most; image references and uids are shorter than this too.
MAX_NAME = 1024
# The kernel's PATH_MAX.
MAX_PATH = 4096
# The API server refuses objects above 1.5 MiB, in practice a pod has a few dozen labels of 316 + 63 characters.
MAX_LABELS_SIZE = 256 << 10
# The kernel's PID_MAX_LIMIT on 64 bits (include/linux/threads.h).
MAX_PID = 4 << 20
# Where runtimes before NRI 0.12 tell the image. cri-o copies a pod's own annotations to its containers, and writes its
# keys over them: containerd's key counts only where cri-o's id is not the container's own, which no pod's author knows.
CONTAINERD_IMAGES = ("io.kubernetes.cri.image-name",)
CRIO_IMAGES = ("io.kubernetes.cri-o.ImageName", "io.kubernetes.cri-o.Image")
CRIO_ID = "io.kubernetes.cri-o.ContainerID"
# What kubelets ask for is an image's id, and runtimes may tell just that: containerd's form, and cri-o's digits alone.
IMAGE_ID = re.compile(r"sha(?:256|384|512):[0-9a-f]*|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is kept of a PodSandbox."""

    id: str
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """The container or sandbox that a decision is about, for the log; cut to MAX_NAME each."""

    container_id: str
    pod: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A container or sandbox that cannot be bound, and why."""

    subject: Subject
    reason: str


def parse_sandbox(pod: nri_pb2.PodSandbox) -> Sandbox:
    """A copy, so that the message that `pod` came in is not kept."""
    return Sandbox(pod.id, pod.name, pod.namespace, pod.uid, dict(pod.labels))


def name_subject(sandbox: Sandbox, container_id: str) -> Subject:
    """Who a decision is about, whatever the runtime sent."""
    return Subject(container_id[:MAX_NAME], sandbox.name[:MAX_NAME], sandbox.namespace[:MAX_NAME])


def parse_container(
    sandbox: Sandbox, container: nri_pb2.Container, phase: "hook_pb2.Phase"
) -> hook_pb2.Container | Rejection:
    """The container as the agent wants it, or why it cannot be told."""
    converted = hook_pb2.Container(
        id=container.id,
        name=container.name,
        pod_name=sandbox.name,
        pod_namespace=sandbox.namespace,
        pod_uid=sandbox.uid,
        pod_labels=sandbox.labels,
        cgroups_path=container.linux.cgroups_path,
        pid=container.pid,
        image=find_image(container),
        sandbox_id=container.pod_sandbox_id or sandbox.id,
        phase=phase,
    )
    reason = find_fault(converted)
    return converted if reason is None else Rejection(name_subject(sandbox, container.id), reason)


def parse_pod(pod: nri_pb2.PodSandbox) -> hook_pb2.Container | Rejection:
    """The pod's sandbox as the agent wants it: its pause process runs whenever we hear of it."""
    converted = hook_pb2.Container(
        id=pod.id,
        pod_name=pod.name,
        pod_namespace=pod.namespace,
        pod_uid=pod.uid,
        pod_labels=pod.labels,
        cgroups_path=pod.linux.cgroups_path,
        pid=pod.pid,
        sandbox_id=pod.id,
        phase=hook_pb2.PHASE_RUNNING,
        kind=hook_pb2.KIND_SANDBOX,
        cgroup_parent=pod.linux.cgroup_parent,
    )
    reason = find_fault(converted)
    return converted if reason is None else Rejection(name_subject(parse_sandbox(pod), pod.id), reason)


def find_image(container: nri_pb2.Container) -> str:
    """The image's name, else its id, empty if the runtime does not tell."""
    is_crio = container.annotations.get(CRIO_ID) == container.id
    keys = CRIO_IMAGES if is_crio else CONTAINERD_IMAGES
    told = [container.image.name, *(container.annotations.get(key, "") for key in keys)]
    names = (text for text in told if text and not IMAGE_ID.fullmatch(text))
    return next(names, next(filter(None, told), ""))


def find_fault(container: hook_pb2.Container) -> str | None:
    """Why the container cannot be bound, or None."""
    missing = [name for name in ("id", "pod_namespace") if not getattr(container, name)]
    if missing:
        return f"the runtime sent no {missing[0]}"
    if not 0 < container.pid <= MAX_PID:
        return f"the runtime sent pid {container.pid}"
    for name in ("id", "name", "pod_name", "pod_namespace", "pod_uid", "image", "sandbox_id"):
        if len(getattr(container, name)) > MAX_NAME:
            return f"{name} is longer than {MAX_NAME} characters"
    for name in ("cgroups_path", "cgroup_parent"):
        if len(getattr(container, name)) > MAX_PATH:
            return f"{name} is longer than {MAX_PATH} characters"
    if sum(len(key) + len(value) for key, value in container.pod_labels.items()) > MAX_LABELS_SIZE:
        return f"the pod's labels are larger than {MAX_LABELS_SIZE} characters"
    return None
