# SPDX-License-Identifier: Apache-2.0
"""The consumer's side of a BPF ring buffer, through mmap (kernel/bpf/ringbuf.c).

Three areas of the map's descriptor: the consumer's position (a page, writable), the producer's position (a page), and
the data, mapped twice in a row so that no record is cut. Reading positions with plain loads relies on x86's ordering
of loads and stores: nothing is reordered that matters here. Elsewhere it would be wrong, and the agent refuses to
start there.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

PAGE = mmap.PAGESIZE
BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT
DISCARDED = 1 << 30
RECORD_HEADER = 8
_POSITION = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


class RingBuffer:
    """fd: of the map. size: of its data, bytes, a power of two."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(fd, PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE)

    def fileno(self) -> int:
        """Readable when there are records."""
        return self._fd

    def read(self, limit: int) -> list[bytes]:
        """At most limit records, oldest first; their room is free for the kernel afterwards."""
        return list(self._walk(limit))

    def _walk(self, limit: int) -> Iterator[bytes]:
        position = _POSITION.unpack_from(self._consumer)[0]
        end = _POSITION.unpack_from(self._producer)[0]
        for _ in range(limit):
            if position >= end:
                break
            at = PAGE + (position & self._mask)
            length = _LENGTH.unpack_from(self._producer, at)[0]
            if length & BUSY:
                break
            size = length & ~DISCARDED
            if not length & DISCARDED:
                yield self._producer[at + RECORD_HEADER : at + RECORD_HEADER + size]
            position += (RECORD_HEADER + size + 7) & ~7
            _POSITION.pack_into(self._consumer, 0, position)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
