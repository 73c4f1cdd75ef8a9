# SPDX-License-Identifier: Apache-2.0
"""Agent, plugin and runtime stop, crash and come back in any order: what runs is bound again without a new start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.stage import (
    FREE,
    KILL_LSEEK,
    SLEEP,
    STOPPED,
    WAITING,
    Pods,
    Stage,
    move_into_nested,
    plugged,
    policy_text,
)
from tests.support.agent import AgentProcess
from tests.support.node import Node, Runtime

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

# What happens between agent and plugin is the same with every runtime.
one_runtime = pytest.mark.parametrize("node", [Runtime.CONTAINERD_2], indirect=True, ids=["containerd_2"])
crash_or_stop = pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """Its policy is in a directory, so that it is back after a restart."""
    folder: Path = tmp_path_factory.mktemp("policies")
    (folder / "standing.json").write_text(policy_text("standing", Pods(namespace="guarded"), KILL_LSEEK))
    with AgentProcess("--policy-dir", str(folder)) as running:
        yield running


@pytest.fixture
def stage(node: Node, agent: AgentProcess) -> Stage:
    return Stage(node, agent)


def test_containers_that_ran_before_the_plugin_are_bound(stage: Stage) -> None:
    guarded, other = stage.run(WAITING, "guarded"), stage.run(SLEEP, "other")
    nested = stage.run(WAITING, "guarded")
    move_into_nested(stage.node.cri.pid(nested), "inner")
    assert stage.counts() == (0, 0)
    with plugged(stage):
        assert stage.counts() == (3, 4)
        stage.release(guarded)
        stage.release(nested)
        assert stage.outcome(guarded) == STOPPED
        assert stage.outcome(nested) == STOPPED
        assert stage.violate_inside(other) == FREE


def test_container_whose_init_process_moved_is_bound_with_all_its_cgroups(stage: Stage) -> None:
    container = stage.run(SLEEP, "guarded")
    move_into_nested(stage.node.cri.pid(container), "init")
    with plugged(stage):
        assert stage.counts() == (1, 2)
        # The runtime starts it in the container's own cgroup, which the init process has left.
        assert stage.violate_inside(container) == STOPPED


@one_runtime
def test_cgroup_made_before_a_late_plugin_and_entered_after_it_is_guarded(stage: Stage) -> None:
    container = stage.run(WAITING, "guarded")
    inner = move_into_nested(stage.node.cri.pid(container), "inner")
    (inner.parent / "cgroup.procs").write_text(str(stage.node.cri.pid(container)))
    with plugged(stage):
        (inner / "cgroup.procs").write_text(str(stage.node.cri.pid(container)))
        stage.release(container)
        assert stage.outcome(container) == STOPPED


@one_runtime
@crash_or_stop
def test_restarted_agent_is_told_of_running_containers(stage: Stage, crash: bool) -> None:
    with plugged(stage) as plugin:
        guarded, other = stage.run(SLEEP, "guarded"), stage.run(SLEEP, "other")
        plugin.background.await_event("agent_synchronized")
        stage.agent.restart(crash=crash)
        plugin.background.await_event("agent_synchronized", count=2)
        stage.await_counts(2, 2)
        assert stage.violate_inside(guarded) == STOPPED
        assert stage.violate_inside(other) == FREE
        assert stage.violate("guarded") == STOPPED
        assert [line["outcome"] for line in plugin.decisions()] == ["bound"] * 3


@one_runtime
def test_crashed_agent_leaves_its_rules_in_force(stage: Stage) -> None:
    with plugged(stage):
        guarded, other = stage.run(SLEEP, "guarded"), stage.run(SLEEP, "other")
        stage.agent.background.process.kill()
        stage.agent.background.process.wait()
        assert stage.violate_inside(guarded) == STOPPED
        assert stage.violate_inside(other) == FREE
        stage.agent.restart(crash=True)
        stage.await_counts(2, 2)


@one_runtime
def test_stopped_agent_enforces_nothing_and_says_so(stage: Stage) -> None:
    with plugged(stage):
        guarded = stage.run(SLEEP, "guarded")
        stage.agent.background.stop()
        assert stage.violate_inside(guarded) == FREE
        assert "no policy is enforced any more" in stage.agent.background.log.read_text()
        stage.agent.restart(crash=False)
        stage.await_counts(1, 1)
        assert stage.violate_inside(guarded) == STOPPED


@crash_or_stop
def test_restarted_runtime_finds_its_containers_bound_and_the_plugin_back(stage: Stage, crash: bool) -> None:
    with plugged(stage) as plugin:
        guarded = stage.run(SLEEP, "guarded")
        stage.node.restart(crash=crash)
        assert stage.violate_inside(guarded) == STOPPED
        plugin.await_ready(count=2)
        assert stage.counts() == (1, 1)
        assert stage.violate_inside(guarded) == STOPPED
        assert stage.violate("guarded") == STOPPED
        assert stage.violate("other") == FREE


def test_restarted_plugin_leaves_containers_bound_and_binds_new_ones(stage: Stage) -> None:
    with plugged(stage) as first:
        guarded = stage.run(SLEEP, "guarded")
        first.stop()
        assert stage.violate_inside(guarded) == STOPPED
        unannounced = stage.run(SLEEP, "guarded")
        assert stage.violate_inside(unannounced) == FREE
        with plugged(stage):
            assert stage.counts() == (2, 2)
            assert stage.violate_inside(guarded) == STOPPED
            assert stage.violate_inside(unannounced) == STOPPED
            assert stage.violate("guarded") == STOPPED


def test_container_removed_while_the_plugin_was_away_is_forgotten(stage: Stage) -> None:
    with plugged(stage) as first:
        removed, kept = stage.run(SLEEP, "guarded"), stage.run(SLEEP, "guarded")
        first.stop()
        stage.node.cri.remove(removed)
        with plugged(stage):
            stage.await_counts(1, 1)
            assert stage.violate_inside(kept) == STOPPED


@one_runtime
def test_containers_that_came_and_went_while_the_agent_was_away_are_told_as_they_are(stage: Stage) -> None:
    with plugged(stage) as plugin:
        removed, kept = stage.run(SLEEP, "guarded"), stage.run(SLEEP, "guarded")
        plugin.background.await_event("agent_synchronized")
        stage.agent.background.process.kill()
        stage.agent.background.process.wait()
        stage.node.cri.remove(removed)
        fresh = stage.run(SLEEP, "guarded")
        stage.agent.restart(crash=True)
        plugin.background.await_event("agent_synchronized", count=2)
        stage.await_counts(2, 2)
        assert stage.violate_inside(kept) == STOPPED
        assert stage.violate_inside(fresh) == STOPPED


@one_runtime
def test_agent_stopped_soon_after_a_crash_leaves_no_rules_of_the_crashed_one(stage: Stage) -> None:
    """Without a plugin nothing is announced, and the crashed agent's rules are kept for the containers that run."""
    with plugged(stage) as plugin:
        guarded = stage.run(SLEEP, "guarded")
        plugin.stop()
        stage.agent.restart(crash=True)
        assert stage.violate_inside(guarded) == STOPPED
        stage.agent.background.stop()
        assert stage.violate_inside(guarded) == FREE
        stage.agent.restart(crash=False)
