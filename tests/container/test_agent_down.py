# SPDX-License-Identifier: Apache-2.0
"""What becomes of a start when the agent is absent, hangs, or refuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.container.stage import (
    FREE,
    KILL_LSEEK,
    SETTLE_S,
    SLEEP,
    STOPPED,
    VIOLATE,
    WAITING,
    Pods,
    Stage,
    cgroup_directory,
    plugged,
    policy_text,
    stopped,
)
from tests.support.agent import AgentProcess, PluginProcess
from tests.support.cri import Container, State
from tests.support.node import Node, Runtime
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

# What happens between agent and plugin is the same with every runtime.
one_runtime = pytest.mark.parametrize("node", [Runtime.CONTAINERD_2], indirect=True, ids=["containerd_2"])
MAX_BINDINGS = 64  # the least that the agent takes
# NRI's default: after this containerd goes on without the plugin.
RUNTIME_PATIENCE_S = 2.0


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    folder: Path = tmp_path_factory.mktemp("policies")
    (folder / "standing.json").write_text(policy_text("standing", Pods(namespace="guarded"), KILL_LSEEK))
    with AgentProcess("--policy-dir", str(folder), "--max-bindings", str(MAX_BINDINGS)) as running:
        yield running


@pytest.fixture
def stage(node: Node, agent: AgentProcess) -> Stage:
    return Stage(node, agent)


@contextlib.contextmanager
def absent(agent: AgentProcess) -> Iterator[None]:
    agent.background.stop()
    try:
        yield
    finally:
        agent.restart(crash=False)


@contextlib.contextmanager
def killed(agent: AgentProcess) -> Iterator[None]:
    """Its programs stay pinned."""
    agent.background.process.kill()
    agent.background.process.wait()
    try:
        yield
    finally:
        agent.restart(crash=True)


@contextlib.contextmanager
def hanging(agent: AgentProcess) -> Iterator[None]:
    with stopped(agent.pid):
        yield


DOWN = {"killed": killed, "hangs": hanging}
RULES = """\
default closed
namespace payments closed
namespace guarded open
pattern team-* quarantine
exempt kube-system
"""


def decision(plugin: PluginProcess, container: Container) -> dict[str, Any]:
    """What the plugin logged of a container's start."""
    [line] = [line for line in plugin.decisions() if line["container_id"] == container.id]
    return line


@one_runtime
def test_open_starts_unguarded_says_so_and_binds_when_the_agent_is_back(stage: Stage) -> None:
    with plugged(stage, rule="default open") as plugin:
        with absent(stage.agent):
            container = stage.run(SLEEP, "guarded")
            assert stage.violate_inside(container) == FREE
            line = decision(plugin, container)
            assert (line["level"], line["outcome"], line["cause"]) == ("error", "open", "agent_down")
            assert line["reason"].startswith("started unguarded: ")
            assert str(stage.agent.socket) in line["reason"]
        stage.await_counts(1, 1)
        assert stage.violate_inside(container) == STOPPED


def test_closed_refuses_the_start_with_the_reason_and_allows_it_when_the_agent_is_back(stage: Stage) -> None:
    with plugged(stage, rule="default closed") as plugin:
        pod = stage.pod("guarded")
        with absent(stage.agent):
            refused = stage.node.cri.create(pod, VIOLATE)
            with pytest.raises(grpc.RpcError) as caught:
                stage.node.cri.start(refused)
            assert str(stage.agent.socket) in str(caught.value.details())
            assert stage.node.cri.log_text(refused) == ""
            line = decision(plugin, refused)
            assert (line["outcome"], line["cause"]) == ("closed", "agent_down")
            assert stage.node.cri.status(refused).state is State.EXITED
        stage.node.cri.remove(refused)
        assert stage.outcome(stage.node.cri.run(pod, VIOLATE)) == STOPPED


@one_runtime
def test_each_namespace_has_a_rule_of_its_own(stage: Stage) -> None:
    with plugged(stage, rule=RULES), absent(stage.agent):
        assert stage.violate("guarded") == FREE
        assert stage.violate("kube-system") == FREE
        for namespace in ("payments", "team-a", "unnamed"):
            with pytest.raises(grpc.RpcError):
                stage.run(SLEEP, namespace)


