# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of containers that no hook announced: what is done with them, who is held, and what is told of them
(bpf/maps/doors.h).
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.layout import CGROUP_KEY, DOORS, HELD, HOOK, NOTICE, STRANGER, TGID
from agent.kernel.maps import ZERO, Maps
from agent.workload.identity import CgroupId

TICKS_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # the unit of a start time in /proc/<pid>/stat


class Treatment(IntEnum):
    """enum pg_treatment: what became of a process at its execve."""

    REPORT = 0
    STRICT = 1
    HOLD = 2


class Fallback(IntEnum):
    """enum pg_fallback: what becomes of a held one that nobody could identify."""

    OPEN = 0
    STRICT = 1
    KILL = 2


class NoticeKind(Enum):
    """enum pg_notice_kind: a container's cgroup was made, or a process of one called execve."""

    CGROUP = 1
    EXEC = 2


@dataclass(frozen=True, slots=True)
class Notice:
    """pid, parent: as the host counts. ns_pid: in the process's own pid namespace, whose level is 0 for the host's.
    above: the cgroup that it is in. time_ns: since boot. name: of the cgroup's directory.
    """

    kind: NoticeKind
    treatment: Treatment
    cgroup: CgroupId
    above: CgroupId
    time_ns: int
    pid: int
    parent: int
    ns_pid: int
    level: int
    comm: str
    name: str


@dataclass(frozen=True, slots=True)
class DoorPolicy:
    """stale_s: without a heartbeat for so long nobody is held. deadline_s: how long one is held at most. apart:
    containers have mount namespaces of their own, so that a process that shares its parent's sets one up still.
    """

    treatment: Treatment = Treatment.REPORT
    fallback: Fallback = Fallback.OPEN
    stale_s: float = 1.0
    deadline_s: float = 0.5
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """since_ns, start_ns: since boot."""

    pid: int
    cgroup: CgroupId
    since_ns: int
    start_ns: int


def parse_notice(data: bytes) -> Notice:
    """ValueError for what is no struct pg_notice."""
    if len(data) != NOTICE.size:
        raise ValueError(f"a notice has {NOTICE.size} bytes, not {len(data)}")
    kind, treatment, cgroup, above, time_ns, pid, parent, ns_pid, level, comm, name = NOTICE.unpack(data)
    return Notice(
        NoticeKind(kind),
        Treatment(treatment),
        CgroupId(cgroup),
        CgroupId(above),
        time_ns,
        pid,
        parent,
        ns_pid,
        level,
        _text(comm),
        _text(name),
    )


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


class Doors:
    """The maps doors, strangers and held."""

    def __init__(self, maps: Maps, policy: DoorPolicy) -> None:
        self._doors = maps.fileno("doors")
        self._strangers = maps.fileno("strangers")
        self._held = maps.fileno("held")
        self._hook = maps.fileno("hook")
        self.policy = policy
        self.rest()

    def beat(self) -> None:
        """Say that whoever is held will be released by us. The treatment is in force from the first time on."""
        self._write(self.policy.treatment, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def rest(self) -> None:
        """From now on nobody is held, nor put into quarantine."""
        self._write(Treatment.REPORT, 0)

    def _write(self, treatment: Treatment, heartbeat_ns: int) -> None:
        policy = self.policy
        stale_ns, deadline_ns = int(policy.stale_s * 1e9), int(policy.deadline_s * 1e9)
        value = DOORS.pack(treatment, policy.fallback, heartbeat_ns, stale_ns, deadline_ns, policy.apart)
        bpf.update(self._doors, ZERO, value)

    def exempt_hook(self, binary: Path) -> bool:
        """The OCI hook's binary, which calls execve in a container's cgroup to announce it; False when it is not there.

        Where stat(2) gives other numbers than the kernel's inode has (btrfs, overlayfs), it is treated like any other
        hook.
        """
        try:
            status = binary.stat()
        except OSError:
            bpf.update(self._hook, ZERO, HOOK.pack(0, 0, 0))
            return False
        device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        bpf.update(self._hook, ZERO, HOOK.pack(status.st_ino, device, 0))
        return True

    def watch(self, cgroup: CgroupId) -> None:
        """Take a cgroup for that of a container nobody has announced."""
        bpf.update(self._strangers, CGROUP_KEY.pack(cgroup), STRANGER.pack(0, 0, 0))

    def forget(self, cgroup: CgroupId) -> None:
        bpf.delete(self._strangers, CGROUP_KEY.pack(cgroup))

    def held(self) -> list[Held]:
        pids = (TGID.unpack(key)[0] for key in bpf.keys(self._held, TGID.size))
        return [held for pid in pids if (held := self.find(pid))]

    def find(self, pid: int) -> Held | None:
        """What is held under that pid."""
        value = bpf.lookup(self._held, TGID.pack(pid), HELD.size)
        if value is None:
            return None
        cgroup, since_ns, start_ns = HELD.unpack(value)
        return Held(pid, CgroupId(cgroup), since_ns, start_ns)

    def release(self, held: Held, number: signal.Signals = signal.SIGCONT) -> bool:
        """Let a held process go on, or end it; False when it is gone. Another one that has its pid by now is let be."""
        found = _signal(held, number)
        bpf.delete(self._held, TGID.pack(held.pid))
        return found


def _signal(held: Held, number: signal.Signals) -> bool:
    try:
        descriptor = os.pidfd_open(held.pid)
    except ProcessLookupError:
        return False
    try:
        if not _is_same(held):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_same(held: Held) -> bool:
    """By the start time, field 22 of /proc/<pid>/stat (proc(5)), in clock ticks since boot."""
    try:
        with open(f"/proc/{held.pid}/stat", "rb", buffering=0) as file:
            stat = file.read(4096)
    except OSError:
        return False
    return int(stat.rpartition(b") ")[2].split()[19]) == held.start_ns // TICKS_NS
