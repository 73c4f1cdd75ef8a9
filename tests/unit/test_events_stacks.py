# SPDX-License-Identifier: Apache-2.0
"""Stacks of events: their fields, the messages about them, and events that wait for their symbols."""

from __future__ import annotations

import json
import struct
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import symbols as module
from agent.events.decoder import RawEvent, parse_event
from agent.events.helper import Helper
from agent.events.layout import UNREADABLE
from agent.events.stacks import (
    MAX_FRAMES,
    MAX_NAME,
    Frame,
    Symbols,
    Trace,
    encode_answer,
    encode_request,
    parse_answer,
    parse_request,
    stack_fields,
    trace_of,
)
from agent.events.symbols import HANG_S, MAX_KEPT, MAX_KEPT_BYTES, WAIT_S, Stacks, is_hidden
from tests.support.events import item, record

KERNEL, USER = 3, 4


def stack(number: int, *addresses: int, flags: int = 0) -> bytes:
    return item(number, struct.pack(f"<{len(addresses)}Q", *addresses), flags)


def event(*items: bytes) -> RawEvent:
    return parse_event(record(*items, pid=7, start=9))


BOTH = event(item(1, b"/bin/x\xff"), stack(KERNEL, 0xFFFFFFFF81000000, 2), stack(USER, 3))
TRACE = Trace((0xFFFFFFFF81000000, 2), (3,), 7, 9, b"/bin/x\xff")
FOUND = Symbols((Frame("vfs_read", 5, "kernel"), None), (Frame(None, 77, "/bin/x"),))
SHOWN_KERNEL: list[dict[str, Any]] = [
    {"address": "0xffffffff81000000", "symbol": "vfs_read", "offset": 5, "module": "kernel"},
    {"address": "0x2", "symbol": None, "offset": None, "module": None},
]
SHOWN_USER = [{"address": "0x3", "symbol": None, "offset": 77, "module": "/bin/x"}]


def test_a_trace_is_what_an_event_has() -> None:
    assert trace_of(BOTH) == TRACE
    assert trace_of(event(item(1, b"x", UNREADABLE), stack(USER, 1, flags=UNREADABLE))) == Trace((), (), 7, 9, None)
    assert trace_of(event(item(KERNEL, b"12345678" + b"rest"), stack(USER, *range(500)))).user == tuple(
        range(MAX_FRAMES)
    )


def test_stacks_with_symbols() -> None:
    assert stack_fields(BOTH, TRACE, FOUND, False) == {"kernel_stack": SHOWN_KERNEL, "user_stack": SHOWN_USER}


def test_frames_of_our_own_programs_are_left_out() -> None:
    """The innermost ones: further out they are somebody's who was called by the call."""
    own, other = Frame("bpf_trampoline_1", 9, "bpf"), Frame("vfs_read", 5, "kernel")
    trace, found = Trace((1, 2, 3, 4), (), 7, 9, None), Symbols((own, own, other, own), None)
    shown = stack_fields(event(stack(KERNEL, 1, 2, 3, 4)), trace, found, False)["kernel_stack"]
    assert [(frame["address"], frame["symbol"]) for frame in shown] == [
        ("0x3", "vfs_read"),
        ("0x4", "bpf_trampoline_1"),
    ]
    shown = stack_fields(event(stack(KERNEL, 1)), Trace((1,), (), 7, 9, None), Symbols((own,), None), False)
    assert shown == {"kernel_stack": []}


def test_hidden_kernel_addresses_are_not_told_but_symbols_are() -> None:
    fields = stack_fields(BOTH, TRACE, FOUND, True)
    assert fields["kernel_stack"] == [frame | {"address": None} for frame in SHOWN_KERNEL]
    assert fields["user_stack"] == SHOWN_USER
    without = json.dumps(stack_fields(BOTH, TRACE, Symbols(reason="r"), True)["kernel_stack"])
    assert "ffff" not in without


