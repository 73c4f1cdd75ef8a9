# SPDX-License-Identifier: Apache-2.0
"""How the stages of a start fare: what the agent measures itself, and what the NRI plugin reports of its own path."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from agent.hooks.errors import HookError, Reason
from rthook.api import hook_pb2
from rthook.latency import BUCKETS, StageStats

REPORTERS = frozenset({"nri"})
MAX_STAGES = 16  # of one reporter: the plugin has one for each event that it subscribes to, and its connections
MAX_OUTCOMES = 64  # of one stage: a dozen words exist
MAX_WORD = 64  # characters of a stage's or an outcome's name


class StageTable:
    """Durations and outcomes by stage; for several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, StageStats] = {}

    def observe(self, stage: str, spent_us: int, outcome: str, succeeded_at_us: int) -> None:
        """As StageStats.observe. stage: one of the agent's own, never a text of a caller's."""
        with self._lock:
            stats = self._stages.setdefault(stage, StageStats())
            stats.observe(spent_us, outcome, succeeded_at_us=succeeded_at_us)

    def snapshot(self) -> Mapping[str, StageStats]:
        with self._lock:
            return {name: _copy(stats) for name, stats in self._stages.items()}


def _copy(stats: StageStats) -> StageStats:
    return replace(stats, buckets=list(stats.buckets), outcomes=Counter(stats.outcomes))


def check_report(request: hook_pb2.ReportRequest) -> None:
    """Raises HookError, reason INVALID. What passes is bounded, and may be kept."""
    if request.door not in REPORTERS:
        raise HookError(Reason.INVALID, f"no reports are taken from {request.door[:MAX_WORD]!a}")
    if len(request.stages) > MAX_STAGES:
        raise HookError(Reason.INVALID, f"{len(request.stages)} stages, at most {MAX_STAGES}")
    for stage in request.stages:
        name = ascii(stage.stage[:MAX_WORD])
        if len(stage.buckets) != BUCKETS:
            raise HookError(Reason.INVALID, f"stage {name} has {len(stage.buckets)} buckets, not {BUCKETS}")
        if len(stage.outcomes) > MAX_OUTCOMES:
            raise HookError(Reason.INVALID, f"stage {name} has {len(stage.outcomes)} outcomes, at most {MAX_OUTCOMES}")
        if any(len(word) > MAX_WORD for word in (stage.stage, *stage.outcomes)):
            raise HookError(Reason.INVALID, f"stage {name} has a name of more than {MAX_WORD} characters")
