# SPDX-License-Identifier: Apache-2.0
"""The HTTP/2 client as bytes in and outcomes out: whole, byte by byte, with a tail, and with every rule broken."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cri.errors import CriProtocolError
from agent.cri.frames import MAX_FRAME, MAX_STREAM_ID, Flag, Frame, FrameReader, FrameType, Setting, write_frame
from agent.cri.headers import MAX_HEADER_LIST
from agent.cri.http2 import (
    DEFAULT_WINDOW,
    MAX_CONTINUATIONS,
    MAX_HEADER_BLOCKS,
    MAX_WINDOW,
    OUR_WINDOW,
    PREFACE,
    Aborted,
    Answer,
    ClientConnection,
)
from agent.cri.messages import MAX_MESSAGE, encode_message

PATH = "/runtime.v1.RuntimeService/Version"
HELLO = ((":status", "200"), ("content-type", "application/grpc"))
DONE = (("grpc-status", "0"), ("grpc-message", ""))


class _Peer:
    """Writes a server's frames; its headers share one table, as a real server's do."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()

    def block(self, fields: Iterable[tuple[str, str]]) -> bytes:
        return self._encoder.encode(list(fields))

    def headers(self, stream_id: int, fields: Iterable[tuple[str, str]], *, end: bool = False) -> bytes:
        flags = Flag.END_HEADERS | (Flag.END_STREAM if end else 0)
        return write_frame(FrameType.HEADERS, flags, stream_id, self.block(fields))

    def answer(self, stream_id: int, message: bytes) -> bytes:
        body = b"\0" + len(message).to_bytes(4, "big") + message
        pieces = (body[start : start + MAX_FRAME] for start in range(0, len(body), MAX_FRAME))
        data = b"".join(data_frame(stream_id, piece) for piece in pieces)
        return self.headers(stream_id, HELLO) + data + self.headers(stream_id, DONE, end=True)


