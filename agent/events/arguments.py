# SPDX-License-Identifier: Apache-2.0
"""The values of an event as fields of JSON, by their types. Pure.

Every value is one object with `index`, `type`, perhaps `label`, and what is known of it. What could not be read, or
found no room in the record, is null and has `"unreadable": true`.
"""

from __future__ import annotations

import base64
import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from agent.events.blobs import decode_blob
from agent.events.decoder import Item
from agent.events.layout import CUT_HEAD, CUT_TAIL, DELETED, OUTSIDE, UNREADABLE
from agent.events.names import bpf_command_name, capability_name, capability_names, file_type, system_call
from agent.policy.model import ArgType

MAX_ERRNO = 4095  # include/linux/err.h

Fields = dict[str, Any]
Show = Callable[[Item | None], Fields]


@dataclass(frozen=True, slots=True)
class Argument:
    """A value that a rule declares. head: what each event says of it. value_id: of its item in events, None of a `nop`;
    number_id: of the number of a descriptor, whose item is its path. show: the item as fields. can_fail: numbers a
    little below zero are errors.
    """

    head: Fields
    show: Show
    value_id: int | None = None
    number_id: int | None = None
    can_fail: bool = False


def make_argument(kind: ArgType, head: Fields, value_id: int | None = None, number_id: int | None = None) -> Argument:
    """head: fields beside the type. Raises ValueError for a type that has no values but is said to have one."""
    if value_id is not None and kind in _WITHOUT:
        raise ValueError(f"an argument of type {kind.value} has no value")
    can_fail = kind.is_number and kind.signed
    return Argument(head | {"type": kind.value}, _show(kind), value_id, number_id, can_fail)


def argument(items: Mapping[int, Item], arg: Argument) -> Fields:
    """An entry of `args` or `data`."""
    if arg.value_id is None:
        return arg.head
    fields = arg.head | arg.show(items.get(arg.value_id))
    if arg.number_id is not None:
        fields |= _show(ArgType.INT)(items.get(arg.number_id))
    return fields


def returned(items: Mapping[int, Item], arg: Argument) -> Fields:
    """What the call returned; of an error the errno's name too."""
    fields = argument(items, arg)
    value = fields.get("value")
    if arg.can_fail and isinstance(value, int) and -MAX_ERRNO <= value < 0:
        fields["error"] = errno.errorcode.get(-value)
    return fields


@cache
def _show(kind: ArgType) -> Show:
    if kind.is_number:
        return partial(number_fields, kind.bits, kind.signed, _WORDS.get(kind))
    if kind.is_path:
        return partial(path_fields, name="path" if kind is ArgType.FD else "value")
    if kind in _BYTES:
        return _bytes
    if kind in _PLAIN:
        return text_fields
    return partial(_blob, kind.value)


def text_fields(item: Item | None, name: str = "value") -> Fields:
    """`name` is the text; bytes that are not UTF-8 are written as \\xNN."""
    if item is None or item.is_number or item.flags & UNREADABLE:
        return {name: None, "unreadable": True}
    return {name: _text(item.data)} | _cut(item)


def path_fields(item: Item | None, name: str) -> Fields:
    """A text, and what is known of the file that it leads to."""
    fields = text_fields(item, name)
    if item is None or item.flags & UNREADABLE:
        return fields
    if item.mode:
        fields |= {"file_type": file_type(item.mode), "mode": f"{item.mode & 0o7777:04o}"}
    if item.flags & DELETED:
        fields["deleted"] = True
    if item.flags & OUTSIDE:
        fields["outside"] = True
    return fields


def number_fields(bits: int, signed: bool, words: Callable[[int], Fields] | None, item: Item | None) -> Fields:
    """words: what more there is to say of the number."""
    if item is None or not item.is_number or item.flags & UNREADABLE:
        return {"value": None, "unreadable": True}
    value = item.number & ((1 << bits) - 1)
    if signed and value >> (bits - 1):
        value -= 1 << bits
    return {"value": value} | words(value) if words else {"value": value}


def _bytes(item: Item | None) -> Fields:
    if item is None or item.is_number or item.flags & UNREADABLE:
        return {"base64": None, "unreadable": True}
    fields: Fields = {"base64": base64.b64encode(item.data).decode()} | _cut(item)
    if item.flags & CUT_TAIL and item.mode > len(item.data):
        fields["size"] = item.mode
    return fields


def _blob(kind: str, item: Item | None) -> Fields:
    if item is None or item.is_number or item.flags & UNREADABLE:
        return {"value": None, "unreadable": True}
    return {"value": decode_blob(kind, item.data, item.flags, item.mode)} | _cut(item)


def _text(data: bytes) -> str:
    """What stands behind a NUL is no text: the rest of a fixed array."""
    return data.partition(b"\0")[0].decode(errors="backslashreplace")


def _cut(item: Item) -> Fields:
    return {"truncated": True} if item.flags & (CUT_TAIL | CUT_HEAD) else {}


_WORDS: dict[ArgType, Callable[[int], Fields]] = {
    ArgType.CAPABILITY: lambda value: {"name": capability_name(value)},
    ArgType.BPF_CMD: lambda value: {"name": bpf_command_name(value)},
    ArgType.SYSCALL64: lambda value: {"value": system_call(value)},
    ArgType.KERNEL_CAP_T: lambda value: {"names": capability_names(value)},
    ArgType.CAP_INHERITABLE: lambda value: {"names": capability_names(value)},
    ArgType.CAP_PERMITTED: lambda value: {"names": capability_names(value)},
    ArgType.CAP_EFFECTIVE: lambda value: {"names": capability_names(value)},
}
_WITHOUT = frozenset({ArgType.AUTO, ArgType.NOP})
_BYTES = frozenset({ArgType.CHAR_BUF, ArgType.CONST_BUF, ArgType.CHAR_IOVEC})
_PLAIN = frozenset({ArgType.STRING, ArgType.DATA_LOC, ArgType.FILENAME})
