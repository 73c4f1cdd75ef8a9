# SPDX-License-Identifier: Apache-2.0
"""Messages of the CRI to values; with client.py the only code that touches the generated module."""

from __future__ import annotations

import json

from agent.cri.api import cri_pb2
from agent.cri.errors import CriProtocolError
from agent.cri.model import CriContainer, CriPod, CriProcess, CriVersion, State
from agent.workload.identity import ContainerId
from agent.workload.images import choose_image

# The JSON text holds the container's OCI config, of some 20 KiB; a config that an engine reads is seldom above 1 MiB.
MAX_INFO = 4 << 20
# PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h).
MAX_PID = 1 << 22


def read_version(reply: cri_pb2.VersionResponse) -> CriVersion:
    return CriVersion(reply.runtime_name, reply.runtime_version, reply.runtime_api_version)


def read_container(message: cri_pb2.Container) -> CriContainer:
    """A state that the CRI does not have is UNKNOWN. Kubelets name the image by its id, and beside that as the pod's
    author wrote it.
    """
    return CriContainer(
        ContainerId(message.id),
        ContainerId(message.pod_sandbox_id),
        message.metadata.name,
        choose_image((message.image.image, message.image.user_specified_image, message.image_ref)),
        _read_state(message.state),
        dict(message.labels),
        dict(message.annotations),
    )


def _read_state(number: int) -> State:
    try:
        return State(number)
    except ValueError:
        return State.UNKNOWN


def read_pod(message: cri_pb2.PodSandboxStatus) -> CriPod:
    metadata = message.metadata
    return CriPod(
        ContainerId(message.id),
        metadata.namespace,
        metadata.name,
        metadata.uid,
        dict(message.labels),
        dict(message.annotations),
    )


def read_container_process(reply: cri_pb2.ContainerStatusResponse) -> CriProcess | None:
    """None when no process is named: the container has not been started, or has ended. CriProtocolError for junk."""
    return parse_info(reply.status.id, reply.info.get("info", ""))


def parse_info(container_id: str, text: str) -> CriProcess | None:
    """The JSON text of a verbose status: `pid` and `runtimeSpec.linux.cgroupsPath`, as containerd and cri-o have it."""
    if len(text) > MAX_INFO:
        raise CriProtocolError(f"container {container_id}: status of {len(text)} characters, the limit is {MAX_INFO}")
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CriProtocolError(f"container {container_id}: its verbose status is no JSON") from error
    pid = info.get("pid", 0) if isinstance(info, dict) else None
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 <= pid <= MAX_PID:
        raise CriProtocolError(f"container {container_id}: its verbose status names no pid")
    return CriProcess(pid, _read_cgroups_path(container_id, info)) if pid else None


def _read_cgroups_path(container_id: str, info: object) -> str:
    """Empty when the config has none."""
    value = info
    for key in ("runtimeSpec", "linux", "cgroupsPath"):
        value = value.get(key) if isinstance(value, dict) else None
    if value is not None and not isinstance(value, str):
        raise CriProtocolError(f"container {container_id}: its cgroups path is no text")
    return value or ""
