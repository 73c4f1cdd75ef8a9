# SPDX-License-Identifier: Apache-2.0
"""The event process looks after what its agent holds: real maps, a real process that is stopped, and the agent's side
of the feed, which is this test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.events.feed import Feed, Ring
from agent.events.guard import is_any_held
from agent.hooks.server import listen
from agent.kernel import bpf
from agent.kernel.doors import DoorPolicy, Doors, Fallback, Treatment
from agent.kernel.layout import BINDING, CGROUP_KEY, HELD, TGID, map_specs
from agent.kernel.maps import Bindings, Maps
from agent.kernel.mounts import cgroup2_root, ensure_bpffs
from agent.kernel.pins import Pins, remove_tree
from agent.kernel.previous import take_over
from agent.workload.identity import CgroupId
from rthook.process import NS_PER_S, read_stat
from tests.support.names import unique_name
from tests.support.system import remove_cgroups
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

WAIT_S = 30.0
RING_BYTES = 4096
PAGE_TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process in a cgroup of its own, stopped as the kernel's side does it."""

    process: subprocess.Popen[bytes]
    cgroup: CgroupId

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_stopped(self) -> bool:
        stat = read_stat(Path(f"/proc/{self.pid}"))
        return stat is not None and stat.state == "T"

    def has_continued(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WCONTINUED | os.WNOHANG | os.WNOWAIT) is not None


class Generation:
    """One agent's maps and doors."""

    def __init__(self, pins: Path, policy: DoorPolicy) -> None:
        (pins / "maps").mkdir(parents=True)
        self.maps = Maps.create(map_specs(RING_BYTES, 64), pins / "maps")
        self.bindings = Bindings(self.maps)
        self.doors = Doors(self.maps, policy)

    def hold(self, one: Stopped, age_s: float = 3600.0) -> None:
        stat = read_stat(Path(f"/proc/{one.pid}"))
        assert stat is not None
        since = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(age_s * NS_PER_S)
        value = HELD.pack(one.cgroup, since, stat.start * PAGE_TICK_NS)
        bpf.update(self.maps.fileno("held"), TGID.pack(one.pid), value)
        self.bindings.put_in_quarantine(one.cgroup)

    def holds(self, one: Stopped) -> bool:
        return self.doors.find(one.pid) is not None

    def is_bound(self, one: Stopped) -> bool:
        return bpf.lookup(self.maps.fileno("bindings"), CGROUP_KEY.pack(one.cgroup), BINDING.size) is not None


@pytest.fixture
def pins() -> Iterator[Path]:
    ensure_bpffs()
    folder = Path("/sys/fs/bpf") / unique_name("pin")
    yield folder
    remove_tree(folder)
    remove_tree(Pins(folder).previous)


@pytest.fixture
def make(pins: Path) -> Iterator[Callable[..., Generation]]:
    made: list[Generation] = []

    def build(fallback: Fallback = Fallback.OPEN, folder: Path = pins) -> Generation:
        made.append(Generation(folder, DoorPolicy(Treatment.HOLD, fallback, deadline_s=0.2)))
        return made[-1]

    yield build
    for one in made:
        one.maps.close()


@pytest.fixture
def stop() -> Iterator[Callable[[], Stopped]]:
    made: list[tuple[str, subprocess.Popen[bytes]]] = []

    def build() -> Stopped:
        name = unique_name("guard")
        folder = cgroup2_root() / name
        folder.mkdir()
        process = subprocess.Popen(["sleep", "infinity"])
        made.append((name, process))
        (folder / "cgroup.procs").write_text(str(process.pid))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        return Stopped(process, CgroupId(folder.stat().st_ino))

    yield build
    for name, process in made:
        process.kill()
        process.wait(WAIT_S)
        remove_cgroups(name)


@pytest.fixture
def start(pins: Path, tmp_path: Path) -> Iterator[Callable[[Generation], Feed]]:
    made: list[Feed] = []

    def build(generation: Generation) -> Feed:
        ring = Ring(generation.maps.fileno("events"), RING_BYTES)
        made.append(Feed(ring, listen(tmp_path / "events.sock"), list, pins))
        made[-1].start()
        return made[-1]

    yield build
    for feed in made:
        feed.close()


def abandon(feed: Feed) -> None:
    """As the kernel does it for an agent that dies."""
    assert feed._channel is not None
    feed._channel.close()
    feed._channel = None


