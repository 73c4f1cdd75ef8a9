# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the ttrpc shim, and the status codes that travel with it."""

from enum import IntEnum


class Code(IntEnum):
    """The gRPC status codes (google/rpc/code.proto), which ttrpc shares."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class TtrpcError(Exception):
    """Base of this package's errors."""


class ProtocolError(TtrpcError):
    """A rule of the protocol was broken; `stream_id` is the stream concerned, None before one is known."""

    def __init__(self, reason: str, stream_id: int | None = None) -> None:
        super().__init__(reason, stream_id)
        self.reason = reason
        self.stream_id = stream_id

    def __str__(self) -> str:
        return self.reason if self.stream_id is None else f"stream {self.stream_id}: {self.reason}"


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the protocol or the connection's state forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. Framing may be lost: the connection can only be dropped."""


class RemoteError(TtrpcError):
    """The peer answered a request with a status other than OK."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name
