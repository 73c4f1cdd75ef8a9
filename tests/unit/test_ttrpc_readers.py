# SPDX-License-Identifier: Apache-2.0
"""FrameReader and MuxReader: whole, byte by byte, with a tail, and fed junk."""

import itertools
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_plugin.ttrpc import (
    MAX_MESSAGE,
    MAX_MUX_PAYLOAD,
    MAX_SKIP,
    SEND_PAYLOAD,
    Frame,
    FrameReader,
    LocalProtocolError,
    MessageType,
    MuxReader,
    RemoteProtocolError,
    mux_frames,
    write_frame,
)

REQUEST = write_frame(MessageType.REQUEST, 1, b"hello")
EMPTY = write_frame(MessageType.RESPONSE, 3, b"")
FRAMES = [Frame(MessageType.REQUEST, 1, 0, b"hello"), Frame(MessageType.RESPONSE, 3, 0, b"")]


def frame_header(length: int, stream_id: int = 1, frame_type: int = 1, flags: int = 0) -> bytes:
    return struct.pack(">IIBB", length, stream_id, frame_type, flags)


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places` (any numbers)."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def joined(pieces: list[tuple[int, bytes]]) -> dict[int, bytes]:
    streams: dict[int, bytes] = {}
    for conn_id, piece in pieces:
        streams[conn_id] = streams.get(conn_id, b"") + piece
    return streams


def test_frames_are_read_whole() -> None:
    assert FrameReader().receive_data(REQUEST + EMPTY) == FRAMES


def test_frames_are_read_byte_by_byte() -> None:
    reader = FrameReader()
    assert [frame for byte in byte_by_byte(REQUEST + EMPTY) for frame in reader.receive_data(byte)] == FRAMES


def test_a_tail_is_kept_for_the_next_call() -> None:
    reader = FrameReader()
    assert reader.receive_data(REQUEST + EMPTY[:4]) == FRAMES[:1]
    assert reader.receive_data(EMPTY[4:]) == FRAMES[1:]


def test_flags_are_handed_on() -> None:
    assert FrameReader().receive_data(frame_header(0, flags=1))[0].flags == 1


def test_a_frame_of_the_largest_size_is_read() -> None:
    payload = bytes(MAX_MESSAGE)
    assert FrameReader().receive_data(write_frame(MessageType.REQUEST, 1, payload))[0].payload == payload


def test_an_oversized_frame_is_announced_at_its_header_and_skipped() -> None:
    reader = FrameReader()
    length = MAX_MESSAGE + 1
    assert reader.receive_data(frame_header(length)) == [Frame(MessageType.REQUEST, 1, 0, b"", length)]
    assert reader.receive_data(bytes(length - 2)) == []
    assert reader.receive_data(b"\1\1" + EMPTY) == FRAMES[1:]


def test_skipping_does_not_store_what_it_skips() -> None:
    reader = FrameReader()
    reader.receive_data(frame_header(MAX_SKIP))
    for _ in range(3):
        reader.receive_data(bytes(1 << 16))
        assert len(reader._buffer) == 0


def test_an_absurd_length_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="stream 9: a frame of 4294967295 bytes"):
        FrameReader().receive_data(frame_header(0xFFFFFFFF, stream_id=9))


@pytest.mark.parametrize("frame_type", [0, 4, 255])
def test_an_unknown_type_ends_the_connection(frame_type: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown frame type {frame_type}"):
        FrameReader().receive_data(frame_header(0, frame_type=frame_type))


def test_a_message_above_the_limit_is_not_written() -> None:
    with pytest.raises(LocalProtocolError, match="exceeds the limit"):
        write_frame(MessageType.REQUEST, 1, bytes(MAX_MESSAGE + 1))


def test_reassembly_is_linear() -> None:
    """A quadratic reader copies 4 MiB for each of 16,384 pieces: 34 GB, many seconds."""
    data = write_frame(MessageType.REQUEST, 1, bytes(MAX_MESSAGE))
    reader = FrameReader()
    start = time.process_time()
    frames = [frame for i in range(0, len(data), 256) for frame in reader.receive_data(data[i : i + 256])]
    assert len(frames) == 1
    assert time.process_time() - start < 1


def test_many_small_frames_in_one_call_are_linear() -> None:
    start = time.process_time()
    assert len(FrameReader().receive_data(EMPTY * 100_000)) == 100_000
    assert time.process_time() - start < 3


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=200)))
def test_junk_gives_frames_or_the_error_alike_however_it_is_cut(data: bytes, places: list[int]) -> None:
    def read(pieces: list[bytes]) -> list[Frame] | str:
        reader = FrameReader()
        frames = []
        try:
            for piece in pieces:
                frames += reader.receive_data(piece)
        except RemoteProtocolError as error:
            return str(error)
        return frames

    assert read(cut(data, places)) == read([data])


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(min_value=0, max_value=400)))
def test_frames_survive_any_cut(payloads: list[bytes], places: list[int]) -> None:
    data = b"".join(write_frame(MessageType.REQUEST, 2 * i + 1, payload) for i, payload in enumerate(payloads))
    reader = FrameReader()
    frames = [frame for piece in cut(data, places) for frame in reader.receive_data(piece)]
    assert [frame.payload for frame in frames] == payloads


def test_mux_is_read_whole_with_a_tail() -> None:
    reader = MuxReader()
    data = mux_frames(1, b"one") + mux_frames(2, b"two")
    assert reader.receive_data(data + b"\0\0\0") == [(1, b"one"), (2, b"two")]
    assert reader.receive_data(b"\1\0\0\0\1x") == [(1, b"x")]


def test_mux_is_read_byte_by_byte() -> None:
    reader = MuxReader()
    data = mux_frames(1, b"one") + mux_frames(2, b"two") + mux_frames(1, b"more")
    pieces = [piece for byte in byte_by_byte(data) for piece in reader.receive_data(byte)]
    assert joined(pieces) == {1: b"onemore", 2: b"two"}


def test_mux_payload_is_handed_on_before_its_frame_is_whole() -> None:
    reader = MuxReader()
    assert reader.receive_data(struct.pack(">II", 1, MAX_MUX_PAYLOAD) + b"part") == [(1, b"part")]


def test_an_empty_mux_frame_is_nothing() -> None:
    assert MuxReader().receive_data(struct.pack(">II", 1, 0) + mux_frames(2, b"x")) == [(2, b"x")]


def test_an_absurd_mux_length_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="mux frame"):
        MuxReader().receive_data(struct.pack(">II", 1, MAX_MUX_PAYLOAD + 1))


def test_mux_frames_are_cut_to_what_the_go_side_can_read() -> None:
    data = mux_frames(2, bytes(5000))
    assert struct.unpack_from(">II", data) == (2, SEND_PAYLOAD)
    assert struct.unpack_from(">II", data, 8 + SEND_PAYLOAD) == (2, 5000 - SEND_PAYLOAD)
    assert len(data) == 5000 + 2 * 8


def test_nothing_to_send_is_no_frame() -> None:
    assert mux_frames(1, b"") == b""


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=9000)), max_size=4), st.lists(st.integers(0, 40000)))
def test_mux_streams_survive_any_cut(writes: list[tuple[int, bytes]], places: list[int]) -> None:
    data = b"".join(mux_frames(conn_id, payload) for conn_id, payload in writes)
    reader = MuxReader()
    pieces = [piece for part in cut(data, places) for piece in reader.receive_data(part)]
    assert joined(pieces) == joined([write for write in writes if write[1]])


@given(st.binary(max_size=100))
def test_mux_junk_gives_pieces_or_the_error(data: bytes) -> None:
    try:
        pieces = MuxReader().receive_data(data)
    except RemoteProtocolError:
        return
    assert sum(len(piece) for _, piece in pieces) <= len(data)
