# SPDX-License-Identifier: Apache-2.0
"""Ending the holds of a dead agent, with maps and stopped processes that are really there."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.kernel.bpf import Fd, MapType, create_map, lookup, pin, update
from agent.kernel.mounts import cgroup2_root, ensure_bpffs
from agent.kernel.pins import remove_tree
from rthook.held import DOORS, HELD, Fallback, Outcome, Release, release_all, release_stale
from rthook.process import NS_PER_S, find_cgroup_root, read_stat
from tests.support.names import unique_name
from tests.support.system import remove_cgroups
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]

STALE_NS = 3 * NS_PER_S
DEADLINE_NS = 5 * NS_PER_S
BINDING_SIZE = 288


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass
class Generation:
    """One agent's maps; `beat` and `hold` write what the agent and its programs would."""

    folder: Path
    maps: dict[str, Fd] = field(default_factory=dict)

    def create(self, stack: ExitStack) -> None:
        (self.folder / "maps").mkdir(parents=True)
        for name, kind, key, value in (
            ("doors", MapType.ARRAY, 4, DOORS.size),
            ("held", MapType.HASH, 4, HELD.size),
            ("bindings", MapType.HASH, 8, BINDING_SIZE),
        ):
            self.maps[name] = stack.enter_context(create_map(kind, key, value, 1 if name == "doors" else 64, name))
            pin(self.maps[name].fileno(), str(self.folder / "maps" / name))

    def beat(self, fallback: int, age_ns: int = STALE_NS + 1, deadline_ns: int = DEADLINE_NS) -> None:
        value = DOORS.pack(2, fallback, boottime() - age_ns, STALE_NS, deadline_ns, 0)
        update(self.maps["doors"].fileno(), bytes(4), value)

    def hold(self, pid: int, cgroup_id: int, age_ns: int = DEADLINE_NS + 1) -> None:
        stat = read_stat(Path(f"/proc/{pid}"))
        assert stat is not None
        start = stat.start * (NS_PER_S // os.sysconf("SC_CLK_TCK"))
        update(self.maps["held"].fileno(), pid.to_bytes(4, "little"), HELD.pack(cgroup_id, boottime() - age_ns, start))
        update(self.maps["bindings"].fileno(), cgroup_id.to_bytes(8, "little"), self._record(cgroup_id))

    def is_held(self, pid: int) -> bool:
        return lookup(self.maps["held"].fileno(), pid.to_bytes(4, "little"), HELD.size) is not None

    @staticmethod
    def _record(cgroup_id: int) -> bytes:
        """Of a quarantined container."""
        return struct.pack("<QQ", cgroup_id, (1 << 64) - 1).ljust(BINDING_SIZE, b"\0")

    def is_bound(self, cgroup_id: int) -> bool:
        return lookup(self.maps["bindings"].fileno(), cgroup_id.to_bytes(8, "little"), BINDING_SIZE) is not None


@pytest.fixture
def pins() -> Iterator[Path]:
    ensure_bpffs()
    folder = Path("/sys/fs/bpf") / unique_name("pin")
    yield folder
    remove_tree(folder)
    remove_tree(folder.with_name(folder.name + "-previous"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def generation(pins: Path, stack: ExitStack) -> Generation:
    made = Generation(pins)
    made.create(stack)
    return made


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process in a cgroup of its own, stopped by SIGSTOP."""

    process: subprocess.Popen[bytes]
    cgroup_id: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def state(self) -> str:
        stat = read_stat(Path(f"/proc/{self.pid}"))
        return stat.state if stat else ""


@pytest.fixture
def stopped() -> Iterator[Stopped]:
    assert find_cgroup_root() == cgroup2_root()
    name = unique_name("held")
    folder = cgroup2_root() / name
    folder.mkdir()
    with subprocess.Popen(["sleep", "infinity"]) as process:
        (folder / "cgroup.procs").write_text(str(process.pid))
        process.send_signal(signal.SIGSTOP)
        made = Stopped(process, folder.stat().st_ino)
        wait_until(lambda: made.state == "T", 5.0, "the process to stop")
        try:
            yield made
        finally:
            process.kill()
            process.wait()
            remove_cgroups(name)


def release_one(pins: Path) -> Release:
    sweep = release_stale(pins)
    assert sweep.faults == ()
    [release] = sweep.releases
    return release


@pytest.mark.parametrize(
    ("fallback", "outcome", "bound"),
    [
        (Fallback.OPEN, Outcome.CONTINUED_UNGUARDED, False),
        (Fallback.STRICT, Outcome.CONTINUED_GUARDED, True),
    ],
)
def test_a_held_process_goes_on(
    pins: Path, generation: Generation, stopped: Stopped, fallback: Fallback, outcome: Outcome, bound: bool
) -> None:
    generation.beat(fallback)
    generation.hold(stopped.pid, stopped.cgroup_id)
    release = release_one(pins)
    assert (release.outcome, release.hold.tgid, release.hold.cgroup_id) == (outcome, stopped.pid, stopped.cgroup_id)
    assert release.held_ns >= DEADLINE_NS
    wait_until(lambda: stopped.state == "S", 5.0, "the process to go on")
    assert (generation.is_held(stopped.pid), generation.is_bound(stopped.cgroup_id)) == (False, bound)
    assert release_stale(pins).releases == ()


def test_a_held_process_is_killed(pins: Path, generation: Generation, stopped: Stopped) -> None:
    generation.beat(Fallback.KILL)
    generation.hold(stopped.pid, stopped.cgroup_id)
    assert release_one(pins).outcome is Outcome.KILLED
    assert stopped.process.wait(5.0) == -signal.SIGKILL
    assert (generation.is_held(stopped.pid), generation.is_bound(stopped.cgroup_id)) == (False, True)


@pytest.mark.parametrize(
    ("beat_age_ns", "hold_age_ns"), [(0, DEADLINE_NS + 1), (STALE_NS + 1, 0)], ids=["agent lives", "not overdue"]
)
def test_a_hold_that_is_somebodys_is_left_alone(
    pins: Path, generation: Generation, stopped: Stopped, beat_age_ns: int, hold_age_ns: int
) -> None:
    generation.beat(Fallback.OPEN, beat_age_ns)
    generation.hold(stopped.pid, stopped.cgroup_id, hold_age_ns)
    sweep = release_stale(pins)
    assert (sweep.releases, sweep.faults) == ((), ())
    assert (stopped.state, generation.is_held(stopped.pid)) == ("T", True)


def test_an_earlier_generations_hold_is_ended_though_the_agent_of_today_lives(
    pins: Path, generation: Generation, stopped: Stopped, stack: ExitStack
) -> None:
    earlier = Generation(pins.with_name(pins.name + "-previous") / "1")
    earlier.create(stack)
    generation.beat(Fallback.STRICT, age_ns=0)
    earlier.beat(Fallback.STRICT)
    earlier.hold(stopped.pid, stopped.cgroup_id)
    release = release_one(pins)
    assert (release.generation, release.outcome) == (earlier.folder, Outcome.CONTINUED_GUARDED)


def test_a_process_in_another_cgroup_than_the_held_one_stays_stopped(
    pins: Path, generation: Generation, stopped: Stopped
) -> None:
    generation.beat(Fallback.OPEN)
    generation.hold(stopped.pid, stopped.cgroup_id + 1)
    release = release_one(pins)
    assert (release.outcome, release.is_done) == (Outcome.MOVED, False)
    assert (stopped.state, generation.is_held(stopped.pid)) == ("T", True)


def test_the_entry_of_a_process_that_ended_goes(pins: Path, generation: Generation, stopped: Stopped) -> None:
    generation.beat(Fallback.OPEN)
    generation.hold(stopped.pid, stopped.cgroup_id)
    stopped.process.kill()
    stopped.process.wait()
    assert release_one(pins).outcome is Outcome.GONE
    assert not generation.is_held(stopped.pid)
    assert generation.is_bound(stopped.cgroup_id)


def test_threads_behind_a_first_one_that_ended_are_released(
    pins: Path, generation: Generation, stopped: Stopped
) -> None:
    """/proc/PID/stat tells Z of such a process."""
    script = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); "
    script += "ctypes.CDLL(None).syscall(60, 0)"  # exit(2), of the calling thread alone
    with subprocess.Popen(["python3", "-c", script]) as process:
        try:
            threads = Stopped(process, stopped.cgroup_id)
            wait_until(lambda: threads.state == "Z", 5.0, "the first thread to end")
            (cgroup2_root() / unified_path(stopped.pid) / "cgroup.procs").write_text(str(process.pid))
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: "T" in thread_states(process.pid), 5.0, "the threads to stop")
            generation.beat(Fallback.STRICT)
            generation.hold(process.pid, stopped.cgroup_id)
            assert release_one(pins).outcome is Outcome.CONTINUED_GUARDED
            wait_until(lambda: "T" not in thread_states(process.pid), 5.0, "the threads to go on")
        finally:
            process.kill()


def unified_path(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[4:] for line in lines if line.startswith("0::/"))


def thread_states(pid: int) -> set[str]:
    stats = (read_stat(thread) for thread in Path(f"/proc/{pid}/task").iterdir())
    return {stat.state for stat in stats if stat}


def test_one_generation_that_makes_no_sense_does_not_keep_another_from_being_swept(
    pins: Path, generation: Generation, stopped: Stopped, stack: ExitStack
) -> None:
    earlier = Generation(pins.with_name(pins.name + "-previous") / "1")
    earlier.create(stack)
    generation.beat(7)
    earlier.beat(Fallback.STRICT)
    earlier.hold(stopped.pid, stopped.cgroup_id)
    sweep = release_stale(pins)
    assert [release.outcome for release in sweep.releases] == [Outcome.CONTINUED_GUARDED]
    [fault] = sweep.faults
    assert f"{pins}/maps/doors: 7 is not a valid Fallback" in fault


def test_maps_of_another_layout_are_not_read(pins: Path, stack: ExitStack) -> None:
    (pins / "maps").mkdir(parents=True)
    made = stack.enter_context(create_map(MapType.ARRAY, 4, DOORS.size + 8, 1, "doors"))
    pin(made.fileno(), str(pins / "maps" / "doors"))
    [fault] = release_stale(pins).faults
    assert fault.endswith("maps/doors: keys of 4 and values of 48 bytes")


def test_a_generation_that_is_taken_down_holds_nobody(generation: Generation, stopped: Stopped) -> None:
    """However long it may have waited, and whoever gives a sign of life: afterwards nobody could release it."""
    generation.beat(Fallback.STRICT)
    generation.hold(stopped.pid, stopped.cgroup_id, age_ns=0)
    (release,) = release_all(generation.folder).releases
    assert release.outcome is Outcome.CONTINUED_GUARDED
    wait_until(lambda: stopped.state == "S", 5.0, "the process to go on")
    assert not generation.is_held(stopped.pid)


def test_a_container_that_was_identified_meanwhile_keeps_its_record(
    pins: Path, generation: Generation, stopped: Stopped
) -> None:
    generation.beat(Fallback.OPEN)
    generation.hold(stopped.pid, stopped.cgroup_id)
    record = struct.pack("<QQ", stopped.cgroup_id, stopped.cgroup_id).ljust(BINDING_SIZE, b"\0")
    update(generation.maps["bindings"].fileno(), stopped.cgroup_id.to_bytes(8, "little"), record)
    assert release_one(pins).outcome is Outcome.CONTINUED_GUARDED
    assert generation.is_bound(stopped.cgroup_id)
