# SPDX-License-Identifier: Apache-2.0
"""The agent's housekeeping: one part that fails ends neither the others nor the agent."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from agent.app import Agent
from agent.config import Config
from rthook.held import Sweep


def test_housekeeping_goes_on_past_a_step_that_fails(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """A defect in it must not take enforcement down with it."""
    agent = Agent(Config())
    done: list[str] = []

    class Feed:
        def check(self) -> None:
            done.append("feed")

    def fail() -> None:
        raise KeyError("a defect")

    agent._feed = Feed()  # type: ignore[assignment]
    monkeypatch.setattr(agent, "_release_previous", fail)
    monkeypatch.setattr(agent, "_sweep_gate", lambda: done.append("gate"))
    monkeypatch.setattr(agent, "_report_losses", lambda: done.append("losses"))
    monkeypatch.setattr(agent, "_look_at_doors", lambda: done.append("doors"))
    monkeypatch.setattr(agent, "_collect_spool", lambda: done.append("spool"))
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    with caplog.at_level(logging.ERROR, logger="podgate.agent"):
        agent._sweep()
    assert done == ["gate", "feed", "losses", "doors", "spool"]
    assert [record.getMessage() for record in caplog.records] == ["housekeeping failed"]


@pytest.mark.parametrize(("marked", "calls"), [(True, 1), (False, 0)])
def test_only_a_mount_of_ours_is_taken_down(tmp_path: Path, monkeypatch: Any, marked: bool, calls: int) -> None:
    """The mark may be that of an agent that crashed."""
    mark, released = tmp_path / "bpffs-mounted", list[bool]()
    if marked:
        mark.touch()

    def release() -> bool:
        released.append(True)
        return True

    monkeypatch.setattr("agent.app.release_bpffs", release)
    Agent(Config(run_dir=tmp_path))._release_bpffs(mark)
    assert (len(released), mark.exists()) == (calls, False)


def test_a_hold_that_cannot_be_ended_is_told_when_an_earlier_agents_rules_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And it is not told again when the sweep before that had met it."""

    class Pins:
        previous = tmp_path

        def release_previous(self) -> int:
            return 2

    agent = Agent(Config(pin_dir=tmp_path))
    agent._pins = Pins()  # type: ignore[assignment]
    agent._bindings = None  # type: ignore[assignment]
    (tmp_path / "1").mkdir()
    monkeypatch.setattr("agent.app.find_left", lambda *_: ())
    monkeypatch.setattr("agent.app.release_all", lambda generation: Sweep((), (f"{generation.name}: refused",)))
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    for _ in range(2):
        agent._end_previous(synchronized=True)
    assert [record.getMessage() for record in caplog.records] == [
        "what an earlier agent held could not be released",
        "an earlier agent's rules end here",
        "an earlier agent's rules end here",
    ]
