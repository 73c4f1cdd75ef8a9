# SPDX-License-Identifier: Apache-2.0
"""Readers of the event stream: never waited for, told what they missed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from agent.events.subscribers import MAX_BACKLOG, MAX_SUBSCRIBERS, Subscribers

_LINE = b'{"n":1}\n'


class _Readers:
    """Subscribers and the other ends of their sockets."""

    def __init__(self) -> None:
        self.all = Subscribers()
        self._ends: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, bool]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._ends += [ours, theirs]
        return ours, self.all.add(theirs)

    def close(self) -> None:
        for fd in self.all.descriptors():
            self.all.drop(fd)
        for end in self._ends:
            end.close()


@pytest.fixture
def readers() -> Iterator[_Readers]:
    made = _Readers()
    yield made
    made.close()


def _receive(channel: socket.socket) -> bytes:
    """All that is there."""
    data = b""
    try:
        while part := channel.recv(1 << 20):
            data += part
    except BlockingIOError:
        pass
    return data


def _lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_a_reader_is_greeted_and_gets_every_line(readers: _Readers) -> None:
    channel, taken = readers.connect()
    readers.all.push(_LINE)
    readers.all.push(b'{"n":2}\n')
    readers.all.flush()
    assert taken
    assert _lines(_receive(channel)) == [{"type": "subscribed"}, {"n": 1}, {"n": 2}]
    assert readers.all.waiting() == []


def test_every_reader_gets_the_same(readers: _Readers) -> None:
    channels = [readers.connect()[0] for _ in range(3)]
    readers.all.push(_LINE)
    readers.all.flush()
    assert {_receive(channel) for channel in channels} == {b'{"type":"subscribed"}\n' + _LINE}


def test_a_line_of_nobody_is_gone(readers: _Readers) -> None:
    readers.all.push(_LINE)
    channel, _ = readers.connect()
    readers.all.flush()
    assert _lines(_receive(channel)) == [{"type": "subscribed"}]


def test_a_slow_reader_loses_lines_alone_and_is_told_how_many(readers: _Readers) -> None:
    slow, _ = readers.connect()
    quick, _ = readers.connect()
    line = b'"' + b"x" * (1 << 18) + b'"\n'
    pushed, quick_lines = 30, 0
    for _ in range(pushed):
        readers.all.push(line)
        for _ in range(4):  # more rounds than a line needs of what a socket takes at once
            readers.all.flush()
            quick_lines += _receive(quick).count(b'x"\n')
    assert quick_lines == pushed
    assert len(readers.all.waiting()) == 1
    data = b""
    while readers.all.waiting():
        data += _receive(slow)
        readers.all.flush()
    *rest, last = (data + _receive(slow)).splitlines()
    kept = sum(1 for text in rest if text.startswith(b'"x'))
    assert json.loads(last) == {"type": "lost", "reason": "slow reader", "count": pushed - kept}
    assert MAX_BACKLOG // len(line) <= kept < pushed


def test_a_backlog_is_bounded(readers: _Readers) -> None:
    slow, _ = readers.connect()
    for _ in range(3 * MAX_BACKLOG // (1 << 16)):
        readers.all.push(b"#" * (1 << 16))
    data = b""
    while readers.all.waiting():
        readers.all.flush()
        data += _receive(slow)
    assert data.count(b"#") == MAX_BACKLOG
    assert json.loads(data[data.rindex(b"{") :])["count"] == 2 * MAX_BACKLOG // (1 << 16)


def test_a_reader_that_has_gone_is_removed(readers: _Readers) -> None:
    gone, _ = readers.connect()
    here, _ = readers.connect()
    gone.close()
    readers.all.push(_LINE)
    readers.all.flush()
    assert len(readers.all) == 1
    assert _receive(here).endswith(_LINE)


def test_one_reader_too_many_is_told_and_closed(readers: _Readers) -> None:
    for _ in range(MAX_SUBSCRIBERS):
        assert readers.connect()[1]
    channel, taken = readers.connect()
    assert not taken
    assert len(readers.all) == MAX_SUBSCRIBERS
    assert _lines(_receive(channel)) == [{"type": "error", "reason": f"{MAX_SUBSCRIBERS} readers already"}]
    assert channel.recv(1) == b""


def test_a_place_is_free_again_after_a_drop(readers: _Readers) -> None:
    for _ in range(MAX_SUBSCRIBERS):
        readers.connect()
    readers.all.drop(readers.all.descriptors()[0])
    readers.all.drop(-1)
    assert readers.connect()[1]
