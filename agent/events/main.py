# SPDX-License-Identifier: Apache-2.0
"""The event process: `python -I -m agent.events.main FEED RING RING_BYTES LISTENER [PIN_DIR] [--allow-lookups]`. The
first four are descriptors that it inherits, but for the size.

It ends when the feed ends: when the agent is gone there is nobody to tell it the names of workloads. With PIN_DIR,
where the agent may hold processes, it looks after them too: it releases those of an agent that hangs, and those that
an agent left which died. What takes time has helpers of its own: symbols of stacks (symbols.py), and what policies
want looked up (lookups.py).
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

from agent.events.decoder import DecodeError, RawEvent, is_part, parse_event, parse_part
from agent.events.encoder import encode_event, encode_line, encode_unannounced, event_fields, is_posted
from agent.events.guard import PERIOD_S, Guard
from agent.events.helper import Helper, module_command
from agent.events.lookups import ALLOW_LOOKUPS, Lookups, wanted
from agent.events.parts import Parts
from agent.events.ring import RingBuffer
from agent.events.subscribers import Subscribers
from agent.events.symbols import Stacks
from agent.events.tables import FeedError, Tables
from rthook.priority import set_priority

BATCH = 256  # records between two looks at the feed and the readers
FEED_MESSAGE = 1 << 20
TELL_S = 1.0  # between two messages with counters to the agent
NICE = 5  # a storm of events must leave the processor to the gate


class EventProcess:
    """guard: where the agent holds processes. allow_lookups: GetUrl and DnsLookup are done."""

    def __init__(
        self,
        feed: socket.socket,
        ring: RingBuffer,
        listener: socket.socket,
        guard: Guard | None = None,
        allow_lookups: bool = False,
    ) -> None:
        self._guard = guard
        self._feed = feed
        self._ring = ring
        self._listener = listener
        self._tables = Tables()
        self._readers = Subscribers()
        self._stacks = Stacks(Helper(module_command("agent.events.symbols_main")))
        self._lookups = Lookups(Helper(module_command("agent.events.lookups_main")) if allow_lookups else None)
        self._parts = Parts()
        self._told: Counter[str] = Counter()
        self._tell_at = 0.0
        self._poll = select.epoll()
        sources = [feed.fileno(), ring.fileno(), listener.fileno(), self._stacks.fileno()]
        for fd in sources + ([self._lookups.fileno()] if allow_lookups else []):
            self._poll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Until the feed ends; longer when the agent has not said that it stops: it may have left somebody held."""
        self._serve_all()
        self._stacks.close()
        self._lookups.close()
        if self._guard and not self._tables.ended:
            self._guard.stay()

    def _serve_all(self) -> None:
        while True:
            ready = dict(self._poll.poll(self._wait_s()))
            if self._guard:
                self._guard.look()
            if self._feed.fileno() in ready and not self._read_feed():
                return
            if self._listener.fileno() in ready:
                self._accept()
            self._read_ring()
            for line in (*self._stacks.lines(), *self._lookups.lines()):
                self._readers.push(line)
            self._tell_counters()
            self._serve(ready)

    def _wait_s(self) -> float | None:
        waits = [self._stacks.wait_s(), self._lookups.wait_s(), PERIOD_S if self._guard else None]
        if self._counters() != self._told:
            waits.append(max(0.0, self._tell_at - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def _counters(self) -> Counter[str]:
        return self._stacks.counters + self._lookups.counters + self._parts.counters

    def _tell_counters(self) -> None:
        """To the agent, once in a period; what it does not take now is told with the next."""
        counters = self._counters()
        if counters == self._told or time.monotonic() < self._tell_at:
            return
        self._tell_at = time.monotonic() + TELL_S
        try:
            self._feed.send(json.dumps({"op": "counters", "counters": counters}).encode())
        except OSError:  # the agent does not listen, or has ended: reading the feed shows that
            return
        self._told = counters

    def _read_feed(self) -> bool:
        """False at its end."""
        while True:
            try:
                message = self._feed.recv(FEED_MESSAGE)
            except BlockingIOError:
                return True
            except ConnectionResetError:  # the agent went without hearing our counters; its last words are still there
                continue
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
        if not len(self._readers):
            self._parts.clear()
            if not self._tables.looks_up:
                return
        if not records:
            return
        offset = boot_offset()
        for record in records:
            try:
                if is_part(record):
                    self._parts.add(parse_part(record))
                else:
                    self._take(parse_event(record), len(record), offset)
            except DecodeError as error:
                self._readers.push(encode_line({"type": "error", "reason": str(error)}))

    def _take(self, event: RawEvent, size: int, offset: int) -> None:
        tables = self._tables
        if event.policy not in tables.policies or (event.workload and event.workload not in tables.workloads):
            self._read_feed()  # the agent told of it before the kernel could: it is waiting there
        if tables.looks_up and not self._look_up(event):
            return
        if not len(self._readers):
            return
        if event.is_parted:
            event = self._parts.complete(event)
            size += sum(item.rest.size for item in event.items.values() if item.rest)
        if event.has_stack:
            self._stacks.add(event, event_fields(event, tables, offset), size)
        else:
            self._readers.push(encode_event(event, tables, offset))

    def _look_up(self, event: RawEvent) -> bool:
        """Whether it is an event for readers as well: NoPost leaves only what is to be looked up."""
        for lookup in wanted(event, self._tables):
            self._lookups.add(lookup)
        return is_posted(event, self._tables)

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
    pin_dir = next((Path(text) for text in sys.argv[5:] if text != ALLOW_LOOKUPS), None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides when it is over
    for reason in set_priority(NICE):
        print(f"event process: {reason}", file=sys.stderr, flush=True)
    feed, listener = socket.socket(fileno=feed_fd), socket.socket(fileno=listener_fd)
    feed.setblocking(False)
    listener.setblocking(False)
    guard = Guard(pin_dir) if pin_dir else None
    EventProcess(feed, RingBuffer(ring_fd, ring_bytes), listener, guard, ALLOW_LOOKUPS in sys.argv[5:]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
