# SPDX-License-Identifier: Apache-2.0
"""Values as C: where a number begins, how far it reaches, and which reader a type has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.policy.access import MAX_TEXT, HookPoint, Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.codegen_value import cast, constant, follow, load_input, number, raw, read_value
from agent.policy.model import ArgType, HookKind
from agent.policy.plan import Chunk
from tests.support.evaluate_c import evaluate
from tests.support.planning import argument, hand_made, place_resolved, plans_of

RAW = HookPoint(PointKind.RAW_TRACEPOINT, "event")
FIRST = Input(InputKind.ARGUMENT, 0)
SECOND = Input(InputKind.ARGUMENT, 1, 4, signed=True)


def chunk_of(*values: Value) -> Chunk:
    (made,) = plans_of(place_resolved([hand_made(HookKind.RAW_TRACEPOINT, RAW, values)])).values()
    return made.chunks[0]


def followed(read: Read) -> list[str]:
    return list(follow(chunk_of(Value(ArgType.UINT64, read)), read, "n"))


def reader(value: Value) -> str:
    (line,) = (line for line in read_value(chunk_of(value), value, "0") if line.startswith("\terror = "))
    return line.removeprefix("\terror = ").removesuffix(";")


@pytest.mark.parametrize("value", [-(1 << 63), -(1 << 63) + 1, -1, 0, (1 << 63) - 1])
def test_signed_constants_are_written_as_c_has_them(value: int, tmp_path: Path) -> None:
    text = constant(value, signed=True)
    assert evaluate(tmp_path, [("", text)]) == [value]
    digits = text.strip("()").split("LL")[0]
    assert abs(int(digits)) < 1 << 63


def test_unsigned_constants_are_unsigned() -> None:
    assert constant((1 << 64) - 1, signed=False) == "18446744073709551615ULL"


widths = st.tuples(st.sampled_from((1, 2, 4, 8)), st.booleans(), st.integers(0, (1 << 64) - 1))


@settings(max_examples=5, deadline=None)
@given(st.lists(widths, min_size=20, max_size=40))
def test_numbers_are_extended_from_their_width(tmp_path_factory: Any, wanted: list[tuple[int, bool, int]]) -> None:
    folder = tmp_path_factory.mktemp("cast")
    found = evaluate(folder, [(f"x = {value}ULL;", cast("x", size, signed)) for size, signed, value in wanted])
    expected = [int.from_bytes(v.to_bytes(8, "little")[:size], "little", signed=s) for size, s, v in wanted]
    assert [number_ % (1 << 64) for number_ in found] == [number_ % (1 << 64) for number_ in expected]


def test_a_read_begins_with_its_input() -> None:
    chunk = chunk_of(Value(ArgType.UINT64, Read(FIRST, index=SECOND, scale=8)))
    assert raw(chunk, Read(FIRST)) == "(__u64)call->in[0]"
    assert raw(chunk, Read(SECOND)) == "(__s64)(__s32)call->in[1]"
    assert raw(chunk, Read(FIRST, index=SECOND, scale=8)) == "((__u64)call->in[0] + (__s64)(__s32)call->in[1] * 8)"
    assert raw(chunk, Read(Input(InputKind.CONSTANT, -5))) == "-5LL"
    assert raw(chunk, Read(Input(InputKind.CONSTANT, 5))) == "5ULL"
    assert raw(chunk, Read(Input(InputKind.RETURN, 0, 4, signed=True))) == "(__s64)(__s32)call->ret"


def test_numbers_at_hand_need_no_memory(tmp_path: Path) -> None:
    moved = Value(ArgType.INT, Read(SECOND, (-3,), in_place=True))
    stored = Value(ArgType.UINT32, Read(FIRST, (8,), size=4))
    chunk = chunk_of(moved, stored, argument(0))
    (first, second) = chunk.inputs
    assert (first.number, second.number) == (1, 0)
    texts = [("call->in[0] = 0xfffffffeULL;", number(chunk, moved)), ("call->number[0] = 7;", number(chunk, stored))]
    assert evaluate(tmp_path, texts) == [-5, 7]


def test_pointers_are_followed_and_the_last_bytes_read() -> None:
    assert followed(Read(FIRST)) == ["n = (__u64)call->in[0];", "error = 0;"]
    assert followed(Read(FIRST, (8, -16, 4), size=2, signed=True))[2:] == [
        "error = error ?: pg_load(&n, n + 8LL, 8, 0, 0);",
        "error = error ?: pg_load(&n, n + -16LL, 8, 0, 0);",
        "error = error ?: pg_load(&n, n + 4LL, 2, 1, 0);",
    ]


def test_a_structures_address_is_not_followed() -> None:
    assert followed(Read(FIRST, (8, 24), in_place=True))[2:] == [
        "error = error ?: pg_load(&n, n + 8LL, 8, 0, 0);",
        "n += 24LL;",
    ]


def test_memory_of_the_process_is_read_as_such() -> None:
    assert followed(Read(FIRST, (8,), memory=Memory.USER))[2] == "error = error ?: pg_load(&n, n + 8LL, 8, 0, 1);"


word64 = st.integers(0, (1 << 64) - 1)
bit_fields = st.integers(0, 63).flatmap(
    lambda offset: st.tuples(st.just(offset), st.integers(1, 64 - offset), st.booleans(), word64)
)


@settings(max_examples=5, deadline=None)
@given(st.lists(bit_fields, min_size=20, max_size=40))
def test_bit_fields_are_cut_out(tmp_path_factory: Any, wanted: list[tuple[int, int, bool, int]]) -> None:
    """What pg_load gives is a whole word; the statements after it cut the field out."""
    texts = []
    for offset, size, signed, value in wanted:
        lines = followed(Read(FIRST, (0,), signed=signed, bit_offset=offset, bit_size=size))
        assert ", 8, 0, 0);" in lines[2]
        texts.append((f"__u64 n = {value}ULL; {' '.join(lines[3:])}", "n"))
    found = evaluate(tmp_path_factory.mktemp("bits"), texts)
    for (offset, size, signed, value), number_ in zip(wanted, found, strict=True):
        field = value >> offset & ((1 << size) - 1)
        expected = field - (1 << size) if signed and field >> (size - 1) else field
        assert number_ % (1 << 64) == expected % (1 << 64)


LENGTH = Read(Input(InputKind.ARGUMENT, 2))
SIZED = (ArgType.CHAR_BUF, ArgType.CONST_BUF, ArgType.CHAR_IOVEC)


@pytest.mark.parametrize("memory", Memory)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Value(ArgType.STRING, Read(FIRST)), "pg_read_{}_string(s0, n)"),
        (Value(ArgType.STRING, Read(FIRST), is_string=True, limit=16), "pg_read_{}_array(s0, n, 16)"),
        (Value(ArgType.STRING, Read(FIRST), is_string=True, limit=1 << 20), f"pg_read_{{}}_array(s0, n, {MAX_TEXT})"),
        (Value(ArgType.CHAR_BUF, Read(FIRST), length=LENGTH), "pg_read_{}_bytes(s0, n, size)"),
        (Value(ArgType.CHAR_IOVEC, Read(FIRST), length=LENGTH), "pg_read_{}_iovec(s0, n, size)"),
        (Value(ArgType.SOCKADDR, Read(FIRST), length=LENGTH), "pg_read_{}_sockaddr(s0, n, size)"),
        (Value(ArgType.SOCKADDR, Read(FIRST)), "pg_read_{}_sockaddr(s0, n, 128)"),
        (Value(ArgType.SOCKADDR_UN, Read(FIRST), length=LENGTH), "pg_read_{}_sockaddr_un(s0, n, size)"),
        (
            Value(ArgType.BPF_ATTR, Read(SECOND), length=LENGTH),
            "pg_read_{}_bpf_attr_of(s0, n, size, (__u32)call->in[0])",
        ),
        (Value(ArgType.DATA_LOC, Read(FIRST), length=LENGTH), "pg_read_{}_bytes(s0, n, size)"),
    ],
)
def test_texts_are_read_where_they_are(value: Value, memory: Memory, expected: str) -> None:
    placed = Value(value.type, value.read, memory, value.length, value.limit, is_string=value.is_string)
    assert reader(placed) == expected.format(memory.value)


def test_what_the_kernel_has_is_read_by_its_type() -> None:
    kinds = [kind for kind in ArgType if not kind.is_number and kind not in (ArgType.AUTO, ArgType.NOP, ArgType.FD)]
    readers = {kind: reader(Value(kind, Read(FIRST))) for kind in kinds}
    assert readers[ArgType.FILE] == "pg_read_file(s0, n)"
    plain = {kind for kind, text in readers.items() if text == "pg_read_kernel_string(s0, n)"}
    assert plain == {ArgType.STRING, ArgType.DATA_LOC}


def test_a_descriptor_is_a_path() -> None:
    assert reader(Value(ArgType.FD, Read(FIRST))) == "(pg_read_fd_path(s0, (__s32)n), 0)"


def test_a_length_that_cannot_be_read_is_an_error_of_the_whole() -> None:
    length = Read(Input(InputKind.ARGUMENT, 2), (0,), memory=Memory.USER, size=4)
    value = Value(ArgType.CHAR_BUF, Read(FIRST), Memory.USER, length)
    lines = list(read_value(chunk_of(value), value, "1"))
    assert lines[2:6] == [
        "before = error;",
        "size = (__u64)call->in[1];",
        "error = 0;",
        "error = error ?: pg_load(&size, size + 0LL, 4, 0, 1);",
    ]
    assert lines[6] == "error = error ?: before;"
    assert lines[-1] == "later |= pg_unreadable(error, n, 1);"


def test_a_negative_length_is_none() -> None:
    value = Value(ArgType.CHAR_BUF, Read(FIRST), length=Read(SECOND))
    assert "if ((__s64)size < 0)" in list(read_value(chunk_of(value), value, "0"))


@pytest.mark.parametrize(
    ("wanted", "context", "expected"),
    [
        (Input(InputKind.TASK), "raw", "bpf_get_current_task()"),
        (Input(InputKind.ARGUMENT, 11), "raw", "ctx->args[11]"),
        (Input(InputKind.ARGUMENT, 5), "tracepoint", "ctx->args[5]"),
        (Input(InputKind.ARGUMENT, 0), "registers", "ctx->di"),
        (Input(InputKind.ARGUMENT, 5), "registers", "ctx->r9"),
        (Input(InputKind.REGISTER, 40, 4), "registers", "(__u64)(__u32)pg_context_u64(ctx, 40)"),
        (Input(InputKind.REGISTER, 40, 2, signed=True), "raw", "(__s64)(__s16)pg_user_register(40)"),
        (
            Input(InputKind.FIELD, 12, 4, signed=True),
            "tracepoint",
            "(__u64)*(const __s32 *)((const char *)ctx + 12)",
        ),
        (Input(InputKind.RECORD, 16), "tracepoint", "(__u64)ctx + 16"),
        (Input(InputKind.DATA_LOC_SIZE, 8), "tracepoint", "*(const __u32 *)((const char *)ctx + 8) >> 16"),
        (
            Input(InputKind.DATA_LOC, 8),
            "tracepoint",
            "(__u64)ctx + (*(const __u32 *)((const char *)ctx + 8) & 0xffff)",
        ),
    ],
)
def test_inputs_are_taken_from_the_programs_context(wanted: Input, context: str, expected: str) -> None:
    assert load_input(wanted, context) == expected
