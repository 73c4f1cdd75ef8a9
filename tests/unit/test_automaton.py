# SPDX-License-Identifier: Apache-2.0
"""Tables of substrings: what a walk over one finds is what Python's `in` finds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.policy.automaton import (
    CLASSES,
    FOUND,
    HEADER,
    TABLE_BYTES,
    Substrings,
    SubstringTooLongError,
    build_table,
    split,
)

FIRST = (HEADER.size + CLASSES) // 2  # PG_AUTOMATON_FIRST of bpf/lib/automaton.h


def walk(table: bytes, text: bytes) -> bool:
    """As pg_finds does it: transitions are 16-bit words, counted from the table's begin."""
    (classes, _) = HEADER.unpack_from(table)
    next_ = struct.unpack(f"<{TABLE_BYTES // 2}H", table)
    state = 0
    for byte in text:
        state = next_[(FIRST + state * classes + table[HEADER.size + byte]) & (TABLE_BYTES // 2 - 1)]
    return bool(state == FOUND)


def finds(values: list[bytes], text: bytes, *, ignore_case: bool = False) -> bool:
    return any(walk(build_table(each), text) for each in split(values, ignore_case=ignore_case))


# Few letters, so that values overlap, begin and end alike; both cases of one; bytes beyond ASCII.
letters = st.sampled_from(b"abAB\xc3\x9f\xb5\xff")
values = st.lists(st.lists(letters, min_size=1, max_size=6).map(bytes), min_size=1, max_size=8)
texts = st.lists(st.one_of(letters, st.integers(0, 255)), max_size=40).map(bytes)


@given(values, texts)
@example([b"ab", b"abc"], b"xxab")
@example([b"aab"], b"aaab")
@example([b"abab", b"ba"], b"aba")
@example([b"abcd", b"bc"], b"abce")
def test_a_walk_finds_what_in_finds(wanted: list[bytes], text: bytes) -> None:
    assert finds(wanted, text) is any(value in text for value in wanted)


@given(values, texts)
@example(["õß".encode()], "Õß".encode())
@example([b"\xc3\xa9"], b"\xc3\x89")
def test_case_is_that_of_ascii_letters(wanted: list[bytes], text: bytes) -> None:
    expected = any(value.lower() in text.lower() for value in wanted)
    assert finds(wanted, text, ignore_case=True) is expected


@given(values, texts, texts)
def test_nothing_is_found_across_a_nul(wanted: list[bytes], first: bytes, second: bytes) -> None:
    first, second = first.replace(b"\0", b""), second.replace(b"\0", b"")
    assert finds(wanted, first + b"\0" + second) is (finds(wanted, first) or finds(wanted, second))


@given(st.lists(st.binary(min_size=1, max_size=60).filter(lambda value: 0 not in value), min_size=1, max_size=60))
def test_each_value_is_in_one_table_and_tables_are_of_one_size(wanted: list[bytes]) -> None:
    tables = split(wanted, ignore_case=False)
    assert sorted(value for table in tables for value in table.values) == sorted(set(wanted))
    assert all(len(build_table(table)) == TABLE_BYTES for table in tables)
    assert all(finds(wanted, b"\x01" + value + b"\x02") for value in wanted)


def test_values_that_do_not_fit_together_are_several_walks() -> None:
    wanted = [bytes([letter]) * 60 for letter in range(1, 100)]
    tables = split(wanted, ignore_case=False)
    assert 1 < len(tables) < len(wanted)
    assert [finds(wanted, value[:-1]) for value in wanted] == [False] * len(wanted)
    assert all(finds(wanted, value) for value in wanted)


def test_the_order_and_repetition_of_values_is_of_no_meaning() -> None:
    assert split([b"b", b"a", b"b"], ignore_case=False) == (Substrings((b"a", b"b"), ignore_case=False),)
    assert split([b"B", b"b"], ignore_case=True) == (Substrings((b"b",), ignore_case=True),)


@pytest.mark.parametrize(("letters_", "longest"), [(1, 4028), (8, 893), (60, 130)])
def test_a_value_that_is_too_long_for_a_table_is_refused(letters_: int, longest: int) -> None:
    alphabet = bytes(range(1, letters_ + 1))
    text = (alphabet * 5000)[: longest + 1]
    assert finds([text[:longest]], b"\xff" + text)
    with pytest.raises(SubstringTooLongError, match=f"a SubString value of {longest + 1} bytes .* is too long"):
        split([text], ignore_case=False)
