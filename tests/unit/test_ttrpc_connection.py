# SPDX-License-Identifier: Apache-2.0
"""The two ends of a connection: what they hand out, refuse and break off on."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_plugin.ttrpc import (
    MAX_MESSAGE,
    MAX_OPEN_STREAMS,
    MAX_STREAM_ID,
    ClientConnection,
    Code,
    LocalProtocolError,
    MessageType,
    RemoteError,
    RemoteProtocolError,
    Request,
    Response,
    ServerConnection,
    write_frame,
)
from nri_plugin.ttrpc.message import encode_request, encode_response


def request_frame(stream_id: int, flags: int = 0) -> bytes:
    payload = encode_request(Request(stream_id, "s", "m", b"p"))
    return struct.pack(">IIBB", len(payload), stream_id, 1, flags) + payload


def answer_of(data: bytes, asked: int) -> Response:
    """What a client that has asked `asked` times reads in `data`."""
    client = ClientConnection()
    for _ in range(asked):
        client.request("s", "m", b"")
    (response,) = client.receive_data(data)
    return response


def test_a_call_goes_round() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream_id, sent = client.request("svc", "Do", b"in", timeout_ns=5)
    assert server.receive_data(sent) == [Request(1, "svc", "Do", b"in", 5, ())]
    assert server.data_to_send() == b""
    assert client.pending == {stream_id}
    assert client.receive_data(server.respond(1, b"out")) == [Response(1, Code.OK, "", b"out")]
    assert client.pending == frozenset()


def test_an_empty_answer_is_ok() -> None:
    """RegisterPlugin's answer has an empty body."""
    assert answer_of(write_frame(MessageType.RESPONSE, 1, b""), 1).result() == b""


def test_an_error_goes_round() -> None:
    server = ServerConnection()
    server.receive_data(request_frame(1))
    response = answer_of(server.respond_error(1, Code.NOT_FOUND, "no such thing"), 1)
    with pytest.raises(RemoteError, match="NOT_FOUND: no such thing") as caught:
        response.result()
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no such thing")


def test_a_status_that_grpc_lacks_is_unknown() -> None:
    # Response{status{code 99, message "odd"}}, written by hand.
    response = answer_of(write_frame(MessageType.RESPONSE, 1, b"\x0a\x07\x08\x63\x12\x03odd"), 1)
    assert (response.code, response.message) == (Code.UNKNOWN, "status 99: odd")


def test_metadata_is_handed_on() -> None:
    metadata = (("containerd-namespace-ttrpc", "k8s.io"),)
    frame = write_frame(MessageType.REQUEST, 1, encode_request(Request(1, "s", "m", b"", 0, metadata)))
    assert ServerConnection().receive_data(frame)[0].metadata == metadata


def test_client_ids_are_odd_and_rise() -> None:
    client = ClientConnection()
    assert [client.request("s", "m", b"")[0] for _ in range(3)] == [1, 3, 5]


def test_client_refuses_when_ids_are_exhausted() -> None:
    client = ClientConnection()
    client._next_id = MAX_STREAM_ID
    assert client.request("s", "m", b"")[0] == MAX_STREAM_ID
    with pytest.raises(LocalProtocolError, match="exhausted"):
        client.request("s", "m", b"")


def test_client_caps_what_is_pending() -> None:
    client = ClientConnection()
    for _ in range(MAX_OPEN_STREAMS):
        client.request("s", "m", b"")
    with pytest.raises(LocalProtocolError, match="wait for an answer already"):
        client.request("s", "m", b"")


def test_a_request_that_is_too_large_takes_no_stream() -> None:
    client = ClientConnection()
    with pytest.raises(LocalProtocolError, match="exceeds the limit"):
        client.request("s", "m", bytes(MAX_MESSAGE))
    assert client.pending == frozenset()
    assert client.request("s", "m", b"")[0] == 1


def test_a_timeout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="cannot be encoded"):
        ClientConnection().request("s", "m", b"", timeout_ns=1 << 64)


def test_close_names_the_streams_that_failed_and_ends_the_client() -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    client.request("s", "m", b"")
    assert client.close() == [1, 3]
    assert client.close() == []
    with pytest.raises(LocalProtocolError, match="closed"):
        client.request("s", "m", b"")
    with pytest.raises(LocalProtocolError, match="closed"):
        client.receive_data(b"")


def test_an_answer_to_no_request_breaks_off() -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    with pytest.raises(RemoteProtocolError, match="stream 3: answer to no request"):
        client.receive_data(write_frame(MessageType.RESPONSE, 3, b""))


def test_a_second_answer_breaks_off() -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    answer = write_frame(MessageType.RESPONSE, 1, b"")
    client.receive_data(answer)
    with pytest.raises(RemoteProtocolError, match="answer to no request"):
        client.receive_data(answer)


@pytest.mark.parametrize("frame_type", [MessageType.REQUEST, MessageType.DATA])
def test_a_client_takes_only_responses(frame_type: MessageType) -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    with pytest.raises(RemoteProtocolError, match=f"a {frame_type.name} frame"):
        client.receive_data(write_frame(frame_type, 1, b""))


