# SPDX-License-Identifier: Apache-2.0
"""Asks for URLs and names: `python -I -m agent.events.lookups_main SOCKET`; see lookups.py for who asks. It ends when
the socket does.

One message a packet, JSON: {"id", "kind": "url" | "name", "text"}, answered with {"id", "outcome": "done" | "failed" |
"timeout", "status", "reason"}. Each lookup has a process of its own without any capability, which the kernel ends
after DEADLINE_S (SIGALRM) whatever it is doing. Only http and https, no proxy, no redirect is followed, no cookie or
credential is sent, and nothing is read of an answer but its status and its headers, which http.client bounds.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from agent.events.confine import confine
from rthook.priority import set_priority

NICE = 10
MEMORY = 512 << 20
DEADLINE_S = 5
MAX_PARALLEL = 8
MAX_PACKET = 64 << 10
MAX_REASON = 200
_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Outcome:
    """status: of an HTTP answer."""

    word: str
    reason: str = ""
    status: int | None = None


def look_up(kind: str, text: str) -> Outcome:
    """May take for ever."""
    try:
        return get_url(text) if kind == "url" else resolve(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome("failed", f"{type(error).__name__}: {error}")


def get_url(url: str) -> Outcome:
    """Raises OSError, HTTPException, ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.username is not None:
        raise ValueError("not an http or https URL with a host and without credentials")
    connection = _connect(parts)
    try:
        connection.request("GET", _target(parts), headers={"User-Agent": "podgate", "Connection": "close"})
        return Outcome("done", "", connection.getresponse().status)
    finally:
        connection.close()


def _connect(parts: SplitResult) -> http.client.HTTPConnection:
    host, port = str(parts.hostname), parts.port
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=DEADLINE_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=DEADLINE_S)


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def resolve(name: str) -> Outcome:
    """Raises OSError, UnicodeError."""
    socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return Outcome("done")


class Workers:
    """At most MAX_PARALLEL processes, each with one lookup."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._running: dict[int, tuple[int, int]] = {}
        """pidfd -> pid and the lookup's number."""

    def serve(self) -> None:
        """Until the socket ends."""
        while True:
            ready = [fd for fd, _ in self._poll.poll()]
            for fd in self._running.keys() & set(ready):
                self._finish(fd)
            if self._channel.fileno() in ready and not self._start():
                return

    def _start(self) -> bool:
        data = self._channel.recv(MAX_PACKET)
        if not data:
            return False
        fields = json.loads(data)
        pid = os.fork()
        if not pid:
            self._work(fields)
        fd = os.pidfd_open(pid)
        self._running[fd] = (pid, fields["id"])
        self._poll.register(fd, select.POLLIN)
        if len(self._running) >= MAX_PARALLEL:
            self._poll.unregister(self._channel.fileno())
        return True

    def _work(self, fields: dict[str, Any]) -> NoReturn:
        try:
            signal.alarm(DEADLINE_S)
            _answer(self._channel, fields["id"], look_up(fields["kind"], fields["text"]))
            os._exit(0)
        finally:
            os._exit(1)

    def _finish(self, fd: int) -> None:
        pid, number = self._running.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        if len(self._running) == MAX_PARALLEL - 1:
            self._poll.register(self._channel.fileno(), select.POLLIN)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            _answer(self._channel, number, _ended(status))


def _ended(status: int) -> Outcome:
    if status == -signal.SIGALRM:
        return Outcome("timeout", f"no answer in {DEADLINE_S} s")
    return Outcome("failed", f"ended with status {status}")


def _answer(channel: socket.socket, number: int, outcome: Outcome) -> None:
    fields = {"id": number, "outcome": outcome.word, "status": outcome.status, "reason": outcome.reason[:MAX_REASON]}
    channel.send(json.dumps(fields).encode())


def main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for reason in (*set_priority(NICE), *confine(MEMORY, 0)):
        print(f"lookup process: {reason}", file=sys.stderr, flush=True)
    try:
        Workers(channel).serve()
    except OSError as error:
        print(f"lookup process: {error}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
