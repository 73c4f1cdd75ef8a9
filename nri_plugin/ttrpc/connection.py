# SPDX-License-Identifier: Apache-2.0
"""The two ends of a ttrpc connection as state machines: bytes in, values out, and bytes to send as return values."""

from nri_plugin.ttrpc.errors import Code, LocalProtocolError, RemoteProtocolError
from nri_plugin.ttrpc.frame import Frame, FrameReader, MessageType, write_frame
from nri_plugin.ttrpc.message import Request, Response, decode_request, decode_response, encode_request, encode_response

# NRI holds one lock over all its calls and a hook makes one call at a time; this leaves room and bounds the memory
# that unanswered requests keep.
MAX_OPEN_STREAMS = 128
# Half the u32 space, so that a peer that keeps ids signed is safe.
MAX_STREAM_ID = (1 << 31) - 1
# containerd/ttrpc's flagRemoteOpen: the sender goes on with data frames.
FLAG_REMOTE_OPEN = 0x02


class ServerConnection:
    """The answering end.

    After each `receive_data`, send what `data_to_send` returns: the answers to requests that were refused here, for
    their size, number or form, and never reach the caller.
    """

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._open: set[int] = set()
        self._last_id = 0
        self._answers: list[bytes] = []

    def receive_data(self, data: bytes) -> list[Request]:
        """The requests that `data` completes, in order; each is to be answered once. RemoteProtocolError: drop it."""
        requests = []
        for frame in self._reader.receive_data(data):
            self._check_frame(frame)
            request = self._open_stream(frame)
            if request is not None:
                requests.append(request)
        return requests

    def data_to_send(self) -> bytes:
        """Answers that this object has made by itself since the last call, perhaps none."""
        answers = b"".join(self._answers)
        self._answers.clear()
        return answers

    def respond(self, stream_id: int, payload: bytes) -> bytes:
        """The bytes that answer an open request; LocalProtocolError if it is not open or `payload` is too large."""
        return self._close_stream(Response(stream_id, Code.OK, "", payload))

    def respond_error(self, stream_id: int, code: Code, message: str) -> bytes:
        """The bytes that answer an open request with an error; LocalProtocolError for Code.OK or an unknown stream."""
        if code is Code.OK:
            raise LocalProtocolError("an error answer needs a code other than OK", stream_id)
        return self._close_stream(Response(stream_id, code, message, b""))

    def _check_frame(self, frame: Frame) -> None:
        """Ids are the client's: odd and rising (containerd/ttrpc server.go)."""
        if frame.type is not MessageType.REQUEST:
            raise RemoteProtocolError(f"a {frame.type.name} frame came to a server", frame.stream_id)
        if frame.stream_id % 2 == 0:
            raise RemoteProtocolError("a client's stream id must be odd", frame.stream_id)
        if frame.stream_id <= self._last_id:
            raise RemoteProtocolError(f"stream id not above the last one, {self._last_id}", frame.stream_id)
        self._last_id = frame.stream_id

    def _open_stream(self, frame: Frame) -> Request | None:
        """The request, or None after queueing the answer that refuses it."""
        refusal = self._find_refusal(frame)
        if refusal is None:
            try:
                request = decode_request(frame.stream_id, frame.payload)
            except RemoteProtocolError as error:
                refusal = Code.INVALID_ARGUMENT, error.reason
            else:
                self._open.add(frame.stream_id)
                return request
        code, message = refusal
        answer = encode_response(Response(frame.stream_id, code, message, b""))
        self._answers.append(write_frame(MessageType.RESPONSE, frame.stream_id, answer))
        return None

    def _find_refusal(self, frame: Frame) -> tuple[Code, str] | None:
        """Why a request is refused unread, or None."""
        if frame.oversized is not None:
            return Code.RESOURCE_EXHAUSTED, f"a message of {frame.oversized} bytes is too large"
        if frame.flags & FLAG_REMOTE_OPEN:
            return Code.UNIMPLEMENTED, "streaming is not supported"
        if len(self._open) >= MAX_OPEN_STREAMS:
            return Code.RESOURCE_EXHAUSTED, f"{MAX_OPEN_STREAMS} requests are open already"
        return None

    def _close_stream(self, response: Response) -> bytes:
        if response.stream_id not in self._open:
            raise LocalProtocolError("no open request to answer", response.stream_id)
        frame = write_frame(MessageType.RESPONSE, response.stream_id, encode_response(response))
        self._open.remove(response.stream_id)
        return frame


class ClientConnection:
    """The calling end: hands out stream ids and matches answers to them."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._pending: set[int] = set()
        self._next_id = 1
        self._closed = False

    @property
    def pending(self) -> frozenset[int]:
        """The streams whose answer has not come."""
        return frozenset(self._pending)

    def request(self, service: str, method: str, payload: bytes, timeout_ns: int = 0) -> tuple[int, bytes]:
        """(stream id, bytes to send). LocalProtocolError when closed, full, out of ids, or `payload` is too large."""
        stream_id = self._next_id
        self._check_can_open(stream_id)
        envelope = encode_request(Request(stream_id, service, method, payload, timeout_ns))
        frame = write_frame(MessageType.REQUEST, stream_id, envelope)
        self._next_id += 2
        self._pending.add(stream_id)
        return stream_id, frame

    def receive_data(self, data: bytes) -> list[Response]:
        """The answers that `data` completes, in order. RemoteProtocolError: `close` and drop the connection."""
        self._check_not_closed()
        return [self._close_stream(frame) for frame in self._reader.receive_data(data)]

    def close(self) -> list[int]:
        """End the connection; the streams that were waiting for an answer and have failed, in order of asking."""
        failed = sorted(self._pending)
        self._pending.clear()
        self._closed = True
        return failed

    def _check_not_closed(self) -> None:
        if self._closed:
            raise LocalProtocolError("the connection is closed")

    def _check_can_open(self, stream_id: int) -> None:
        self._check_not_closed()
        if len(self._pending) >= MAX_OPEN_STREAMS:
            raise LocalProtocolError(f"{MAX_OPEN_STREAMS} requests wait for an answer already")
        if stream_id > MAX_STREAM_ID:
            raise LocalProtocolError("stream ids are exhausted; open a new connection")

    def _close_stream(self, frame: Frame) -> Response:
        if frame.type is not MessageType.RESPONSE:
            raise RemoteProtocolError(f"a {frame.type.name} frame came to a client", frame.stream_id)
        if frame.stream_id not in self._pending:
            raise RemoteProtocolError("answer to no request", frame.stream_id)
        self._pending.remove(frame.stream_id)
        if frame.oversized is not None:
            message = f"the answer of {frame.oversized} bytes is too large"
            return Response(frame.stream_id, Code.RESOURCE_EXHAUSTED, message, b"")
        return decode_response(frame.stream_id, frame.payload)