@pytest.mark.parametrize(
    "symbols", [Symbols(None, FOUND.user, "r"), Symbols(FOUND.kernel, None, "r"), Symbols(reason="r")]
)
def test_a_stack_without_symbols_has_its_addresses_and_says_why(symbols: Symbols) -> None:
    fields = stack_fields(BOTH, TRACE, symbols, False)
    assert (fields["symbols"], fields["symbols_reason"]) == (False, "r")
    assert [frame["address"] for frame in fields["kernel_stack"]] == ["0xffffffff81000000", "0x2"]
    assert [frame["address"] for frame in fields["user_stack"]] == ["0x3"]


def test_a_stack_that_could_not_be_had_is_empty_and_wants_no_symbols() -> None:
    bare = event(stack(KERNEL, flags=UNREADABLE))
    assert stack_fields(bare, trace_of(bare), Symbols(), False) == {"kernel_stack": []}


def test_requests_and_answers_say_what_was_meant() -> None:
    assert parse_request(encode_request(5, TRACE)) == (5, TRACE)
    assert parse_answer(encode_answer(6, FOUND)) == (6, FOUND)
    hostile = Symbols(None, (Frame("a\udcff\n", 1, "/m\udc80"),), "gone")
    assert parse_answer(encode_answer(1, hostile))[1] == Symbols(None, (Frame("a\\xff\n", 1, "/m\\x80"),), "gone")


def test_an_answer_that_no_socket_takes_is_one_without_symbols() -> None:
    frames = tuple(Frame(chr(1) * MAX_NAME, 1, chr(1) * MAX_NAME) for _ in range(MAX_FRAMES))
    assert parse_answer(encode_answer(3, Symbols(frames, frames))) == (3, Symbols(reason="the names are too long"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"id":1}',
        b'{"id":null,"kernel":null,"user":null,"reason":""}',
        b'{"id":1,"kernel":5,"user":null,"reason":""}',
        b'{"id":1,"kernel":[[1]],"user":null,"reason":""}',
        b'{"id":1,"kernel":[["a","b","c"]],"user":null,"reason":""}',
        b'{"id":1e999,"kernel":null,"user":null,"reason":""}',
    ],
)
def test_an_answer_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an answer|Expecting|invalid literal"):
        parse_answer(data)


@given(st.binary(max_size=100) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"id": 1, "kernel": value, "user": value, "reason": value}).encode()
))  # fmt: skip
def test_junk_is_no_answer_or_one(data: bytes) -> None:
    try:
        number, symbols = parse_answer(data)
    except ValueError:
        return
    assert isinstance(number, int)
    assert isinstance(symbols.reason, str)


class _Helper:
    """Stands for Helper: keeps what it is asked, answers when it is told to."""

    def __init__(self) -> None:
        self.pid, self.lost = 0, 0
        self.takes = True
        self.asked: list[bytes] = []
        self.answers: list[bytes] = []

    def send(self, message: bytes) -> bool:
        if self.takes:
            self.pid = 1
            self.asked.append(message)
        return self.takes

    def receive(self) -> list[bytes]:
        answers, self.answers = self.answers, []
        return answers

    def end(self) -> None:
        self.pid, self.takes = 0, False
        self.lost += 1


class _Stage:
    def __init__(self) -> None:
        self.now = 50.0
        self.helper = _Helper()
        self.stacks = Stacks(cast(Helper, self.helper), lambda: self.now)

    def add(self, of: RawEvent = BOTH, size: int = 100, **fields: Any) -> None:
        self.stacks.add(of, fields, size)

    def answer(self, place: int, symbols: Symbols = FOUND) -> None:
        self.helper.answers.append(encode_answer(parse_request(self.helper.asked[place])[0], symbols))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stacks.lines()]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> _Stage:
    monkeypatch.setattr(module, "is_hidden", lambda: False)
    return _Stage()


def test_an_event_waits_for_its_symbols_and_others_do_not(stage: _Stage) -> None:
    stage.add(n=1)
    stage.add(n=2)
    assert stage.lines() == []
    assert stage.stacks.wait_s() == WAIT_S
    stage.answer(1)
    assert [line["n"] for line in stage.lines()] == [2]
    stage.answer(0)
    assert stage.lines() == [{"n": 1, "kernel_stack": SHOWN_KERNEL, "user_stack": SHOWN_USER}]
    assert stage.stacks.wait_s() is None
    assert stage.stacks.counters == {"stacks_symbolised": 2, "symbol_helper_lost": 0}


