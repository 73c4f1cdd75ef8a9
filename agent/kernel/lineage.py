# SPDX-License-Identifier: Apache-2.0
"""Lineage in force: its programs in their slots, and the records of processes that ran before.

A change compiles new programs, puts them beside those in force, and switches with one update. From then on no execve
and no fork is missed. Then the processes that run are scanned until a pass finds nothing to write: a process that was
forked behind a pass's back has inherited what is right, since a fork looks at the image and at the living ancestors as
long as `scanning` is set, or is found by the next pass. Only then may rules ask for what is new:

    table = lineage.change(old | new)   # rules are compiled with this table
    ... the rules are in force ...
    lineage.change(new)                 # what only the old rules asked for is not kept any more
"""

from __future__ import annotations

import errno
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.layout import LINEAGE, LINEAGE_EVENTS, LINEAGE_STATE, LOST_MARKS, NOTE, TGID
from agent.kernel.loader import Loader, ProgramForm, ProgramSource
from agent.kernel.maps import ZERO, Maps
from agent.kernel.process_scan import (
    PROCFS,
    TICK_NS,
    Before,
    Lookup,
    Process,
    Record,
    read_host_namespaces,
    read_namespaces,
    read_process,
    read_processes,
    read_snapshot,
)
from agent.kernel.slots import Grace
from agent.kernel.value_sets import ValueSets
from agent.policy.codegen_sets import set_condition
from agent.policy.lineage import (
    EXEC,
    EXIT,
    FORK,
    PROGRAMS,
    BinaryPredicate,
    LineageNeeds,
    LineageTable,
    TextCondition,
    compile_lineage,
)
from agent.policy.lineage import NOTE as NOTE_PROGRAM
from agent.policy.model import NamespaceType, Operator
from agent.policy.sets import TextSet, text_set

# A pass that writes is followed by another one. Each reaches one generation of those that were forked from a process
# before it had its record; from the first pass on forks do that themselves: so many mean that something undoes them.
MAX_PASSES = 32
SETS = (1, 1 + LINEAGE_EVENTS)  # the first slots of the two sets
FIRST_VALUES = 1 << 31  # numbers of sets of values: those of rules are lower (agent/placing.py)
WRITE, FORGET = 0, 1  # enum pg_note_kind of bpf/maps/process.h
_HINT = "the agent must be in the host's pid and time namespaces"


@dataclass(frozen=True, slots=True)
class State:
    """struct pg_lineage_state."""

    first: int = 0
    scanning: bool = False
    side: int = 0

    def pack(self) -> bytes:
        return LINEAGE_STATE.pack(self.first, self.scanning, self.side, 0)


