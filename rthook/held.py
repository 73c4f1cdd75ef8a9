# SPDX-License-Identifier: Apache-2.0
"""Releasing processes that an agent stopped and does not release, because it is dead or hangs.

Theory of operation
    The kernel's side stops a process of a container that no hook announced, binds it to every policy, and puts it into
    the map `held`; the agent identifies the container and continues it. The agent's heartbeat is in the map `doors`.
    When that is stale, and a process has been held for the deadline that stands there, whoever runs may end the hold:
    the NRI plugin, the agent's event process, an agent that starts. Several may do so at once.

    A process is released when it is the one that was stopped (its start time), is stopped, and is in the cgroup that it
    was stopped in. It is named by a pidfd, which a recycled pid does not follow. What is found in another condition is
    left as it is, and told.
"""

import errno
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path

from rthook import bpf
from rthook.errors import HookError
from rthook.generations import iterate_generations
from rthook.process import NS_PER_S, ProcessError, read_cgroup_id, read_cgroup_path, read_stat

TGID = struct.Struct("<I")
CGROUP_KEY = struct.Struct("<Q")
DOORS = struct.Struct("<IIQQQQ")
HELD = struct.Struct("<QQQ")
BINDING_HEAD = struct.Struct("<QQ")
U64 = (1 << 64) - 1


class Fallback(IntEnum):
    """What becomes of a process that nobody identified: enum pg_fallback of bpf/maps/doors.h."""

    OPEN = 0
    STRICT = 1
    KILL = 2


