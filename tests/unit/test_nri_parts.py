# SPDX-License-Identifier: Apache-2.0
"""The plugin's small parts: backoff, decisions, the table of known containers, log lines, the command line."""

import json
import logging
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from nri_plugin import known
from nri_plugin import main as command
from nri_plugin.backoff import Backoff
from nri_plugin.config import OnAgentDown, PluginConfig
from nri_plugin.containers import Subject
from nri_plugin.decision import MAX_REASON, Outcome, decide
from nri_plugin.known import KnownContainers
from nri_plugin.logfmt import JsonFormatter
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.errors import AgentRefused, AgentUnreachable

SUBJECT = Subject("c1", "web-0", "shop")


def test_backoff_doubles_to_its_cap_and_starts_over() -> None:
    backoff = Backoff(0.1, 0.5)
    assert backoff.left(10.0) == 0
    assert [backoff.failed(10.0) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert backoff.left(10.2) == pytest.approx(0.3)
    assert backoff.left(11.0) == 0
    backoff.reset()
    assert backoff.left(10.0) == 0
    assert backoff.failed(10.0) == 0.1


def test_a_bound_container_starts() -> None:
    decision = decide(SUBJECT, hook_pb2.BindResponse(cgroup_id=7, policies=2), OnAgentDown.CLOSED)
    assert decision.starts
    fields = decision.fields(250)
    assert (fields["outcome"], fields["cgroup_id"], fields["policies"], fields["hook_us"]) == ("bound", 7, 2, 250)


def test_a_refusal_is_never_unimplemented_to_the_runtime() -> None:
    """NRI 0.12 takes that code for "ask again as StateChange"."""
    decision = decide(SUBJECT, AgentRefused(Code.UNIMPLEMENTED, "old agent"), OnAgentDown.OPEN)
    assert not decision.starts
    assert (decision.outcome, decision.code) == (Outcome.REFUSED, Code.FAILED_PRECONDITION)
    assert decision.reason == "UNIMPLEMENTED: old agent"


def test_a_down_agent_is_answered_as_configured() -> None:
    down = AgentUnreachable("/sock", "refused")
    opened, closed = (decide(SUBJECT, down, choice) for choice in (OnAgentDown.OPEN, OnAgentDown.CLOSED))
    assert opened.starts
    assert "unguarded" in opened.reason
    assert (closed.outcome, closed.code) == (Outcome.AGENT_DOWN_CLOSED, Code.UNAVAILABLE)


def test_a_long_reason_is_cut() -> None:
    decision = decide(SUBJECT, AgentRefused(Code.INTERNAL, "x" * 5000), OnAgentDown.OPEN)
    assert len(decision.reason) == MAX_REASON


def test_known_containers_are_told_as_running_once_started() -> None:
    table = KnownContainers()
    assert not table.complete
    table.replace([hook_pb2.Container(id="a", phase=hook_pb2.PHASE_HELD)])
    table.add_started(hook_pb2.Container(id="b", phase=hook_pb2.PHASE_HELD))
    assert table.complete
    assert [(c.id, c.phase) for c in table.containers] == [("a", hook_pb2.PHASE_HELD), ("b", hook_pb2.PHASE_RUNNING)]
    table.remove("a")
    table.remove("never seen")
    assert [container.id for container in table.containers] == ["b"]


def test_known_containers_are_bounded() -> None:
    table = KnownContainers()
    with patch.object(known, "MAX_CONTAINERS", 1):
        assert table.has_room("a")
        table.add_started(hook_pb2.Container(id="a"))
        assert table.has_room("a")
        assert not table.has_room("b")


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("podgate.nri", logging.ERROR, __file__, 1, "agent_lost", None, None)
    record.fields = {"reason": "two\nlines", "path": Path("/x")}
    text = JsonFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text
    assert line.pop("ts").endswith("+00:00")
    assert line == {"level": "error", "event": "agent_lost", "reason": "two\nlines", "path": "/x"}


@pytest.mark.parametrize("arguments", [["--index", "1"], ["--index", "1x"], ["--index", "١٢"], ["--name", "a b"]])
def test_what_the_runtime_would_refuse_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 2
    assert arguments[1] in result.output


def test_options_reach_the_plugin(tmp_path: Path) -> None:
    with (
        patch.object(command, "run_plugin") as run,
        patch.object(command, "raise_priority") as raised,
        patch.object(command, "configure_logging"),
    ):
        arguments = ["--nri-socket", "/n", "--agent-socket", "/a", "--index", "05", "--on-agent-down", "closed"]
        result = CliRunner().invoke(command.main, [*arguments, "--log-file", str(tmp_path / "log")])
    assert result.exit_code == 0
    run.assert_called_once_with(PluginConfig("/n", "/a", "podgate", "05", OnAgentDown.CLOSED))
    raised.assert_called_once_with(-10, realtime=True)
