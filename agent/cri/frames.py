# SPDX-License-Identifier: Apache-2.0
"""HTTP/2's framing: a header of nine bytes (u24 length, u8 type, u8 flags, u31 stream id, big endian) and a payload.

Source: RFC 9113, sections 4.1, 6 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from agent.cri.errors import CriProtocolError

HEADER_LENGTH = 9
# SETTINGS_MAX_FRAME_SIZE as it is unless one asks for more, which we do not: a longer frame is the peer's fault.
MAX_FRAME = 16_384
MAX_STREAM_ID = (1 << 31) - 1


class FrameType(IntEnum):
    """The frame types of RFC 9113, section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Flags; the first two are one bit, on different types."""

    ACK = 0x01
    END_STREAM = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08
    PRIORITY = 0x20


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """Identifiers in a SETTINGS frame (RFC 9113, section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame. `type` is a FrameType's number, or one that is to be ignored (section 4.1)."""

    type: int
    flags: int
    stream_id: int
    payload: bytes


def write_frame(frame_type: FrameType, flags: int, stream_id: int, payload: bytes) -> bytes:
    """The frame's bytes; the caller keeps to the peer's SETTINGS_MAX_FRAME_SIZE, which is never below MAX_FRAME."""
    return len(payload).to_bytes(3, "big") + bytes((frame_type, flags)) + stream_id.to_bytes(4, "big") + payload


def error_name(number: int) -> str:
    """An error code's name; the number itself when there is none."""
    try:
        return ErrorCode(number).name
    except ValueError:
        return f"error {number:#x}"


def strip_padding(frame: Frame) -> bytes:
    """The payload of a DATA or HEADERS frame without padding (sections 6.1 and 6.2)."""
    if not frame.flags & Flag.PADDED:
        return frame.payload
    if not frame.payload or frame.payload[0] >= len(frame.payload):
        raise CriProtocolError(f"stream {frame.stream_id}: more padding than frame")
    return frame.payload[1 : len(frame.payload) - frame.payload[0]]


def strip_priority(flags: int, payload: bytes) -> bytes:
    """The header block of a HEADERS frame's unpadded payload (section 6.2)."""
    if not flags & Flag.PRIORITY:
        return payload
    if len(payload) < 5:
        raise CriProtocolError("a HEADERS frame is too short for its priority")
    return payload[5:]


class FrameReader:
    """Bytes in, whole frames out. Stores one frame at most, besides the bytes of the current call."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next frame, or None until more bytes come. CriProtocolError for one above MAX_FRAME, at its header."""
        buffer = self._buffer
        if len(buffer) < HEADER_LENGTH:
            return None
        length = int.from_bytes(buffer[:3], "big")
        if length > MAX_FRAME:
            raise CriProtocolError(f"a frame of {length} bytes announced, the limit is {MAX_FRAME}")
        end = HEADER_LENGTH + length
        if len(buffer) < end:
            return None
        stream_id = int.from_bytes(buffer[5:9], "big") & MAX_STREAM_ID
        frame = Frame(buffer[3], buffer[4], stream_id, bytes(buffer[HEADER_LENGTH:end]))
        # Deleting a bytearray's head moves its start, it does not copy the rest.
        del buffer[:end]
        return frame
