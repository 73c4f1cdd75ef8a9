# SPDX-License-Identifier: Apache-2.0
"""The containers and sandboxes that the runtime has told, for an agent that has lost its memory. Pure."""

from collections.abc import Iterable

from nri_plugin.synchronize import MAX_CONTAINERS, MAX_SANDBOXES
from rthook.api import hook_pb2


class KnownContainers:
    """Sandboxes and containers by id, at most MAX_SANDBOXES and MAX_CONTAINERS: one kind takes no room of the other.

    It is `complete` once the runtime has listed them all: before that it must not be told as the whole set, because
    the agent forgets what is not in it.
    """

    def __init__(self) -> None:
        self._sandboxes: dict[str, hook_pb2.Container] = {}
        self._containers: dict[str, hook_pb2.Container] = {}
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether the runtime's list has been had."""
        return self._complete

    @property
    def containers(self) -> tuple[hook_pb2.Container, ...]:
        """All of them, sandboxes first, each kind oldest first."""
        return (*self._sandboxes.values(), *self._containers.values())

    def replace(self, containers: Iterable[hook_pb2.Container]) -> None:
        """Take the runtime's list."""
        self._sandboxes, self._containers = {}, {}
        for container in containers:
            self._table(container)[container.id] = container
        self._complete = True

    def has_room(self, container: hook_pb2.Container) -> bool:
        """Whether `add_started` of this one stays within the limit."""
        table = self._table(container)
        limit = MAX_SANDBOXES if table is self._sandboxes else MAX_CONTAINERS
        return container.id in table or len(table) < limit

    def add_started(self, container: hook_pb2.Container) -> None:
        """Keep one whose start was allowed: whenever the agent is told of it again, it runs."""
        started = hook_pb2.Container()
        started.CopyFrom(container)
        started.phase = hook_pb2.PHASE_RUNNING
        self._table(container)[container.id] = started

    def remove(self, container_id: str) -> None:
        """Forget one; it may be unknown."""
        self._sandboxes.pop(container_id, None)
        self._containers.pop(container_id, None)

    def _table(self, container: hook_pb2.Container) -> dict[str, hook_pb2.Container]:
        return self._sandboxes if container.kind == hook_pb2.KIND_SANDBOX else self._containers
