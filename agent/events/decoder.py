# SPDX-License-Identifier: Apache-2.0
"""Ring buffer records to values. Pure.

It runs for every event, and named tuples are made three times as fast as frozen dataclasses: hence those.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.events.layout import (
    ALIGNMENT,
    FLAG_CUT,
    FLAG_DEFERRED,
    FLAG_MONITOR,
    FLAG_RETURN,
    HEADER,
    ITEM,
    ITEM_BLOB,
    ITEM_NUMBER,
    KERNEL_STACK_ID,
    KIND_POLICY,
    MAX_BLOB,
    NUMBER_BYTES,
    USER_STACK_ID,
)

_HEADER_SIZE = HEADER.size
_ITEM_SIZE = ITEM.size
_unpack_header = HEADER.unpack_from
_unpack_item = ITEM.unpack_from


class DecodeError(Exception):
    """A record is not what bpf/ writes: another version of the programs wrote it, or the ring is damaged."""


class Item(NamedTuple):
    """One value of an event. data: eight bytes of a number, else text, bytes or the fixed structure of a type.

    flags: CUT_TAIL, CUT_HEAD, UNREADABLE, DELETED, OUTSIDE of `layout`. mode: i_mode of a path's inode, 0: not known.
    """

    data: bytes
    flags: int = 0
    mode: int = 0
    is_number: bool = False

    @property
    def number(self) -> int:
        """Unsigned."""
        return int.from_bytes(self.data[:NUMBER_BYTES], "little")


class RawEvent(NamedTuple):
    """One hit of one rule; numbers as the kernel has them, named as in struct pg_event. time, start (of the process):
    ns since boot. items: by id.
    """

    flags: int
    time: int
    cgroup: int
    pid: int
    tid: int
    uid: int
    workload: int
    policy: int
    rule: int
    selector: int
    error: int
    return_selector: int
    comm: bytes
    start: int
    items: dict[int, Item]

    @property
    def is_deferred(self) -> bool:
        return bool(self.flags & FLAG_DEFERRED)

    @property
    def is_return(self) -> bool:
        return bool(self.flags & FLAG_RETURN)

    @property
    def is_monitored(self) -> bool:
        return bool(self.flags & FLAG_MONITOR)

    @property
    def is_cut(self) -> bool:
        return bool(self.flags & FLAG_CUT)

    @property
    def has_stack(self) -> bool:
        return KERNEL_STACK_ID in self.items or USER_STACK_ID in self.items


def parse_event(data: bytes) -> RawEvent:
    """data: one whole record. Raises DecodeError."""
    if len(data) < _HEADER_SIZE:
        raise DecodeError(f"a record of {len(data)} bytes, {_HEADER_SIZE} at least")
    (
        size, kind, flags, time, cgroup, pid, tid, uid, workload, policy, rule, selector, error, return_selector, count,
        comm, start,
    ) = _unpack_header(data)  # fmt: skip
    if kind != KIND_POLICY or size != len(data):
        raise DecodeError(f"a record of kind {kind} and {size} bytes in {len(data)}")
    return RawEvent(
        flags, time, cgroup, pid, tid, uid, workload, policy, rule, selector, error, return_selector,
        comm.partition(b"\0")[0], start, _items(data, count),
    )  # fmt: skip


def _items(data: bytes, count: int) -> dict[int, Item]:
    items: dict[int, Item] = {}
    at, end = _HEADER_SIZE, len(data)
    for _ in range(count):
        body = at + _ITEM_SIZE
        if body > end:
            raise DecodeError(f"the head of an item ends at {body} of {end} bytes")
        number, length, mode, flags, kind, _reserved = _unpack_item(data, at)
        at = body + length
        if at > end:
            raise DecodeError(f"an item ends at {at} of {end} bytes")
        if kind > ITEM_BLOB or (kind == ITEM_NUMBER and length != NUMBER_BYTES) or length > MAX_BLOB:
            raise DecodeError(f"an item of kind {kind} with {length} bytes")
        items[number] = Item(data[body:at], flags, mode, kind == ITEM_NUMBER)
        at += -at % ALIGNMENT
    if at != end:
        raise DecodeError(f"the last item ends at {at} of {end} bytes")
    return items
