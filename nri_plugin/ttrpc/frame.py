# SPDX-License-Identifier: Apache-2.0
"""ttrpc's framing: a header of ten bytes (u32 length, u32 stream id, u8 type, u8 flags, big endian) and a payload.

Source: containerd/ttrpc PROTOCOL.md and channel.go.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from nri_plugin.ttrpc.errors import LocalProtocolError, RemoteProtocolError

_HEADER = struct.Struct(">IIBB")
HEADER_LENGTH = _HEADER.size
# containerd/ttrpc's messageLengthMax: no correct peer sends a longer payload, so nothing longer is ever stored.
MAX_MESSAGE = 4 << 20
# A longer announcement is skipped unread so that its stream alone fails. Beyond this it is more likely that framing
# is lost than that a peer means it, and skipping would deafen the connection for good.
MAX_SKIP = 64 << 20


class MessageType(IntEnum):
    """The frame types of ttrpc."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame. `oversized` is the announced length if it is above MAX_MESSAGE: its payload is then empty."""

    type: MessageType
    stream_id: int
    flags: int
    payload: bytes
    oversized: int | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    length: int
    stream_id: int
    type: MessageType
    flags: int


def write_frame(frame_type: MessageType, stream_id: int, payload: bytes) -> bytes:
    """The frame's bytes; LocalProtocolError for a payload above MAX_MESSAGE bytes."""
    if len(payload) > MAX_MESSAGE:
        raise LocalProtocolError(f"a message of {len(payload)} bytes exceeds the limit of {MAX_MESSAGE}", stream_id)
    return _HEADER.pack(len(payload), stream_id, frame_type, 0) + payload


def _parse_header(raw: bytes) -> _Header:
    length, stream_id, number, flags = _HEADER.unpack(raw)
    try:
        frame_type = MessageType(number)
    except ValueError:
        raise RemoteProtocolError(f"unknown frame type {number}", stream_id) from None
    if length > MAX_SKIP:
        raise RemoteProtocolError(f"a frame of {length} bytes announced, the limit is {MAX_MESSAGE}", stream_id)
    return _Header(length, stream_id, frame_type, flags)


class FrameReader:
    """Bytes in, whole frames out. Linear in the bytes received however they are cut; stores one frame at most,
    besides the bytes of the current call. After RemoteProtocolError it must be dropped."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: _Header | None = None
        self._to_skip = 0

    def receive_data(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order; RemoteProtocolError for a header that cannot be right."""
        self._buffer += data
        frames = []
        while (frame := self._next_frame()) is not None:
            frames.append(frame)
        return frames

    def _next_frame(self) -> Frame | None:
        self._skip()
        if self._header is None and len(self._buffer) >= HEADER_LENGTH and not self._to_skip:
            self._header = _parse_header(self._take(HEADER_LENGTH))
        if self._header is None:
            return None
        return self._oversized_frame(self._header) or self._whole_frame(self._header)

    def _oversized_frame(self, header: _Header) -> Frame | None:
        """Announced at once, before its payload has come: the payload is thrown away as it arrives."""
        if header.length <= MAX_MESSAGE:
            return None
        self._to_skip, self._header = header.length, None
        return Frame(header.type, header.stream_id, header.flags, b"", header.length)

    def _whole_frame(self, header: _Header) -> Frame | None:
        if len(self._buffer) < header.length:
            return None
        self._header = None
        return Frame(header.type, header.stream_id, header.flags, self._take(header.length))

    def _skip(self) -> None:
        skipped = min(self._to_skip, len(self._buffer))
        if skipped:
            del self._buffer[:skipped]
            self._to_skip -= skipped

    def _take(self, length: int) -> bytes:
        """The first `length` bytes. Deleting a bytearray's head moves its start, it does not copy the rest."""
        with memoryview(self._buffer) as view:
            taken = bytes(view[:length])
        del self._buffer[:length]
        return taken
