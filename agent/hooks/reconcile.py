# SPDX-License-Identifier: Apache-2.0
"""What runs already and nobody announced: the cgroup tree and the runtime's own list are compared with what is bound.

It runs after the agent's start and after each list of the NRI plugin, and then every half minute: a container that a
runtime lost between two lists, one that was put into quarantine while no agent ran, a static pod from before the
agent. One that is bound without its name or image, by its pod alone, gets them here. It is on no container's path.

One that is being made at that very moment is none of it: its set-up would meet the policies. The runtime says so of a
container; of a sandbox it knows nothing yet, so what nobody knows is met twice before it is believed.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from agent.cri.model import CriContainer
from agent.hooks.errors import HookError
from agent.hooks.gate import Gate, Start
from agent.hooks.identify import Found, Identifier, is_bound_elsewhere, parse_container_name
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.doors import DoorPolicy, Doors, Fallback, Treatment
from agent.kernel.errors import CgroupError
from agent.logs import fields
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, Door
from agent.workload.images import choose_image
from agent.workload.registry import Record

INTERVAL_S = 30.0
FIRST_S = 2.0  # for hooks to announce what runs: the NRI plugin needs less than one second
AGAIN_S = 2.0  # a container that is being set up is announced, or has called its execve, long before
MAX_BELOW = 1024  # cgroups of one unknown container: as many as a known one can have records for

log = logging.getLogger("podgate.doors")


@dataclass(frozen=True, slots=True)
class Stray:
    """A container's cgroup with processes in it that is not bound as what it is."""

    container: ContainerId
    cgroup: CgroupId
    above: CgroupId
    directory: Path
    path: str  # from the hierarchy's root
    quarantined: bool


def iterate_containers(root: Path) -> Iterator[Path]:
    """The cgroups below root that have a container's name, the outermost ones; those that vanish are left out."""
    waiting = [str(root)]
    while waiting:
        for entry in read_directories(waiting.pop()):
            if parse_container_name(entry.name):
                yield Path(entry.path)
            else:
                waiting.append(entry.path)


def iterate_below(directory: Path) -> Iterator[Path]:
    """A cgroup and those below it."""
    waiting = [str(directory)]
    while waiting:
        path = waiting.pop()
        yield Path(path)
        waiting += [entry.path for entry in read_directories(path)]


def read_directories(path: str) -> list[os.DirEntry[str]]:
    """None of a cgroup that has gone."""
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise


def tells_more(container: CriContainer, known: ContainerIdentity) -> bool:
    """Whether the runtime tells a name or a repository that nobody has told of a bound container."""
    image = choose_image((known.image, container.image))
    return image != known.image or bool(container.name and not known.container_name)


def is_populated(directory: Path) -> bool:
    """Whether a live process is in the cgroup or below it: cgroup.events (cgroup-v2.rst)."""
    try:
        return "populated 1" in (directory / "cgroup.events").read_text()
    except OSError:
        return False


