# SPDX-License-Identifier: Apache-2.0
"""gRPC over HTTP/2 for calls with one request and one response: its headers, its message prefix, its status.

Source: grpc/grpc doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from agent.cri.errors import CriProtocolError, CriRefused
from agent.cri.headers import encode_fields
from nri_plugin.ttrpc import Code

PREFIX_LENGTH = 5
# A node has a few hundred containers, those that ended included, of some 2 KiB each with their annotations; the
# kubelet's own limit for a runtime's answers is this (maxMsgSize in k8s.io/cri-client).
MAX_MESSAGE = 16 << 20
# Of a request: ids and filters have some hundred bytes.
MAX_REQUEST = 64 << 10
# A status message is shown in logs and answers.
MAX_STATUS_TEXT = 4096

_FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    # A Go server refuses the escaped path of a socket here.
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "podgate"),
)


def encode_call(path: str, timeout_s: float) -> bytes:
    """The header block of a call; `path` is /package.Service/Method."""
    pseudo, ordinary = _FIELDS[:3], _FIELDS[3:]
    return encode_fields((*pseudo, (":path", path), *ordinary, ("grpc-timeout", encode_timeout(timeout_s))))


def encode_timeout(seconds: float) -> str:
    """At most eight digits and a unit; at least one microsecond."""
    microseconds = max(1, int(seconds * 1e6))
    for unit, size in (("u", 1), ("m", 1000), ("S", 1_000_000)):
        if microseconds // size < 10**8:
            return f"{microseconds // size}{unit}"
    return f"{10**8 - 1}S"


def encode_message(payload: bytes) -> bytes:
    """The body of a request: not compressed, its length, itself. ValueError above MAX_REQUEST."""
    if len(payload) > MAX_REQUEST:
        raise ValueError(f"a request of {len(payload)} bytes, the limit is {MAX_REQUEST}")
    return b"\0" + len(payload).to_bytes(4, "big") + payload


class MessageReader:
    """The body of a response in, its one message out. Stores no more than came, and that is MAX_MESSAGE at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._length: int | None = None

    def receive_data(self, data: bytes) -> None:
        """CriProtocolError for a message that is compressed, above MAX_MESSAGE (at its announcement), or a second."""
        self._buffer += data
        if self._length is None and len(self._buffer) >= PREFIX_LENGTH:
            self._length = self._read_prefix()
        if self._length is not None and len(self._buffer) > PREFIX_LENGTH + self._length:
            raise CriProtocolError("a response of more than one message")

    def _read_prefix(self) -> int:
        if self._buffer[0]:
            raise CriProtocolError("a compressed response, which was not asked for")
        length = int.from_bytes(self._buffer[1:PREFIX_LENGTH], "big")
        if length > MAX_MESSAGE:
            raise CriProtocolError(f"a response of {length} bytes announced, the limit is {MAX_MESSAGE}")
        return length

    def finish(self) -> bytes | None:
        """The message; None when nothing came. CriProtocolError when it is not whole."""
        if not self._buffer:
            return None
        if self._length is None or len(self._buffer) < PREFIX_LENGTH + self._length:
            raise CriProtocolError("a response that ends within its message")
        with memoryview(self._buffer) as view:
            return bytes(view[PREFIX_LENGTH:])


def check_headers(headers: Mapping[str, str]) -> None:
    """CriProtocolError unless a response's first headers are a gRPC server's."""
    status = headers.get(":status", "")
    if status != "200":
        raise CriProtocolError(f"HTTP status {status[:16]!r}: no gRPC server")
    kind = headers.get("content-type", "")
    if not kind.startswith("application/grpc"):
        raise CriProtocolError(f"content type {kind[:64]!r}: no gRPC server")


def open_answer(method: str, trailers: Mapping[str, str], message: bytes | None) -> bytes:
    """The message of an answer with status OK; CriRefused for another status, CriProtocolError for none."""
    number = trailers.get("grpc-status")
    if number is None:
        raise CriProtocolError(f"{method}: an answer without grpc-status")
    text = unquote(trailers.get("grpc-message", ""), errors="replace")[:MAX_STATUS_TEXT]
    code = parse_code(number)
    if code is not Code.OK:
        raise CriRefused(method, code, text if code.value == _number(number) else f"status {number[:16]}: {text}")
    if message is None:
        raise CriProtocolError(f"{method}: status OK without a message")
    return message


def parse_code(number: str) -> Code:
    """A status that gRPC does not have is UNKNOWN, as its own clients take it."""
    try:
        return Code(_number(number))
    except ValueError:
        return Code.UNKNOWN


def _number(text: str) -> int:
    """-1 for what is no decimal number of a few digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else -1