def data_frame(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return write_frame(FrameType.DATA, flags, stream_id, payload)


def settings_frame(*pairs: tuple[int, int]) -> bytes:
    return write_frame(FrameType.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream_id: int, increment: int) -> bytes:
    return write_frame(FrameType.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def goaway(last: int, code: int = 0) -> bytes:
    return write_frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", last, code) + b"why")


def read_frames(data: bytes) -> list[Frame]:
    reader = FrameReader()
    reader.receive_data(data)
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    return frames


@pytest.fixture
def peer() -> _Peer:
    return _Peer()


@pytest.fixture
def calling() -> ClientConnection:
    """A connection whose first call is open, greeted by the peer; what it sent so far was taken."""
    connection = ClientConnection()
    connection.request(PATH, b"ask", 1.0)
    assert connection.receive_data(settings_frame()) is None
    connection.data_to_send()
    return connection


def test_a_call_is_preface_settings_window_headers_and_message() -> None:
    connection = ClientConnection()
    connection.request(PATH, b"ask", 0.25)
    sent = connection.data_to_send()
    assert sent.startswith(PREFACE)
    ours, update, headers, data = read_frames(sent[len(PREFACE) :])
    assert (ours.type, ours.flags) == (FrameType.SETTINGS, 0)
    assert dict(struct.iter_unpack(">HI", ours.payload)) == {
        Setting.ENABLE_PUSH: 0,
        Setting.INITIAL_WINDOW_SIZE: OUR_WINDOW,
        Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
    }
    assert update == Frame(FrameType.WINDOW_UPDATE, 0, 0, (OUR_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big"))
    assert (headers.type, headers.flags, headers.stream_id) == (FrameType.HEADERS, Flag.END_HEADERS, 1)
    fields = hpack.Decoder().decode(headers.payload, raw=True)
    assert [(name.decode(), value.decode()) for name, value in fields] == [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", PATH),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "podgate"),
        ("grpc-timeout", "250000u"),
    ]
    assert data == Frame(FrameType.DATA, Flag.END_STREAM, 1, b"\0\0\0\0\x03ask")


def test_an_answer_is_whole_with_its_trailers(calling: ClientConnection, peer: _Peer) -> None:
    assert not calling.reusable
    assert calling.receive_data(peer.answer(1, b"told")) == Answer({"grpc-status": "0", "grpc-message": ""}, b"told")
    assert calling.reusable


def test_an_answer_comes_at_its_last_byte_and_no_sooner(calling: ClientConnection, peer: _Peer) -> None:
    data = peer.answer(1, b"told")
    outcomes = [calling.receive_data(data[i : i + 1]) for i in range(len(data))]
    assert outcomes[:-1] == [None] * (len(data) - 1)
    assert isinstance(outcomes[-1], Answer)


def test_what_follows_an_answer_is_taken_too(calling: ClientConnection, peer: _Peer) -> None:
    ping = write_frame(FrameType.PING, 0, 0, b"12345678")
    assert isinstance(calling.receive_data(peer.answer(1, b"told") + ping + goaway(1)), Answer)
    assert read_frames(calling.data_to_send()) == [Frame(FrameType.PING, Flag.ACK, 0, b"12345678")]
    assert not calling.reusable


def test_calls_follow_each_other_on_rising_odd_streams(calling: ClientConnection, peer: _Peer) -> None:
    for stream_id in (1, 3, 5):
        message = b"told %d" % stream_id
        assert calling.receive_data(peer.answer(stream_id, message)) == Answer(dict(DONE), message)
        calling.request(PATH, b"ask", 1.0)
        assert read_frames(calling.data_to_send())[0].stream_id == stream_id + 2


def test_trailers_only_is_an_answer_without_a_message(calling: ClientConnection, peer: _Peer) -> None:
    fields = (*HELLO, ("grpc-status", "5"), ("grpc-message", "no such pod"))
    assert calling.receive_data(peer.headers(1, fields, end=True)) == Answer(dict(fields), None)


def test_headers_may_come_in_pieces_padded_and_with_priority(calling: ClientConnection, peer: _Peer) -> None:
    block = peer.block(HELLO)
    padded = b"\x03" + b"\0\0\0\0\x10" + block[:4] + b"\0\0\0"
    first = write_frame(FrameType.HEADERS, Flag.PADDED | Flag.PRIORITY, 1, padded)
    middle = write_frame(FrameType.CONTINUATION, 0, 1, block[4:6])
    last = write_frame(FrameType.CONTINUATION, Flag.END_HEADERS, 1, block[6:])
    body = data_frame(1, b"\x02" + encode_message(b"told") + b"\0\0", Flag.PADDED)
    outcome = calling.receive_data(first + middle + last + body + peer.headers(1, DONE, end=True))
    assert outcome == Answer(dict(DONE), b"told")


def test_an_informational_response_is_not_the_answer(calling: ClientConnection, peer: _Peer) -> None:
    early = peer.headers(1, ((":status", "103"),))
    assert calling.receive_data(early) is None
    assert calling.receive_data(peer.answer(1, b"told")) == Answer(dict(DONE), b"told")


def test_frames_of_unknown_types_and_priority_are_ignored(calling: ClientConnection, peer: _Peer) -> None:
    unknown = b"\0\0\x04\xfa\0\0\0\0\0what"
    priority = write_frame(FrameType.PRIORITY, 0, 1, b"\0\0\0\0\x10")
    assert calling.receive_data(unknown + priority + peer.answer(1, b"told")) == Answer(dict(DONE), b"told")


def test_pings_and_settings_are_acknowledged_but_not_acknowledgements() -> None:
    connection = ClientConnection()
    connection.data_to_send()
    connection.receive_data(settings_frame((99, 1)))
    connection.receive_data(write_frame(FrameType.SETTINGS, Flag.ACK, 0, b""))
    connection.receive_data(write_frame(FrameType.PING, Flag.ACK, 0, b"ABCDEFGH"))
    assert read_frames(connection.data_to_send()) == [Frame(FrameType.SETTINGS, Flag.ACK, 0, b"")]


def test_a_reset_ends_the_call_and_not_the_connection(calling: ClientConnection, peer: _Peer) -> None:
    reset = write_frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x0b")
    assert calling.receive_data(reset) == Aborted("the call was reset: ENHANCE_YOUR_CALM", unprocessed=False)
    calling.request(PATH, b"ask", 1.0)
    assert calling.receive_data(peer.answer(3, b"told")) == Answer(dict(DONE), b"told")


def test_a_refused_stream_was_not_begun(calling: ClientConnection) -> None:
    outcome = calling.receive_data(write_frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x07"))
    assert outcome == Aborted("the call was reset: REFUSED_STREAM", unprocessed=True)


def test_goaway_lets_an_open_call_end_and_admits_no_other(calling: ClientConnection, peer: _Peer) -> None:
    assert calling.receive_data(goaway(1)) is None
    assert calling.receive_data(peer.answer(1, b"told")) == Answer(dict(DONE), b"told")
    assert not calling.reusable
    with pytest.raises(ValueError, match="takes no call now"):
        calling.request(PATH, b"ask", 1.0)


def test_goaway_says_that_a_later_call_was_not_begun(calling: ClientConnection) -> None:
    outcome = calling.receive_data(goaway(0, 0x99))
    assert outcome == Aborted("the runtime ends the connection: error 0x99", unprocessed=True)


def test_what_comes_for_a_stream_that_is_over_keeps_the_table_right(calling: ClientConnection, peer: _Peer) -> None:
    calling.receive_data(write_frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x08"))
    late = peer.headers(1, (*HELLO, ("x-new", "value"))) + data_frame(1, b"late") + window_update(1, 9)
    assert calling.receive_data(late + write_frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x08")) is None
    calling.request(PATH, b"ask", 1.0)
    # Written with an index into the table, which holds x-new only when the late block was read.
    fields = (*HELLO, ("x-new", "value"), ("grpc-status", "0"))
    answer = calling.receive_data(peer.headers(3, fields, end=True))
    assert answer == Answer(dict(fields), None)


def test_the_request_waits_for_the_peers_windows() -> None:
    connection = ClientConnection()
    connection.receive_data(settings_frame((Setting.INITIAL_WINDOW_SIZE, 4)))
    connection.data_to_send()
    connection.request(PATH, b"0123456789", 1.0)
    assert [frame.payload for frame in read_frames(connection.data_to_send())[1:]] == [b"\0\0\0\0"]
    connection.receive_data(window_update(1, 3))
    connection.receive_data(settings_frame((Setting.INITIAL_WINDOW_SIZE, 6)))
    connection.receive_data(window_update(1, 100))
    pieces = [frame for frame in read_frames(connection.data_to_send()) if frame.type == FrameType.DATA]
    assert [piece.payload for piece in pieces] == [b"\x0a01", b"23", b"456789"]
    assert [piece.flags for piece in pieces] == [0, 0, Flag.END_STREAM]


def test_the_connections_window_holds_over_calls(peer: _Peer) -> None:
    connection = ClientConnection()
    connection.receive_data(settings_frame())
    ask = b"x" * (MAX_FRAME - 5)
    for number in range(4):
        connection.request(PATH, ask, 1.0)
        sent = sum(len(f.payload) for f in read_frames(connection.data_to_send()[0 if number else len(PREFACE) :])[-1:])
        assert sent == MAX_FRAME - (number == 3)  # 4 frames have one byte more than 65,535
        if number < 3:
            assert isinstance(connection.receive_data(peer.answer(2 * number + 1, b"")), Answer)
    connection.receive_data(window_update(0, 1))
    (last,) = read_frames(connection.data_to_send())
    assert (last.payload, last.flags) == (b"x", Flag.END_STREAM)


def test_an_answer_before_the_request_was_out_ends_the_connection(peer: _Peer) -> None:
    connection = ClientConnection()
    connection.receive_data(settings_frame((Setting.INITIAL_WINDOW_SIZE, 0)))
    connection.request(PATH, b"ask", 1.0)
    fields = (*HELLO, ("grpc-status", "8"))
    assert connection.receive_data(peer.headers(1, fields, end=True)) == Answer(dict(fields), None)
    assert not connection.reusable


def test_the_largest_answer_comes_through_and_windows_are_given_back(calling: ClientConnection, peer: _Peer) -> None:
    """The peer keeps to its windows; it never runs dry, since half is given back at once."""
    message = bytes(MAX_MESSAGE)
    room, outcome = {0: OUR_WINDOW, 1: OUR_WINDOW}, None
    for frame in read_frames(peer.answer(1, message)):
        if frame.type == FrameType.DATA:
            room = {stream_id: left - len(frame.payload) for stream_id, left in room.items()}
        assert min(room.values()) >= 0
        outcome = calling.receive_data(write_frame(FrameType(frame.type), frame.flags, 1, frame.payload))
        for update in read_frames(calling.data_to_send()):
            room[update.stream_id] += int.from_bytes(update.payload, "big")
    assert outcome == Answer(dict(DONE), message)


def broken() -> dict[str, tuple[bytes, str]]:
    """What a peer may not send while stream 1 is open and greeted, and the words that say so."""
    peer = _Peer()
    hello = peer.headers(1, HELLO)
    many = b"".join(write_frame(FrameType.CONTINUATION, 0, 1, b"") for _ in range(MAX_CONTINUATIONS + 1))
    large = b"".join(write_frame(FrameType.CONTINUATION, 0, 1, bytes(MAX_FRAME)) for _ in range(4))
    opened = write_frame(FrameType.HEADERS, 0, 1, b"")
    announced = (MAX_MESSAGE + 1).to_bytes(5, "big")
    informed = b"".join(write_frame(FrameType.HEADERS, Flag.END_HEADERS, 1, b"\x48\x03103") for _ in range(9))
    return {
        "a huge frame": (b"\xff\xff\xff\0\0\0\0\0\1", "16777215 bytes announced, the limit is 16384"),
        "a frame a byte too long": (b"\0\x40\x01\0\0\0\0\0\1", "16385 bytes announced"),
        "a pushed response": (write_frame(FrameType.PUSH_PROMISE, 0, 1, b""), "pushed response"),
        "data before headers": (data_frame(1, b""), "before its headers"),
        "data on stream 0": (data_frame(0, b""), "stream 0 was not opened"),
        "an even stream": (_Peer().headers(2, HELLO), "stream 2 was not opened"),
        "a stream of the future": (data_frame(3, b""), "stream 3 was not opened"),
        "padding beyond the frame": (hello + data_frame(1, b"\x03ab", Flag.PADDED), "more padding than frame"),
        "padding of nothing": (hello + data_frame(1, b"", Flag.PADDED), "more padding than frame"),
        "priority too short": (write_frame(FrameType.HEADERS, Flag.PRIORITY, 1, b"\0"), "too short for its priority"),
        "a priority frame's length": (write_frame(FrameType.PRIORITY, 0, 1, b"\0"), "with 1 bytes, not 5"),
        "a reset's length": (write_frame(FrameType.RST_STREAM, 0, 1, b""), "with 0 bytes, not 4"),
        "settings on a stream": (write_frame(FrameType.SETTINGS, 0, 1, b""), "on stream 1"),
        "settings' length": (write_frame(FrameType.SETTINGS, 0, 0, b"12345"), "SETTINGS frame of 5 bytes"),
        "an acknowledgement with settings": (write_frame(FrameType.SETTINGS, Flag.ACK, 0, b"123456"), "with 6 bytes"),
        "push": (settings_frame((Setting.ENABLE_PUSH, 1)), "enables push"),
        "a small largest frame": (settings_frame((Setting.MAX_FRAME_SIZE, 16_383)), "MAX_FRAME_SIZE 16383"),
        "a huge largest frame": (settings_frame((Setting.MAX_FRAME_SIZE, 1 << 24)), "MAX_FRAME_SIZE 16777216"),
        "a huge window": (settings_frame((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW + 1)), "INITIAL_WINDOW_SIZE"),
        "a ping's length": (write_frame(FrameType.PING, 0, 0, b"1234567"), "with 7 bytes, not 8"),
        "a ping on a stream": (write_frame(FrameType.PING, 0, 1, b"12345678"), "on stream 1"),
        "goaway on a stream": (write_frame(FrameType.GOAWAY, 0, 1, bytes(8)), "on stream 1"),
        "goaway too short": (write_frame(FrameType.GOAWAY, 0, 0, bytes(7)), "GOAWAY frame that is too short"),
        "an update of 0": (window_update(0, 0), "window update of 0"),
        "an update's length": (write_frame(FrameType.WINDOW_UPDATE, 0, 0, b""), "with 0 bytes, not 4"),
        "the connection's window": (window_update(0, MAX_WINDOW), r"window above 2\^31-1"),
        "a stream's window": (window_update(1, MAX_WINDOW), r"window above 2\^31-1"),
        "a lone continuation": (write_frame(FrameType.CONTINUATION, 0, 1, b""), "continues nothing"),
        "another's continuation": (opened + write_frame(FrameType.CONTINUATION, 0, 3, b""), "continues nothing"),
        "a ping within headers": (opened + write_frame(FrameType.PING, 0, 0, bytes(8)), "within a header block"),
        "endless continuations": (opened + many, f"{MAX_CONTINUATIONS} frames"),
        "a long header block": (opened + large + large, f"more than {MAX_HEADER_LIST} bytes"),
        "no HPACK": (write_frame(FrameType.HEADERS, Flag.END_HEADERS, 1, b"\xff"), "not HPACK"),
        "a header bomb": (_bomb(), "headers of more than"),
        "another status": (_Peer().headers(1, ((":status", "404"),)), "HTTP status '404'"),
        "another content": (_Peer().headers(1, ((":status", "200"), ("content-type", "text/html"))), "text/html"),
        "no trailers": (hello + data_frame(1, encode_message(b"x"), Flag.END_STREAM), "without trailers"),
        "trailers and more": (hello + peer.headers(1, DONE), "do not end the response"),
        "informational for ever": (informed, f"more than {MAX_HEADER_BLOCKS} header blocks"),
        "half a message": (_ended(b"\0\0\0\0\x09x"), "ends within"),
        "half a prefix": (_ended(b"\0\0"), "ends within"),
        "two messages": (hello + data_frame(1, encode_message(b"x") * 2), "more than one message"),
        "a compressed message": (hello + data_frame(1, b"\1\0\0\0\0"), "compressed"),
        "a huge message": (hello + data_frame(1, announced), f"{MAX_MESSAGE + 1} bytes announced"),
    }


def _ended(body: bytes) -> bytes:
    """A response with this body."""
    peer = _Peer()
    return peer.headers(1, HELLO) + data_frame(1, body) + peer.headers(1, DONE, end=True)


def _bomb() -> bytes:
    """One long field entered into the table, then named again and again by a byte."""
    long = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"y" * 4000
    return write_frame(FrameType.HEADERS, Flag.END_HEADERS, 1, b"\x88" + long + b"\xbe" * 1000)


@pytest.mark.parametrize("name", sorted(broken()))
def test_a_peer_that_breaks_a_rule_is_told_apart(calling: ClientConnection, name: str) -> None:
    data, words = broken()[name]
    with pytest.raises(CriProtocolError, match=words):
        calling.receive_data(data)


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", write_frame(FrameType.PING, 0, 0, bytes(8))])
def test_a_server_must_greet_with_settings(first: bytes) -> None:
    connection = ClientConnection()
    connection.request(PATH, b"ask", 1.0)
    with pytest.raises(CriProtocolError, match=r"first frame is not SETTINGS|bytes announced"):
        connection.receive_data(first)


def test_an_acknowledgement_is_no_greeting() -> None:
    with pytest.raises(CriProtocolError, match="first frame is not SETTINGS"):
        ClientConnection().receive_data(write_frame(FrameType.SETTINGS, Flag.ACK, 0, b""))


def test_one_call_at_a_time_and_ids_run_out(calling: ClientConnection, peer: _Peer) -> None:
    with pytest.raises(ValueError, match="takes no call now"):
        calling.request(PATH, b"ask", 1.0)
    calling.receive_data(peer.answer(1, b""))
    calling._next_id = MAX_STREAM_ID
    calling.request(PATH, b"ask", 1.0)
    calling.receive_data(peer.answer(MAX_STREAM_ID, b""))
    assert not calling.reusable


@settings(max_examples=300)
@given(st.data())
def test_junk_is_an_outcome_or_a_protocol_error(data: st.DataObject) -> None:
    """Random bytes, and frames of every type whose flags, streams and payloads are random."""
    frames = st.builds(
        write_frame,
        st.sampled_from(list(FrameType)),
        st.integers(0, 255),
        st.sampled_from([0, 1, 2, 3]),
        st.binary(max_size=40),
    )
    raw = settings_frame() + b"".join(data.draw(st.lists(st.one_of(frames, st.binary(max_size=20)), max_size=8)))
    results = [_feed(raw, len(raw)), _feed(raw, 1)]
    assert results[0] == results[1]


def _feed(raw: bytes, step: int) -> str:
    """What comes of it first, in words."""
    connection = ClientConnection()
    connection.request(PATH, b"ask", 1.0)
    for start in range(0, len(raw), step):
        try:
            outcome = connection.receive_data(raw[start : start + step])
        except CriProtocolError as error:
            return str(error)
        if outcome is not None and step == 1:
            return _feed_rest(connection, outcome, raw[start + 1 :])
        if outcome is not None:
            return str(outcome)
    return "nothing"


def _feed_rest(connection: ClientConnection, outcome: Answer | Aborted, rest: bytes) -> str:
    """Given at once, the bytes after an outcome are read with it: an error among them is what counts."""
    try:
        connection.receive_data(rest)
    except CriProtocolError as error:
        return str(error)
    return str(outcome)
