# SPDX-License-Identifier: Apache-2.0
"""AgentClient against an agent that answers, refuses, hangs, restarts and breaks off."""

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_plugin.ttrpc import MAX_MESSAGE, Code, MessageType, Request, write_frame
from rthook.api import hook_pb2
from rthook.client import SERVICE, AgentClient
from rthook.errors import AgentRefused, AgentUnreachable
from tests.protocol.fakes import FakeAgent, Hang, HangUp, Raw, Reaction, Refusal, Trickle, agree

CONTAINER = hook_pb2.Container(id="c1", pod_namespace="shop", pid=42)


@pytest.fixture
def client(agent_path: Path) -> Iterator[AgentClient]:
    made = AgentClient(str(agent_path), 0.2)
    yield made
    made.close()


def test_bind_is_answered(agent: FakeAgent, client: AgentClient) -> None:
    response = client.bind(CONTAINER)
    assert (response.cgroup_id, response.workload_id, response.policies) == (77, 5, 3)
    (request,) = agent.requests
    assert (request.service, request.method) == (SERVICE, "Bind")
    assert hook_pb2.BindRequest.FromString(request.payload).container == CONTAINER
    assert 0 < request.timeout_ns <= 200_000_000


def test_unbind_and_synchronize_are_answered(agent: FakeAgent, client: AgentClient) -> None:
    assert client.unbind("c1").was_bound
    assert client.synchronize([CONTAINER]).bound == 1
    assert hook_pb2.UnbindRequest.FromString(agent.requests[0].payload).container_id == "c1"
    assert list(hook_pb2.SynchronizeRequest.FromString(agent.requests[1].payload).containers) == [CONTAINER]


def test_calls_share_one_connection(agent: FakeAgent, client: AgentClient) -> None:
    for _ in range(3):
        client.bind(CONTAINER)
    assert (agent.accepted, client.connects) == (1, 1)
    assert client.fileno() >= 0


def test_a_refusal_carries_code_and_message_and_keeps_the_connection(agent: FakeAgent, client: AgentClient) -> None:
    agent.react = lambda _: Refusal(Code.NOT_FOUND, "no cgroup")
    with pytest.raises(AgentRefused, match="NOT_FOUND: no cgroup") as caught:
        client.bind(CONTAINER)
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no cgroup")
    agent.react = agree
    client.bind(CONTAINER)
    assert agent.accepted == 1


def test_no_socket_is_unreachable(client: AgentClient) -> None:
    with pytest.raises(AgentUnreachable, match="No such file") as caught:
        client.bind(CONTAINER)
    assert caught.value.path.endswith("agent.sock")
    assert client.fileno() == -1


def test_a_stale_socket_file_is_unreachable(agent_path: Path, client: AgentClient) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent_path))
    with pytest.raises(AgentUnreachable, match="refused"):
        client.bind(CONTAINER)


def test_a_path_that_is_too_long_is_unreachable() -> None:
    with pytest.raises(AgentUnreachable, match="too long"):
        AgentClient("/" + "x" * 200, 0.2).bind(CONTAINER)


def test_an_agent_that_hangs_is_given_up_at_the_deadline(agent: FakeAgent, client: AgentClient) -> None:
    agent.react = lambda _: Hang()
    start = time.monotonic()
    with pytest.raises(AgentUnreachable, match=r"no answer to Bind within 0\.2 s"):
        client.bind(CONTAINER)
    assert 0.19 < time.monotonic() - start < 0.6


def test_an_agent_that_does_not_accept_is_given_up_at_the_deadline(agent_path: Path, client: AgentClient) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(agent_path))
        listener.listen(0)
        first.connect(str(agent_path))
        start = time.monotonic()
        with pytest.raises(AgentUnreachable, match="within"):
            client.bind(CONTAINER)
        assert 0.19 < time.monotonic() - start < 0.6


def test_an_agent_that_trickles_is_given_up_at_the_deadline(agent: FakeAgent, client: AgentClient) -> None:
    """The deadline covers all receives together: a byte does not renew it."""
    agent.react = lambda _: Trickle(write_frame(MessageType.RESPONSE, 1, bytes(100)), gap_s=0.05)
    start = time.monotonic()
    with pytest.raises(AgentUnreachable, match="within"):
        client.bind(CONTAINER)
    assert 0.19 < time.monotonic() - start < 1


