# SPDX-License-Identifier: Apache-2.0
"""The gate: the one place where the registry's desired state becomes the kernel's bindings.

Theory of operation. One lock covers registry and bindings. A container's start takes it once: registry, map writes,
read back. What touches many cgroups (a policy, a pod's labels) changes the registry first and then writes the
bindings in chunks, letting go of the lock between them: a container that starts meanwhile gets the new policies from
the registry, and one that goes is not written back.

The event process hears of a workload before the kernel does, so that no event comes from a workload that it does not
know.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from agent.hooks.errors import HookError, Reason
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup, expected_component
from agent.kernel.errors import CgroupError, KernelError
from agent.kernel.maps import Bindings
from agent.logs import fields
from agent.workload.errors import RegistryError
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, Door, PolicyId, WorkloadId
from agent.workload.operations import DeleteBinding, Operation, SetBinding, SetHost
from agent.workload.registry import Changed, Record, Registry
from agent.workload.scopes import Scope

ARMED_LATE = "armed_late"
CGROUP_REMOVED = "cgroup_removed"
CHUNK = 64  # bindings written while the lock is held: some 0.5 ms
QUARANTINED = "(quarantine)"  # where a namespace stands: no name may have parentheses
MAX_SHARED = 1024  # cgroups with several pods below; a node has one such, if any

log = logging.getLogger("podgate.gate")


@dataclass(frozen=True, slots=True)
class Start:
    """What is said of a container. pid: of its init process. held: that process has not called execve for the
    entrypoint yet. cgroup: where it is known already; else the process and cgroups_path lead to it. sandbox: it is a
    pod's pause container, and cgroup_parent, where the runtime tells it, the pod's own cgroup.
    """

    identity: ContainerIdentity
    pid: int
    cgroups_path: str
    held: bool
    door: Door = Door.NRI
    cgroup: ProcessCgroup | None = None
    sandbox: bool = False
    cgroup_parent: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    cgroup: CgroupId
    workload: WorkloadId
    policies: int  # how many select it
    bind_us: int


@dataclass(frozen=True, slots=True)
class _Below:
    """A container whose nested cgroups are to be linked."""

    workload: WorkloadId
    directory: Path


@dataclass(slots=True)
class _Pending:
    """A container that was bound while it was held. patient: it may be started long after it was created. progress: of
    its init process, as the housekeeping last saw it.
    """

    since: float
    pid: int
    patient: bool
    progress: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Announcement:
    number: int
    door: Door


class WorkloadSink(Protocol):
    """Who has to know workloads before their events come. Must not block."""

    def workload_added(self, record: Record) -> None: ...

    def workload_removed(self, workload: WorkloadId) -> None: ...


class Gate:
    """cgroup_root: the mount that cgroup paths are below."""

    def __init__(self, bindings: Bindings, finder: CgroupFinder, cgroup_root: Path, sink: WorkloadSink) -> None:
        self._lock = threading.Lock()
        self._registry = Registry()
        self._bindings = bindings
        self._finder = finder
        self._root = cgroup_root
        self._sink = sink
        self._pending: dict[CgroupId, _Pending] = {}
        self._unlinked: dict[CgroupId, _Below] = {}
        self._again: dict[CgroupId, _Below] = {}
        self._unwritten: set[CgroupId] = set()
        self._announced: dict[ContainerId, _Announcement] = {}
        self._announcements = 0
        self._shared_parents: set[CgroupId] = set()
        self._sandboxes: set[ContainerId] = set()
        self.on_bound: Callable[[CgroupId], None] = lambda _: None
        self.outcomes: Counter[str] = Counter()
        self.starts: Counter[Door] = Counter()
        self.synchronized = False
        self._bindings.set_host(0)

    def bind(self, start: Start, *, nested: bool = True) -> Bound:
        """Returns after the record was written and read back. Raises HookError with the reason; a container that was
        not bound before is not bound then. nested: link the cgroups that exist below it too; else link_nested does.
        """
        began = time.monotonic_ns()
        try:
            bound = self._bind(start, began, nested)
        except HookError as error:
            self.outcomes[error.reason.value] += 1
            raise
        self.outcomes["bound"] += 1
        return bound

    def _bind(self, start: Start, began: int, nested: bool) -> Bound:
        cgroup = self._find_cgroup(start)
        with self._lock:
            workload, policies, siblings = self._write(start, cgroup)
        if siblings:
            self._rewrite_siblings(siblings)
        if start.held:
            self._check_alive(start, cgroup)
        self.on_bound(cgroup.id)
        if nested and cgroup.id in self._unlinked:
            self.link_nested()
        if start.sandbox:
            self._bind_pod(start, cgroup)
        return Bound(cgroup.id, workload, policies, (time.monotonic_ns() - began) // 1000)

    def _find_cgroup(self, start: Start) -> ProcessCgroup:
        if start.cgroup:
            return start.cgroup
        try:
            return self._finder.of_process(start.pid, start.cgroups_path)
        except CgroupError as error:
            raise HookError(Reason.NO_CGROUP, str(error)) from error

    def _write(
        self, start: Start, cgroup: ProcessCgroup, *, pod_level: bool = False
    ) -> tuple[WorkloadId, int, tuple[CgroupId, ...]]:
        container = start.identity.container_id
        before = self._registry.record(container)
        holder = self._registry.record_at(cgroup.id)
        held = start.held or self._is_held_still(start, cgroup.id)
        quarantined = self._is_quarantined(cgroup.id)
        if start.door in (Door.OCI, Door.UPSTREAM):
            start = self._check_told(start, cgroup, before, holder)
        try:
            added = self._registry.add_container(start.identity, cgroup.id, start.pid, not held, pod_level=pod_level)
        except RegistryError as error:
            raise HookError(Reason.CONFLICT, str(error)) from error
        record = self._registry.workload(added.workload)
        if record:
            self._sink.workload_added(record)
        if holder and added.displaced:
            self._sink.workload_removed(holder.workload)
        try:
            self._apply(added.operations)
        except KernelError as error:
            if before and before.cgroup == cgroup.id:
                self._unwritten.add(cgroup.id)  # what guards it stays, and is written again by the housekeeping
            else:
                self._give_up(container)
            raise HookError(Reason.KERNEL, str(error)) from error
        self._note(start, held=held, new=before is None, pod_level=pod_level)
        if held:
            patient = start.door in (Door.OCI, Door.UPSTREAM)
            self._pending.setdefault(cgroup.id, _Pending(time.monotonic(), start.pid, patient))
        if not pod_level and (cgroup.nested or quarantined or not held):
            self._unlinked[cgroup.id] = _Below(added.workload, Path(f"{self._root}{cgroup.path}"))
        binding = self._registry.binding(cgroup.id)
        return added.workload, binding.policies.bit_count() if binding else 0, added.cgroups

    def _note(self, start: Start, *, held: bool, new: bool, pod_level: bool) -> None:
        self._announcements += 1
        if start.sandbox and not pod_level:
            self._sandboxes.add(start.identity.container_id)
        self._announced[start.identity.container_id] = _Announcement(self._announcements, start.door)
        if new and held and start.held and not start.sandbox:
            self.starts[start.door] += 1

    def _check_told(self, start: Start, cgroup: ProcessCgroup, before: Record | None, holder: Record | None) -> Start:
        """What is told by annotations moves no container that lives out of its cgroup, takes no cgroup of one, and does
        not change the labels of a pod that is known.
        """
        if before and before.cgroup != cgroup.id and self._lives(before):
            raise HookError(Reason.CONFLICT, f"container {before.identity.container_id} lives in another cgroup")
        other = holder and holder.identity.container_id != start.identity.container_id
        if holder and other and self._lives(holder):
            raise HookError(Reason.CONFLICT, f"cgroup {cgroup.path} is container {holder.identity.container_id}'s")
        known = self._registry.labels_of(start.identity)
        return start if known is None else replace(start, identity=replace(start.identity, labels=known))

    def _lives(self, record: Record) -> bool:
        """Whether the init process is in the container's cgroup, or below it."""
        try:
            at = self._finder.of_any(record.init_pid).id if record.init_pid else record.cgroup
        except CgroupError:
            return False
        binding = self._bindings.read(at)
        return binding is not None and binding.owner == record.cgroup

    def _is_quarantined(self, cgroup: CgroupId) -> bool:
        """Then cgroups below it may be, too."""
        known = self._bindings.read(cgroup)
        return known is not None and known.quarantined

    def _is_held_still(self, start: Start, cgroup: CgroupId) -> bool:
        """Whether one that is said to run is known by the kernel not to have called execve yet: it was let go just now,
        by a hook that put it into quarantine, or by the plugin.
        """
        return start.pid > 0 and self._bindings.pending_pid(cgroup) == start.pid

    def _bind_pod(self, start: Start, cgroup: ProcessCgroup) -> None:
        """The pod's own cgroup, above its sandbox's, where the pod has one of its own. What fails of it is counted: it
        guards no container.
        """
        path, _, _ = cgroup.path.rpartition("/")
        name = path.rpartition("/")[2]
        if not name or name != expected_component(start.cgroup_parent):
            return
        own = pod_id(start.identity.container_id)
        identity = replace(start.identity, container_id=own, container_name="", image="", sandbox=True)
        try:
            above = ProcessCgroup(self._finder.id_of(path), path)
            with self._lock:
                if not self._is_shared(above.id, identity):
                    self._write(replace(start, identity=identity, pid=0, held=False), above, pod_level=True)
        except (CgroupError, HookError, KernelError) as error:
            self.outcomes["pod_failed"] += 1
            log.warning("the pod's own cgroup is not bound", extra=fields(pod=identity.pod_name, error=str(error)))

    def _is_shared(self, cgroup: CgroupId, identity: ContainerIdentity) -> bool:
        """A cgroup that several pods are in is none of a pod's own: what stands there for one of them goes."""
        if cgroup in self._shared_parents:
            return True
        holder = self._registry.record_at(cgroup)
        if holder is None or holder.identity.container_id == identity.container_id:
            return False
        if len(self._shared_parents) < MAX_SHARED:
            self._shared_parents.add(cgroup)
        self._forget(holder.identity.container_id)
        return True

    def _give_up(self, container: ContainerId) -> None:
        """A record that cannot be removed either goes with its cgroup; the registry has forgotten it."""
        try:
            self._forget(container)
        except KernelError:
            self.outcomes["not_removed"] += 1

    def _check_alive(self, start: Start, cgroup: ProcessCgroup) -> None:
        """A process that ended meanwhile has left its pid to anyone: what was bound may be nobody's."""
        if self._finder.still_there(start.pid, cgroup):
            return
        self.unbind(start.identity.container_id)
        raise HookError(Reason.PROCESS_GONE, f"process {start.pid} ended while it was held")

    def link_nested(self) -> None:
        """Links the cgroups below containers that were bound without that."""
        with self._lock:
            unlinked, self._unlinked = self._unlinked, {}
        self._link(unlinked, again=True)

    def _link(self, containers: dict[CgroupId, _Below], *, again: bool) -> None:
        """again: the housekeeping looks once more, for a cgroup that came into being while its container was bound and
        was not listed yet. One that failed is tried again until it does not.
        """
        for cgroup, below in containers.items():
            try:
                self._bindings.inherit(cgroup, below.workload, below.directory)
                failed = False
            except KernelError:
                self.outcomes["nested_failed"] += 1
                failed = True
            if again or failed:
                self._again[cgroup] = below

    def unbind(self, container: ContainerId) -> bool:
        """True when it was bound; a sandbox with its pod's own cgroup. Raises HookError when its record cannot be
        removed.
        """
        with self._lock:
            try:
                self._forget(pod_id(container))
                return self._forget(container)
            except KernelError as error:
                self.outcomes["not_removed"] += 1
                raise HookError(Reason.KERNEL, str(error)) from error

    def mark(self) -> int:
        """A moment, for retain."""
        with self._lock:
            return self._announcements

    def retain(self, containers: Iterable[ContainerId], mark: int) -> int:
        """Forgets every container that the NRI plugin announced, that is not named and was not announced since the
        mark; gives how many. Others know of containers that its runtime does not have.

        Raises HookError as unbind does.
        """
        kept = set(containers)
        kept |= {pod_id(container) for container in kept}
        self.synchronized = True
        with self._lock:
            old = [one for one, said in self._announced.items() if said.number <= mark and said.door is Door.NRI]
        return sum(self.unbind(container) for container in old if container not in kept)

    def _forget(self, container: ContainerId) -> bool:
        record = self._registry.record(container)
        self._announced.pop(container, None)
        self._sandboxes.discard(container)
        if record is None:
            return False
        self._apply(self._registry.remove_container(container))
        self._sink.workload_removed(record.workload)
        return True

    def _apply(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, SetBinding):
                self._bindings.bind(operation.cgroup, operation.binding)
            elif isinstance(operation, DeleteBinding):
                self._pending.pop(operation.cgroup, None)
                self._unlinked.pop(operation.cgroup, None)
                self._again.pop(operation.cgroup, None)
                self._bindings.delete(operation.cgroup)
            elif isinstance(operation, SetHost):
                self._bindings.set_host(operation.policies)
            else:
                self._bindings.set_quarantine(operation.policies)

    def select(self, added: Iterable[tuple[PolicyId, Scope]], removed: Iterable[PolicyId]) -> int:
        """Puts policies in force for the workloads in their scope and takes others out, in one write for each; gives
        how many changed.
        """
        with self._lock:
            changes = [self._registry.add_policy(policy, scope) for policy, scope in added]
            changes += [self._registry.remove_policy(policy) for policy in removed]
            if any(change.host for change in changes):
                self._bindings.set_host(self._registry.host().policies)
            self._apply((self._registry.quarantine(),))
        return self._rewrite(_cgroups(changes))

    def _rewrite(self, cgroups: tuple[CgroupId, ...]) -> int:
        """Goes on past one that cannot be written, which the housekeeping tries again, and raises at the end."""
        written = 0
        failed: KernelError | None = None
        for start in range(0, len(cgroups), CHUNK):
            with self._lock:
                for cgroup in cgroups[start : start + CHUNK]:
                    try:
                        written += self._rewrite_one(cgroup)
                    except KernelError as error:
                        self._unwritten.add(cgroup)
                        failed = error
        if failed:
            raise failed
        return written

    def _rewrite_siblings(self, cgroups: tuple[CgroupId, ...]) -> None:
        """A pod's labels have changed for its other containers. The one that starts does not wait for a second try."""
        try:
            self._rewrite(cgroups)
        except KernelError:
            self.outcomes["not_written"] += 1

    def _rewrite_one(self, cgroup: CgroupId) -> bool:
        binding = self._registry.binding(cgroup)
        return bool(binding and self._bindings.rewrite(cgroup, binding))

    def record_of(self, cgroup: CgroupId) -> Record | None:
        """The container that a cgroup belongs to, itself or by one above it; None for one that is not bound, or that
        nobody has identified.
        """
        with self._lock:
            binding = self._bindings.read(cgroup)
            return self._registry.record_at(CgroupId(binding.owner)) if binding else None

    def namespace_of(self, pid: int) -> str | None:
        """Of the bound container that a process is in, by its cgroup or one above it; None when it is in none. Raises
        CgroupError when that cannot be told, as of a quarantined container.
        """
        for _, record in self._bound_around(pid):
            if record is None:
                raise CgroupError(f"process {pid} is in a container that nobody has identified")
            return record.identity.namespace
        return None

    def running_in(self, pid: int) -> str | None:
        """As namespace_of, of a container whose entrypoint was called; None for one that is set up still. Of one in
        quarantine it is no namespace's name.
        """
        for cgroup, record in self._bound_around(pid):
            if record and record.pod_level:
                continue
            with self._lock:
                if self._bindings.is_pending(record.cgroup if record else cgroup):
                    return None
            return record.identity.namespace if record else QUARANTINED
        return None

    def _bound_around(self, pid: int) -> Iterator[tuple[CgroupId, Record | None]]:
        """The bound cgroups that a process is in, its own first, each with its container; None for one in quarantine.
        Raises CgroupError.
        """
        here = self._finder.of_any(pid)
        cgroup, path = here.id, here.path
        while path.strip("/"):
            with self._lock:
                binding = self._bindings.read(cgroup)
                record = self._registry.record_at(CgroupId(binding.owner)) if binding else None
            if binding:
                yield cgroup, record
            path = path.rpartition("/")[0]
            cgroup = self._finder.id_of(path) if path else cgroup

    def release_quarantined(self, cgroup: CgroupId, path: str = "") -> bool:
        """Unbinds what nobody could identify, with the cgroups below it if its path is given; False when it is bound as
        what it is, or not at all.
        """
        below = Path(f"{self._root}{path}") if path else None
        with self._lock:
            return self._bindings.release_quarantined(cgroup, below)

    def put_in_quarantine(self, cgroup: CgroupId) -> bool:
        """Binds a cgroup to every policy until it is identified; False when it is bound already."""
        with self._lock:
            return self._bindings.put_in_quarantine(cgroup)

    def quarantined(self) -> list[CgroupId]:
        with self._lock:
            return self._bindings.quarantined()

    def pod_at(self, cgroup: CgroupId) -> Record | None:
        """The record of a pod's own cgroup."""
        with self._lock:
            record = self._registry.record_at(cgroup)
        return record if record and record.pod_level else None

    def record(self, container: ContainerId) -> Record | None:
        """A bound container; None for one that is not."""
        with self._lock:
            return self._registry.record(container)

    def knows(self, container: ContainerId) -> bool:
        return self.record(container) is not None

    def containers(self) -> tuple[Record, ...]:
        with self._lock:
            return self._registry.containers()

    def pending(self) -> int:
        """How many containers were announced and have not called execve."""
        with self._lock:
            return sum(self._bindings.is_pending(cgroup) for cgroup in self._pending)

    def numbers(self) -> tuple[int, int]:
        """How many containers are bound, and how many sandboxes."""
        with self._lock:
            records = self._registry.containers()
            sandboxes = len(self._sandboxes)
        return sum(not record.pod_level for record in records) - sandboxes, sandboxes

    def count(self, policy: PolicyId) -> int:
        """How many containers a policy selects now."""
        bit = 1 << policy
        with self._lock:
            bindings = (self._registry.binding(record.cgroup) for record in self._registry.containers())
            return sum(bool(binding and binding.policies & bit) for binding in bindings)

    def sweep(self, report: Callable[[str, Record], None], arming_deadline_s: float) -> None:
        """The housekeeping, once a second.

        Containers that the kernel removed, ones that never armed, and nested cgroups of running ones that came
        into being while they were bound.
        """
        records = self.containers()
        for start in range(0, len(records), CHUNK):
            with self._lock:
                for record in records[start : start + CHUNK]:
                    if self._registry.record(record.identity.container_id) is record:
                        self._sweep_one(record, report, arming_deadline_s)
        self._write_again()
        self._link_again()

    def _write_again(self) -> None:
        with self._lock:
            unwritten, self._unwritten = self._unwritten, set()
        if unwritten:
            self._rewrite(tuple(sorted(unwritten)))

    def _link_again(self) -> None:
        with self._lock:
            again, self._again = self._again, {}
        self._link(again, again=False)

    def _sweep_one(self, record: Record, report: Callable[[str, Record], None], arming_deadline_s: float) -> None:
        if self._bindings.read(record.cgroup) is None:
            self._forget(pod_id(record.identity.container_id))  # a pod without its sandbox is over
            self._forget(record.identity.container_id)
            report(CGROUP_REMOVED, record)
            return
        pending = self._pending.get(record.cgroup)
        if pending is None:
            return
        if self._bindings.is_pending(record.cgroup):
            if self._is_waiting(pending, arming_deadline_s):
                return
            self._bindings.arm(record.cgroup)
            self.outcomes[ARMED_LATE] += 1
            report(ARMED_LATE, record)
        del self._pending[record.cgroup]
        self._registry.mark_armed(record.cgroup)
        self._rewrite_one(record.cgroup)

    def _is_waiting(self, pending: _Pending, deadline_s: float) -> bool:
        """An OCI hook is called when a container is created, and its start may come much later: as long as its init
        process does nothing, its execve has not been missed.
        """
        before, pending.progress = pending.progress, self._finder.progress(pending.pid) if pending.patient else None
        if time.monotonic() - pending.since < deadline_s:
            return True
        return before is not None and before == pending.progress


def pod_id(sandbox: ContainerId) -> ContainerId:
    """Under which a pod's own cgroup is known."""
    return ContainerId(f"pod:{sandbox}")


def _cgroups(changes: Iterable[Changed]) -> tuple[CgroupId, ...]:
    return tuple(sorted({cgroup for change in changes for cgroup in change.cgroups}))
