# SPDX-License-Identifier: Apache-2.0
"""The BTF format: its kinds of types, its header, and the walk over its records.

The format is Documentation/bpf/btf.rst: a header, a section of type records and a section of NUL-terminated strings.
A record is three 32-bit words (name offset, info, size or type id), followed by data whose length depends on the kind.
Types are numbered from 1 in the order of their records; 0 is void.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

# A distribution kernel's BTF is 4 to 12 MB; the limit only keeps a wrong file from being read whole.
MAX_BTF_BYTES: Final = 64 << 20

RECORD: Final = struct.Struct("<III")
WORD: Final = struct.Struct("<I")
_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("<HBBIIIII")


class Kind(IntEnum):
    """BTF_KIND_* of include/uapi/linux/btf.h."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


ALIASES: Final = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
COMPOSITES: Final = frozenset({Kind.STRUCT, Kind.UNION})
ENUMS: Final = frozenset({Kind.ENUM, Kind.ENUM64})
REFERRING: Final = ALIASES | {Kind.PTR, Kind.FUNC, Kind.VAR, Kind.DECL_TAG}
SIZED: Final = COMPOSITES | ENUMS | {Kind.INT, Kind.FLOAT}

# Bytes of a record beyond its three words: a fixed part, and one part for each of its `vlen` elements.
_FIXED_BYTES: Final = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
ELEMENT_BYTES: Final = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
    Kind.ENUM64: 12,
}


class BtfError(Exception):
    """BTF that cannot be read, or does not hold what was asked of it.

    `type_id` is the type that was being looked at, where there is one.
    """

    def __init__(self, problem: str, type_id: int | None = None) -> None:
        super().__init__(problem, type_id)
        self.problem = problem
        self.type_id = type_id

    def __str__(self) -> str:
        where = "" if self.type_id is None else f" (type {self.type_id})"
        return f"BTF: {self.problem}{where}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union; `bits` is the width of a bit-field and 0 for any other member."""

    name: str
    type_id: int
    bit_offset: int
    bits: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function; a prototype has no names."""

    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class Enumerator:
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Array:
    element: int
    count: int


@dataclass(frozen=True, slots=True)
class Integer:
    """BTF_KIND_INT: `bits` and `bit_offset` differ from the storage's only in bit-fields of old encoders."""

    size: int
    bits: int
    bit_offset: int
    signed: bool


def parse_header(data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and end of the type section, and of the string section, checked against the data."""
    if len(data) > MAX_BTF_BYTES:
        raise BtfError(f"{len(data)} bytes are more than the {MAX_BTF_BYTES} expected of any kernel")
    if len(data) < _HEADER.size:
        raise BtfError(f"{len(data)} bytes are shorter than the header")
    magic, version, _, header, type_at, type_bytes, string_at, string_bytes = _HEADER.unpack_from(data)
    if magic == int.from_bytes(_MAGIC.to_bytes(2, "little"), "big"):
        raise BtfError("this is big-endian BTF; only little-endian machines are supported")
    if magic != _MAGIC:
        raise BtfError(f"the magic number is 0x{magic:04x}, not 0x{_MAGIC:04x}")
    if version != 1:
        raise BtfError(f"version {version} is unknown")
    types = (header + type_at, header + type_at + type_bytes)
    strings = (header + string_at, header + string_at + string_bytes)
    if header < _HEADER.size or max(types[1], strings[1]) > len(data):
        raise BtfError("the header points outside the data")
    if type_at % 4:
        raise BtfError("the header describes misaligned types")
    return types, strings


def scan_types(data: bytes, start: int, end: int, first: int = 1) -> tuple[array[int], bytes]:
    """Where each record begins and its kind, void first. first: the id of the first record, for errors."""
    fixed = [RECORD.size + _FIXED_BYTES.get(k, 0) for k in Kind]
    each = [ELEMENT_BYTES.get(k, 0) for k in Kind]
    unpack, last = WORD.unpack_from, end - RECORD.size
    offsets, kinds = array("I", (0,)), bytearray((Kind.VOID,))
    position = start
    while position <= last:
        (info,) = unpack(data, position + 4)
        kind = info >> 24 & 0x1F
        if not Kind.VOID < kind <= Kind.ENUM64:
            raise BtfError(f"unknown kind {kind}", len(kinds) - 1 + first)
        offsets.append(position)
        kinds.append(kind)
        position += fixed[kind] + each[kind] * (info & 0xFFFF)
    if position != end:
        raise BtfError("the last type record is cut off", len(kinds) - 1 + first)
    return offsets, bytes(kinds)
