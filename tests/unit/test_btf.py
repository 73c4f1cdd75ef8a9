# SPDX-License-Identifier: Apache-2.0
"""Reading BTF: every kind, and every way in which it can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kernel.btf import COMPOSITES, ENUMS, MAX_DEPTH, Array, Btf, BtfError, Enumerator, Integer, Kind, Member
from agent.kernel.btf_c import Roots, declare
from agent.kernel.btf_format import MAX_BTF_BYTES
from tests.support.btf_blob import HEADER, BtfBlob, MemberSpec

Reader = Callable[[Btf, int], object]
READERS: tuple[Reader, ...] = (
    Btf.kind,
    Btf.name,
    Btf.target,
    Btf.resolve,
    Btf.array,
    Btf.integer,
    Btf.is_union_forward,
    Btf.is_signed_enum,
    Btf.members,
    Btf.enumerators,
    Btf.size,
    Btf.align,
    Btf.is_packed,
)


def sample_blob() -> bytes:
    """Every kind of type, in shapes that lean on one another."""
    blob = BtfBlob()
    number = blob.integer("int", 4, signed=True)
    byte = blob.integer("unsigned char", 1)
    pointer = blob.pointer(blob.forward("elsewhere"))
    words = blob.array(blob.alias(Kind.CONST, number), 3)
    inner = blob.composite("", 8, [("low", byte, 0), ("whole", pointer, 0)], Kind.UNION)
    blob.typedef("inner_t", inner)
    flags = blob.enum("flags", {"FLAG_A": 1, "FLAG_B": 0xFFFFFFFF})
    blob.enum64("wide", {"WIDE": 1 << 40})
    function = blob.pointer(blob.function())
    members: list[MemberSpec] = [
        ("count", number, 0),
        ("a", number, 32, 3),
        ("b", flags, 35, 20),
        ("words", words, 64),
        ("", inner, 192),
    ]
    blob.composite("outer", 48, [*members, ("call", function, 256), ("next", blob.pointer(14), 320)])
    blob.real("double", 8)
    blob.typedef("outer_t", 14)
    blob.alias(Kind.VOLATILE, byte)
    blob.alias(Kind.RESTRICT, pointer)
    blob.alias(Kind.TYPE_TAG, byte, "user")
    blob.add(Kind.FUNC, "main", 11)
    blob.add(Kind.VAR, "value", number, body=bytes(4))
    blob.add(Kind.DATASEC, ".data", 4, 1, body=bytes(12))
    blob.add(Kind.DECL_TAG, "tag", number, body=bytes(4))
    return blob.build()


def read_everything(data: bytes) -> int:
    """Ask everything of every type, and for C; the number of answers. Only BtfError may come of it."""
    try:
        btf = Btf.parse(data)
    except BtfError:
        return 0
    answers = 0
    for type_id in range(-1, len(btf) + 1):
        for reader in READERS:
            try:
                reader(btf, type_id)
                answers += 1
            except BtfError:
                continue
    try:
        declare(btf, Roots(("outer", "outer_t", "wide"), ("inner_t",), ("FLAG*",)))
    except BtfError:
        return answers
    return answers + 1


def test_finds_types_by_kind_and_name() -> None:
    blob = BtfBlob()
    struct_id = blob.composite("thing", 4, [])
    typedef_id = blob.typedef("thing", struct_id)
    blob.composite("thing", 8, [])
    btf = Btf.parse(blob.build())
    assert (btf.find(Kind.STRUCT, "thing"), btf.find(Kind.TYPEDEF, "thing")) == (struct_id, typedef_id)
    assert btf.find(Kind.UNION, "thing") is None
    assert list(btf.ids(Kind.STRUCT)) == [1, 3]
    assert len(btf) == 4


def test_decodes_members_with_bit_fields() -> None:
    blob = BtfBlob()
    number = blob.integer("int", 4, signed=True)
    record = blob.composite("r", 8, [("a", number, 0), ("b", number, 32, 5)])
    btf = Btf.parse(blob.build())
    assert btf.members(record) == (Member("a", number, 0, 0), Member("b", number, 32, 5))


def test_decodes_bit_fields_of_encoders_without_the_flag() -> None:
    blob = BtfBlob()
    narrow = blob.integer("unsigned int", 4, bits=3, bit_offset=2)
    record = blob.composite("r", 4, [("a", blob.typedef("t", narrow), 8)])
    assert Btf.parse(blob.build()).members(record) == (Member("a", 2, 10, 3),)


def test_decodes_enumerators_by_width_and_sign() -> None:
    blob = BtfBlob()
    blob.enum("e", {"A": -1}, signed=True)
    blob.enum("f", {"B": 0xFFFFFFFF})
    blob.enum64("g", {"C": -2}, signed=True)
    blob.enum64("h", {"D": 1 << 63})
    btf = Btf.parse(blob.build())
    found = [btf.enumerators(i)[0] for i in (1, 2, 3, 4)]
    assert found == [Enumerator("A", -1), Enumerator("B", 0xFFFFFFFF), Enumerator("C", -2), Enumerator("D", 1 << 63)]


def test_sizes_and_alignments_follow_names_and_arrays() -> None:
    blob = BtfBlob()
    short = blob.integer("short", 2, signed=True)
    table = blob.array(blob.array(blob.alias(Kind.CONST, blob.typedef("s", short)), 3), 5)
    pointer = blob.pointer(0)
    btf = Btf.parse(blob.build())
    assert btf.array(table) == Array(4, 5)
    assert btf.integer(short) == Integer(2, 16, 0, True)
    assert (btf.size(table), btf.align(table)) == (30, 2)
    assert (btf.size(pointer), btf.align(pointer)) == (8, 8)


@pytest.mark.parametrize(
    ("size", "offset", "packed"), [(8, 32, False), (8, 8, True), (6, 32, True)], ids=["natural", "displaced", "short"]
)
def test_tells_packed_structs_by_offset_and_size(size: int, offset: int, packed: bool) -> None:
    blob = BtfBlob()
    number = blob.integer("int", 4)
    record = blob.composite("r", size, [("a", number, offset)])
    btf = Btf.parse(blob.build())
    assert btf.is_packed(record) is packed
    assert btf.align(record) == (1 if packed else 4)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "shorter than the header"),
        (bytes(HEADER.size), "magic number"),
        (HEADER.pack(0x9FEB, 1, 0, 24, 0, 0, 0, 1) + b"\0", "big-endian"),
        (HEADER.pack(0xEB9F, 2, 0, 24, 0, 0, 0, 1) + b"\0", "version 2"),
        (HEADER.pack(0xEB9F, 1, 0, 8, 0, 0, 0, 1) + b"\0", "outside the data"),
        (HEADER.pack(0xEB9F, 1, 0, 24, 0, 0, 0, 2) + b"\0", "outside the data"),
        (HEADER.pack(0xEB9F, 1, 0, 24, 0, 0, 0, 0) + b"\0", "no strings"),
        (HEADER.pack(0xEB9F, 1, 0, 24, 0, 0, 0, 2) + b"\0x", "NUL"),
        (HEADER.pack(0xEB9F, 1, 0, 24, 0, 12, 12, 1) + struct.pack("<III", 0, 20 << 24, 0) + b"\0", "unknown kind 20"),
        (HEADER.pack(0xEB9F, 1, 0, 24, 0, 12, 12, 1) + struct.pack("<III", 0, 1 << 24, 0) + b"\0", "cut off"),
        (HEADER.pack(0xEB9F, 1, 0, 24, 0, 4, 4, 1) + bytes(4) + b"\0", "cut off"),
        (bytes(MAX_BTF_BYTES + 1), "more than"),
    ],
)
def test_refuses_what_is_not_btf(data: bytes, problem: str) -> None:
    with pytest.raises(BtfError, match=problem):
        Btf.parse(data)


def test_error_names_the_type() -> None:
    btf = Btf.parse(sample_blob())
    with pytest.raises(BtfError, match=r"BTF: expected ARRAY, found INT \(type 1\)") as caught:
        btf.array(1)
    assert caught.value.type_id == 1


def test_self_referring_types_are_errors() -> None:
    blob = BtfBlob()
    name = blob.typedef("t", 1)
    record = blob.composite("r", 4, [("self", 2, 0)])
    table = blob.array(3, 1)
    btf = Btf.parse(blob.build())
    for type_id in (name, record, table):
        with pytest.raises(BtfError):
            btf.align(type_id)
    for type_id in (name, table):
        with pytest.raises(BtfError):
            btf.size(type_id)


def test_nesting_beyond_the_limit_is_an_error() -> None:
    blob = BtfBlob()
    inner = blob.integer("char", 1)
    for _ in range(MAX_DEPTH + 1):
        inner = blob.composite("", 1, [("x", inner, 0)])
    with pytest.raises(BtfError, match="deeper"):
        Btf.parse(blob.build()).align(inner)


def test_sample_can_be_read() -> None:
    data = sample_blob()
    btf = Btf.parse(data)
    kinds = {btf.kind(i) for i in range(len(btf))}
    assert kinds == set(Kind)
    assert all(btf.members(i) for k in COMPOSITES for i in btf.ids(k))
    assert all(btf.enumerators(i) for k in ENUMS for i in btf.ids(k))
    assert "typedef struct outer outer_t;" in declare(btf, Roots(("outer", "outer_t", "wide"))).text
    assert read_everything(data) > 100


def test_truncation_at_every_byte_is_an_error() -> None:
    data = sample_blob()
    for length in range(len(data)):
        with pytest.raises(BtfError):
            Btf.parse(data[:length])


def test_change_of_any_byte_gives_a_value_or_an_error() -> None:
    data = sample_blob()
    answers = [
        read_everything(data[:at] + bytes((value,)) + data[at + 1 :])
        for at in range(len(data))
        for value in (0, data[at] ^ 1, 0xFF)
    ]
    assert len(answers) == 3 * len(data)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_junk_types_give_a_value_or_an_error(junk: bytes, split: int) -> None:
    types = junk[: min(split, len(junk)) // 4 * 4]
    strings = b"\0" + junk[len(types) :] + b"\0"
    header = HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(strings))
    assert read_everything(header + types + strings) >= 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 12), st.integers(0, 3), st.booleans()), max_size=12))
def test_records_that_refer_anywhere_give_a_value_or_an_error(records: list[tuple[Kind, int, int, bool]]) -> None:
    blob = BtfBlob()
    blob.composite("outer", 8, [("a", 2, 0)])
    for kind, word, count, flag in records:
        each = {Kind.STRUCT: 12, Kind.UNION: 12, Kind.ENUM: 8, Kind.FUNC_PROTO: 8, Kind.DATASEC: 12, Kind.ENUM64: 12}
        fixed = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
        length = fixed.get(kind, 0) + each.get(kind, 0) * count
        body = (struct.pack("<III", word, word, 0) * (length // 12 + 1))[:length]
        blob.add(kind or Kind.INT, "outer" if flag else "", word, count, flag, body if kind else bytes(4))
    assert read_everything(blob.build()) >= 0
