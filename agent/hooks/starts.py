# SPDX-License-Identifier: Apache-2.0
"""A container as the NRI plugin tells of it, checked."""

from __future__ import annotations

from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Start
from agent.hooks.limits import MAX_ID, MAX_IMAGE, MAX_LABELS_BYTES, MAX_NAME, MAX_PATH
from agent.workload.identity import ContainerId, ContainerIdentity, PodUid, freeze_labels
from rthook.api import hook_pb2

_LENGTHS = {
    "id": MAX_ID,
    "pod_name": MAX_NAME,
    "pod_namespace": MAX_NAME,
    "pod_uid": MAX_NAME,
    "name": MAX_NAME,
    "image": MAX_IMAGE,
    "cgroups_path": MAX_PATH - 1,
    "cgroup_parent": MAX_PATH - 1,
}


def parse_start(container: hook_pb2.Container) -> Start:
    """Raises HookError when it does not say which container of which pod it is."""
    _check_lengths(container)
    if not container.id:
        raise HookError(Reason.UNIDENTIFIED, "no container id")
    if not container.pod_namespace or not container.pod_name:
        raise HookError(Reason.UNIDENTIFIED, f"container {container.id}: no pod is named")
    labels = dict(container.pod_labels)
    if sum(len(key) + len(value) for key, value in labels.items()) > MAX_LABELS_BYTES:
        raise HookError(Reason.INVALID, f"container {container.id}: labels are larger than {MAX_LABELS_BYTES} bytes")
    if container.phase not in (hook_pb2.PHASE_HELD, hook_pb2.PHASE_RUNNING):
        raise HookError(Reason.INVALID, f"container {container.id}: unknown phase {container.phase}")
    if container.kind not in (hook_pb2.KIND_CONTAINER, hook_pb2.KIND_SANDBOX):
        raise HookError(Reason.INVALID, f"container {container.id}: unknown kind {container.kind}")
    sandbox = container.kind == hook_pb2.KIND_SANDBOX
    identity = ContainerIdentity(
        ContainerId(container.id),
        container.name,
        container.pod_namespace,
        container.pod_name,
        PodUid(container.pod_uid),
        freeze_labels(labels),
        container.image,
        sandbox,
    )
    return Start(
        identity,
        container.pid,
        container.cgroups_path,
        container.phase == hook_pb2.PHASE_HELD,
        sandbox=sandbox,
        cgroup_parent=container.cgroup_parent if sandbox else "",
    )


def _check_lengths(container: hook_pb2.Container) -> None:
    for name, limit in _LENGTHS.items():
        if len(getattr(container, name)) > limit:
            raise HookError(
                Reason.INVALID, f"container {container.id[:MAX_ID]!r}: {name} is longer than {limit} characters"
            )