@one_runtime
@pytest.mark.parametrize("how", DOWN)
def test_quarantined_container_is_under_every_policy_until_the_agent_is_back(stage: Stage, how: str) -> None:
    """A policy of another namespace stops it too, from its first instruction on; the agent knows better."""
    with plugged(stage, rule=RULES) as plugin:
        with DOWN[how](stage.agent):
            violating, waiting = stage.run(VIOLATE, "team-a"), stage.run(WAITING, "team-a")
            assert stage.outcome(violating) == STOPPED
            assert decision(plugin, violating)["outcome"] == "quarantined"
            assert stage.violate_inside(waiting) == STOPPED
            exempt = stage.run(WAITING, "kube-system")
            assert stage.violate_inside(exempt) == FREE
        wait_until(lambda: stage.violate_inside(waiting) == FREE, SETTLE_S, "the container to be narrowed")
        assert stage.agent.control.status().quarantined == 0
        stage.release(waiting)
        assert stage.outcome(waiting) == FREE


@one_runtime
def test_quarantine_without_anything_of_an_agent_left_is_closed(stage: Stage) -> None:
    with plugged(stage, rule=RULES) as plugin, absent(stage.agent):
        refused = stage.node.cri.create(stage.pod("team-a"), SLEEP)
        with pytest.raises(grpc.RpcError) as caught:
            stage.node.cri.start(refused)
        assert decision(plugin, refused)["outcome"] == "closed"
        assert "quarantine" in str(caught.value.details())


@pytest.mark.parametrize("rule", ["open", "closed"])
def test_hung_agent_is_answered_for_before_the_runtime_drops_the_plugin(stage: Stage, rule: str) -> None:
    with plugged(stage, rule=f"default {rule}") as plugin:
        with stopped(stage.agent.pid):
            container = stage.node.cri.create(stage.pod("guarded"), WAITING)
            began = time.monotonic()
            with contextlib.suppress(grpc.RpcError):
                stage.node.cri.start(container)
            spent = time.monotonic() - began
        line = decision(plugin, container)
        assert (line["outcome"], line["cause"]) == (rule, "agent_down")
        assert line["hook_us"] < RUNTIME_PATIENCE_S * 1e6
        assert spent < 2 * RUNTIME_PATIENCE_S
        assert stage.violate("guarded") == STOPPED
        events = [line["event"] for line in plugin.background.lines()]
        assert (events.count("nri_ready"), events.count("nri_lost")) == (1, 0)


@one_runtime
def test_container_started_while_the_agent_hung_is_bound_when_it_goes_on(stage: Stage) -> None:
    with plugged(stage):
        with stopped(stage.agent.pid):
            container = stage.run(WAITING, "guarded")
        stage.await_counts(1, 1)
        stage.release(container)
        assert stage.outcome(container) == STOPPED


def test_refusal_fails_the_start_with_the_reason_in_the_runtimes_error(stage: Stage) -> None:
    with plugged(stage, rule="default closed") as plugin:
        filler = stage.run(WAITING, "guarded")
        cgroups = fill_bindings(stage, filler)
        refused = stage.node.cri.create(stage.pod("guarded"), VIOLATE)
        with pytest.raises(grpc.RpcError) as caught:
            stage.node.cri.start(refused)
        line = decision(plugin, refused)
        assert (line["outcome"], line["cause"]) == ("closed", "refused")
        assert line["reason"] in str(caught.value.details())
        assert stage.node.cri.log_text(refused) == ""
        assert stage.records() == MAX_BINDINGS
        for cgroup in cgroups:
            cgroup.rmdir()
        assert stage.violate("guarded") == STOPPED


@one_runtime
def test_container_that_filled_the_map_itself_stays_guarded(stage: Stage) -> None:
    with plugged(stage):
        filler = stage.run(WAITING, "guarded")
        (fill_bindings(stage, filler)[-1] / "cgroup.procs").write_text(str(stage.node.cri.pid(filler)))
        stage.release(filler)
        assert stage.outcome(filler) == STOPPED


def fill_bindings(stage: Stage, container: Container) -> list[Path]:
    """More nested cgroups than there is room for; the last ones have no record."""
    directory = cgroup_directory(stage.node.cri.pid(container))
    cgroups = [directory / f"inner-{number}" for number in range(MAX_BINDINGS + 10)]
    for cgroup in cgroups:
        cgroup.mkdir()
    wait_until(lambda: stage.records() == MAX_BINDINGS, SETTLE_S, "the map to be full")
    return cgroups
