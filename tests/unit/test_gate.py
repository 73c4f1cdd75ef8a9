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
from agent.hooks.gate import QUARANTINED, Bound, Gate, Start
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.errors import CgroupError, KernelError
from agent.kernel.layout import STATE_ARMED, BindingRecord
from agent.kernel.maps import Bindings
from agent.policy.model import LabelOperator, LabelSelector, Requirement
from agent.workload.identity import (
    WORKLOAD_QUARANTINED,
    CgroupId,
    ContainerId,
    ContainerIdentity,
    Door,
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
_MAIN = Scope(containers=LabelSelector((Requirement("name", LabelOperator.IN, ("main",)),)))
_ALL = Scope()


@dataclass
class _Kernel:
    """Stands for Bindings. Every write is noted in log; fail: operations that are refused."""

    log: list[str]
    records: dict[int, Binding] = field(default_factory=dict)
    pending: dict[int, int] = field(default_factory=dict)
    nested: list[tuple[int, int, Path]] = field(default_factory=list)
    host: int = -1
    quarantine: int = -1
    fail: set[str] = field(default_factory=set)

    def _note(self, operation: str, cgroup: int) -> None:
        if operation in self.fail:
            raise KernelError(operation, 12)
        self.log.append(f"{operation} {cgroup}")

    def bind(self, cgroup: CgroupId, binding: Binding) -> None:
        self._note("bind", cgroup)
        self.records[cgroup] = binding
        if not binding.armed:
            self.pending[cgroup] = binding.init_pid
        else:
            self.pending.pop(cgroup, None)

    def rewrite(self, cgroup: CgroupId, binding: Binding) -> bool:
        self._note("rewrite", cgroup)
        if cgroup in self.records:
            self.records[cgroup] = binding
        return cgroup in self.records

    def delete(self, cgroup: CgroupId) -> None:
        self._note("delete", cgroup)
        self.records.pop(cgroup, None)
        self.pending.pop(cgroup, None)

    def read(self, cgroup: CgroupId) -> BindingRecord | None:
        """One below another, by its number's tens, names that as its owner."""
        owner = cgroup if cgroup in self.records else cgroup // 10
        if owner not in self.records:
            return None
        binding = self.records[owner]
        return BindingRecord(binding.policies, cgroup, owner, binding.workload, STATE_ARMED, binding.init_pid)

    def arm(self, cgroup: CgroupId) -> bool:
        self._note("arm", cgroup)
        return self.pending.pop(cgroup, 0) != 0

    def is_pending(self, cgroup: CgroupId) -> bool:
        return cgroup in self.pending

    def pending_pid(self, cgroup: CgroupId) -> int:
        return self.pending.get(cgroup, 0)

    def set_host(self, policies: int) -> None:
        self._note("host", policies)
        self.host = policies

    def set_quarantine(self, policies: int) -> None:
        if "quarantine" in self.fail:
            raise KernelError("quarantine", 12)
        self.quarantine = policies

    def inherit(self, cgroup: CgroupId, workload: int, directory: Path) -> int:
        self._note("inherit", cgroup)
        self.nested.append((cgroup, workload, directory))
        return 1


@dataclass
class _Processes:
    """Stands for CgroupFinder: pid to cgroup."""

    cgroups: dict[int, ProcessCgroup] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    directories: dict[str, int] = field(default_factory=dict)
    switches: dict[int, int] = field(default_factory=dict)

    def of_process(self, pid: int, _cgroups_path: str = "") -> ProcessCgroup:
        if pid not in self.cgroups:
            raise CgroupError(f"process {pid} is gone")
        return self.cgroups[pid]

    def still_there(self, pid: int, _cgroup: ProcessCgroup) -> bool:
        return pid not in self.ended

    def of_any(self, pid: int) -> ProcessCgroup:
        return self.of_process(pid)

    def id_of(self, path: str) -> CgroupId:
        if path not in self.directories:
            raise CgroupError(f"cgroup {path} is not below {_ROOT}")
        return CgroupId(self.directories[path])

    def progress(self, pid: int) -> tuple[int, ...] | None:
        return None if pid in self.ended else (self.switches.get(pid, 0),)


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

    def sandbox(self, number: int, directory: str, parent: str | None = None) -> Start:
        """A pause container's start below a directory that has the number's hundredfold; parent: what is said of it."""
        self.processes.directories.setdefault(directory, 100 * number)
        cgroup = ProcessCgroup(CgroupId(number), f"{directory}/{number}")
        return replace(
            self.start(number), cgroup=cgroup, sandbox=True, cgroup_parent=directory if parent is None else parent
        )

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
    assert node.kernel.pending == {}
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
    node.kernel.pending.pop(1)
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


def test_a_sandbox_binds_its_pods_own_cgroup_too(node: _Node) -> None:
    node.select((4, _WEB), (5, _ALL))
    start = node.sandbox(1, "/kube/pod1")
    assert (
        node.gate.bind(replace(start, identity=replace(start.identity, labels=freeze_labels({"app": "web"})))).cgroup
        == 1
    )
    assert node.bits() == {1: 1 << 4 | 1 << 5, 100: 1 << 4 | 1 << 5}
    assert [(each.pod_level, each.armed) for each in node.kernel.records.values()] == [(False, False), (True, True)]
    assert node.known() == ["c1", "pod:c1"]
    pod = node.gate.pod_at(CgroupId(100))
    assert pod is not None
    assert (pod.identity.pod_name, pod.identity.container_name, pod.cgroup) == ("pod1", "", 100)
    assert node.gate.pod_at(CgroupId(1)) is None
    assert (node.kernel.nested, node.gate.starts) == ([], {})


def test_a_pods_own_cgroup_is_no_container_that_has_a_name(node: _Node) -> None:
    node.select((4, _MAIN))
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    node.gate.bind(node.start(2, pod="pod1"))
    assert node.bits() == {1: 1 << 4, 100: 0, 2: 1 << 4}
    pod = node.gate.pod_at(CgroupId(100))
    assert pod is not None
    assert pod.identity.sandbox


def test_a_policy_for_the_host_is_written_for_the_host(node: _Node) -> None:
    node.bind(1)
    assert node.select((3, Scope(host=True)), (4, _MAIN)) == 1
    assert (node.kernel.host, node.kernel.quarantine, node.bits()) == (1 << 3, 3 << 3, {1: 1 << 4})
    node.select(removed=(3,))
    assert (node.kernel.host, node.kernel.quarantine) == (0, 1 << 4)


@pytest.mark.parametrize("parent", ["", "/kube/other", "pod"])
def test_a_cgroup_that_the_runtime_does_not_call_the_pods_is_not_bound(node: _Node, parent: str) -> None:
    node.gate.bind(node.sandbox(1, "/kube/pod1", parent))
    assert (node.known(), set(node.kernel.records)) == (["c1"], {1})


def test_a_container_does_not_bind_its_pods_cgroup(node: _Node) -> None:
    node.gate.bind(replace(node.sandbox(1, "/kube/pod1"), sandbox=False))
    assert (node.known(), node.gate.starts) == (["c1"], {Door.NRI: 1})


def test_pods_that_share_a_cgroup_have_none_of_their_own(node: _Node) -> None:
    node.gate.bind(node.sandbox(1, "/kube"))
    assert node.known() == ["c1", "pod:c1"]
    node.gate.bind(node.sandbox(2, "/kube"))
    assert (node.known(), set(node.kernel.records)) == (["c1", "c2"], {1, 2})
    node.gate.unbind(ContainerId("c1"))
    node.gate.unbind(ContainerId("c2"))
    node.gate.bind(node.sandbox(3, "/kube"))
    assert (node.known(), set(node.kernel.records)) == (["c3"], {3})


def test_a_sandbox_that_is_announced_again_keeps_its_pods_cgroup(node: _Node) -> None:
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    assert node.known() == ["c1", "pod:c1"]


def test_a_pods_cgroup_that_is_not_bound_does_not_refuse_its_sandbox(node: _Node) -> None:
    start = node.sandbox(1, "/kube/pod1")
    node.processes.directories.clear()
    assert node.gate.bind(start).cgroup == 1
    assert (node.known(), node.gate.outcomes) == (["c1"], {"bound": 1, "pod_failed": 1})


def test_unbinding_a_sandbox_unbinds_its_pods_cgroup(node: _Node) -> None:
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    assert node.gate.unbind(ContainerId("c1"))
    assert (node.known(), node.kernel.records) == ([], {})


def test_a_sandbox_that_the_kernel_removed_takes_its_pods_cgroup_along(node: _Node) -> None:
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    node.kernel.records.pop(1)
    node.sweep()
    assert (node.known(), node.kernel.records) == ([], {})


def test_a_full_list_that_names_a_sandbox_keeps_its_pods_cgroup(node: _Node) -> None:
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    node.gate.bind(node.sandbox(2, "/kube/pod2"))
    assert node.gate.retain([ContainerId("c1")], node.gate.mark()) == 1
    assert (node.known(), set(node.kernel.records)) == (["c1", "pod:c1"], {1, 100})


def test_a_full_list_of_one_runtime_keeps_what_others_told_of(node: _Node) -> None:
    for number, door in enumerate(Door, 1):
        node.gate.bind(replace(node.start(number), door=door))
    assert node.gate.retain([], node.gate.mark()) == 1
    assert node.known() == [f"c{number}" for number, door in enumerate(Door, 1) if door is not Door.NRI]
    assert node.gate.starts == dict.fromkeys(Door, 1)


def test_a_container_that_two_tell_of_is_started_once_and_the_last_ones(node: _Node) -> None:
    node.gate.bind(replace(node.start(1), door=Door.OCI))
    node.gate.bind(replace(node.start(1), door=Door.NRI))
    assert node.gate.starts == {Door.OCI: 1}
    assert node.gate.retain([], node.gate.mark()) == 1


def test_every_policy_guards_the_quarantined(node: _Node) -> None:
    assert node.kernel.quarantine == -1, "the maps' own to begin with"
    node.select((3, _WEB), (1023, _ALL), (7, Scope("bank")))
    assert node.kernel.quarantine == 1 << 3 | 1 << 7 | 1 << 1023
    node.select((8, _WEB), removed=(3, 1023))
    assert node.kernel.quarantine == 1 << 7 | 1 << 8
    node.select(removed=(7, 8))
    assert node.kernel.quarantine == 0


def test_one_that_is_said_to_run_and_has_not_called_execve_stays_pending(node: _Node) -> None:
    """A hook that put it into quarantine has let it go a moment ago."""
    node.kernel.pending[7] = 7
    node.bind(7, held=False)
    assert not node.kernel.records[7].armed
    assert node.kernel.pending == {7: 7}
    assert not node.gate.containers()[0].armed
    node.kernel.pending.clear()
    node.sweep()
    assert node.gate.containers()[0].armed
    assert node.reports == []


def test_one_that_runs_does_not_wait_for_another_process(node: _Node) -> None:
    node.kernel.pending[7] = 8
    node.bind(7, held=False)
    assert node.kernel.records[7].armed
    assert node.kernel.pending == {}


def test_the_time_of_one_that_was_found_pending_is_limited_too(node: _Node) -> None:
    node.kernel.pending[7] = 7
    node.bind(7, held=False)
    node.sweep(0.0)
    assert (node.reports, node.kernel.pending) == ([("armed_late", "c7")], {})


@pytest.mark.parametrize("door", [Door.OCI, Door.UPSTREAM])
def test_a_container_that_is_created_waits_for_its_start_as_long_as_it_does_nothing(node: _Node, door: Door) -> None:
    node.gate.bind(replace(node.start(1), door=door))
    node.sweep()
    for _ in range(3):
        node.sweep(0.0)
    assert (node.reports, node.kernel.pending) == ([], {1: 1})
    node.processes.switches[1] = 1
    node.sweep(0.0)
    assert (node.reports, node.kernel.pending) == ([("armed_late", "c1")], {})


@pytest.mark.parametrize("door", [Door.NRI, Door.HOLD, Door.RECONCILE])
def test_others_wait_no_longer_whatever_they_do(node: _Node, door: Door) -> None:
    node.gate.bind(replace(node.start(1), door=door))
    node.sweep()
    node.sweep(0.0)
    assert node.reports == [("armed_late", "c1")]


def test_what_a_created_container_does_within_the_deadline_counts_as_its_setup(node: _Node) -> None:
    node.gate.bind(replace(node.start(1), door=Door.OCI))
    for count in range(4):
        node.processes.switches[1] = count
        node.sweep()
    node.sweep(0.0)
    assert (node.reports, node.kernel.pending) == ([], {1: 1})


def test_a_created_container_whose_process_went_is_waited_for_no_longer(node: _Node) -> None:
    node.gate.bind(replace(node.start(1), door=Door.OCI))
    node.sweep()
    node.processes.ended.add(1)
    node.sweep(0.0)
    assert node.reports == [("armed_late", "c1")]


def test_a_start_that_knows_its_cgroup_is_not_asked_for_its_process(node: _Node) -> None:
    start = replace(node.start(7), cgroup=ProcessCgroup(CgroupId(70), "/other/70"), pid=99)
    assert node.gate.bind(start).cgroup == 70


def test_whoever_waits_for_a_cgroup_hears_of_its_binding(node: _Node) -> None:
    heard: list[tuple[int, bool]] = []
    node.gate.on_bound = lambda cgroup: heard.append((cgroup, cgroup in node.kernel.records))
    node.bind(7)
    node.kernel.fail = {"bind"}
    node.refused(node.start(8))
    assert heard == [(7, True)]


def test_a_cgroup_leads_to_its_container(node: _Node) -> None:
    node.bind(7)
    for cgroup in (7, 71):
        record = node.gate.record_of(CgroupId(cgroup))
        assert record is not None
        assert record.identity.container_id == "c7"
    assert node.gate.record_of(CgroupId(8)) is None
    assert (node.gate.knows(ContainerId("c7")), node.gate.knows(ContainerId("c8"))) == (True, False)


def test_a_process_is_of_its_containers_namespace(node: _Node) -> None:
    node.bind(7)
    node.start(9, cgroup=71)
    node.start(10, cgroup=8)
    node.processes.directories["/pods"] = 6
    assert [node.gate.namespace_of(pid) for pid in (7, 9, 10)] == ["shop", "shop", None]
    with pytest.raises(CgroupError, match="process 11 is gone"):
        node.gate.namespace_of(11)


def test_a_process_in_a_cgroup_without_a_record_is_of_the_container_above(node: _Node) -> None:
    node.bind(7)
    node.start(9, cgroup=8)
    node.processes.cgroups[9] = ProcessCgroup(CgroupId(8), "/pods/7/below/deeper")
    node.processes.directories |= {"/pods": 6, "/pods/7": 7, "/pods/7/below": 9}
    assert node.gate.namespace_of(9) == "shop"


def test_a_container_runs_once_its_entrypoint_was_called(node: _Node) -> None:
    node.bind(7)
    assert node.gate.running_in(7) is None
    node.kernel.pending.clear()
    assert node.gate.running_in(7) == "shop"
    node.start(9, cgroup=8)
    node.processes.directories["/pods"] = 6
    assert node.gate.running_in(9) is None
    node.kernel.records[8] = Binding(0, WorkloadId(WORKLOAD_QUARANTINED), True, 0)
    assert node.gate.running_in(9) == QUARANTINED


def test_an_annotation_moves_no_container_that_lives(node: _Node) -> None:
    """Nor does it take a cgroup of one, or change the labels of a pod that another container is in."""
    node.gate.bind(node.start(1, pod="p", app="web"))
    told = replace(node.start(2, pod="p", app="other"), door=Door.OCI)
    node.gate.bind(told)
    assert {record.identity.labels for record in node.gate.containers()} == {freeze_labels({"app": "web"})}
    moved = replace(told, identity=replace(told.identity, container_id=ContainerId("c1")))
    seized = replace(told, identity=replace(told.identity, container_id=ContainerId("c3")))
    assert [node.refused(start) for start in (moved, seized)] == [Reason.CONFLICT, Reason.CONFLICT]
    assert node.known() == ["c1", "c2"]
    node.processes.cgroups.clear()
    node.gate.bind(replace(seized, held=False, cgroup=ProcessCgroup(CgroupId(2), "/pods/2")))
    assert node.known() == ["c1", "c3"]


def test_a_process_in_quarantine_is_of_no_namespace_that_could_be_told(node: _Node) -> None:
    node.kernel.records[7] = Binding(0, WorkloadId(WORKLOAD_QUARANTINED), True, 0)
    node.start(7)
    with pytest.raises(CgroupError, match="process 7 is in a container that nobody has identified"):
        node.gate.namespace_of(7)


def test_containers_and_sandboxes_are_counted_apart(node: _Node) -> None:
    assert node.gate.numbers() == (0, 0)
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    node.gate.bind(node.sandbox(1, "/kube/pod1"))
    node.bind(2)
    node.bind(3)
    assert node.gate.numbers() == (2, 1)
    node.gate.unbind(ContainerId("c2"))
    assert node.gate.numbers() == (1, 1)
    node.kernel.records.pop(1)
    node.sweep()
    assert node.gate.numbers() == (1, 0)
    node.gate.unbind(ContainerId("c1"))
    assert node.gate.numbers() == (1, 0)
