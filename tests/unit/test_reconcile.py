# SPDX-License-Identifier: Apache-2.0
"""What runs and nobody announced, found in a tree of directories that stands for the cgroups'."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.cri.model import CriContainer, State
from agent.hooks import reconcile as module
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Gate, Start
from agent.hooks.identify import Found, Identifier
from agent.hooks.reconcile import (
    MAX_BELOW,
    Reconciler,
    is_populated,
    iterate_below,
    iterate_containers,
    tells_more,
)
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.doors import DoorPolicy, Doors, Fallback, Treatment
from agent.kernel.errors import CgroupError, KernelError
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, Door, PodUid, WorkloadId
from agent.workload.registry import Record
from tests.support.wait import wait_until

WAIT_S = 20.0


def id_of(number: int) -> ContainerId:
    return ContainerId(f"{number:064x}")


def found(number: int, **options: bool) -> Found:
    return Found(ContainerIdentity(id_of(number), "main", "shop", f"web-{number}", PodUid(f"u{number}")), **options)


@dataclass
class GateDouble:
    """Stands for Gate; fail: for a container, what its binding meets."""

    starts: list[Start] = field(default_factory=list)
    records: dict[int, Record] = field(default_factory=dict)
    in_quarantine: list[int] = field(default_factory=list)
    fail: dict[str, Exception] = field(default_factory=dict)

    def bind(self, start: Start) -> None:
        container = start.identity.container_id
        if container in self.fail:
            raise self.fail[container]
        self.starts.append(start)
        if start.cgroup:
            self.records[start.cgroup.id] = Record(start.identity, start.cgroup.id, WorkloadId(1), True, 0)

    def record_of(self, cgroup: CgroupId) -> Record | None:
        return self.records.get(cgroup)

    def record(self, container: ContainerId) -> Record | None:
        return next((one for one in self.containers() if one.identity.container_id == container), None)

    def containers(self) -> tuple[Record, ...]:
        return tuple(self.records.values())

    def knows(self, container: ContainerId) -> bool:
        return any(record.identity.container_id == container for record in self.records.values())

    def quarantined(self) -> list[int]:
        return self.in_quarantine

    def put_in_quarantine(self, cgroup: CgroupId) -> bool:
        self.in_quarantine.append(cgroup)
        return True


@dataclass
class Runtime:
    """Stands for Identifier."""

    answers: dict[str, Found | None] = field(default_factory=dict)
    listed: list[ContainerId] = field(default_factory=list)
    processes: dict[str, tuple[Found, int, str]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def identify(self, container: ContainerId, above: CgroupId) -> Found | None:
        self.asked.append((container, above))
        return self.answers.get(container)

    def running(self) -> tuple[CriContainer, ...]:
        return tuple(CriContainer(one, ContainerId("s"), "main", "", State.RUNNING, {}, {}) for one in self.listed)

    def process_of(self, container: ContainerId) -> tuple[Found, int, str] | None:
        return self.processes.get(container)


@dataclass
class FinderDouble:
    """Stands for CgroupFinder: where processes are."""

    processes: dict[int, ProcessCgroup] = field(default_factory=dict)

    def of_process(self, pid: int, _cgroups_path: str) -> ProcessCgroup:
        if pid not in self.processes:
            raise CgroupError(f"process {pid} is gone")
        return self.processes[pid]


class Node:
    def __init__(self, root: Path, policy: DoorPolicy) -> None:
        self.root = root
        self.gate, self.runtime, self.watched = GateDouble(), Runtime(), list[int]()
        self.reconciler = Reconciler(
            cast(Gate, self.gate),
            cast(Identifier, self.runtime),
            CgroupFinder(root),
            cast(Doors, self),
            policy,
            root,
        )

    def watch(self, cgroup: CgroupId) -> None:
        self.watched.append(cgroup)

    def make(self, path: str, *, populated: bool = True) -> int:
        """A cgroup's directory; gives its id."""
        directory = self.root / path
        directory.mkdir(parents=True)
        (directory / "cgroup.events").write_text(f"populated {int(populated)}\nfrozen 0\n")
        return directory.stat().st_ino

    def container(self, number: int, answer: Found | None, **options: bool) -> int:
        self.runtime.answers[id_of(number)] = answer
        return self.make(f"pods/pod{number}/crio-{id_of(number)}.scope", **options)

    def round(self, count: int = 1) -> None:
        for _ in range(count):
            self.reconciler.reconcile()

    def bound(self) -> list[int]:
        return [int(start.identity.container_id, 16) for start in self.gate.starts]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Node]:
    def build(treatment: Treatment = Treatment.REPORT, fallback: Fallback = Fallback.OPEN) -> Node:
        return Node(tmp_path, DoorPolicy(treatment, fallback))

    return build


