# SPDX-License-Identifier: Apache-2.0
"""The keeper of the doors, with its own threads, against a kernel, a gate and a runtime that are a few dictionaries.

Container n has the cgroup n below the pod's, 1000, and the process n in it; all that a test waits for is a condition.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from agent.events.ring import RingBuffer
from agent.hooks import doorkeeper as module
from agent.hooks.cases import Case, Schedule
from agent.hooks.doorkeeper import Doorkeeper
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Gate, Start
from agent.hooks.identify import Found, Identifier
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.doors import DoorPolicy, Doors, Fallback, Held, Notice, NoticeKind, Treatment
from agent.kernel.errors import CgroupError, KernelError
from agent.kernel.layout import NOTICE
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, Door, PodUid, WorkloadId
from agent.workload.registry import Record
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(60)

POD = 1000
PARENT = 7777
LONG_S = 3600.0
SHORT_S = 0.05
WAIT_S = 20.0
SHIM = "/system.slice/containerd.service"


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def id_of(number: int) -> ContainerId:
    return ContainerId(f"{number:064x}")


def name_of(number: int) -> str:
    return f"cri-containerd-{id_of(number)}.scope"


def path_of(number: int) -> str:
    return f"/pod/{name_of(number)}"


def found(number: int, **options: bool) -> Found:
    identity = ContainerIdentity(id_of(number), "main", "shop", f"web-{number}", PodUid(f"u{number}"))
    return Found(identity, **options)


class Ring:
    """The notices, and a descriptor that is readable while there are some."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.fails = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._event

    def put(self, *records: bytes) -> None:
        with self._lock:
            self.records += records
            os.eventfd_write(self._event, 1)

    def read(self, limit: int) -> list[bytes]:
        if self.fails:
            raise KernelError("ring", 5)
        with self._lock:
            taken, self.records = self.records[:limit], self.records[limit:]
            if taken and not self.records:
                os.eventfd_read(self._event)
        return taken

    def close(self) -> None:
        os.close(self._event)


class KernelDoors:
    """Stands for Doors. log: what was done, in order, with the gate's."""

    def __init__(self, policy: DoorPolicy, log: list[str]) -> None:
        self.policy = policy
        self.log = log
        self.entries: dict[int, Held] = {}
        self.fail: dict[str, int] = {}
        self.beats = 0
        self.rested = False

    def _note(self, operation: str, what: object) -> None:
        if self.fail.get(operation, 0):
            self.fail[operation] -= 1
            raise KernelError(operation, 24)
        self.log.append(f"{operation} {what}")

    def beat(self) -> None:
        self.beats += 1
        self.rested = False

    def rest(self) -> None:
        self.rested = True

    def forget(self, cgroup: CgroupId) -> None:
        self._note("forget", cgroup)

    def held(self) -> list[Held]:
        return list(self.entries.values())

    def find(self, pid: int) -> Held | None:
        return self.entries.get(pid)

    def release(self, held: Held, number: signal.Signals) -> bool:
        self._note(number.name, held.pid)
        return self.entries.pop(held.pid, None) is not None


