# SPDX-License-Identifier: Apache-2.0
"""When a hold is nobody's any more, what is done about it, and what is left alone. Maps are in tests/kernel."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rthook import held
from rthook.held import (
    DOORS,
    HELD,
    Doors,
    Fallback,
    Hold,
    Outcome,
    end_hold,
    is_overdue,
    is_stale,
    parse_doors,
    release_stale,
)
from rthook.process import NS_PER_S, read_stat
from tests.support.wait import wait_until

SECOND = 1_000_000_000
DOORS_SET = Doors(Fallback.STRICT, heartbeat=100 * SECOND, stale=3 * SECOND, deadline=5 * SECOND)
CGROUP_ID = 4711


def test_the_layout_is_that_of_the_maps() -> None:
    assert (DOORS.size, HELD.size) == (40, 24)
    value = DOORS.pack(2, 1, 100 * SECOND, 3 * SECOND, 5 * SECOND, 0)
    assert parse_doors(value) == DOORS_SET


def test_an_unknown_fallback_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="3 is not a valid Fallback"):
        parse_doors(DOORS.pack(2, 3, 0, 0, 0, 0))


@given(st.binary(min_size=DOORS.size, max_size=DOORS.size))
def test_junk_is_doors_or_a_value_error(value: bytes) -> None:
    try:
        doors = parse_doors(value)
    except ValueError:
        return
    assert doors.fallback in Fallback


@pytest.mark.parametrize(
    ("after_s", "stale"),
    [(0.0, False), (2.9, False), (3.0, False), (3.1, True), (1e6, True), (-0.1, True)],
)
def test_a_heartbeat_is_stale_after_its_time_and_from_the_future(after_s: float, stale: bool) -> None:
    assert is_stale(DOORS_SET, DOORS_SET.heartbeat + int(after_s * SECOND)) is stale


@pytest.mark.parametrize(("after_s", "overdue"), [(-1.0, False), (4.9, False), (5.0, True), (100.0, True)])
def test_a_hold_is_overdue_after_the_deadline(after_s: float, overdue: bool) -> None:
    hold = Hold(1, CGROUP_ID, since=50 * SECOND, start=0)
    assert is_overdue(DOORS_SET, hold, hold.since + int(after_s * SECOND)) is overdue


def test_without_maps_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "podgate-previous" / "1").mkdir(parents=True)
    sweep = release_stale(tmp_path / "podgate")
    assert (sweep.releases, sweep.faults) == ((), ())


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "podgate-previous").write_text("no directory")
    [fault] = release_stale(tmp_path / "podgate").faults
    assert "earlier generations cannot be listed: Not a directory" in fault


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", 5.0, "the process to stop")


def state_of(pid: int) -> str:
    stat = read_stat(Path(f"/proc/{pid}"))
    return stat.state if stat else ""


def hold_of(pid: int) -> Hold:
    """As the kernel's side would have written it."""
    stat = read_stat(Path(f"/proc/{pid}"))
    assert stat is not None
    # In the middle of the tick that /proc tells.
    tick = NS_PER_S // os.sysconf("SC_CLK_TCK")
    return Hold(pid, CGROUP_ID, since=0, start=stat.start * tick + tick // 2)


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Keys that were deleted from the map; and every process is in the cgroup CGROUP_ID."""
    deleted: list[bytes] = []

    def delete(_fd: int, key: bytes) -> bool:
        deleted.append(key)
        return True

    monkeypatch.setattr(held, "_is_quarantined", lambda *_: True)
    monkeypatch.setattr("rthook.bpf.delete", delete)
    monkeypatch.setattr(held, "read_cgroup_path", lambda _pid: "/x")
    monkeypatch.setattr(held, "read_cgroup_id", lambda _pid, _path: CGROUP_ID)
    return deleted


@pytest.mark.parametrize(
    ("fallback", "outcome", "deleted"),
    [
        (Fallback.OPEN, Outcome.CONTINUED_UNGUARDED, [CGROUP_ID.to_bytes(8, "little")]),
        (Fallback.STRICT, Outcome.CONTINUED_GUARDED, []),
    ],
)
def test_a_stopped_process_goes_on(
    bindings: list[bytes], fallback: Fallback, outcome: Outcome, deleted: list[bytes]
) -> None:
    with sleeping() as process:
        stop(process)
        assert end_hold(hold_of(process.pid), fallback, -1) is outcome
        wait_until(lambda: state_of(process.pid) == "S", 5.0, "the process to go on")
    assert bindings == deleted


def test_a_stopped_process_is_killed(bindings: list[bytes]) -> None:
    with sleeping() as process:
        stop(process)
        assert end_hold(hold_of(process.pid), Fallback.KILL, -1) is Outcome.KILLED
        assert process.wait(5.0) == -signal.SIGKILL
    assert bindings == []


@pytest.mark.parametrize("fallback", Fallback)
def test_a_process_that_is_not_stopped_is_left_alone(bindings: list[bytes], fallback: Fallback) -> None:
    with sleeping() as process:
        wait_until(lambda: state_of(process.pid) == "S", 5.0, "the process to sleep")
        assert end_hold(hold_of(process.pid), fallback, -1) is Outcome.NOT_STOPPED
        assert state_of(process.pid) == "S"
    assert bindings == []


@pytest.mark.parametrize("fallback", Fallback)
def test_a_process_in_another_cgroup_is_left_alone(
    bindings: list[bytes], monkeypatch: pytest.MonkeyPatch, fallback: Fallback
) -> None:
    monkeypatch.setattr(held, "read_cgroup_id", lambda _pid, _path: CGROUP_ID + 1)
    with sleeping() as process:
        stop(process)
        assert end_hold(hold_of(process.pid), fallback, -1) is Outcome.MOVED
        assert state_of(process.pid) == "T"
    assert bindings == []


@pytest.mark.parametrize("fallback", Fallback)
def test_a_pid_that_is_another_process_now_is_left_alone(bindings: list[bytes], fallback: Fallback) -> None:
    with sleeping() as process:
        stop(process)
        hold = hold_of(process.pid)
        other = Hold(hold.tgid, hold.cgroup_id, hold.since, hold.start - NS_PER_S)
        assert end_hold(other, fallback, -1) is Outcome.GONE
        assert state_of(process.pid) == "T"
    assert bindings == []


def test_a_process_that_has_ended_is_gone(bindings: list[bytes]) -> None:
    with sleeping() as process:
        stop(process)
        hold = hold_of(process.pid)
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z", 5.0, "the zombie")
        assert end_hold(hold, Fallback.OPEN, -1) is Outcome.GONE
    assert end_hold(hold, Fallback.OPEN, -1) is Outcome.GONE
    assert bindings == []