@pytest.fixture
def node(make: Callable[..., Node]) -> Node:
    return make()


def test_a_container_that_runs_is_bound_where_it_is(node: Node) -> None:
    cgroup = node.container(4, found(4))
    node.round()
    place = ProcessCgroup(CgroupId(cgroup), f"/pods/pod4/crio-{id_of(4)}.scope", nested=True)
    assert node.gate.starts == [Start(found(4).identity, 0, "", False, Door.RECONCILE, place)]
    assert node.runtime.asked == [(id_of(4), (node.root / "pods/pod4").stat().st_ino)]
    assert node.reconciler.outcomes == {"bound": 1}
    node.round()
    assert len(node.gate.starts) == 1


def test_a_sandbox_is_bound_as_one(node: Node) -> None:
    node.container(4, found(4, sandbox=True))
    node.round()
    assert node.gate.starts[0].sandbox
    assert node.reconciler.outcomes == {"sandbox": 1}


def test_a_cgroup_without_processes_is_no_containers(node: Node) -> None:
    node.container(4, found(4), populated=False)
    node.round(3)
    assert node.runtime.asked == []


def test_what_is_inside_of_a_container_is_its_own_affair(node: Node) -> None:
    node.container(4, found(4))
    node.make(f"pods/pod4/crio-{id_of(4)}.scope/{id_of(5)}")
    node.make(f"pods/pod4/crio-conmon-{id_of(4)}.scope")
    node.round()
    assert [container for container, _ in node.runtime.asked] == [id_of(4)]


def test_a_container_that_is_being_made_is_left_to_its_hook(node: Node) -> None:
    """Its set-up would meet the policies."""
    node.container(4, found(4, created=True))
    node.round(3)
    assert node.bound() == []
    node.runtime.answers[id_of(4)] = found(4)
    node.round()
    assert node.bound() == [4]


@pytest.mark.parametrize("answer", [None, found(4, by_pod=True)], ids=["unknown", "by its pod"])
def test_what_the_runtime_does_not_know_is_met_twice(make: Callable[..., Node], answer: Found | None) -> None:
    """A sandbox is not known before it runs."""
    node = make(Treatment.STRICT)
    node.container(4, answer)
    node.round()
    assert (node.bound(), node.gate.in_quarantine, dict(node.reconciler.outcomes)) == ([], [], {})
    node.round()
    assert node.reconciler.outcomes == ({"bound": 1} if answer else {"unidentified": 1})


@pytest.mark.parametrize(
    ("treatment", "fallback", "quarantined", "watched"),
    [
        (Treatment.REPORT, Fallback.KILL, False, True),
        (Treatment.STRICT, Fallback.OPEN, True, False),
        (Treatment.HOLD, Fallback.OPEN, False, False),
        (Treatment.HOLD, Fallback.STRICT, True, False),
        (Treatment.HOLD, Fallback.KILL, True, False),
    ],
)
def test_one_that_nobody_knows_is_treated_as_configured_with_what_is_below_it(
    make: Callable[..., Node], treatment: Treatment, fallback: Fallback, quarantined: bool, watched: bool
) -> None:
    """A runtime may have its processes in a cgroup below."""
    node = make(treatment, fallback)
    own = node.container(4, None)
    inner = node.make(f"pods/pod4/crio-{id_of(4)}.scope/container")
    node.round(2)
    assert set(node.gate.in_quarantine) == ({own, inner} if quarantined else set())
    assert set(node.watched) == ({own, inner} if watched else set())


def test_cgroups_without_end_below_an_unknown_one_are_bounded(make: Callable[..., Node], monkeypatch: Any) -> None:
    assert MAX_BELOW == 1024
    monkeypatch.setattr(module, "MAX_BELOW", 3)
    node = make(Treatment.STRICT)
    own = node.container(4, None)
    for number in range(9):
        node.make(f"pods/pod4/crio-{id_of(4)}.scope/{number}")
    node.round(2)
    assert len(node.gate.in_quarantine) == 3
    assert own in node.gate.in_quarantine