class GateDouble:
    """Stands for Gate: its lock cannot be taken twice, and who binds is called back without it, as there."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.lock = threading.Lock()
        self.records: dict[int, Record] = {}
        self.starts: list[Start] = []
        self.fail: dict[str, list[Exception]] = {}
        self.on_bound: Callable[[CgroupId], None] = lambda _: None

    def _step(self, name: str) -> None:
        if self.fail.get(name):
            raise self.fail[name].pop(0)

    def bind(self, start: Start) -> None:
        self._step("bind")
        assert start.cgroup is not None
        with self.lock:
            self.starts.append(start)
            self.log.append(f"bind {start.cgroup.id}")
            self.know(start.identity, start.cgroup.id, start.pid)
        self.on_bound(start.cgroup.id)

    def know(self, identity: ContainerIdentity, cgroup: CgroupId, pid: int = 0) -> None:
        self.records[cgroup] = Record(identity, cgroup, WorkloadId(1), True, pid)

    def announce(self, number: int) -> None:
        """As the NRI plugin does it."""
        with self.lock:
            self.know(found(number).identity, CgroupId(number), number)
        self.on_bound(CgroupId(number))

    def record_of(self, cgroup: CgroupId) -> Record | None:
        self._step("record_of")
        with self.lock:
            return self.records.get(cgroup)

    def record(self, container: ContainerId) -> Record | None:
        return next((one for one in self.containers() if one.identity.container_id == container), None)

    def containers(self) -> tuple[Record, ...]:
        with self.lock:
            return tuple(self.records.values())

    def release_quarantined(self, cgroup: CgroupId, _path: str = "") -> bool:
        self._step("release_quarantined")
        self.log.append(f"unbind {cgroup}")
        return True


class Runtime:
    """Stands for Identifier. answers: of each container, the last one again and again; what is called is waited for."""

    def __init__(self) -> None:
        self.answers: dict[ContainerId, list[Found | Exception | Callable[[], Found | None] | None]] = {}
        self.asked: list[tuple[ContainerId, CgroupId]] = []

    def identify(self, container: ContainerId, above: CgroupId) -> Found | None:
        self.asked.append((container, above))
        answers = self.answers.get(container, [None])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


class Processes:
    """Stands for CgroupFinder."""

    def __init__(self) -> None:
        self.paths: dict[int, str] = {PARENT: SHIM}
        self.ids: dict[str, int] = {SHIM: 5, "/pod": POD}

    def add(self, pid: int, path: str, cgroup: int) -> None:
        self.paths[pid] = path
        self.ids[path] = cgroup

    def of_any(self, pid: int) -> ProcessCgroup:
        if pid not in self.paths:
            raise CgroupError(f"process {pid} is gone")
        return ProcessCgroup(self.id_of(self.paths[pid]), self.paths[pid])

    def id_of(self, path: str) -> CgroupId:
        if path not in self.ids:
            raise CgroupError(f"cgroup {path} is not there")
        return CgroupId(self.ids[path])

    def still_there(self, pid: int, cgroup: ProcessCgroup) -> bool:
        return f"{self.paths.get(pid)}/".startswith(f"{cgroup.path}/")


class Node:
    def __init__(self, policy: DoorPolicy) -> None:
        self.log: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.sink_fails = False
        self.ring, self.doors, self.gate = Ring(), KernelDoors(policy, self.log), GateDouble(self.log)
        self.runtime, self.processes = Runtime(), Processes()
        self.keeper = Doorkeeper(
            cast(Doors, self.doors),
            cast(RingBuffer, self.ring),
            cast(Gate, self.gate),
            cast(Identifier, self.runtime),
            cast(CgroupFinder, self.processes),
            self,
            urgent=False,
        )
        self.started = False

    def unannounced(self, event: dict[str, Any]) -> None:
        if self.sink_fails:
            raise OSError("a sink that fails")
        self.events.append(event)

    def start(self) -> None:
        self.started = True
        self.keeper.start()

    def stop(self) -> None:
        self.keeper.stop()
        self.ring.close()

    def record(self, number: int, treatment: Treatment, kind: NoticeKind = NoticeKind.EXEC, **values: Any) -> bytes:
        """The kernel's bytes; values: other than those of the container."""
        notice = {
            "cgroup": number, "above": POD, "time": boottime(), "pid": number, "parent": PARENT, "ns_pid": 1,
            "level": 1, "comm": b"sh", "name": name_of(number).encode(),
        } | values  # fmt: skip
        return NOTICE.pack(kind.value, treatment, *notice.values())

    def place(self, number: int) -> None:
        self.processes.add(number, path_of(number), number)

    def exec(self, number: int, treatment: Treatment = Treatment.HOLD, *, told: bool = True, **values: Any) -> None:
        """A process of a container calls execve; told: and the ring had room."""
        pid, cgroup = values.get("pid", number), values.get("cgroup", number)
        if pid not in self.processes.paths:
            self.processes.add(pid, path_of(number), cgroup)
        if treatment is Treatment.HOLD:
            age_ns = 0 if told else module.NOTICE_NS
            self.doors.entries[pid] = Held(pid, CgroupId(cgroup), boottime() - age_ns, 1)
        if told:
            self.ring.put(self.record(number, treatment, **values))

    def foresee(self, number: int) -> None:
        self.ring.put(self.record(number, Treatment.REPORT, NoticeKind.CGROUP, pid=0, parent=0, ns_pid=0, level=0))

    def answer(self, number: int, *answers: Found | Exception | Callable[[], Found | None] | None) -> None:
        self.runtime.answers[id_of(number)] = list(answers)

    def await_closed(self, *outcomes: str) -> None:
        """As many cases, with these outcomes."""
        wait_until(lambda: sum(self.closed().values()) >= len(outcomes), WAIT_S, f"{outcomes}, not {self.closed()}")
        with self.keeper._lock:
            assert sorted(self.closed()) == sorted(set(outcomes))
            assert not self.keeper._cases

    def closed(self) -> dict[str, int]:
        return {name: n for name, n in self.keeper.outcomes.items() if name not in ("untold", "not_released")}


