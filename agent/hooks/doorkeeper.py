# SPDX-License-Identifier: Apache-2.0
"""Containers that no hook announced: identified, bound, and released where the kernel held them.

Theory of operation. The kernel notes each container's cgroup when it is made, and tells when a process calls execve in
one that is not bound (bpf/base/doors.c). One thread reads that, keeps the heartbeat that the kernel looks at before it
holds anybody, and ends what has waited too long; it never waits itself. Asking the container runtime is done by a few
workers, and begins when the cgroup is made, so that at the execve the answer is usually there.

A *case* is one such cgroup, from its first execve until it is identified or given up:

    HOLD    its processes are stopped, and bound to every policy. Identified in time: bound, continued. Else the
            fallback: open (unbound, continued), strict (continued under every policy), kill.
    STRICT  bound to every policy until it is identified, however long that takes.
    REPORT  it runs unguarded until it is identified.

A sandbox's pause process is no container of a workload: it is bound, and no event is made of it.

Nobody stays stopped: a case is closed when each process that it stopped was released; whatever fails in between, it is
looked at again. A held process of which no notice came (the ring was full) is found in the map of the held. And the
heartbeat comes after a turn in which all that was possible: when the turns fail, the kernel holds nobody, and others
release who is held.

One lock covers the cases. It is taken before the gate's, never after: the gate calls `bound` without its own.
"""

from __future__ import annotations

import logging
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from agent.events.ring import RingBuffer
from agent.hooks.cases import Case, Schedule, event_of
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Gate, Start
from agent.hooks.identify import Found, Identifier, find_place, is_bound_elsewhere, parse_container_name
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.doors import Doors, Fallback, Held, Notice, NoticeKind, Treatment, parse_notice
from agent.kernel.errors import CgroupError, KernelError
from agent.logs import fields
from agent.workload.identity import CgroupId, ContainerId, Door
from rthook.latency import StageStats
from rthook.priority import set_realtime

BEAT_S = 0.1
BATCH = 256
WORKERS = 4  # calls to the runtime at once
MAX_CASES = 4096
MAX_FORESEEN = 1024  # cgroups whose identity was asked for before their first execve
FORESEEN_S = 60.0
GRACE_S = 10.0  # for a container that is not held, before its case is given up; the reconciler looks on
NOTICE_NS = 100_000_000  # after which no notice comes any more of one that is held
TICKS_PER_US = 1000

log = logging.getLogger("podgate.doors")