def test_an_unknown_one_is_told_once_for_as_long_as_it_runs(node: Node) -> None:
    node.container(4, None)
    node.round(5)
    assert node.reconciler.outcomes == {"unidentified": 1}
    assert len(node.reconciler._told) == 1
    events = node.root / f"pods/pod4/crio-{id_of(4)}.scope/cgroup.events"
    events.write_text("populated 0\n")
    node.round()
    assert node.reconciler._told == set()


def test_a_quarantined_one_is_bound_as_what_it_is(make: Callable[..., Node]) -> None:
    node = make(Treatment.STRICT)
    node.gate.in_quarantine = [node.container(4, found(4))]
    node.round()
    assert node.bound() == [4]


@pytest.mark.parametrize("error", [HookError(Reason.CONFLICT, "no"), KernelError("map", 7), OSError(24, "files")])
def test_one_that_cannot_be_bound_keeps_no_other_from_it(node: Node, error: Exception) -> None:
    for number in (4, 5, 6):
        node.container(number, found(number))
        node.gate.fail[id_of(5)] = error
    node.runtime.listed = [id_of(7)]
    node.runtime.processes[id_of(7)] = (found(7), 70, "/pods/7")
    node.round()
    assert sorted(node.bound()) == [4, 6, 7]
    assert node.reconciler.outcomes["refused" if isinstance(error, HookError) else "failed"] == 1
    node.gate.fail.clear()
    node.round()
    assert 5 in node.bound()


def test_nobody_takes_a_running_container_out_of_its_policies(node: Node) -> None:
    """By making a cgroup that has its name, where two have it the one that is bound stays."""
    node.container(4, found(4))
    node.round()
    node.make(f"other/{id_of(4)}")
    node.round(3)
    assert node.bound() == [4]
    assert node.reconciler.outcomes == {"bound": 1, "elsewhere": 1}


def test_a_listed_container_that_nobody_knows_is_bound_by_its_process(node: Node) -> None:
    node.container(4, found(4))
    node.runtime.listed = [id_of(4), id_of(5), id_of(6), id_of(7)]
    node.runtime.processes[id_of(5)] = (found(5), 50, "/pods/5")
    node.runtime.processes[id_of(6)] = (found(6), 60, "")  # nothing says that the process is its
    node.round()
    assert node.gate.starts[1:] == [Start(found(5).identity, 50, "/pods/5", False, Door.RECONCILE)]


def known_by_its_pod(node: Node, finder: FinderDouble) -> tuple[Start, Start]:
    """The start by which container 4 is bound, and the one that completes it."""
    whole = found(4)
    cgroup = ProcessCgroup(CgroupId(40), "/pods/4")
    start = Start(replace(whole.identity, container_name=""), 44, "/pods/4", True, Door.HOLD, cgroup)
    node.gate.bind(start)
    node.runtime.listed = [id_of(4)]
    node.runtime.processes[id_of(4)] = (whole, 44, "/pods/4")
    finder.processes[44] = cgroup
    node.reconciler._finder = cast(CgroupFinder, finder)
    return start, Start(whole.identity, 44, "/pods/4", False, Door.RECONCILE, cgroup)


def test_a_container_that_is_known_by_its_pod_alone_gets_its_name(node: Node) -> None:
    start, complete = known_by_its_pod(node, FinderDouble())
    node.round(2)
    assert node.gate.starts == [start, complete]
    assert node.reconciler.outcomes == {"completed": 1}


@pytest.mark.parametrize("place", [None, ProcessCgroup(CgroupId(41), "/other/4")])
def test_a_container_that_is_known_stays_in_its_cgroup(node: Node, place: ProcessCgroup | None) -> None:
    """Its process has gone, or is in another cgroup of that name."""
    finder = FinderDouble()
    start, _ = known_by_its_pod(node, finder)
    finder.processes = {44: place} if place else {}
    node.round()
    assert (node.gate.starts, node.reconciler.outcomes) == ([start], {})


