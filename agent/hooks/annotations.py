# SPDX-License-Identifier: Apache-2.0
"""Whose container it is, from the annotations that a container runtime gives its OCI runtime. Pure.

Theory of operation. Each runtime has a family of keys. With a named runtime only its family counts; a container that
has nothing of the family is in no pod (podman's plain containers run through the same hooks as cri-o's).

Who wrote a key decides what it is worth. A pod's author writes the pod's annotations, and runtimes copy those:

- cri-o puts all of the pod's annotations into a container's first, then its own keys, then the container's labels as
  keys of their own, among them the kubelet's io.kubernetes.pod.*. So of a container these are sound: ContainerID,
  ContainerType, SandboxID, SandboxName, Labels, ImageName, io.kubernetes.pod.*, io.kubernetes.container.name.
  `io.kubernetes.cri-o.Namespace`, `.KubeName` and `.ContainerName` are not: cri-o writes them for sandboxes alone.
- cri-o puts the pod's annotations into a sandbox's after its own keys (releases that filter them are recent), and the
  pod's labels last. So of a sandbox io.kubernetes.pod.* come first.
- `io.kubernetes.cri-o.Labels` is of the object itself: of a sandbox the pod's labels, of a container the container's
  (which say the pod, and have none of its labels).
- containerd copies what its configuration lets pass (pod_annotations), then writes its own keys.
- podman copies an image's annotations, then those of its command line.

With `auto` the keys that are there decide, and families that are there must not contradict each other. What proves
itself needs no agreement: a cri-o ContainerID that is the container's own id, which a pod's author cannot know.

Sources: cri-o internal/factory/container and server/sandbox_run_linux.go, containerd internal/cri/annotations, podman
pkg/specgen/generate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from agent.hooks.errors import AnnotationError, Reason
from agent.hooks.limits import MAX_ID, MAX_IMAGE, MAX_NAME
from agent.hooks.spec import fault_of, parse_labels
from agent.workload.identity import ContainerId, ContainerIdentity, Labels, PodUid, freeze_labels
from agent.workload.images import choose_image

_CRI = "io.kubernetes.cri."
_CRIO = "io.kubernetes.cri-o."
_POD = "io.kubernetes.pod."
_CONTAINER_NAME = "io.kubernetes.container.name"
CRIO_ID = _CRIO + "ContainerID"
CRIO_LABELS = _CRIO + "Labels"


class Runtime(Enum):
    """Whose annotations to read."""

    CONTAINERD = "containerd"
    CRIO = "crio"
    PODMAN = "podman"
    AUTO = "auto"


class Kind(Enum):
    """In the runtimes' words."""

    CONTAINER = "container"
    SANDBOX = "sandbox"


@dataclass(frozen=True, slots=True)
class AnnotatedIdentity:
    """namespace and pod_name: empty for a container in no pod. sandbox_id: empty when it is not told. labels: the
    pod's; None when the annotations cannot tell.
    """

    namespace: str
    pod_name: str
    pod_uid: str
    container_name: str
    image: str
    sandbox_id: str
    kind: Kind
    labels: Labels | None

    def of_container(self, container: str, labels: Labels) -> ContainerIdentity:
        return ContainerIdentity(
            ContainerId(container),
            self.container_name,
            self.namespace,
            self.pod_name,
            PodUid(self.pod_uid),
            labels,
            self.image,
            sandbox=self.kind is Kind.SANDBOX,
        )


OUTSIDE = AnnotatedIdentity("", "", "", "", "", "", Kind.CONTAINER, ())
"""A container in no pod: it has no labels, and policies that select by pod do not concern it."""


def identify(annotations: Mapping[str, str], runtime: Runtime, container: str) -> AnnotatedIdentity:
    """container: its id. Raises AnnotationError, SpecError for labels that cannot be read."""
    keys = _Keys(annotations)
    if runtime is Runtime.AUTO:
        return _choose(keys, container) or OUTSIDE
    return _FAMILIES[runtime](keys) or OUTSIDE


def _choose(keys: _Keys, container: str) -> AnnotatedIdentity | None:
    """Of families that agree containerd's comes first: its labels are asked for, not believed."""
    if keys.name(CRIO_ID, MAX_ID) == container:
        return _crio(keys)
    found = [each for each in (_containerd(keys), _crio(keys), _podman(keys)) if each]
    for other in found[1:]:
        _check_agreement(found[0], other)
    return found[0] if found else None


def _check_agreement(first: AnnotatedIdentity, other: AnnotatedIdentity) -> None:
    for name in ("namespace", "pod_name", "pod_uid", "container_name", "sandbox_id", "kind"):
        one, two = getattr(first, name), getattr(other, name)
        if one and two and one != two:
            raise AnnotationError(
                Reason.INVALID, f"{_CRI}*, {_CRIO}* or {_POD}*", f"they contradict each other in {name}: {one}, {two}"
            )


