# SPDX-License-Identifier: Apache-2.0
"""Collecting the parts of NRI's Synchronize. Pure.

From NRI 0.8 the runtime cuts its list in parts under 4 MiB; a container and its pod may come in different ones, so
they are joined at the end.
"""

from dataclasses import dataclass

from nri_plugin.api import nri_pb2
from nri_plugin.containers import Rejection, Sandbox, parse_container, parse_sandbox
from rthook.api import hook_pb2

# Kubernetes supports 110 pods a node, large installations run 500 of a few containers. What the agent is told must
# fit in one message of 4 MiB: 1 kB for each of these.
MAX_CONTAINERS = 4096
MAX_SANDBOXES = 4096

_PHASES = {
    nri_pb2.CONTAINER_UNKNOWN: hook_pb2.PHASE_RUNNING,
    nri_pb2.CONTAINER_CREATED: hook_pb2.PHASE_HELD,
    nri_pb2.CONTAINER_PAUSED: hook_pb2.PHASE_RUNNING,
    nri_pb2.CONTAINER_RUNNING: hook_pb2.PHASE_RUNNING,
}


@dataclass(frozen=True, slots=True)
class Inventory:
    """All containers of the node that have a process, and those that cannot be told to the agent."""

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
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, nri_pb2.Container] = {}

    def add(self, part: nri_pb2.SynchronizeRequest) -> None:
        """Keep one part; TooManyError when the limits are exceeded."""
        self._sandboxes.update((pod.id, parse_sandbox(pod)) for pod in part.pods)
        self._containers.update((held.id, _copy(held)) for held in part.containers if has_process(held))
        if len(self._sandboxes) > MAX_SANDBOXES or len(self._containers) > MAX_CONTAINERS:
            self.clear()
            raise TooManyError(f"more than {MAX_SANDBOXES} pods or {MAX_CONTAINERS} containers")

    def finish(self) -> Inventory:
        """What the parts said, joined."""
        results = [self._join(container) for container in self._containers.values()]
        self.clear()
        return Inventory(
            tuple(result for result in results if isinstance(result, hook_pb2.Container)),
            tuple(result for result in results if isinstance(result, Rejection)),
        )

    def clear(self) -> None:
        """Forget the parts, as when the runtime went away between two."""
        self._sandboxes.clear()
        self._containers.clear()

    def _join(self, container: nri_pb2.Container) -> hook_pb2.Container | Rejection:
        sandbox = self._sandboxes.get(container.pod_sandbox_id, Sandbox(container.pod_sandbox_id))
        return parse_container(sandbox, container, _PHASES[container.state])


def has_process(container: nri_pb2.Container) -> bool:
    """A stopped container's pid is stale and may be anybody's by now; a state that we do not know says nothing."""
    return container.pid > 0 and container.state in _PHASES


def _copy(container: nri_pb2.Container) -> nri_pb2.Container:
    """Without the whole part's memory, which a message taken from it keeps alive, and without what we do not read."""
    copy = nri_pb2.Container()
    copy.CopyFrom(container)
    copy.DiscardUnknownFields()
    return copy
