# SPDX-License-Identifier: Apache-2.0
"""The plugin's small parts: backoff, decisions, the table of known containers, log lines, the command line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nri_plugin import known
from nri_plugin import main as command
from nri_plugin.backoff import Backoff
from nri_plugin.budget import ASSUMED_TIMEOUT_S, BIND, MIN_CALL_S, MIN_TIMEOUT_S, Budget
from nri_plugin.config import PluginConfig, Settings, parse_settings
from nri_plugin.containers import Subject
from nri_plugin.decision import (
    MAX_REASON,
    Cause,
    Decision,
    Failure,
    Outcome,
    admit,
    classify,
    close,
    open_unguarded,
    quarantine,
)
from nri_plugin.known import KnownContainers
from nri_plugin.logfmt import JsonFormatter, make_handler
from nri_plugin.preinstalled import Preinstalled, parse_environment
from nri_plugin.stats import Statistics
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.errors import AgentRefused, AgentUnreachable
from rthook.latency import BOUNDS_US

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
    decision = admit(SUBJECT, hook_pb2.BindResponse(cgroup_id=7, policies=2))
    assert (decision.starts, decision.code) == (True, Code.OK)
    fields = decision.fields(250, 2_000_000)
    assert (fields["outcome"], fields["cause"], fields["cgroup_id"], fields["policies"]) == ("bound", None, 7, 2)
    assert (fields["hook_us"], fields["headroom_us"]) == (250, 1_999_750)


def test_a_refusal_is_never_unimplemented_to_the_runtime() -> None:
    """NRI 0.12 takes that code for "ask again as StateChange"."""
    decision = close(SUBJECT, classify(AgentRefused(Code.UNIMPLEMENTED, "old agent")))
    assert not decision.starts
    assert (decision.cause, decision.code) == (Cause.REFUSED, Code.FAILED_PRECONDITION)
    assert decision.reason == "UNIMPLEMENTED: old agent"


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_closes_with_an_error_that_is_not_asked_again(cause: Cause) -> None:
    code = close(SUBJECT, Failure(cause, "why")).code
    assert code not in (Code.OK, Code.UNIMPLEMENTED)


def test_what_starts_without_the_agent_says_how() -> None:
    failure = classify(AgentUnreachable("/sock", "refused"))
    opened, quarantined = open_unguarded(SUBJECT, failure), quarantine(SUBJECT, failure, 7)
    assert (opened.starts, opened.outcome, opened.cause) == (True, Outcome.OPEN, Cause.AGENT_DOWN)
    assert opened.reason == "started unguarded: agent at /sock: refused"
    assert (quarantined.starts, quarantined.outcome) == (True, Outcome.QUARANTINED)
    assert quarantined.reason == "started in quarantine: agent at /sock: refused"
    assert quarantined.binding.cgroup_id == 7


@pytest.mark.parametrize("make", [open_unguarded, close])
def test_a_long_reason_is_cut(make: Callable[[Subject, Failure], Decision]) -> None:
    assert len(make(SUBJECT, Failure(Cause.REFUSED, "x" * 5000)).reason) == MAX_REASON


@pytest.mark.parametrize("told_s", [0.0, 0.02, 0.125, 0.5, 2.0, 60.0])
def test_the_shares_of_the_patience_fit_together(told_s: float) -> None:
    """A chore was under way when the call came, then the agent's part: what is left is for the rest."""
    budget = Budget(told_s)
    for chore_s in (0.0, budget.report_s, budget.housekeeping_s):
        assert chore_s + budget.bind_left(chore_s) < budget.answer_s < budget.timeout_s
        assert chore_s + budget.synchronize_left(chore_s) < budget.answer_s
    assert budget.bind_left(budget.housekeeping_s) == budget.bind_left(0.0) == BIND * budget.timeout_s
    assert budget.bind_left(10 * budget.timeout_s) == MIN_CALL_S


@pytest.mark.parametrize(
    ("told_s", "timeout_s", "is_short"),
    [
        (0.0, ASSUMED_TIMEOUT_S, False),
        (0.01, MIN_TIMEOUT_S, True),
        (MIN_TIMEOUT_S, MIN_TIMEOUT_S, False),
        (5, 5, False),
    ],
)
def test_a_patience_has_a_floor_and_a_default(told_s: float, timeout_s: float, is_short: bool) -> None:
    budget = Budget(told_s)
    assert (budget.timeout_s, budget.is_short) == (timeout_s, is_short)