def boot_time() -> int:
    """Ns since boot, as bpf_ktime_get_boot_ns() says."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Lineage:
    """Not thread-safe: policies change one at a time, and `settle` comes in between."""

    def __init__(self, loader: Loader, maps: Maps, text: TextCondition, procfs: Path = PROCFS) -> None:
        self._loader = loader
        self._text = text
        self._procfs = procfs
        self._records = maps.fileno("lineage")
        self._lost = maps.fileno("lineage_lost")
        self._slots = maps.fileno("lineage_slots")
        self._state_map = maps.fileno("lineage_state")
        self._note_map = maps.fileno("lineage_note")
        self._note: bpf.Fd | None = None
        self._sets = ValueSets(maps)
        self._numbers: dict[TextSet, int] = {}
        self._last_number = FIRST_VALUES - 1
        self._grace = Grace()
        self._state = State()
        self._table = LineageTable()

    @property
    def table(self) -> LineageTable:
        """What is kept now."""
        return self._table

    def change(self, needs: LineageNeeds) -> LineageTable:
        """Keeps what is needed from now on, also for the processes that run. Raises LineageError and KernelError; then
        what was kept before still is.
        """
        before = self._table
        table = before.change(needs, boot_time())
        if (table.placed, table.changes) == (before.placed, before.changes):
            return before
        try:
            if table.is_empty:
                self._stop()
            else:
                self._write_sets(table)
                self._replace(table)
            self._table = table
        finally:
            self._forget_sets()
        return table

    def _write_sets(self, table: LineageTable) -> None:
        """Values of predicates that are too many for the programs. Raises KernelError."""
        for wanted in value_sets(table):
            if wanted not in self._numbers:
                self._last_number += 1
                self._sets.write(wanted, self._last_number)
                self._numbers[wanted] = self._last_number

    def _forget_sets(self) -> None:
        """Those that the table in force does not have."""
        for gone in self._numbers.keys() - value_sets(self._table):
            self._sets.remove(self._numbers.pop(gone))

    def _condition(self, name: str, operator: Operator, values: tuple[bytes, ...]) -> str:
        many = text_set(operator, values)
        return set_condition(name, many, self._numbers[many]) if many else self._text(name, operator, values)

    def settle(self) -> int:
        """Gives records to processes that got none when the map was full, and takes their marks back; how many there
        were. To be called when the counter lineage_full has grown.
        """
        side = self._state.side
        self._switch(replace(self._state, side=1 - side))
        self._grace.wait()
        marks = bpf.lookup(self._lost, TGID.pack(side), LOST_MARKS) or bytes(LOST_MARKS)
        lost = [p for p in read_processes(self._procfs).values() if _is_marked(marks, p.pid) and not self._read(p)]
        for process in lost:
            self._write(process, Record(process.start, unknown=True, slack=TICK_NS - 1))
        bpf.update(self._lost, TGID.pack(side), bytes(LOST_MARKS))
        self._forget_dead()
        return len(lost)

    def close(self) -> None:
        """The programs stay in force: their slots are pinned."""
        if self._note:
            self._note.close()
        self._grace.close()

    def _stop(self) -> None:
        """Nobody asks any more: what is left of the records would only be old."""
        self._switch(replace(self._state, first=0, scanning=False))
        self._grace.wait()
        for slot in range(1, SETS[-1] + LINEAGE_EVENTS):
            bpf.delete(self._slots, TGID.pack(slot))
        for key in bpf.keys(self._records, TGID.size):
            bpf.delete(self._records, key)
        for side in (0, 1):
            bpf.update(self._lost, TGID.pack(side), bytes(LOST_MARKS))

    def _replace(self, table: LineageTable) -> None:
        """The programs of a table in place of those in force, and the scan."""
        host = _host_namespaces(self._procfs)
        programs = self._loader.load(
            ProgramSource(
                compile_lineage(table, self._condition),
                dict.fromkeys(PROGRAMS, ProgramForm(bpf.ProgType.RAW_TRACEPOINT)),
            )
        )
        earlier, old_note = self._state, self._note
        first = SETS[1] if earlier.first == SETS[0] else SETS[0]
        for number, name in enumerate((EXEC, FORK, EXIT)):
            bpf.update(self._slots, TGID.pack(first + number), TGID.pack(programs[name].fileno()))
        self._note = programs[NOTE_PROGRAM]
        try:
            self._switch(replace(earlier, first=first, scanning=True))
            self._scan(table, host[NamespaceType.USER])
            self._switch(replace(self._state, scanning=False))
        except (KernelError, OSError):
            self._switch(earlier)
            self._note = old_note
            raise
        if old_note:
            old_note.close()
        self._empty_other(first)

    def _empty_other(self, first: int) -> None:
        """Whoever read the state before the switch has gone through its slot."""
        self._grace.wait()
        other = SETS[1] if first == SETS[0] else SETS[0]
        for number in range(LINEAGE_EVENTS):
            bpf.delete(self._slots, TGID.pack(other + number))

    def _switch(self, state: State) -> None:
        bpf.update(self._state_map, ZERO, state.pack())
        self._state = state

    def _scan(self, table: LineageTable, host_user: int) -> None:
        """Until all that run have what they met before."""
        new = table.added_to(self._table)
        if not new and table.changes <= self._table.changes:
            return
        hopeless: set[tuple[int, int]] = set()
        for _ in range(MAX_PASSES):
            if not self._scan_once(table, host_user, hopeless):
                self._forget_dead()
                return
        hint = f"{MAX_PASSES} passes found ever new processes; try again"
        raise KernelError("scan of /proc", errno.EAGAIN, hint)

    def _scan_once(self, table: LineageTable, host_user: int, hopeless: set[tuple[int, int]]) -> bool:
        """Whether anything had to be written. hopeless: those for which there is no room."""
        processes = read_processes(self._procfs)
        found = {pid: self._read(process) for pid, process in processes.items()}
        records = {pid: record for pid, record in found.items() if record}
        lookup = Lookup(processes, records, table.added_to(self._table))
        wrote = False
        for pid, process in processes.items():
            wanted = self._wanted(table, process, records.get(pid), lookup.of(process), host_user)
            if wanted is None or (pid, process.start) in hopeless:
                continue
            wrote = True
            if self._write(process, wanted) not in (0, -errno.EEXIST):
                hopeless.add((pid, process.start))
        return wrote

    def _wanted(
        self, table: LineageTable, process: Process, record: Record | None, before: Before, host_user: int
    ) -> Record | None:
        """The record to write; None when what there is says it all."""
        known = record or Record(process.start, slack=TICK_NS - 1)
        old = known.met_before(table.placed)
        parent_old = known.parent_before & _valid(table, known.scanned)
        missing = before.bits & ~(known.met(table.placed) | old)
        parent_missing = before.parent_bits & ~(known.parent_bits & _valid(table, known.written) | parent_old)
        wants_snapshot = table.changes and known.snapshot is None
        snapshot = read_snapshot(process, host_user) if wants_snapshot else None
        unknown = process.image is None or (wants_snapshot and snapshot is None)
        if not missing and not parent_missing and snapshot is None and unknown <= known.unknown:
            return None
        return Record(
            process.start,
            scanned=boot_time(),
            before=old | before.bits,
            parent_before=parent_old | before.parent_bits,
            snapshot=snapshot,
            unknown=unknown,
            slack=TICK_NS - 1,
        )

    def _read(self, process: Process) -> Record | None:
        data = bpf.lookup(self._records, TGID.pack(process.pid), LINEAGE.size)
        record = Record.unpack(data) if data else None
        return record if record and record.is_of(process) else None

    def _write(self, process: Process, record: Record) -> int:
        """0 or an errno below zero: E2BIG or ENOMEM without room, EEXIST when the kernel made one meanwhile."""
        return self._tell(WRITE, process.pid, record)

    def _tell(self, kind: int, pid: int, record: Record) -> int:
        if self._note is None:
            return 0
        bpf.update(self._note_map, ZERO, NOTE.pack(pid, kind, 0, 0, record.pack()))
        bpf.run_raw_tracepoint(self._note.fileno())
        answer = bpf.lookup(self._note_map, ZERO, NOTE.size) or bytes(NOTE.size)
        return int(struct.unpack_from("<i", answer, 8)[0])

    def _forget_dead(self) -> None:
        """Records that were written behind an exit. A process has its entry in /proc before it has a record."""
        for key in bpf.keys(self._records, TGID.size):
            data = bpf.lookup(self._records, key, LINEAGE.size)
            if not data:
                continue
            pid, record = TGID.unpack(key)[0], Record.unpack(data)
            process = read_process(self._procfs, pid)
            if process is None or not record.is_of(process):
                self._tell(FORGET, pid, Record(record.start))


def value_sets(table: LineageTable) -> frozenset[TextSet]:
    """What of its predicates' values is in maps."""
    predicates = (each.predicate for each in table.placed)
    binaries = (each for each in predicates if isinstance(each, BinaryPredicate))
    found = (text_set(Operator(each.operator), each.values) for each in binaries)
    return frozenset(each for each in found if each)


def _valid(table: LineageTable, moment: int) -> int:
    return sum(1 << each.bit for each in table.placed if each.since <= moment)


def _is_marked(marks: bytes, pid: int) -> bool:
    """pg_is_marked of bpf/maps/process.h."""
    return marks[pid % LOST_MARKS] in (1 + pid // LOST_MARKS % 64, 255)


def _host_namespaces(procfs: Path) -> dict[NamespaceType, int]:
    """/proc gives start times on the clock of the reader's time namespace, so that must be the host's."""
    host, own = read_host_namespaces(procfs), read_namespaces(procfs / "self")
    if not host:
        raise KernelError("the host's namespaces cannot be told", 0, _HINT)
    if own.get(NamespaceType.TIME) != host.get(NamespaceType.TIME):
        raise KernelError("the agent is in another time namespace than the host", 0, _HINT)
    return host
