# SPDX-License-Identifier: Apache-2.0
"""The blocking client of the agent's hook socket, which every runtime hook uses.

Theory of operation
    One call at a time, over one kept connection of ttrpc without a mux. A deadline covers the whole call: connecting,
    sending, every receive. After a deadline the connection is dropped, so that a late answer cannot be taken for the
    next call's. The agent may have restarted since the last call: if a kept connection is dead when sending, or ends
    before a byte of the answer, the call is made once more on a fresh one, within the same deadline. That is safe,
    because binding twice is binding once.
"""

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from nri_plugin.ttrpc import ClientConnection, LocalProtocolError, RemoteError, RemoteProtocolError, Response
from rthook.api import hook_pb2
from rthook.errors import AgentRefused, AgentUnreachable
from rthook.unixsocket import open_unix

SERVICE = "podgate.hook.v1.RuntimeHook"
RECEIVE_SIZE = 64 << 10

_Answer = TypeVar("_Answer", bound=Message)


@dataclass(slots=True)
class _Channel:
    sock: socket.socket
    connection: ClientConnection = field(default_factory=ClientConnection)


class _StaleError(Exception):
    """A connection ended before any byte of the answer: worth one more try if it was a kept one."""


class AgentClient:
    """Calls `podgate.hook.v1.RuntimeHook` at the unix socket `path`; a call takes `deadline_s` seconds at most.

    Every call raises AgentUnreachable or AgentRefused, and nothing else that the agent can cause. Connecting is left
    to the first call.
    """

    def __init__(self, path: str, deadline_s: float) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._channel: _Channel | None = None
        self._connects = 0

    @property
    def connects(self) -> int:
        """How many connections have been made so far: it changes when the agent may be another one."""
        return self._connects

    def fileno(self) -> int:
        """The kept connection's descriptor, or -1. Readable between calls means that it is over: `close` it."""
        return -1 if self._channel is None else self._channel.sock.fileno()

    def close(self) -> None:
        """Drop the connection, if there is one; the next call makes another."""
        if self._channel is not None:
            self._channel.connection.close()
            self._channel.sock.close()
            self._channel = None

    def bind(self, container: hook_pb2.Container, deadline_s: float | None = None) -> hook_pb2.BindResponse:
        """Have one container bound; returns after the kernel's record was written and read back."""
        request = hook_pb2.BindRequest(container=container)
        return self._call("Bind", request, hook_pb2.BindResponse, deadline_s)

    def announce(self, announced: hook_pb2.AnnounceRequest, deadline_s: float | None = None) -> hook_pb2.BindResponse:
        """Have one container bound of which the caller knows no process; returns as `bind` does."""
        return self._call("Announce", announced, hook_pb2.BindResponse, deadline_s)

    def unbind(self, container_id: str, deadline_s: float | None = None) -> hook_pb2.UnbindResponse:
        """Have one container forgotten; one that is not bound is not an error."""
        request = hook_pb2.UnbindRequest(container_id=container_id)
        return self._call("Unbind", request, hook_pb2.UnbindResponse, deadline_s)

    def synchronize(
        self,
        containers: Iterable[hook_pb2.Container],
        deadline_s: float | None = None,
        keep: Iterable[str] = (),
    ) -> hook_pb2.SynchronizeResponse:
        """Tell the whole set of containers that the caller knows, and the ids of others that are not gone."""
        request = hook_pb2.SynchronizeRequest(containers=containers, keep=keep)
        return self._call("Synchronize", request, hook_pb2.SynchronizeResponse, deadline_s)

    def report(self, request: hook_pb2.ReportRequest, deadline_s: float | None = None) -> None:
        """Tell how the caller's own path fares."""
        self._call("Report", request, hook_pb2.ReportResponse, deadline_s)

    def _call(self, method: str, request: Message, answer: type[_Answer], deadline_s: float | None) -> _Answer:
        seconds = self._deadline_s if deadline_s is None else deadline_s
        deadline = time.monotonic() + seconds
        try:
            response = self._exchange_retrying(method, request.SerializeToString(), deadline)
            return answer.FromString(response.result())
        except RemoteError as error:
            raise AgentRefused(error.code, error.message) from error
        except TimeoutError as error:
            raise self._unreachable(f"no answer to {method} within {seconds:g} s") from error
        except (OSError, _StaleError, RemoteProtocolError, LocalProtocolError, DecodeError) as error:
            raise self._unreachable(f"{method}: {_describe(error)}") from error

    def _unreachable(self, reason: str) -> AgentUnreachable:
        self.close()
        return AgentUnreachable(self._path, reason)

    def _exchange_retrying(self, method: str, payload: bytes, deadline: float) -> Response:
        if self._channel is not None:
            try:
                return self._exchange(self._channel, method, payload, deadline)
            except _StaleError:
                self.close()
        self._channel = _Channel(open_unix(self._path, _left(deadline)))
        self._connects += 1
        return self._exchange(self._channel, method, payload, deadline)

    def _exchange(self, channel: _Channel, method: str, payload: bytes, deadline: float) -> Response:
        timeout_ns = int(_left(deadline) * 1e9)
        _, frame = channel.connection.request(SERVICE, method, payload, timeout_ns)
        try:
            channel.sock.settimeout(_left(deadline))
            channel.sock.sendall(frame)
        except ConnectionError as error:
            raise _StaleError(_describe(error)) from error
        return self._receive(channel, deadline)

    def _receive(self, channel: _Channel, deadline: float) -> Response:
        """The answer to the one request that is pending."""
        data = _receive_first(channel.sock, deadline)
        while True:
            responses = channel.connection.receive_data(data)
            if responses:
                return responses[0]
            data = _receive_some(channel.sock, deadline)
            if not data:
                raise ConnectionResetError("the connection ended within the answer")


def _left(deadline: float) -> float:
    """Seconds until `deadline`; TimeoutError once it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("deadline passed")
    return seconds


def _receive_some(sock: socket.socket, deadline: float) -> bytes:
    sock.settimeout(_left(deadline))
    return sock.recv(RECEIVE_SIZE)


def _receive_first(sock: socket.socket, deadline: float) -> bytes:
    try:
        data = _receive_some(sock, deadline)
    except ConnectionError as error:
        raise _StaleError(_describe(error)) from error
    if not data:
        raise _StaleError("the connection ended before the answer")
    return data


def _describe(error: Exception) -> str:
    """An OSError's text without its number."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
