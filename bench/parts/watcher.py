# SPDX-License-Identifier: Apache-2.0
"""The gate's alternative, to compare it with: a watcher that asks the runtime what runs, and announces what is new.

It sees a container when it runs already. What the container did until then, no policy has seen.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from rthook.api import hook_pb2
from rthook.client import AgentClient
from rthook.errors import AgentRefused
from tests.support import cri_pb2 as pb
from tests.support.cri import (
    CONTAINER_NAME_LABEL,
    POD_NAME_LABEL,
    POD_NAMESPACE_LABEL,
    POD_UID_LABEL,
    Container,
    Cri,
    Pod,
    PodSpec,
    State,
)

INTERVAL_S = 0.02
DEADLINE_S = 2.0


def announcement(container_id: str, info: dict[str, Any]) -> hook_pb2.Container:
    """What is told to the agent of a container that runs, from the runtime's verbose information."""
    labels = info["config"]["labels"]
    return hook_pb2.Container(
        id=container_id,
        name=labels[CONTAINER_NAME_LABEL],
        pod_name=labels[POD_NAME_LABEL],
        pod_namespace=labels[POD_NAMESPACE_LABEL],
        pod_uid=labels[POD_UID_LABEL],
        cgroups_path=info["runtimeSpec"]["linux"]["cgroupsPath"],
        pid=int(info["pid"]),
        phase=hook_pb2.PHASE_RUNNING,
    )


class Watcher:
    """As a context manager: watches from entering to leaving. `bound` and `too_late` count containers."""

    def __init__(self, cri: Cri, agent_socket: Path) -> None:
        self._cri = cri
        self._agent = AgentClient(str(agent_socket), DEADLINE_S)
        self._known: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bound = 0
        self.too_late = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._agent.close()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            states = self._cri.list_containers()
            fresh = [known for known, state in states.items() if state is State.RUNNING and known not in self._known]
            for container_id in fresh:
                self._announce(container_id)
            self._known.update(fresh)

    def _announce(self, container_id: str) -> None:
        try:
            self._agent.bind(announcement(container_id, self._cri.info(_by_id(container_id))))
            self.bound += 1
        except (AgentRefused, grpc.RpcError):
            self.too_late += 1  # its process, or even the container, is gone


def _by_id(container_id: str) -> Container:
    """Of a container that somebody else made only the id is known."""
    return Container(container_id, "", Pod("", PodSpec(""), pb.PodSandboxConfig(), Path()))
