# SPDX-License-Identifier: Apache-2.0
"""Values that come in parts: whole, with gaps, mixed with others, and too many of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import parts as module
from agent.events.decoder import Item, RawEvent, parse_event, parse_part
from agent.events.layout import CUT_TAIL, DELETED, FLAG_PARTED, MAX_BLOB
from agent.events.parts import MAX_USED_BYTES, MAX_WAITING, MAX_WAITING_BYTES, Parts
from agent.policy.plan import MAX_TEXTS
from tests.support.events import item, part, record, rest_item

BLOCK = 32_768
LARGEST = MAX_BLOB - 4096


def event(serial: int, size: int, total: int, head: bytes = b"head", value: int = 16) -> RawEvent:
    items = (item(value, head, CUT_TAIL | DELETED, total), rest_item(value, serial, size), item(17, b"other"))
    return parse_event(record(*items, flags=FLAG_PARTED))


def send(parts: Parts, serial: int, data: bytes, block: int = BLOCK) -> None:
    for at in range(0, len(data), block):
        parts.add(parse_part(part(serial, at, data[at : at + block], room=block)))


def value(parts: Parts, of: RawEvent) -> tuple[bytes, int]:
    """What it is made of, and its flags."""
    done = parts.complete(of)
    assert done.items[17] == Item(b"other")
    return done.items[16].data, done.items[16].flags


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, LARGEST])
def test_parts_follow_the_items_bytes(size: int) -> None:
    parts, data = Parts(), bytes(n % 251 for n in range(size))
    send(parts, 7, data)
    assert value(parts, event(7, size, size + 4)) == (b"head" + data, DELETED), "whole"
    assert value(parts, event(7, size, size + 5)) == (b"head" + data, DELETED | CUT_TAIL), "once more, and cut"
    assert parts.counters == {}


def test_several_values_at_once_stay_apart() -> None:
    parts, texts = Parts(), {serial: f"{serial}-".encode() * 99 for serial in (1, 2, 1 << 63)}
    for at in range(0, max(map(len, texts.values())), 10):
        for serial, text in texts.items():
            if text[at : at + 10]:
                parts.add(parse_part(part(serial, at, text[at : at + 10])))
    for serial, text in texts.items():
        assert value(parts, event(serial, len(text), 0))[0] == b"head" + text


@pytest.mark.parametrize(
    "offsets", [(), (10, 20), (0, 20), (0, 10), (0, 10, 10, 20), (0, 10, 0, 20), (0, 20, 10), (0, 10, 20, 30)]
)
def test_what_is_not_there_to_the_last_byte_is_not_used(offsets: tuple[int, ...]) -> None:
    parts = Parts()
    for offset in offsets:
        parts.add(parse_part(part(7, offset, b"0123456789")))
    assert value(parts, event(7, 30, 34)) == (b"head", CUT_TAIL | DELETED)
    assert parts.counters == {"data_missing": 1}


def test_another_values_parts_are_not_taken() -> None:
    parts = Parts()
    send(parts, 7, b"secret")
    assert value(parts, event(8, 6, 10))[0] == b"head"


def test_a_value_of_which_nothing_was_sent_is_not_missed() -> None:
    parts = Parts()
    assert value(parts, event(7, 0, 9)) == (b"head", CUT_TAIL | DELETED)
    assert parts.counters == {}


def test_the_oldest_of_too_many_go() -> None:
    parts, number = Parts(), MAX_WAITING_BYTES // LARGEST
    data = bytes(LARGEST)
    for serial in range(number + 1):
        send(parts, serial, data)
    assert len(value(parts, event(0, LARGEST, 0))[0]) == 4
    assert len(value(parts, event(1, LARGEST, 0))[0]) == MAX_BLOB - 4092
    for serial in range(MAX_WAITING + 1):
        send(parts, serial, b"x")
    assert [len(value(parts, event(serial, 1, 0))[0]) for serial in (0, 1)] == [4, 5]


def test_what_was_used_makes_no_room_for_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    parts = Parts()
    send(parts, 0, b"waits")
    for serial in range(1, 6):
        send(parts, serial, b"comes")
        assert value(parts, event(serial, 5, 9)) == (b"headcomes", DELETED)
    assert value(parts, event(0, 5, 9)) == (b"headwaits", DELETED)


def test_one_programs_values_can_be_used_again() -> None:
    """By the events of all its hits."""
    assert MAX_USED_BYTES == MAX_TEXTS * MAX_BLOB
    parts, data = Parts(), bytes(LARGEST)
    for serial in range(MAX_TEXTS):
        send(parts, serial, data)
    for _ in range(2):
        for serial in range(MAX_TEXTS):
            assert len(value(parts, event(serial, LARGEST, 0))[0]) == 4 + LARGEST


def test_nothing_is_kept_for_nobody() -> None:
    parts = Parts()
    send(parts, 7, b"waits")
    send(parts, 8, b"used")
    parts.complete(event(8, 4, 8))
    parts.clear()
    assert [value(parts, event(serial, size, 0))[0] for serial, size in ((7, 5), (8, 4))] == [b"head"] * 2


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12), st.binary(min_size=1, max_size=6)), max_size=30))
def test_never_bytes_that_did_not_come_in_order(sent: list[tuple[int, int, bytes]]) -> None:
    parts, expected = Parts(), dict[int, bytes | None]()
    for serial, offset, data in sent:
        parts.add(parse_part(part(serial, offset, data)))
        before = expected.get(serial) if offset else b""
        expected[serial] = before + data if before is not None and len(before) == offset else None
    for serial in (1, 2, 3):
        known = expected.get(serial)
        found = value(parts, event(serial, len(known or b"?"), 0))[0]
        assert found == b"head" + (known or b"")
