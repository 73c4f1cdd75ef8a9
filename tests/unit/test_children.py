# SPDX-License-Identifier: Apache-2.0
"""A process of the agent's: started again when it ends, each time later, and ended with the agent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import children as module
from agent.children import RESTART_CAP_S, RESTART_FIRST_S, STEADY_S, Child
from tests.support.wait import wait_until

WAIT_S = 20.0
STEP_S = 0.7
STUBBORN = (
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "open(sys.argv[1], 'w').close()\nwhile True: time.sleep(60)"
)


class Clock:
    """Stands for the module time, as far as children.py asks it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def build(*command: str) -> Child:
        made.append(Child("test", command))
        made[-1].start()
        return made[-1]

    yield build
    for child in made:
        child.stop()


def kill(child: Child) -> None:
    assert child._process is not None
    child._process.kill()
    child._process.wait(WAIT_S)


def test_a_child_runs_in_a_session_of_its_own_without_input(start: Callable[..., Child]) -> None:
    child = start("sleep", "60")
    assert child.pid
    assert Path(f"/proc/{child.pid}/fd/0").readlink() == Path("/dev/null")
    session = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()[3]
    assert int(session) == child.pid


def test_one_that_runs_is_left_alone(start: Callable[..., Child], clock: Clock) -> None:
    child = start("sleep", "60")
    pid = child.pid
    clock.now += 3600
    child.check()
    assert (child.pid, child.restarts) == (pid, 0)


def test_one_that_ended_is_started_again_after_a_pause(start: Callable[..., Child], clock: Clock) -> None:
    child = start("sleep", "60")
    first = child.pid
    kill(child)
    assert child.pid == 0
    clock.now += RESTART_FIRST_S / 2
    child.check()
    assert (child.pid, child.restarts) == (0, 0)
    clock.now += RESTART_FIRST_S
    child.check()
    assert child.pid not in (0, first)
    assert child.restarts == 1


def await_restart(child: Child, clock: Clock) -> float:
    """How long the restart of one that ends at once is waited for; the housekeeping looks every STEP_S."""
    kill(child)
    began, restarts = clock.now, child.restarts
    while child.restarts == restarts:
        clock.now += STEP_S
        child.check()
    return clock.now - began


def test_one_that_ends_at_once_is_started_later_each_time_up_to_a_minute(
    start: Callable[..., Child], clock: Clock
) -> None:
    """And stays there: waiting is no steady run."""
    child = start("sleep", "60")
    for pause in (1, 2, 4, 8, 16, 32, RESTART_CAP_S, RESTART_CAP_S, RESTART_CAP_S):
        assert pause <= await_restart(child, clock) < pause + STEP_S


def test_one_that_ran_steadily_is_started_again_at_once(start: Callable[..., Child], clock: Clock) -> None:
    child = start("sleep", "60")
    for _ in range(4):
        await_restart(child, clock)
    clock.now += STEADY_S + 1
    assert await_restart(child, clock) == pytest.approx(STEP_S)
    assert await_restart(child, clock) >= 2 * RESTART_FIRST_S


def test_stopping_is_a_sigterm(start: Callable[..., Child]) -> None:
    child = start("sleep", "60")
    began = time.monotonic()
    child.stop()
    assert child._process is not None
    assert child._process.returncode == -signal.SIGTERM
    assert time.monotonic() - began < module.STOP_S
    assert child.pid == 0


def test_one_that_does_not_stop_is_killed(start: Callable[..., Child], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.1)
    child = start(sys.executable, "-c", STUBBORN, str(tmp_path / "ready"))
    wait_until((tmp_path / "ready").exists, WAIT_S, "it to ignore the signal")
    child.stop()
    assert child._process is not None
    assert child._process.returncode == -signal.SIGKILL


def test_one_that_was_never_started_is_stopped_and_checked_without_a_word() -> None:
    child = Child("test", ["true"])
    child.check()
    child.stop()
    assert (child.pid, child.restarts) == (0, 0)


def test_one_that_cannot_be_started_again_is_tried_later(start: Callable[..., Child], clock: Clock) -> None:
    """The housekeeping tells the failure."""
    child = start("sleep", "60")
    kill(child)
    child._command = ["/nowhere/program"]
    clock.now += RESTART_FIRST_S
    with pytest.raises(FileNotFoundError):
        child.check()
    child._command = ["sleep", "60"]
    clock.now += 2 * RESTART_FIRST_S
    child.check()
    assert child.pid
    assert isinstance(child._process, subprocess.Popen)
