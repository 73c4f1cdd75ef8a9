# SPDX-License-Identifier: Apache-2.0
"""A pod's sandbox: bound when it runs, told again, forgotten when it is removed, and never in anybody's way."""

import logging
from pathlib import Path

import pytest

from nri_plugin.api import nri_pb2
from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from tests.protocol.fakes import (
    GENERATIONS,
    PID,
    FakeAgent,
    FakeRuntime,
    Generation,
    LogTap,
    Refusal,
    fields_of,
    make_container,
    make_pod,
    running,
)

either = pytest.mark.parametrize("generation", GENERATIONS, ids=["state change", "own call"])


@either
def test_a_sandbox_is_bound_before_the_pod_goes_on(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap, generation: Generation
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer = side.call(*generation.run_sandbox(make_pod(pid=PID)))
        assert (answer.code, answer.payload) == (Code.OK, b"")
        (request,) = agent.await_requests("Bind")
        fields = fields_of(tap.await_event("run_pod_sandbox"))
    sandbox = hook_pb2.BindRequest.FromString(request.payload).container
    assert (sandbox.id, sandbox.kind, sandbox.pid) == ("sandbox-1", hook_pb2.KIND_SANDBOX, PID)
    assert (sandbox.cgroups_path, sandbox.cgroup_parent) == ("/kubepods/pod1/sandbox-1", "/kubepods/pod1")
    assert (fields["outcome"], fields["container_id"], fields["cgroup_id"]) == ("bound", "sandbox-1", 77)


@either
def test_a_sandbox_that_is_not_bound_goes_on_whatever_the_rule_says(
    runtime: FakeRuntime,
    agent: FakeAgent,
    config: PluginConfig,
    tap: LogTap,
    rule_path: Path,
    generation: Generation,
) -> None:
    rule_path.write_text("default closed\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        agent.react = lambda _: Refusal(Code.NOT_FOUND, "no such pod")
        assert side.call(*generation.run_sandbox(make_pod(pid=PID))).code is Code.OK
        record = tap.await_event("run_pod_sandbox")
    assert record.levelno == logging.ERROR
    assert (fields_of(record)["outcome"], fields_of(record)["cause"]) == ("open", "refused")


def test_a_sandbox_that_makes_no_sense_goes_on(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    pod = make_pod(pid=PID)
    pod.namespace = ""
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call(*GENERATIONS[0].run_sandbox(pod)).code is Code.OK
        assert fields_of(tap.await_event("run_pod_sandbox"))["cause"] == "invalid"
    assert [request.method for request in agent.requests] == ["Synchronize"]


def test_sandboxes_without_a_process_are_told_of_once(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        for _ in range(3):
            assert side.call(*GENERATIONS[0].run_sandbox(make_pod())).code is Code.OK
        assert side.call(*GENERATIONS[0].start(make_container())).code is Code.OK
    assert [request.method for request in agent.requests] == ["Synchronize", "Bind"]
    assert len(tap.named("sandbox_without_process")) == 1
    assert tap.named("run_pod_sandbox") == []


@either
def test_a_removed_sandbox_is_forgotten(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, generation: Generation
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        side.call(*generation.run_sandbox(make_pod(pid=PID)))
        assert side.call(*generation.remove_sandbox(make_pod())).code is Code.OK
        (unbind,) = agent.await_requests("Unbind")
    assert hook_pb2.UnbindRequest.FromString(unbind.payload).container_id == "sandbox-1"


def test_sandboxes_are_told_in_synchronize_and_to_an_agent_that_restarts(
    runtime: FakeRuntime, agent_path: Path, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up([make_container(state=nri_pb2.CONTAINER_RUNNING)], pod=make_pod(pid=PID))
            (listed,) = first.await_requests("Synchronize")
            later = make_pod(pid=PID)
            later.id = "sandbox-2"
            side.call(*GENERATIONS[0].run_sandbox(later))
        tap.await_event("agent_lost")
        with FakeAgent(agent_path) as second:
            (told,) = second.await_requests("Synchronize")
    assert kinds(listed.payload) == {"sandbox-1": hook_pb2.KIND_SANDBOX, "c1": hook_pb2.KIND_CONTAINER}
    assert kinds(told.payload) == {
        "sandbox-1": hook_pb2.KIND_SANDBOX,
        "sandbox-2": hook_pb2.KIND_SANDBOX,
        "c1": hook_pb2.KIND_CONTAINER,
    }


def kinds(payload: bytes) -> dict[str, "hook_pb2.Kind"]:
    return {told.id: told.kind for told in hook_pb2.SynchronizeRequest.FromString(payload).containers}
