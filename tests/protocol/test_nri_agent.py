# SPDX-License-Identifier: Apache-2.0
"""The plugin between the runtime and an agent that refuses, hangs, is absent, or restarts."""

import dataclasses
import logging
import time
from pathlib import Path

import pytest

from nri_plugin.api import nri_pb2
from nri_plugin.config import OnAgentDown, PluginConfig
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2
from tests.protocol.fakes import (
    PATIENCE_S,
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
    make_pod,
    running,
    start_event,
)


def announced(request: Request) -> dict[str, "hook_pb2.Phase"]:
    """What one Synchronize told: phase by container id."""
    return {c.id: c.phase for c in hook_pb2.SynchronizeRequest.FromString(request.payload).containers}


def remove_event(container: nri_pb2.Container) -> bytes:
    event = nri_pb2.StateChangeEvent(event=nri_pb2.REMOVE_CONTAINER, pod=make_pod(), container=container)
    return event.SerializeToString()


def hang_on_bind(request: Request) -> Reaction:
    return Hang() if request.method == "Bind" else agree(request)


def test_a_refusal_reaches_the_runtime_with_its_reason(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        agent.react = lambda _: Refusal(Code.UNIMPLEMENTED, "cgroup id differs")
        answer = side.call("StartContainer", start_message())
        record = tap.await_event("start_container")
    assert answer.code is Code.FAILED_PRECONDITION
    assert "podgate: UNIMPLEMENTED: cgroup id differs" in answer.message
    assert fields_of(record)["outcome"] == "refused"


def start_message() -> bytes:
    return nri_pb2.StartContainerRequest(pod=make_pod(), container=make_container()).SerializeToString()


def test_a_start_that_makes_no_sense_is_refused_without_the_agent(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer = side.call("StateChange", start_event(make_container(pid=0)))
        assert fields_of(tap.await_event("start_container"))["outcome"] == "refused"
    assert "pid 0" in answer.message
    assert [request.method for request in agent.requests] == ["Synchronize"]


@pytest.mark.parametrize(
    ("choice", "code", "outcome"),
    [
        (OnAgentDown.OPEN, Code.OK, "agent_down_open"),
        (OnAgentDown.CLOSED, Code.UNAVAILABLE, "agent_down_closed"),
    ],
)
def test_without_an_agent_a_start_is_answered_as_configured(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap, choice: OnAgentDown, code: Code, outcome: str
) -> None:
    with running(dataclasses.replace(config, on_agent_down=choice)):
        side = runtime.accept()
        side.bring_up()
        assert side.call("StateChange", start_event(make_container())).code is code
        record = tap.await_event("start_container")
    assert record.levelno == logging.ERROR
    assert fields_of(record)["outcome"] == outcome
    assert "No such file" in str(fields_of(record)["reason"])
    assert len(tap.named("agent_lost")) == 1


@pytest.mark.parametrize(("choice", "code"), [(OnAgentDown.OPEN, Code.OK), (OnAgentDown.CLOSED, Code.UNAVAILABLE)])
def test_an_agent_that_hangs_delays_a_start_by_the_deadline_only(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, choice: OnAgentDown, code: Code
) -> None:
    agent.react = hang_on_bind
    with running(dataclasses.replace(config, on_agent_down=choice)):
        side = runtime.accept()
        side.bring_up()
        start = time.monotonic()
        assert side.call("StateChange", start_event(make_container())).code is code
        assert 0.19 < time.monotonic() - start < 0.7


def test_an_agent_that_hangs_does_not_fail_synchronize(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    agent.react = lambda _: Hang()
    with running(dataclasses.replace(config, bind_s=PATIENCE_S)):
        start = time.monotonic()
        runtime.accept().bring_up()
        assert 0.19 < time.monotonic() - start < 0.7
        tap.await_event("nri_ready")
        agent.react = agree
        tap.await_event("agent_synchronized")
    assert len(tap.named("agent_lost")) == 1


def test_a_start_during_housekeeping_waits_for_both_deadlines_at_most(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig
) -> None:
    """The agent hangs on everything: a resync is under way most of the time, and the start comes behind it."""
    agent.react = lambda _: Hang()
    with running(config):
        side = runtime.accept()
        side.bring_up()
        agent.await_requests("Synchronize", 2)
        start = time.monotonic()
        assert side.call("StateChange", start_event(make_container())).code is Code.OK
        assert time.monotonic() - start < config.resync_s + config.bind_s + 0.2


def test_the_limits_that_add_up_stay_below_the_runtimes_own() -> None:
    config = PluginConfig("", "")
    assert max(config.resync_s, config.unbind_s) + config.bind_s < 2
    assert config.synchronize_s < 2


def test_an_agent_that_restarts_is_told_all_containers(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    """Nothing but the end of the idle connection says so; the started one runs by now, the other is still held."""
    with running(config):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up([make_container("held"), make_container("old", state=nri_pb2.CONTAINER_RUNNING)])
            assert side.call("StateChange", start_event(make_container("new"))).code is Code.OK
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
        assert side.call("StateChange", start_event(make_container("new"))).code is Code.OK
        request = agent.await_requests("Synchronize", 2)[1]
    assert [made.method for made in agent.requests] == ["Synchronize", "Bind", "Bind", "Synchronize"]
    assert set(announced(request)) == {"old", "new"}


def test_a_container_that_started_unguarded_is_told_when_the_agent_comes(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call("StateChange", start_event(make_container())).code is Code.OK
        with FakeAgent(agent_path) as agent:
            (request,) = agent.await_requests("Synchronize")
    assert announced(request) == {"c1": hook_pb2.PHASE_RUNNING}


def test_a_container_that_was_refused_is_not_told(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up()
            first.react = lambda _: Refusal(Code.NOT_FOUND, "no")
            side.call("StateChange", start_event(make_container()))
        tap.await_event("agent_lost")
        with FakeAgent(agent_path) as second:
            (request,) = second.await_requests("Synchronize")
    assert announced(request) == {}


def test_a_removal_is_passed_on_and_not_told_again(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up([make_container(state=nri_pb2.CONTAINER_RUNNING)])
            assert side.call("StateChange", remove_event(make_container())).code is Code.OK
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
