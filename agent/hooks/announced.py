# SPDX-License-Identifier: Apache-2.0
"""A container that another's hook announces: it names the pod and the cgroup's path, and no process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.hooks.annotations import OUTSIDE, AnnotatedIdentity, Runtime, identify
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Start
from agent.hooks.limits import MAX_ID, MAX_IMAGE, MAX_NAME, MAX_PATH
from agent.hooks.oci import PodLabels, find_labels
from agent.hooks.spec import fault_of
from agent.kernel.cgroup import ProcessCgroup
from agent.kernel.cgroup_path import AnnouncedCgroup
from agent.kernel.errors import CgroupError
from agent.workload.identity import Door
from agent.workload.images import choose_image
from rthook.api import hook_pb2

_LIMITS = {
    "id": MAX_ID,
    "name": MAX_NAME,
    "pod_name": MAX_NAME,
    "pod_namespace": MAX_NAME,
    "pod_uid": MAX_NAME,
    "image": MAX_IMAGE,
    "cgroups_path": MAX_PATH - 1,
}


class AnnouncedStarts:
    """find: the cgroup that a runtime's cgroupsPath leads to, raises CgroupError."""

    def __init__(self, find: Callable[[str], AnnouncedCgroup], labels: PodLabels) -> None:
        self._find = find
        self._labels = labels

    def start(self, request: hook_pb2.AnnounceRequest) -> Start:
        """Raises HookError."""
        _check_texts(request)
        who = _identify(request)
        try:
            found = self._find(request.cgroups_path)
        except CgroupError as error:
            raise HookError(Reason.NO_CGROUP, f"container {request.id}: {error}") from error
        identity = who.of_container(request.id, find_labels(who, self._labels))
        cgroup = ProcessCgroup(found.id, found.path, found.nested)
        return Start(identity, found.init_pid, request.cgroups_path, held=True, door=Door.UPSTREAM, cgroup=cgroup)


def _check_texts(request: hook_pb2.AnnounceRequest) -> None:
    for name, limit in _LIMITS.items():
        if fault := fault_of(getattr(request, name), limit):
            raise HookError(Reason.INVALID, f"container {request.id[:MAX_ID]!a}: {name} {fault}")
    if not request.id:
        raise HookError(Reason.UNIDENTIFIED, "no container id")
    if not request.cgroups_path:
        raise HookError(Reason.NO_CGROUP, f"container {request.id}: no cgroup is named")


def _identify(request: hook_pb2.AnnounceRequest) -> AnnotatedIdentity:
    """What the message says, completed by its annotations, which must not contradict it. Without either it is in no
    pod.
    """
    annotations: Mapping[str, str] = request.annotations
    who = identify(annotations, Runtime.AUTO, request.id)
    if who is OUTSIDE and (request.pod_namespace or request.pod_name or request.pod_uid):
        who = replace(OUTSIDE, labels=None)
    who = replace(
        who,
        namespace=_agreed(request, "namespace", request.pod_namespace, who.namespace),
        pod_name=_agreed(request, "pod name", request.pod_name, who.pod_name),
        pod_uid=_agreed(request, "pod uid", request.pod_uid, who.pod_uid),
        container_name=_agreed(request, "name", request.name, who.container_name),
        image=choose_image((request.image, who.image)),
    )
    if bool(who.namespace) != bool(who.pod_name) or (who.pod_uid and not who.pod_name):
        raise HookError(Reason.UNIDENTIFIED, f"container {request.id}: no pod is named")
    return who


def _agreed(request: hook_pb2.AnnounceRequest, name: str, told: str, annotated: str) -> str:
    if told and annotated and told != annotated:
        raise HookError(
            Reason.INVALID, f"container {request.id}: its {name} is {told}, and by its annotations {annotated}"
        )
    return told or annotated
