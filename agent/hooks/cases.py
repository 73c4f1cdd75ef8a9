# SPDX-License-Identifier: Apache-2.0
"""Cases of containers that no hook announced: what is known of each, and when each is looked at next. Pure."""

from __future__ import annotations

import heapq
import signal
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from agent.hooks.identify import Found
from agent.kernel.cgroup import ProcessCgroup
from agent.kernel.doors import Fallback, Notice, Treatment
from agent.workload.identity import CgroupId, ContainerId

RETRY_FIRST_S = 0.005
RETRY_CAP_S = 0.25
RETRY_HELD_S = 0.02  # of a process that is stopped meanwhile
MAX_TOLD = 16  # lines of one case in the log, beside its outcome


@dataclass(slots=True)
class Case:
    """deadline, began: of time.monotonic. above: the cgroup that the container's is in. place: the container's own, as
    long as it is not known None. stopped: the processes that the kernel told of and holds, by pid. asked: the runtime's
    answer, to come. found: the last one. ending: how it ends, once that is decided: the outcome, and what is sent to
    the stopped ones. told: what the log has of it already. turn: of the schedule.
    """

    notice: Notice
    container: ContainerId
    above: CgroupId
    began: float
    deadline: float
    place: ProcessCgroup | None = None
    stopped: dict[int, Notice] = field(default_factory=dict)
    asked: Future[Found | None] | None = None
    listening: bool = False
    found: Found | None = None
    ending: tuple[str, signal.Signals] | None = None
    told: set[str] = field(default_factory=set)
    retry_s: float = RETRY_FIRST_S
    turn: int = -1

    @property
    def held(self) -> bool:
        return self.notice.treatment is Treatment.HOLD

    def hold(self, notice: Notice, deadline: float) -> None:
        """One more that is stopped. A case that began without a hold is a hold's from now on."""
        self.stopped[notice.pid] = notice
        if not self.held:
            self.notice = notice
            self.deadline = min(self.deadline, deadline)

    def next_pause(self) -> float:
        """Until the runtime is asked again, seconds; longer each time."""
        cap = RETRY_HELD_S if self.held else RETRY_CAP_S
        pause, self.retry_s = self.retry_s, min(self.retry_s * 2, cap)
        return pause

    def tell(self, what: str) -> bool:
        """True the first time; a case has few things to tell, whatever is tried how often."""
        if what in self.told or len(self.told) >= MAX_TOLD:
            return False
        self.told.add(what)
        return True

    def names(self) -> dict[str, Any]:
        return {"cgroup_id": self.notice.cgroup, "cgroup": self.notice.name, "container_id": self.container}

    def unidentified(self, fallback: Fallback) -> str:
        """The outcome when nobody knows whose it is."""
        outcomes = {Treatment.REPORT: "unidentified", Treatment.STRICT: "unidentified_strict"}
        return outcomes.get(self.notice.treatment, f"unidentified_{fallback.name.lower()}")


class Schedule:
    """Which case is due when. A case has one time: what was set before is void."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, CgroupId]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, case: Case, due: float) -> None:
        case.turn = next(self._number)
        heapq.heappush(self._heap, (due, case.turn, case.notice.cgroup))

    def first(self) -> float | None:
        """When something may be due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> tuple[CgroupId, int] | None:
        """Cgroup and turn of one that is due; void where the case has another turn by now."""
        if not self._heap or self._heap[0][0] > now:
            return None
        _, turn, cgroup = heapq.heappop(self._heap)
        return cgroup, turn


def event_of(case: Case, outcome: str) -> dict[str, Any]:
    """What the event process makes a line of."""
    notice, found = case.notice, case.found
    event: dict[str, Any] = {
        "time_ns": notice.time_ns,
        "cgroup": {"id": notice.cgroup, "name": notice.name},
        "process": {"pid": notice.pid, "comm": notice.comm},
        "treatment": notice.treatment.name.lower(),
        "outcome": outcome,
    }
    if found:
        identity = found.identity
        event["pod"] = {"namespace": identity.namespace, "name": identity.pod_name, "uid": identity.pod_uid}
        event["container"] = {"id": identity.container_id, "name": identity.container_name}
    return event
