# SPDX-License-Identifier: Apache-2.0
"""Targets that read a stream: they get an input whole, and cut anywhere, and both must come to the same."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from agent.cri.errors import CriError
from agent.cri.http2 import Aborted, Answer
from agent.cri.http2 import ClientConnection as Http2Connection
from agent.cri.messages import open_answer
from nri_plugin.ttrpc import ClientConnection, MuxReader, RemoteProtocolError, Request, ServerConnection, TtrpcError
from tests.fuzz.structure import split_frames
from tests.fuzz.words import MismatchError, generalise, name_error

# Requests that a client has open when answers come.
OPEN_REQUESTS = 4

split_mux = split_frames(8, lambda header: int.from_bytes(header[4:8], "big"))
split_ttrpc = split_frames(10, lambda header: int.from_bytes(header[:4], "big"))
split_http2 = split_frames(9, lambda header: int.from_bytes(header[:3], "big"))


def cut(data: bytes) -> list[bytes]:
    """The input in pieces, always the same for the same input: byte by byte, or at random places."""
    rng = random.Random(zlib.crc32(data))
    if len(data) <= 512 and rng.random() < 0.3:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(1, 8)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def compare(feed: Callable[[list[bytes]], tuple[str, object]], data: bytes) -> str:
    """The word of `feed` for the whole input; cut, it must come to the same value.

    A value of None stands for an error, which takes what came before it along. Of two faults in one input the second
    may show first, when it is whole.
    """
    word, value = feed([data])
    again, other = feed(cut(data))
    if value != other or (value is not None and word != again):
        raise MismatchError(f"{word}, {value!r:.200} became {again}, {other!r:.200}")
    return word


def feed_mux(pieces: list[bytes]) -> tuple[str, object]:
    reader, streams = MuxReader(), dict[int, bytearray]()
    try:
        for piece in pieces:
            for connection, payload in reader.receive_data(piece):
                streams.setdefault(connection, bytearray()).extend(payload)
    except RemoteProtocolError as error:
        return name_error(error), None
    return f"{min(len(streams), 3)} connections", streams


def feed_server(pieces: list[bytes]) -> tuple[str, object]:
    """Each request that is handed on is answered at the end: a peer may leave any number open."""
    server, requests, answers = ServerConnection(), list[Request](), bytearray()
    try:
        for piece in pieces:
            requests += server.receive_data(piece)
            answers += server.data_to_send()
        answers += b"".join(server.respond(request.stream_id, b"") for request in requests)
    except RemoteProtocolError as error:
        return name_error(error), None
    return f"{min(len(requests), 3)} requests, {'an answer' if answers else 'nothing'}", (requests, answers)


def feed_client(pieces: list[bytes]) -> tuple[str, object]:
    client = ClientConnection()
    for _ in range(OPEN_REQUESTS):
        client.request("service", "Method", b"")
    try:
        responses = [response for piece in pieces for response in client.receive_data(piece)]
    except RemoteProtocolError as error:
        client.close()
        return name_error(error), None
    for response in responses:
        open_response(response.result)
    return f"{len(responses)} responses", responses


def open_response(result: Callable[[], bytes]) -> None:
    """What a caller does with an answer: take the payload, or the status as an error."""
    try:
        result()
    except TtrpcError as error:
        str(error)


def run_mux(data: bytes) -> str:
    return compare(feed_mux, data)


def run_ttrpc(data: bytes) -> str:
    """Both ends of a connection get the same bytes."""
    return f"server: {compare(feed_server, data)}; client: {compare(feed_client, data)}"


def feed_http2(pieces: list[bytes]) -> tuple[str, object]:
    """One call is open. The outcome that counts is the first: a caller that has it does not read on."""
    connection = Http2Connection()
    connection.request("/runtime.v1.RuntimeService/ListContainers", b"\x0a\x00", 2.0)
    try:
        for piece in pieces:
            outcome = connection.receive_data(piece)
            connection.data_to_send()
            if outcome is not None:
                return name_outcome(outcome), None
    except CriError as error:
        return name_error(error), None
    return "waiting", None


def name_outcome(outcome: Answer | Aborted) -> str:
    """What the client makes of the end of a call."""
    if isinstance(outcome, Aborted):
        return f"aborted: {generalise(outcome.reason)}"
    try:
        open_answer("ListContainers", outcome.trailers, outcome.message)
    except CriError as error:
        return name_error(error)
    return "a message"


def run_http2(data: bytes) -> str:
    """Cut differently, an answer may come before what breaks the connection; the two may differ then."""
    whole, _ = feed_http2([data])
    parts, _ = feed_http2(cut(data))
    if whole != parts and "ProtocolError" not in whole:
        raise MismatchError(f"{whole} became {parts}")
    return whole
