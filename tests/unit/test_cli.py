# SPDX-License-Identifier: Apache-2.0
"""The command podgate outside of its policies: output, exit status. The agent is a few answers on a socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.api import control_pb2
from agent.cli.main import main
from agent.hooks.server import listen
from tests.support.stage import Stage

_EVENT = b'{"type":"policy","n":%d}\n'


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "args",
    [
        ("policy", "check"),
        ("policy", "list", "-o", "xml"),
        ("policy", "set-mode", "x", "off"),
        ("events", "--count", "0"),
        ("boom",),
    ],
)
def test_a_wrong_usage_has_a_status_of_its_own(stage: Stage, args: tuple[str, ...]) -> None:
    assert stage.run(*args).exit_code == 2


@pytest.mark.parametrize(
    "args",
    [("policy", "list"), ("policy", "delete", "x"), ("policy", "set-mode", "x", "monitor"), ("status",), ("events",)],
)
def test_without_an_agent_the_status_says_so_and_what_to_do(stage: Stage, args: tuple[str, ...]) -> None:
    result = stage.run(*args)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"no agent at {stage.run_dir}/")
    assert "start podgate-agent, or name its --run-dir" in result.stderr


def test_an_agent_that_hangs_up_is_no_agent(stage: Stage) -> None:
    listener = listen(stage.run_dir / "agent.sock")

    def hang_up() -> None:
        listener.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    result = stage.run("policy", "list")
    thread.join()
    listener.close()
    assert result.exit_code == 3
    assert str(stage.run_dir / "agent.sock") in result.stderr


def test_the_status_of_the_agent_is_printed(stage: Stage) -> None:
    answer = control_pb2.GetStatusResponse(pid=77, counters={"armed": 3})
    stage.serve("GetStatus", lambda: answer)
    fields = json.loads(stage.run("status", "-o", "json").stdout)
    assert (fields["pid"], fields["counters"]) == (77, {"armed": "3"})
    table = stage.run("status").stdout.splitlines()
    assert ["counters", '{"armed":', '"3"}'] in [row.split() for row in table]


def test_the_stages_of_a_status_are_a_table_in_milliseconds(stage: Stage) -> None:
    whole = control_pb2.Stage(
        door="nri", stage="start", count=4, p50_us=500, p99_us=2500, max_us=12_345, timeout_us=2_000_000,
        headroom_us=1_987_655, last_success_us=1_700_000_000_000_000, outcomes={"refused": 1, "bound": 3},
    )  # fmt: skip
    new = control_pb2.Stage(door="agent", stage="hold")
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(pid=77, stages=[whole, new]))
    lines = stage.run("status").stdout.splitlines()
    assert not any(line.startswith("stages") for line in lines)
    header = ["BY", "STAGE", "COUNT", "P50", "MS", "P99", "MS", "MAX", "MS", "HEADROOM", "MS", "LAST", "SUCCESS"]
    assert (lines[-4], lines[-3].split()) == ("", [*header, "OUTCOMES"])
    success = "2023-11-14T22:13:20+00:00"
    assert lines[-2].split() == ["nri", "start", "4", "0.50", "2.50", "12.35", "1988", success, "bound=3", "refused=1"]
    assert lines[-1].split() == ["agent", "hold", "0", "0.00", "0.00", "0.00", "-", "-"]
    rows = json.loads(stage.run("status", "-o", "json").stdout)["stages"]
    assert [(row["door"], row["headroom_us"]) for row in rows] == [("nri", "1987655"), ("agent", "0")]


def test_everything_that_is_hooked_is_a_table(stage: Stage) -> None:
    hook = control_pb2.HookStatus(
        kind="syscall", name="openat", through=["tracepoint a", "tracepoint b"], programs=2, instructions=812, missed=3
    )
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(pid=77, hooks=[hook]))
    lines = stage.run("status").stdout.splitlines()
    assert not any(line.startswith("hooks") for line in lines)
    assert lines[-3:-1] == ["", "KIND     NAME    THROUGH                     PROGRAMS    INSTRUCTIONS    MISSED"]
    assert lines[-1].split() == ["syscall", "openat", "tracepoint", "a,", "tracepoint", "b", "2", "812", "3"]
    (row,) = json.loads(stage.run("status", "-o", "json").stdout)["hooks"]
    assert (row["through"], row["missed"]) == (["tracepoint a", "tracepoint b"], "3")


def test_a_status_without_hooks_has_no_table_of_them(stage: Stage) -> None:
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(pid=77))
    assert "THROUGH" not in stage.run("status").stdout


def test_a_stage_that_overran_its_callers_patience_says_by_how_much(stage: Stage) -> None:
    late = control_pb2.Stage(door="nri", stage="start", timeout_us=1, headroom_us=-3_000_000)
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(stages=[late]))
    assert "-3000" in stage.run("status").stdout.splitlines()[-1].split()


def test_a_status_without_stages_has_no_table_of_them(stage: Stage) -> None:
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(pid=77))
    assert "HEADROOM" not in stage.run("status").stdout


def test_coverage_is_there_once_a_start_was_seen(stage: Stage) -> None:
    answer = control_pb2.GetStatusResponse(pid=77)
    stage.serve("GetStatus", lambda: answer)
    assert "hook_coverage_ratio" not in json.loads(stage.run("status", "-o", "json").stdout)
    answer.hook_coverage_ratio = 0.0
    assert json.loads(stage.run("status", "-o", "json").stdout)["hook_coverage_ratio"] == 0.0


def test_unannounced_containers_count_as_events(stage: Stage) -> None:
    unannounced = b'{"type":"unannounced","outcome":"identified"}\n'
    stage.stream(unannounced, b'{"type":"lost","count":1}\n', _EVENT % 1, _EVENT % 2)
    result = stage.run("events", "--count", "2")
    assert result.exit_code == 0
    assert result.stdout_bytes == unannounced + b'{"type":"lost","count":1}\n' + _EVENT % 1


def test_events_are_printed_as_they_come_up_to_a_count(stage: Stage) -> None:
    lost = b'{"type":"lost","count":4}\n'
    whole = _EVENT % 1 + lost + _EVENT % 2 + _EVENT % 3
    stage.stream(whole[:10], whole[10:-5], whole[-5:])
    result = stage.run("events", "--count", "2")
    assert (result.exit_code, result.stderr) == (0, "listening\n")
    assert result.stdout_bytes == _EVENT % 1 + lost + _EVENT % 2


def test_too_few_events_in_time_are_a_failure_that_says_how_many(stage: Stage) -> None:
    stage.stream(_EVENT % 1)
    result = stage.run("events", "--count", "2", "--timeout", "0.3")
    assert (result.exit_code, result.stdout_bytes) == (1, _EVENT % 1)
    assert result.stderr == "listening\n1 of 2 events came, then none for 0.3 s\n"


def test_a_quiet_time_ends_events_without_a_count(stage: Stage) -> None:
    stage.stream(_EVENT % 1)
    result = stage.run("events", "--timeout", "0.3")
    assert (result.exit_code, result.stdout_bytes) == (0, _EVENT % 1)


def test_an_event_process_that_ends_is_no_agent(stage: Stage) -> None:
    stage.stream(_EVENT % 1, keep=False)
    result = stage.run("events")
    assert (result.exit_code, result.stdout_bytes) == (3, _EVENT % 1)
    assert result.stderr == "listening\nthe agent ended the stream\n"


def test_the_run_directory_can_come_from_the_environment(stage: Stage) -> None:
    stage.serve("ListPolicies", control_pb2.ListPoliciesResponse)
    result = CliRunner().invoke(main, ["policy", "list"], env={"PODGATE_RUN_DIR": str(stage.run_dir)})
    assert (result.exit_code, stage.control.calls) == (0, [("ListPolicies", b"")])


def test_a_socket_that_nobody_listens_on_is_no_agent(stage: Stage) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(stage.run_dir / "agent.sock"))
    dead.close()
    assert "Connection refused" in stage.run("status").stderr
