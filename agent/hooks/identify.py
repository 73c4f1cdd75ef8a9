# SPDX-License-Identifier: Apache-2.0
"""Whose a cgroup is when no hook said so: by the container runtime's own records, else by the pod that it is below.

A runtime names a container's cgroup after the container (README of each: runc's cgroupfs driver ID, systemd's
PREFIX-ID.scope); bpf/base/doors.c knows them by the same rule.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.cri.client import CriClient
from agent.cri.errors import CriError
from agent.cri.model import CriContainer, CriPod, Identified, State
from agent.hooks.errors import LookupFailed
from agent.hooks.gate import Gate
from agent.kernel.cgroup import CgroupFinder
from agent.kernel.errors import CgroupError
from agent.logs import fields
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, PodUid, freeze_labels
from agent.workload.registry import Record

_NAME = re.compile(r"(?:(?P<prefix>.*)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?", re.DOTALL)
_INNER = "container"  # below a container's cgroup, where some versions of crun start it

log = logging.getLogger("podgate.doors")


@dataclass(frozen=True, slots=True)
class Found:
    """created: the runtime says that the container has not been started. by_pod: the runtime does not say anything of
    it, only its pod is known.
    """

    identity: ContainerIdentity
    sandbox: bool = False
    created: bool = False
    by_pod: bool = False


def parse_container_name(name: str) -> ContainerId | None:
    """The id in a cgroup directory's name; None for one that is no container's. conmon's scope has the id too."""
    match = _NAME.fullmatch(name)
    if match is None or (match["prefix"] or "").endswith("conmon"):
        return None
    return ContainerId(match["id"])


def find_place(path: str) -> tuple[ContainerId, str] | None:
    """The container of which a process in that very cgroup is an init process or was forked by one: its id, and its own
    cgroup's path. None for a cgroup that is nested in a container's, but for the one that crun makes.
    """
    container = path.removesuffix(f"/{_INNER}")
    identifier = parse_container_name(container.rpartition("/")[2])
    return (identifier, container) if identifier else None


def is_bound_elsewhere(gate: Gate, finder: CgroupFinder, container: ContainerId, cgroup: CgroupId) -> bool:
    """Whether the container is bound in another cgroup that it is in still. Whoever makes a cgroup of its name, which a
    container with write access to its own can, would take it out of its policies.
    """
    record = gate.record(container)
    if record is None or record.cgroup == cgroup:
        return False
    try:
        at = finder.of_any(record.init_pid).id if record.init_pid else record.cgroup
    except CgroupError:
        return False  # it has ended: a container that is started again has a new cgroup
    owner = gate.record_of(at)
    return owner is not None and owner.identity.container_id == container


def from_cri(found: Identified, container: ContainerId) -> Found:
    if found.container is None:
        return Found(replace(_identity(found.pod, container, "", ""), sandbox=True), sandbox=True)
    known = found.container
    return Found(_identity(found.pod, container, known.name, known.image), created=known.state is State.CREATED)


def _is_named(pod: CriPod) -> bool:
    """What has no pod of a namespace no policy selects by one: nobody is bound as that."""
    return bool(pod.namespace and pod.name)


def _identity(pod: CriPod, container: ContainerId, name: str, image: str) -> ContainerIdentity:
    labels = freeze_labels(pod.labels)
    return ContainerIdentity(container, name, pod.namespace, pod.name, PodUid(pod.uid), labels, image)


class Identifier:
    """pod_at: the record of a pod's own cgroup. cri: None where there is no runtime to ask."""

    def __init__(self, pod_at: Callable[[CgroupId], Record | None], cri: CriClient | None) -> None:
        self._pod_at = pod_at
        self._cri = cri
        self._outage = False

    def identify(self, container: ContainerId, above: CgroupId) -> Found | None:
        """above: the cgroup that the container's is in. None when nobody knows it (yet), and without a name."""
        return (self._ask(container) or self._by_pod(container, above)) if container else None

    def _ask(self, container: ContainerId) -> Found | None:
        if self._cri is None:
            return None
        try:
            found = self._cri.identify(container)
        except CriError as error:
            self._report(str(error))
            return None
        self._outage = False
        return from_cri(found, container) if found and _is_named(found.pod) else None

    def _by_pod(self, container: ContainerId, above: CgroupId) -> Found | None:
        """Its pod is what selects it; only its name is not known."""
        pod = self._pod_at(above)
        if pod is None or not pod.pod_level:
            return None
        identity = replace(pod.identity, container_id=container, container_name="", image="", sandbox=False)
        return Found(identity, by_pod=True)

    def running(self) -> tuple[CriContainer, ...]:
        """The containers that the runtime says run. None of them when it cannot be asked, which is told."""
        if self._cri is None:
            return ()
        try:
            return self._cri.running()
        except CriError as error:
            self._report(str(error))
            return ()

    def process_of(self, container: ContainerId) -> tuple[Found, int, str] | None:
        """What a running container is, its init process and cgroups path. The path is empty where the runtime tells
        none: then nothing says that the process is still the container's.
        """
        if self._cri is None:
            return None
        try:
            found, process = self._cri.identify(container), self._cri.find_process(container)
        except CriError as error:
            self._report(str(error))
            return None
        if found is None or process is None or not _is_named(found.pod):
            return None
        return from_cri(found, container), process.pid, process.cgroups_path

    def labels_of(self, sandbox: str, namespace: str, name: str) -> dict[str, str]:
        """A pod's labels, of the runtime that has them. Raises LookupFailed; the pod must be the one that is named."""
        if self._cri is None:
            raise LookupFailed("the pod's labels are not known: no CRI socket is configured")
        try:
            pod = self._cri.find_pod(sandbox)
        except CriError as error:
            raise LookupFailed(f"the pod's labels are not known: {error}") from error
        if pod is None:
            raise LookupFailed(f"the pod's labels are not known: the runtime has no sandbox {sandbox!r}")
        if (pod.namespace, pod.name) != (namespace, name):
            raise LookupFailed(f"sandbox {sandbox!r} is pod {pod.namespace}/{pod.name}, not {namespace}/{name}")
        return dict(pod.labels)

    def _report(self, reason: str) -> None:
        """Once an outage."""
        if not self._outage:
            self._outage = True
            log.error("the container runtime cannot be asked", extra=fields(reason=reason))
