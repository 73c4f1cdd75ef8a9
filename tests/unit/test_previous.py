# SPDX-License-Identifier: Apache-2.0
"""What is taken over of agents that crashed: directories with pins that stand for maps of dictionaries."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import pytest

from agent.kernel import bpf, previous
from agent.kernel.errors import KernelError
from agent.kernel.layout import (
    BINDING,
    CGROUP_KEY,
    DOORS,
    FLAG_POD,
    QUARANTINE,
    STATE_ARMED,
    STATE_PENDING,
    BindingRecord,
)
from agent.kernel.maps import Bindings
from agent.kernel.previous import calm_doors, find_left, iterate_quarantined, take_over
from agent.workload.identity import WORKLOAD_QUARANTINED, CgroupId
from rthook.bpf import BpfError, MapShape


@dataclass
class Pinned:
    """Stands for a map's descriptor, and for the map."""

    number: int
    shape: MapShape
    entries: dict[bytes, bytes] = field(default_factory=dict)

    def fileno(self) -> int:
        return self.number

    def __enter__(self) -> Pinned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Kernel:
    def __init__(self) -> None:
        self.maps: dict[Path, Pinned] = {}
        self.refused: dict[int, int] = {}

    def add(self, generation: Path, *, value: int = BINDING.size) -> None:
        (generation / "maps").mkdir(parents=True)
        shapes = {
            "bindings": MapShape(8, value, 64),
            "arming": MapShape(8, 4, 64),
            "doors": MapShape(4, DOORS.size, 1),
        }
        for name, shape in shapes.items():
            self.maps[generation / "maps" / name] = Pinned(len(self.maps), shape)
        self.maps[generation / "maps" / "doors"].entries[bytes(4)] = DOORS.pack(2, 1, 77, 8, 9, 1)

    def bind(self, generation: Path, cgroup: int, owner: int, init_pid: int = 0) -> None:
        state = STATE_PENDING if init_pid else STATE_ARMED
        record = BindingRecord(1, cgroup, owner, WORKLOAD_QUARANTINED, state, init_pid)
        self.maps[generation / "maps" / "bindings"].entries[CGROUP_KEY.pack(cgroup)] = record.pack()
        if init_pid:
            entries = self.maps[generation / "maps" / "arming"].entries
            entries[CGROUP_KEY.pack(cgroup)] = init_pid.to_bytes(4, "little")

    def open_pinned(self, path: os.PathLike[str]) -> Pinned:
        if Path(path) not in self.maps:
            raise KernelError(f"bpf(OBJ_GET {path})", 2)
        return self.maps[Path(path)]

    def _by(self, fd: int) -> Pinned:
        return next(one for one in self.maps.values() if one.number == fd)

    def read_shape(self, fd: int) -> MapShape:
        if fd in self.refused:
            raise BpfError("bpf(OBJ_GET_INFO_BY_FD)", self.refused[fd])
        return self._by(fd).shape

    def keys(self, fd: int, _size: int) -> list[bytes]:
        return list(self._by(fd).entries)

    def update(self, fd: int, key: bytes, value: bytes) -> None:
        self._by(fd).entries[key] = value

    def lookup(self, fd: int, key: bytes, size: int) -> bytes | None:
        assert size == self._by(fd).shape.value_size
        return self._by(fd).entries.get(key)


class Ours:
    """Stands for Bindings."""

    def __init__(self) -> None:
        self.quarantined: list[tuple[int, int]] = []
        self.bound = {77}
        self.fails = False

    def read(self, cgroup: CgroupId) -> BindingRecord | None:
        return BindingRecord(1, cgroup, cgroup, 1, STATE_ARMED, 0) if cgroup in self.bound else None

    def put_in_quarantine(self, cgroup: CgroupId, init_pid: int = 0) -> bool:
        if self.fails:
            raise KernelError("bpf(MAP_UPDATE_ELEM)", 7)
        if cgroup in self.bound:
            return False
        self.quarantined.append((cgroup, init_pid))
        return True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("open_pinned", "keys", "lookup", "update"):
        monkeypatch.setattr(bpf, name, getattr(made, name))
    monkeypatch.setattr(previous, "read_shape", made.read_shape)
    return made


def take(path: Path, ours: Any) -> tuple[int, tuple[str, ...]]:
    return take_over(path, cast(Bindings, ours))


