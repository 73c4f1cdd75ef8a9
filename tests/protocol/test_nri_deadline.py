# SPDX-License-Identifier: Apache-2.0
"""The answer comes before the runtime's patience ends, whatever the agent does and however short that patience is."""

import time
from pathlib import Path

import pytest

from nri_plugin.api import nri_pb2
from nri_plugin.budget import ANSWER, BIND
from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code, Request, Response
from tests.protocol.fakes import (
    GENERATIONS,
    FakeAgent,
    FakeRuntime,
    Generation,
    Hang,
    HangUp,
    LogTap,
    Reaction,
    RuntimeSide,
    Trickle,
    agree,
    configure_message,
    fields_of,
    make_container,
    make_pod,
    running,
)

either = pytest.mark.parametrize("generation", GENERATIONS, ids=["state change", "own call"])
patience = pytest.mark.parametrize("timeout_ms", [400, 1000])


def hang_on_bind(request: Request) -> Reaction:
    return Hang() if request.method == "Bind" else agree(request)


def timed(side: RuntimeSide, method: str, payload: bytes, timeout_ns: int = 0) -> tuple[Response, float]:
    began = time.monotonic()
    answer = side.call(method, payload, timeout_ns)
    return answer, time.monotonic() - began


@either
@patience
@pytest.mark.parametrize(("rule", "code"), [("open", Code.OK), ("closed", Code.UNAVAILABLE)])
def test_a_hung_agent_delays_a_start_by_its_share_only(
    runtime: FakeRuntime,
    agent: FakeAgent,
    config: PluginConfig,
    rule_path: Path,
    generation: Generation,
    timeout_ms: int,
    rule: str,
    code: Code,
) -> None:
    rule_path.write_text(f"default {rule}\n")
    agent.react = hang_on_bind
    with running(config):
        side = runtime.accept()
        side.bring_up(configure=configure_message(timeout_ms=timeout_ms))
        answer, spent = timed(side, *generation.start(make_container()))
    assert answer.code is code
    assert BIND * timeout_ms / 1e3 - 0.01 < spent < ANSWER * timeout_ms / 1e3


def test_a_start_behind_housekeeping_is_answered_in_time(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig
) -> None:
    """The agent hangs on everything: a resync is under way most of the time, and the starts come behind it."""
    agent.react = lambda _: Hang()
    with running(config):
        side = runtime.accept()
        side.bring_up(configure=configure_message(timeout_ms=1000))
        for count in range(2, 5):
            agent.await_requests("Synchronize", count)
            answer, spent = timed(side, *GENERATIONS[0].start(make_container()))
            assert answer.code is Code.OK
            # The shares add up to less (tests/unit/test_nri_parts.py); this machine may be busy.
            assert spent < 1.0


def test_a_start_behind_the_removal_of_another_is_answered_in_time(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        agent.react = lambda _: Hang()
        side.call(*GENERATIONS[0].remove(make_container("old")))
        _, spent = timed(side, *GENERATIONS[0].start(make_container()))
    assert spent < 0.5


@either
def test_a_hung_agent_delays_a_sandbox_by_its_share_only(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, generation: Generation
) -> None:
    agent.react = hang_on_bind
    with running(config):
        side = runtime.accept()
        side.bring_up()
        answer, spent = timed(side, *generation.run_sandbox(make_pod(pid=1)))
    assert answer.code is Code.OK
    assert spent < ANSWER * 0.5


SLOW_AGENTS = {
    "an answer byte by byte": lambda request: (
        Trickle(b"\0\0\0\5\0\0\0\1\2\0abcde", 0.05) if request.method == "Bind" else agree(request)
    ),
    "an end just before the deadline": lambda request: (
        HangUp(after_s=BIND * 0.5 - 0.03) if request.method == "Bind" else agree(request)
    ),
}


@pytest.mark.parametrize("react", SLOW_AGENTS.values(), ids=SLOW_AGENTS.keys())
def test_a_slow_agent_is_as_one_that_is_down(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap, react: object
) -> None:
    assert callable(react)
    agent.react = react
    with running(config):
        side = runtime.accept()
        side.bring_up()
        _, spent = timed(side, *GENERATIONS[0].start(make_container()))
        assert fields_of(tap.await_event("start_container"))["cause"] == "agent_down"
    assert spent < ANSWER * 0.5


def test_a_request_with_less_time_than_configured_is_answered_within_that(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig
) -> None:
    agent.react = hang_on_bind
    with running(config):
        side = runtime.accept()
        side.bring_up(configure=configure_message(timeout_ms=2000))
        _, spent = timed(side, *GENERATIONS[0].start(make_container()), timeout_ns=400_000_000)
    assert spent < ANSWER * 0.4


def test_a_runtime_that_does_not_configure_its_patience_is_believed_by_its_requests(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    """containerd 1.7: Configure says 0, and is sent with a time limit, of which some has passed."""
    agent.react = hang_on_bind
    with running(config):
        side = runtime.accept()
        side.answer(side.next_request().stream_id)
        assert side.call("Configure", configure_message(timeout_ms=0), timeout_ns=399_900_000).code is Code.OK
        assert side.call("Synchronize").code is Code.OK
        assert fields_of(tap.await_event("nri_ready"))["request_timeout_ms"] == 400
        _, spent = timed(side, *GENERATIONS[0].start(make_container()))
    assert spent < ANSWER * 0.4


@pytest.mark.parametrize(("timeout_ms", "warnings"), [(60, 1), (200, 0), (0, 0)])
def test_a_patience_that_is_too_short_is_told(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap, timeout_ms: int, warnings: int
) -> None:
    with running(config):
        runtime.accept().bring_up(configure=configure_message(timeout_ms=timeout_ms))
        tap.await_event("nri_ready")
    assert len(tap.named("request_timeout_short")) == warnings


def test_ready_says_what_the_runtime_is_and_that_nothing_is_adjusted(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap
) -> None:
    configure = nri_pb2.ConfigureRequest(
        runtime_name="containerd", runtime_version="9.9", request_timeout=500, NRI_version="0.12.0", config="a: b"
    )
    with running(config):
        runtime.accept().bring_up(configure=configure.SerializeToString())
        fields = fields_of(tap.await_event("nri_ready"))
    assert fields == {
        "socket": config.nri_socket,
        "runtime": "containerd",
        "version": "9.9",
        "nri_version": "0.12.0",
        "events": "0x425",
        "request_timeout_ms": 500,
        "synchronized": True,
        "adjusts": "nothing",
    }
    assert len(tap.named("config_ignored")) == 1


def test_a_decision_says_how_much_of_the_patience_was_left(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        side.call(*GENERATIONS[0].start(make_container()))
        fields = fields_of(tap.await_event("start_container"))
    assert isinstance(fields["hook_us"], int)
    assert fields["headroom_us"] == 500_000 - fields["hook_us"]


def test_a_patience_that_is_not_known_is_not_made_up(runtime: FakeRuntime, config: PluginConfig, tap: LogTap) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up(configure=configure_message(timeout_ms=0))
        side.call(*GENERATIONS[0].start(make_container()))
        assert fields_of(tap.await_event("start_container"))["headroom_us"] is None