def test_an_oversized_answer_fails_its_stream_alone() -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    client.request("s", "m", b"")
    length = MAX_MESSAGE + 1
    (failed,) = client.receive_data(struct.pack(">IIBB", length, 1, 2, 0))
    assert failed.code is Code.RESOURCE_EXHAUSTED
    later = write_frame(MessageType.RESPONSE, 3, encode_response(Response(3, Code.OK, "", b"fine")))
    assert client.receive_data(bytes(length) + later)[0].payload == b"fine"


@pytest.mark.parametrize("frame_type", [MessageType.RESPONSE, MessageType.DATA])
def test_a_server_takes_only_requests(frame_type: MessageType) -> None:
    with pytest.raises(RemoteProtocolError, match=f"a {frame_type.name} frame"):
        ServerConnection().receive_data(write_frame(frame_type, 1, b""))


@pytest.mark.parametrize("stream_id", [0, 2])
def test_a_server_refuses_even_ids(stream_id: int) -> None:
    with pytest.raises(RemoteProtocolError, match="must be odd"):
        ServerConnection().receive_data(request_frame(stream_id))


@pytest.mark.parametrize("second", [1, 3])
def test_a_server_refuses_ids_that_do_not_rise(second: int) -> None:
    server = ServerConnection()
    server.receive_data(request_frame(3))
    with pytest.raises(RemoteProtocolError, match="not above the last one, 3"):
        server.receive_data(request_frame(second))


@pytest.mark.parametrize("flags", [0, 1])
def test_both_flags_of_a_unary_request_are_fine(flags: int) -> None:
    assert len(ServerConnection().receive_data(request_frame(1, flags))) == 1


def test_a_streaming_request_is_answered_unimplemented() -> None:
    server = ServerConnection()
    assert server.receive_data(request_frame(1, flags=2)) == []
    assert answer_of(server.data_to_send(), 1).code is Code.UNIMPLEMENTED


def test_an_oversized_request_is_answered_and_the_next_is_served() -> None:
    server = ServerConnection()
    length = MAX_MESSAGE + 1
    data = struct.pack(">IIBB", length, 1, 1, 0) + bytes(length) + request_frame(3)
    assert [request.stream_id for request in server.receive_data(data)] == [3]
    assert answer_of(server.data_to_send(), 1).code is Code.RESOURCE_EXHAUSTED
    assert server.data_to_send() == b""


def test_a_malformed_envelope_is_answered_invalid() -> None:
    server = ServerConnection()
    assert server.receive_data(write_frame(MessageType.REQUEST, 1, b"\xff\xff")) == []
    assert answer_of(server.data_to_send(), 1).code is Code.INVALID_ARGUMENT


def test_a_flood_of_requests_is_capped_until_some_are_answered() -> None:
    server = ServerConnection()
    flood = b"".join(request_frame(2 * i + 1) for i in range(MAX_OPEN_STREAMS + 1))
    assert len(server.receive_data(flood)) == MAX_OPEN_STREAMS
    refused = write_frame(
        MessageType.RESPONSE,
        2 * MAX_OPEN_STREAMS + 1,
        encode_response(Response(0, Code.RESOURCE_EXHAUSTED, f"{MAX_OPEN_STREAMS} requests are open already", b"")),
    )
    assert server.data_to_send() == refused
    server.respond(1, b"")
    assert len(server.receive_data(request_frame(2 * MAX_OPEN_STREAMS + 3))) == 1


def test_a_request_is_answered_once() -> None:
    server = ServerConnection()
    server.receive_data(request_frame(1))
    server.respond(1, b"")
    with pytest.raises(LocalProtocolError, match="no open request"):
        server.respond(1, b"")
    with pytest.raises(LocalProtocolError, match="no open request"):
        server.respond_error(3, Code.INTERNAL, "")


def test_an_answer_that_is_too_large_leaves_the_request_open() -> None:
    server = ServerConnection()
    server.receive_data(request_frame(1))
    with pytest.raises(LocalProtocolError, match="exceeds the limit"):
        server.respond(1, bytes(MAX_MESSAGE))
    assert answer_of(server.respond_error(1, Code.INTERNAL, "too large"), 1).code is Code.INTERNAL


def test_an_error_answer_needs_an_error() -> None:
    server = ServerConnection()
    server.receive_data(request_frame(1))
    with pytest.raises(LocalProtocolError, match="other than OK"):
        server.respond_error(1, Code.OK, "")


@given(st.binary(max_size=300))
def test_junk_gives_requests_or_the_error(data: bytes) -> None:
    server = ServerConnection()
    try:
        requests = server.receive_data(data)
    except RemoteProtocolError:
        return
    assert all(request.stream_id % 2 for request in requests)


@given(st.binary(max_size=100), st.booleans())
def test_junk_in_a_request_envelope_is_a_request_or_an_answer(payload: bytes, as_answer: bool) -> None:
    if as_answer:
        client = ClientConnection()
        client.request("s", "m", b"")
        try:
            (response,) = client.receive_data(write_frame(MessageType.RESPONSE, 1, payload))
        except RemoteProtocolError:
            return
        assert isinstance(response.code, Code)
    else:
        server = ServerConnection()
        requests = server.receive_data(write_frame(MessageType.REQUEST, 1, payload))
        assert len(requests) + bool(server.data_to_send()) == 1
