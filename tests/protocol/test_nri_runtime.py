# SPDX-License-Identifier: Apache-2.0
"""The plugin against a scripted runtime: registration, torn and broken streams, restarts."""

import dataclasses
import itertools
import struct
from pathlib import Path

import pytest

from nri_plugin.api import nri_pb2
from nri_plugin.config import PluginConfig
from nri_plugin.handlers import PLUGIN_SERVICE, RUNTIME_SERVICE
from nri_plugin.ttrpc import (
    MAX_MESSAGE,
    MAX_OPEN_STREAMS,
    PLUGIN_CONNECTION,
    RUNTIME_CONNECTION,
    Code,
    MessageType,
    Request,
    mux_frames,
    write_frame,
)
from nri_plugin.ttrpc.message import encode_request
from tests.protocol.fakes import (
    GENERATIONS,
    FakeAgent,
    FakeRuntime,
    LogTap,
    RuntimeSide,
    fields_of,
    make_container,
    make_pod,
    running,
    start_event,
)


def test_the_plugin_registers_under_its_name(runtime: FakeRuntime, config: PluginConfig) -> None:
    with running(config):
        request = runtime.accept().next_request()
    assert (request.service, request.method) == (RUNTIME_SERVICE, "RegisterPlugin")
    message = nri_pb2.RegisterPluginRequest.FromString(request.payload)
    assert (message.plugin_name, message.plugin_idx) == ("podgate", "10")


