# SPDX-License-Identifier: Apache-2.0
"""What becomes of a start that the agent does not bind: the failure rule of its namespace."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nri_plugin import known, starts
from nri_plugin.api import nri_pb2
from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.process import ProcessError
from rthook.quarantine import QuarantineError
from tests.protocol.fakes import (
    GENERATIONS,
    PID,
    FakeAgent,
    FakeRuntime,
    Generation,
    LogTap,
    Refusal,
    RuntimeSide,
    configure_message,
    fields_of,
    make_container,
    make_pod,
    running,
)

either = pytest.mark.parametrize("generation", GENERATIONS, ids=["state change", "own call"])
CGROUP_ID = 4711


@dataclass
class Kernel:
    """In place of what only a loaded program can do; `error` is what it does instead."""

    error: Exception | None = None
    bound: list[tuple[Path, int, int]] = field(default_factory=list)

    def find(self, pid: int, cgroups_path: str) -> int:
        assert (pid, cgroups_path) == (PID, "/kubepods/pod1/c1")
        if isinstance(self.error, ProcessError):
            raise self.error
        return CGROUP_ID

    def put(self, pin_dir: Path, cgroup_id: int, init_pid: int) -> int:
        if self.error is not None:
            raise self.error
        self.bound.append((pin_dir, cgroup_id, init_pid))
        return 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel()
    monkeypatch.setattr(starts, "find_cgroup_id", fake.find)
    monkeypatch.setattr(starts, "put_in_quarantine", fake.put)
    return fake


def refuse_bind(agent: FakeAgent, code: Code = Code.NOT_FOUND) -> None:
    agent.react = lambda _: Refusal(code, "cgroup id differs")


def in_namespace(namespace: str) -> nri_pb2.PodSandbox:
    pod = make_pod()
    pod.namespace = namespace
    return pod


@either
@pytest.mark.parametrize(
    ("rule", "code", "outcome"),
    [("open", Code.OK, "open"), ("closed", Code.UNAVAILABLE, "closed")],
)
def test_without_an_agent_the_rule_decides(
    runtime: FakeRuntime,
    config: PluginConfig,
    tap: LogTap,
    rule_path: Path,
    generation: Generation,
    rule: str,
    code: Code,
    outcome: str,
) -> None:
    rule_path.write_text(f"default {rule}\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call(*generation.start(make_container())).code is code
        record = tap.await_event("start_container")
    assert record.levelno == logging.ERROR
    fields = fields_of(record)
    assert (fields["outcome"], fields["cause"]) == (outcome, "agent_down")
    assert "No such file" in str(fields["reason"])
    assert len(tap.named("agent_lost")) == 1


def test_without_a_file_everything_starts(runtime: FakeRuntime, config: PluginConfig, tap: LogTap) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call(*GENERATIONS[0].start(make_container())).code is Code.OK
        assert fields_of(tap.await_event("failure_rule"))["exists"] is False
        assert fields_of(tap.await_event("start_container"))["outcome"] == "open"


@either
def test_a_refusal_reaches_the_runtime_with_its_reason(
    runtime: FakeRuntime,
    agent: FakeAgent,
    config: PluginConfig,
    tap: LogTap,
    rule_path: Path,
    generation: Generation,
) -> None:
    """Never as UNIMPLEMENTED, which NRI 0.12 takes for "ask again as StateChange"."""
    rule_path.write_text("default closed\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        refuse_bind(agent, Code.UNIMPLEMENTED)
        answer = side.call(*generation.start(make_container()))
        fields = fields_of(tap.await_event("start_container"))
    assert answer.code is Code.FAILED_PRECONDITION
    assert "podgate: UNIMPLEMENTED: cgroup id differs" in answer.message
    assert (fields["outcome"], fields["cause"]) == ("closed", "refused")


def test_each_namespace_has_its_own_rule(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, rule_path: Path
) -> None:
    rule_path.write_text("default closed\nnamespace shop open\npattern team-* open\nexempt kube-system\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        refuse_bind(agent)
        codes = {
            namespace: side.call(*GENERATIONS[0].start(make_container(namespace), in_namespace(namespace))).code
            for namespace in ("shop", "team-a", "kube-system", "other")
        }
    assert codes == {
        "shop": Code.OK,
        "team-a": Code.OK,
        "kube-system": Code.OK,
        "other": Code.FAILED_PRECONDITION,
    }


def test_a_rule_that_changes_counts_from_the_next_start(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, rule_path: Path
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        refuse_bind(agent)
        start = GENERATIONS[0].start(make_container())
        assert side.call(*start).code is Code.OK
        rule_path.write_text("default closed\n")
        assert side.call(*start).code is Code.FAILED_PRECONDITION
        rule_path.unlink()
        assert side.call(*start).code is Code.OK


def test_a_fault_in_a_changed_rule_is_told_before_a_start_needs_it(
    runtime: FakeRuntime, watchful: PluginConfig, agent: FakeAgent, tap: LogTap, rule_path: Path
) -> None:
    with running(watchful):
        runtime.accept().bring_up()
        agent.await_requests("Synchronize")
        rule_path.write_text("default clothed\n")
        assert fields_of(tap.await_event("failure_rule_fault"))["file"] == str(rule_path)


def test_a_start_that_makes_no_sense_is_decided_without_the_agent(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap, rule_path: Path
) -> None:
    rule_path.write_text("namespace shop closed\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer = side.call(*GENERATIONS[0].start(make_container(pid=0)))
        assert side.call(*GENERATIONS[0].start(make_container(pid=0), in_namespace("other"))).code is Code.OK
        fields = fields_of(tap.await_event("start_container"))
    assert (fields["outcome"], fields["cause"]) == ("closed", "invalid")
    assert (answer.code, answer.message) == (Code.INVALID_ARGUMENT, "podgate: the runtime sent pid 0")
    assert [request.method for request in agent.requests] == ["Synchronize"]


def test_a_start_without_a_namespace_gets_the_strictest_rule(
    runtime: FakeRuntime, config: PluginConfig, rule_path: Path
) -> None:
    rule_path.write_text("default open\nnamespace payments closed\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer = side.call(*GENERATIONS[0].start(make_container(), in_namespace("")))
    assert answer.code is Code.INVALID_ARGUMENT


@either
def test_quarantine_binds_the_containers_own_cgroup_and_lets_it_start(
    runtime: FakeRuntime,
    agent: FakeAgent,
    config: PluginConfig,
    tap: LogTap,
    rule_path: Path,
    kernel: Kernel,
    generation: Generation,
) -> None:
    rule_path.write_text("default quarantine\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        refuse_bind(agent)
        assert side.call(*generation.start(make_container())).code is Code.OK
        record = tap.await_event("start_container")
    assert kernel.bound == [(config.pin_dir, CGROUP_ID, PID)]
    assert record.levelno == logging.WARNING
    fields = fields_of(record)
    assert (fields["outcome"], fields["cause"], fields["cgroup_id"]) == ("quarantined", "refused", CGROUP_ID)
    assert fields["reason"] == "started in quarantine: NOT_FOUND: cgroup id differs"


IMPOSSIBLE = {
    "no program": QuarantineError(Path("/pins"), "no agent has left a quarantine program there"),
    "not its cgroup": ProcessError(PID, "is in cgroup /x, not in the container's /y"),
    "no such directory": FileNotFoundError(2, "gone"),
}


@pytest.mark.parametrize("error", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_quarantine_that_cannot_be_done_is_closed_and_says_why(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap, rule_path: Path, kernel: Kernel, error: Exception
) -> None:
    rule_path.write_text("default quarantine\n")
    kernel.error = error
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer = side.call(*GENERATIONS[0].start(make_container()))
        fields = fields_of(tap.await_event("start_container"))
    assert answer.code is Code.UNAVAILABLE
    assert f"not quarantined: {error}" in answer.message
    assert (fields["outcome"], fields["cause"]) == ("closed", "agent_down")


def test_quarantine_of_a_start_that_names_no_process_is_closed(
    runtime: FakeRuntime, config: PluginConfig, rule_path: Path, kernel: Kernel
) -> None:
    rule_path.write_text("default quarantine\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer = side.call(*GENERATIONS[0].start(make_container(pid=0)))
    assert answer.code is Code.INVALID_ARGUMENT
    assert kernel.bound == []


def told_ids(payload: bytes) -> dict[str, "hook_pb2.Phase"]:
    return {c.id: c.phase for c in hook_pb2.SynchronizeRequest.FromString(payload).containers}


@pytest.mark.parametrize(("rule", "known"), [("open", True), ("quarantine", True), ("closed", False)])
def test_what_started_is_told_to_the_agent_that_comes_back_and_what_did_not_is_not(
    runtime: FakeRuntime,
    agent_path: Path,
    config: PluginConfig,
    rule_path: Path,
    kernel: Kernel,
    rule: str,
    known: bool,
) -> None:
    rule_path.write_text(f"default {rule}\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        side.call(*GENERATIONS[0].start(make_container()))
        with FakeAgent(agent_path) as agent:
            (request,) = agent.await_requests("Synchronize")
    assert told_ids(request.payload) == ({"c1": hook_pb2.PHASE_RUNNING} if known else {})
    assert bool(kernel.bound) == (rule == "quarantine")


@pytest.mark.parametrize(("rule", "code"), [("open", Code.OK), ("closed", Code.RESOURCE_EXHAUSTED)])
def test_a_container_beyond_the_limit_is_not_bound_and_not_kept(
    runtime: FakeRuntime,
    agent: FakeAgent,
    config: PluginConfig,
    tap: LogTap,
    rule_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    code: Code,
) -> None:
    monkeypatch.setattr(known, "MAX_CONTAINERS", 2)
    rule_path.write_text(f"default {rule}\n")
    with running(config):
        side = runtime.accept()
        side.bring_up()
        codes = [side.call(*GENERATIONS[0].start(make_container(name))).code for name in "abcdb"]
        assert fields_of(tap.await_event("start_container", 3))["cause"] == "limit"
    assert codes == [Code.OK, Code.OK, code, code, Code.OK]
    assert [request.method for request in agent.requests] == ["Synchronize", *["Bind"] * 3]


def bring_up_as(runtime: FakeRuntime, name: str) -> RuntimeSide:
    side = runtime.accept()
    side.bring_up(configure=configure_message(name))
    return side


@pytest.mark.parametrize(
    ("name", "rule", "said"),
    [
        ("cri-o", "open", []),
        ("cri-o", "closed", ["closed"]),
        ("cri-o", "quarantine", ["quarantine"]),
        ("containerd", "closed", []),
    ],
)
def test_with_crio_it_is_said_once_that_an_error_does_not_stop_a_start(
    runtime: FakeRuntime,
    agent: FakeAgent,
    config: PluginConfig,
    tap: LogTap,
    rule_path: Path,
    name: str,
    rule: str,
    said: list[str],
) -> None:
    rule_path.write_text(f"default open\nnamespace payments {rule}\n")
    with running(config):
        side = bring_up_as(runtime, name)
        tap.await_event("nri_ready")
        side.call(*GENERATIONS[1].start(make_container()))
        agent.await_requests("Bind")
    reasons = [str(fields_of(record)["reason"]) for record in tap.named("closed_not_enforced")]
    assert len(reasons) == len(said)
    assert all(word in reason for word, reason in zip(said, reasons, strict=True))
