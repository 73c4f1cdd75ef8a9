# SPDX-License-Identifier: Apache-2.0
"""Values that are longer than an item: their parts come ahead of the event, which is put together here. Pure.

The kernel's side sends the parts of a value one behind the other, under a serial number of its own, and says in the
event how many bytes it sent. What is not there to the last byte, from the first on, is not used at all: the value then
is what its item has, and counts as cut.

A value of the entry whose event comes at the return waits for as long as the call takes; the oldest go when there are
too many. What an event has used is kept a little longer: one call makes an event for each of its hits, one behind the
other.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from agent.events.decoder import Item, Part, RawEvent, Rest
from agent.events.layout import CUT_TAIL, MAX_BLOB

MAX_WAITING = 4096  # values; as many calls can wait for their return: MAX_RETURNS of agent/kernel/layout.py
MAX_WAITING_BYTES = 32 << 20  # a hundred values of the largest size
MAX_USED_BYTES = 12 * MAX_BLOB  # the texts of one program: MAX_TEXTS of agent/policy/plan.py


class Parts:
    """counters: data_missing (values whose parts were not there when their event came)."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._waiting = _Store(MAX_WAITING, MAX_WAITING_BYTES)
        self._used = _Store(MAX_WAITING, MAX_USED_BYTES)

    def add(self, part: Part) -> None:
        """Parts of one value come in order; what has a gap is dropped."""
        known = self._waiting.take(part.serial) if part.offset else bytearray()
        if known is not None and len(known) == part.offset:
            known += part.data
            self._waiting.put(part.serial, known)

    def complete(self, event: RawEvent) -> RawEvent:
        """The event with its values as far as their parts are there."""
        items = {number: self._completed(item) if item.rest else item for number, item in event.items.items()}
        return event._replace(items=items)

    def clear(self) -> None:
        """Forgets all values: there is nobody to tell them to."""
        self._waiting.clear()
        self._used.clear()

    def _completed(self, item: Item) -> Item:
        rest = self._find(item.rest) if item.rest else b""
        data = item.data + rest
        return item._replace(data=data, flags=item.flags & ~CUT_TAIL if len(data) == item.mode else item.flags)

    def _find(self, rest: Rest) -> bytes:
        if not rest.size:
            return b""
        found = self._waiting.take(rest.serial) or self._used.take(rest.serial)
        if found is None or len(found) != rest.size:
            self.counters["data_missing"] += 1
            return b""
        self._used.put(rest.serial, found)
        return bytes(found)


class _Store:
    """Bytes by serial number; the oldest go when there are more than `values` or `size` bytes."""

    def __init__(self, values: int, size: int) -> None:
        self._max_values = values
        self._max_size = size
        self._known: OrderedDict[int, bytearray] = OrderedDict()
        self._size = 0

    def put(self, serial: int, data: bytearray) -> None:
        self.take(serial)
        self._known[serial] = data
        self._size += len(data)
        while len(self._known) > self._max_values or self._size > self._max_size:
            self._size -= len(self._known.popitem(last=False)[1])

    def take(self, serial: int) -> bytearray | None:
        data = self._known.pop(serial, None)
        self._size -= len(data or b"")
        return data

    def clear(self) -> None:
        self._known.clear()
        self._size = 0