@pytest.fixture
def make() -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def build(
        fallback: Fallback = Fallback.OPEN, deadline_s: float = LONG_S, treatment: Treatment = Treatment.HOLD
    ) -> Node:
        made.append(Node(DoorPolicy(treatment, fallback, deadline_s=deadline_s)))
        return made[-1]

    yield build
    for node in made:
        if node.started:
            node.stop()


@pytest.fixture
def node(make: Callable[..., Node]) -> Node:
    """It holds for as long as nobody is identified."""
    one = make()
    one.start()
    return one


def test_a_held_container_is_bound_and_then_continued(node: Node) -> None:
    node.answer(4, found(4))
    node.exec(4)
    node.await_closed("identified")
    place = ProcessCgroup(CgroupId(4), path_of(4), nested=True)
    assert node.gate.starts == [Start(found(4).identity, 4, "", False, Door.HOLD, place)]
    assert node.log == ["bind 4", "SIGCONT 4"]
    assert node.runtime.asked == [(id_of(4), POD)]
    assert node.keeper.stage.outcomes == {"continued": 1}


def test_an_identified_container_is_an_event_with_its_names(node: Node) -> None:
    node.answer(4, found(4))
    node.exec(4)
    node.await_closed("identified")
    (event,) = node.events
    assert event.pop("time_ns") <= boottime()
    assert event == {
        "cgroup": {"id": 4, "name": name_of(4)},
        "process": {"pid": 4, "comm": "sh"},
        "treatment": "hold",
        "outcome": "identified",
        "pod": {"namespace": "shop", "name": "web-4", "uid": "u4"},
        "container": {"id": id_of(4), "name": "main"},
    }


def test_a_sandbox_is_bound_and_is_no_event(node: Node) -> None:
    node.answer(4, found(4, sandbox=True))
    node.exec(4)
    node.await_closed("sandbox")
    assert (node.gate.starts[0].sandbox, node.events) == (True, [])


def test_the_runtime_is_asked_when_the_cgroup_is_made(node: Node) -> None:
    node.answer(4, found(4))
    node.foresee(4)
    wait_until(lambda: node.runtime.asked, WAIT_S, "the question")
    node.exec(4)
    node.await_closed("identified")
    assert len(node.runtime.asked) == 1


def test_what_was_foreseen_and_is_announced_is_asked_no_more(node: Node) -> None:
    """The questions of others wait in the same queue."""
    go = threading.Event()
    busy = range(10, 10 + module.WORKERS)
    for number in busy:
        node.answer(number, lambda: found(0) if not go.wait(WAIT_S) else None)
        node.foresee(number)
    wait_until(lambda: len(node.runtime.asked) == len(busy), WAIT_S, "workers to be busy")
    node.foresee(4)
    wait_until(lambda: CgroupId(4) in node.keeper._foreseen, WAIT_S, "the notice")
    answer = node.keeper._foreseen[CgroupId(4)].answer
    node.gate.announce(4)
    assert answer.cancelled()
    go.set()
    assert CgroupId(4) not in node.keeper._foreseen


