# SPDX-License-Identifier: Apache-2.0
"""Collecting the parts of NRI's Synchronize. Pure.

From NRI 0.8 the runtime cuts its list in parts under 4 MiB; a container and its pod may come in different ones, so
they are joined at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from nri_plugin.api import nri_pb2
from nri_plugin.containers import Rejection, Sandbox, Subject, find_image, parse_container, parse_pod, parse_sandbox
from rthook.api import hook_pb2

_Copied = TypeVar("_Copied", bound=Message)

# Kubernetes supports 110 pods a node, large installations run 500 of a few containers. What the agent is told must
# fit in one message of 4 MiB: 800 bytes for each container and each sandbox that runs.
MAX_CONTAINERS = 4096
MAX_SANDBOXES = 1024
# Pods in one list, of which those that have ended stay until the kubelet removes them.
MAX_PODS = 4096
# What is kept of the parts until the last has come: 16 kB for each container.
MAX_KEPT = 64 << 20

_PHASES = {
    nri_pb2.CONTAINER_UNKNOWN: hook_pb2.PHASE_RUNNING,
    nri_pb2.CONTAINER_CREATED: hook_pb2.PHASE_HELD,
    nri_pb2.CONTAINER_PAUSED: hook_pb2.PHASE_RUNNING,
    nri_pb2.CONTAINER_RUNNING: hook_pb2.PHASE_RUNNING,
}


@dataclass(frozen=True, slots=True)
class Inventory:
    """All sandboxes and containers of the node that have a process, sandboxes first, and those that cannot be told."""

    containers: tuple[hook_pb2.Container, ...]
    rejected: tuple[Rejection, ...]


class TooManyError(Exception):
    """The runtime lists more than the limits allow; `reason` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SynchronizeParts:
    """Collects the parts of one Synchronize; empty again after `finish` or an error."""

    def __init__(self) -> None:
        self._pods: dict[str, nri_pb2.PodSandbox] = {}
        self._containers: dict[str, nri_pb2.Container] = {}
        self._kept = 0

    def add(self, part: nri_pb2.SynchronizeRequest) -> None:
        """Keep one part; TooManyError when the limits are exceeded."""
        for pod in part.pods:
            self._pods[pod.id] = self._count(_copy(nri_pb2.PodSandbox, pod))
        for container in filter(has_process, part.containers):
            self._containers[container.id] = self._count(_copy_container(container))
        if len(self._pods) > MAX_PODS or len(self._containers) > MAX_CONTAINERS:
            self.clear()
            raise TooManyError(f"more than {MAX_PODS} pods or {MAX_CONTAINERS} containers")
        if self._kept > MAX_KEPT:
            self.clear()
            raise TooManyError(f"pods and containers are described in more than {MAX_KEPT} bytes")

    def finish(self) -> Inventory:
        """What the parts said, joined."""
        running = [parse_pod(pod) for pod in self._pods.values() if pod.pid]
        results = [*running[:MAX_SANDBOXES], *map(_reject, running[MAX_SANDBOXES:])]
        sandboxes = {pod.id: parse_sandbox(pod) for pod in self._pods.values()}
        results += [_join(sandboxes, container) for container in self._containers.values()]
        self.clear()
        return Inventory(
            tuple(result for result in results if isinstance(result, hook_pb2.Container)),
            tuple(result for result in results if isinstance(result, Rejection)),
        )

    def clear(self) -> None:
        """Forget the parts, as when the runtime went away between two."""
        self._pods.clear()
        self._containers.clear()
        self._kept = 0

    def _count(self, message: _Copied) -> _Copied:
        self._kept += message.ByteSize()
        return message


def _reject(sandbox: hook_pb2.Container | Rejection) -> Rejection:
    if isinstance(sandbox, Rejection):
        return sandbox
    subject = Subject(sandbox.id, sandbox.pod_name, sandbox.pod_namespace)
    return Rejection(subject, f"more than {MAX_SANDBOXES} sandboxes run")


def _join(sandboxes: Mapping[str, Sandbox], container: nri_pb2.Container) -> hook_pb2.Container | Rejection:
    sandbox = sandboxes.get(container.pod_sandbox_id, Sandbox(container.pod_sandbox_id))
    return parse_container(sandbox, container, _PHASES[container.state])


def has_process(container: nri_pb2.Container) -> bool:
    """A stopped container's pid is stale and may be anybody's by now; a state that we do not know says nothing."""
    return container.pid > 0 and container.state in _PHASES


def _copy(kind: type[_Copied], message: _Copied) -> _Copied:
    """Without the whole part's memory, which a message taken from it keeps alive, and without what we do not read."""
    copy = kind()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    return copy


def _copy_container(container: nri_pb2.Container) -> nri_pb2.Container:
    """Annotations can be a quarter of a MiB; what we read of them is the image's name."""
    copy = _copy(nri_pb2.Container, container)
    copy.image.name = find_image(container)
    copy.annotations.clear()
    return copy
