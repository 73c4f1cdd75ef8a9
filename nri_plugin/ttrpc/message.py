# SPDX-License-Identifier: Apache-2.0
"""The envelope of a message: which method a request calls, and the status of a response."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from nri_plugin.api import ttrpc_pb2
from nri_plugin.ttrpc.errors import Code, LocalProtocolError, RemoteError, RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Request:
    """A call from the peer. `payload` is the method's own message, serialised; `timeout_ns` 0 means none was given."""

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout_ns: int = 0
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """The peer's answer. `payload` is meaningful when `code` is OK, `message` when it is not."""

    stream_id: int
    code: Code
    message: str
    payload: bytes

    def result(self) -> bytes:
        """The payload; RemoteError if the status is not OK."""
        if self.code is not Code.OK:
            raise RemoteError(self.code, self.message)
        return self.payload


def encode_request(request: Request) -> bytes:
    """The payload of a request frame; LocalProtocolError for a timeout that does not fit in 64 bits."""
    try:
        envelope = ttrpc_pb2.Request(
            service=request.service,
            method=request.method,
            payload=request.payload,
            timeout_nano=request.timeout_ns,
            metadata=[ttrpc_pb2.KeyValue(key=key, value=value) for key, value in request.metadata],
        )
    except ValueError as error:
        raise LocalProtocolError(f"request cannot be encoded: {error}", request.stream_id) from error
    return envelope.SerializeToString()


def decode_request(stream_id: int, payload: bytes) -> Request:
    """RemoteProtocolError if `payload` is not a request envelope."""
    try:
        envelope = ttrpc_pb2.Request.FromString(payload)
    except DecodeError as error:
        raise RemoteProtocolError(f"malformed request envelope: {error}", stream_id) from error
    metadata = tuple((pair.key, pair.value) for pair in envelope.metadata)
    return Request(stream_id, envelope.service, envelope.method, envelope.payload, envelope.timeout_nano, metadata)


def encode_response(response: Response) -> bytes:
    """The payload of a response frame."""
    envelope = ttrpc_pb2.Response(payload=response.payload)
    if response.code is not Code.OK:
        envelope.status.code = response.code
        envelope.status.message = response.message
    return envelope.SerializeToString()


def decode_response(stream_id: int, payload: bytes) -> Response:
    """RemoteProtocolError if `payload` is not a response envelope. A status code that gRPC lacks becomes UNKNOWN."""
    try:
        envelope = ttrpc_pb2.Response.FromString(payload)
    except DecodeError as error:
        raise RemoteProtocolError(f"malformed response envelope: {error}", stream_id) from error
    number, message = envelope.status.code, envelope.status.message
    try:
        code = Code(number)
    except ValueError:
        code, message = Code.UNKNOWN, f"status {number}: {message}"
    return Response(stream_id, code, message, envelope.payload)
