# SPDX-License-Identifier: Apache-2.0
"""What is done while the runtime asks nothing: one piece at a time, so that a call that comes meanwhile waits for one.

Each chore says how long it is until it is due, and does a piece of work within a share of the runtime's patience.
"""

import logging
import time
from pathlib import Path
from typing import Protocol

from nri_plugin.agent_link import AgentLink
from nri_plugin.budget import Budget
from nri_plugin.rules import RuleFile
from nri_plugin.stats import Statistics
from rthook.held import Release, release_stale

log = logging.getLogger("podgate.nri")


class Chore(Protocol):
    """Something that is due from time to time."""

    def left(self, now: float) -> float | None:
        """Seconds from `now` (monotonic) until it is due, 0 when it is, None when nothing is to be done."""

    def run(self, budget: Budget) -> None:
        """Do it; nothing that it meets is raised."""


class Resync:
    """Tells an agent that came back all containers."""

    def __init__(self, agent: AgentLink) -> None:
        self._agent = agent

    def left(self, now: float) -> float | None:
        return self._agent.resync_left(now)

    def run(self, budget: Budget) -> None:
        self._agent.resync(budget.housekeeping_s)


class Reporter:
    """Tells a connected agent how the calls fare: when that has changed, and when the agent may be another one."""

    def __init__(self, agent: AgentLink, statistics: Statistics, interval_s: float) -> None:
        self._agent = agent
        self._statistics = statistics
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s
        self._told = (0, 0)

    def left(self, now: float) -> float | None:
        if not self._agent.takes_reports or self._told == self._state() or not self._statistics.revision:
            return None
        return max(0.0, self._next - now)

    def run(self, budget: Budget) -> None:
        self._next = time.monotonic() + self._interval_s
        state = self._state()
        if self._agent.report(self._statistics.make_request(), budget.report_s):
            self._told = state

    def _state(self) -> tuple[int, int]:
        return self._agent.connects, self._statistics.revision


class RuleWatch:
    """Reads the failure rule again when its file has changed, so that a fault in it is told at once."""

    def __init__(self, rules: RuleFile, interval_s: float) -> None:
        self._rules = rules
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s

    def left(self, now: float) -> float | None:
        return max(0.0, self._next - now)

    def run(self, budget: Budget) -> None:  # noqa: ARG002 - one stat(2)
        self._next = time.monotonic() + self._interval_s
        self._rules.refresh()


class HeldWatch:
    """Releases the processes that a dead or hung agent holds. What cannot be released is told once."""

    def __init__(self, pin_dir: Path, interval_s: float) -> None:
        self._pin_dir = pin_dir
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s
        self._told: frozenset[str] = frozenset()

    def left(self, now: float) -> float | None:
        return max(0.0, self._next - now)

    def run(self, budget: Budget) -> None:  # noqa: ARG002 - a few bpf(2) calls
        self._next = time.monotonic() + self._interval_s
        sweep = release_stale(self._pin_dir)
        for release in sweep.done:
            _log_release(release)
        for problem in sorted(sweep.problems - self._told):
            log.error("held_not_released", extra={"fields": {"reason": problem}})
        self._told = sweep.problems


def _log_release(release: Release) -> None:
    fields = {
        "pid": release.hold.tgid,
        "cgroup_id": release.hold.cgroup_id,
        "outcome": release.outcome.value,
        "held_ms": release.held_ns // 1_000_000,
        "generation": str(release.generation),
    }
    log.warning("held_released", extra={"fields": fields})
