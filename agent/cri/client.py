# SPDX-License-Identifier: Apache-2.0
"""Asking the container runtime who a container is: `runtime.v1.RuntimeService` at its unix socket.

Every call raises CriError, and nothing else that the runtime can cause. What the runtime does not know is None: that is
so, too, of a sandbox as long as it is being made (containerd 1.7 and 2.1), but not of a container.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agent.cri.api import cri_pb2
from agent.cri.channel import Channel, accepts
from agent.cri.convert import (
    read_container,
    read_container_process,
    read_pod,
    read_version,
)
from agent.cri.errors import CriProtocolError, CriRefused
from agent.cri.model import CriContainer, CriPod, CriProcess, CriVersion, Identified
from nri_plugin.ttrpc import Code

SERVICE = "runtime.v1.RuntimeService"
# Where runtimes put it: containerd, cri-o, and k3s with a containerd of its own. /var/run is /run on most systems.
SOCKETS = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/crio/crio.sock"),
    Path("/run/k3s/containerd/containerd.sock"),
    Path("/var/run/containerd/containerd.sock"),
    Path("/var/run/crio/crio.sock"),
)
PROBE_S = 0.5

_Reply = TypeVar("_Reply", bound=Message)


def find_socket(candidates: Iterable[Path] = SOCKETS) -> Path | None:
    """The first that is a socket at which somebody accepts."""
    return next((path for path in candidates if accepts(str(path), PROBE_S)), None)


class CriClient:
    """A client of the runtime at `socket`; a method takes `deadline_s` seconds at most. Thread-safe."""

    def __init__(self, socket: Path, deadline_s: float) -> None:
        self._channel = Channel(str(socket))
        self._deadline_s = deadline_s

    def close(self) -> None:
        """Drop the connections; the client is not used again."""
        self._channel.close()

    def version(self) -> CriVersion:
        """What the runtime says of itself."""
        request = cri_pb2.VersionRequest()
        return read_version(self._call("Version", request, cri_pb2.VersionResponse, self._deadline()))

    def find_container(self, container_id: str) -> CriContainer | None:
        """One container by its full id; None when the runtime has none, or it is a sandbox's."""
        return self._find_container(container_id, self._deadline())

    def find_pod(self, sandbox_id: str) -> CriPod | None:
        """One pod by the full id of its sandbox."""
        return self._find_pod(sandbox_id, self._deadline())

    def identify(self, container_id: str) -> Identified | None:
        """Whose container that is; the id may be a sandbox's own. None also for one whose pod is gone already."""
        deadline = self._deadline()
        container = self._find_container(container_id, deadline)
        pod = self._find_pod(container_id if container is None else container.sandbox, deadline)
        return None if pod is None else Identified(pod, container)

    def running(self) -> tuple[CriContainer, ...]:
        """The containers whose init process runs, without sandboxes."""
        state = cri_pb2.ContainerStateValue(state=cri_pb2.CONTAINER_RUNNING)
        return self._list(cri_pb2.ContainerFilter(state=state), self._deadline())

    def find_process(self, container_id: str) -> CriProcess | None:
        """A container's init process; None when the runtime has no such container, or it does not run."""
        if not container_id:
            return None
        request = cri_pb2.ContainerStatusRequest(container_id=container_id, verbose=True)
        try:
            reply = self._call("ContainerStatus", request, cri_pb2.ContainerStatusResponse, self._deadline())
        except CriRefused as error:
            _check_unknown(error)
            return None
        return read_container_process(reply) if reply.status.id == container_id else None

    def pid_of(self, container_id: str) -> int | None:
        """The pid of a container's init process in the initial pid namespace; None as for `find_process`."""
        process = self.find_process(container_id)
        return None if process is None else process.pid

    def _deadline(self) -> float:
        return time.monotonic() + self._deadline_s

    def _find_container(self, container_id: str, deadline: float) -> CriContainer | None:
        """An empty filter is no filter: an empty id would ask for all."""
        if not container_id:
            return None
        found = self._list(cri_pb2.ContainerFilter(id=container_id), deadline)
        return next((container for container in found if container.id == container_id), None)

    def _find_pod(self, sandbox_id: str, deadline: float) -> CriPod | None:
        if not sandbox_id:
            return None
        request = cri_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        try:
            reply = self._call("PodSandboxStatus", request, cri_pb2.PodSandboxStatusResponse, deadline)
        except CriRefused as error:
            _check_unknown(error)
            return None
        return read_pod(reply.status) if reply.status.id == sandbox_id else None

    def _list(self, wanted: cri_pb2.ContainerFilter, deadline: float) -> tuple[CriContainer, ...]:
        request = cri_pb2.ListContainersRequest(filter=wanted)
        reply = self._call("ListContainers", request, cri_pb2.ListContainersResponse, deadline)
        return tuple(read_container(container) for container in reply.containers)

    def _call(self, method: str, request: Message, reply: type[_Reply], deadline: float) -> _Reply:
        data = self._channel.call(SERVICE, method, request.SerializeToString(), deadline)
        try:
            return reply.FromString(data)
        except DecodeError as error:
            raise CriProtocolError(f"{method}: not a {reply.DESCRIPTOR.name}") from error


def _check_unknown(error: CriRefused) -> None:
    """Raises unless the runtime says that it does not have it."""
    if error.code is not Code.NOT_FOUND:
        raise error
