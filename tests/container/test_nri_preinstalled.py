# SPDX-License-Identifier: Apache-2.0
"""podgate-nri in the runtime's plugin directory: started by it, configured by it, ended with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.container.stage import KILL_LSEEK, KILLED, NOT_STOPPED, SLEEP, Pods, Stage, policy_text
from tests.support.agent import AgentProcess, command
from tests.support.node import Node, Runtime
from tests.support.system import is_running
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

STOPPED = (KILLED, "")
FREE = (0, NOT_STOPPED)
SETTLE_S = 20.0
PLUGIN = "07-podgate"


@dataclass(frozen=True, slots=True)
class Installed:
    """A node with the plugin in its directory. containerd starts it when it starts itself."""

    node: Node
    log: Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        texts = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in map(json.loads, texts) if line["event"] == event]

    def await_ready(self, count: int) -> dict[str, Any]:
        wait_until(lambda: len(self.lines("nri_ready")) >= count, SETTLE_S, f"nri_ready in {self.log}")
        return self.lines("nri_ready")[count - 1]

    def pids(self) -> list[int]:
        """Of the running plugins, by the path that containerd started."""
        path = str(self.node.folder / "nri-plugins" / PLUGIN)
        return [pid for pid in children_of(self.node.pid) if is_running(pid) and runs(pid, path)]


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def runs(pid: int, path: str) -> bool:
    """Whether the process was started as this script."""
    return path.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """Its policy is in a directory, so that it is back after a restart."""
    folder: Path = tmp_path_factory.mktemp("policies")
    (folder / "standing.json").write_text(policy_text("standing", Pods(namespace="guarded"), KILL_LSEEK))
    with AgentProcess("--policy-dir", str(folder)) as running:
        yield running


@pytest.fixture
def install(node: Node, agent: AgentProcess) -> Iterator[Callable[[str], Installed]]:
    """Puts the plugin and its configuration in place; containerd is started anew for it, and once more without it."""
    plugins, configs = node.folder / "nri-plugins", node.folder / "nri-conf"
    for folder in (plugins, configs):
        folder.mkdir(exist_ok=True)
    log = agent.run_dir / f"{node.name}-nri.log"

    def put(rule: str) -> Installed:
        (node.folder / "rule").write_text(rule)
        (plugins / PLUGIN).symlink_to(command("podgate-nri"))
        paths = {"agent-socket": agent.socket, "failure-rule": node.folder / "rule", "pin-dir": agent.pin_dir}
        text = "".join(f"{key}: {value}\n" for key, value in (paths | {"log-file": log}).items())
        (configs / f"{PLUGIN}.conf").write_text(text)
        node.restart()
        return Installed(node, log)

    yield put
    try:
        Stage(node, agent).clear()
    finally:
        (plugins / PLUGIN).unlink()
        node.restart()
        log.unlink(missing_ok=True)


@pytest.fixture
def stage(node: Node, agent: AgentProcess) -> Stage:
    return Stage(node, agent)


def test_the_runtime_starts_it_and_its_containers_are_guarded(
    stage: Stage, install: Callable[[str], Installed]
) -> None:
    running = stage.run(SLEEP, "guarded")
    installed = install("default open\n")
    ready = installed.await_ready(1)
    assert (ready["runtime"], ready["adjusts"], ready["request_timeout_ms"]) == ("containerd", "nothing", 2000)
    assert len(installed.pids()) == 1
    # NRI 0.6, of containerd 1.7, synchronizes only plugins that connect by themselves.
    lists = stage.node.runtime is Runtime.CONTAINERD_2
    assert (ready["synchronized"], len(installed.lines("not_synchronized"))) == (lists, 0 if lists else 1)
    assert stage.violate_inside(running) == (STOPPED if lists else FREE)
    assert stage.violate("guarded") == STOPPED
    assert stage.violate("other") == FREE
    assert [line["outcome"] for line in installed.lines("start_container")] == ["bound", "bound"]


def test_an_agent_that_restarts_is_told_what_started_since(stage: Stage, install: Callable[[str], Installed]) -> None:
    installed = install("default open\n")
    installed.await_ready(1)
    guarded, other = stage.run(SLEEP, "guarded"), stage.run(SLEEP, "other")
    stage.agent.restart(crash=False)
    wait_until(lambda: stage.violate_inside(guarded) == STOPPED, SETTLE_S, "the container to be bound again")
    assert stage.violate_inside(other) == FREE


def test_it_ends_with_the_runtime_and_comes_with_it(stage: Stage, install: Callable[[str], Installed]) -> None:
    installed = install("default open\n")
    installed.await_ready(1)
    [first] = installed.pids()
    stage.node.restart(crash=True)
    wait_until(lambda: not is_running(first), SETTLE_S, "the first plugin to end")
    installed.await_ready(2)
    [second] = installed.pids()
    assert second != first
    assert stage.violate("guarded") == STOPPED
