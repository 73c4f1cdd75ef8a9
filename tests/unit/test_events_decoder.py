# SPDX-License-Identifier: Apache-2.0
"""Records of the ring to values: whole, cut at every byte, and junk."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.decoder import DecodeError, Item, Part, RawEvent, Rest, is_part, parse_event, parse_part
from agent.events.layout import (
    CUT_TAIL,
    FLAG_CUT,
    FLAG_DEFERRED,
    FLAG_MONITOR,
    FLAG_PARTED,
    FLAG_RETURN,
    FLAG_SOCKET,
    HEADER,
    ITEM,
    MAX_BLOB,
    PART,
)
from tests.support.events import item, number_item, part, record, rest_item

TWO = (item(1, b"/bin/cat"), item(16, b"y" * 21))


def test_record_has_every_field() -> None:
    items = (item(1, b"/bin/x", CUT_TAIL, 0o100644), number_item(16, -2), item(4_000_000_000, b""))
    data = record(*items, workload=5, policy=6, rule=7, selector=8, error=-3, return_selector=9, flags=0x42)
    expected = {
        1: Item(b"/bin/x", CUT_TAIL, 0o100644),
        16: Item(b"\xfe" + b"\xff" * 7, 0, 0, True),
        4_000_000_000: Item(b""),
    }
    assert parse_event(data) == RawEvent(0x42, 5, 20, 30, 31, 1000, 5, 6, 7, 8, -3, 9, b"calls", 4, expected)
    assert parse_event(data).items[16].number == (1 << 64) - 2


FLAGS = (FLAG_DEFERRED, FLAG_RETURN, FLAG_MONITOR, FLAG_CUT, FLAG_PARTED, FLAG_SOCKET)


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_is_its_own(flag: int) -> None:
    event = parse_event(record(flags=flag))
    said = [event.is_deferred, event.is_return, event.is_monitored, event.is_cut, event.is_parted, event.is_of_socket]
    assert said == [flag == each for each in FLAGS]


def test_stacks_are_items_of_their_own_ids() -> None:
    assert [parse_event(record(item(n, b"\0" * 8))).has_stack for n in (1, 2, 3, 4, 16)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_record_that_is_cut_anywhere_is_refused() -> None:
    data = record(*TWO)
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            parse_event(data[:size])


def test_record_that_says_its_cut_size_is_refused() -> None:
    """The sizes agree, the items do not fit."""
    data = record(*TWO)
    for size in range(HEADER.size, len(data)):
        with pytest.raises(DecodeError):
            parse_event(struct.pack("<I", size) + data[4:size])


@pytest.mark.parametrize("data", [record() + b"x", record(kind=2), record(kind=0)])
def test_record_of_another_size_or_kind_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="a record of kind"):
        parse_event(data)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ((16, 300, 0, 0, 1, 0), "an item ends at"),
        ((16, (1 << 32) - 1, 0, 0, 1, 0), "an item ends at"),
        ((16, 8, 0, 0, 3, 0), "an item of kind 3"),
        ((16, 8, 0, 0, 2, 0), "an item of kind 2 with 8 bytes, without a value"),
        ((16, 4, 0, 0, 0, 0), "an item of kind 0 with 4 bytes"),
        ((16, 0, 0, 0, 0, 0), "an item of kind 0 with 0 bytes"),
    ],
)
def test_item_that_cannot_be_is_refused(head: tuple[int, ...], said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        parse_event(record(ITEM.pack(*head) + b"12345678"))


@pytest.mark.parametrize("count", [0, 1, 3, 0xFFFF])
def test_other_items_than_there_are_are_refused(count: int) -> None:
    with pytest.raises(DecodeError, match=r"item ends at|head of an item"):
        parse_event(record(*TWO, items=count))


def test_values_may_be_as_long_as_a_policy_can_ask_for() -> None:
    assert len(parse_event(record(item(16, b"x" * MAX_BLOB))).items[16].data) == MAX_BLOB
    with pytest.raises(DecodeError, match=f"an item of kind 1 with {MAX_BLOB + 1} bytes"):
        parse_event(record(item(16, b"x" * (MAX_BLOB + 1))))


def test_an_item_says_where_its_rest_is() -> None:
    event = parse_event(record(item(16, b"ab", CUT_TAIL, 7), rest_item(16, 1 << 60, 5), item(17, b"z")))
    assert event.items == {16: Item(b"ab", CUT_TAIL, 7, False, Rest(1 << 60, 5)), 17: Item(b"z")}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((rest_item(16, 1, 5),), "without a value before it"),
        ((item(17, b"x"), rest_item(16, 1, 5)), "without a value before it"),
        ((number_item(16, 1), rest_item(16, 1, 5)), "without a value before it"),
        ((item(16, b"x"), rest_item(16, 1, MAX_BLOB)), f"a value of 1 and {MAX_BLOB} bytes"),
    ],
)
def test_a_rest_that_cannot_be_is_refused(items: tuple[bytes, ...], said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        parse_event(record(*items))


def test_a_part_has_its_bytes_and_no_others() -> None:
    data = part(9, 4096, b"abc", room=8)
    assert parse_part(data) == Part(9, 4096, b"abc")
    assert [is_part(each) for each in (data, record(), b"", data[:4], data[:5])] == [True, False, False, False, True]
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            parse_part(data[:size])


@pytest.mark.parametrize(
    "data",
    [
        record(),
        part(1, 0, b"abc", size=PART.size),
        part(1, 0, b"abc", len=4),
        part(1, 0, b"abc", len=(1 << 32) - 1),
        part(1, 0, b""),
        part(1, MAX_BLOB - 2, b"abc"),
    ],
)
def test_a_part_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="a part of"):
        parse_part(data)


@given(st.binary(max_size=2 * HEADER.size))
def test_junk_is_refused_or_a_value(data: bytes) -> None:
    parse_or_refuse(data)


@given(st.binary(min_size=HEADER.size - 8, max_size=400))
def test_junk_behind_a_right_begin_is_refused_or_a_value(rest: bytes) -> None:
    parse_or_refuse(struct.pack("<IHH", 8 + len(rest), 1, 0) + rest)


def parse_or_refuse(data: bytes) -> None:
    try:
        event = parse_event(data)
    except DecodeError:
        return
    assert sum(len(each.data) for each in event.items.values()) <= len(data)


@given(st.binary(max_size=2 * PART.size))
def test_junk_is_refused_or_a_part(rest: bytes) -> None:
    data = struct.pack("<IHH", 8 + len(rest), 2, 0) + rest
    try:
        found = parse_part(data)
    except DecodeError:
        return
    assert found.data in data
