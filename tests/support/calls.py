# SPDX-License-Identifier: Apache-2.0
"""System calls with chosen arguments, from processes of the test's own, and what the kernel's side sees of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from agent.kernel.mounts import cgroup2_root
from agent.kernel.process_scan import read_host_namespaces, read_namespaces
from agent.policy.evaluate_seen import Lineage, Process, Snapshot, Text
from agent.policy.lineage import BinaryPredicate, Predicate
from agent.policy.model import CapabilityType, NamespaceType
from agent.policy.syscalls import NUMBERS
from tests.support import system
from tests.support.names import project_dir, unique_name
from tests.support.wait import wait_until

SOON_S = 20.0
NEW_NAMESPACES = 0x04000000 | 0x20000000  # CLONE_NEWUTS, CLONE_NEWPID
NEW_USER, NEW_IPC = 0x10000000, 0x08000000
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
_DELETED = b" (deleted)"  # behind the links of /proc
_SETS = {
    CapabilityType.EFFECTIVE: "CapEff",
    CapabilityType.INHERITABLE: "CapInh",
    CapabilityType.PERMITTED: "CapPrm",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Memory that an argument points to. cold: not resident when the call begins; in one page then."""

    data: bytes
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Vector:
    """An array of struct iovec."""

    parts: tuple[bytes, ...]


Argument = int | Place | Vector


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call to make, by whom. arguments: registers, at most six."""

    name: str
    arguments: tuple[Argument, ...]
    caller: int = 0

    def warm(self) -> MadeCall:
        """The same with all of its memory resident."""
        arguments = (replace(each, cold=False) if isinstance(each, Place) else each for each in self.arguments)
        return replace(self, arguments=tuple(arguments))


@dataclass(frozen=True, slots=True)
class Done:
    """results: of each call. resident: of the cold places in order, whether they were at the end."""

    results: tuple[int, ...]
    signals: tuple[int, ...]
    resident: tuple[bool, ...]


def _encode(argument: Argument) -> Any:
    if isinstance(argument, Place):
        return {"bytes": argument.data.hex(), "cold": argument.cold}
    if isinstance(argument, Vector):
        return {"vector": [part.hex() for part in argument.parts]}
    return argument


class Caller:
    """A process that makes calls when it is told to."""

    def __init__(self) -> None:
        program = project_dir() / "tests/support/calls_main.py"
        self._process = subprocess.Popen(
            [sys.executable, "-I", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def tell(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the caller is gone: {self._process.wait()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def unshare(self, flags: int, *, fork: bool = False) -> None:
        self.pid = self.tell(unshare=flags, fork=fork)["pid"]

    def make(self, *calls: MadeCall) -> Done:
        found = self.tell(calls=[[NUMBERS[call.name], [*map(_encode, call.arguments)]] for call in calls])
        return Done(tuple(found["results"]), tuple(found["signals"]), tuple(found["resident"]))

    def make_last(self, call: MadeCall) -> tuple[int, Done]:
        """Has a child make a call and end. Gives the signal that ended it, 0 for none."""
        found = self.tell(last=[NUMBERS[call.name], [*map(_encode, call.arguments)]])
        return found["signal"], Done((0,), (), ())

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.wait(SOON_S)


@dataclass(frozen=True, slots=True)
class CallerFacts:
    """What /proc tells of a caller. ancestors: the paths of their binaries, the parent's first; files: by number."""

    process: Process
    comm: bytes
    ancestors: tuple[bytes, ...]
    ancestor_pids: tuple[int, ...]
    files: dict[int, Text]


def read_facts(pid: int) -> CallerFacts:
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    pids = _ancestors(pid)
    binaries = tuple(_binary(each) for each in pids)
    process = Process(pid, int(status["NSpid"].split()[-1]), Text(_binary(pid)), Text(binaries[0]), read_snapshot(pid))
    files = {int(name): _file(folder / "fd" / name) for name in os.listdir(folder / "fd")}
    return CallerFacts(process, (folder / "comm").read_bytes()[:-1], binaries, pids, files)


def read_snapshot(pid: int) -> Snapshot:
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    namespaces = read_namespaces(folder)
    host = read_host_namespaces()[NamespaceType.USER]
    sets = {kind: int(status[name], 16) for kind, name in _SETS.items()}
    return Snapshot(namespaces, sets, namespaces[NamespaceType.USER] == host)


def _binary(pid: int) -> bytes:
    """Empty where the kernel does not tell."""
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/exe")).removesuffix(_DELETED)
    except (FileNotFoundError, PermissionError):
        return b""


def _ancestors(pid: int) -> tuple[int, ...]:
    """The parent first."""
    found: list[int] = []
    while True:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        if not pid:
            return tuple(found)
        found.append(pid)


def _file(link: Path) -> Text:
    text = os.fsencode(os.readlink(link)).removesuffix(_DELETED)
    return Text(text, mode=link.stat().st_mode)


def with_lineage(facts: CallerFacts, predicates: frozenset[Predicate]) -> Process:
    """The process with what it and its ancestors have met, of these."""
    own = facts.process.binary.data if facts.process.binary else b""
    above = frozenset(p for p in predicates if _meets(p, facts.ancestors, facts.ancestor_pids))
    pids = (facts.process.pid, *facts.ancestor_pids)
    line = frozenset(p for p in predicates if _meets(p, (own, *facts.ancestors), pids))
    return replace(facts.process, lineage=Lineage(line), parent_lineage=Lineage(above))


def _meets(predicate: Predicate, binaries: tuple[bytes, ...], pids: tuple[int, ...]) -> bool:
    """Any of a line of processes, the youngest first. Numbers of a pid namespace mean nothing in another one."""
    if isinstance(predicate, BinaryPredicate):
        return any(predicate.holds(binary) for binary in binaries)
    numbers = [_numbers(pid) for pid in pids]
    if predicate.namespace_pid:
        numbers = list(takewhile(lambda each: len(each) == len(numbers[0]), numbers))
    return any(predicate.holds(each[0], each[-1]) for each in numbers)


def _numbers(pid: int) -> list[int]:
    """In every pid namespace that it is in, the test's own first."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [int(number) for line in lines if line.startswith("NSpid:") for number in line.split()[1:]]


@contextmanager
def new_cgroup() -> Iterator[Path]:
    """Removed at the end, when its processes are gone."""
    path = cgroup2_root() / unique_name("calls")
    path.mkdir()
    try:
        yield path
    finally:
        system.kill_processes(system.cgroup_members(path))
        wait_until(lambda: not (path / "cgroup.procs").read_text(), SOON_S, f"{path} to be empty")
        path.rmdir()
