# SPDX-License-Identifier: Apache-2.0
"""Records as bpf/maps/events.h writes them, and feed messages that name what is in them."""

from __future__ import annotations

import json
from typing import Any

from agent.events.helper import Helper
from agent.events.layout import (
    ALIGNMENT,
    HEADER,
    ITEM,
    ITEM_BLOB,
    ITEM_NUMBER,
    ITEM_REST,
    KIND_PART,
    NO_SELECTOR,
    PART,
    REST,
)
from agent.events.tables import Tables
from tests.support.wait import wait_until

HEADER_FIELDS = (
    *(
        "size",
        "kind",
        "flags",
        "time",
        "cgroup",
        "pid",
        "tid",
        "uid",
        "workload",
        "policy",
        "rule",
        "selector",
        "error",
    ),
    *("return_selector", "items", "comm", "start"),
)
DEFAULTS: dict[str, Any] = {
    "kind": 1,
    "flags": 0,
    "time": 5,
    "cgroup": 20,
    "pid": 30,
    "tid": 31,
    "uid": 1000,
    "workload": 1,
    "policy": 2,
    "rule": 0,
    "selector": 0,
    "error": 0,
    "return_selector": NO_SELECTOR,
    "comm": b"calls\0junk",
    "start": 4,
}
POD = {"namespace": "n", "name": "p", "uid": "", "labels": {}}
CONTAINER = {"id": "c"}


def item(number: int, data: bytes, flags: int = 0, mode: int = 0, kind: int = ITEM_BLOB) -> bytes:
    return ITEM.pack(number, len(data), mode, flags, kind, 0) + data + b"\0" * (-len(data) % ALIGNMENT)


def number_item(number: int, value: int, flags: int = 0) -> bytes:
    return item(number, (value & (1 << 64) - 1).to_bytes(8, "little"), flags, kind=ITEM_NUMBER)


def rest_item(number: int, serial: int, size: int) -> bytes:
    return item(number, REST.pack(serial, size, 0), kind=ITEM_REST)


def part(serial: int, offset: int, data: bytes, room: int = 0, **header: int) -> bytes:
    """room: bytes in the record for data, when that is more. header: fields of struct pg_part."""
    room = max(room, len(data))
    fields = {"size": PART.size + room, "kind": KIND_PART, "len": len(data)} | header
    head = PART.pack(fields["size"], fields["kind"], 0, fields["len"], offset, serial)
    return head + data.ljust(room, b"?")


def record(*items: bytes, **header: Any) -> bytes:
    """header: fields of struct pg_event that are not those of DEFAULTS."""
    data = b"".join(items)
    fields = {"size": HEADER.size + len(data), "items": len(items)} | DEFAULTS | header
    return HEADER.pack(*(fields[name] for name in HEADER_FIELDS)) + data


def actions(*names: str, **more: Any) -> dict[str, Any]:
    return {"actions": list(names), "get_url": [], "dns": [], "kernel_stack": False, "user_stack": False} | more


def selector(*names: str, label: str = "", at_return: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"label": label, "entry": actions(*(names or ("POST",)), **more), "return": at_return}


def arg(value_id: int | None, kind: str, index: int = 0, label: str = "", number_id: int | None = None) -> list[Any]:
    return [value_id, kind, label, index, number_id]


def rule(*args: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": "syscall",
        "function": "__x64_sys_lseek",
        "call": "",
        "message": "",
        "tags": [],
        "args": list(args),
        "data": [],
        "return": None,
        "selectors": [selector()],
        "path": "",
        "symbol": "",
        "offset": 0,
    } | more


def tables(*rules: dict[str, Any]) -> Tables:
    """Policy 2 with these rules, and workload 1."""
    known = Tables()
    tell(known, op="policy", id=2, name="pol", namespace=None, rules=list(rules or (rule(),)))
    tell(known, op="workload", id=1, pod=POD, container=CONTAINER)
    return known


def tell(known: Tables, **fields: Any) -> int:
    return known.apply(json.dumps(fields).encode())


def receive(helper: Helper, count: int, deadline_s: float) -> list[bytes]:
    """Waits for so many messages of a helper."""
    got: list[bytes] = []

    def are_there() -> bool:
        got.extend(helper.receive())
        return len(got) >= count

    wait_until(are_there, deadline_s, f"{count} messages")
    return got