@dataclass(frozen=True, slots=True)
class _Keys:
    annotations: Mapping[str, str]

    def has(self, *keys: str) -> bool:
        return any(key in self.annotations for key in keys)

    def name(self, key: str, limit: int = MAX_NAME) -> str:
        """Empty when it is absent."""
        text = self.annotations.get(key, "")
        if fault := fault_of(text, limit):
            raise AnnotationError(Reason.INVALID, key, fault)
        return text

    def first(self, *keys: str) -> str:
        """The value of the first of them that is there and not empty."""
        return next(filter(None, map(self.name, keys)), "")

    def kind(self, key: str) -> Kind:
        """Of a container when it is absent."""
        try:
            return Kind(self.name(key) or Kind.CONTAINER.value)
        except ValueError as error:
            raise AnnotationError(
                Reason.INVALID, key, f"is {self.annotations[key]}, not container or sandbox"
            ) from error

    def labels(self, key: str) -> Labels:
        return freeze_labels(parse_labels(self.annotations[key], f"annotation {key}")) if self.has(key) else ()


def _whole(identity: AnnotatedIdentity, prefix: str) -> AnnotatedIdentity:
    """A pod has a namespace and a name."""
    for name, value in (("namespace", identity.namespace), ("name", identity.pod_name)):
        if not value:
            raise AnnotationError(Reason.UNIDENTIFIED, f"{prefix}*", f"the pod's {name} is missing")
    return identity


def _containerd(keys: _Keys) -> AnnotatedIdentity | None:
    if not keys.has(_CRI + "container-type", _CRI + "sandbox-namespace"):
        return None
    identity = AnnotatedIdentity(
        keys.name(_CRI + "sandbox-namespace"),
        keys.name(_CRI + "sandbox-name"),
        keys.name(_CRI + "sandbox-uid"),
        keys.name(_CRI + "container-name"),
        keys.name(_CRI + "image-name", MAX_IMAGE),
        keys.name(_CRI + "sandbox-id", MAX_ID),
        keys.kind(_CRI + "container-type"),
        None,
    )
    return _whole(identity, _CRI)


def _crio(keys: _Keys) -> AnnotatedIdentity | None:
    if not keys.has(CRIO_ID):
        return None
    kind = keys.kind(_CRIO + "ContainerType")
    namespace, name, uid = _crio_sandbox(keys) if kind is Kind.SANDBOX else _crio_pod(keys)
    identity = AnnotatedIdentity(
        namespace,
        name,
        uid,
        keys.name(_CONTAINER_NAME),
        choose_image(keys.name(_CRIO + key, MAX_IMAGE) for key in ("ImageName", "Image")),
        keys.name(_CRIO + "SandboxID", MAX_ID),
        kind,
        keys.labels(CRIO_LABELS) if kind is Kind.SANDBOX else None,
    )
    return _whole(identity, _CRIO)


def _crio_sandbox(keys: _Keys) -> tuple[str, str, str]:
    return (
        keys.first(_POD + "namespace", _CRIO + "Namespace"),
        keys.first(_POD + "name", _CRIO + "KubeName"),
        keys.name(_POD + "uid"),
    )


def _crio_pod(keys: _Keys) -> tuple[str, str, str]:
    """Namespace, name, uid: the kubelet's labels, and cri-o's own name of the sandbox. Without a kubelet there are no
    such labels, and a pod's annotation may stand in their place: then the two differ.
    """
    told = (keys.name(_POD + "namespace"), keys.name(_POD + "name"), keys.name(_POD + "uid"))
    named = _split_sandbox_name(keys.name(_CRIO + "SandboxName", 4 * MAX_NAME))
    for one, two in zip(told, named, strict=True):
        if one and two and one != two:
            raise AnnotationError(Reason.INVALID, _CRIO + "SandboxName", f"contradicts {_POD}*: {two}, {one}")
    return told[0] or named[0], told[1] or named[1], told[2] or named[2]


def _split_sandbox_name(text: str) -> tuple[str, str, str]:
    """Namespace, name, uid of `k8s_NAME_NAMESPACE_UID_ATTEMPT`, whose parts have no `_`; empty of anything else."""
    parts = text.split("_")
    if len(parts) != 5 or parts[0] != "k8s":
        return "", "", ""
    return parts[2], parts[1], parts[3]


def _podman(keys: _Keys) -> AnnotatedIdentity | None:
    """Who runs the container says its pod and, as cri-o writes them, the pod's labels: podman knows neither."""
    if not keys.has(_POD + "namespace", _POD + "name", _POD + "uid"):
        return None
    identity = AnnotatedIdentity(
        keys.name(_POD + "namespace"),
        keys.name(_POD + "name"),
        keys.name(_POD + "uid"),
        keys.name(_CONTAINER_NAME),
        keys.name(_CRIO + "ImageName", MAX_IMAGE),
        keys.name(_CRIO + "SandboxID", MAX_ID),
        keys.kind(_CRIO + "ContainerType"),
        keys.labels(CRIO_LABELS),
    )
    return _whole(identity, _POD)


_FAMILIES = {Runtime.CONTAINERD: _containerd, Runtime.CRIO: _crio, Runtime.PODMAN: _podman}
