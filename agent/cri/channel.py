# SPDX-License-Identifier: Apache-2.0
"""Blocking calls over HTTP/2 on a unix socket, from any thread.

Theory of operation
    A connection carries one call at a time, and goes back to a small pool afterwards; so callers at once have a
    connection each, and a lone caller always the same. A deadline covers the whole call: connecting, sending, every
    receive. After a deadline or a broken protocol the connection is closed: a late answer is never taken for the next
    call's. A kept connection may have ended since it was used, when the runtime restarted. If a call on one ends
    without an answer it is made once more on a fresh one, within the same deadline: every call here only reads.
"""

from __future__ import annotations

import contextlib
import threading
import time

from agent.cri.errors import CriUnreachable
from agent.cri.http2 import Aborted, Answer, ClientConnection
from agent.cri.messages import open_answer
from rthook.unixsocket import open_unix

# A list of a node's containers has some hundred KiB.
RECEIVE_SIZE = 256 << 10
# Kept between calls: containers of one pod start one after another, those of different pods together.
MAX_KEPT = 4


class _EndedError(Exception):
    """The connection or the call ended without an answer."""


class _AbortedError(_EndedError):
    def __init__(self, outcome: Aborted) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class _Link:
    """One connection, for one caller at a time."""

    def __init__(self, path: str, deadline: float) -> None:
        self._sock = open_unix(path, seconds_left(deadline))
        self._connection = ClientConnection()
        # Set when not all that was to be sent was taken.
        self._deaf = False

    @property
    def reusable(self) -> bool:
        return self._connection.reusable and not self._deaf

    def close(self) -> None:
        self._sock.close()

    def call(self, path: str, payload: bytes, deadline: float) -> Answer:
        """Raises OSError (TimeoutError at the deadline), CriProtocolError and _EndedError."""
        self._connection.request(path, payload, seconds_left(deadline))
        outcome = None
        while outcome is None:
            self._flush(deadline)
            outcome = self._connection.receive_data(self._receive(deadline))
        if isinstance(outcome, Aborted):
            raise _AbortedError(outcome)
        with contextlib.suppress(TimeoutError):
            self._flush(deadline)
        return outcome

    def _receive(self, deadline: float) -> bytes:
        self._sock.settimeout(seconds_left(deadline))
        data = self._sock.recv(RECEIVE_SIZE)
        if not data:
            raise _EndedError("the connection ended before the answer")
        return data

    def _flush(self, deadline: float) -> None:
        """A peer that has closed may have answered before: what is left to read decides."""
        data = self._connection.data_to_send()
        if not data or self._deaf:
            return
        self._deaf = True
        with contextlib.suppress(ConnectionError):
            self._sock.settimeout(seconds_left(deadline))
            self._sock.sendall(data)
            self._deaf = False


class Channel:
    """Unary gRPC calls to the server at the unix socket `path`. Thread-safe; connecting is left to the first call."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept: list[_Link] = []
        self._closed = False

    def call(self, service: str, method: str, payload: bytes, deadline: float) -> bytes:
        """The response's message. `deadline` on time.monotonic's clock. Raises CriError."""
        try:
            answer = self._exchange_retrying(f"/{service}/{method}", payload, deadline)
        except TimeoutError as error:
            raise CriUnreachable(self._path, f"no answer to {method} in time") from error
        except OSError as error:
            raise CriUnreachable(self._path, f"{method}: {error.strerror or error}") from error
        except _EndedError as error:
            raise CriUnreachable(self._path, f"{method}: {error}") from error
        return open_answer(method, answer.trailers, answer.message)

    def close(self) -> None:
        """Close the connections that are kept, and those in use when their calls have ended."""
        with self._lock:
            self._closed = True
            links, self._kept = self._kept, []
        for link in links:
            link.close()

    def _exchange_retrying(self, path: str, payload: bytes, deadline: float) -> Answer:
        link = self._take_kept()
        if link is not None:
            try:
                return self._exchange(link, path, payload, deadline)
            except (ConnectionError, _EndedError) as error:
                if isinstance(error, _AbortedError) and not error.outcome.unprocessed:
                    raise
        return self._exchange(_Link(self._path, deadline), path, payload, deadline)

    def _exchange(self, link: _Link, path: str, payload: bytes, deadline: float) -> Answer:
        kept = False
        try:
            answer = link.call(path, payload, deadline)
            kept = self._keep(link)
        finally:
            if not kept:
                link.close()
        return answer

    def _take_kept(self) -> _Link | None:
        """The one used last: the others may be left alone until they end."""
        with self._lock:
            return self._kept.pop() if self._kept else None

    def _keep(self, link: _Link) -> bool:
        with self._lock:
            if self._closed or not link.reusable or len(self._kept) >= MAX_KEPT:
                return False
            self._kept.append(link)
            return True


def seconds_left(deadline: float) -> float:
    """Seconds until `deadline`; TimeoutError once it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("deadline passed")
    return seconds


def accepts(path: str, timeout_s: float) -> bool:
    """Whether somebody listens at the unix socket `path`."""
    try:
        open_unix(path, timeout_s).close()
    except OSError:
        return False
    return True
