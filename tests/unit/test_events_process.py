# SPDX-License-Identifier: Apache-2.0
"""The event process's loop, in a thread: what its readers get, and when it looks after what the agent holds."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.events import guard as guard_module
from agent.events import main as module
from agent.events.guard import Guard
from agent.events.main import EventProcess
from agent.events.ring import RingBuffer
from rthook.held import Hold, Outcome, Release, Sweep
from tests.support.wait import wait_until

WAIT_S = 20.0


class _Ring:
    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._event

    def read(self, _limit: int) -> list[bytes]:
        return []

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
    def __init__(self, folder: Path, guard: _Guard | None) -> None:
        self._ring, self._path = _Ring(), folder / "events.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._listener.setblocking(False)
        self.feed, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setblocking(False)
        self.process = EventProcess(
            self._theirs, cast(RingBuffer, self._ring), self._listener, cast("Guard | None", guard)
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
        for part in (self._theirs, self._listener, self._ring):
            part.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Stage]]:
    made: list[_Stage] = []

    def build(guard: _Guard | None = None) -> _Stage:
        made.append(_Stage(tmp_path, guard))
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
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line.get("outcome") for line in lines] == ["o5", "o6", None]
    assert [line["type"] for line in lines] == ["unannounced", "unannounced", "lost"]
    assert lines[1]["time"] > lines[0]["time"]
    assert lines[2]["count"] == 3


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
