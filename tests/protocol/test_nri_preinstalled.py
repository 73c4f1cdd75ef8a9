# SPDX-License-Identifier: Apache-2.0
"""``podgate-nri`` as a runtime starts it: a connected descriptor, three variables, no arguments, /dev/null."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nri_plugin.api import nri_pb2
from nri_plugin.ttrpc import Code, mux_frames
from tests.protocol.fakes import (
    GENERATIONS,
    PATIENCE_S,
    FakeAgent,
    RuntimeSide,
    configure_message,
    make_container,
)
from tests.support.names import project_dir

# Not -m: the working directory is the runtime's. The log's default path is not for tests.
SCRIPT = """
import sys
sys.path.insert(0, {project!r})
import nri_plugin.main as command
command.DEFAULT_LOG_FILE = {log!r}
command.main()
"""


@dataclass(frozen=True, slots=True)
class Launched:
    """A plugin process and the runtime's end of its connection."""

    process: subprocess.Popen[bytes]
    side: RuntimeSide
    log: Path

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        path = path or self.log
        texts = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, texts) if line["event"] != "priority_not_set"]


@contextlib.contextmanager
def launched(folder: Path, log: Path, **changes: str) -> Iterator[Launched]:
    """As containerd does it: one descriptor, no PATH, everything else closed or /dev/null."""
    ours, theirs = socket.socketpair()
    variables = {"NRI_PLUGIN_NAME": "podgate", "NRI_PLUGIN_IDX": "07", "NRI_PLUGIN_SOCKET": str(theirs.fileno())}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT.format(project=str(project_dir()), log=str(log))],
            env=variables | changes,
            cwd=folder,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield Launched(process, RuntimeSide(ours), log)
    finally:
        ours.close()
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "default.log"


def settings(**values: Path) -> str:
    return "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in values.items())


def bring_up(launched: Launched, config: str) -> None:
    launched.side.bring_up(configure=configure_message(config=config))


def test_it_serves_on_the_descriptor_with_the_configuration_that_the_runtime_hands_over(
    tmp_path: Path, agent: FakeAgent, log: Path
) -> None:
    moved, rule = tmp_path / "moved.log", tmp_path / "rule"
    rule.write_text("namespace shop closed\n")
    text = settings(agent_socket=agent.path, failure_rule=rule, log_file=moved, pin_dir=tmp_path / "pins")
    with launched(tmp_path, log) as plugin:
        request = plugin.side.next_request()
        register = nri_pb2.RegisterPluginRequest.FromString(request.payload)
        assert (register.plugin_name, register.plugin_idx) == ("podgate", "07")
        plugin.side.answer(request.stream_id)
        assert plugin.side.call("Configure", configure_message(config=text)).code is Code.OK
        assert plugin.side.call("Synchronize").code is Code.OK
        assert plugin.side.call(*GENERATIONS[0].start(make_container())).code is Code.OK
        assert plugin.side.call(*GENERATIONS[0].start(make_container(pid=0))).code is Code.INVALID_ARGUMENT
        plugin.side.sock.close()
        assert plugin.process.wait(PATIENCE_S) == 0
        events = [line["event"] for line in plugin.lines(moved)]
    assert events == [
        "failure_rule",
        "agent_synchronized",
        "nri_ready",
        "start_container",
        "start_container",
        "nri_lost",
    ]
    assert plugin.lines() == []


def test_without_a_configuration_the_defaults_hold(tmp_path: Path, log: Path) -> None:
    with launched(tmp_path, log) as plugin:
        bring_up(plugin, "")
        os.kill(plugin.process.pid, signal.SIGTERM)
        assert plugin.process.wait(PATIENCE_S) == 0
    ready = next(line for line in plugin.lines() if line["event"] == "nri_ready")
    assert str(ready["socket"]).startswith("descriptor ")
    assert [line["file"] for line in plugin.lines() if line["event"] == "failure_rule"] == ["/etc/podgate/failure-rule"]
    assert "/run/podgate/agent.sock" in next(line["reason"] for line in plugin.lines() if line["event"] == "agent_lost")


BROKEN = {
    "not YAML": "agent-socket: [",
    "not a mapping": "- agent-socket",
    "a relative path": "agent-socket: agent.sock",
    "a number": "pin-dir: 3",
    "deep": "[" * 60_000,
    "too long": "#" * 70_000,
    "a log that cannot be opened": "log-file: /proc/nothing/log",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_configuration_that_cannot_be_read_is_told_and_the_plugin_serves(
    tmp_path: Path, log: Path, text: str
) -> None:
    with launched(tmp_path, log) as plugin:
        bring_up(plugin, text)
        assert plugin.side.call(*GENERATIONS[0].start(make_container(pid=0))).code is Code.OK
        plugin.side.sock.close()
        assert plugin.process.wait(PATIENCE_S) == 0
    assert [line["level"] for line in plugin.lines() if line["event"] == "config_fault"] == ["error"]


def test_what_can_be_read_of_a_configuration_counts(tmp_path: Path, agent: FakeAgent, log: Path) -> None:
    with launched(tmp_path, log) as plugin:
        bring_up(plugin, settings(agent_socket=agent.path, failure_roule=tmp_path))
        agent.await_requests("Synchronize")
    [fault] = [line["fault"] for line in plugin.lines() if line["event"] == "config_fault"]
    assert fault == "unknown key 'failure-roule'; known: agent-socket, failure-rule, log-file, pin-dir"


def test_it_ends_when_the_runtime_breaks_the_protocol(tmp_path: Path, log: Path) -> None:
    with launched(tmp_path, log) as plugin:
        bring_up(plugin, "")
        plugin.side.sock.sendall(mux_frames(9, b"x"))
        plugin.side.read_to_end()
        assert plugin.process.wait(PATIENCE_S) == 0
    assert plugin.lines()[-1]["event"] == "nri_lost"


WRONG = {
    "no descriptor": {"NRI_PLUGIN_SOCKET": "x"},
    "a closed descriptor": {"NRI_PLUGIN_SOCKET": "99"},
    "no socket": {"NRI_PLUGIN_SOCKET": "0"},
    "no index": {"NRI_PLUGIN_IDX": "7"},
    "no name": {"NRI_PLUGIN_NAME": "a b"},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_an_environment_that_no_runtime_makes_is_told_and_ends_it(
    tmp_path: Path, log: Path, changes: dict[str, str]
) -> None:
    with launched(tmp_path, log, **changes) as plugin:
        assert plugin.process.wait(PATIENCE_S) == 2
    [line] = plugin.lines()
    assert (line["event"], line["level"]) == ("cannot_start", "error")


def test_a_log_that_cannot_be_opened_does_not_keep_it_from_serving(tmp_path: Path, agent: FakeAgent) -> None:
    with launched(tmp_path, tmp_path / "no" / "log") as plugin:
        bring_up(plugin, settings(agent_socket=agent.path))
        agent.await_requests("Synchronize")
