# SPDX-License-Identifier: Apache-2.0
"""The base programs without an agent: in force with maps of their own, of a size that the test says."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agent.events.ring import RingBuffer
from agent.kernel import bpf
from agent.kernel.base import BasePrograms
from agent.kernel.doors import DoorPolicy, Doors, Fallback, Notice, Treatment, parse_notice
from agent.kernel.errors import KernelError
from agent.kernel.headers import ensure_tree
from agent.kernel.layout import CGROUP_KEY, NOTICE_RING, STRANGER, map_specs
from agent.kernel.loader import Loader, LoaderLimits
from agent.kernel.maps import Bindings, Maps, possible_cpus, read_counters, read_errors
from agent.kernel.mounts import ensure_bpffs
from agent.kernel.pins import Pins
from agent.workload.identity import CgroupId
from tests.support.names import unique_name
from tests.support.wait import wait_until

LONG_S = 600.0  # no test takes so long
FIRST_JUNK = 1 << 62  # no cgroup of a test machine has such an id


def container_id() -> str:
    """64 hex digits that no other test uses."""
    return secrets.token_hex(32)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries the maps have."""

    bindings: int = 64
    strangers: int = 64
    held: int = 64
    notices: int = NOTICE_RING  # bytes


class Base:
    """The base programs' maps, and what the kernel told through them."""

    def __init__(self, maps: Maps, pins: Pins, sizes: Sizes) -> None:
        self.maps = maps
        self.pins = pins
        self.bindings = Bindings(maps)
        self.bindings.set_quarantine(0)
        self._room = sizes.strangers
        self._ring = RingBuffer(maps.fileno("notices"), sizes.notices)
        self._notices: list[Notice] = []

    def is_noted(self, path: Path) -> bool:
        """Whether a cgroup is taken for that of a container nobody has announced."""
        return self.knows(path.stat().st_ino)

    def knows(self, cgroup: int) -> bool:
        """The same of a cgroup that may be gone."""
        return CGROUP_KEY.pack(cgroup) in self._strangers()

    def execs(self, path: Path) -> int:
        """How many execve calls were counted in a cgroup that is noted."""
        key = CGROUP_KEY.pack(path.stat().st_ino)
        value = bpf.lookup(self.maps.fileno("strangers"), key, STRANGER.size)
        return STRANGER.unpack(value)[1] if value else 0

    def _strangers(self) -> list[bytes]:
        return bpf.keys(self.maps.fileno("strangers"), CGROUP_KEY.size)

    def notices(self, path: Path) -> list[Notice]:
        """What was told of one cgroup so far, the oldest first."""
        self._notices += map(parse_notice, self._ring.read(1 << 20))
        cgroup = path.stat().st_ino
        return [notice for notice in self._notices if notice.cgroup == cgroup]

    def counter(self, name: str) -> int:
        return read_counters(self.maps, possible_cpus())[name]

    def errors(self) -> list[tuple[str, int, int]]:
        return read_errors(self.maps)

    @contextmanager
    def treating(
        self, treatment: Treatment, *paths: Path, fallback: Fallback = Fallback.OPEN, alive: bool = True
    ) -> Iterator[Doors]:
        """A treatment of these cgroups and of no other: this machine has containers of others. alive: somebody says
        that whoever is held will be released. Whoever is held at the end is.
        """
        doors = Doors(self.maps, DoorPolicy())
        self.fill(doors, *paths)
        doors.policy = DoorPolicy(treatment, fallback, LONG_S if alive else 0.0, LONG_S)
        doors.beat()
        try:
            yield doors
        finally:
            doors.policy = DoorPolicy()
            doors.rest()
            for held in doors.held():
                doors.release(held)
            self.empty(doors)

    def fill(self, doors: Doors, *paths: Path) -> None:
        """Leaves room for no other cgroup than these."""
        own = {CGROUP_KEY.pack(path.stat().st_ino) for path in paths}
        wait_until(lambda: self._fill_once(doors, own), 10.0, "the map to be full of the test's own cgroups")

    def _fill_once(self, doors: Doors, own: set[bytes]) -> bool:
        junk = {CGROUP_KEY.pack(FIRST_JUNK + number) for number in range(self._room - len(own))}
        for key in set(self._strangers()) - own - junk:
            doors.forget(CgroupId(CGROUP_KEY.unpack(key)[0]))
        for key in (own | junk) - set(self._strangers()):
            # No room: another cgroup was faster, and goes in the next round.
            with suppress(KernelError):
                doors.watch(CgroupId(CGROUP_KEY.unpack(key)[0]))
        return set(self._strangers()) == own | junk

    def empty(self, doors: Doors) -> None:
        """Room for the cgroups of other tests."""
        for key in self._strangers():
            doors.forget(CgroupId(CGROUP_KEY.unpack(key)[0]))

    def close(self) -> None:
        self._ring.close()


@contextmanager
def attach_base(sizes: Sizes | None = None) -> Iterator[Base]:
    """The base programs in force."""
    sizes = sizes or Sizes()
    ensure_bpffs()
    pins = Pins(Path("/sys/fs/bpf") / unique_name("pin"))
    pins.prepare()
    try:
        entries = {"strangers": sizes.strangers, "held": sizes.held, "notices": sizes.notices}
        specs = (
            replace(each, entries=entries.get(each.name, each.entries)) for each in map_specs(4096, sizes.bindings)
        )
        maps = Maps.create(tuple(specs), pins.maps)
        loader = Loader(ensure_tree(), maps.descriptors(), LoaderLimits())
        programs = BasePrograms.attach(loader, pins)
        programs.offer_quarantine(pins)
        base = Base(maps, pins, sizes)
        try:
            yield base
        finally:
            base.close()
            programs.close()
            maps.close()
    finally:
        pins.release()
