# SPDX-License-Identifier: Apache-2.0
"""``podgate-nri`` as a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nri_plugin.ttrpc import Code
from tests.protocol.fakes import PATIENCE_S, FakeAgent, FakeRuntime, make_container, start_event

PLUGIN_PYTHON = [sys.executable, "-W", "error", "-m", "nri_plugin.main"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_exit_code_0(
    tmp_path: Path, runtime: FakeRuntime, agent: FakeAgent, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    rule, pins = tmp_path / "rule", tmp_path / "pins"
    sockets = ["--nri-socket", str(runtime.path), "--agent-socket", str(agent.path)]
    arguments = [*sockets, "--failure-rule", str(rule), "--pin-dir", str(pins), "--log-file", str(log)]
    with subprocess.Popen([*PLUGIN_PYTHON, *arguments, "--nice", "1"], stderr=subprocess.PIPE) as process:
        side = runtime.accept()
        side.bring_up()
        assert side.call("StateChange", start_event(make_container())).code is Code.OK
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 1
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (0, b"")
    # Whether the machine grants real-time scheduling is not this test's question.
    lines = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] != "priority_not_set"]
    assert [line["event"] for line in lines] == ["failure_rule", "agent_synchronized", "nri_ready", "start_container"]
    assert (lines[0]["file"], lines[3]["outcome"]) == (str(rule), "bound")


def test_a_log_file_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    command = [*PLUGIN_PYTHON, "--log-file", str(tmp_path / "no" / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "No such file" in done.stderr


def drop_nice() -> None:
    """Without CAP_SYS_NICE, as an ordinary user."""
    os.setuid(65534)


def test_it_runs_without_the_right_to_a_nice_value() -> None:
    """In a process without the right, so that the failure is the kernel's own."""
    if os.getuid():
        drop: Callable[[], None] | None = None
    else:
        drop = drop_nice
    script = "from nri_plugin.main import *; configure_logging(None); raise_priority(-10, realtime=True)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True, preexec_fn=drop)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} == {"priority_not_set"}
    reasons = [line["reason"] for line in lines]
    assert any(reason.startswith("nice -10: ") for reason in reasons)
    assert any(reason.startswith("SCHED_RR: ") for reason in reasons)
