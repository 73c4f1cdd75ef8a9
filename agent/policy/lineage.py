# SPDX-License-Identifier: Apache-2.0
"""Conditions on what a process descends from: which predicates policies need, the bit that stands for each, and the C
text of the programs that keep the bits.

A predicate is a positive condition that is followed to descendants: one of these binaries (`matchBinaries` and
`matchParentBinaries` with followChildren), one of these pids (`matchPIDs` with followForks). A process meets a binary
predicate with its execve, or when the process that forked it had met it; what it has met it keeps, whatever it calls
execve for later. It meets a pid predicate when it has the pid, or when who forked it does or has met it; a pid of its
own namespace counts for descendants in that namespace only. The negative operators ask the same predicate.

The kernel keeps one bit of a predicate for each process (bpf/maps/process.h). Bits are given out again, and nobody
clears them: each comes with the time from which on it stands for its predicate, and older bits do not count. A bit
that a change frees is not given out by the same change: the programs before it may set it still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agent.policy.errors import PolicyBaseError
from agent.policy.model import BinaryFilter, Operator, PidFilter, Selector

MAX_PREDICATES = 256  # the bits of a record: 64 * PG_LINEAGE_WORDS of bpf/maps/process.h
_WORD_BITS = 64
_WORD = (1 << _WORD_BITS) - 1

# (variable that holds the text, positive operator, values) -> an expression that is true when any value matches
TextCondition = Callable[[str, Operator, tuple[bytes, ...]], str]

EXEC = "pg_lineage_exec"
FORK = "pg_lineage_fork"
EXIT = "pg_lineage_exit"
NOTE = "pg_lineage_note"
PROGRAMS = (EXEC, FORK, EXIT, NOTE)


class LineageError(PolicyBaseError):
    """More predicates than there are bits."""

    def __init__(self, wanted: int, free: int) -> None:
        super().__init__(wanted, free)
        self.wanted = wanted
        self.free = free

    def __str__(self) -> str:
        return (
            f"{self.wanted} more conditions with followChildren or followForks, and room for {self.free}: the policies "
            f"of a node can have {MAX_PREDICATES} different ones together; use the same values in several policies"
        )


@dataclass(frozen=True, slots=True, order=True)
class BinaryPredicate:
    """Runs one of these. operator: the name of IN, PREFIX or POSTFIX. values: sorted, each once."""

    operator: str
    values: tuple[bytes, ...]

    def holds(self, path: bytes) -> bool:
        """Whether a binary's path meets it."""
        if self.operator == Operator.PREFIX.value:
            return path.startswith(self.values)
        if self.operator == Operator.POSTFIX.value:
            return path.endswith(self.values)
        return path in self.values


@dataclass(frozen=True, slots=True, order=True)
class PidPredicate:
    """Has one of these process ids, in its own pid namespace or in the host's. values: sorted, each once."""

    values: tuple[int, ...]
    namespace_pid: bool

    def holds(self, pid: int, namespace_pid: int) -> bool:
        """Whether a process with these ids meets it."""
        return (namespace_pid if self.namespace_pid else pid) in self.values


Predicate = BinaryPredicate | PidPredicate


@dataclass(frozen=True, slots=True)
class Placed:
    """since: ns since boot, from which on the bit stands for the predicate."""

    predicate: Predicate
    bit: int
    since: int


def binary_predicate(condition: BinaryFilter) -> BinaryPredicate:
    """Of a filter with followChildren."""
    return BinaryPredicate(condition.operator.positive.value, tuple(sorted(set(condition.values))))


def pid_predicate(condition: PidFilter) -> PidPredicate:
    """Of a filter with followForks."""
    return PidPredicate(tuple(sorted(set(condition.values))), condition.namespace_pid)


