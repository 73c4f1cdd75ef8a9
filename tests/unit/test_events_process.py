# SPDX-License-Identifier: Apache-2.0
"""The event process's loop, in a thread: what its readers get, and when it looks after what the agent holds."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.events import guard as guard_module
from agent.events import main as module
from agent.events.guard import Guard
from agent.events.layout import CUT_TAIL, FLAG_PARTED
from agent.events.main import EventProcess
from agent.events.ring import RingBuffer
from rthook.held import Hold, Outcome, Release, Sweep
from tests.support.events import arg, item, number_item, part, record, rest_item, rule, selector
from tests.support.wait import wait_until

WAIT_S = 20.0


class _Ring:
    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._records: deque[bytes] = deque()

    def put(self, *records: bytes) -> None:
        self._records += records
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def read(self, _limit: int) -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        return [self._records.popleft() for _ in range(len(self._records))]

    def close(self) -> None:
        os.close(self._event)


class _Guard:
    """Stands for Guard: how often it was asked to look, and whether to stay."""

    def __init__(self) -> None:
        self.looks = 0
        self.stays = 0

    def look(self) -> None:
        self.looks += 1

    def stay(self) -> None:
        self.stays += 1


class _Stage:
    def __init__(self, folder: Path, guard: _Guard | None, allow_lookups: bool) -> None:
        self.ring, self._path = _Ring(), folder / "events.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._listener.setblocking(False)
        self.feed, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setblocking(False)
        self.feed.settimeout(WAIT_S)
        self.process = EventProcess(
            self._theirs, cast(RingBuffer, self.ring), self._listener, cast("Guard | None", guard), allow_lookups
        )
        self._thread = threading.Thread(target=self.process.run)
        self._thread.start()

    def tell(self, **message: Any) -> None:
        self.feed.send(json.dumps(message).encode())

    def reader(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(WAIT_S)
        channel.connect(str(self._path))
        assert channel.recv(1 << 16) == b'{"type":"subscribed"}\n'
        return channel

    def end(self) -> None:
        self.feed.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.end()
        self.process._poll.close()
        for fd in self.process._readers.descriptors():
            self.process._readers.drop(fd)
        for one in (self._theirs, self._listener, self.ring):
            one.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Stage]]:
    made: list[_Stage] = []

    def build(guard: _Guard | None = None, allow_lookups: bool = False) -> _Stage:
        made.append(_Stage(tmp_path, guard, allow_lookups))
        return made[-1]

    yield build
    for stage in made:
        stage.close()


def test_readers_get_unannounced_containers_in_order(start: Callable[..., _Stage]) -> None:
    stage = start()
    with stage.reader() as channel:
        for number in (5, 6):
            stage.tell(op="unannounced", id=0, event={"time_ns": number, "outcome": f"o{number}"})
        stage.feed.send(b"junk")
        stage.tell(op="unannounced", id=0, event={})
        stage.tell(op="lost", id=3)
        text = b""
        while text.count(b"\n") < 3:
            text += channel.recv(1 << 16)
    said = [json.loads(line) for line in text.splitlines()]
    assert [line.get("outcome") for line in said] == ["o5", "o6", None]
    assert [line["type"] for line in said] == ["unannounced", "unannounced", "lost"]
    assert said[1]["time"] > said[0]["time"]
    assert said[2]["count"] == 3


def lines(channel: socket.socket, count: int) -> list[dict[str, Any]]:
    text = b""
    while text.count(b"\n") < count:
        text += channel.recv(1 << 16)
    return [json.loads(line) for line in text.splitlines()]


def test_events_get_the_names_that_were_told(start: Callable[..., _Stage]) -> None:
    stage = start()
    with stage.reader() as channel:
        stage.tell(op="policy", id=2, name="pol", namespace="ns", rules=[rule(arg(16, "int"))])
        stage.ring.put(record(number_item(16, 7)), b"junk", record(policy=9), record(rule=5))
        known, junk, unknown, beyond = lines(channel, 4)
    assert (known["policy"]["name"], known["args"][0]["value"]) == ("pol", 7)
    assert (junk["type"], unknown["policy"], unknown["function"]) == ("error", {"serial": 9}, None)
    assert (beyond["policy"]["name"], beyond["function"], beyond["rule"]) == ("pol", None, 5)


def test_values_in_parts_are_put_together(start: Callable[..., _Stage]) -> None:
    stage = start()
    with stage.reader() as channel:
        stage.tell(op="policy", id=2, name="pol", namespace=None, rules=[rule(arg(16, "char_buf"))])
        begin = item(16, b"begin", CUT_TAIL, mode=14)
        stage.ring.put(part(8, 0, b" and "), part(8, 5, b"end!", room=99), part(9, 1, b"a gap"), part(1, 0, b""))
        stage.ring.put(*(record(begin, rest_item(16, serial, 9), flags=FLAG_PARTED) for serial in (8, 9)))
        junk, whole, cut = lines(channel, 3)
        heard = json.loads(stage.feed.recv(1 << 16))
    assert (junk["type"], heard["counters"]) == ("error", {"data_missing": 1})
    assert base64.b64decode(whole["args"][0]["base64"]) == b"begin and end!"
    assert "truncated" not in whole["args"][0]
    assert base64.b64decode(cut["args"][0]["base64"]) == b"begin"
    assert (cut["args"][0]["truncated"], cut["args"][0]["size"]) == (True, 14)


def test_an_event_with_a_stack_comes_late_and_holds_up_nobody(start: Callable[..., _Stage]) -> None:
    """Of a process that is not there: its stack has no symbols, and says so."""
    stage = start()
    with stage.reader() as channel:
        stage.ring.put(record(item(4, (5).to_bytes(8, "little")), time=1, pid=(1 << 22) + 1), record(time=2))
        first, second = lines(channel, 2)
        heard = json.loads(stage.feed.recv(1 << 16))
    assert "user_stack" not in first
    assert (second["user_stack"][0]["address"], second["symbols"]) == ("0x5", False)
    assert second["time"] < first["time"]
    assert heard["op"] == "counters"
    assert sum(heard["counters"].values()) == 1


@pytest.mark.parametrize(("allowed", "outcome"), [(True, "failed"), (False, "off")])
def test_what_is_to_be_looked_up_is_when_it_is_allowed(
    start: Callable[..., _Stage], allowed: bool, outcome: str
) -> None:
    stage = start(None, allowed)
    chosen = selector("POST", "GETURL", get_url=["http://127.0.0.1:1/"])
    with stage.reader() as channel:
        stage.tell(op="policy", id=2, name="pol", namespace=None, rules=[rule(selectors=[chosen])])
        stage.ring.put(record())
        event, lookup = sorted(lines(channel, 2), key=lambda line: str(line["type"]), reverse=True)
    assert (event["type"], event["actions"]) == ("policy", ["POST", "GETURL"])
    assert (lookup["type"], lookup["url"], lookup["outcome"]) == ("lookup", "http://127.0.0.1:1/", outcome)


def test_what_is_to_be_looked_up_is_looked_up_without_readers_and_without_an_event(
    start: Callable[..., _Stage],
) -> None:
    stage = start()
    chosen = selector("NOPOST", "DNSLOOKUP", dns=["a.example"])
    stage.tell(op="policy", id=2, name="pol", namespace=None, rules=[rule(selectors=[chosen])])
    stage.ring.put(record())
    assert json.loads(stage.feed.recv(1 << 16))["counters"] == {"lookups_off": 1}
    with stage.reader() as channel:
        stage.ring.put(record(), record(policy=9))
        assert [line["type"] for line in lines(channel, 2)] == ["policy", "lookup"]


def test_one_that_guards_looks_again_and_again_though_nothing_happens(
    start: Callable[..., _Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PERIOD_S", 0.001)
    guard = _Guard()
    start(guard)
    wait_until(lambda: guard.looks > 5, WAIT_S, "looks")


@pytest.mark.parametrize(("said", "stays"), [(False, 1), (True, 0)])
def test_an_agent_that_goes_without_a_word_may_have_left_somebody_held(
    start: Callable[..., _Stage], said: bool, stays: int
) -> None:
    guard = _Guard()
    stage = start(guard)
    if said:
        stage.tell(op="end", id=0)
    stage.end()
    assert guard.stays == stays


def test_the_last_words_of_an_agent_that_does_not_listen_are_heard(start: Callable[..., _Stage]) -> None:
    guard = _Guard()
    stage = start(guard)
    chosen = selector("POST", "DNSLOOKUP", dns=["a.example"])
    stage.tell(op="policy", id=2, name="pol", namespace=None, rules=[rule(selectors=[chosen])])
    stage.ring.put(record())
    assert stage.feed.recv(1 << 16, socket.MSG_PEEK)
    stage.tell(op="end", id=0)
    stage.end()
    assert guard.stays == 0


def test_without_a_guard_it_ends_with_the_feed(start: Callable[..., _Stage]) -> None:
    start().end()


HOLD = Hold(4711, 9, 5, 1)


def sweep(outcome: Outcome | None = None, *faults: str) -> Sweep:
    releases = (Release(Path("/x"), HOLD, 7, outcome),) if outcome else ()
    return Sweep(releases, faults)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[Sweep]:
    """What the looks to come lead to; the last one again and again."""
    coming = [sweep()]
    monkeypatch.setattr(guard_module, "release_stale", lambda _: coming.pop(0) if len(coming) > 1 else coming[0])
    return coming


def test_a_release_is_told(sweeps: list[Sweep], capsys: pytest.CaptureFixture[str]) -> None:
    sweeps[:] = [sweep(Outcome.CONTINUED_UNGUARDED), sweep()]
    guard = Guard(Path("/x"))
    guard.release()
    guard.release()
    assert capsys.readouterr().err == "event process: continued_unguarded: process 4711\n"


def test_what_stays_as_it_is_is_told_once_for_as_long_as_it_does(
    sweeps: list[Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    guard = Guard(Path("/x"))
    sweeps[:] = [sweep(Outcome.NOT_STOPPED, "torn")] * 3 + [sweep()] + [sweep(Outcome.MOVED, "torn")]
    for _ in range(5):
        guard.release()
    assert capsys.readouterr().err.splitlines() == [
        "event process: not_stopped: process 4711",
        "event process: what is held cannot be looked at: torn",
        "event process: moved: process 4711",
        "event process: what is held cannot be looked at: torn",
    ]


def test_looks_come_once_in_a_period(sweeps: list[Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "PERIOD_S", 3600.0)
    sweeps[:] = [sweep()] * 5
    guard = Guard(Path("/x"))
    guard._looked -= 3601.0
    for _ in range(3):
        guard.look()
    assert len(sweeps) == 4


@pytest.mark.parametrize(("held", "stays"), [([False], 1), ([True, True, False], 3)])
def test_it_stays_until_nobody_is_held(
    sweeps: list[Sweep], monkeypatch: pytest.MonkeyPatch, held: list[bool], stays: int
) -> None:
    sweeps[:] = [sweep()] * 9
    monkeypatch.setattr(guard_module, "PERIOD_S", 0.0)
    monkeypatch.setattr(guard_module, "SETTLE_S", 0.0)
    monkeypatch.setattr(guard_module, "is_any_held", lambda _: held.pop(0))
    Guard(Path("/x")).stay()
    assert len(sweeps) == 9 - stays


def test_it_stays_no_longer_than_a_hold_can_last(sweeps: list[Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    assert guard_module.LAST_S > 60.0 + 1.0
    assert sweeps
    monkeypatch.setattr(guard_module, "PERIOD_S", 0.0)
    monkeypatch.setattr(guard_module, "LAST_S", 0.01)
    monkeypatch.setattr(guard_module, "is_any_held", lambda _: True)
    Guard(Path("/x")).stay()


def test_it_stays_for_as_long_as_the_kernel_may_hold_more(sweeps: list[Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the last heartbeat is stale that nobody is held says nothing."""
    assert guard_module.SETTLE_S > 1.0 + guard_module.PERIOD_S
    assert sweeps
    monkeypatch.setattr(guard_module, "PERIOD_S", 0.0)
    monkeypatch.setattr(guard_module, "LAST_S", 0.01)
    monkeypatch.setattr(guard_module, "is_any_held", lambda _: pytest.fail("asked too early"))
    Guard(Path("/x")).stay()
