# SPDX-License-Identifier: Apache-2.0
"""The consumer's side of a ring buffer, on a file in memory that is laid out as the kernel does it."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from agent.events.ring import BUSY, DISCARDED, PAGE, RingBuffer

SIZE = PAGE


class FakeRing:
    """Consumer page, producer page, data. The kernel maps the data twice; here the second copy is written too."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.memory = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)
        self.position = 0

    def put(self, data: bytes, flags: int = 0) -> int:
        """Where the record's header is."""
        at = self.position
        self._write(at, struct.pack("<II", len(data) | flags, 0) + data)
        self.position += (8 + len(data) + 7) & ~7
        struct.pack_into("<Q", self.memory, PAGE, self.position)
        return at

    def _write(self, position: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            place = (position + offset) % SIZE
            self.memory[2 * PAGE + place] = self.memory[2 * PAGE + SIZE + place] = byte

    def commit(self, at: int, length: int) -> None:
        self._write(at, struct.pack("<I", length))

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("<Q", self.memory)[0])

    def start_at(self, position: int) -> None:
        self.position = position
        struct.pack_into("<Q", self.memory, 0, position)
        struct.pack_into("<Q", self.memory, PAGE, position)

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def kernel() -> Iterator[FakeRing]:
    ring = FakeRing()
    yield ring
    ring.close()


@pytest.fixture
def ring(kernel: FakeRing) -> Iterator[RingBuffer]:
    reader = RingBuffer(kernel.fd, SIZE)
    yield reader
    reader.close()


def test_records_come_in_order_and_make_room(kernel: FakeRing, ring: RingBuffer) -> None:
    kernel.put(b"one")
    kernel.put(b"")
    kernel.put(b"three bytes more")
    assert ring.read(10) == [b"one", b"", b"three bytes more"]
    assert kernel.consumed == kernel.position
    assert ring.read(10) == []


def test_limit_leaves_the_rest(kernel: FakeRing, ring: RingBuffer) -> None:
    for number in range(5):
        kernel.put(bytes([number]))
    assert ring.read(2) == [b"\0", b"\1"]
    assert ring.read(10) == [b"\2", b"\3", b"\4"]


def test_record_across_the_end_is_whole(kernel: FakeRing, ring: RingBuffer) -> None:
    kernel.start_at(7 * SIZE - 16)
    data = bytes(range(100))
    kernel.put(data)
    kernel.put(b"next")
    assert ring.read(10) == [data, b"next"]


def test_positions_beyond_32_bits(kernel: FakeRing, ring: RingBuffer) -> None:
    kernel.start_at((1 << 32) - 8)
    kernel.put(b"a" * 30)
    assert ring.read(10) == [b"a" * 30]
    assert kernel.consumed == (1 << 32) + 32


def test_busy_record_holds_up_those_behind_it(kernel: FakeRing, ring: RingBuffer) -> None:
    kernel.put(b"first")
    at = kernel.put(b"later", BUSY)
    kernel.put(b"last")
    assert ring.read(10) == [b"first"]
    assert ring.read(10) == []
    kernel.commit(at, 5)
    assert ring.read(10) == [b"later", b"last"]


def test_discarded_record_is_left_out(kernel: FakeRing, ring: RingBuffer) -> None:
    kernel.put(b"dropped", DISCARDED)
    kernel.put(b"kept")
    assert ring.read(10) == [b"kept"]
    assert kernel.consumed == kernel.position