def test_an_event_does_not_wait_longer_than_it_may(stage: _Stage) -> None:
    stage.add(n=1)
    stage.now += WAIT_S / 2
    stage.add(n=2)
    stage.now += WAIT_S / 2
    (line,) = stage.lines()
    assert (line["n"], line["symbols"], line["symbols_reason"]) == (1, False, module.LATE)
    stage.answer(0)
    stage.answer(1)
    assert [line["n"] for line in stage.lines()] == [2]
    assert stage.stacks.counters == {"stacks_late": 1, "stacks_symbolised": 1, "symbol_helper_lost": 0}


def test_a_helper_that_hangs_is_ended(stage: _Stage) -> None:
    stage.add()
    stage.now += WAIT_S
    assert len(stage.lines()) == 1
    assert stage.stacks.wait_s() == HANG_S - WAIT_S
    stage.now += HANG_S - WAIT_S
    assert stage.lines() == []
    assert stage.helper.lost == 1
    assert stage.stacks.wait_s() is None


def test_a_helper_that_answers_slowly_is_not_one_that_hangs(stage: _Stage) -> None:
    for _ in range(5):
        stage.add()
        stage.add()
        stage.now += HANG_S - 1.0
        stage.answer(-2)
        stage.lines()
    assert stage.helper.lost == 0


def test_a_lost_helper_leaves_addresses(stage: _Stage) -> None:
    stage.add(n=1)
    stage.helper.end()
    (line,) = stage.lines()
    assert (line["n"], line["symbols"], line["symbols_reason"]) == (1, False, module.LOST)
    assert line["user_stack"][0]["address"] == "0x3"
    stage.add(n=2)
    assert [line["n"] for line in stage.lines()] == [2]
    assert stage.stacks.counters == {"stacks_lost": 2, "symbol_helper_lost": 1}
    assert stage.stacks.wait_s() is None


@pytest.mark.parametrize(("count", "size"), [(MAX_KEPT, 100), (4, MAX_KEPT_BYTES // 4)])
def test_what_waits_is_bounded(stage: _Stage, count: int, size: int) -> None:
    for number in range(count + 1):
        stage.add(size=size, n=number)
    (line,) = stage.lines()
    assert (line["n"], line["symbols"], line["symbols_reason"]) == (count, False, module.FULL)
    for number in range(count):
        stage.answer(number)
    assert len(stage.lines()) == count
    stage.add(size=size)
    assert stage.lines() == []


def test_a_helper_that_takes_no_more_leaves_addresses(stage: _Stage) -> None:
    stage.add(n=1)
    stage.helper.takes = False
    stage.add(n=2)
    (line,) = stage.lines()
    assert (line["n"], line["symbols_reason"]) == (2, module.FULL)


@pytest.mark.parametrize("answer", [b"junk", encode_answer(1, Symbols((None,) * 3, FOUND.user))])
def test_a_helper_that_says_nonsense_is_ended(stage: _Stage, answer: bytes) -> None:
    stage.add()
    stage.helper.answers.append(answer)
    (line,) = stage.lines()
    assert line["symbols"] is False
    assert stage.helper.lost == 1


def test_an_answer_that_nobody_waits_for_is_no_harm(stage: _Stage) -> None:
    stage.add()
    stage.helper.answers.append(encode_answer(99, FOUND))
    assert stage.lines() == []


def test_a_stack_without_addresses_needs_no_helper(stage: _Stage) -> None:
    stage.add(event(stack(USER, flags=UNREADABLE)), n=1)
    assert stage.lines() == [{"n": 1, "user_stack": []}]
    assert stage.helper.asked == []


@pytest.mark.parametrize(("text", "hidden"), [("0\n", False), ("1\n", True), ("2\n", True), (None, True)])
def test_kernel_addresses_are_hidden_where_the_node_hides_them(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, text: str | None, hidden: bool
) -> None:
    place = tmp_path / "kptr_restrict"
    if text is not None:
        place.write_text(text)
    monkeypatch.setattr(module, "KPTR_RESTRICT", place)
    assert is_hidden() is hidden
