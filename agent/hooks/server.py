# SPDX-License-Identifier: Apache-2.0
"""The agent's unix socket: one thread for each connection, ttrpc without a mux, services by name."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.hooks.calls import After, CallError, Service
from agent.hooks.errors import HookError
from agent.hooks.peer import Peer
from agent.logs import fields
from nri_plugin.ttrpc import Code, RemoteProtocolError, Request, ServerConnection
from rthook.priority import set_realtime

MAX_CONNECTIONS = 64  # hooks of as many containers at once; the plugin holds one
SOCKET_MODE = 0o660
READ_SIZE = 1 << 16
MAX_UNWELCOME = 4  # of them such as may not call anything, from a container that the socket was mounted into
FIRST_REQUEST_S = 5  # until a caller has said something: hooks do at once
ACCEPT_PAUSE_S = 0.1  # descriptors that ran out come back when connections end

_TIMEVAL = struct.Struct("ll")

log = logging.getLogger("podgate.server")


class Caller(Protocol):
    """The other end of a connection."""

    peer: Peer

    def is_unwelcome(self) -> bool: ...

    def check(self, service: str, method: str) -> None:
        """Raises HookError when it may not call it."""
        ...


@dataclass(frozen=True, slots=True)
class _Reply:
    data: bytes
    after: After | None = None


def listen(path: Path) -> socket.socket:
    """A listening unix socket at path, mode 0660; what an earlier process left there is replaced by a rename, with no
    moment without one.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(temporary))
    temporary.chmod(SOCKET_MODE)
    listener.listen(128)
    temporary.rename(path)
    return listener


def _is_abandoned(channel: socket.socket) -> bool:
    """The caller has hung up: its container started without us, or did not start. Binding it now would be wrong."""
    try:
        return not channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _limit_silence(channel: socket.socket, seconds: int) -> None:
    """How long a receive waits, 0 for ever (SO_RCVTIMEO, socket(7)): it fails with EAGAIN then. A limit of Python's
    would make every receive wait, such as one that only looks.
    """
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(seconds, 0))


def _finish(reply: _Reply) -> None:
    """What goes wrong after an answer is told, and ends no connection."""
    if reply.after is None:
        return
    try:
        reply.after()
    except Exception:
        log.exception("internal error after an answer")


class Server:
    """services: by their full names. admit: who is at the other end, raises OSError. urgent: the services whose callers
    a container's start waits for.
    """

    def __init__(
        self,
        listener: socket.socket,
        services: Mapping[str, Service],
        admit: Callable[[socket.socket], Caller],
        urgent: frozenset[str] = frozenset(),
    ) -> None:
        self._listener = listener
        self._services = services
        self._admit = admit
        self._urgent = urgent
        self._unwelcome = threading.BoundedSemaphore(MAX_UNWELCOME)
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False

    def start(self) -> None:
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError as error:
                if self._closing:
                    return
                log.error("accept failed", extra=fields(error=str(error)))
                time.sleep(ACCEPT_PAUSE_S)
                continue
            if not self._slots.acquire(blocking=False):
                log.error("connection refused: too many", extra=fields(limit=MAX_CONNECTIONS))
                channel.close()
                continue
            self._start_serving(channel)

    def _start_serving(self, channel: socket.socket) -> None:
        with self._lock:
            self._open.add(channel)
        try:
            threading.Thread(target=self._serve, args=(channel,), name="connection", daemon=True).start()
        except RuntimeError as error:  # no thread to be had: a limit on pids, or memory
            log.error("connection refused", extra=fields(error=str(error)))
            self._end(channel)

    def _end(self, channel: socket.socket) -> None:
        with self._lock:
            self._open.discard(channel)
        channel.close()
        self._slots.release()

    def _serve(self, channel: socket.socket) -> None:
        try:
            caller = self._admit(channel)
            _limit_silence(channel, FIRST_REQUEST_S)
            if not caller.is_unwelcome():
                self._converse(channel, caller)
            elif self._unwelcome.acquire(blocking=False):
                try:
                    self._converse(channel, caller, once=True)
                finally:
                    self._unwelcome.release()
        except RemoteProtocolError as error:
            log.warning("connection dropped: not ttrpc", extra=fields(error=str(error)))
        except OSError as error:
            log.debug("connection lost", extra=fields(error=str(error)))
        finally:
            self._end(channel)

    def _converse(self, channel: socket.socket, caller: Caller, *, once: bool = False) -> None:
        """once: it is told why it may not ask, and that is all."""
        connection = ServerConnection()
        waiting = set(self._urgent)
        said_nothing = True
        while data := channel.recv(READ_SIZE):
            for request in connection.receive_data(data):
                if _is_abandoned(channel):
                    return
                if said_nothing:
                    said_nothing = False
                    _limit_silence(channel, 0)
                reply = self._refusal(connection, request, caller)
                if reply is None:
                    if request.service in waiting:
                        waiting.clear()
                        self._hurry()
                    reply = self._answer(connection, request, caller)
                try:
                    channel.sendall(reply.data)
                finally:
                    _finish(reply)
                if once:
                    return
            if own := connection.data_to_send():
                channel.sendall(own)

    def _hurry(self) -> None:
        """This connection is a hook's: from now on its thread runs when it has work."""
        if reason := set_realtime():
            log.warning("priority_not_set", extra=fields(reason=reason))

    def _refusal(self, connection: ServerConnection, request: Request, caller: Caller) -> _Reply | None:
        """The answer to one who may not ask."""
        try:
            caller.check(request.service, request.method)
        except HookError as error:
            return _Reply(connection.respond_error(request.stream_id, Code.PERMISSION_DENIED, error.detail))
        return None

    def _answer(self, connection: ServerConnection, request: Request, caller: Caller) -> _Reply:
        stream = request.stream_id
        try:
            service = self._services.get(request.service)
            if service is None:
                raise CallError(Code.UNIMPLEMENTED, f"no service {request.service}")
            answer = service.call(request.method, request.payload, caller.peer)
            return _Reply(connection.respond(stream, answer.payload), answer.after)
        except CallError as error:
            return _Reply(connection.respond_error(stream, error.code, error.message), error.after)
        except Exception as error:
            # An answer must come whatever is wrong here: the runtime holds a container for it.
            log.exception("internal error", extra=fields(service=request.service, method=request.method))
            text = f"internal error: {type(error).__name__}"
            return _Reply(connection.respond_error(stream, Code.INTERNAL, text))

    def stop(self) -> None:
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for channel in self._open:
                channel.shutdown(socket.SHUT_RDWR)
