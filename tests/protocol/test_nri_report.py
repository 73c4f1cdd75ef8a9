# SPDX-License-Identifier: Apache-2.0
"""How the plugin tells the agent how its calls fare."""

import dataclasses
import time
from pathlib import Path

from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2
from rthook.latency import BUCKETS
from tests.protocol.fakes import (
    GENERATIONS,
    PID,
    FakeAgent,
    FakeRuntime,
    Hang,
    LogTap,
    Reaction,
    Refusal,
    agree,
    make_container,
    make_pod,
    running,
)

start = GENERATIONS[0].start


def read_report(request: Request) -> dict[str, hook_pb2.StageStats]:
    report = hook_pb2.ReportRequest.FromString(request.payload)
    assert report.door == "nri"
    return {stage.stage: stage for stage in report.stages}


def await_stage(agent: FakeAgent, stage: str) -> hook_pb2.StageStats:
    """The first report that has it."""
    count = 1
    while stage not in (stages := read_report(agent.await_requests("Report", count)[-1])):
        count += 1
    return stages[stage]


def test_each_stage_is_reported_with_the_runtimes_patience(
    runtime: FakeRuntime, agent: FakeAgent, watchful: PluginConfig
) -> None:
    before = time.time_ns() // 1000
    with running(watchful):
        side = runtime.accept()
        side.bring_up()
        synchronized = await_stage(agent, "Synchronize")
        side.call(*start(make_container()))
        started = await_stage(agent, "StartContainer")
        side.call(*GENERATIONS[0].run_sandbox(make_pod(pid=PID)))
        sandboxes = await_stage(agent, "RunPodSandbox")
    assert dict(synchronized.outcomes) == {"told": 1}
    assert dict(started.outcomes) == dict(sandboxes.outcomes) == {"bound": 1}
    assert (len(started.buckets), sum(started.buckets), started.timeout_us) == (BUCKETS, 1, 500_000)
    assert 0 < started.max_us == started.sum_us
    assert before <= started.last_success_us <= time.time_ns() // 1000


def test_a_failure_is_counted_and_is_no_success(runtime: FakeRuntime, agent: FakeAgent, watchful: PluginConfig) -> None:
    agent.react = lambda request: Refusal(Code.NOT_FOUND, "no") if request.method == "Bind" else agree(request)
    with running(watchful):
        side = runtime.accept()
        side.bring_up()
        side.call(*start(make_container()))
        started = await_stage(agent, "StartContainer")
    assert (dict(started.outcomes), started.last_success_us) == ({"open": 1}, 0)


def test_what_has_not_changed_is_not_reported_again(
    runtime: FakeRuntime, agent: FakeAgent, watchful: PluginConfig, tap: LogTap, rule_path: Path
) -> None:
    """The rule's watch runs as often as the reports would."""
    with running(watchful):
        runtime.accept().bring_up()
        agent.await_requests("Report")
        for count in range(2, 8):
            rule_path.write_text("#" * count)
            tap.await_event("failure_rule", count)
    assert len([request for request in agent.requests if request.method == "Report"]) == 1


def test_reports_keep_their_distance(runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig) -> None:
    with running(dataclasses.replace(config, watch_s=0.3)):
        side = runtime.accept()
        side.bring_up()
        began = time.monotonic()
        for _ in range(50):
            side.call(*start(make_container()))
        agent.await_requests("Report", 1)
        spent = time.monotonic() - began
        assert len([request for request in agent.requests if request.method == "Report"]) <= 1 + spent / 0.3


def test_an_agent_that_restarts_is_told_again(
    runtime: FakeRuntime, agent_path: Path, watchful: PluginConfig, tap: LogTap
) -> None:
    with running(watchful):
        side = runtime.accept()
        with FakeAgent(agent_path) as first:
            side.bring_up()
            first.await_requests("Report")
        tap.await_event("agent_lost")
        with FakeAgent(agent_path) as second:
            (request,) = second.await_requests("Report")
            assert [made.method for made in second.requests] == ["Synchronize", "Report"]
    assert "Synchronize" in read_report(request)


def test_an_agent_that_takes_no_reports_is_asked_once_a_connection(
    runtime: FakeRuntime, agent: FakeAgent, watchful: PluginConfig, tap: LogTap, rule_path: Path
) -> None:
    """The rule's watch runs as often as the reports would."""
    agent.react = lambda request: Refusal(Code.UNIMPLEMENTED, "old") if request.method == "Report" else agree(request)
    with running(watchful):
        side = runtime.accept()
        side.bring_up()
        tap.await_event("report_refused")
        for count in range(2, 8):
            side.call(*start(make_container()))
            rule_path.write_text("#" * count)
            tap.await_event("failure_rule", count)
    assert [request.method for request in agent.requests].count("Report") == 1
    assert len(tap.named("agent_lost")) == 0


def test_an_agent_that_hangs_at_a_report_delays_a_start_within_the_deadline(
    runtime: FakeRuntime, agent: FakeAgent, watchful: PluginConfig
) -> None:
    def hang_on_report(request: Request) -> Reaction:
        return Hang() if request.method == "Report" else agree(request)

    agent.react = hang_on_report
    with running(watchful):
        side = runtime.accept()
        side.bring_up()
        agent.await_requests("Report")
        began = time.monotonic()
        assert side.call(*start(make_container())).code is Code.OK
        assert time.monotonic() - began < 0.75 * 0.5
        agent.await_requests("Synchronize", 2)