def test_a_deadline_of_one_call_comes_before_the_default(agent: FakeAgent, client: AgentClient) -> None:
    agent.react = lambda _: Hang()
    start = time.monotonic()
    with pytest.raises(AgentUnreachable, match=r"within 0\.05 s"):
        client.synchronize([], 0.05)
    assert time.monotonic() - start < 0.15


def test_the_call_after_a_deadline_uses_a_new_connection(agent: FakeAgent, client: AgentClient) -> None:
    agent.react = lambda _: Hang()
    with pytest.raises(AgentUnreachable):
        client.bind(CONTAINER)
    assert client.fileno() == -1
    agent.react = agree
    assert client.bind(CONTAINER).policies == 3
    assert (agent.accepted, client.connects) == (2, 2)


def test_a_kept_connection_that_died_is_replaced_within_the_call(agent_path: Path, client: AgentClient) -> None:
    with FakeAgent(agent_path):
        client.bind(CONTAINER)
    with FakeAgent(agent_path) as second:
        assert client.bind(CONTAINER).policies == 3
        assert len(second.requests) == 1
    assert client.connects == 2


def test_an_end_before_the_answer_is_retried_once_on_a_kept_connection(agent: FakeAgent, client: AgentClient) -> None:
    client.bind(CONTAINER)
    agent.react = lambda _: HangUp()
    with pytest.raises(AgentUnreachable, match="ended before the answer"):
        client.bind(CONTAINER)
    # One on the kept connection, one on the fresh one, no more.
    assert len(agent.requests) == 3
    assert client.connects == 2


@pytest.fixture
def patient(agent_path: Path) -> Iterator[AgentClient]:
    """For what does not depend on the deadline."""
    made = AgentClient(str(agent_path), 10.0)
    yield made
    made.close()


def test_an_end_before_the_answer_is_not_retried_on_a_fresh_connection(agent: FakeAgent, patient: AgentClient) -> None:
    agent.react = lambda _: HangUp()
    with pytest.raises(AgentUnreachable, match="ended before the answer"):
        patient.bind(CONTAINER)
    assert len(agent.requests) == 1


def test_an_end_within_the_answer_is_not_retried(agent: FakeAgent, patient: AgentClient) -> None:
    patient.bind(CONTAINER)
    agent.react = lambda _: HangUp(b"\0\0\0")
    with pytest.raises(AgentUnreachable, match="ended within the answer"):
        patient.bind(CONTAINER)
    assert len(agent.requests) == 2


def test_the_retry_shares_the_deadline(agent: FakeAgent, agent_path: Path) -> None:
    client = AgentClient(str(agent_path), 0.4)
    client.bind(CONTAINER)

    def hang_up_late_then_hang(_: Request) -> Reaction:
        return HangUp(after_s=0.3) if agent.accepted == 1 else Hang()

    agent.react = hang_up_late_then_hang
    start = time.monotonic()
    with pytest.raises(AgentUnreachable, match="within"):
        client.bind(CONTAINER)
    assert 0.39 < time.monotonic() - start < 0.65
    assert len(agent.requests) == 3


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (write_frame(MessageType.RESPONSE, 7, b""), "answer to no request"),
        (write_frame(MessageType.DATA, 1, b""), "DATA frame"),
        (b"\xff" * 10, "unknown frame type"),
        (write_frame(MessageType.RESPONSE, 1, b"\xff"), "malformed response envelope"),
        (write_frame(MessageType.RESPONSE, 1, b"\x12\x01\xff"), "parsing message"),
    ],
)
def test_an_answer_that_makes_no_sense_is_unreachable(
    agent: FakeAgent, client: AgentClient, raw: bytes, reason: str
) -> None:
    agent.react = lambda _: Raw(raw)
    with pytest.raises(AgentUnreachable, match=reason):
        client.bind(CONTAINER)
    assert client.fileno() == -1


def test_a_call_that_no_message_can_carry_is_unreachable(agent: FakeAgent, client: AgentClient) -> None:
    with pytest.raises(AgentUnreachable, match="exceeds the limit"):
        client.unbind("x" * MAX_MESSAGE)
    assert agent.requests == []


def test_the_descriptor_becomes_readable_when_the_agent_ends(agent_path: Path, client: AgentClient) -> None:
    with FakeAgent(agent_path):
        client.bind(CONTAINER)
        assert select.select([client], [], [], 0)[0] == []
    assert select.select([client], [], [], 5)[0] == [client]


def test_close_leaves_no_descriptor_open(agent: FakeAgent, client: AgentClient) -> None:
    client.bind(CONTAINER)
    descriptor = client.fileno()
    client.close()
    client.close()
    assert agent.accepted == 1
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
