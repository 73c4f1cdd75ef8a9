# SPDX-License-Identifier: Apache-2.0
"""The gate against a kernel that is a dictionary: what is written, in which order, and what happens when it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from agent.hooks import gate as module
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Bound, Gate, Start
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.errors import CgroupError, KernelError
from agent.kernel.maps import Bindings
from agent.policy.model import LabelOperator, LabelSelector, Requirement
from agent.workload.identity import (
    CgroupId,
    ContainerId,
    ContainerIdentity,
    PodUid,
    PolicyId,
    WorkloadId,
    freeze_labels,
)
from agent.workload.operations import Binding
from agent.workload.registry import Record
from agent.workload.scopes import Scope

_ROOT = Path("/sys/fs/cgroup")
_DEADLINE_S = 3600.0
_WEB = Scope("shop", LabelSelector((Requirement("app", LabelOperator.IN, ("web",)),)))
_ALL = Scope()


@dataclass
class _Kernel:
    """Stands for Bindings. Every write is noted in log; fail: operations that are refused."""

    log: list[str]
    records: dict[int, Binding] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    nested: list[tuple[int, int, Path]] = field(default_factory=list)
    host: int = -1
    fail: set[str] = field(default_factory=set)

    def _note(self, operation: str, cgroup: int) -> None:
        if operation in self.fail:
            raise KernelError(operation, 12)
        self.log.append(f"{operation} {cgroup}")

    def bind(self, cgroup: CgroupId, binding: Binding) -> None:
        self._note("bind", cgroup)
        self.records[cgroup] = binding
        if not binding.armed:
            self.pending.add(cgroup)
        else:
            self.pending.discard(cgroup)

    def rewrite(self, cgroup: CgroupId, binding: Binding) -> bool:
        self._note("rewrite", cgroup)
        if cgroup in self.records:
            self.records[cgroup] = binding
        return cgroup in self.records

    def delete(self, cgroup: CgroupId) -> None:
        self._note("delete", cgroup)
        self.records.pop(cgroup, None)
        self.pending.discard(cgroup)

    def read(self, cgroup: CgroupId) -> Binding | None:
        return self.records.get(cgroup)

    def arm(self, cgroup: CgroupId) -> bool:
        self._note("arm", cgroup)
        self.pending.discard(cgroup)
        return True

    def is_pending(self, cgroup: CgroupId) -> bool:
        return cgroup in self.pending

    def set_host(self, policies: int) -> None:
        self._note("host", policies)
        self.host = policies

    def inherit(self, cgroup: CgroupId, workload: int, directory: Path) -> int:
        self._note("inherit", cgroup)
        self.nested.append((cgroup, workload, directory))
        return 1


@dataclass
class _Processes:
    """Stands for CgroupFinder: pid to cgroup."""

    cgroups: dict[int, ProcessCgroup] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def of_process(self, pid: int, _cgroups_path: str = "") -> ProcessCgroup:
        if pid not in self.cgroups:
            raise CgroupError(f"process {pid} is gone")
        return self.cgroups[pid]

    def still_there(self, pid: int, _cgroup: ProcessCgroup) -> bool:
        return pid not in self.ended


@dataclass
class _Sink:
    log: list[str]

    def workload_added(self, record: Record) -> None:
        self.log.append(f"added {record.workload}")

    def workload_removed(self, workload: WorkloadId) -> None:
        self.log.append(f"removed {workload}")


class _Node:
    """A gate; container n has the pid and the cgroup n unless it is said otherwise."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.kernel, self.processes, self.reports = _Kernel(self.log), _Processes(), list[tuple[str, str]]()
        bindings, finder = cast(Bindings, self.kernel), cast(CgroupFinder, self.processes)
        self.gate = Gate(bindings, finder, _ROOT, _Sink(self.log))
        self.log.clear()

    def start(
        self, number: int, held: bool = True, cgroup: int = 0, pod: str = "", nested: bool = False, **labels: str
    ) -> Start:
        cgroup = cgroup or number
        self.processes.cgroups[number] = ProcessCgroup(CgroupId(cgroup), f"/pods/{cgroup}", nested)
        uid = PodUid(pod or f"pod{number}")
        who = ContainerIdentity(ContainerId(f"c{number}"), "main", "shop", uid, uid, freeze_labels(labels))
        return Start(who, number, "", held)

    def bind(self, number: int, held: bool = True, **labels: str) -> Bound:
        return self.gate.bind(self.start(number, held, 0, "", False, **labels))

    def select(self, *added: tuple[int, Scope], removed: tuple[int, ...] = ()) -> int:
        return self.gate.select([(PolicyId(n), scope) for n, scope in added], map(PolicyId, removed))

    def sweep(self, deadline_s: float = _DEADLINE_S) -> None:
        self.gate.sweep(lambda event, record: self.reports.append((event, record.identity.container_id)), deadline_s)

    def refused(self, start: Start) -> Reason:
        with pytest.raises(HookError) as caught:
            self.gate.bind(start)
        return caught.value.reason

    def known(self) -> list[str]:
        return [record.identity.container_id for record in self.gate.containers()]

    def bits(self) -> dict[int, int]:
        return {cgroup: binding.policies for cgroup, binding in self.kernel.records.items()}


