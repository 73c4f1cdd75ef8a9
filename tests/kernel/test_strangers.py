# SPDX-License-Identifier: Apache-2.0
"""Which cgroups the kernel's side takes for a container's when they are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.hooks.identify import parse_container_name
from agent.kernel.doors import DoorPolicy, Doors, NoticeKind, Treatment
from agent.workload.identity import CgroupId, WorkloadId
from agent.workload.operations import Binding
from tests.support.base_programs import Base, Sizes, attach_base, container_id
from tests.support.wait import wait_until
from tests.support.workload import Cgroup

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

RELEASE_S = 60.0  # as in test_bindings.py
ID = container_id()
CONTAINERS = (
    ID,
    f"cri-containerd-{ID}.scope",
    f"crio-{ID}.scope",
    f"libpod-{ID}.scope",
    f"crio-{ID}",
    f"{ID}.scope",
    f"docker-{'e' * 64}.scope",
    "e" * 64,
    f"{'x' * 55}-{ID}.scope",  # 126 characters, the longest that is read
)
OTHERS = (
    f"crio-conmon-{ID}.scope",
    f"libpod-conmon-{ID}.scope",
    f"crio-conmon-{ID}",
    ID[:-1],
    f"{ID}0",
    ID[:-1] + "g",
    "A" + ID[1:],
    f"cri-containerd-{ID}.slice",
    f"cri-containerd-{ID}.scope.scope",
    f"cri-containerd{ID}.scope",
    f"cri-containerd-{ID[:-1]}.scope",
    f"cri-containerd-{ID[:-1]}.scope-",
    "container",
    "kubepods.slice",
    "e",
    ".scope",
)


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with attach_base() as attached:
        yield attached


@pytest.fixture
def group(calls_program: Path) -> Iterator[Cgroup]:
    cgroup = Cgroup(calls_program)
    yield cgroup
    cgroup.remove()


@pytest.mark.parametrize("name", CONTAINERS)
def test_cgroup_with_a_containers_name_is_noted(base: Base, group: Cgroup, name: str) -> None:
    assert base.is_noted(group.child(name))
    assert not base.is_noted(group.path)


@pytest.mark.parametrize("name", OTHERS)
def test_cgroup_with_another_name_is_not_noted(base: Base, group: Cgroup, name: str) -> None:
    assert not base.is_noted(group.child(name))


@pytest.mark.parametrize("name", [*CONTAINERS, *OTHERS])
def test_agent_knows_containers_by_the_same_names(name: str) -> None:
    assert (parse_container_name(name) is not None) is (name in CONTAINERS)


def test_name_that_is_too_long_to_be_read_is_not_noted(base: Base, group: Cgroup) -> None:
    assert not base.is_noted(group.child(f"{'x' * 56}-{ID}.scope"))


def test_cruns_cgroup_below_a_containers_is_noted(base: Base, group: Cgroup) -> None:
    container = group.child(ID)
    assert base.is_noted(group.child(ID, "container"))
    assert [base.is_noted(group.child(ID, name)) for name in ("containers", "Container", "init")] == [False] * 3
    assert base.is_noted(container)


def bind(base: Base, path: Path, *, pod_level: bool = False) -> CgroupId:
    cgroup = CgroupId(path.stat().st_ino)
    base.bindings.bind(cgroup, Binding(0, WorkloadId(1), True, 0, pod_level))
    return cgroup


@pytest.mark.parametrize("name", [ID, f"cri-containerd-{ID}.scope", "container"])
def test_cgroup_below_a_bound_container_is_nested_and_not_noted(base: Base, group: Cgroup, name: str) -> None:
    owner = bind(base, group.path)
    child = group.child(name)
    assert not base.is_noted(child)
    record = base.bindings.read(CgroupId(child.stat().st_ino))
    assert record is not None
    assert record.owner == owner


def test_cgroup_below_a_quarantined_container_is_nested_and_not_noted(base: Base, group: Cgroup) -> None:
    base.bindings.put_in_quarantine(CgroupId(group.id))
    child = group.child(ID)
    assert not base.is_noted(child)
    record = base.bindings.read(CgroupId(child.stat().st_ino))
    assert record is not None
    assert record.quarantined


@pytest.mark.parametrize("name", [ID, f"crio-{ID}.scope"])
def test_cgroup_below_a_pods_own_is_noted_and_not_nested(base: Base, group: Cgroup, name: str) -> None:
    bind(base, group.path, pod_level=True)
    child = group.child(name)
    assert base.is_noted(child)
    assert base.bindings.read(CgroupId(child.stat().st_ino)) is None


def test_other_cgroup_below_a_pods_own_is_neither_noted_nor_nested(base: Base, group: Cgroup) -> None:
    bind(base, group.path, pod_level=True)
    child = group.child(f"crio-conmon-{ID}.scope")
    assert not base.is_noted(child)
    assert base.bindings.read(CgroupId(child.stat().st_ino)) is None


def test_cgroup_of_a_container_that_is_bound_is_noted_no_more(base: Base, group: Cgroup) -> None:
    """crun's below it, which was made before, neither."""
    container, inner = group.child(ID), group.child(ID, "container")
    assert base.is_noted(inner)
    owner = bind(base, container)
    assert not base.is_noted(container)
    assert base.bindings.inherit(owner, 1, container) == 1
    assert not base.is_noted(inner)


def test_cgroup_that_is_removed_is_forgotten(base: Base, group: Cgroup) -> None:
    container = group.child(ID)
    cgroup = container.stat().st_ino
    assert base.knows(cgroup)
    container.rmdir()
    wait_until(lambda: not base.knows(cgroup), RELEASE_S, "the removed cgroup to be forgotten")


def test_cgroup_that_cannot_be_noted_is_counted(base: Base, group: Cgroup) -> None:
    doors = Doors(base.maps, DoorPolicy())
    before = base.counter("unwatched")
    base.fill(doors, group.path)
    try:
        assert not base.is_noted(group.child(ID))
    finally:
        base.empty(doors)
    assert base.counter("unwatched") > before
    assert base.is_noted(group.child(f"crio-{ID}"))


def test_cgroup_is_told_of_only_where_somebody_may_be_held_in_it(base: Base, group: Cgroup) -> None:
    """What its container is can be asked before the first process is stopped."""
    reported = group.child(f"crio-{ID}")
    assert base.notices(reported) == []
    doors = Doors(base.maps, DoorPolicy(Treatment.HOLD))
    doors.beat()
    held = group.child(f"cri-containerd-{ID}.scope")
    group.child("another")
    doors.policy = DoorPolicy()
    doors.rest()
    (notice,) = base.notices(held)
    assert (notice.kind, notice.treatment) == (NoticeKind.CGROUP, Treatment.REPORT)
    assert (notice.above, notice.name) == (group.id, f"cri-containerd-{ID}.scope")
    assert (notice.pid, notice.parent, notice.comm) == (0, 0, "")
    assert base.notices(group.path / "another") == []


def test_notice_that_finds_no_room_is_counted(group: Cgroup) -> None:
    with attach_base(Sizes(notices=4096)) as base:
        doors = Doors(base.maps, DoorPolicy(Treatment.HOLD))
        doors.beat()
        paths = [group.child(container_id()) for _ in range(30)]
        doors.policy = DoorPolicy()
        doors.rest()
        told = sum(len(base.notices(path)) for path in paths)
        assert 0 < told < 30
        assert base.counter("notice_lost") >= 30 - told
        assert all(base.is_noted(path) for path in paths)
