# SPDX-License-Identifier: Apache-2.0
"""The event process: `python -I -m agent.events.main FEED RING RING_BYTES LISTENER [PIN_DIR]`, the first four but the
size descriptors that it inherits.

It ends when the feed ends: when the agent is gone there is nobody to tell it the names of workloads. With PIN_DIR,
where the agent may hold processes, it looks after them too: it releases those of an agent that hangs, and those that
an agent left which died.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import time
from pathlib import Path

from agent.events.decoder import DecodeError, parse_event
from agent.events.encoder import encode_event, encode_line, encode_unannounced
from agent.events.guard import PERIOD_S, Guard
from agent.events.ring import RingBuffer
from agent.events.subscribers import Subscribers
from agent.events.tables import FeedError, Tables
from rthook.priority import set_priority

BATCH = 256  # records between two looks at the feed and the readers
FEED_MESSAGE = 1 << 20
NICE = 5  # a storm of events must leave the processor to the gate


class EventProcess:
    """guard: where the agent holds processes."""

    def __init__(
        self, feed: socket.socket, ring: RingBuffer, listener: socket.socket, guard: Guard | None = None
    ) -> None:
        self._guard = guard
        self._feed = feed
        self._ring = ring
        self._listener = listener
        self._tables = Tables()
        self._readers = Subscribers()
        self._poll = select.epoll()
        for source in (feed, ring, listener):
            self._poll.register(source.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until the feed ends; longer when the agent has not said that it stops: it may have left somebody held."""
        self._serve_all()
        if self._guard and not self._tables.ended:
            self._guard.stay()

    def _serve_all(self) -> None:
        while True:
            ready = dict(self._poll.poll(PERIOD_S if self._guard else None))
            if self._guard:
                self._guard.look()
            if self._feed.fileno() in ready and not self._read_feed():
                return
            if self._listener.fileno() in ready:
                self._accept()
            self._read_ring()
            self._serve(ready)

    def _read_feed(self) -> bool:
        """False at its end."""
        while True:
            try:
                message = self._feed.recv(FEED_MESSAGE)
            except BlockingIOError:
                return True
            if not message:
                return False
            try:
                lost = self._tables.apply(message)
            except FeedError as error:
                print(f"event process: {error}", file=sys.stderr, flush=True)
                continue
            if lost:
                self._readers.push(encode_line({"type": "lost", "reason": "ring buffer full", "count": lost}))
            while self._tables.unannounced:
                self._readers.push(encode_unannounced(self._tables.unannounced.pop(0), boot_offset()))

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError as error:
            print(f"event process: accept: {error}", file=sys.stderr, flush=True)
            return
        if self._readers.add(channel):
            self._poll.register(channel.fileno(), select.EPOLLRDHUP)

    def _read_ring(self) -> None:
        records = self._ring.read(BATCH)
        if not records or not len(self._readers):
            return
        offset = boot_offset()
        for record in records:
            self._readers.push(self._line(record, offset))

    def _line(self, record: bytes, offset: int) -> bytes:
        try:
            event = parse_event(record)
        except DecodeError as error:
            return encode_line({"type": "error", "reason": str(error)})
        if event.workload and event.workload not in self._tables.workloads:
            self._read_feed()  # the agent told of it before the kernel could: it is waiting there
        return encode_event(event, self._tables, offset)

    def _serve(self, ready: dict[int, int]) -> None:
        for fd, events in ready.items():
            if fd in self._readers.descriptors() and events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                self._drop(fd)
        self._readers.flush()
        waiting = self._readers.waiting()
        for fd in self._readers.descriptors():
            self._poll.modify(fd, select.EPOLLRDHUP | (select.EPOLLOUT if fd in waiting else 0))

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._readers.drop(fd)


def boot_offset() -> int:
    """Nanoseconds to add to a time since boot for one since 1970."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main() -> int:
    feed_fd, ring_fd, ring_bytes, listener_fd = (int(text) for text in sys.argv[1:5])
    pin_dir = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides when it is over
    for reason in set_priority(NICE):
        print(f"event process: {reason}", file=sys.stderr, flush=True)
    feed, listener = socket.socket(fileno=feed_fd), socket.socket(fileno=listener_fd)
    feed.setblocking(False)
    listener.setblocking(False)
    guard = Guard(pin_dir) if pin_dir else None
    EventProcess(feed, RingBuffer(ring_fd, ring_bytes), listener, guard).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
