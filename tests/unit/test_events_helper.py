# SPDX-License-Identifier: Apache-2.0
"""Processes of the event process: started when needed, never waited for, started again, bounded."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.events.helper import MAX_LEFT, RESTART_S, Helper
from tests.support.events import receive
from tests.support.wait import wait_until

WAIT_S = 20.0

# Answers each message with itself; "end" ends it, "deaf" makes it hear nothing more.
_CHILD = """
import signal, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
while data := channel.recv(1 << 18):
    if data == b"end":
        break
    if data == b"deaf":
        signal.pause()
    channel.send(data)
"""


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def echo(fd: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _CHILD, str(fd)]


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def helper(clock: _Clock) -> Iterator[Helper]:
    made = Helper(echo, clock)
    yield made
    made.close()


def is_readable(helper: Helper) -> bool:
    return bool(select.select([helper.fileno()], [], [], 0)[0])


def test_it_is_started_with_the_first_message(helper: Helper) -> None:
    assert helper.pid == 0
    assert helper.receive() == []
    assert helper.send(b"a")
    assert helper.send(b"b" * 100_000)
    assert receive(helper, 2, WAIT_S) == [b"a", b"b" * 100_000]
    assert helper.pid
    assert helper.lost == 0


def test_its_descriptor_is_readable_when_there_is_something_to_receive(helper: Helper, clock: _Clock) -> None:
    assert not is_readable(helper)
    for _ in range(2):  # the second time of another process
        assert helper.send(b"x")
        wait_until(lambda: is_readable(helper), WAIT_S, "an answer")
        assert receive(helper, 1, WAIT_S) == [b"x"]
        assert not is_readable(helper)
        helper.end()
        clock.now += RESTART_S


def test_one_that_ended_is_started_again_but_not_at_once(helper: Helper, clock: _Clock) -> None:
    assert helper.send(b"end")
    first = helper.pid
    wait_until(lambda: helper.receive() or helper.pid == 0, WAIT_S, "its end")
    assert helper.lost == 1
    assert not helper.send(b"x")
    clock.now += RESTART_S
    assert helper.send(b"x")
    assert receive(helper, 1, WAIT_S) == [b"x"]
    assert helper.pid not in (0, first)


def test_what_one_that_is_busy_cannot_take_is_refused_and_waits_for_nobody(helper: Helper) -> None:
    assert helper.send(b"deaf")
    taken = 0
    while helper.send(b"x" * 10_000):
        taken += 1
        assert taken < 10_000
    assert taken
    assert helper.pid


def test_an_end_that_is_noticed_while_sending_is_no_error(helper: Helper) -> None:
    assert helper.send(b"x")
    os.kill(helper.pid, signal.SIGKILL)
    wait_until(lambda: not helper.send(b"x"), WAIT_S, "a refusal")
    assert (helper.pid, helper.lost) == (0, 1)


def test_those_that_do_not_die_are_not_joined_by_more(
    helper: Helper, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen.poll
    monkeypatch.setattr(subprocess.Popen, "poll", lambda _self: None)
    for _ in range(MAX_LEFT):
        assert helper.send(b"x")
        helper.end()
        clock.now += RESTART_S
    assert not helper.send(b"x")
    monkeypatch.setattr(subprocess.Popen, "poll", dead)
    wait_until(lambda: helper.send(b"x"), WAIT_S, "a new one, once they are dead")


def test_a_command_that_cannot_be_started_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    helper = Helper(lambda _: ["/does/not/exist"])
    assert not helper.send(b"x")
    assert helper.pid == 0
    assert "cannot be started" in capsys.readouterr().err
    helper.close()


def test_closing_ends_it() -> None:
    helper = Helper(echo)
    assert helper.send(b"x")
    pid = helper.pid
    helper.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