@pytest.fixture
def node() -> _Node:
    return _Node()


def test_a_new_gate_takes_the_hosts_policies_of_an_earlier_one_away(node: _Node) -> None:
    assert node.kernel.host == 0


def test_the_events_reader_hears_of_a_workload_before_the_kernel(node: _Node) -> None:
    bound = node.bind(7)
    assert node.log == ["added 1", "bind 7"]
    assert (bound.cgroup, bound.workload, bound.policies) == (7, 1, 0)
    assert bound.bind_us >= 0
    assert node.gate.outcomes == {"bound": 1}


def test_a_container_gets_the_policies_that_select_it(node: _Node) -> None:
    node.select((3, _WEB), (1023, _ALL))
    assert node.bind(1, app="web").policies == 2
    assert node.bind(2, app="db").policies == 1
    assert node.bits() == {1: 1 << 3 | 1 << 1023, 2: 1 << 1023}
    assert node.kernel.host == 1 << 1023


def test_a_held_container_is_pending_with_its_init_process(node: _Node) -> None:
    node.bind(7)
    assert node.kernel.records[7] == Binding(0, WorkloadId(1), False, 7)


def test_a_running_container_is_armed_and_its_nested_cgroups_follow(node: _Node) -> None:
    node.bind(7, held=False)
    assert node.kernel.records[7].armed
    assert node.kernel.nested == [(7, 1, _ROOT / "pods/7")]


def test_a_held_container_whose_process_is_nested_links_the_cgroups_below(node: _Node) -> None:
    node.gate.bind(node.start(7, nested=True))
    assert node.kernel.nested == [(7, 1, _ROOT / "pods/7")]


def test_a_process_without_a_cgroup_is_refused_and_nothing_written(node: _Node) -> None:
    assert node.refused(replace(node.start(7), pid=99)) is Reason.NO_CGROUP
    assert (node.log, node.known(), node.gate.outcomes) == ([], [], {"no_cgroup": 1})


def test_a_pod_in_two_namespaces_is_refused_and_nothing_written(node: _Node) -> None:
    node.gate.bind(node.start(1, pod="p"))
    node.log.clear()
    start = node.start(2, pod="p")
    assert node.refused(replace(start, identity=replace(start.identity, namespace="bank"))) is Reason.CONFLICT
    assert (node.log, node.known()) == ([], ["c1"])
    assert node.gate.outcomes == {"bound": 1, "conflict": 1}


def test_a_process_that_ended_while_it_was_held_leaves_nothing_bound(node: _Node) -> None:
    node.processes.ended.add(7)
    assert node.refused(node.start(7)) is Reason.PROCESS_GONE
    assert node.log == ["added 1", "bind 7", "delete 7", "removed 1"]
    assert (node.known(), node.kernel.records, node.gate.outcomes) == ([], {}, {"process_gone": 1})


def test_a_running_container_is_not_asked_for_its_init_process(node: _Node) -> None:
    node.processes.ended.add(7)
    node.bind(7, held=False)
    assert node.known() == ["c7"]


def test_a_kernel_that_refuses_leaves_the_container_unknown(node: _Node) -> None:
    node.kernel.fail = {"bind"}
    assert node.refused(node.start(7)) is Reason.KERNEL
    assert node.log == ["added 1", "delete 7", "removed 1"]
    assert (node.known(), node.gate.outcomes) == ([], {"kernel": 1})
    node.kernel.fail = set()
    assert node.bind(7).workload == 2  # an id is never given out twice


def test_nested_cgroups_that_cannot_be_linked_are_tried_again(node: _Node) -> None:
    node.kernel.fail = {"inherit"}
    node.bind(7, held=False)
    assert node.gate.outcomes == {"bound": 1, "nested_failed": 1}
    node.sweep()
    node.kernel.fail = set()
    node.sweep()
    assert node.kernel.nested == [(7, 1, _ROOT / "pods/7")]


