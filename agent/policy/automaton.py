# SPDX-License-Identifier: Apache-2.0
"""Substrings as tables: one walk over a text finds any of many values.

The automaton is that of Aho and Corasick (Efficient string matching, CACM 18(6), 1975) with its failure links worked
into the transitions. A table of 256 bytes gives each byte its class, bytes that no value has being all of one class;
for each state and class there is a next state. Where a value ends the walk has found what it looks for and stays there.
Programs walk it in map memory (pg_finds of bpf/lib/automaton.h), so neither the number of values nor their length costs
instructions.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from agent.policy.errors import PolicyBaseError
from agent.policy.model import ArgFilter, Operator

TABLE_BYTES = 16384  # PG_AUTOMATON_BYTES: the largest that the kernel's allocator gives without asking for pages
CLASSES = 256
HEADER = struct.Struct("<II")  # classes, reserved
MAX_TRANSITIONS = (TABLE_BYTES - HEADER.size - CLASSES) // 2
FOUND = 1
SUBSTRING_OPERATORS = frozenset({Operator.SUBSTRING, Operator.SUBSTRING_IGNORE_CASE})


class SubstringTooLongError(PolicyBaseError):
    """A value that no table has room for."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        size, letters = len(self.value), len(set(self.value))
        return (
            f"a SubString value of {size} bytes with {letters} different ones is too long: bytes times different bytes "
            f"can be {MAX_TRANSITIONS} at most"
        )


@dataclass(frozen=True, slots=True)
class Substrings:
    """Values that one walk looks for, sorted; none is empty or has a NUL."""

    values: tuple[bytes, ...]
    ignore_case: bool


def split(values: Iterable[bytes], *, ignore_case: bool) -> tuple[Substrings, ...]:
    """The values in as many walks as their tables need. Raises SubstringTooLongError."""
    groups: list[list[bytes]] = [[]]
    for value in sorted({value.lower() if ignore_case else value for value in values}):
        if not _fits([*groups[-1], value]):
            if not _fits([value]):
                raise SubstringTooLongError(value)
            groups.append([])
        groups[-1].append(value)
    return tuple(Substrings(tuple(group), ignore_case) for group in groups if group)


def substrings(each: ArgFilter) -> tuple[Substrings, ...]:
    """What a SubString filter looks for, one walk over the text for each."""
    values = (value for value in each.values if isinstance(value, bytes))
    return split(values, ignore_case=each.operator is Operator.SUBSTRING_IGNORE_CASE)


def _fits(values: list[bytes]) -> bool:
    states = sum(map(len, values)) + 2
    return states * (len(set(b"".join(values))) + 1) <= MAX_TRANSITIONS


def build_table(substrings: Substrings) -> bytes:
    """TABLE_BYTES bytes: HEADER, the class of each byte, then u16 transitions, `state * classes + class`.

    State 0 is the begin, state FOUND the end; a NUL leads to the begin.
    """
    letters = sorted(set(b"".join(substrings.values)))
    classes = {letter: number for number, letter in enumerate(letters, 1)}
    transitions = _transitions(substrings.values, classes)
    table = bytearray(CLASSES)
    for letter, number in classes.items():
        table[letter] = number
        if substrings.ignore_case:  # of ASCII alone, as bytes.lower does it
            table[ord(bytes([letter]).upper())] = number
    words = [state for row in transitions for state in row]
    data = HEADER.pack(len(letters) + 1, 0) + bytes(table) + struct.pack(f"<{len(words)}H", *words)
    return data.ljust(TABLE_BYTES, b"\0")


def _transitions(values: tuple[bytes, ...], classes: dict[int, int]) -> list[list[int]]:
    width = len(classes) + 1
    children: list[dict[int, int]] = [{}, {}]
    for value in values:
        _insert(children, [classes[letter] for letter in value])
    rows = [[0] * width for _ in children]
    rows[FOUND] = [FOUND] * width
    _link(children, rows)
    return rows


def _insert(children: list[dict[int, int]], path: list[int]) -> None:
    """A value that has another one as its beginning is found with that already."""
    state = 0
    for place, letter in enumerate(path):
        last = place == len(path) - 1
        known = children[state].get(letter)
        if known == FOUND:
            return
        if last:
            children[state][letter] = FOUND
        elif known is None:
            children.append({})
            children[state][letter] = known = len(children) - 1
        state = known or 0


def _link(children: list[dict[int, int]], rows: list[list[int]]) -> None:
    """Breadth first: the transitions of a state are those of its longest proper suffix, but for its own children."""
    failure = [0] * len(children)
    waiting: deque[int] = deque()
    for letter, child in children[0].items():
        rows[0][letter] = child
        waiting.append(child)
    while waiting:
        state = waiting.popleft()
        if state == FOUND:
            continue
        suffix = rows[failure[state]]
        rows[state] = list(suffix)
        for letter, child in children[state].items():
            failure[child] = suffix[letter]
            rows[state][letter] = child if suffix[letter] != FOUND else FOUND
            waiting.append(child)
