# SPDX-License-Identifier: Apache-2.0
"""C declarations from BTF: what is written, in which order, and with which padding."""

from __future__ import annotations

import re

import pytest

from agent.kernel.btf import Btf, BtfError, Kind
from agent.kernel.btf_c import CText, Roots, declare
from tests.support.btf_blob import BtfBlob


def declare_roots(blob: BtfBlob, *required: str, optional: tuple[str, ...] = ()) -> CText:
    return declare(Btf.parse(blob.build()), Roots(required, optional))


def lines(text: str) -> list[str]:
    """The lines with the running number of gaps taken off."""
    return [re.sub(r"__btf_gap\d+", "gap", line.strip()) for line in text.splitlines()]


def test_pointees_are_declared_and_contained_structs_defined_first() -> None:
    blob = BtfBlob()
    number = blob.integer("int", 4)
    inner = blob.composite("inner", 4, [("x", number, 0)])
    far = blob.composite("far", 4, [("x", number, 0)])
    blob.composite("root", 16, [("in", inner, 0), ("far", blob.pointer(far), 64)])
    assert lines(declare_roots(blob, "root").text) == [
        "struct inner {", "int x;", "};", "struct far;",
        "struct root {", "struct inner in;", "struct far *far;", "};",
    ]  # fmt: skip


def test_says_pointers_arrays_and_functions() -> None:
    blob = BtfBlob()
    char = blob.integer("char", 1)
    table = blob.array(blob.pointer(blob.alias(Kind.CONST, char)), 2)
    call = blob.pointer(blob.function())
    row = blob.pointer(blob.array(char, 4))
    members = [("names", table, 0), ("call", call, 128), ("row", row, 192), ("calls", blob.array(call, 0), 256)]
    blob.composite("r", 32, members)
    assert lines(declare_roots(blob, "r").text)[1:-1] == [
        "char *names[2];", "void (*call)(void);", "void *row;", "void (*calls[0])(void);",
    ]  # fmt: skip


def test_pads_before_members_between_bit_fields_and_at_the_end() -> None:
    blob = BtfBlob()
    word = blob.integer("unsigned int", 4)
    byte = blob.integer("unsigned char", 1)
    blob.composite("r", 16, [("a", byte, 0), ("b", word, 35, 2), ("c", word, 61, 3), ("d", byte, 72)])
    assert lines(declare_roots(blob, "r").text)[1:-1] == [
        "unsigned char a;", "char gap[3];", "unsigned char : 3;", "unsigned int b : 2;", "unsigned char : 3;",
        "char gap[2];", "unsigned char : 5;", "unsigned int c : 3;", "char gap[1];", "unsigned char d;", "char gap[6];",
    ]  # fmt: skip


def test_packs_what_is_displaced() -> None:
    blob = BtfBlob()
    word = blob.integer("unsigned int", 4)
    blob.composite("r", 6, [("a", word, 16)])
    text = declare_roots(blob, "r").text
    assert lines(text) == ["struct r {", "char gap[2];", "unsigned int a;", "} __attribute__((packed));"]


def test_larger_union_gets_a_member_of_its_size() -> None:
    blob = BtfBlob()
    word = blob.integer("unsigned int", 4)
    blob.composite("u", 64, [("a", word, 0)], Kind.UNION)
    assert lines(declare_roots(blob, "u").text) == ["union u {", "unsigned int a;", "char gap[64];", "};"]


def test_unnamed_member_of_a_named_struct_is_written_out() -> None:
    blob = BtfBlob()
    word = blob.integer("int", 4)
    base = blob.composite("base", 4, [("x", word, 0)])
    blob.composite("r", 4, [("", base, 0)])
    result = declare_roots(blob, "r")
    assert lines(result.text)[3:] == ["struct r {", "struct {", "int x;", "};", "};"]
    assert '_Static_assert(__builtin_offsetof(struct r, x) == 0, "struct r x");' in result.asserts


def test_struct_and_its_typedef_may_use_each_other() -> None:
    blob = BtfBlob()
    blob.composite("node", 8, [("next", blob.pointer(3), 0)])
    blob.typedef("node_t", 2)
    assert lines(declare_roots(blob, "node_t").text) == [
        "struct node;", "typedef struct node node_t;", "struct node {", "node_t *next;", "};",
    ]  # fmt: skip


