# SPDX-License-Identifier: Apache-2.0
"""What hooks decided without the agent: every line is counted once, whenever it was written, and whatever it is."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.hooks import spool as module
from agent.hooks.spool import MAX_SPOOL, MAX_TOLD, Spool


def line(outcome: str = "open", **values: Any) -> str:
    return json.dumps({"stage": "createContainer", "namespace": "shop", "outcome": outcome} | values) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hook.log"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    return caplog


def collect_all(spool: Spool) -> int:
    """What is written by now: at one look it is renamed, at the next it is read."""
    return spool.collect() + spool.collect()


def test_nothing_was_decided_without_a_file(path: Path) -> None:
    spool = Spool(path)
    assert collect_all(spool) == 0
    assert not spool.outcomes


def test_decisions_are_counted_and_told(path: Path, log: pytest.LogCaptureFixture) -> None:
    path.write_text(line("open") + line("closed") + line("quarantined", container_id="c9") + line("open"))
    spool = Spool(path)
    assert collect_all(spool) == 4
    assert spool.outcomes == {"open": 2, "closed": 1, "quarantined": 1}
    assert [record.getMessage() for record in log.records] == ["a hook decided without the agent"] * 4
    assert log.records[2].__dict__["fields"]["container_id"] == "c9"
    assert os.listdir(path.parent) == []


def test_a_hook_that_has_the_file_open_loses_nothing(path: Path) -> None:
    """It opened it before it was renamed, and writes after that."""
    path.write_text(line())
    spool = Spool(path)
    with path.open("a") as hook:
        assert spool.collect() == 0
        hook.write(line("closed"))
    path.write_text(line("quarantined"))
    assert collect_all(spool) == 3
    assert spool.outcomes == {"open": 1, "closed": 1, "quarantined": 1}


def test_what_an_agent_before_did_not_read_is_read(path: Path) -> None:
    path.with_name("hook.log.taken").write_text(line("closed"))
    path.write_text(line("open"))
    spool = Spool(path)
    assert spool.collect() == 1
    assert spool.collect() == 1
    assert spool.outcomes == {"open": 1, "closed": 1}


@pytest.mark.parametrize(
    "text",
    ["no json", "[]", "7", '"outcome"', "{}", '{"outcome": "maybe"}', '{"outcome": ["open"]}', "[" * 100_000, "\xff{"],
    ids=lambda text: text[:20],
)
def test_a_line_that_says_nothing_is_counted_as_unreadable(path: Path, text: str) -> None:
    path.write_text(text + "\n" + line("open"), encoding="latin-1")
    spool = Spool(path)
    assert collect_all(spool) == 2
    assert spool.outcomes == {"unreadable": 1, "open": 1}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=300))
def test_junk_is_counted_line_by_line(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    spool = Spool(path)
    assert collect_all(spool) == len(data.splitlines()) == sum(spool.outcomes.values())


def test_an_outage_of_a_busy_node_does_not_flood_the_log(path: Path, log: pytest.LogCaptureFixture) -> None:
    path.write_text(line() * (MAX_TOLD + 50))
    spool = Spool(path)
    assert collect_all(spool) == spool.outcomes["open"] == MAX_TOLD + 50
    assert len(log.records) == MAX_TOLD


def test_a_file_that_is_too_large_is_read_to_the_limit_and_told(
    path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_SPOOL >= 1 << 20
    monkeypatch.setattr(module, "MAX_SPOOL", len(line()) * 2)
    path.write_text(line() * 3)
    spool = Spool(path)
    assert collect_all(spool) == 2
    assert spool.outcomes == {"open": 2, "unreadable": 1}
    assert "larger than" in log.records[0].__dict__["fields"]["reason"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_is_told_and_goes(path: Path, log: pytest.LogCaptureFixture, kind: str) -> None:
    target = path.with_name("secret")
    target.write_text(line("closed"))
    if kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    spool = Spool(path)
    assert collect_all(spool) == 0
    assert spool.outcomes == {"unreadable": 1}
    assert [record.getMessage() for record in log.records] == ["what hooks decided cannot be read"]
    assert os.listdir(path.parent) == ["secret"]
