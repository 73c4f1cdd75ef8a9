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
    FLAG_PARTED,
    FLAG_RETURN,
    FLAG_SOCKET,
    HEADER,
    ITEM,
    ITEM_BLOB,
    ITEM_NUMBER,
    ITEM_REST,
    KERNEL_STACK_ID,
    KIND_AT,
    KIND_PART,
    KIND_POLICY,
    MAX_BLOB,
    NUMBER_BYTES,
    PART,
    REST,
    USER_STACK_ID,
)

_HEADER_SIZE = HEADER.size
_ITEM_SIZE = ITEM.size
_PART_SIZE = PART.size
_unpack_header = HEADER.unpack_from
_unpack_item = ITEM.unpack_from


class DecodeError(Exception):
    """A record is not what bpf/ writes: another version of the programs wrote it, or the ring is damaged."""


class Rest(NamedTuple):
    """What came of a value ahead of its event: the parts under a serial number, so many bytes together."""

    serial: int
    size: int


class Item(NamedTuple):
    """One value of an event. data: eight bytes of a number, else text, bytes or the fixed structure of a type.

    flags: CUT_TAIL, CUT_HEAD, UNREADABLE, DELETED, OUTSIDE of `layout`. mode: i_mode of a path's inode, of bytes how
    many there were; 0: not known. rest: what follows data.
    """

    data: bytes
    flags: int = 0
    mode: int = 0
    is_number: bool = False
    rest: Rest | None = None

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
    def is_of_socket(self) -> bool:
        """Whether the process is the one that tracked a socket, which need not be the one that ran."""
        return bool(self.flags & FLAG_SOCKET)

    @property
    def is_parted(self) -> bool:
        """Whether items may have a rest."""
        return bool(self.flags & FLAG_PARTED)

    @property
    def has_stack(self) -> bool:
        return KERNEL_STACK_ID in self.items or USER_STACK_ID in self.items


class Part(NamedTuple):
    """Further bytes of a value. offset: of the first, among those that are not in the value's item."""

    serial: int
    offset: int
    data: bytes


def is_part(data: bytes) -> bool:
    """Whether a record is for `parse_part` and not for `parse_event`."""
    return len(data) > KIND_AT and data[KIND_AT] == KIND_PART


def parse_part(data: bytes) -> Part:
    """data: one whole record. Raises DecodeError."""
    if len(data) < _PART_SIZE:
        raise DecodeError(f"a part of {len(data)} bytes, {_PART_SIZE} at least")
    size, kind, _reserved, length, offset, serial = PART.unpack_from(data)
    if kind != KIND_PART or size != len(data):
        raise DecodeError(f"a part of kind {kind} and {size} bytes in {len(data)}")
    end = _PART_SIZE + length
    if not length or end > size or offset + length > MAX_BLOB:
        raise DecodeError(f"a part of {length} bytes at {offset}, in {size}")
    return Part(serial, offset, data[_PART_SIZE:end])


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
            if kind != ITEM_REST:
                raise DecodeError(f"an item of kind {kind} with {length} bytes")
            items[number] = _with_rest(items.get(number), data, body, length)
        else:
            items[number] = Item(data[body:at], flags, mode, kind == ITEM_NUMBER)
        at += -at % ALIGNMENT
    if at != end:
        raise DecodeError(f"the last item ends at {at} of {end} bytes")
    return items


def _with_rest(item: Item | None, data: bytes, at: int, length: int) -> Item:
    if item is None or item.is_number or length != REST.size:
        raise DecodeError(f"an item of kind {ITEM_REST} with {length} bytes, without a value before it")
    serial, size, _reserved = REST.unpack_from(data, at)
    if len(item.data) + size > MAX_BLOB:
        raise DecodeError(f"a value of {len(item.data)} and {size} bytes")
    return item._replace(rest=Rest(serial, size))
