# SPDX-License-Identifier: Apache-2.0
"""Records of the ring to values: whole, cut at every byte, and junk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.decoder import DecodeError, RawEvent, Text, parse_event
from agent.events.layout import ABSENT, CUT_TAIL, HEADER, SLOTS

ARGS = (1, 2, 3, 4, 5, (1 << 64) - 1)


def record(
    texts: tuple[bytes | None, ...] = (),
    ids: tuple[int, ...] = (),
    flags: tuple[int, ...] = (),
    kind: int = 1,
    event_flags: int = 0,
) -> bytes:
    lengths = [ABSENT if text is None else len(text) for text in texts] + [ABSENT] * (SLOTS - len(texts))
    data = b"".join(text for text in texts if text is not None)
    tail = (*lengths, *flags, *[0] * (SLOTS - len(flags)), *ids, *[0] * (SLOTS - len(ids)))
    fixed = (HEADER.size + len(data), kind, event_flags, 10, 20, *ARGS, 30, 31, 1000, 5, 6, 7, 8, -3, 0, b"comm\0junk")
    return HEADER.pack(*fixed, *tail) + data


def test_record_has_every_field() -> None:
    data = record((b"/x", None, b"", b"/bin/cat"), (0x10, 0, 0x21, 0x40), (CUT_TAIL,), event_flags=1)
    texts = {(0, "string"): Text(b"/x", CUT_TAIL), (1, "char_buf"): Text(b"", 0)}
    binary = Text(b"/bin/cat", 0)
    assert parse_event(data) == RawEvent(10, 20, ARGS, 30, 31, 1000, 5, 6, 7, 8, -3, b"comm", True, texts, binary)


def test_record_without_texts() -> None:
    event = parse_event(record())
    assert (event.texts, event.binary, event.deferred) == ({}, None, False)


def test_record_that_is_cut_anywhere_is_refused() -> None:
    data = record((b"/x", b"y" * 20), (0x10, 0x40))
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            parse_event(data[:size])


@pytest.mark.parametrize("data", [record() + b"x", record(kind=2), record(kind=0)])
def test_record_of_another_size_or_kind_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="a record of kind"):
        parse_event(data)


def test_text_beyond_the_record_is_refused() -> None:
    data = bytearray(record((b"ab",), (0x10,)))
    place = HEADER.size - 8 * 2 - SLOTS * 2
    data[place : place + 2] = (300).to_bytes(2, "little")
    with pytest.raises(DecodeError, match="a text ends at"):
        parse_event(bytes(data))


def test_record_that_says_its_cut_size_is_refused() -> None:
    """The sizes agree, the texts do not fit."""
    data = record((b"/x", b"y" * 20), (0x10, 0x40))
    for size in range(HEADER.size, len(data)):
        with pytest.raises(DecodeError, match="a text ends at"):
            parse_event(size.to_bytes(4, "little") + data[4:size])


@given(st.binary(max_size=2 * HEADER.size))
def test_junk_is_refused_or_a_value(data: bytes) -> None:
    parse_or_refuse(data)


@given(st.binary(min_size=HEADER.size - 8, max_size=400))
def test_junk_behind_a_right_begin_is_refused_or_a_value(rest: bytes) -> None:
    begin = (8 + len(rest)).to_bytes(4, "little") + b"\1\0\0\0"
    parse_or_refuse(begin + rest)


def parse_or_refuse(data: bytes) -> None:
    try:
        event = parse_event(data)
    except DecodeError:
        return
    assert sum(len(text.data) for text in event.texts.values()) <= len(data)
