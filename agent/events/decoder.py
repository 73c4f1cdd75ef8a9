# SPDX-License-Identifier: Apache-2.0
"""Ring buffer records to values. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.events.layout import ABSENT, BINARY_ID, FLAG_DEFERRED, HEADER, KIND_POLICY, SLOTS, TEXT_KINDS


class DecodeError(Exception):
    """A record is not what bpf/ writes: another version of the programs wrote it, or the ring is damaged."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a string slot held. flags: layout.CUT_TAIL, CUT_HEAD, UNREADABLE."""

    data: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One hit of one rule; numbers as the kernel has them. time: ns since boot. texts: those that were read, by
    (argument, its type's name).
    """

    time: int
    cgroup: int
    args: tuple[int, ...]
    pid: int
    tid: int
    uid: int
    workload: int
    policy: int
    rule: int
    selector: int
    error: int
    comm: bytes
    deferred: bool
    texts: dict[tuple[int, str], Text]
    binary: Text | None


def parse_event(data: bytes) -> RawEvent:
    """data: one whole record. Raises DecodeError."""
    if len(data) < HEADER.size:
        raise DecodeError(f"a record of {len(data)} bytes, {HEADER.size} at least")
    fields = HEADER.unpack_from(data)
    size, kind, flags, time, cgroup = fields[:5]
    if kind != KIND_POLICY or size != len(data):
        raise DecodeError(f"a record of kind {kind} and {size} bytes in {len(data)}")
    pid, tid, uid, workload, policy, rule, selector, error, _, comm = fields[11:21]
    slots = _slots(data, fields[21 : 21 + SLOTS], fields[21 + SLOTS : 21 + 2 * SLOTS], fields[21 + 2 * SLOTS :])
    binary = slots.pop(BINARY_ID, None)
    texts = {(slot & 0xF, TEXT_KINDS.get(slot >> 4, "")): text for slot, text in slots.items()}
    name = comm.partition(b"\0")[0]
    deferred = bool(flags & FLAG_DEFERRED)
    return RawEvent(
        time,
        cgroup,
        fields[5:11],
        pid,
        tid,
        uid,
        workload,
        policy,
        rule,
        selector,
        error,
        name,
        deferred,
        texts,
        binary,
    )


def _slots(data: bytes, lengths: tuple[int, ...], flags: tuple[int, ...], ids: tuple[int, ...]) -> dict[int, Text]:
    slots = {}
    at = HEADER.size
    for length, flag, slot in zip(lengths, flags, ids, strict=True):
        if length == ABSENT:
            continue
        if at + length > len(data):
            raise DecodeError(f"a text ends at {at + length} of {len(data)} bytes")
        slots[slot] = Text(data[at : at + length], flag)
        at += length
    return slots
