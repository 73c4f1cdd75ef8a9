# SPDX-License-Identifier: Apache-2.0
"""The processes that run, from /proc, and what they met of predicates that came into force after they had begun.

What is known of such a process is its present image and its living ancestors: those count. A process that met a
predicate since is the kernel's own affair (bpf/lib/lineage.h), and so is what it forked since.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.layout import LINEAGE, LINEAGE_WORDS
from agent.policy.lineage import BinaryPredicate, PidPredicate, Placed, inner_bits
from agent.policy.model import CapabilityType, NamespaceType

PROCFS = Path("/proc")
TICK_NS = 10_000_000  # USER_HZ is 100 on every architecture that is supported
HOST_USER, OTHER_USER = 1, 2  # enum pg_snapshot of bpf/maps/process.h
_DELETED = b" (deleted)"  # fs/d_path.c
_WORD = (1 << 64) - 1
_LINKS = {
    NamespaceType.UTS: "uts",
    NamespaceType.IPC: "ipc",
    NamespaceType.MNT: "mnt",
    NamespaceType.PID: "pid",
    NamespaceType.PID_FOR_CHILDREN: "pid_for_children",
    NamespaceType.NET: "net",
    NamespaceType.TIME: "time",
    NamespaceType.TIME_FOR_CHILDREN: "time_for_children",
    NamespaceType.CGROUP: "cgroup",
    NamespaceType.USER: "user",
}
_SETS = {
    CapabilityType.EFFECTIVE: "CapEff",
    CapabilityType.INHERITABLE: "CapInh",
    CapabilityType.PERMITTED: "CapPrm",
}


@dataclass(frozen=True, slots=True)
class Process:
    """start: ns since boot, to the clock tick below. image: the path of its binary as it sees it, empty for a thread of
    the kernel, None when the kernel does not tell. task: the directory of a thread of it that lives, the first one if
    it does.
    """

    pid: int
    parent: int
    start: int
    image: bytes | None
    task: Path


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process is now. namespaces and capabilities in the order of their enums; user: HOST_USER or OTHER_USER."""

    namespaces: tuple[int, ...]
    capabilities: tuple[int, ...]
    user: int