def test_what_was_foreseen_is_bounded_in_number_and_in_time(make: Callable[..., Node], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_FORESEEN", 2)
    node = make()
    node.start()
    for number in (4, 5, 6):
        node.foresee(number)
    wait_until(lambda: not node.ring.records and len(node.runtime.asked) == 2, WAIT_S, "the notices")
    assert list(node.keeper._foreseen) == [4, 5]
    monkeypatch.setattr(module, "FORESEEN_S", 0.0)
    wait_until(lambda: not node.keeper._foreseen, WAIT_S, "them to be forgotten")


def test_the_runtime_is_asked_again_until_it_knows(node: Node) -> None:
    node.answer(4, None, None, found(4))
    node.exec(4)
    node.await_closed("identified")
    assert len(node.runtime.asked) == 3


@pytest.mark.parametrize(
    ("fallback", "log"),
    [
        (Fallback.OPEN, ["forget 4", "unbind 4", "SIGCONT 4"]),
        (Fallback.STRICT, ["forget 4", "SIGCONT 4"]),
        (Fallback.KILL, ["forget 4", "SIGKILL 4"]),
    ],
)
def test_one_that_nobody_knows_goes_as_the_fallback_says(
    make: Callable[..., Node], fallback: Fallback, log: list[str]
) -> None:
    node = make(fallback, SHORT_S)
    node.start()
    node.exec(4)
    outcome = f"unidentified_{fallback.name.lower()}"
    node.await_closed(outcome)
    assert node.log == log
    assert [event["outcome"] for event in node.events] == [outcome]
    assert "pod" not in node.events[0]


def test_a_runtime_that_does_not_answer_in_time_is_not_waited_for(make: Callable[..., Node]) -> None:
    node, go = make(Fallback.STRICT, SHORT_S), threading.Event()
    node.answer(4, lambda: found(4) if go.wait(WAIT_S) else None)
    node.start()
    node.exec(4)
    node.await_closed("unidentified_strict")
    go.set()
    node.answer(5, found(5))
    node.exec(5)
    node.await_closed("unidentified_strict", "identified")
    assert [start.cgroup.id for start in node.gate.starts if start.cgroup] == [5]


def test_nobody_is_asked_about_a_case_that_was_given_up(make: Callable[..., Node]) -> None:
    """A runtime that hangs would be asked of those long gone, and those who are held would wait for that."""
    node, go = make(Fallback.STRICT, SHORT_S), threading.Event()
    numbers = range(10, 10 + 3 * module.WORKERS)
    for number in numbers:
        node.answer(number, lambda: found(0) if not go.wait(WAIT_S) else None)
    node.start()
    for number in numbers:
        node.exec(number)
    wait_until(lambda: node.closed() == {"unidentified_strict": len(numbers)}, WAIT_S, "all to be given up")
    go.set()
    node.stop()
    node.started = False
    assert len(node.runtime.asked) == module.WORKERS


def test_the_time_that_a_notice_waited_counts(make: Callable[..., Node]) -> None:
    node = make(deadline_s=60.0)
    node.start()
    node.exec(4, time=boottime() - 61 * 10**9)
    node.await_closed("unidentified_open")


def test_a_question_that_fails_is_asked_again(node: Node) -> None:
    node.answer(4, RuntimeError("a defect"), RuntimeError("a defect"), found(4))
    node.exec(4)
    node.await_closed("identified")
    assert node.log == ["bind 4", "SIGCONT 4"]


def test_a_question_that_always_fails_is_given_up(make: Callable[..., Node]) -> None:
    node = make(deadline_s=SHORT_S)
    node.answer(4, RuntimeError("a defect"))
    node.start()
    node.exec(4)
    node.await_closed("unidentified_open")
    assert node.log[-1] == "SIGCONT 4"


@pytest.mark.parametrize("error", [HookError(Reason.KERNEL, "full"), OSError(5, "a directory"), KernelError("map", 7)])
def test_a_binding_that_fails_is_tried_again(node: Node, error: Exception) -> None:
    node.gate.fail["bind"] = [error, error]
    node.answer(4, found(4))
    node.exec(4)
    node.await_closed("identified")
    assert node.log == ["bind 4", "SIGCONT 4"]


@pytest.mark.parametrize("step", ["bind", "record_of", "release_quarantined"])
def test_a_gate_that_always_fails_keeps_nobody_held(make: Callable[..., Node], step: str) -> None:
    """Of an identified one that cannot be bound the event has the names."""
    node = make(deadline_s=SHORT_S)
    node.gate.fail[step] = [KernelError(step, 5)] * 1000
    node.answer(4, found(4) if step == "bind" else None)
    node.start()
    node.exec(4)
    node.await_closed("unidentified_open")
    assert node.log[-1] == "SIGCONT 4"
    assert ("pod" in node.events[0]) is (step == "bind")


def test_a_stranger_that_cannot_be_forgotten_is_released(make: Callable[..., Node]) -> None:
    node = make(deadline_s=SHORT_S)
    node.doors.fail["forget"] = 1
    node.start()
    node.exec(4)
    node.await_closed("unidentified_open")
    assert node.log == ["unbind 4", "SIGCONT 4"]


@pytest.mark.parametrize("known", [True, False])
def test_a_release_that_fails_is_tried_until_it_does_not(make: Callable[..., Node], known: bool) -> None:
    """The descriptors may have run out: nobody else would release it as long as we live."""
    node = make(Fallback.STRICT, LONG_S if known else SHORT_S)
    node.doors.fail["SIGCONT"] = 3
    node.answer(4, found(4) if known else None)
    node.start()
    node.exec(4)
    node.await_closed("identified" if known else "unidentified_strict")
    assert node.log[-1] == "SIGCONT 4"
    assert not node.doors.entries
    assert node.keeper.outcomes["not_released"] == 1
    assert len(node.events) == 1


def test_a_sink_that_fails_ends_nothing(node: Node) -> None:
    node.sink_fails = True
    for number in (4, 5):
        node.answer(number, found(number))
        node.exec(number)
    node.await_closed("identified", "identified")


def test_junk_among_the_notices_loses_no_other(node: Node) -> None:
    node.answer(4, found(4))
    node.place(4)
    junk = (b"junk", NOTICE.pack(9, 9, *([0] * 7), b"", b""), b"")
    node.ring.put(*junk, node.record(4, Treatment.STRICT))
    node.await_closed("identified")


def test_a_notice_that_was_lost_is_made_up_for(node: Node) -> None:
    node.answer(4, found(4))
    node.exec(4, told=False)
    node.await_closed("identified")
    assert node.log == ["bind 4", "SIGCONT 4"]
    assert node.keeper.outcomes["untold"] == 1
    assert node.events[0]["cgroup"]["name"] == name_of(4)


def test_one_of_whom_nothing_was_told_is_not_held_longer(make: Callable[..., Node]) -> None:
    node = make(Fallback.KILL, SHORT_S)
    node.start()
    node.exec(4, told=False)
    node.await_closed("unidentified_kill")
    assert node.log[-1] == "SIGKILL 4"


def test_one_whose_notice_may_still_come_is_left_to_it(make: Callable[..., Node], monkeypatch: Any) -> None:
    """It may not be stopped yet: what continues it would come before what stops it."""
    monkeypatch.setattr(module, "NOTICE_NS", 3600 * 10**9)
    node = make()
    node.doors.entries[5] = Held(5, CgroupId(4), boottime(), 1)
    node.answer(4, found(4))
    node.start()
    node.exec(4)
    node.await_closed("identified")
    assert list(node.doors.entries) == [5]
    node.exec(4, pid=5)
    node.await_closed("identified", "announced")
    assert not node.doors.entries


def test_one_that_is_in_a_case_is_not_told_of_again(make: Callable[..., Node], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "NOTICE_NS", 0)
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    node = make()
    node.place(4)
    node.ring.put(node.record(4, Treatment.HOLD))
    node.start()
    wait_until(lambda: node.keeper._cases, WAIT_S, "the notice")
    node.exec(4, told=False)
    beats = node.doors.beats
    wait_until(lambda: node.doors.beats > beats + 5, WAIT_S, "looks at the held")
    assert node.keeper.outcomes["untold"] == 0


def test_the_deadline_is_kept_however_long_the_pauses_are(make: Callable[..., Node], monkeypatch: Any) -> None:
    monkeypatch.setattr(Case, "next_pause", lambda _: LONG_S)
    node = make(deadline_s=SHORT_S)
    node.start()
    node.exec(4)
    node.await_closed("unidentified_open")


def test_a_second_process_of_a_case_is_released_with_the_first(node: Node) -> None:
    go = threading.Event()
    node.answer(4, lambda: found(4) if go.wait(WAIT_S) else None)
    node.exec(4)
    node.exec(4, pid=44)
    wait_until(lambda: len(node.keeper._cases.get(CgroupId(4), _NO_CASE).stopped) == 2, WAIT_S, "both in one case")
    go.set()
    node.await_closed("identified")
    assert sorted(node.log[1:]) == ["SIGCONT 4", "SIGCONT 44"]
    assert len(node.runtime.asked) == 1


_NO_CASE = Case(Notice(NoticeKind.EXEC, Treatment.REPORT, CgroupId(0), CgroupId(0), 0, 0, 0, 0, 0, "", ""),
                ContainerId(""), CgroupId(0), 0.0, 0.0)  # fmt: skip


def test_a_case_that_begins_without_a_hold_ends_one_all_the_same(make: Callable[..., Node], monkeypatch: Any) -> None:
    """The heartbeat was stale at the first execve, and not any more at the second."""
    monkeypatch.setattr(module, "GRACE_S", LONG_S)
    node = make(Fallback.KILL, SHORT_S)
    node.start()
    node.exec(4, Treatment.REPORT)
    wait_until(lambda: node.keeper._cases, WAIT_S, "the first notice")
    node.exec(4, pid=44)
    node.await_closed("unidentified_kill")
    assert node.log == ["forget 4", "SIGKILL 44"]


@pytest.mark.parametrize(
    ("treatment", "outcome"), [(Treatment.REPORT, "unidentified"), (Treatment.STRICT, "unidentified_strict")]
)
def test_one_that_is_not_held_is_given_up_after_a_grace(
    make: Callable[..., Node], monkeypatch: Any, treatment: Treatment, outcome: str
) -> None:
    monkeypatch.setattr(module, "GRACE_S", SHORT_S)
    node = make(treatment=treatment)
    node.start()
    node.exec(4, treatment)
    node.await_closed(outcome)
    assert node.log == []


def test_one_that_a_hook_announces_at_last_is_continued_at_once(node: Node) -> None:
    node.exec(4)
    wait_until(lambda: node.keeper._cases, WAIT_S, "the notice")
    node.gate.announce(4)
    assert node.log == ["SIGCONT 4"]
    node.await_closed("announced")
    assert node.events == []


@pytest.mark.parametrize("step", ["record_of", "SIGCONT"])
def test_whoever_announces_one_meets_no_failure_of_ours(node: Node, step: str) -> None:
    """A container's start waits for it; and the one that is held is released a moment later."""
    node.exec(4)
    wait_until(lambda: node.keeper._cases, WAIT_S, "the notice")
    node.gate.fail["record_of"] = [KernelError("map", 5)] if step == "record_of" else []
    node.doors.fail[step] = 1
    node.gate.announce(4)
    node.await_closed("announced")
    assert node.log == ["SIGCONT 4"]


def test_a_process_of_another_hook_leaves_the_setup_to_its_parent(node: Node) -> None:
    """The init process of the container waits for it, and has not called execve."""
    node.processes.add(40, path_of(4), 4)
    node.answer(4, found(4, created=True))
    node.exec(4, pid=41, parent=40, ns_pid=3)
    node.await_closed("identified")
    (start,) = node.gate.starts
    assert (start.pid, start.held, start.door) == (40, True, Door.HOLD)
    assert node.log == ["bind 4", "SIGCONT 41"]


def test_an_entrypoint_in_a_shared_pid_namespace_is_no_hook(node: Node) -> None:
    """It is not the first of its namespace, and the runtime says that it is not started yet; its parent is the shim."""
    node.answer(4, found(4, created=True))
    node.exec(4, ns_pid=9)
    node.await_closed("identified")
    (start,) = node.gate.starts
    assert (start.pid, start.held) == (4, False)


def test_a_setup_that_nobody_holds_is_waited_for(node: Node) -> None:
    """Its end cannot be seen any more: only the runtime knows of it."""
    node.processes.add(40, path_of(4), 4)
    node.answer(4, found(4, created=True), found(4, created=True), found(4))
    node.exec(4, Treatment.STRICT, pid=41, parent=40, ns_pid=3)
    node.await_closed("identified")
    (start,) = node.gate.starts
    assert (start.pid, start.held, start.door) == (41, False, Door.RECONCILE)
    assert len(node.runtime.asked) == 3


def test_of_cruns_inner_cgroup_the_one_above_is_bound(node: Node) -> None:
    node.place(4)
    node.processes.add(44, f"{path_of(4)}/container", 40)
    node.answer(4, found(4))
    node.exec(4, pid=44, cgroup=40, above=4, name=b"container")
    wait_until(lambda: node.gate.starts, WAIT_S, "the binding")
    node.gate.know(found(4).identity, CgroupId(40))  # linked
    node.await_closed("identified")
    assert node.gate.starts[0].cgroup == ProcessCgroup(CgroupId(4), path_of(4), nested=True)
    assert node.runtime.asked == [(id_of(4), POD)]
    assert "SIGCONT 44" in node.log


@pytest.mark.parametrize("path", [SHIM, path_of(9), f"{path_of(4)}/nested", f"{path_of(4)}/nested/container"], ids=str)
def test_a_process_that_is_somewhere_else_by_now_says_nothing(make: Callable[..., Node], path: str) -> None:
    """Its pid may be another's. What is bound is the cgroup of the notice, or none."""
    node = make(Fallback.STRICT, SHORT_S)
    node.processes.add(4, path, 9)
    node.answer(4, found(4))
    node.start()
    node.exec(4)
    node.await_closed("unidentified_strict")
    assert node.gate.starts == []
    assert node.events[0]["pod"]["name"] == "web-4"


def test_a_cgroup_that_was_made_anew_is_another_one(make: Callable[..., Node]) -> None:
    node = make(Fallback.STRICT, SHORT_S)

    def replaced() -> Found:
        node.processes.ids[path_of(4)] = 400
        return found(4)

    node.answer(4, replaced)
    node.start()
    node.exec(4)
    node.await_closed("unidentified_strict")
    assert node.gate.starts == []


def test_nobody_takes_a_running_container_out_of_its_policies(make: Callable[..., Node]) -> None:
    """By making a cgroup that has its name."""
    node = make(Fallback.STRICT, SHORT_S)
    node.processes.add(40, "/pod/victim", 40)
    node.gate.know(found(4).identity, CgroupId(40), 40)
    node.answer(4, found(4))
    node.start()
    node.exec(4)
    node.await_closed("unidentified_strict")
    assert node.gate.starts == []


def test_a_container_that_is_started_again_is_bound_where_it_is(node: Node) -> None:
    """Its former process has ended."""
    node.gate.know(found(4).identity, CgroupId(40), 40)
    node.answer(4, found(4))
    node.exec(4)
    node.await_closed("identified")


def test_cases_that_find_no_room_are_given_up_at_once(make: Callable[..., Node], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_CASES", 1)
    node = make()
    node.start()
    node.exec(4)
    wait_until(lambda: node.keeper._cases, WAIT_S, "the first")
    node.exec(5)
    wait_until(lambda: node.keeper.outcomes["unidentified_open"], WAIT_S, "the second")
    assert node.log == ["forget 5", "unbind 5", "SIGCONT 5"]
    assert list(node.doors.entries) == [4]
    assert node.keeper.outcomes["too_many"] == 1


def test_many_processes_of_a_case_do_not_multiply_the_questions(make: Callable[..., Node]) -> None:
    """The pauses grow from 5 to 20 ms, whoever else came meanwhile: some 50 questions in the second, not 50 at once."""
    node, go = make(deadline_s=1.0), threading.Event()
    node.answer(4, lambda: found(0) if not go.wait(WAIT_S) else None, None)
    node.start()
    for pid in range(400, 450):
        node.exec(4, pid=pid)
    wait_until(lambda: len(node.keeper._cases.get(CgroupId(4), _NO_CASE).stopped) == 50, WAIT_S, "all in one case")
    go.set()
    node.await_closed("unidentified_open")
    assert len(node.log) == 52
    assert len(node.runtime.asked) <= 60


def test_a_heartbeat_follows_a_turn_that_worked(make: Callable[..., Node], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    node = make()
    node.ring.fails = True
    failures: list[str] = []
    monkeypatch.setattr(module.log, "exception", failures.append)
    node.start()
    wait_until(lambda: len(failures) > 3, WAIT_S, "turns that fail")
    assert node.doors.beats == 0
    node.ring.fails = False
    wait_until(lambda: node.doors.beats > 3, WAIT_S, "heartbeats")


def test_stopping_holds_nobody_and_leaves_nobody_held(make: Callable[..., Node]) -> None:
    """Neither those of a case, nor those whose notice is not read any more."""
    node, go = make(Fallback.STRICT), threading.Event()
    node.answer(4, lambda: found(0) if not go.wait(WAIT_S) else None)
    node.start()
    node.exec(4)
    wait_until(lambda: node.runtime.asked, WAIT_S, "a worker to be busy")
    node.exec(5, told=False)
    node.doors.entries[5] = replace(node.doors.entries[5], since_ns=boottime())
    node.answer(5, found(5))
    go.set()
    node.stop()
    node.started = False
    assert not node.doors.entries
    assert node.doors.rested
    assert not node.keeper._cases
    assert {"SIGCONT 4", "SIGCONT 5"} <= set(node.log)


def test_a_last_beat_comes_before_the_rest(make: Callable[..., Node], monkeypatch: Any) -> None:
    """Else the kernel would hold for one more second."""
    node = make()
    beating, go = threading.Event(), threading.Event()

    def beat() -> None:
        beating.set()
        go.wait(WAIT_S)
        node.doors.rested = False

    monkeypatch.setattr(node.doors, "beat", beat)
    node.start()
    assert beating.wait(WAIT_S)
    stopping = threading.Thread(target=node.stop)
    stopping.start()
    wait_until(node.keeper._stopping.is_set, WAIT_S, "the stop")
    go.set()
    stopping.join(WAIT_S)
    node.started = False
    assert node.doors.rested


def test_a_keeper_that_was_never_started_stops(make: Callable[..., Node]) -> None:
    node = make()
    node.exec(4, told=False)
    node.stop()
    assert node.log[-1] == "SIGCONT 4"


def test_announcements_and_answers_at_once_leave_nobody_held(node: Node) -> None:
    """Hooks, workers and the keeper's own thread meet in the same cases; no two of them wait for each other."""
    numbers = range(100, 300)
    for number in numbers:
        node.answer(number, None, found(number))

    def announce() -> None:
        for number in numbers:
            node.gate.announce(number)

    threads = [threading.Thread(target=announce) for _ in range(3)]
    for number in numbers[:100]:
        node.exec(number)
    for thread in threads:
        thread.start()
    for number in numbers[100:]:
        node.exec(number)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    wait_until(lambda: sum(node.closed().values()) == len(numbers), WAIT_S, "all cases to be closed")
    assert not node.doors.entries
    assert not node.keeper._cases


def test_a_schedule_has_one_time_for_each_case() -> None:
    schedule, case = Schedule(), _NO_CASE
    assert schedule.first() is None
    schedule.put(case, 5.0)
    schedule.put(case, 7.0)
    assert schedule.first() == 5.0
    assert schedule.pop_due(4.9) is None
    assert schedule.pop_due(6.0) == (0, case.turn - 1)
    assert schedule.pop_due(6.0) is None
    assert schedule.pop_due(7.0) == (0, case.turn)
    assert len(schedule) == 0
