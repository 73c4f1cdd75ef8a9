# SPDX-License-Identifier: Apache-2.0
"""Readers of the event stream: one unix socket each, JSON lines, never waited for.

A reader that does not keep up has MAX_BACKLOG bytes; what comes beyond is dropped for it alone, and it is told how
much as soon as it reads again: {"type":"lost","reason":"slow reader","count":N}.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from agent.events.encoder import encode_line

MAX_SUBSCRIBERS = 32  # each can hold MAX_BACKLOG
MAX_BACKLOG = 2 << 20


@dataclass(slots=True)
class Subscriber:
    channel: socket.socket
    backlog: bytearray = field(default_factory=bytearray)
    dropped: int = 0

    def push(self, line: bytes) -> None:
        if len(self.backlog) + len(line) > MAX_BACKLOG:
            self.dropped += 1
        else:
            self.backlog += line

    def flush(self) -> bool:
        """Sends what the socket takes; False when the reader is gone."""
        try:
            while self.backlog:
                sent = self.channel.send(self.backlog[: 1 << 18])
                del self.backlog[:sent]
                self._tell_dropped()
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _tell_dropped(self) -> None:
        if self.dropped and len(self.backlog) < MAX_BACKLOG // 2:
            self.backlog += encode_line({"type": "lost", "reason": "slow reader", "count": self.dropped})
            self.dropped = 0


class Subscribers:
    def __init__(self) -> None:
        self._all: dict[int, Subscriber] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, channel: socket.socket) -> bool:
        """Takes the connection over; False when there are too many."""
        channel.setblocking(False)
        subscriber = Subscriber(channel)
        full = len(self._all) >= MAX_SUBSCRIBERS
        subscriber.push(
            encode_line(
                {"type": "error", "reason": f"{MAX_SUBSCRIBERS} readers already"} if full else {"type": "subscribed"}
            )
        )
        subscriber.flush()
        if full:
            channel.close()
            return False
        self._all[channel.fileno()] = subscriber
        return True

    def push(self, line: bytes) -> None:
        for subscriber in self._all.values():
            subscriber.push(line)

    def flush(self) -> None:
        for fd, subscriber in list(self._all.items()):
            if not subscriber.flush():
                self.drop(fd)

    def waiting(self) -> list[int]:
        """Descriptors with lines that their sockets did not take yet."""
        return [fd for fd, subscriber in self._all.items() if subscriber.backlog]

    def drop(self, fd: int) -> None:
        subscriber = self._all.pop(fd, None)
        if subscriber:
            subscriber.channel.close()

    def descriptors(self) -> list[int]:
        return list(self._all)