class EventSink(Protocol):
    """Who makes events of it. Must not block."""

    def unannounced(self, event: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class _Foreseen:
    answer: Future[Found | None]
    since: float


class Doorkeeper:
    """ring: the map notices. urgent: real-time scheduling of the threads that a held process waits for."""

    def __init__(
        self,
        doors: Doors,
        ring: RingBuffer,
        gate: Gate,
        identifier: Identifier,
        finder: CgroupFinder,
        sink: EventSink,
        *,
        urgent: bool = True,
    ) -> None:
        self._doors = doors
        self._ring = ring
        self._gate = gate
        self._identifier = identifier
        self._finder = finder
        self._sink = sink
        self._urgent = urgent
        self._lock = threading.RLock()
        self._cases: dict[CgroupId, Case] = {}
        self._schedule = Schedule()
        self._foreseen: dict[CgroupId, _Foreseen] = {}
        self._looked = 0.0
        self._workers = ThreadPoolExecutor(WORKERS, "doors", initializer=self._hurry)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doors", daemon=True)
        self.outcomes: Counter[str] = Counter()
        self.stage = StageStats(timeout_us=int(doors.policy.deadline_s * 1e6))
        gate.on_bound = self.bound

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nobody is held from now on, and who is goes on as the fallback says."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._doors.rest()  # the thread's last beat was before
        self._workers.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._enter_untold()
            for case in list(self._cases.values()):
                self._guarded(case, self._give_up)

    def _enter_untold(self) -> None:
        """Who is held at the end, and whose notice nobody reads any more."""
        try:
            for notice in self._find_untold(0):
                self._enter(notice)
        except KernelError as error:
            log.error("who is held cannot be read", extra=fields(error=str(error)))

    def _hurry(self) -> None:
        if self._urgent:
            set_realtime()

    def _run(self) -> None:
        self._hurry()
        poll = select.epoll()
        poll.register(self._ring.fileno(), select.EPOLLIN)
        while not self._stopping.is_set():
            try:
                self._turn()
                self._doors.beat()
                poll.poll(self._pause())
            except Exception:
                # No beat: when this lasts, the kernel holds nobody, and others release who is held.
                log.exception("a turn at the doors failed")
                self._stopping.wait(BEAT_S)
        poll.close()

    def _pause(self) -> float:
        with self._lock:
            first = self._schedule.first()
        due = BEAT_S if first is None else first - time.monotonic()
        return min(max(due, 0.0), BEAT_S)

    def _turn(self) -> None:
        for record in self._ring.read(BATCH):
            self._take(record)
        now = time.monotonic()
        with self._lock:
            while due := self._schedule.pop_due(now):
                cgroup, turn = due
                case = self._cases.get(cgroup)
                if case and case.turn == turn:
                    self._guarded(case, self._try)
            self._forget_foreseen(now)
        if now - self._looked >= BEAT_S:
            self._looked = now
            self._look_at_held()

    def _take(self, record: bytes) -> None:
        try:
            notice = parse_notice(record)
        except ValueError as error:
            log.error("a notice of the kernel is not understood", extra=fields(error=str(error)))
            return
        with self._lock:
            if notice.kind is NoticeKind.CGROUP:
                self._foresee(notice)
            else:
                self._open(notice)

    def _foresee(self, notice: Notice) -> None:
        container = parse_container_name(notice.name)
        if container is None or len(self._foreseen) >= MAX_FORESEEN:
            return
        answer = self._workers.submit(self._identifier.identify, container, notice.above)
        self._foreseen[notice.cgroup] = _Foreseen(answer, time.monotonic())

    def _forget_foreseen(self, now: float) -> None:
        """The oldest stands first."""
        while self._foreseen:
            cgroup, oldest = next(iter(self._foreseen.items()))
            if now - oldest.since <= FORESEEN_S:
                return
            self._drop_foreseen(cgroup)

    def _drop_foreseen(self, cgroup: CgroupId) -> None:
        if foreseen := self._foreseen.pop(cgroup, None):
            foreseen.answer.cancel()

    def _look_at_held(self) -> None:
        """Those of whom no notice came."""
        if self._doors.policy.treatment is not Treatment.HOLD:
            return
        with self._lock:
            for notice in self._find_untold(NOTICE_NS):
                self.outcomes["untold"] += 1
                self._open(notice)

    def _find_untold(self, age_ns: int) -> list[Notice]:
        """One notice for each that is held for so long and is in no case."""
        latest = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - age_ns
        return [self._note(held) for held in self._doors.held() if held.since_ns <= latest and self._is_untold(held)]

    def _is_untold(self, held: Held) -> bool:
        case = self._cases.get(held.cgroup)
        return case is None or held.pid not in case.stopped

    def _note(self, held: Held) -> Notice:
        """As the kernel would have told it, but for what only the kernel knows."""
        kind, treatment = NoticeKind.EXEC, Treatment.HOLD
        try:
            name = self._finder.of_any(held.pid).path.rpartition("/")[2]
        except CgroupError:
            name = ""
        return Notice(kind, treatment, held.cgroup, CgroupId(0), held.since_ns, held.pid, 0, 0, 0, "", name)

    def _open(self, notice: Notice) -> None:
        self._guarded(self._enter(notice), partial(self._begin, notice))

    def _enter(self, notice: Notice) -> Case:
        """The notice in its case. A case that cannot be kept is given up at once: nobody is held for nothing."""
        now = time.monotonic()
        late = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - notice.time_ns) / 1e9
        holds = notice.treatment is Treatment.HOLD
        deadline = now + (self._doors.policy.deadline_s - late if holds else GRACE_S)
        case = self._cases.get(notice.cgroup)
        if case is None:
            container = parse_container_name(notice.name) or ContainerId("")
            case = Case(notice, container, notice.above, now - late, deadline)
            if len(self._cases) >= MAX_CASES:
                case.deadline = now
                self.outcomes["too_many"] += 1
            self._cases[notice.cgroup] = case
        if holds:
            case.hold(notice, deadline)
        return case

    def _begin(self, notice: Notice, case: Case) -> None:
        if case.place is None:
            self._locate(case, notice)
        own = case.place.id if case.place else notice.cgroup
        if case.asked is None and (foreseen := self._foreseen.pop(own, None)):
            case.asked = foreseen.answer
        self._try(case)

    def _locate(self, case: Case, notice: Notice) -> None:
        """The container's own cgroup, by a process of it: of crun's inner cgroup it is the one above. A process that is
        somewhere else by now, or another one with its pid, is not asked.
        """
        try:
            at = self._finder.of_any(notice.pid)
            found = find_place(at.path) if at.id == notice.cgroup else None
            if found is None:
                return
            case.container, path = found
            above, _, _ = path.rpartition("/")
            case.place = ProcessCgroup(self._finder.id_of(path), path, nested=True)
            case.above = self._finder.id_of(above)
        except CgroupError as error:
            log.debug("a process is not there any more", extra=fields(**case.names(), error=str(error)))

    def _guarded(self, case: Case, step: Callable[[Case], None]) -> None:
        """Whatever fails, the case goes on: it is looked at again, or given up."""
        try:
            step(case)
        except Exception as error:  # noqa: BLE001 - told, once a case
            self._tell_failure(case, error)
            if not self._is_open(case):
                return
            if time.monotonic() >= case.deadline or self._stopping.is_set():
                self._give_up(case)
            else:
                self._later(case)

    def _tell_failure(self, case: Case, error: BaseException) -> None:
        """Once a case: what fails is tried again many times."""
        if case.tell("failure"):
            log.error("a case at the doors has failed, trying again", exc_info=error, extra=fields(**case.names()))

    def _is_open(self, case: Case) -> bool:
        return self._cases.get(case.notice.cgroup) is case

    def _try(self, case: Case) -> None:
        """One step; the lock is held."""
        if case.ending:
            self._end(case, *case.ending)
        elif self._gate.record_of(case.notice.cgroup):
            self._end(case, "announced", signal.SIGCONT)
        else:
            self._identify(case)

    def _identify(self, case: Case) -> None:
        asked = case.asked
        if asked is None:
            asked = case.asked = self._workers.submit(self._identifier.identify, case.container, case.above)
        if asked.done():
            self._finish(case)
            return
        if not case.listening:
            case.listening = True
            asked.add_done_callback(partial(self._answered, case))
            if case.asked is not asked:
                return  # the answer came at this moment, and was taken
        self._wait(case)

    def _answered(self, case: Case, answer: Future[Found | None]) -> None:
        """Called by a worker."""
        if self._stopping.is_set():
            return
        with self._lock:
            if case.asked is answer and self._is_open(case):
                self._guarded(case, self._finish)

    def _finish(self, case: Case) -> None:
        """The answer is there."""
        found = self._take_answer(case)
        case.found = found or case.found
        if found and self._bind(case, found):
            self._end(case, "sandbox" if found.sandbox else "identified", signal.SIGCONT)
        else:
            self._wait(case)

    def _take_answer(self, case: Case) -> Found | None:
        answer, case.asked, case.listening = case.asked, None, False
        if answer is None:
            return None
        if error := answer.exception():
            self._tell_failure(case, error)
            return None
        return answer.result()

    def _wait(self, case: Case) -> None:
        """Look again, at the deadline at the latest."""
        now = time.monotonic()
        if now >= case.deadline:
            self._give_up(case)
        else:
            self._schedule.put(case, min(now + case.next_pause(), case.deadline))

    def _later(self, case: Case) -> None:
        self._schedule.put(case, time.monotonic() + case.next_pause())

    def _bind(self, case: Case, found: Found) -> bool:
        """False when it cannot be bound, or not yet."""
        try:
            start = self._start(case, found)
            if start is None:
                return False
            self._gate.bind(start)
        except (HookError, CgroupError) as error:
            if case.tell(str(error)):
                log.warning("an identified container is not bound", extra=fields(**case.names(), error=str(error)))
            return False
        return True

    def _start(self, case: Case, found: Found) -> Start | None:
        """A process that is not the first of its pid namespace, in a container that the runtime says was only created,
        may be another hook's: when its parent is in the container too, that one is setting it up. It does so until its
        execve; unless it waits for a process that is held, it may have called that already: then it is waited until the
        runtime says that the container runs.
        """
        notice, place = case.notice, self._confirm_place(case)
        setup = found.created and notice.level > 0 and notice.ns_pid != 1
        if setup and self._finder.still_there(notice.parent, place):
            if not case.held:
                return None
            return Start(found.identity, notice.parent, "", True, Door.HOLD, place, found.sandbox)
        door = Door.HOLD if case.held else Door.RECONCILE
        return Start(found.identity, notice.pid, "", False, door, place, found.sandbox)

    def _confirm_place(self, case: Case) -> ProcessCgroup:
        """Raises CgroupError or HookError for a cgroup that is not the container's, or not there any more."""
        place = case.place
        if place is None:
            raise CgroupError(f"process {case.notice.pid} is gone, or has left its cgroup")
        if self._finder.id_of(place.path) != place.id:
            raise CgroupError(f"the cgroup {place.path} is another one by now")
        if is_bound_elsewhere(self._gate, self._finder, case.container, place.id):
            raise HookError(Reason.CONFLICT, f"container {case.container} is bound, and not in cgroup {place.path}")
        return place

    def bound(self, cgroup: CgroupId) -> None:
        """The gate has bound a cgroup, for whom ever. Raises nothing: a container's start waits for the caller."""
        with self._lock:
            try:
                self._drop_foreseen(cgroup)
                if (case := self._cases.get(cgroup)) and self._gate.record_of(cgroup):
                    self._release(case, signal.SIGCONT)
            except Exception:
                log.exception("what is held is not released yet", extra=fields(cgroup_id=cgroup))

    def _give_up(self, case: Case) -> None:
        """Nobody knows whose it is."""
        if case.ending:
            self._end(case, *case.ending)
            return
        cgroup, fallback = case.notice.cgroup, self._doors.policy.fallback
        outcome, number = case.unidentified(fallback), signal.SIGCONT
        if case.held:
            number = signal.SIGKILL if fallback is Fallback.KILL else number
            self._attempt(case, lambda: self._doors.forget(cgroup))  # else the next process in it would be held as well
            if fallback is Fallback.OPEN:
                self._attempt(case, lambda: self._gate.release_quarantined(cgroup, self._path_of(case)))
        self._end(case, outcome, number)

    def _path_of(self, case: Case) -> str:
        """Empty when the process is gone, and the cgroup with it."""
        try:
            return self._finder.of_any(case.notice.pid).path
        except CgroupError:
            return ""

    def _attempt(self, case: Case, step: Callable[[], object]) -> None:
        """What fails here keeps nobody stopped."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - told, once a case
            self._tell_failure(case, error)

    def _end(self, case: Case, outcome: str, number: signal.Signals) -> None:
        case.ending = (outcome, number)
        if self._release(case, number):
            self._close(case, outcome)
        else:
            self._later(case)

    def _release(self, case: Case, number: signal.Signals) -> bool:
        """False when one of them may be stopped still. Only those of whom a notice came: their signal is on its way,
        and what continues them comes after it.
        """
        for notice in list(case.stopped.values()):
            try:
                self._release_one(case, notice, number)
            except Exception as error:  # noqa: BLE001 - told, once a process
                if case.tell(f"held {notice.pid}"):
                    self.outcomes["not_released"] += 1
                    why = fields(**case.names(), pid=notice.pid, error=str(error))
                    log.error("a held process is not released, trying again", extra=why)
            else:
                del case.stopped[notice.pid]
        return not case.stopped

    def _release_one(self, case: Case, notice: Notice, number: signal.Signals) -> None:
        held = self._doors.find(notice.pid)
        if held is None or held.cgroup != notice.cgroup:
            return  # somebody else has released it
        found = self._doors.release(held, number)
        held_us = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - held.since_ns) // TICKS_PER_US
        outcome = ("killed" if number is signal.SIGKILL else "continued") if found else "gone"
        self.stage.observe(held_us, outcome, succeeded_at_us=time.time_ns() // TICKS_PER_US if found else 0)
        log.info("released", extra=fields(**case.names(), pid=held.pid, held_us=held_us, outcome=outcome))

    def _close(self, case: Case, outcome: str) -> None:
        del self._cases[case.notice.cgroup]
        if case.asked:
            case.asked.cancel()
        self.outcomes[outcome] += 1
        spent = round((time.monotonic() - case.began) * 1000, 2)
        quiet = outcome in ("sandbox", "announced")
        log.log(
            logging.INFO if quiet else logging.WARNING,
            "unannounced",
            extra=fields(**case.names(), treatment=case.notice.treatment.name.lower(), outcome=outcome, ms=spent),
        )
        if not quiet:
            self._attempt(case, lambda: self._sink.unannounced(event_of(case, outcome)))