def test_what_an_agent_that_hangs_holds_is_released(
    make: Callable[..., Generation], stop: Callable[[], Stopped], start: Callable[[Generation], Feed]
) -> None:
    agent, one = make(), stop()
    agent.hold(one)
    feed = start(agent)
    wait_until(lambda: not one.is_stopped, WAIT_S, "its release")
    wait_until(lambda: not agent.holds(one), WAIT_S, "its entry to go")
    assert one.has_continued()
    assert not agent.is_bound(one)
    assert feed.pid


def test_an_agent_that_lives_releases_its_own(
    make: Callable[..., Generation], stop: Callable[[], Stopped], start: Callable[[Generation], Feed], pins: Path
) -> None:
    """Beside one of an agent that died before it, which shows that the guard has looked."""
    agent, earlier = make(Fallback.KILL), make(Fallback.KILL, Pins(pins).previous / "1")
    mine, left = stop(), stop()
    agent.doors.policy = DoorPolicy(Treatment.HOLD, Fallback.KILL, stale_s=3600.0)
    agent.doors.beat()
    agent.hold(mine)
    earlier.hold(left)
    start(agent)
    assert left.process.wait(WAIT_S) == -signal.SIGKILL
    assert mine.is_stopped
    assert agent.holds(mine)


def test_what_an_agent_that_dies_held_is_released(
    make: Callable[..., Generation], stop: Callable[[], Stopped], start: Callable[[Generation], Feed]
) -> None:
    """Its last heartbeat counts for a second; then the process ends, as nobody is held any more."""
    agent, one = make(Fallback.STRICT), stop()
    agent.doors.beat()
    agent.hold(one, age_s=0.0)
    feed = start(agent)
    process = feed._process
    assert process is not None
    abandon(feed)
    wait_until(lambda: not agent.holds(one), WAIT_S, "its release")
    assert one.has_continued()
    assert agent.is_bound(one)
    assert process.wait(WAIT_S) == 0


def test_after_an_end_in_order_nobody_is_waited_for(
    make: Callable[..., Generation], stop: Callable[[], Stopped], start: Callable[[Generation], Feed]
) -> None:
    """The agent has released its own; what is in the map here is not the event process's to touch."""
    agent, one = make(), stop()
    agent.doors.policy = DoorPolicy(Treatment.HOLD, Fallback.KILL, stale_s=3600.0)
    agent.doors.beat()
    agent.hold(one)
    feed = start(agent)
    process = feed._process
    assert process is not None
    feed.close()
    assert process.returncode == 0
    assert one.is_stopped


def test_who_is_held_is_seen_in_every_generation(
    make: Callable[..., Generation], stop: Callable[[], Stopped], pins: Path
) -> None:
    assert not is_any_held(pins)
    earlier, one = make(folder=Pins(pins).previous / "3"), stop()
    make()
    assert not is_any_held(pins)
    earlier.hold(one)
    assert is_any_held(pins)
    earlier.doors.release(earlier.doors.held()[0])
    assert not is_any_held(pins)


def test_quarantined_containers_of_an_earlier_agent_are_taken_over(make: Callable[..., Generation], pins: Path) -> None:
    earlier, agent = make(folder=Pins(pins).previous / "3"), make()
    earlier.bindings.put_in_quarantine(CgroupId(4))
    earlier.bindings.put_in_quarantine(CgroupId(5), 500)
    agent.bindings.put_in_quarantine(CgroupId(6))
    assert take_over(Pins(pins).previous, agent.bindings) == (2, ())
    assert sorted(agent.bindings.quarantined()) == [4, 5, 6]
    assert agent.bindings.pending_pid(CgroupId(5)) == 500


def test_maps_of_another_layout_are_not_read(pins: Path, make: Callable[..., Generation]) -> None:
    agent = make()
    maps = Pins(pins).previous / "1" / "maps"
    maps.mkdir(parents=True)
    for name, value in (("bindings", 200), ("arming", 4)):
        with bpf.create_map(bpf.MapType.HASH, 8, value, 4, name) as created:
            bpf.pin(created.fileno(), str(maps / name))
    taken, faults = take_over(Pins(pins).previous, agent.bindings)
    assert taken == 0
    assert "has keys of 8 and values of 200 bytes" in faults[0]