class HeldError(HookError):
    """The maps of a generation are not what they should be: its directory, and why."""

    def __init__(self, where: Path, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Doors:
    """One generation's settings; all times in nanoseconds, the heartbeat's since boot."""

    fallback: Fallback
    heartbeat: int
    stale: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A stopped process: since when, and its start time, in nanoseconds since boot."""

    tgid: int
    cgroup_id: int
    since: int
    start: int


class Outcome(Enum):
    """What was done about a hold."""

    CONTINUED_UNGUARDED = "continued_unguarded"
    CONTINUED_GUARDED = "continued_guarded"
    KILLED = "killed"
    GONE = "gone"
    # Left as they are: the process is not stopped, or has left its cgroup.
    NOT_STOPPED = "not_stopped"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Release:
    """One hold whose time was over, and what was done about it."""

    generation: Path
    hold: Hold
    held_ns: int
    outcome: Outcome

    @property
    def is_done(self) -> bool:
        """False for one that is left as it is, and will be met again."""
        return self.outcome not in (Outcome.NOT_STOPPED, Outcome.MOVED)

    def __str__(self) -> str:
        where = f"{self.generation}: process {self.hold.tgid} in cgroup {self.hold.cgroup_id}"
        return f"{where}: {self.outcome.value}"


def parse_doors(value: bytes) -> Doors:
    """ValueError for a fallback that we do not know."""
    _treatment, fallback, heartbeat, stale, deadline, _reserved = DOORS.unpack(value)
    return Doors(Fallback(fallback), heartbeat, stale, deadline)


def is_stale(doors: Doors, now: int) -> bool:
    """Whether nobody keeps the agent's side; a heartbeat from the future, which no agent writes, counts as none."""
    return (now - doors.heartbeat) & U64 > doors.stale


def is_overdue(doors: Doors, hold: Hold, now: int) -> bool:
    """Whether the process has been held for as long as it may be."""
    return now - hold.since >= doors.deadline


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look at all generations led to; faults are what could not be looked at or ended, in words."""

    releases: tuple[Release, ...]
    faults: tuple[str, ...]

    @property
    def done(self) -> tuple[Release, ...]:
        """The holds that are over."""
        return tuple(release for release in self.releases if release.is_done)

    @property
    def problems(self) -> frozenset[str]:
        """The faults, and the holds that are left as they are; the next sweep meets them again."""
        return frozenset(self.faults) | {str(release) for release in self.releases if not release.is_done}


def release_all(generation: Path) -> Sweep:
    """Ends every hold of one generation, which is about to be taken down. It raises nothing."""
    releases: list[Release] = []
    faults: list[str] = []
    _sweep(generation, releases, faults, due=False)
    return Sweep(tuple(releases), tuple(faults))


def release_stale(pin_dir: Path) -> Sweep:
    """Ends the holds of all generations that are overdue and whose agent gives no sign of life. It raises nothing.

    The maps being absent is no fault, and one generation's does not keep the others from being swept.
    """
    releases: list[Release] = []
    faults: list[str] = []
    try:
        for generation in iterate_generations(pin_dir):
            _sweep(generation, releases, faults)
    except OSError as error:
        faults.append(f"{pin_dir}: earlier generations cannot be listed: {error.strerror}")
    return Sweep(tuple(releases), tuple(faults))


def _sweep(generation: Path, releases: list[Release], faults: list[str], *, due: bool = True) -> None:
    """due: only those whose time is over."""
    try:
        for result in _release_in(generation, due=due):
            if isinstance(result, Release):
                releases.append(result)
            else:
                faults.append(f"{generation}: {result}")
    except (HookError, OSError) as error:
        faults.append(f"{generation}: {error}")


def _release_in(generation: Path, *, due: bool) -> Iterator[Release | HookError | OSError]:
    """What became of each hold, or what kept it from being ended."""
    maps = generation / "maps"
    with _opened(maps / "doors", TGID.size, DOORS.size) as doors_map:
        if doors_map is None:
            return
        value = bpf.lookup(doors_map, TGID.pack(0), DOORS.size)
    # After the heartbeat was read: no beat can be later than this.
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    doors = _understand(maps, value)
    if due and not is_stale(doors, now):
        return
    with (
        _opened(maps / "held", TGID.size, HELD.size) as held_map,
        _opened(maps / "bindings", CGROUP_KEY.size, None) as bindings_map,
    ):
        if held_map is None or bindings_map is None:
            return
        for hold in _read_holds(held_map):
            if not due or is_overdue(doors, hold, now):
                try:
                    outcome = _end(hold, doors.fallback, held_map, bindings_map)
                except (HookError, OSError) as error:
                    yield error
                else:
                    yield Release(generation, hold, now - hold.since, outcome)


@contextmanager
def _opened(path: Path, key_size: int, value_size: int | None) -> Iterator[int | None]:
    """A map's descriptor, None when the map is not there; HeldError when it is not laid out as it should be.

    value_size None: no value is read.
    """
    try:
        fd = bpf.open_object(path)
    except bpf.BpfError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        yield None
        return
    try:
        shape = bpf.read_shape(fd)
        if shape.key_size != key_size or value_size not in (None, shape.value_size):
            raise HeldError(path, f"keys of {shape.key_size} and values of {shape.value_size} bytes")
        yield fd
    finally:
        os.close(fd)


def _understand(maps: Path, value: bytes | None) -> Doors:
    if value is None:
        raise HeldError(maps / "doors", "the map has no entry")
    try:
        return parse_doors(value)
    except ValueError as error:
        raise HeldError(maps / "doors", str(error)) from error


def _read_holds(held_map: int) -> list[Hold]:
    holds = []
    for key in bpf.read_keys(held_map, bpf.read_shape(held_map)):
        value = bpf.lookup(held_map, key, HELD.size)
        # None: somebody else has released it.
        if value is not None:
            holds.append(Hold(*TGID.unpack(key), *HELD.unpack(value)))
    return holds


def _end(hold: Hold, fallback: Fallback, held_map: int, bindings_map: int) -> Outcome:
    """Checks, acts and takes the entry out, in this order: whatever stops us in between is done again."""
    outcome = end_hold(hold, fallback, bindings_map)
    if outcome not in (Outcome.NOT_STOPPED, Outcome.MOVED):
        bpf.delete(held_map, TGID.pack(hold.tgid))
    return outcome


def end_hold(hold: Hold, fallback: Fallback, bindings_map: int) -> Outcome:
    """Do what the fallback says, if the process is the one that was stopped. bindings_map: descriptor of `bindings`."""
    try:
        pidfd = os.pidfd_open(hold.tgid)
    except ProcessLookupError:
        return Outcome.GONE
    try:
        if (refusal := _find_refusal(hold)) is not None:
            return refusal
        return _signal(pidfd, hold, fallback, bindings_map)
    except ProcessLookupError:
        return Outcome.GONE
    finally:
        os.close(pidfd)


def _find_refusal(hold: Hold) -> Outcome | None:
    """Why the process must not be touched, None when it is the stopped one."""
    directory = Path(f"/proc/{hold.tgid}")
    stat = read_stat(directory)
    if stat is None or stat.start != _to_ticks(hold.start):
        return Outcome.GONE
    states = _read_thread_states(directory)
    if not states:
        return Outcome.GONE
    stopped = [thread for thread, state in states.items() if state == "T"]
    if not stopped:
        return Outcome.NOT_STOPPED
    try:
        cgroup_id = read_cgroup_id(hold.tgid, read_cgroup_path(stopped[0]))
    except ProcessError:
        return Outcome.MOVED
    return None if cgroup_id == hold.cgroup_id else Outcome.MOVED


def _read_thread_states(directory: Path) -> dict[int, str]:
    """Of the threads that live, by thread id: the first one may have ended before the others, and moves no more."""
    try:
        stats = {int(thread.name): read_stat(thread) for thread in (directory / "task").iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {thread: stat.state for thread, stat in stats.items() if stat is not None and not stat.is_dead}


def _to_ticks(nanoseconds: int) -> int:
    """As /proc/PID/stat tells a start time: nsec_to_clock_t (kernel/time/time.c)."""
    return nanoseconds * os.sysconf("SC_CLK_TCK") // NS_PER_S


def _is_quarantined(bindings_map: int, cgroup_id: int) -> bool:
    """Whether nobody has identified it: then its record's owner, the second field, is no cgroup."""
    value = bpf.lookup(bindings_map, CGROUP_KEY.pack(cgroup_id), bpf.read_shape(bindings_map).value_size)
    return value is not None and BINDING_HEAD.unpack_from(value)[1] == U64


def _signal(pidfd: int, hold: Hold, fallback: Fallback, bindings_map: int) -> Outcome:
    if fallback is Fallback.KILL:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return Outcome.KILLED
    unguarded = fallback is Fallback.OPEN and _is_quarantined(bindings_map, hold.cgroup_id)
    if unguarded:
        bpf.delete(bindings_map, CGROUP_KEY.pack(hold.cgroup_id))
    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    return Outcome.CONTINUED_UNGUARDED if unguarded else Outcome.CONTINUED_GUARDED
