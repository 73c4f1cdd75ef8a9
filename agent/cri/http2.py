# SPDX-License-Identifier: Apache-2.0
"""The client's end of an HTTP/2 connection for gRPC calls, as a state machine: bytes in, outcomes and bytes out.

Theory of operation
    With prior knowledge (RFC 9113, section 3.3): the preface and our SETTINGS go out with the first call, and the
    peer's SETTINGS must be its first frame. One call at a time: `request` opens a stream, `receive_data` gives its
    outcome once it is whole. Whatever `data_to_send` has after either is to be sent: calls, acknowledgements, window
    updates.
    Streams that are over are remembered by their number alone: what still comes for them is taken off the
    connection's window, its headers are read for the table that all headers share, and nothing else.
    Our windows are given back as soon as half is used, so a peer waits only when it is faster than we read.
    A CriProtocolError leaves the connection unusable. Nothing is sent then: the caller closes the socket.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.cri.errors import CriProtocolError
from agent.cri.frames import (
    MAX_FRAME,
    MAX_STREAM_ID,
    ErrorCode,
    Flag,
    Frame,
    FrameReader,
    FrameType,
    Setting,
    error_name,
    strip_padding,
    strip_priority,
    write_frame,
)
from agent.cri.headers import MAX_HEADER_LIST, HeaderDecoder
from agent.cri.messages import MessageReader, check_headers, encode_call, encode_message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65_535
MAX_WINDOW = (1 << 31) - 1
# What the peer may send ahead of our reading: as much as a unix socket's buffers pass on in some rounds.
OUR_WINDOW = 1 << 20
# A block as long as the longest header list, in frames as short as the frames' own overhead makes sensible.
MAX_CONTINUATIONS = 64
# Informational responses (status 1xx) before the one that counts; gRPC servers send none.
MAX_HEADER_BLOCKS = 8
_SETTING = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response: the fields that came last, and the message if there was one."""

    trailers: dict[str, str]
    message: bytes | None


@dataclass(frozen=True, slots=True)
class Aborted:
    """The peer ended the call without an answer. unprocessed: it says that it has not begun with it."""

    reason: str
    unprocessed: bool


@dataclass(slots=True)
class _Receipt:
    """What was received within one of our windows and not given back.

    Whether the peer keeps to a window need not be checked: what is stored of a response has its own limit.
    """

    used: int = 0

    def take(self, length: int) -> int:
        """How much to give back now; 0 until half of the window is used."""
        self.used += length
        if self.used < OUR_WINDOW // 2:
            return 0
        given, self.used = self.used, 0
        return given


@dataclass(slots=True)
class _Stream:
    id: int
    unsent: bytes
    send_window: int
    receipt: _Receipt = field(default_factory=_Receipt)
    body: MessageReader = field(default_factory=MessageReader)
    headers: dict[str, str] | None = None
    blocks: int = 0


@dataclass(slots=True)
class _Block:
    """A header block whose end has not come (section 6.10)."""

    stream_id: int
    ends_stream: bool
    data: bytearray
    continuations: int = 0