def test_without_an_earlier_agent_there_is_nothing(tmp_path: Path) -> None:
    assert take(tmp_path / "podgate-previous", Ours()) == (0, ())


def test_only_quarantined_cgroups_are_given_with_who_holds_their_setup(kernel: Kernel, tmp_path: Path) -> None:
    kernel.add(tmp_path)
    kernel.bind(tmp_path, QUARANTINE, QUARANTINE)
    kernel.bind(tmp_path, 4, QUARANTINE)
    kernel.bind(tmp_path, 5, QUARANTINE, init_pid=500)
    kernel.bind(tmp_path, 6, 6)
    kernel.bind(tmp_path, 7, 6)
    assert list(iterate_quarantined(tmp_path)) == [(4, 0), (5, 500)]


def test_one_that_called_its_execve_has_no_setup_any_more(kernel: Kernel, tmp_path: Path) -> None:
    """The record's state is a hint: the entry in arming decides."""
    kernel.add(tmp_path)
    kernel.bind(tmp_path, 5, QUARANTINE, init_pid=500)
    kernel.maps[tmp_path / "maps" / "arming"].entries.clear()
    assert list(iterate_quarantined(tmp_path)) == [(5, 0)]


def test_all_generations_are_taken_over_and_each_cgroup_once(kernel: Kernel, tmp_path: Path) -> None:
    for name, cgroup in (("1", 4), ("2", 5), ("10", 77)):
        kernel.add(tmp_path / name)
        kernel.bind(tmp_path / name, cgroup, QUARANTINE)
    ours = Ours()
    assert take(tmp_path, ours) == (2, ())
    assert ours.quarantined == [(4, 0), (5, 0)]


def test_a_generation_that_cannot_be_read_is_told_and_keeps_no_other_from_it(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "1" / "maps").mkdir(parents=True)
    kernel.add(tmp_path / "2", value=BINDING.size + 8)  # of another version: its values do not fit into ours
    kernel.add(tmp_path / "3")
    kernel.add(tmp_path / "4")
    kernel.refused[kernel.maps[tmp_path / "3" / "maps" / "bindings"].number] = 1
    for name in ("2", "3", "4"):
        kernel.bind(tmp_path / name, int(name), QUARANTINE)
    ours = Ours()
    taken, faults = take(tmp_path, ours)
    assert (taken, ours.quarantined) == (1, [(4, 0)])
    assert "ENOENT" in faults[0]
    assert faults[1].endswith("has keys of 8 and values of 296 bytes")
    assert "EPERM" in faults[2]


def test_a_full_map_of_ours_is_told(kernel: Kernel, tmp_path: Path) -> None:
    kernel.add(tmp_path / "1")
    kernel.bind(tmp_path / "1", 4, QUARANTINE)
    ours = Ours()
    ours.fails = True
    taken, faults = take(tmp_path, ours)
    assert taken == 0
    assert "E2BIG" in faults[0]


def test_earlier_doors_only_look_on_from_now_on(tmp_path: Path, kernel: Kernel) -> None:
    """What is announced is announced to us; who is held still has its deadline and fallback."""
    kernel.add(tmp_path / "1")
    kernel.add(tmp_path / "2")
    kernel.maps[tmp_path / "2/maps/doors"].shape = MapShape(4, 8, 1)
    (fault,) = calm_doors(tmp_path)
    assert "values of 8 bytes" in fault
    doors = kernel.maps[tmp_path / "1/maps/doors"].entries[bytes(4)]
    assert DOORS.unpack(doors) == (0, 1, 77, 8, 9, 1)
    assert calm_doors(tmp_path / "none") == ()


def test_containers_that_only_earlier_rules_guard_are_found(tmp_path: Path, kernel: Kernel) -> None:
    """Not what is bound by us, nor what is below a container, nor a pod's own cgroup, nor who is in quarantine."""
    kernel.add(tmp_path / "1")
    for cgroup, owner in ((5, 5), (77, 77), (6, 5), (8, QUARANTINE), (QUARANTINE, QUARANTINE)):
        kernel.bind(tmp_path / "1", cgroup, owner)
    pod = BindingRecord(1, 9, 9, 3, STATE_ARMED, 0, FLAG_POD)
    kernel.maps[tmp_path / "1/maps/bindings"].entries[CGROUP_KEY.pack(9)] = pod.pack()
    (tmp_path / "2").mkdir()
    assert find_left(tmp_path, cast(Bindings, Ours())) == (5,)