def test_nested_cgroups_can_be_left_for_later(node: _Node) -> None:
    node.gate.bind(node.start(7, held=False), nested=False)
    assert node.kernel.nested == []
    node.gate.link_nested()
    assert node.kernel.nested == [(7, 1, _ROOT / "pods/7")]


def test_a_container_announced_since_the_mark_is_not_forgotten(node: _Node) -> None:
    node.bind(1)
    mark = node.gate.mark()
    node.bind(2)
    assert node.gate.retain([], mark) == 1
    assert node.known() == ["c2"]


def test_a_known_container_that_cannot_be_written_keeps_its_record(node: _Node) -> None:
    node.bind(7, held=False)
    node.kernel.fail = {"bind"}
    assert node.refused(node.start(7, held=False)) is Reason.KERNEL
    assert (node.known(), set(node.kernel.records)) == (["c7"], {7})
    node.kernel.fail = set()
    node.log.clear()
    node.sweep()
    assert "rewrite 7" in node.log


def test_a_container_that_is_announced_again_keeps_its_workload(node: _Node) -> None:
    assert node.bind(7).workload == node.bind(7).workload == 1
    assert node.log == ["added 1", "bind 7", "added 1", "bind 7"]


def test_a_container_that_moved_leaves_its_old_cgroup_after_it_has_the_new(node: _Node) -> None:
    node.bind(7)
    node.log.clear()
    assert node.gate.bind(node.start(7, cgroup=8)).workload == 1
    assert node.log == ["added 1", "bind 8", "delete 7"]
    assert node.bits() == {8: 0}


def test_a_container_in_anothers_cgroup_displaces_it(node: _Node) -> None:
    node.bind(1)
    node.log.clear()
    node.gate.bind(node.start(2, cgroup=1))
    assert node.log == ["added 2", "removed 1", "bind 1"]
    assert node.known() == ["c2"]
    assert node.kernel.records[1].workload == 2


def test_new_labels_of_a_pod_reach_its_other_containers(node: _Node) -> None:
    node.select((5, _WEB))
    node.gate.bind(node.start(1, pod="p", app="db"))
    node.gate.bind(node.start(2, pod="p", app="web"))
    assert node.bits() == {1: 1 << 5, 2: 1 << 5}


def test_unbinding_says_whether_it_was_bound(node: _Node) -> None:
    node.bind(7)
    assert node.gate.unbind(ContainerId("c7"))
    assert not node.gate.unbind(ContainerId("c7"))
    assert node.log[2:] == ["delete 7", "removed 1"]


def test_a_full_list_forgets_the_others(node: _Node) -> None:
    for number in (1, 2, 3):
        node.bind(number)
    assert not node.gate.synchronized
    assert node.gate.retain([ContainerId("c2"), ContainerId("c9")], node.gate.mark()) == 2
    assert (node.known(), set(node.kernel.records), node.gate.synchronized) == (["c2"], {2}, True)


def test_a_policy_is_put_in_force_and_another_ended_in_one_write_each(node: _Node) -> None:
    node.bind(1, app="web")
    node.bind(2, app="db")
    assert node.select((1, _WEB), (2, _ALL)) == 2
    node.log.clear()
    assert node.select((4, _WEB), removed=(1, 2)) == 2
    assert node.log == ["host 0", "rewrite 1", "rewrite 2"]
    assert node.bits() == {1: 1 << 4, 2: 0}


def test_the_hosts_policies_are_written_only_when_they_change(node: _Node) -> None:
    node.select((1, _WEB))
    assert node.log == []
    node.select((2, _ALL))
    assert node.log == ["host 4"]


def test_a_policy_counts_the_containers_that_it_selects(node: _Node) -> None:
    node.select((1, _WEB), (2, _ALL))
    for number in range(3):
        node.bind(number + 1, app="web" if number else "db")
    assert [node.gate.count(PolicyId(n)) for n in (1, 2, 3)] == [2, 3, 0]