class Reconciler:
    """root: the mount of the unified hierarchy."""

    def __init__(
        self, gate: Gate, identifier: Identifier, finder: CgroupFinder, doors: Doors, policy: DoorPolicy, root: Path
    ) -> None:
        self._gate = gate
        self._identifier = identifier
        self._finder = finder
        self._doors = doors
        self._policy = policy
        self._root = root
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._met: set[CgroupId] = set()
        self._put_off: set[CgroupId] = set()
        self._told: set[CgroupId] = set()
        self.runs = 0
        self.outcomes: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def hurry(self) -> None:
        """Do it soon: the world may have changed."""
        self._wake.set()

    def _run(self) -> None:
        wait = FIRST_S
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            if self._stopping:
                return
            try:
                self.reconcile()
            except Exception:
                log.exception("reconciling failed")
            wait = AGAIN_S if self._put_off else INTERVAL_S

    def reconcile(self) -> None:
        """One round; what fails of one container keeps no other from being looked at."""
        before, self._met, self._put_off = self._met | self._put_off, set(), set()
        for stray in self._strays():
            if self._stopping:
                return
            self._met.add(stray.cgroup)
            self._each(stray.container, partial(self._take, stray, first=stray.cgroup not in before))
        self._told &= self._met
        for container in self._identifier.running():
            if self._stopping:
                return
            record = self._gate.record(container.id)
            if record is None:
                self._each(container.id, partial(self._take_listed, container.id))
            elif tells_more(container, record.identity):
                self._each(container.id, partial(self._complete, record))
        self.runs += 1

    def _each(self, container: ContainerId, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            self.outcomes["failed"] += 1
            log.exception("a container is not reconciled", extra=fields(container_id=container))

    def _strays(self) -> Iterator[Stray]:
        quarantined = set(self._gate.quarantined())
        for directory in iterate_containers(self._root):
            try:
                stray = self._stray(directory, quarantined)
            except (CgroupError, FileNotFoundError):
                continue  # it has gone meanwhile
            if stray and is_populated(directory):
                yield stray

    def _stray(self, directory: Path, quarantined: set[CgroupId]) -> Stray | None:
        path = str(directory)[len(str(self._root).rstrip("/")) :]
        cgroup = self._finder.id_of(path)
        container = parse_container_name(directory.name)
        if container is None or self._gate.record_of(cgroup):
            return None
        above = CgroupId(directory.parent.stat().st_ino)
        inner = self._inner_quarantined(path, quarantined)
        return Stray(container, cgroup, above, directory, path, cgroup in quarantined or inner)

    def _inner_quarantined(self, path: str, quarantined: set[CgroupId]) -> bool:
        try:
            return self._finder.id_of(f"{path}/container") in quarantined
        except CgroupError:
            return False

    def _take(self, stray: Stray, *, first: bool) -> None:
        """One that is being set up at this moment is left to its hook, and to the doors: at the first sight nobody may
        know it yet. first: it was not met in the round before.
        """
        found = self._identifier.identify(stray.container, stray.above)
        if found and found.created:
            return
        if first and (found is None or found.by_pod):
            self._put_off.add(stray.cgroup)
        elif found is None:
            self._leave(stray)
        elif is_bound_elsewhere(self._gate, self._finder, stray.container, stray.cgroup):
            self._tell(stray, "elsewhere", "a cgroup has the name of a container that runs in another one")
        else:
            self._bind(found, ProcessCgroup(stray.cgroup, stray.path, nested=True), 0, "")

    def _take_listed(self, container: ContainerId) -> None:
        """Without a cgroups path nothing says that the process is still the container's."""
        known = self._identifier.process_of(container)
        if known and known[2]:
            found, pid, cgroups_path = known
            self._bind(found, None, pid, cgroups_path)

    def _complete(self, record: Record) -> None:
        """One whose pod alone was known, in the cgroup that it is bound in and in no other."""
        known = self._identifier.process_of(record.identity.container_id)
        if known is None or not known[2]:
            return
        found, pid, cgroups_path = known
        try:
            cgroup = self._finder.of_process(pid, cgroups_path)
        except CgroupError as error:
            log.debug("a process is not there any more", extra=fields(pid=pid, error=str(error)))
            return
        if cgroup.id == record.cgroup:
            self._bind(found, cgroup, pid, cgroups_path, outcome="completed")

    def _bind(
        self, found: Found, cgroup: ProcessCgroup | None, pid: int, cgroups_path: str, outcome: str = "bound"
    ) -> None:
        identity = found.identity
        start = Start(identity, pid, cgroups_path, False, Door.RECONCILE, cgroup, found.sandbox)
        who = {"container_id": identity.container_id, "namespace": identity.namespace, "pod": identity.pod_name}
        try:
            self._gate.bind(start)
        except HookError as error:
            self.outcomes["refused"] += 1
            log.warning("a running container is not bound", extra=fields(**who, error=str(error)))
            return
        self.outcomes["sandbox" if found.sandbox else outcome] += 1
        log.warning("found running, bound now", extra=fields(**who, outcome=outcome))

    def _leave(self, stray: Stray) -> None:
        """Nobody knows it: from now on it is treated as the configuration says, and that is told once."""
        strict = self._policy.treatment is Treatment.STRICT or (
            self._policy.treatment is Treatment.HOLD and self._policy.fallback is not Fallback.OPEN
        )
        for directory in islice(iterate_below(stray.directory), MAX_BELOW):
            try:
                self._treat(CgroupId(directory.stat().st_ino), strict=strict)
            except FileNotFoundError:
                continue
        how = "quarantined" if strict or stray.quarantined else "unguarded"
        self._tell(stray, "unidentified", "a running container is not known", treated=how)

    def _tell(self, stray: Stray, outcome: str, text: str, **values: str) -> None:
        """Once, for as long as it runs."""
        if stray.cgroup not in self._told:
            self._told.add(stray.cgroup)
            self.outcomes[outcome] += 1
            log.warning(text, extra=fields(cgroup=stray.path, **values))

    def _treat(self, cgroup: CgroupId, *, strict: bool) -> None:
        if strict:
            self._gate.put_in_quarantine(cgroup)
        if self._policy.treatment is Treatment.REPORT:
            self._doors.watch(cgroup)