@pytest.mark.parametrize("answer", [None, (found(4), 44, "")])
def test_a_container_whose_process_is_not_told_stays_as_it_is(
    node: Node, answer: tuple[Found, int, str] | None
) -> None:
    start, _ = known_by_its_pod(node, FinderDouble())
    node.runtime.processes = {} if answer is None else {id_of(4): answer}
    node.round()
    assert node.gate.starts == [start]


@pytest.mark.parametrize(
    ("name", "image", "told", "more"),
    [
        ("main", "nginx:1", "nginx:1", False),
        ("main", "nginx:1", "", False),
        ("main", "nginx:1", "quay.io/other:2", False),
        ("main", "nginx:1", "sha256:0a", False),
        ("main", "sha256:0a", "nginx:1", True),
        ("main", "", "sha256:0a", True),
        ("main", "", "", False),
        ("", "nginx:1", "nginx:1", True),
    ],
)
def test_what_is_told_already_is_no_news(name: str, image: str, told: str, more: bool) -> None:
    known = replace(found(4).identity, container_name=name, image=image)
    listed = CriContainer(id_of(4), ContainerId("s"), "main", told, State.RUNNING, {}, {})
    assert tells_more(listed, known) is more
    assert not tells_more(replace(listed, name=""), replace(known, image=told or image))


def test_a_cgroup_that_goes_while_it_is_looked_at_is_left_out(node: Node, monkeypatch: Any) -> None:
    for number in (4, 5):
        node.container(number, found(number))
    scan: Callable[[str], Iterator[os.DirEntry[str]]] = os.scandir
    gone = iter([FileNotFoundError(errno.ENOENT, "gone"), OSError(errno.ENODEV, "gone")])

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("pod4"):
            raise next(gone)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for _ in range(2):
        assert [path.name for path in iterate_containers(node.root)] == [f"crio-{id_of(5)}.scope"]


def test_directories_that_cannot_be_read_are_not_taken_for_gone(node: Node, monkeypatch: Any) -> None:
    def scandir(_path: str) -> None:
        raise OSError(errno.EMFILE, "too many files")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OSError, match="too many files"):
        node.round()
    assert node.reconciler.runs == 0


def test_the_tree_is_walked_below_links_only(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert sorted(path.name for path in iterate_below(tmp_path / "a")) == ["a", "b"]
    assert list(iterate_containers(tmp_path)) == []
    assert not is_populated(tmp_path)


def test_rounds_come_by_themselves_and_at_once_when_they_are_wanted(
    make: Callable[..., Node], monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    node = make(Treatment.STRICT)
    node.container(4, None)
    node.reconciler.start()
    wait_until(lambda: node.reconciler.outcomes["unidentified"], WAIT_S, "the second look")
    runs = node.reconciler.runs
    node.reconciler.hurry()
    wait_until(lambda: node.reconciler.runs > runs, WAIT_S, "one more round")
    node.reconciler.stop()
    assert not node.reconciler._thread.is_alive()


def test_a_round_that_fails_is_not_the_last(make: Callable[..., Node], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    monkeypatch.setattr(module, "INTERVAL_S", 0.0)
    node, failures = make(), [KernelError("map", 5)]

    def quarantined() -> list[int]:
        if failures:
            raise failures.pop()
        return []

    monkeypatch.setattr(node.gate, "quarantined", quarantined)
    node.reconciler.start()
    wait_until(lambda: node.reconciler.runs, WAIT_S, "a round")
    node.reconciler.stop()


def test_stopping_does_not_wait_for_a_runtime_that_is_slow_with_each(
    make: Callable[..., Node], monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    node, asked, go = make(), threading.Event(), threading.Event()
    for number in range(4, 9):
        node.container(number, None)

    def identify(container: ContainerId, above: CgroupId) -> None:
        node.runtime.asked.append((container, above))
        asked.set()
        go.wait(WAIT_S)

    monkeypatch.setattr(node.runtime, "identify", identify)
    node.reconciler.start()
    assert asked.wait(WAIT_S)
    stopping = threading.Thread(target=node.reconciler.stop)
    stopping.start()
    wait_until(lambda: node.reconciler._stopping, WAIT_S, "the stop")
    go.set()
    stopping.join(WAIT_S)
    assert len(node.runtime.asked) == 1
    assert node.reconciler.runs == 0
