# SPDX-License-Identifier: Apache-2.0
"""The table of stages, and what a reporter may say of its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent.hooks.errors import HookError, Reason
from agent.hooks.stages import MAX_OUTCOMES, MAX_STAGES, MAX_WORD, StageTable, check_report
from rthook.api import hook_pb2
from rthook.latency import BUCKETS


def test_stages_are_counted_by_name_and_outcome() -> None:
    table = StageTable()
    table.observe("bind", 90, "bound", 5)
    table.observe("bind", 300, "no_cgroup", 0)
    table.observe("announce", 7, "bound", 9)
    stats = table.snapshot()
    assert {name: (each.count, each.max_us, each.last_success_us) for name, each in stats.items()} == {
        "bind": (2, 300, 5),
        "announce": (1, 7, 9),
    }
    assert stats["bind"].outcomes == {"bound": 1, "no_cgroup": 1}


def test_a_snapshot_does_not_change() -> None:
    table = StageTable()
    table.observe("bind", 90, "bound", 5)
    before = table.snapshot()
    table.observe("bind", 90, "bound", 6)
    assert (before["bind"].count, before["bind"].outcomes, before["bind"].last_success_us) == (1, {"bound": 1}, 5)


def test_threads_lose_no_count() -> None:
    table = StageTable()

    def observe() -> None:
        for _ in range(2000):
            table.observe("bind", 1, "bound", 1)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.snapshot()["bind"].outcomes == {"bound": 8000}


def _stage(name: str = "StartContainer", **members: Any) -> hook_pb2.StageStats:
    return hook_pb2.StageStats(**({"stage": name, "buckets": [0] * BUCKETS, "outcomes": {"bound": 1}} | members))


def test_a_report_within_the_limits_is_taken() -> None:
    full = _stage("x" * MAX_WORD, outcomes={str(number): 1 for number in range(MAX_OUTCOMES)})
    check_report(hook_pb2.ReportRequest(door="nri", stages=[full] * MAX_STAGES))
    check_report(hook_pb2.ReportRequest(door="nri"))


@pytest.mark.parametrize(
    ("door", "stages", "words"),
    [
        ("", [], "no reports are taken from ''"),
        ("oci", [], "no reports are taken from 'oci'"),
        ("é" * 100, [], r"no reports are taken from '\xe9"),
        ("nri", [_stage()] * (MAX_STAGES + 1), "17 stages, at most 16"),
        ("nri", [_stage(buckets=[0] * (BUCKETS - 1))], "stage 'StartContainer' has 15 buckets, not 16"),
        ("nri", [_stage(buckets=[0] * 100_000)], "has 100000 buckets, not 16"),
        ("nri", [_stage(outcomes={str(n): 1 for n in range(MAX_OUTCOMES + 1)})], "has 65 outcomes, at most 64"),
        ("nri", [_stage("x" * (MAX_WORD + 1))], "has a name of more than 64 characters"),
        ("nri", [_stage(outcomes={"x" * (MAX_WORD + 1): 1})], "has a name of more than 64 characters"),
    ],
)
def test_a_report_beyond_them_is_refused(door: str, stages: list[hook_pb2.StageStats], words: str) -> None:
    with pytest.raises(HookError) as caught:
        check_report(hook_pb2.ReportRequest(door=door, stages=stages))
    assert caught.value.reason is Reason.INVALID
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
