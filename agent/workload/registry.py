# SPDX-License-Identifier: Apache-2.0
"""Who runs on the node, and which policies apply to whom.

Theory of operation. The registry is the desired state: containers, each with its cgroup and its pod, and policies,
each with a scope. From both follow the bindings that the kernel must hold, one a cgroup, and one mask for host
processes. A call changes the desired state first and returns what has to be written; the caller writes. Nothing here
waits, locks or does IO: the caller makes the calls one after the other.

What a container's start waits for comes as complete operations, in the order to write them. What touches many
cgroups (a policy, a pod's labels) comes as the list of the cgroups that changed; the caller asks `binding` for
each when it writes it, chunk by chunk, because containers may come and go between the chunks.

A policy's id is a bit. So is that of a selector's matchWorkloads, which the caller adds like a policy, with its own
scope: wherever this module says policy, both are meant.

Four rules keep the order of messages from mattering:

- Labels belong to the pod, not to the container that brought them. The newest message wins, and the pod's
  other containers follow. The bits of a pod are computed once for it, not once for each container.
- A container's name and image never change while it lives. The newest message that tells them wins; one that does not
  tell them takes nothing back. What was told of neither is unknown, and unknown is selected (see `selector`).
- A container has one cgroup and a cgroup has one container. What a message contradicts goes away: a container
  seen in another cgroup leaves the old one, a cgroup seen with another container drops the old record.
- Arming only goes from False to True, as long as the container stays in its cgroup. The kernel arms first and the
  registry hears of it later, so a binding with `armed` False says "not known to be armed": the writer never takes the
  kernel's armed state back for the same workload.

A container keeps its workload id as long as it is known, also in another cgroup; ids are never given out twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent.workload.errors import NamespaceConflict, PolicyIdInUse, PolicyIdOutOfRange, WorkloadIdsExhausted
from agent.workload.identity import (
    MAX_POLICIES,
    MAX_WORKLOAD_ID,
    CgroupId,
    ContainerId,
    ContainerIdentity,
    Labels,
    PodUid,
    PolicyId,
    WorkloadId,
)
from agent.workload.images import choose_image
from agent.workload.operations import Binding, DeleteBinding, Operation, SetBinding, SetHost, SetQuarantine
from agent.workload.scope_index import ScopeIndex
from agent.workload.scopes import Scope
from agent.workload.selector import ContainerLabels, container_labels


@dataclass(frozen=True, slots=True)
class Record:
    """A known container; `identity.labels` are the newest of its pod, its name and image the newest that were told."""

    identity: ContainerIdentity
    cgroup: CgroupId
    workload: WorkloadId
    armed: bool
    init_pid: int
    pod_level: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    """What a policy changed: the host's mask if it did, and the cgroups whose bindings did, sorted."""

    host: SetHost | None
    cgroups: tuple[CgroupId, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What a container changed.

    `operations` are to be written before the container may run, in this order. `displaced` are the containers whose
    records went because this one has their cgroup. `cgroups` are those of the pod's other containers whose bindings
    changed with the pod's labels, sorted.
    """

    workload: WorkloadId
    operations: tuple[Operation, ...]
    displaced: tuple[ContainerId, ...]
    cgroups: tuple[CgroupId, ...]


# A pod's uid, or its namespace and name where the runtime gives no uid. A container outside of Kubernetes is alone.
_PodKey = PodUid | tuple[str, str]


def _pod_key(identity: ContainerIdentity) -> _PodKey:
    return identity.pod_uid or (identity.namespace, identity.pod_name or identity.container_id)


@dataclass(slots=True)
class _Member:
    """A container of a pod. excluded: the policies whose containerSelector it does not satisfy."""

    labels: ContainerLabels
    excluded: int


@dataclass(slots=True)
class _Pod:
    """bits: the policies that apply to the pod's containers, whatever their containerSelector."""

    namespace: str
    labels: Labels
    bits: int
    members: dict[ContainerId, _Member] = field(default_factory=dict)


def _divide(pod: _Pod, scope: Scope, bit: int) -> Iterable[ContainerId]:
    """Flip a policy's bit for the containers that its containerSelector excludes; gives the others."""
    if not scope.divides_pods:
        return pod.members
    admitted = []
    for container, member in pod.members.items():
        if scope.has_container(member.labels):
            admitted.append(container)
        else:
            member.excluded ^= bit
    return admitted


def _complete(identity: ContainerIdentity, old: Record | None) -> ContainerIdentity:
    """With the name and the image that were told before, where the newer message does not tell them."""
    if old is None or _pod_key(old.identity) != _pod_key(identity):
        return identity
    name = identity.container_name or old.identity.container_name
    return replace(identity, container_name=name, image=choose_image((identity.image, old.identity.image)))


class Registry:
    """The desired state of the node's bindings."""

    def __init__(self) -> None:
        self._scopes = ScopeIndex()
        self._pods: dict[_PodKey, _Pod] = {}
        self._records: dict[ContainerId, Record] = {}
        self._by_cgroup: dict[CgroupId, ContainerId] = {}
        self._by_workload: dict[WorkloadId, ContainerId] = {}
        self._last_workload = 0

    def add_policy(self, policy: PolicyId, scope: Scope) -> Changed:
        """Apply a policy to its scope. Raises PolicyIdInUse, PolicyIdOutOfRange."""
        if not 0 <= policy < MAX_POLICIES:
            raise PolicyIdOutOfRange(policy)
        if policy in self._scopes:
            raise PolicyIdInUse(policy)
        self._scopes.add(policy, scope)
        return self._rescope(policy, scope)

    def remove_policy(self, policy: PolicyId) -> Changed:
        """Apply a policy to nothing any more; nothing changes when it is unknown."""
        scope = self._scopes.remove(policy)
        return Changed(None, ()) if scope is None else self._rescope(policy, scope)

    def _rescope(self, policy: PolicyId, scope: Scope) -> Changed:
        """Flip the bit of a policy in every pod of its scope."""
        bit = 1 << policy
        changed: list[CgroupId] = []
        for pod in self._pods.values():
            admitted = _divide(pod, scope, bit)
            if scope.has_pod(pod.namespace, pod.labels):
                pod.bits ^= bit
                changed += (self._records[container].cgroup for container in admitted)
        host = SetHost(self._scopes.host) if scope.has_host else None
        return Changed(host, tuple(sorted(changed)))

    def add_container(
        self, identity: ContainerIdentity, cgroup: CgroupId, init_pid: int, armed: bool, *, pod_level: bool = False
    ) -> Added:
        """Take a container in, or what a newer message says of a known one.

        `init_pid` 0 keeps the pid that is known. `pod_level`: the cgroup is the pod's own. Raises
        NamespaceConflict, WorkloadIdsExhausted.
        """
        self._check_namespace(identity)
        old = self._records.get(identity.container_id)
        identity = _complete(identity, old)
        workload = old.workload if old else self._next_workload()
        displaced = self._displace(identity.container_id, cgroup)
        if old and _pod_key(old.identity) != _pod_key(identity):
            self._leave_pod(old)
        siblings = self._join_pod(identity)
        stays = old if old and old.cgroup == cgroup else None
        record = Record(
            identity,
            cgroup,
            workload,
            armed or (stays is not None and stays.armed),
            init_pid or (stays.init_pid if stays else 0),
            pod_level,
        )
        self._store(record)
        operations: list[Operation] = [SetBinding(cgroup, self._binding(record))]
        if old and old.cgroup != cgroup:
            del self._by_cgroup[old.cgroup]
            operations.append(DeleteBinding(old.cgroup))
        return Added(workload, tuple(operations), displaced, siblings)

    def _check_namespace(self, identity: ContainerIdentity) -> None:
        pod = self._pods.get(_pod_key(identity))
        if pod and pod.namespace != identity.namespace:
            raise NamespaceConflict(identity.pod_uid, pod.namespace, identity.namespace)

    def _next_workload(self) -> WorkloadId:
        if self._last_workload == MAX_WORKLOAD_ID:
            raise WorkloadIdsExhausted
        self._last_workload += 1
        return WorkloadId(self._last_workload)

    def _displace(self, container: ContainerId, cgroup: CgroupId) -> tuple[ContainerId, ...]:
        """Drop the record of another container in the cgroup. Its binding is overwritten, so never absent."""
        other = self._by_cgroup.get(cgroup)
        if other is None or other == container:
            return ()
        self._forget(self._records[other])
        return (other,)

    def _join_pod(self, identity: ContainerIdentity) -> tuple[CgroupId, ...]:
        """Put a container in its pod; gives the cgroups of the others whose bits changed with the labels."""
        pod = self._pods.get(_pod_key(identity))
        if pod is None:
            bits = self._scopes.pod_bits(identity.namespace, identity.labels)
            pod = self._pods[_pod_key(identity)] = _Pod(identity.namespace, identity.labels, bits)
        changed: tuple[CgroupId, ...] = ()
        if pod.labels != identity.labels:
            changed = self._relabel(pod, identity)
        labels = container_labels(identity)
        pod.members[identity.container_id] = _Member(labels, self._scopes.excluded(labels))
        return changed

    def _relabel(self, pod: _Pod, identity: ContainerIdentity) -> tuple[CgroupId, ...]:
        old_bits = pod.bits
        pod.labels = identity.labels
        pod.bits = self._scopes.pod_bits(pod.namespace, pod.labels)
        changed: list[CgroupId] = []
        for container, member in pod.members.items():
            if container == identity.container_id:
                continue
            record = self._records[container]
            self._store(replace(record, identity=replace(record.identity, labels=pod.labels)))
            if (old_bits ^ pod.bits) & ~member.excluded:
                changed.append(record.cgroup)
        return tuple(sorted(changed))

    def _store(self, record: Record) -> None:
        container = record.identity.container_id
        self._records[container] = record
        self._by_cgroup[record.cgroup] = container
        self._by_workload[record.workload] = container

    def _leave_pod(self, record: Record) -> None:
        key = _pod_key(record.identity)
        pod = self._pods[key]
        del pod.members[record.identity.container_id]
        if not pod.members:
            del self._pods[key]

    def _forget(self, record: Record) -> None:
        self._leave_pod(record)
        del self._records[record.identity.container_id]
        del self._by_cgroup[record.cgroup]
        del self._by_workload[record.workload]

    def remove_container(self, container: ContainerId) -> tuple[Operation, ...]:
        """Forget a container; no operations when it is unknown."""
        record = self._records.get(container)
        if record is None:
            return ()
        self._forget(record)
        return (DeleteBinding(record.cgroup),)

    def retain(self, containers: Iterable[ContainerId]) -> tuple[Operation, ...]:
        """Forget all containers that are not named: what a runtime's full list says. Sorted by cgroup."""
        gone = [self._records[container] for container in self._records.keys() - set(containers)]
        for record in gone:
            self._forget(record)
        return tuple(DeleteBinding(cgroup) for cgroup in sorted(record.cgroup for record in gone))

    def mark_armed(self, cgroup: CgroupId) -> bool:
        """Note that the kernel armed a binding; False when the cgroup is unknown. Nothing has to be written."""
        container = self._by_cgroup.get(cgroup)
        if container is None:
            return False
        self._records[container] = replace(self._records[container], armed=True)
        return True

    def binding(self, cgroup: CgroupId) -> Binding | None:
        """What the kernel must hold for a cgroup now; None when no container has it."""
        container = self._by_cgroup.get(cgroup)
        return None if container is None else self._binding(self._records[container])

    def _binding(self, record: Record) -> Binding:
        pod = self._pods[_pod_key(record.identity)]
        bits = pod.bits & ~pod.members[record.identity.container_id].excluded
        return Binding(bits, record.workload, record.armed, record.init_pid, record.pod_level)

    def host(self) -> SetHost:
        """What the kernel must hold for host processes now."""
        return SetHost(self._scopes.host)

    def labels_of(self, identity: ContainerIdentity) -> Labels | None:
        """Of a container's pod, when another container of it is known."""
        pod = self._pods.get(_pod_key(identity))
        others = pod.members.keys() - {identity.container_id} if pod else set()
        return pod.labels if pod and others else None

    def quarantine(self) -> SetQuarantine:
        """What the kernel must hold for quarantined containers now."""
        return SetQuarantine(self._scopes.all)

    def containers(self) -> tuple[Record, ...]:
        """All known containers, in the order of their workload ids."""
        return tuple(sorted(self._records.values(), key=lambda record: record.workload))

    def record(self, container: ContainerId) -> Record | None:
        """A known container; None when it is unknown."""
        return self._records.get(container)

    def record_at(self, cgroup: CgroupId) -> Record | None:
        """The container of a cgroup; None when no container has it."""
        container = self._by_cgroup.get(cgroup)
        return None if container is None else self._records[container]

    def workload(self, workload: WorkloadId) -> Record | None:
        """The container of a workload id; None when it is gone."""
        container = self._by_workload.get(workload)
        return None if container is None else self._records[container]
