# SPDX-License-Identifier: Apache-2.0
"""What an earlier agent held is told of: every release, and each fault once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.releases import Releases
from rthook.held import Hold, Outcome, Release, Sweep


def sweep(*faults: str, outcomes: tuple[Outcome, ...] = ()) -> Sweep:
    hold = Hold(tgid=77, cgroup_id=5, since=1, start=0)
    return Sweep(tuple(Release(Path("/pins"), hold, 9, outcome) for outcome in outcomes), faults)


def test_releases_are_told_and_each_fault_once_while_it_lasts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    told = Releases()
    told.tell(sweep("one", outcomes=(Outcome.KILLED, Outcome.MOVED)))
    told.tell(sweep("one", outcomes=(Outcome.MOVED,)), sweep("two"))
    told.tell(sweep())
    told.tell(sweep("one"))
    assert [(record.levelname, vars(record)["fields"].get("error")) for record in caplog.records] == [
        ("WARNING", None),
        ("ERROR", "/pins: process 77 in cgroup 5: moved"),
        ("ERROR", "one"),
        ("ERROR", "two"),
        ("ERROR", "one"),
    ]
