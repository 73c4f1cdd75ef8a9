# SPDX-License-Identifier: Apache-2.0
"""One call of the OCI hook: from what the runtime gave it, and from the process that calls, to a container that starts.

What each stage makes known differs. At createContainer the hook runs in the container's own cgroup and is a child of
the init process, and the state's pid is a number of the container's pid namespace; at createRuntime the hook runs in
the runtime's cgroup, and the state's pid is the init process. Both leave the host's root visible to the hook.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from agent.hooks.annotations import AnnotatedIdentity, Kind, Runtime, identify
from agent.hooks.bundle import read_config
from agent.hooks.errors import HookError, LookupFailed, Reason, SpecError
from agent.hooks.gate import Start
from agent.hooks.limits import MAX_LABELS_BYTES
from agent.hooks.peer import Peer
from agent.hooks.spec import State, parse_config
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.errors import CgroupError
from agent.workload.identity import Door, Labels, freeze_labels

MAX_STAT = 4096  # /proc/<pid>/stat: 52 numbers and a name of 64 bytes


class Stage(Enum):
    """The stages that the hook is installed at, in the specification's words."""

    CREATE_RUNTIME = "createRuntime"
    CREATE_CONTAINER = "createContainer"
    POSTSTOP = "poststop"


class PodLabels(Protocol):
    def labels_of(self, sandbox_id: str, namespace: str, name: str, /) -> Mapping[str, str] | None:
        """A pod's labels; None when the runtime has no such pod. Raises LookupFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Described:
    """cgroups_path: as config.json states it; empty when the runtime chooses one."""

    state: State
    cgroups_path: str
    identity: AnnotatedIdentity


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a container starts. init: the process that will be its entrypoint."""

    cgroup: ProcessCgroup
    init: int


def find_labels(who: AnnotatedIdentity, labels: PodLabels) -> Labels:
    """Raises LookupFailed. A sandbox that does not tell its labels has none yet: its runtime is at work on it and knows
    no such pod; the pod's containers bring them, and then they are the sandbox's too.
    """
    if who.labels is not None:
        return who.labels
    if who.kind is Kind.SANDBOX:
        return ()
    found = labels.labels_of(who.sandbox_id, who.namespace, who.pod_name)
    pod = f"pod {who.namespace}/{who.pod_name}, sandbox {who.sandbox_id or 'unknown'}"
    if found is None:
        raise LookupFailed(f"{pod}: the runtime does not know it")
    if sum(len(key) + len(value) for key, value in found.items()) > MAX_LABELS_BYTES:
        raise LookupFailed(f"{pod}: labels are larger than {MAX_LABELS_BYTES} bytes")
    return freeze_labels(found)


class OciStarts:
    """Makes starts of hook calls; may be asked by several threads at once."""

    def __init__(self, finder: CgroupFinder, labels: PodLabels, procfs: Path = Path("/proc")) -> None:
        self._finder = finder
        self._labels = labels
        self._procfs = procfs

    def describe(self, runtime: Runtime, state: State, peer: Peer) -> Described:
        """Reads the bundle; its annotations count, the state's only when it has none. Raises HookError."""
        if not state.bundle:
            raise SpecError(Reason.NO_SPEC, "state", "/bundle", "is missing, so there is no config.json")
        spec = parse_config(read_config(state.bundle, peer.pid, self._procfs))
        return Described(state, spec.cgroups_path, identify(spec.annotations or state.annotations, runtime, state.id))

    def start(self, stage: Stage, container: Described, peer: Peer) -> Start:
        """stage: not POSTSTOP, at which nothing starts. Raises HookError."""
        state, who = container.state, container.identity
        try:
            place = self._find_place(stage, state, container.cgroups_path, peer)
        except CgroupError as error:
            raise HookError(Reason.NO_CGROUP, f"container {state.id}: {error}") from error
        identity = who.of_container(state.id, find_labels(who, self._labels))
        return Start(identity, place.init, container.cgroups_path, held=True, door=Door.OCI, cgroup=place.cgroup)

    def _find_place(self, stage: Stage, state: State, cgroups_path: str, peer: Peer) -> _Place:
        if stage is Stage.CREATE_RUNTIME:
            return self._at_create_runtime(state, cgroups_path, peer)
        return self._at_create_container(state, cgroups_path, peer)

    def _at_create_container(self, state: State, cgroups_path: str, peer: Peer) -> _Place:
        cgroup = self._cgroup_of(peer.pid, cgroups_path, state.id)
        init = self._parent_of(peer.pid)
        if not self._finder.still_there(init, cgroup):
            raise CgroupError(
                f"process {init}, the parent of hook {peer.pid}, is not the init process: not in {cgroup.path}"
            )
        return _Place(cgroup, init)

    def _at_create_runtime(self, state: State, cgroups_path: str, peer: Peer) -> _Place:
        if state.pid <= 1:
            raise SpecError(Reason.INVALID, "state", "/pid", f"is {state.pid}: no init process at createRuntime")
        if self._pid_namespace(str(peer.pid)) != self._pid_namespace("self"):
            raise CgroupError(
                f"hook {peer.pid} is in another pid namespace: pid {state.pid} is not the agent's to read"
            )
        cgroup = self._cgroup_of(state.pid, cgroups_path, state.id)
        runtime = self._finder.of_any(peer.pid)
        if f"{runtime.path}/".startswith(f"{cgroup.path}/"):
            raise CgroupError(
                f"process {state.pid} is in cgroup {cgroup.path}, and so is its runtime's hook {peer.pid}"
            )
        return _Place(cgroup, state.pid)

    def _cgroup_of(self, pid: int, cgroups_path: str, container: str) -> ProcessCgroup:
        """Where no path is given, runc and crun name the cgroup after the container. Any other is somebody else's: the
        runtime's own, say, with cgroups disabled.
        """
        if cgroups_path:
            return self._finder.of_process(pid, cgroups_path)
        path = self._finder.of_any(pid).path
        for name in path.split("/"):
            if name == container or name.endswith(f"-{container}.scope"):
                return self._finder.of_process(pid, name)
        raise CgroupError(f"config.json names no cgroup, and {path} is not named after the container")

    def _parent_of(self, pid: int) -> int:
        """Field 4 of /proc/<pid>/stat (proc(5)); what comes before it may hold anything, the last `)` ends it."""
        try:
            with open(self._procfs / str(pid) / "stat", "rb", buffering=0) as file:
                return int(file.read(MAX_STAT).rpartition(b") ")[2].split()[1])
        except (OSError, ValueError, IndexError) as error:
            raise CgroupError(f"process {pid} is gone") from error

    def _pid_namespace(self, process: str) -> str:
        try:
            return os.readlink(self._procfs / process / "ns/pid")
        except OSError as error:
            raise CgroupError(f"process {process} is gone", error.errno or 0) from error
