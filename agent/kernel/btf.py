# SPDX-License-Identifier: Apache-2.0
"""Reader of raw BTF, the type information that a kernel carries about itself.

`Btf.parse` walks the records once and keeps only where each one starts and what kind it is (a running kernel has more
than a hundred thousand); everything else is decoded when asked for, and cached where it is asked for often. Where the
records start can be kept (`records`) for when the same bytes are read again. A module's types are numbered on from the
kernel's: `Btf.parse_split` puts them behind those. The input is not trusted: whatever is wrong with it, when parsing or
later, is a `BtfError`, and every recursion has a bound. Sizes and alignments are those of a 64-bit little-endian
machine.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final, Self

from agent.kernel.btf_format import (
    ALIASES,
    COMPOSITES,
    ELEMENT_BYTES,
    ENUMS,
    RECORD,
    REFERRING,
    SIZED,
    WORD,
    Array,
    BtfError,
    Enumerator,
    Integer,
    Kind,
    Member,
    Parameter,
    parse_header,
    scan_types,
)
from agent.kernel.btf_names import Names, Records, Section, Strings

__all__ = [
    "ALIASES",
    "COMPOSITES",
    "ENUMS",
    "MAX_DEPTH",
    "Array",
    "Btf",
    "BtfError",
    "Enumerator",
    "Integer",
    "Kind",
    "Member",
    "Parameter",
]

# Types nested by value, or names standing for names. The kernel itself takes 32 (MAX_RESOLVE_DEPTH) from programs.
MAX_DEPTH: Final = 100
POINTER_SIZE: Final = 8
# The System V and AArch64 ABIs align nothing by itself beyond 16 bytes.
MAX_SCALAR_ALIGN: Final = 16

_PAIR: Final = struct.Struct("<Ii")
_PARAMETER: Final = struct.Struct("<II")


class Btf:
    """One BTF blob. Type ids are what the blob numbers them; methods raise BtfError for an id it does not have."""

    def __init__(self, data: bytes, records: Records, strings: tuple[Section, ...]) -> None:
        """Use `Btf.parse` or `Btf.parse_split`."""
        self._data = data
        self._records = records
        self._strings = Strings(data, strings)
        self._offsets = records.offsets
        self._kinds = records.kinds
        self._names = Names(data, records, self._strings)
        self._members: dict[int, tuple[Member, ...]] = {}
        self._aligns: dict[int, int] = {}
        self._packed: dict[int, bool] = {}

    @classmethod
    def parse(cls, data: bytes, records: Records | None = None) -> Self:
        """Read the raw bytes of /sys/kernel/btf/vmlinux. records: those of an earlier `Btf` of the same bytes. Raises
        BtfError, naming what is wrong.
        """
        types, strings = parse_header(data)
        if not strings[0] < strings[1]:
            raise BtfError("the header describes no strings")
        if data[strings[0]] or data[strings[1] - 1]:
            raise BtfError("the string section does not begin and end with a NUL")
        if records is None:
            records = Records((types,), *scan_types(data, *types))
        return cls(data, records, (Section(0, *strings),))

    @classmethod
    def parse_split(cls, base: Self, data: bytes) -> Self:
        """Read the raw bytes of a module's BTF: its types and names are numbered on from the last of base's, the
        kernel's, which stays as it is. Raises BtfError.
        """
        types, strings = parse_header(data)
        if strings[0] < strings[1] and data[strings[1] - 1]:
            raise BtfError("the string section does not end with a NUL")
        offsets, kinds = scan_types(data, *types, len(base))
        shift = len(base._data)
        section = Section(base._strings.end, shift + strings[0], shift + strings[1])
        spans = (*base._records.spans, (shift + types[0], shift + types[1]))
        offsets = base._offsets + array("I", (shift + offset for offset in offsets[1:]))
        records = Records(spans, offsets, base._kinds + kinds[1:])
        return cls(base._data + data, records, (*base._strings.sections, section))

    @property
    def records(self) -> Records:
        """Where its records are; half a megabyte of a kernel."""
        return self._records

    def __len__(self) -> int:
        """Types, void included: valid ids are those below."""
        return len(self._kinds)

    def kind(self, type_id: int) -> Kind:
        if not 0 <= type_id < len(self._kinds):
            raise BtfError(f"there is no type {type_id}")
        return Kind(self._kinds[type_id])

    def name(self, type_id: int) -> str:
        """The type's name, "" if it has none."""
        return self._text(self._record(type_id)[0], type_id)

    def find(self, kind: Kind, name: str) -> int | None:
        """The first type of this kind and name."""
        return self._names.find(kind, name.encode()) if name else None

    def ids(self, kind: Kind) -> Iterator[int]:
        """The ids of all types of this kind, in order."""
        return self._names.ids(kind)

    def target(self, type_id: int) -> int:
        """What a pointer, typedef, qualifier, tag, function or variable refers to."""
        if self.kind(type_id) not in REFERRING:
            raise BtfError("the type refers to no other", type_id)
        target = self._record(type_id)[2]
        self.kind(target)
        return target

    def resolve(self, type_id: int) -> int:
        """The type behind typedefs, qualifiers and tags."""
        for _ in range(MAX_DEPTH):
            if self.kind(type_id) not in ALIASES:
                return type_id
            type_id = self.target(type_id)
        raise BtfError(f"more than {MAX_DEPTH} names stand for one another", type_id)

    def array(self, type_id: int) -> Array:
        self._expect(type_id, frozenset({Kind.ARRAY}))
        element, _, count = RECORD.unpack_from(self._data, self._body(type_id))
        self.kind(element)
        return Array(element, count)

    def integer(self, type_id: int) -> Integer:
        self._expect(type_id, frozenset({Kind.INT}))
        (word,) = WORD.unpack_from(self._data, self._body(type_id))
        signed = bool(word >> 24 & 1)
        return Integer(self._record(type_id)[2], word & 0xFF, word >> 16 & 0xFF, signed)

    def is_union_forward(self, type_id: int) -> bool:
        """Whether a forward declaration is of a union; otherwise it is of a struct."""
        self._expect(type_id, frozenset({Kind.FWD}))
        return self._flag(type_id)

    def is_signed_enum(self, type_id: int) -> bool:
        self._expect(type_id, ENUMS)
        return self._flag(type_id)

    def members(self, type_id: int) -> tuple[Member, ...]:
        """The members of a struct or union, in order."""
        if type_id not in self._members:
            self._expect(type_id, COMPOSITES)
            self._members[type_id] = tuple(self._decode_members(type_id))
        return self._members[type_id]

    def parameters(self, type_id: int) -> tuple[Parameter, ...]:
        """Those of a prototype, in order; the last of a variadic one is of type 0."""
        self._expect(type_id, frozenset({Kind.FUNC_PROTO}))
        start = self._body(type_id)
        pairs = (_PARAMETER.unpack_from(self._data, start + 8 * n) for n in range(self._count(type_id)))
        return tuple(Parameter(self._text(name, type_id), target) for name, target in pairs)

    def result(self, type_id: int) -> int:
        """What a prototype returns; 0, void, when nothing."""
        self._expect(type_id, frozenset({Kind.FUNC_PROTO}))
        found = self._record(type_id)[2]
        self.kind(found)
        return found

    def names(self, kind: Kind) -> Iterator[str]:
        """The names of all types of this kind, in order; a name may be there twice."""
        return (name for type_id in self.ids(kind) if (name := self.name(type_id)))

    def enumerators(self, type_id: int) -> tuple[Enumerator, ...]:
        self._expect(type_id, ENUMS)
        wide, signed = self.kind(type_id) is Kind.ENUM64, self._flag(type_id)
        decode = self._wide_enumerator if wide else self._narrow_enumerator
        step = ELEMENT_BYTES[Kind.ENUM64 if wide else Kind.ENUM]
        start = self._body(type_id)
        return tuple(decode(start + step * i, signed, type_id) for i in range(self._count(type_id)))

    def size(self, type_id: int) -> int:
        """sizeof, in bytes."""
        count = 1
        for _ in range(MAX_DEPTH):
            type_id = self.resolve(type_id)
            kind = self.kind(type_id)
            if kind is Kind.PTR:
                return count * POINTER_SIZE
            if kind in SIZED:
                return count * self._record(type_id)[2]
            if kind is not Kind.ARRAY:
                raise BtfError(f"a {kind.name} has no size", type_id)
            array_of = self.array(type_id)
            count, type_id = count * array_of.count, array_of.element
        raise BtfError(f"arrays of arrays nest deeper than {MAX_DEPTH}", type_id)

    def align(self, type_id: int, depth: int = 0) -> int:
        """The alignment in bytes that a compiler gives the type, attributes aside: 1 for a packed struct."""
        type_id = self.resolve(type_id)
        if type_id not in self._aligns:
            if depth > MAX_DEPTH:
                raise BtfError(f"types nest deeper than {MAX_DEPTH}", type_id)
            self._aligns[type_id] = self._compute_align(type_id, depth)
        return self._aligns[type_id]

    def is_packed(self, type_id: int) -> bool:
        """Whether a struct or union can only be laid out as it is by __attribute__((packed))."""
        self.align(type_id)
        return self._packed.get(type_id, False)

    def _compute_align(self, type_id: int, depth: int) -> int:
        kind = self.kind(type_id)
        if kind in COMPOSITES:
            return self._composite_align(type_id, depth)
        if kind is Kind.ARRAY:
            return self.align(self.array(type_id).element, depth + 1)
        size = self.size(type_id)
        if kind in SIZED and (size & (size - 1) or not size):
            raise BtfError(f"a {kind.name} of {size} bytes has no alignment", type_id)
        return min(size, MAX_SCALAR_ALIGN)

    def _composite_align(self, type_id: int, depth: int) -> int:
        widest, packed = 1, False
        for member in self.members(type_id):
            align = self.align(member.type_id, depth + 1)
            widest = max(widest, align)
            packed = packed or self._is_displaced(member, align)
        packed = packed or self._record(type_id)[2] % widest != 0
        self._packed[type_id] = packed
        return 1 if packed else widest

    def _is_displaced(self, member: Member, align: int) -> bool:
        """Whether the member stands where only a packed struct can have it."""
        if not member.bits:
            return member.bit_offset % (8 * align) != 0
        storage = 8 * self.size(member.type_id)
        return member.bit_offset % storage + member.bits > storage

    def _decode_members(self, type_id: int) -> Iterator[Member]:
        start, has_bit_fields = self._body(type_id), self._flag(type_id)
        for position in range(start, start + 12 * self._count(type_id), 12):
            name, member_type, offset = RECORD.unpack_from(self._data, position)
            self.kind(member_type)
            if has_bit_fields:
                offset, bits = offset & 0xFFFFFF, offset >> 24
            else:
                offset, bits = self._old_bit_field(member_type, offset)
            if bits > 8 * self.size(member_type):
                raise BtfError(f"a bit-field of {bits} bits is wider than its type", type_id)
            yield Member(self._text(name, type_id), member_type, offset, bits)

    def _old_bit_field(self, member_type: int, offset: int) -> tuple[int, int]:
        """Bit offset and width of a member of a struct without the bit-field flag: the integer type may carry them."""
        resolved = self.resolve(member_type)
        if self.kind(resolved) is not Kind.INT:
            return offset, 0
        integer = self.integer(resolved)
        if integer.bits == 8 * integer.size:
            return offset, 0
        return offset + integer.bit_offset, integer.bits

    def _narrow_enumerator(self, position: int, signed: bool, type_id: int) -> Enumerator:
        name, value = _PAIR.unpack_from(self._data, position)
        return Enumerator(self._text(name, type_id), value if signed else value & 0xFFFFFFFF)

    def _wide_enumerator(self, position: int, signed: bool, type_id: int) -> Enumerator:
        name, low, high = RECORD.unpack_from(self._data, position)
        value = high << 32 | low
        if signed and value >> 63:
            value -= 1 << 64
        return Enumerator(self._text(name, type_id), value)

    def _text(self, offset: int, type_id: int) -> str:
        try:
            return self._strings.at(offset, type_id).decode("ascii")
        except UnicodeDecodeError as error:
            raise BtfError("a name is not ASCII text", type_id) from error

    def _expect(self, type_id: int, kinds: frozenset[Kind]) -> None:
        kind = self.kind(type_id)
        if kind not in kinds:
            expected = " or ".join(sorted(k.name for k in kinds))
            raise BtfError(f"expected {expected}, found {kind.name}", type_id)

    def _record(self, type_id: int) -> tuple[int, int, int]:
        """Name offset, info, and size or type id."""
        if self.kind(type_id) is Kind.VOID:
            return 0, 0, 0
        record: tuple[int, int, int] = RECORD.unpack_from(self._data, self._offsets[type_id])
        return record

    def _body(self, type_id: int) -> int:
        return self._offsets[type_id] + RECORD.size

    def _count(self, type_id: int) -> int:
        return self._record(type_id)[1] & 0xFFFF

    def _flag(self, type_id: int) -> bool:
        return bool(self._record(type_id)[1] >> 31)