def test_second_type_of_a_name_gets_a_suffix_and_the_root_keeps_its_own() -> None:
    blob = BtfBlob()
    word = blob.integer("int", 4)
    root = blob.composite("same", 12, [("x", word + 2, 0), ("y", word, 64)])
    other = blob.composite("same", 8, [("z", word, 0), ("w", word, 32)])
    assert (root, other) == (2, 3)
    assert lines(declare_roots(blob, "same").text) == [
        "struct same___2 {", "int z;", "int w;", "};",
        "struct same {", "struct same___2 x;", "int y;", "};",
    ]  # fmt: skip


def test_enumerators_stay_unique_and_wide_enums_keep_their_size() -> None:
    blob = BtfBlob()
    small = blob.enum("small", {"A": 0}, size=1)
    wide = blob.enum64("wide", {"A": 1, "LEAST": -(1 << 63)}, signed=True)
    blob.composite("r", 16, [("s", small, 0), ("w", wide, 64)])
    result = declare_roots(blob, "r")
    assert "enum small { A = 0U } __attribute__((mode(QI)));" in result.text
    expected = "enum wide { A___2 = 1LL, LEAST = (-9223372036854775807LL - 1) } __attribute__((mode(DI)));"
    assert expected in result.text
    assert result.enumerators == {"A", "A___2", "LEAST"}


def test_constants_bring_their_anonymous_enums() -> None:
    blob = BtfBlob()
    blob.enum("", {"OTHER": 0, "BPF_X": 7})
    blob.enum("", {"UNRELATED": 1})
    result = declare(Btf.parse(blob.build()), Roots((), (), ("BPF_*", "NAME")))
    assert result.text == "enum { OTHER = 0U, BPF_X = 7U };\n"


def test_missing_roots_are_named_and_missing_optional_ones_are_not() -> None:
    blob = BtfBlob()
    blob.composite("here", 0, [])
    with pytest.raises(BtfError, match=r"does not describe gone, lost$"):
        declare_roots(blob, "here", "gone", "lost", optional=("maybe",))
    assert declare_roots(blob, "here", optional=("maybe",)).text == "struct here {\n};\n"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a", 1, 0), ("b", 1, 16)], "overlap"),
        ([("a", 1, 32)], "exceed"),
        ([("a-b", 1, 0)], "not a name"),
        ([("a", 2, 0)], "contains itself|deeper"),
        ([("a", 1, 0, 40)], "wider"),
        ([("a", 0, 0)], "VOID"),
    ],
)
def test_impossible_structs_are_errors(members: list[tuple[str, int, int]], problem: str) -> None:
    blob = BtfBlob()
    blob.integer("int", 4)
    blob.composite("r", 4, members)
    with pytest.raises(BtfError, match=problem):
        declare_roots(blob, "r")


def test_anonymous_structs_that_double_at_each_level_are_refused_early() -> None:
    blob = BtfBlob()
    inner, size = blob.integer("int", 4), 4
    for _ in range(40):
        inner = blob.composite("", 2 * size if size < 1 << 30 else size, [("a", inner, 0), ("b", inner, 8 * size)])
        size *= 2
        if size >= 1 << 19:
            # Bit offsets end at 32 bits; unions double the text just as well.
            break
    for _ in range(40):
        inner = blob.composite("", size, [("a", inner, 0), ("b", inner, 0)], Kind.UNION)
    blob.composite("root", size, [("x", inner, 0)])
    with pytest.raises(BtfError, match="would exceed"):
        declare_roots(blob, "root")


def test_what_is_optional_and_absent_is_told() -> None:
    blob = BtfBlob()
    number = blob.integer("int", 4)
    blob.composite("root", 4, [("x", number, 0)])
    blob.composite("there", 4, [("x", number, 0)])
    blob.forward("pointed_to")
    members = (("root", "x"), ("root", "y"), ("absent", "z"))
    roots = Roots(("root",), ("there", "absent", "pointed_to"), members=members)
    assert declare(Btf.parse(blob.build()), roots).lacking == ("absent", "pointed_to", "root_y", "absent_z")
