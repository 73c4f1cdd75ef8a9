# SPDX-License-Identifier: Apache-2.0
"""A runtime that never lists its containers, as NRI 0.6 does not to a plugin that it has started itself."""

import contextlib
import dataclasses
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_plugin.api import nri_pb2
from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2
from tests.protocol.fakes import (
    GENERATIONS,
    PID,
    FakeAgent,
    Hang,
    LogTap,
    Reaction,
    Refusal,
    RuntimeSide,
    agree,
    configure_message,
    fields_of,
    make_container,
    make_pod,
    running,
)

start = GENERATIONS[0].start


@pytest.fixture
def side(config: PluginConfig) -> Iterator[RuntimeSide]:
    """Registered and configured, and in service without a list."""
    ours, theirs = socket.socketpair()
    preconnected = dataclasses.replace(config, preconnected=theirs.detach(), registration_s=0.05)
    with ours, running(preconnected):
        runtime = RuntimeSide(ours)
        runtime.answer(runtime.next_request().stream_id)
        assert runtime.call("Configure", configure_message()).code is Code.OK
        yield runtime


def bound_ids(agent: FakeAgent, count: int) -> list[str]:
    requests = agent.await_requests("Bind", count)
    return [hook_pb2.BindRequest.FromString(request.payload).container.id for request in requests]


def test_it_is_in_service_without_a_list_and_says_so(side: RuntimeSide, tap: LogTap, agent: FakeAgent) -> None:
    assert fields_of(tap.await_event("nri_ready"))["synchronized"] is False
    assert len(tap.named("not_synchronized")) == 1
    assert side.call(*start(make_container())).code is Code.OK
    tap.await_event("agent_bound_again")
    assert [request.method for request in agent.requests] == ["Bind"]


def test_a_start_before_that_is_served(side: RuntimeSide, agent: FakeAgent, tap: LogTap) -> None:
    assert side.call(*start(make_container())).code is Code.OK
    assert bound_ids(agent, 1) == ["c1"]
    tap.await_event("nri_ready")


def test_what_started_is_bound_again_by_itself_when_the_agent_restarts(
    side: RuntimeSide, agent_path: Path, tap: LogTap
) -> None:
    """Synchronize would make the agent forget what ran before."""
    tap.await_event("nri_ready")
    with FakeAgent(agent_path), subprocess.Popen(["sleep", "infinity"]) as process:
        side.call(*GENERATIONS[0].run_sandbox(make_pod(pid=PID)))
        for name in ("a", "b"):
            side.call(*start(make_container(name)))
        side.call(*start(make_container("ended", process.pid)))
        tap.await_event("agent_bound_again")
        process.kill()
    tap.await_event("agent_lost")
    with FakeAgent(agent_path) as second:
        assert sorted(bound_ids(second, 3)) == ["a", "b", "sandbox-1"]
        tap.await_event("agent_bound_again", 2)
        assert {request.method for request in second.requests} == {"Bind"}
        phases = {hook_pb2.BindRequest.FromString(made.payload).container.phase for made in second.requests}
    assert phases == {hook_pb2.PHASE_RUNNING}


def test_a_container_that_the_agent_refuses_does_not_keep_the_others_from_being_bound(
    side: RuntimeSide, agent_path: Path, tap: LogTap
) -> None:
    def refuse_a(request: Request) -> Reaction:
        container = hook_pb2.BindRequest.FromString(request.payload).container
        return Refusal(Code.NOT_FOUND, "no such process") if container.id == "a" else agree(request)

    with FakeAgent(agent_path):
        tap.await_event("nri_ready")
        for name in ("a", "b"):
            side.call(*start(make_container(name)))
        tap.await_event("agent_bound_again")
    tap.await_event("agent_lost")
    with FakeAgent(agent_path, refuse_a) as second:
        assert sorted(bound_ids(second, 2)) == ["a", "b"]
        assert fields_of(tap.await_event("not_bound"))["container_id"] == "a"
        tap.await_event("agent_bound_again", 2)


def test_an_agent_that_hangs_meanwhile_is_tried_again(side: RuntimeSide, agent_path: Path, tap: LogTap) -> None:
    with FakeAgent(agent_path):
        tap.await_event("nri_ready")
        side.call(*start(make_container()))
        tap.await_event("agent_bound_again")
    tap.await_event("agent_lost")
    with FakeAgent(agent_path, lambda _: Hang()) as second:
        second.await_requests("Bind", 2)
        second.react = agree
        tap.await_event("agent_bound_again", 2)


def test_a_list_that_comes_after_all_is_taken(side: RuntimeSide, agent: FakeAgent, tap: LogTap) -> None:
    tap.await_event("nri_ready")
    inventory = nri_pb2.SynchronizeRequest(
        pods=[make_pod()], containers=[make_container(state=nri_pb2.CONTAINER_RUNNING)]
    )
    assert side.call("Synchronize", inventory.SerializeToString()).code is Code.OK
    assert len(agent.await_requests("Synchronize")) == 1


def test_a_runtime_that_does_not_even_configure_is_given_up(config: PluginConfig, tap: LogTap) -> None:
    ours, theirs = socket.socketpair()
    with ours, running(dataclasses.replace(config, preconnected=theirs.detach(), registration_s=0.05)):
        with contextlib.suppress(ConnectionResetError):
            RuntimeSide(ours).read_to_end()
        assert "registration" in str(fields_of(tap.await_event("nri_lost"))["reason"])