@dataclass(frozen=True, slots=True)
class LineageNeeds:
    """What rules ask. changes: some compare with what a process was at its execve, so that every process has a
    record.
    """

    predicates: frozenset[Predicate] = frozenset()
    changes: bool = False

    def __or__(self, other: LineageNeeds) -> LineageNeeds:
        return LineageNeeds(self.predicates | other.predicates, self.changes or other.changes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing need be kept."""
        return not self.predicates and not self.changes


def needs_of(selectors: Iterable[Selector]) -> LineageNeeds:
    """What the selectors of policies ask together."""
    chosen = tuple(selectors)
    predicates = {each for selector in chosen for each in _predicates(selector)}
    changes = any(selector.namespace_changes or selector.capability_changes for selector in chosen)
    return LineageNeeds(frozenset(predicates), changes)


def _predicates(selector: Selector) -> Iterator[Predicate]:
    for binaries in (*selector.binaries, *selector.parent_binaries):
        if binaries.follow_children:
            yield binary_predicate(binaries)
    for pids in selector.pids:
        if pids.follow_forks:
            yield pid_predicate(pids)


@dataclass(frozen=True, slots=True)
class LineageTable:
    """Which bit stands for which predicate. placed: by bit. free: bits that are nobody's, those longest so first.
    changes: snapshots are taken.
    """

    placed: tuple[Placed, ...] = ()
    free: tuple[int, ...] = tuple(range(MAX_PREDICATES))
    changes: bool = False

    def change(self, needs: LineageNeeds, now: int) -> LineageTable:
        """What is in both tables keeps its bit. now: ns since boot. Raises LineageError."""
        kept = [each for each in self.placed if each.predicate in needs.predicates]
        known = {each.predicate for each in kept}
        new = sorted(needs.predicates - known, key=_order)
        if len(new) > len(self.free):
            raise LineageError(len(new), len(self.free))
        given = [Placed(predicate, bit, now) for predicate, bit in zip(new, self.free, strict=False)]
        freed = [each.bit for each in self.placed if each.predicate not in known]
        placed = tuple(sorted([*kept, *given], key=lambda each: each.bit))
        return LineageTable(placed, (*self.free[len(new) :], *freed), needs.changes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing need be kept."""
        return not self.placed and not self.changes

    def find(self, predicate: Predicate) -> Placed:
        """Raises KeyError for one that is not in the table."""
        for each in self.placed:
            if each.predicate == predicate:
                return each
        raise KeyError(predicate)

    def added_to(self, before: LineageTable) -> tuple[Placed, ...]:
        """What is here and was not in an earlier table: processes that run already are to be looked at for it."""
        return tuple(each for each in self.placed if each not in before.placed)


def _order(predicate: Predicate) -> tuple[str, str]:
    return type(predicate).__name__, repr(predicate)


def compile_lineage(table: LineageTable, text: TextCondition) -> str:
    """C text of PROGRAMS."""
    lines = [
        f"#define PG_SNAPSHOTS {int(table.changes)}",
        '#include "lib/lineage.h"',
        "",
        *_image(table, text),
        *_pids(table),
        *_inner(table),
        *_validity(table),
        *_programs(),
    ]
    return "\n".join(lines) + "\n"


def _image(table: LineageTable, text: TextCondition) -> Iterator[str]:
    yield "PG_INLINE void pg_image_bits(struct pg_lineage *draft, struct pg_string *binary)"
    yield "{"
    for each in table.placed:
        if isinstance(each.predicate, BinaryPredicate):
            yield f"\tif ({text('binary', Operator(each.predicate.operator), each.predicate.values)})"
            yield _set(each.bit)
    yield "}"
    yield ""


def _pids(table: LineageTable) -> Iterator[str]:
    placed = [each for each in table.placed if isinstance(each.predicate, PidPredicate)]
    yield "PG_INLINE void pg_pid_bits(struct pg_lineage *draft)"
    yield "{"
    if any(isinstance(each.predicate, PidPredicate) and not each.predicate.namespace_pid for each in placed):
        yield "\t__u32 tgid = pg_tgid();"
    if any(isinstance(each.predicate, PidPredicate) and each.predicate.namespace_pid for each in placed):
        yield "\t__u32 ns_tgid = pg_ns_tgid();"
    for each in placed:
        if isinstance(each.predicate, PidPredicate):
            yield f"\tif ({_has_pid(each.predicate)})"
            yield _set(each.bit)
    yield "}"
    yield ""


def _has_pid(predicate: PidPredicate) -> str:
    name = "ns_tgid" if predicate.namespace_pid else "tgid"
    return " || ".join(f"{name} == {value}U" for value in predicate.values) or "0"


def _set(bit: int) -> str:
    """In map memory, which the verifier does not follow: so what follows has one state, whatever the bits are."""
    return f"\t\tdraft->bits[{bit // _WORD_BITS}] |= {1 << bit % _WORD_BITS:#x}ULL;"


def _inner(table: LineageTable) -> Iterator[str]:
    yield "PG_INLINE __u64 pg_inner_bits(int word)"
    yield "{"
    for word in range(MAX_PREDICATES // _WORD_BITS):
        mask = inner_bits(each for each in table.placed if each.bit // _WORD_BITS == word) >> word * _WORD_BITS
        if mask:
            yield f"\tif (word == {word})"
            yield f"\t\treturn {mask:#x}ULL;"
    yield "\treturn 0;"
    yield "}"
    yield ""


def inner_bits(placed: Iterable[Placed]) -> int:
    """The bits of predicates on pids of the process's own namespace."""
    return sum(
        1 << each.bit for each in placed if isinstance(each.predicate, PidPredicate) and each.predicate.namespace_pid
    )


def _validity(table: LineageTable) -> Iterator[str]:
    """Newest first: what was written after all bits of a word had their meaning has all of them."""
    yield "PG_INLINE __u64 pg_valid_bits(int word, __u64 time)"
    yield "{"
    for word in range(MAX_PREDICATES // _WORD_BITS):
        masks = _masks(each for each in table.placed if each.bit // _WORD_BITS == word)
        if masks:
            yield f"\tif (word == {word}) {{"
            for since, mask in masks:
                yield f"\t\tif (time >= {since}ULL)"
                yield f"\t\t\treturn {mask:#x}ULL;"
            yield "\t}"
    yield "\treturn 0;"
    yield "}"
    yield ""


def _masks(placed: Iterable[Placed]) -> tuple[tuple[int, int], ...]:
    """Times, the latest first, and the bits of a word that count when written at that time."""
    chosen = tuple(placed)
    times = sorted({each.since for each in chosen}, reverse=True)
    return tuple((time, sum(1 << each.bit % _WORD_BITS for each in chosen if each.since <= time)) for time in times)


def _programs() -> Iterator[str]:
    for name, call in (
        (EXEC, "pg_lineage_on_exec()"),
        (FORK, "pg_lineage_on_fork((const struct task_struct *)ctx->args[1])"),
        (EXIT, "pg_lineage_on_exit()"),
        (NOTE, "pg_lineage_on_note()"),
    ):
        yield f"int {name}(struct bpf_raw_tracepoint_args *ctx)"
        yield "{"
        yield f"\treturn {call};"
        yield "}"
        yield ""