class _Lock:
    """Stands for the gate's: each time that it is free again, the next of what waits for it gets it."""

    def __init__(self, *waiting: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._waiting = list(waiting)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._waiting:
            self._waiting.pop(0)()


def test_a_rewrite_lets_containers_come_and_go_between_its_chunks(node: _Node) -> None:
    """One that goes is not written back, one that comes has the new bits."""
    count = 2 * module.CHUNK + 5
    for number in range(1, count + 1):
        node.bind(number, app="web")
    fresh = node.start(1000, app="web")
    node.log.clear()

    def change() -> None:
        assert len(node.log) == module.CHUNK
        node.gate.unbind(ContainerId(f"c{count}"))
        node.gate.bind(fresh)

    node.gate._lock = _Lock(lambda: None, change)  # type: ignore[assignment]
    assert node.select((9, _WEB)) == count - 1
    assert f"rewrite {count}" not in node.log
    assert node.bits() == dict.fromkeys([*range(1, count), 1000], 1 << 9)


def test_a_container_that_the_kernel_removed_is_not_written_back(node: _Node) -> None:
    node.bind(1)
    node.bind(2)
    node.kernel.records.pop(1)
    assert node.select((1, _ALL)) == 1
    assert set(node.kernel.records) == {2}


def test_the_sweep_forgets_what_the_kernel_removed(node: _Node) -> None:
    node.bind(1)
    node.bind(2)
    node.kernel.records.pop(1)
    node.sweep()
    assert (node.known(), node.reports) == (["c2"], [("cgroup_removed", "c1")])
    assert node.log[-1] == "removed 1"


def test_the_sweep_notes_what_the_kernel_armed(node: _Node) -> None:
    node.bind(1)
    node.sweep()
    assert not node.gate.containers()[0].armed
    node.kernel.pending.clear()
    node.sweep()
    assert node.gate.containers()[0].armed
    assert (node.reports, "arm 1" in node.log) == ([], False)


def test_the_sweep_arms_what_stays_pending_beyond_the_deadline(node: _Node) -> None:
    node.bind(1)
    node.sweep(0.0)
    assert (node.reports, node.gate.outcomes["armed_late"]) == ([("armed_late", "c1")], 1)
    assert node.kernel.pending == set()
    assert node.gate.containers()[0].armed
    node.sweep(0.0)
    assert len(node.reports) == 1


def test_a_container_that_is_announced_again_does_not_get_more_time(
    node: _Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    node.bind(1)
    now[0] = 109.0
    node.bind(1)
    now[0] = 110.5
    node.sweep(10.0)
    assert node.reports == [("armed_late", "c1")]


def test_the_sweep_links_nested_cgroups_of_a_running_container_once_more(node: _Node) -> None:
    """Some came into being after the first look and before the kernel's record."""
    node.bind(1, held=False)
    node.bind(2, held=False)
    node.gate.unbind(ContainerId("c2"))
    node.kernel.nested.clear()
    node.sweep()
    assert node.kernel.nested == [(1, 1, _ROOT / "pods/1")]
    node.sweep()
    assert len(node.kernel.nested) == 1


def test_a_container_that_changes_while_the_sweep_looks_is_left_to_the_next(node: _Node) -> None:
    for number in range(1, module.CHUNK + 2):
        node.bind(number)
    node.kernel.pending.discard(1)
    stale = node.gate.containers()
    node.gate.unbind(ContainerId(f"c{module.CHUNK + 1}"))
    node.gate.containers = lambda: stale  # type: ignore[method-assign]
    node.sweep()
    assert node.reports == []


def test_binds_and_selections_from_many_threads_end_in_the_right_bits(node: _Node) -> None:
    starts = [node.start(n, app="web" if n % 2 else "db") for n in range(1, 201)]
    failed: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    def bind(part: list[Start]) -> None:
        for start in part:
            node.gate.bind(start)

    def churn(first: int) -> None:
        for number in range(first, first + 30):
            node.select((number, _WEB if number % 2 else _ALL), removed=(number - 1,) if number > first else ())

    works: list[Callable[[], object]] = [lambda n=n: bind(starts[n::4]) for n in range(4)]  # type: ignore[misc]
    works += [lambda: churn(100), lambda: churn(200)]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert failed == []
    # The last of each churn is left: 129 and 229, both odd, for web only.
    left = 1 << 129 | 1 << 229
    assert node.bits() == {n: left if n % 2 else 0 for n in range(1, 201)}
    assert node.kernel.host == 0


def test_a_sibling_that_cannot_be_written_does_not_stop_a_start(node: _Node) -> None:
    """It is written with the next housekeeping."""
    node.select((1, _WEB))
    node.gate.bind(node.start(1, pod="shared", app="db"))
    node.kernel.fail = {"rewrite"}
    node.gate.bind(node.start(2, pod="shared", app="web"))
    assert (node.gate.outcomes, node.bits()) == ({"bound": 2, "not_written": 1}, {1: 0, 2: 2})
    node.kernel.fail = set()
    node.sweep()
    assert node.bits() == {1: 2, 2: 2}
