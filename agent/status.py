# SPDX-License-Identifier: Apache-2.0
"""The state of the agent as a message: what `podgate status` shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.api import control_pb2
from agent.hooks.doorkeeper import Doorkeeper
from agent.hooks.gate import Gate
from agent.kernel.hookpoints import PointStatus
from agent.policy.plan import str_point
from agent.workload.identity import Door
from rthook.api import hook_pb2
from rthook.latency import BUCKETS, StageStats

ANNOUNCED = (Door.NRI, Door.OCI, Door.UPSTREAM)
MAX_US = 253_402_300_799_000_000  # the last second of the year 9999, as Unix time
MAX_COUNT = 1 << 59  # sixteen buckets of that are less than 64 bits hold
# Outcomes of cases in which a container's first instruction came before its announcement, or would have.
MISSED = frozenset({"identified", "unidentified", "unidentified_strict", "unidentified_open", "unidentified_kill"})


def coverage(gate: Gate, doorkeeper: Doorkeeper) -> float | None:
    """Of the containers' starts that were seen, the share that a hook announced; None before the first. The counters
    are copied at once: they change meanwhile.
    """
    announced = sum(gate.starts[door] for door in ANNOUNCED)
    missed = sum(count for outcome, count in dict(doorkeeper.outcomes).items() if outcome in MISSED)
    return announced / (announced + missed) if announced + missed else None


def hook_status(status: PointStatus) -> control_pb2.HookStatus:
    return control_pb2.HookStatus(
        kind=status.point.kind.value,
        name=str_point(status.point),
        through=status.through,
        programs=status.programs,
        instructions=status.instructions,
        missed=status.missed,
    )


def own_stages(stages: Mapping[str, StageStats]) -> list[control_pb2.Stage]:
    return [stage_message("agent", name, stats) for name, stats in sorted(dict(stages).items())]


def reported_stages(reports: Iterable[hook_pb2.ReportRequest]) -> list[control_pb2.Stage]:
    found = []
    for report in reports:
        found += [stage_message(report.door, said.stage, parse_stage(said)) for said in report.stages]
    return found


def parse_stage(said: hook_pb2.StageStats) -> StageStats:
    """A peer's figures, as far as a message of ours and a calendar have room for them."""
    buckets = list(said.buckets) if len(said.buckets) == BUCKETS else [0] * BUCKETS
    stats = StageStats(
        min(said.timeout_us, MAX_US),
        [min(count, MAX_COUNT) for count in buckets],
        said.sum_us,
        min(said.max_us, MAX_US),
        min(said.last_success_us, MAX_US),
    )
    stats.outcomes.update(said.outcomes)
    return stats


def stage_message(door: str, name: str, stats: StageStats) -> control_pb2.Stage:
    return control_pb2.Stage(
        door=door,
        stage=name,
        count=stats.count,
        p50_us=stats.quantile_us(0.5),
        p99_us=stats.quantile_us(0.99),
        max_us=stats.max_us,
        timeout_us=stats.timeout_us,
        headroom_us=stats.headroom_us if stats.timeout_us else 0,
        last_success_us=stats.last_success_us,
        outcomes=dict(stats.outcomes),
        buckets=stats.buckets,
        sum_us=stats.sum_us,
    )


def read_rss(pid: int) -> int:
    """Resident bytes of a process, 0 when there is none: /proc/<pid>/statm (proc(5))."""
    if not pid:
        return 0
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0
