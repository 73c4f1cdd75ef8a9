# SPDX-License-Identifier: Apache-2.0
"""The plugin between the runtime and an agent that hangs, is absent, or restarts."""

import subprocess
import time
from pathlib import Path

from nri_plugin.api import nri_pb2
from nri_plugin.budget import SYNCHRONIZE
from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2
from tests.protocol.fakes import (
    GENERATIONS,
    REQUEST_TIMEOUT_MS,
    FakeAgent,
    FakeRuntime,
    Hang,
    HangUp,
    LogTap,
    Reaction,
    Refusal,
    agree,
    fields_of,
    make_container,
    running,
)

TIMEOUT_S = REQUEST_TIMEOUT_MS / 1e3
# How containerd 1.7 and 2.1 tell a start.
start = GENERATIONS[0].start


def announced(request: Request) -> dict[str, "hook_pb2.Phase"]:
    """What one Synchronize told: phase by container id."""
    return {c.id: c.phase for c in hook_pb2.SynchronizeRequest.FromString(request.payload).containers}


def test_an_agent_that_hangs_does_not_fail_synchronize(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    agent.react = lambda _: Hang()
    with running(config):
        side = runtime.accept()
        began = time.monotonic()
        side.bring_up()
        assert SYNCHRONIZE * TIMEOUT_S - 0.01 < time.monotonic() - began < TIMEOUT_S
        tap.await_event("nri_ready")
        agent.react = agree
        tap.await_event("agent_synchronized")
    assert len(tap.named("agent_lost")) == 1


def test_an_agent_that_restarts_is_told_all_containers(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    """Nothing but the end of the idle connection says so; the started one runs by now, the other is still held."""
    with running(config):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up([make_container("held"), make_container("old", state=nri_pb2.CONTAINER_RUNNING)])
            assert side.call(*start(make_container("new"))).code is Code.OK
            assert announced(first.await_requests("Synchronize")[0]) == {
                "held": hook_pb2.PHASE_HELD,
                "old": hook_pb2.PHASE_RUNNING,
            }
        tap.await_event("agent_lost")
        with FakeAgent(agent_path) as second:
            (request,) = second.await_requests("Synchronize")
            tap.await_event("agent_synchronized", 2)
    assert announced(request) == {
        "held": hook_pb2.PHASE_HELD,
        "old": hook_pb2.PHASE_RUNNING,
        "new": hook_pb2.PHASE_RUNNING,
    }
    assert len(tap.named("agent_lost")) <= 2


def test_an_agent_whose_restart_shows_only_in_a_bind_is_told_all_containers(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig
) -> None:
    """The connection ends in the call; the retry binds on a fresh one, behind which may be an agent without memory."""

    def hang_up_on_first_bind(request: Request) -> Reaction:
        return HangUp() if request.method == "Bind" and agent.accepted == 1 else agree(request)

    agent.react = hang_up_on_first_bind
    with running(config):
        side = runtime.accept()
        side.bring_up([make_container("old", state=nri_pb2.CONTAINER_RUNNING)])
        assert side.call(*start(make_container("new"))).code is Code.OK
        request = agent.await_requests("Synchronize", 2)[1]
    assert [made.method for made in agent.requests] == ["Synchronize", "Bind", "Bind", "Synchronize"]
    assert set(announced(request)) == {"old", "new"}


def test_a_container_that_started_unguarded_is_told_when_the_agent_comes(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call(*start(make_container())).code is Code.OK
        with FakeAgent(agent_path) as agent:
            (request,) = agent.await_requests("Synchronize")
    assert announced(request) == {"c1": hook_pb2.PHASE_RUNNING}


def test_what_has_ended_is_not_told_again_and_what_is_bound_of_it_stays(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        with subprocess.Popen(["sleep", "infinity"]) as process, FakeAgent(agent_path):
            side.bring_up()
            assert side.call(*start(make_container("ended", process.pid))).code is Code.OK
            assert side.call(*start(make_container("lives"))).code is Code.OK
            process.kill()
        tap.await_event("agent_lost")
        with FakeAgent(agent_path) as second:
            (request,) = second.await_requests("Synchronize")
    assert announced(request) == {"lives": hook_pb2.PHASE_RUNNING}
    assert list(hook_pb2.SynchronizeRequest.FromString(request.payload).keep) == ["ended"]


def test_a_removal_is_passed_on_and_not_told_again(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up([make_container(state=nri_pb2.CONTAINER_RUNNING)])
            assert side.call(*GENERATIONS[0].remove(make_container())).code is Code.OK
            (unbind,) = first.await_requests("Unbind")
            assert hook_pb2.UnbindRequest.FromString(unbind.payload).container_id == "c1"
        tap.await_event("agent_lost")
        with FakeAgent(agent_path) as second:
            (request,) = second.await_requests("Synchronize")
    assert announced(request) == {}


def test_the_agent_is_told_nothing_before_the_runtime_has_listed_its_containers(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig
) -> None:
    """An empty set would make the agent forget everything."""
    with running(config):
        side = runtime.accept()
        side.answer(side.next_request().stream_id)
        assert side.call("Configure").code is Code.OK
        assert agent.requests == []
        side.call("Synchronize")
        agent.await_requests("Synchronize")


def test_a_refused_synchronize_is_tried_again(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    agent.react = lambda _: Refusal(Code.UNAVAILABLE, "starting")
    with running(config):
        runtime.accept().bring_up()
        agent.await_requests("Synchronize", 3)
        agent.react = agree
        tap.await_event("agent_synchronized")
    assert len(tap.named("agent_lost")) == 1


def test_what_the_agent_does_not_bind_is_logged(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    refused = hook_pb2.SynchronizeResponse(refused=[hook_pb2.Refusal(container_id="c1", reason="no such process")])
    agent.react = lambda _: refused.SerializeToString()
    with running(config):
        runtime.accept().bring_up([make_container(state=nri_pb2.CONTAINER_RUNNING)])
        fields = fields_of(tap.await_event("not_bound"))
    assert fields == {"container_id": "c1", "reason": "no such process"}
