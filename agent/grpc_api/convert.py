# SPDX-License-Identifier: Apache-2.0
"""A runtime's hook call as the public interface has it, as the agent's own announcement."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from agent.grpc_api.errors import RequestError
from agent.grpc_api.tetragon import tetragon_pb2
from agent.kernel.cgroup_path import container_id_of
from rthook.api import hook_pb2


def parse_request(payload: bytes) -> hook_pb2.AnnounceRequest:
    """RequestError for what is no RuntimeHookRequest, and for events other than createContainer."""
    try:
        request = tetragon_pb2.RuntimeHookRequest.FromString(payload)
    except DecodeError as error:
        raise RequestError("not a RuntimeHookRequest") from error
    if request.WhichOneof("event") != "createContainer":
        raise RequestError("a RuntimeHookRequest without createContainer: there is no other event")
    return announce(request.createContainer)


def announce(created: tetragon_pb2.CreateContainer) -> hook_pb2.AnnounceRequest:
    """Containerd's annotations do not have the container's id, so its hooks send none: the cgroup's name has it.

    Mounts are left out: nothing is decided by them.
    """
    return hook_pb2.AnnounceRequest(
        id=created.containerID or container_id_of(created.cgroupsPath),
        name=created.containerName,
        pod_name=created.podName,
        pod_namespace=created.podNamespace,
        pod_uid=created.podUID,
        image=created.containerImage,
        cgroups_path=created.cgroupsPath,
        root_dir=created.rootDir,
        annotations=created.annotations,
    )
