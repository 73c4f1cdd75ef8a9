# SPDX-License-Identifier: Apache-2.0
"""A process of the event process, for what takes long or touches what a container made.

It is started when it is first needed and talks over a socket pair, one message a packet, each way. Nothing here waits
for it: what its socket does not take is refused. One that ends or is ended is started again, not at once; one that
does not even die when it is killed (the kernel waits for a file system that a container serves) is left behind, and
while MAX_LEFT are, there is no new one.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable

RESTART_S = 1.0
CLOSE_S = 2.0
MAX_LEFT = 2
MAX_PACKET = 256 << 10
SEND_BUFFER = 1 << 20

Command = Callable[[int], list[str]]


def module_command(module: str) -> Command:
    """`python -I -m MODULE SOCKET`."""
    return lambda fd: [sys.executable, "-I", "-m", module, str(fd)]


class Helper:
    """command: of the process, given its end of the socket pair. clock: monotonic seconds."""

    def __init__(self, command: Command, clock: Callable[[], float] = time.monotonic) -> None:
        self._command = command
        self._clock = clock
        self._poll = select.epoll()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._left: list[subprocess.Popen[bytes]] = []
        self._started = float("-inf")
        self.lost = 0
        """How often it ended by itself or was ended."""

    def fileno(self) -> int:
        """Readable when there is something to receive; the same whichever process is there."""
        return self._poll.fileno()

    @property
    def pid(self) -> int:
        """0 without one."""
        return self._process.pid if self._process else 0

    def send(self, message: bytes) -> bool:
        """False when there is no process, or when it has more waiting than its socket holds."""
        channel = self._channel or self._start()
        if channel is None:
            return False
        try:
            channel.send(message)
        except BlockingIOError:
            return False
        except OSError:
            self.end()
            return False
        return True

    def receive(self) -> list[bytes]:
        """What it has sent; empty too when it has ended."""
        messages: list[bytes] = []
        while self._channel:
            try:
                message = self._channel.recv(MAX_PACKET)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if not message:
                self.end()
                break
            messages.append(message)
        return messages

    def end(self) -> None:
        """Kills it, without waiting for that."""
        if self._channel is None or self._process is None:
            return
        self._poll.unregister(self._channel.fileno())
        self._channel.close()
        self._process.kill()
        self._left.append(self._process)
        self._channel = self._process = None
        self.lost += 1
        self._reap()

    def close(self) -> None:
        """Kills it and waits for that, CLOSE_S at most."""
        self.end()
        self._poll.close()
        for process in self._left:
            try:
                process.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                print(f"event process: helper {process.pid} cannot be ended", file=sys.stderr, flush=True)

    def _start(self) -> socket.socket | None:
        self._reap()
        if len(self._left) >= MAX_LEFT or self._clock() - self._started < RESTART_S:
            return None
        self._started = self._clock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        ours.setblocking(False)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command(theirs.fileno()), stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), cwd="/"
                )
            except OSError as error:
                print(f"event process: a helper cannot be started: {error}", file=sys.stderr, flush=True)
                ours.close()
                return None
        self._poll.register(ours.fileno(), select.EPOLLIN)
        self._channel = ours
        return ours

    def _reap(self) -> None:
        self._left = [process for process in self._left if process.poll() is None]