@dataclass(frozen=True, slots=True)
class Record:
    """struct pg_lineage: bit sets as integers, times in ns since boot."""

    start: int
    written: int = 0
    scanned: int = 0
    bits: int = 0
    parent_bits: int = 0
    before: int = 0
    parent_before: int = 0
    snapshot: Snapshot | None = None
    unknown: bool = False
    slack: int = 0

    def pack(self) -> bytes:
        sets = (self.bits, self.parent_bits, self.before, self.parent_before)
        words = [value >> 64 * n & _WORD for value in sets for n in range(LINEAGE_WORDS)]
        taken = self.snapshot or Snapshot((0,) * len(_LINKS), (0,) * len(_SETS), 0)
        return LINEAGE.pack(
            *(self.start, self.written, self.scanned, *words, *taken.capabilities, *taken.namespaces),
            *(taken.user, self.unknown, self.slack, 0),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        values = LINEAGE.unpack(data)
        words = [values[3 + LINEAGE_WORDS * n : 3 + LINEAGE_WORDS * (n + 1)] for n in range(4)]
        sets = [sum(word << 64 * n for n, word in enumerate(each)) for each in words]
        at = 3 + 4 * LINEAGE_WORDS
        capabilities, namespaces = values[at : at + len(_SETS)], values[at + len(_SETS) : -4]
        user, unknown, slack, _ = values[-4:]
        taken = Snapshot(tuple(namespaces), tuple(capabilities), user) if user else None
        start, written, scanned = values[:3]
        bits, parent_bits, before, parent_before = sets
        return cls(start, written, scanned, bits, parent_bits, before, parent_before, taken, bool(unknown), slack)

    def is_of(self, process: Process) -> bool:
        """Whether it is this process's, whose start is known to the tick."""
        return 0 <= self.start - process.start < TICK_NS

    def met(self, placed: Iterable[Placed]) -> int:
        """The bits that the kernel set, of those that mean what they mean now."""
        return self.bits & _since(placed, self.written)

    def met_before(self, placed: Iterable[Placed]) -> int:
        """The bits that a scan set."""
        return self.before & _since(placed, self.scanned)


def _since(placed: Iterable[Placed], time: int) -> int:
    return sum(1 << each.bit for each in placed if each.since <= time)


@dataclass(frozen=True, slots=True)
class Before:
    """What a process met before the predicates were in force, and what its parent had."""

    bits: int = 0
    parent_bits: int = 0


class Lookup:
    """Of one pass over the processes: what each met before. records: the kernel's, by pid, of these processes."""

    def __init__(
        self, processes: Mapping[int, Process], records: Mapping[int, Record], new: tuple[Placed, ...]
    ) -> None:
        self._processes = processes
        self._records = records
        self._new = new
        self._known: dict[int, int] = {}

    def of(self, process: Process) -> Before:
        """Of one of the processes."""
        return Before(self._bits(process.pid), self._bits(process.parent))

    def _bits(self, pid: int) -> int:
        """Down the line from the first ancestor, or from one that is known already."""
        line: dict[int, None] = {}  # in order; a reused pid can lead in a circle
        while pid in self._processes and pid not in self._known and pid not in line:
            line[pid] = None
            pid = self._processes[pid].parent
        bits, above = self._known.get(pid, 0), pid
        for each in reversed(line):
            bits = self._own(self._processes[each]) | self._inherited(bits | self._forked_by(above), above, each)
            self._known[each] = bits
            above = each
        return bits

    def _inherited(self, bits: int, parent: int, child: int) -> int:
        """Numbers of a pid namespace mean nothing to a child in another one."""
        inner = bits & inner_bits(self._new)
        return bits & ~inner if inner and self._level(parent) != self._level(child) else bits

    def _level(self, pid: int) -> int:
        process = self._processes.get(pid)
        return read_pid_level(process) if process else 0

    def _own(self, process: Process) -> int:
        """By its image, unless the kernel saw its execve: then only what it forked since descends from that."""
        record = self._records.get(process.pid)
        seen = record.met(self._new) if record else 0
        images = ((each.bit, each.predicate) for each in self._new)
        image = process.image or b""
        bits = sum(1 << bit for bit, p in images if isinstance(p, BinaryPredicate) and p.holds(image))
        return bits & ~seen

    def _forked_by(self, pid: int) -> int:
        process = self._processes.get(pid)
        if process is None:
            return 0
        pids = [(each.bit, each.predicate) for each in self._new if isinstance(each.predicate, PidPredicate)]
        inner = read_namespace_pid(process) if any(p.namespace_pid for _, p in _only_pids(pids)) else 0
        return sum(1 << bit for bit, p in _only_pids(pids) if p.holds(pid, inner))


def _only_pids(pairs: Iterable[tuple[int, object]]) -> list[tuple[int, PidPredicate]]:
    return [(bit, predicate) for bit, predicate in pairs if isinstance(predicate, PidPredicate)]


def read_processes(procfs: Path = PROCFS) -> dict[int, Process]:
    """All that live, by pid; those that end meanwhile may be missing."""
    found = (read_process(procfs, int(name)) for name in os.listdir(procfs) if name.isdigit())
    return {process.pid: process for process in found if process}


def read_process(procfs: Path, pid: int) -> Process | None:
    """None when it is gone, or is a zombie: its last thread has ended."""
    try:
        state, parent, threads, start = parse_stat((procfs / str(pid) / "stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in "ZX" and threads <= 1:
        return None
    task = _living_task(procfs / str(pid)) if state in "ZX" else procfs / str(pid)
    if task is None:
        return None
    return Process(pid, parent, start * TICK_NS, _read_image(task), task)


def parse_stat(text: bytes) -> tuple[str, int, int, int]:
    """State, parent, number of threads, start in ticks since boot: proc(5), /proc/PID/stat. The name may have anything
    in it.
    """
    fields = text.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[17]), int(fields[19])


def _living_task(folder: Path) -> Path | None:
    """A thread that has an image still: the first one may have ended before the others."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder / "task"):
            if _read_image(folder / "task" / name) != b"":
                return folder / "task" / name
    return None


def _read_image(task: Path) -> bytes | None:
    """As bpf/lib/path.h reads it: from the process's own root, and what was deleted by the name that it had."""
    try:
        path = os.readlink(os.fsencode(task / "exe"))
        root = os.readlink(os.fsencode(task / "root"))
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except PermissionError:
        return None
    if path.endswith(_DELETED) and not _is_there(task, path):
        path = path.removesuffix(_DELETED)
    if root != b"/" and path.startswith(root + b"/"):
        return path.removeprefix(root)
    return path


def _is_there(task: Path, path: bytes) -> bool:
    """Whether the image's file has this very name."""
    with suppress(OSError):
        return os.path.samestat(os.stat(os.fsencode(task / "root") + path), os.stat(task / "exe"))
    return False


def read_namespace_pid(process: Process) -> int:
    """The process's id in its own pid namespace; 0 when it is gone."""
    numbers = _status(process.task).get("NStgid", "").split()
    return int(numbers[-1]) if numbers else 0


def read_pid_level(process: Process) -> int:
    """How deep the process's pid namespace is, from 1; 0 when it is gone."""
    return len(_status(process.task).get("NStgid", "").split())


def read_snapshot(process: Process, host_user: int) -> Snapshot | None:
    """host_user: inode number of the host's user namespace. None when it is gone, or the kernel does not tell."""
    namespaces = read_namespaces(process.task)
    status = _status(process.task)
    if not namespaces or not status:
        return None
    user = HOST_USER if namespaces[NamespaceType.USER] == host_user else OTHER_USER
    sets = tuple(int(status[_SETS[kind]], 16) for kind in CapabilityType)
    return Snapshot(tuple(namespaces.get(kind, 0) for kind in NamespaceType), sets, user)


def read_host_namespaces(procfs: Path = PROCFS) -> dict[NamespaceType, int]:
    """Inode numbers of the host's namespaces: `host_ns`. Types that this kernel does not have are missing. Empty when
    neither process 1 tells nor process 2, which is the kernel's and never leaves the first namespaces.
    """
    return read_namespaces(procfs / "1") or read_namespaces(procfs / "2")


def read_namespaces(task: Path) -> dict[NamespaceType, int]:
    """Inode numbers, of the types that this kernel has; empty when the process is gone, or the kernel does not tell."""
    found = dict(_namespaces(task))
    return found if NamespaceType.USER in found else {}


def _namespaces(task: Path) -> Iterator[tuple[NamespaceType, int]]:
    for kind, name in _LINKS.items():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if match := re.search(r"\[(\d+)\]", os.readlink(task / "ns" / name)):
                yield kind, int(match[1])


def _status(task: Path) -> dict[str, str]:
    try:
        lines = (task / "status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
