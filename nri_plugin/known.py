# SPDX-License-Identifier: Apache-2.0
"""The containers that the runtime has told, for an agent that has lost its memory. Pure."""

from collections.abc import Iterable

from nri_plugin.synchronize import MAX_CONTAINERS
from rthook.api import hook_pb2


class KnownContainers:
    """Containers by id, at most MAX_CONTAINERS.

    It is `complete` once the runtime has listed them all: before that it must not be told as the whole set, because
    the agent forgets what is not in it.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, hook_pb2.Container] = {}
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether the runtime's list has been had."""
        return self._complete

    @property
    def containers(self) -> tuple[hook_pb2.Container, ...]:
        """All of them, oldest first."""
        return tuple(self._by_id.values())

    def replace(self, containers: Iterable[hook_pb2.Container]) -> None:
        """Take the runtime's list."""
        self._by_id = {container.id: container for container in containers}
        self._complete = True

    def has_room(self, container_id: str) -> bool:
        """Whether `add` of this container stays within the limit."""
        return container_id in self._by_id or len(self._by_id) < MAX_CONTAINERS

    def add_started(self, container: hook_pb2.Container) -> None:
        """Keep a container whose start was allowed: whenever the agent is told of it again, it runs."""
        started = hook_pb2.Container()
        started.CopyFrom(container)
        started.phase = hook_pb2.PHASE_RUNNING
        self._by_id[container.id] = started

    def remove(self, container_id: str) -> None:
        """Forget one; it may be unknown."""
        self._by_id.pop(container_id, None)
