# SPDX-License-Identifier: Apache-2.0
"""The agent's state as a message: what is computed for it, and what a peer's figures come to."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.hooks.doorkeeper import Doorkeeper
from agent.hooks.gate import Gate
from agent.status import MISSED, coverage, own_stages, parse_stage, read_rss, reported_stages, stage_message
from agent.workload.identity import Door
from rthook.api import hook_pb2
from rthook.latency import BUCKETS, StageStats


def ratio(starts: dict[Door, int], outcomes: dict[str, int]) -> float | None:
    gate, keeper = SimpleNamespace(starts=Counter(starts)), SimpleNamespace(outcomes=Counter(outcomes))
    return coverage(cast(Gate, gate), cast(Doorkeeper, keeper))


@pytest.mark.parametrize(
    ("starts", "outcomes", "expected"),
    [
        ({}, {}, None),
        ({Door.HOLD: 3, Door.RECONCILE: 2}, {"announced": 2, "sandbox": 4, "untold": 1, "too_many": 1}, None),
        ({Door.NRI: 3}, {}, 1.0),
        ({Door.NRI: 1, Door.OCI: 1, Door.UPSTREAM: 1, Door.HOLD: 9}, {"identified": 1}, 0.75),
        ({Door.NRI: 5}, dict.fromkeys(MISSED, 1), 0.5),
        ({}, {"unidentified": 2}, 0.0),
    ],
)
def test_coverage_is_the_share_of_starts_that_a_hook_announced(
    starts: dict[Door, int], outcomes: dict[str, int], expected: float | None
) -> None:
    assert ratio(starts, outcomes) == expected


def test_every_way_to_be_given_up_is_a_miss() -> None:
    from agent.hooks.cases import Case
    from agent.kernel.doors import Fallback, Notice, NoticeKind, Treatment
    from agent.workload.identity import CgroupId, ContainerId

    nothing = CgroupId(0)
    for treatment in Treatment:
        notice = Notice(NoticeKind.EXEC, treatment, nothing, nothing, 0, 0, 0, 0, 0, "", "")
        case = Case(notice, ContainerId(""), nothing, 0.0, 0.0)
        assert {case.unidentified(fallback) for fallback in Fallback} <= MISSED


class _Changing(Counter[str]):
    """Other threads add to it whenever it is walked."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


def test_counters_may_change_while_they_are_read() -> None:
    gate, keeper = SimpleNamespace(starts=Counter({Door.NRI: 1})), SimpleNamespace(outcomes=_Changing(identified=1))
    assert coverage(cast(Gate, gate), cast(Doorkeeper, keeper)) == 0.5
    stats = StageStats(outcomes=_Changing(bound=1))
    assert dict(stage_message("agent", "bind", stats).outcomes) == {"bound": 1}


def observed(timeout_us: int = 2_000_000) -> StageStats:
    stats = StageStats(timeout_us)
    for spent in (80, 300, 700):
        stats.observe(spent, "bound", succeeded_at_us=1_700_000_000_000_000)
    stats.observe(9_000_000, "timeout")
    return stats


def test_a_stage_has_its_figures() -> None:
    message = stage_message("agent", "bind", observed())
    assert (message.door, message.stage, message.count) == ("agent", "bind", 4)
    assert (message.p50_us, message.p99_us, message.max_us) == (500, 9_000_000, 9_000_000)
    assert (message.timeout_us, message.headroom_us) == (2_000_000, -7_000_000)
    assert message.last_success_us == 1_700_000_000_000_000
    assert dict(message.outcomes) == {"bound": 3, "timeout": 1}
    assert (sum(message.buckets), message.sum_us) == (4, 9_001_080)


def test_without_a_limit_there_is_no_headroom() -> None:
    assert stage_message("agent", "bind", observed(0)).headroom_us == 0


def test_own_stages_are_in_order() -> None:
    assert [(one.door, one.stage) for one in own_stages({"hold": observed(), "bind": observed()})] == [
        ("agent", "bind"),
        ("agent", "hold"),
    ]


def said(**values: Any) -> hook_pb2.StageStats:
    stats = observed()
    whole: dict[str, Any] = {
        "stage": "start", "buckets": stats.buckets, "sum_us": stats.sum_us, "max_us": stats.max_us,
        "timeout_us": stats.timeout_us, "last_success_us": stats.last_success_us, "outcomes": stats.outcomes,
    }  # fmt: skip
    return hook_pb2.StageStats(**(whole | values))


def test_a_reported_stage_is_what_was_observed() -> None:
    assert parse_stage(said()) == observed()
    report = hook_pb2.ReportRequest(door="nri", stages=[said()])
    assert reported_stages([report]) == [stage_message("nri", "start", observed())]
    assert reported_stages([]) == []


@pytest.mark.parametrize("count", [0, 1, BUCKETS - 1, BUCKETS + 1, 1000])
def test_buckets_of_another_version_are_not_taken_for_ours(count: int) -> None:
    parsed = parse_stage(said(buckets=[1] * count))
    assert (parsed.count, parsed.max_us) == (0, 9_000_000)


def test_figures_of_any_size_make_a_message() -> None:
    """And times that a calendar has."""
    huge = 2**64 - 1
    figures = {"max_us": huge, "sum_us": huge, "timeout_us": huge, "last_success_us": huge}
    message = stage_message("nri", "start", parse_stage(said(buckets=[huge] * BUCKETS, **figures)))
    assert (message.sum_us, message.headroom_us) == (huge, 0)
    assert datetime.fromtimestamp(message.last_success_us / 1e6, UTC).year == 9999


def test_memory_is_that_of_the_process() -> None:
    assert read_rss(os.getpid()) > 1 << 20
    assert read_rss(0) == 0
    with subprocess.Popen(["true"]) as process:
        process.wait(20)
    assert read_rss(process.pid) == 0