def test_settings_replace_what_they_name() -> None:
    settings = parse_settings("agent-socket: /a\nfailure-rule: /f\npin-dir: /p\nlog-file: /l\n")
    assert settings == Settings("/a", Path("/f"), "/l", Path("/p"))
    config = settings.apply(PluginConfig(name="n"))
    assert config == PluginConfig(name="n", agent_socket="/a", failure_rule=Path("/f"), pin_dir=Path("/p"))
    assert parse_settings("").apply(config) == parse_settings("# nothing\n").apply(config) == config


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: b", "unknown key 'a'"),
        ("1: b", "unknown key '1'"),
        ("pin-dir: p", "pin-dir is not an absolute path: 'p'"),
        ("pin-dir: [/p]", "pin-dir is not an absolute path"),
        ('pin-dir: "/p\\0"', "pin-dir is not an absolute path"),
        ("pin-dir: /" + "p" * 4096, "pin-dir is not an absolute path"),
        ("pin-dir", "a str, not a mapping"),
        ("{", "not YAML: "),
        ("\x01", "not YAML: "),
        ("[" * 50_000, "not readable as YAML: "),
        ("#" * 70_000, "70000 characters, limit 65536"),
        ("2026-99-99", "not readable as YAML: "),
    ],
)
def test_settings_that_cannot_be_read_are_faults(text: str, fault: str) -> None:
    settings = parse_settings(text)
    assert settings.apply(PluginConfig()) == PluginConfig()
    [found] = settings.faults
    assert found.startswith(fault)


@given(st.text(max_size=200))
def test_junk_is_settings(text: str) -> None:
    assert isinstance(parse_settings(text), Settings)


def test_the_environment_of_a_runtime_is_recognised() -> None:
    environment = {"NRI_PLUGIN_SOCKET": "3", "NRI_PLUGIN_NAME": "podgate", "NRI_PLUGIN_IDX": "10"}
    assert parse_environment(environment) == Preinstalled(3, "podgate", "10")
    assert parse_environment({"NRI_PLUGIN_NAME": "podgate"}) is None


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


def test_known_containers_are_bounded_and_sandboxes_take_no_room_of_theirs() -> None:
    table = KnownContainers()
    first, second = hook_pb2.Container(id="a"), hook_pb2.Container(id="b")
    sandbox = hook_pb2.Container(id="s", kind=hook_pb2.KIND_SANDBOX)
    with patch.object(known, "MAX_CONTAINERS", 1), patch.object(known, "MAX_SANDBOXES", 1):
        assert table.has_room(first)
        table.add_started(first)
        assert table.has_room(first)
        assert not table.has_room(second)
        assert table.has_room(sandbox)
        table.add_started(sandbox)
        assert not table.has_room(hook_pb2.Container(id="t", kind=hook_pb2.KIND_SANDBOX))
    assert [container.id for container in table.containers] == ["s", "a"]
    table.remove("s")
    assert [container.id for container in table.containers] == ["a"]


def test_statistics_are_what_was_observed() -> None:
    statistics = Statistics()
    statistics.observe("StartContainer", 300, "bound", timeout_us=2_000_000, succeeded_at_us=77)
    statistics.observe("StartContainer", 900_000, "open", timeout_us=2_000_000, succeeded_at_us=0)
    assert statistics.revision == 2
    request = statistics.make_request()
    assert request.door == "nri"
    [stage] = request.stages
    assert (stage.stage, stage.sum_us, stage.max_us, stage.timeout_us) == (
        "StartContainer",
        900_300,
        900_000,
        2_000_000,
    )
    assert (stage.last_success_us, dict(stage.outcomes)) == (77, {"bound": 1, "open": 1})
    assert [bound for bound, count in zip(BOUNDS_US, stage.buckets, strict=False) if count] == [500, 1_000_000]


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("podgate.nri", logging.ERROR, __file__, 1, "agent_lost", None, None)
    record.fields = {"reason": "two\nlines", "path": Path("/x")}
    text = JsonFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text
    assert line.pop("ts").endswith("+00:00")
    assert line == {"level": "error", "event": "agent_lost", "reason": "two\nlines", "path": "/x"}


def test_a_log_whose_directory_goes_does_not_stop_the_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    logger = logging.Logger("test")
    handler = make_handler(str(folder / "file"))
    logger.addHandler(handler)
    logger.error("first")
    (folder / "file").unlink()
    folder.rmdir()
    logger.error("lost")
    folder.mkdir()
    logger.error("second")
    handler.close()
    assert json.loads((folder / "file").read_text())["event"] == "second"
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--index", "1"], ["--index", "1x"], ["--index", "١٢"], ["--name", "a b"]])
def test_what_the_runtime_would_refuse_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 2
    assert arguments[1] in result.output


def test_options_reach_the_plugin(tmp_path: Path) -> None:
    with (
        patch.object(command, "run_plugin") as run,
        patch.object(command, "raise_priority") as raised,
        patch.object(command, "configure_logging") as configured,
    ):
        paths = ["--nri-socket", "/n", "--agent-socket", "/a", "--failure-rule", "/f", "--pin-dir", "/p"]
        arguments = [*paths, "--index", "05", "--log-file", str(tmp_path / "log")]
        result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 0
    run.assert_called_once_with(PluginConfig("/n", "/a", "podgate", "05", Path("/f"), Path("/p")))
    raised.assert_called_once_with(-10, realtime=True)
    configured.assert_called_once_with(str(tmp_path / "log"))


def test_an_error_that_nobody_thought_of_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with patch.object(command, "Plugin") as made, patch("signal.signal"):
        made.return_value.run.side_effect = KeyError("odd")
        with pytest.raises(KeyError):
            command.run_plugin(PluginConfig())
    [record] = caplog.records
    assert (record.getMessage(), record.levelno) == ("ended_by_an_error", logging.CRITICAL)
    assert record.exc_info