def test_a_start_is_answered_after_the_bind(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call("StateChange", start_event(make_container())).code is Code.OK
        assert len(agent.await_requests("Bind")) == 1
        fields = fields_of(tap.await_event("start_container"))
    assert (fields["outcome"], fields["container_id"], fields["pod"]) == ("bound", "c1", "web-0")
    assert (fields["bind_us"], fields["cgroup_id"], fields["workload_id"], fields["policies"]) == (120, 77, 5, 3)
    assert isinstance(fields["hook_us"], int)
    assert 0 < fields["hook_us"] < 1_000_000


def test_configure_may_come_before_the_answer_to_registration(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side = runtime.accept()
        register = side.next_request()
        assert side.call("Configure").code is Code.OK
        assert side.call("Synchronize").code is Code.OK
        side.answer(register.stream_id)
        tap.await_event("nri_ready")
        assert side.call("StateChange", start_event(make_container())).code is Code.OK
    assert agent.requests[-1].method == "Bind"


def test_a_stream_torn_at_every_byte_is_served(runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        stream_id, frame = side.client.request(PLUGIN_SERVICE, "StateChange", start_event(make_container()))
        for i in range(len(frame)):
            side.sock.sendall(mux_frames(PLUGIN_CONNECTION, frame[i : i + 1]))
        assert side.await_answer(stream_id).code is Code.OK
    assert agent.requests[-1].method == "Bind"


def test_two_calls_in_one_piece_are_both_answered(runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        calls = [side.client.request(PLUGIN_SERVICE, "StateChange", start_event(make_container(name))) for name in "ab"]
        side.sock.sendall(mux_frames(PLUGIN_CONNECTION, b"".join(frame for _, frame in calls)))
        assert [side.await_answer(stream_id).code for stream_id, _ in calls] == [Code.OK, Code.OK]
    assert len(agent.await_requests("Bind", 2)) == 2


def test_a_large_inventory_comes_in_parts(runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig) -> None:
    with running(config):
        side = runtime.accept()
        side.answer(side.next_request().stream_id)
        pods = [nri_pb2.PodSandbox(id="sandbox-1", name="web-0", namespace="shop")]
        for part in range(3):
            containers = [make_container(f"c{part}-{i}") for i in range(500)]
            message = nri_pb2.SynchronizeRequest(pods=pods if part == 2 else [], containers=containers, more=part < 2)
            answer = side.call("Synchronize", message.SerializeToString())
            assert nri_pb2.SynchronizeResponse.FromString(answer.payload).more == (part < 2)
        (request,) = agent.await_requests("Synchronize")
    assert request.payload.count(b"registry/nginx:1") == 1500


def test_unknown_methods_are_unimplemented(runtime: FakeRuntime, config: PluginConfig) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        assert side.call("ValidateContainerAdjustment").code is Code.UNIMPLEMENTED
        assert side.call("Shutdown").code is Code.OK


BROKEN = {
    "an answer to no request": mux_frames(RUNTIME_CONNECTION, write_frame(MessageType.RESPONSE, 9, b"")),
    "an even stream id": mux_frames(PLUGIN_CONNECTION, write_frame(MessageType.REQUEST, 4, b"")),
    "a reused stream id": mux_frames(PLUGIN_CONNECTION, write_frame(MessageType.REQUEST, 1, b"")),
    "an unknown mux connection": mux_frames(3, b"x"),
    "an absurd mux frame": struct.pack(">II", PLUGIN_CONNECTION, 0xFFFFFFFF),
    "an absurd message": mux_frames(PLUGIN_CONNECTION, struct.pack(">IIBB", 0xFFFFFFFF, 101, 1, 0)),
    "a data frame": mux_frames(PLUGIN_CONNECTION, write_frame(MessageType.DATA, 101, b"")),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_the_protocol_ends_the_connection_and_the_plugin_comes_back(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap, data: bytes
) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        tap.await_event("nri_ready")
        side.sock.sendall(data)
        side.read_to_end()
        runtime.accept().bring_up()
        tap.await_event("nri_ready", 2)
    assert len(tap.named("nri_lost")) == 1


def test_an_oversized_call_fails_alone(runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        stream_id, _ = side.client.request(PLUGIN_SERVICE, "Synchronize", b"")
        size = MAX_MESSAGE + 1
        side.sock.sendall(mux_frames(PLUGIN_CONNECTION, struct.pack(">IIBB", size, stream_id, 1, 0) + bytes(size)))
        assert side.await_answer(stream_id).code is Code.RESOURCE_EXHAUSTED
        assert side.call("StateChange", start_event(make_container())).code is Code.OK
    assert agent.requests[-1].method == "Bind"


def test_a_flood_of_calls_is_answered_or_refused_each(runtime: FakeRuntime, config: PluginConfig) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        calls = [side.client.request(PLUGIN_SERVICE, "Nonsense", b"") for _ in range(MAX_OPEN_STREAMS)]
        side.sock.sendall(mux_frames(PLUGIN_CONNECTION, b"".join(frame for _, frame in calls)))
        assert {side.await_answer(stream_id).code for stream_id, _ in calls} == {Code.UNIMPLEMENTED}
        assert side.call("Shutdown").code is Code.OK


def test_a_flood_of_events_is_answered_each(runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig) -> None:
    """As many as fit are under way at any time, and starts are among them."""
    with running(config):
        side = runtime.accept()
        side.bring_up()
        ended, started = GENERATIONS[0].remove_sandbox(make_pod()), GENERATIONS[0].start(make_container())
        for _ in range(20):
            asked = [side.ask(*(started if number % 50 == 0 else ended)) for number in range(MAX_OPEN_STREAMS)]
            assert {side.await_answer(stream_id).code for stream_id in asked} == {Code.OK}
        assert len(agent.await_requests("Bind", 60)) == 60


def flood(side: RuntimeSide) -> None:
    """Requests for as long as somebody takes them; no answer is read."""
    for stream_id in itertools.count(1_000_001, 2):
        request = encode_request(Request(stream_id, PLUGIN_SERVICE, "Nonsense", b""))
        side.sock.sendall(mux_frames(PLUGIN_CONNECTION, write_frame(MessageType.REQUEST, stream_id, request)))


def test_a_runtime_that_floods_and_reads_no_answers_is_left_and_found_again(
    runtime: FakeRuntime, config: PluginConfig, tap: LogTap
) -> None:
    with running(dataclasses.replace(config, io_s=0.1)):
        side = runtime.accept()
        side.bring_up()
        with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
            flood(side)
        runtime.accept().bring_up()
        tap.await_event("nri_ready", 2)


def test_an_end_within_a_message_reconnects(runtime: FakeRuntime, config: PluginConfig, tap: LogTap) -> None:
    with running(config):
        side = runtime.accept()
        side.bring_up()
        _, frame = side.client.request(PLUGIN_SERVICE, "StateChange", start_event(make_container()))
        side.sock.sendall(mux_frames(PLUGIN_CONNECTION, frame)[:-5])
        side.sock.close()
        runtime.accept().bring_up()
        tap.await_event("nri_ready", 2)
    assert tap.named("start_container") == []


def test_an_outage_of_several_attempts_is_told_once(runtime: FakeRuntime, config: PluginConfig, tap: LogTap) -> None:
    with running(config):
        for _ in range(3):
            runtime.accept().sock.close()
        runtime.accept().bring_up()
        tap.await_event("nri_ready")
    assert len(tap.named("nri_lost")) == 1


def test_a_refused_registration_is_tried_again(runtime: FakeRuntime, config: PluginConfig, tap: LogTap) -> None:
    with running(config):
        side = runtime.accept()
        request = side.next_request()
        refusal = side.server.respond_error(request.stream_id, Code.INVALID_ARGUMENT, "no such plugins here")
        side.sock.sendall(mux_frames(RUNTIME_CONNECTION, refusal))
        assert "no such plugins here" in str(fields_of(tap.await_event("nri_lost"))["reason"])
        runtime.accept().bring_up()
        tap.await_event("nri_ready")


def test_a_runtime_that_says_nothing_is_given_up(runtime: FakeRuntime, config: PluginConfig, tap: LogTap) -> None:
    with running(dataclasses.replace(config, registration_s=0.05)):
        runtime.accept().read_to_end()
        assert "registration" in str(fields_of(tap.await_event("nri_lost"))["reason"])
        runtime.accept()


def test_a_runtime_that_restarts_is_found_again(
    tmp_path: Path, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    """The socket file goes away and is made anew, as containerd does; the outage is told once, and its end once."""
    with running(config):
        tap.await_event("nri_lost")
        for count in (1, 2):
            runtime = FakeRuntime(tmp_path / "nri.sock")
            side = runtime.accept()
            side.bring_up([make_container(state=nri_pb2.CONTAINER_RUNNING)])
            tap.await_event("nri_ready", count)
            runtime.close()
            tap.await_event("nri_lost", count + 1)
    assert len(tap.named("nri_lost")) == 3
    assert len(tap.named("nri_ready")) == 2
    assert len(agent.await_requests("Synchronize", 2)) == 2


def test_stop_ends_a_plugin_that_waits_for_the_runtime(config: PluginConfig, tap: LogTap) -> None:
    with running(dataclasses.replace(config, backoff_first_s=60.0, backoff_cap_s=60.0)):
        tap.await_event("nri_lost")


def test_a_start_whose_answer_cannot_be_sent_is_logged(
    runtime: FakeRuntime, agent: FakeAgent, config: PluginConfig, tap: LogTap
) -> None:
    with running(config):
        side: RuntimeSide = runtime.accept()
        side.bring_up()
        side.ask("StateChange", start_event(make_container()))
        side.sock.close()
        assert fields_of(tap.await_event("start_container"))["outcome"] == "bound"
        runtime.accept().bring_up()
        tap.await_event("nri_ready", 2)
    assert agent.await_requests("Bind")