class ClientConnection:
    """One connection. After CriProtocolError it must be dropped."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._headers = HeaderDecoder()
        self._out = [PREFACE, _our_settings(), _window_update(0, OUR_WINDOW - DEFAULT_WINDOW)]
        self._receipt = _Receipt()
        self._send_window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._stream: _Stream | None = None
        self._next_id = 1
        self._block: _Block | None = None
        self._outcome: Answer | Aborted | None = None
        self._greeted = False
        self._ending = False
        self._handlers: dict[int, Callable[[Frame], None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_push,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }

    @property
    def reusable(self) -> bool:
        """Whether another call may be made: none is open, the peer has not said goodbye, and ids are left."""
        return self._stream is None and not self._ending and self._next_id <= MAX_STREAM_ID

    def request(self, path: str, payload: bytes, timeout_s: float) -> None:
        """Open a call; ValueError when the connection is not reusable or `payload` is too large."""
        if not self.reusable:
            raise ValueError("the connection takes no call now")
        body = encode_message(payload)
        stream = _Stream(self._next_id, body, self._initial_window)
        self._next_id += 2
        self._stream = stream
        self._send(FrameType.HEADERS, Flag.END_HEADERS, stream.id, encode_call(path, timeout_s))
        self._send_body(stream)

    def receive_data(self, data: bytes) -> Answer | Aborted | None:
        """The open call's outcome once `data` completes it."""
        self._frames.receive_data(data)
        while (frame := self._frames.next_frame()) is not None:
            self._receive_frame(frame)
        outcome, self._outcome = self._outcome, None
        return outcome

    def data_to_send(self) -> bytes:
        """Bytes that were made since the last call, perhaps none."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _send(self, frame_type: FrameType, flags: int, stream_id: int, payload: bytes) -> None:
        self._out.append(write_frame(frame_type, flags, stream_id, payload))

    def _send_body(self, stream: _Stream) -> None:
        """As much of the request as the peer's windows allow (section 6.9)."""
        while stream.unsent:
            length = min(len(stream.unsent), stream.send_window, self._send_window, MAX_FRAME)
            if length <= 0:
                return
            piece, stream.unsent = stream.unsent[:length], stream.unsent[length:]
            stream.send_window -= length
            self._send_window -= length
            self._send(FrameType.DATA, 0 if stream.unsent else Flag.END_STREAM, stream.id, piece)

    def _receive_frame(self, frame: Frame) -> None:
        if not self._greeted and (frame.type != FrameType.SETTINGS or frame.flags & Flag.ACK):
            raise CriProtocolError("the first frame is not SETTINGS: no HTTP/2 server")
        if self._block is not None and frame.type != FrameType.CONTINUATION:
            raise CriProtocolError(f"a frame of type {frame.type} within a header block")
        handler = self._handlers.get(frame.type)
        if handler is not None:
            handler(frame)

    def _open_stream(self, stream_id: int) -> _Stream | None:
        """The stream if it is the open one, None if it is over; CriProtocolError for one that never was."""
        if self._stream is not None and self._stream.id == stream_id:
            return self._stream
        if stream_id % 2 == 0 or stream_id >= self._next_id:
            raise CriProtocolError(f"stream {stream_id} was not opened")
        return None

    def _on_data(self, frame: Frame) -> None:
        stream = self._open_stream(frame.stream_id)
        self._take_window(self._receipt, 0, len(frame.payload))
        if stream is None:
            return
        if stream.headers is None:
            raise CriProtocolError("a response's message before its headers")
        stream.body.receive_data(strip_padding(frame))
        if frame.flags & Flag.END_STREAM:
            raise CriProtocolError("a response without trailers: no grpc-status")
        self._take_window(stream.receipt, stream.id, len(frame.payload))

    def _take_window(self, receipt: _Receipt, stream_id: int, length: int) -> None:
        """Padding counts too (section 6.9.1)."""
        if given := receipt.take(length):
            self._out.append(_window_update(stream_id, given))

    def _on_headers(self, frame: Frame) -> None:
        self._open_stream(frame.stream_id)
        block = bytearray(strip_priority(frame.flags, strip_padding(frame)))
        self._block = _Block(frame.stream_id, bool(frame.flags & Flag.END_STREAM), block)
        if frame.flags & Flag.END_HEADERS:
            self._end_block(self._block)

    def _on_continuation(self, frame: Frame) -> None:
        block = self._block
        if block is None or block.stream_id != frame.stream_id:
            raise CriProtocolError("a CONTINUATION frame that continues nothing")
        block.continuations += 1
        if block.continuations > MAX_CONTINUATIONS or len(block.data) + len(frame.payload) > MAX_HEADER_LIST:
            raise CriProtocolError(f"a header block of more than {MAX_HEADER_LIST} bytes or {MAX_CONTINUATIONS} frames")
        block.data += frame.payload
        if frame.flags & Flag.END_HEADERS:
            self._end_block(block)

    def _end_block(self, block: _Block) -> None:
        self._block = None
        fields = self._headers.decode(bytes(block.data))
        stream = self._open_stream(block.stream_id)
        if stream is not None:
            self._take_fields(stream, fields, block.ends_stream)

    def _take_fields(self, stream: _Stream, fields: dict[str, str], ends_stream: bool) -> None:
        stream.blocks += 1
        if stream.blocks > MAX_HEADER_BLOCKS:
            raise CriProtocolError(f"more than {MAX_HEADER_BLOCKS} header blocks in one response")
        if stream.headers is None and not ends_stream and fields.get(":status", "").startswith("1"):
            return
        if stream.headers is None:
            check_headers(fields)
            stream.headers = fields
        elif not ends_stream:
            raise CriProtocolError("trailers that do not end the response")
        if ends_stream:
            self._finish(stream, Answer(fields, stream.body.finish()))

    def _finish(self, stream: _Stream, outcome: Answer | Aborted) -> None:
        """An answer before our request was out leaves a stream half open: that connection is not used again."""
        self._ending = self._ending or bool(stream.unsent)
        self._stream = None
        self._outcome = outcome

    def _on_priority(self, frame: Frame) -> None:
        _check_length(frame, 5)

    def _on_reset(self, frame: Frame) -> None:
        _check_length(frame, 4)
        stream = self._open_stream(frame.stream_id)
        number = int.from_bytes(frame.payload, "big")
        if stream is not None:
            reason = f"the call was reset: {error_name(number)}"
            stream.unsent = b""
            self._finish(stream, Aborted(reason, number == ErrorCode.REFUSED_STREAM))

    def _on_settings(self, frame: Frame) -> None:
        _check_connection(frame)
        if frame.flags & Flag.ACK:
            _check_length(frame, 0)
            return
        if len(frame.payload) % _SETTING.size:
            raise CriProtocolError(f"a SETTINGS frame of {len(frame.payload)} bytes")
        self._greeted = True
        for number, value in _SETTING.iter_unpack(frame.payload):
            self._apply_setting(number, value)
        self._send(FrameType.SETTINGS, Flag.ACK, 0, b"")

    def _apply_setting(self, number: int, value: int) -> None:
        """The others do not concern a client that compresses nothing, sends short frames and has one stream."""
        if number == Setting.ENABLE_PUSH and value:
            raise CriProtocolError("a server enables push")
        if number == Setting.MAX_FRAME_SIZE and not MAX_FRAME <= value < 1 << 24:
            raise CriProtocolError(f"SETTINGS_MAX_FRAME_SIZE {value}")
        if number == Setting.INITIAL_WINDOW_SIZE:
            self._change_initial_window(value)

    def _change_initial_window(self, size: int) -> None:
        """It counts for the open stream too, whose window may become negative (section 6.9.2)."""
        if size > MAX_WINDOW:
            raise CriProtocolError(f"SETTINGS_INITIAL_WINDOW_SIZE {size}")
        change, self._initial_window = size - self._initial_window, size
        if self._stream is not None:
            self._stream.send_window = _widened(self._stream.send_window, change)
            self._send_body(self._stream)

    def _on_push(self, frame: Frame) -> None:
        raise CriProtocolError(f"stream {frame.stream_id}: a pushed response, which our SETTINGS forbid")

    def _on_ping(self, frame: Frame) -> None:
        _check_connection(frame)
        _check_length(frame, 8)
        if not frame.flags & Flag.ACK:
            self._send(FrameType.PING, Flag.ACK, 0, frame.payload)

    def _on_goaway(self, frame: Frame) -> None:
        """The peer goes on with streams up to the one that it names (section 6.8)."""
        _check_connection(frame)
        if len(frame.payload) < 8:
            raise CriProtocolError("a GOAWAY frame that is too short")
        self._ending = True
        last = int.from_bytes(frame.payload[:4], "big") & MAX_STREAM_ID
        if self._stream is not None and self._stream.id > last:
            name = error_name(int.from_bytes(frame.payload[4:8], "big"))
            self._finish(self._stream, Aborted(f"the runtime ends the connection: {name}", unprocessed=True))

    def _on_window_update(self, frame: Frame) -> None:
        _check_length(frame, 4)
        increment = int.from_bytes(frame.payload, "big") & MAX_WINDOW
        if not increment:
            raise CriProtocolError("a window update of 0")
        if not frame.stream_id:
            self._send_window = _widened(self._send_window, increment)
        elif (stream := self._open_stream(frame.stream_id)) is not None:
            stream.send_window = _widened(stream.send_window, increment)
        if self._stream is not None:
            self._send_body(self._stream)


def _widened(window: int, increment: int) -> int:
    if window + increment > MAX_WINDOW:
        raise CriProtocolError("a window above 2^31-1")
    return window + increment


def _check_length(frame: Frame, length: int) -> None:
    if len(frame.payload) != length:
        raise CriProtocolError(f"a frame of type {frame.type} with {len(frame.payload)} bytes, not {length}")


def _check_connection(frame: Frame) -> None:
    if frame.stream_id:
        raise CriProtocolError(f"a frame of type {frame.type} on stream {frame.stream_id}")


def _our_settings() -> bytes:
    ours = (
        (Setting.ENABLE_PUSH, 0),
        (Setting.INITIAL_WINDOW_SIZE, OUR_WINDOW),
        (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST),
    )
    return write_frame(FrameType.SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in ours))


def _window_update(stream_id: int, increment: int) -> bytes:
    return write_frame(FrameType.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))
