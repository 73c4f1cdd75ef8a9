# SPDX-License-Identifier: Apache-2.0
"""How the plugin's calls fare, for the agent's status. Pure."""

from rthook.api import hook_pb2
from rthook.latency import StageStats

DOOR = "nri"


class Statistics:
    """One StageStats for each kind of call, since the plugin's start. `revision` rises with each change."""

    def __init__(self) -> None:
        self._stages: dict[str, StageStats] = {}
        self._revision = 0

    @property
    def revision(self) -> int:
        """Changes whenever `make_request` would give something else."""
        return self._revision

    def observe(self, stage: str, spent_us: int, outcome: str, *, timeout_us: int, succeeded_at_us: int) -> None:
        """One call. timeout_us: the runtime's patience, 0 if unknown. succeeded_at_us: Unix time, 0 for a failure."""
        stats = self._stages.setdefault(stage, StageStats())
        stats.timeout_us = timeout_us
        stats.observe(spent_us, outcome, succeeded_at_us=succeeded_at_us)
        self._revision += 1

    def make_request(self) -> hook_pb2.ReportRequest:
        """All stages as they are now."""
        return hook_pb2.ReportRequest(door=DOOR, stages=[_convert(*item) for item in self._stages.items()])


def _convert(stage: str, stats: StageStats) -> hook_pb2.StageStats:
    return hook_pb2.StageStats(
        stage=stage,
        buckets=stats.buckets,
        sum_us=stats.sum_us,
        max_us=stats.max_us,
        timeout_us=stats.timeout_us,
        last_success_us=stats.last_success_us,
        outcomes=stats.outcomes,
    )
