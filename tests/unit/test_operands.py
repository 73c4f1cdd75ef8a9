# SPDX-License-Identifier: Apache-2.0
"""Operands of USDT probes, text to reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.access import Input, InputKind, Memory, Read
from agent.policy.operands import MAX_OPERANDS, OperandError, fold, parse_operand, read_operand, split_operands
from agent.policy.registers import REGISTERS

SYMBOLS = {"counter": 0x3000, "table": 0x4000}
U64 = (1 << 64) - 1


def read(text: str) -> Read:
    """Of the operand as wide and signed as it says it is."""
    operand = parse_operand(text)
    return read_operand(operand, operand.size, operand.signed, SYMBOLS.__getitem__)


def register(name: str, size: int = 8, signed: bool = False) -> Input:
    return Input(InputKind.REGISTER, REGISTERS[name].offset, size, signed)


def memory(base: str, offset: int, size: int, signed: bool = False, index: str = "", scale: int = 1) -> Read:
    beside = register(index) if index else None
    return Read(register(base), (offset,), False, Memory.USER, size, signed, index=beside, scale=scale)


def constant(value: int) -> Read:
    return Read(Input(InputKind.CONSTANT, value & U64))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-4@%edi", Read(register("rdi", 4, True))),
        ("8@%r15", Read(register("r15"))),
        ("4@%rax", Read(register("rax", 4))),
        ("1@%al", Read(register("rax", 1))),
        ("-1@%ah", Read(Input(InputKind.REGISTER, REGISTERS["rax"].offset + 1, 1, True))),
        ("2@%r9w", Read(register("r9", 2))),
        ("1@%sil", Read(register("rsi", 1))),
        ("8@-16(%rbp)", memory("rbp", -16, 8)),
        ("-4@(%rsp)", memory("rsp", 0, 4, True)),
        ("2@0x10(%rdi)", memory("rdi", 16, 2)),
        ("8@(%rdi,%rsi,8)", memory("rdi", 0, 8, index="rsi", scale=8)),
        ("-8@-8(%rdi,%rsi)", memory("rdi", -8, 8, True, index="rsi")),
        ("4@counter(%rip)", memory("rip", 0x3000, 4)),
        ("4@counter+4(%rip)", memory("rip", 0x3004, 4)),
        ("4@counter-0x8", memory("rip", 0x2FF8, 4)),
        ("4@table(,%rbx,4)", memory("rip", 0x4000, 4, index="rbx", scale=4)),
        ("4@table(%rbx)", memory("rip", 0x4000, 4, index="rbx")),
        ("-4@$5", constant(5)),
        ("-4@$-5", constant(-5)),
        ("4@$-5", constant(0xFFFFFFFB)),
        ("2@$0x12345", constant(0x2345)),
        ("8@$18446744073709551615", constant(U64)),
        ("8@$counter+1", Read(register("rip"), (0x3001,), in_place=True, memory=Memory.USER)),
    ],
)
def test_operand(text: str, expected: Read) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("%edi", "size in bytes"),
        ("4@", "size in bytes"),
        ("3@%edi", "1, 2, 4 or 8 bytes"),
        ("16@%xmm0", "floating point"),
        ("8f@%xmm0", "floating point"),
        ("4f@8(%rsp)", "floating point"),
        ("8@%edi", "wider than the register"),
        ("4@%cr0", "no register"),
        ("8@%fs:8", "thread-local"),
        ("8@%fs:(%rax)", "thread-local"),
        ("8@(%edi)", "no 64-bit register"),
        ("8@(%rdi,%esi,8)", "no 64-bit register"),
        ("8@(%rdi,%rsi,3)", "no operand"),
        ("8@16(%rip)", "fixed"),
        ("8@4210752", "fixed"),
        ("8@(,%rsi,8)", "fixed"),
        ("8@()", "fixed"),
        ("8@table(%rdi,%rsi,8)", "two registers"),
        ("8@$", "no constant"),
        ("8@$99999999999999999999", "64 bits"),
        ("8@[rdi]", "no operand"),
    ],
)
def test_refused_operand(text: str, reason: str) -> None:
    with pytest.raises(OperandError, match=reason):
        read(text)


def test_negative_constant_is_cut_where_a_narrower_type_reads_it() -> None:
    assert fold(Read(Input(InputKind.CONSTANT, -5 & U64, 4))) == constant(0xFFFFFFFB)
    assert fold(Read(Input(InputKind.CONSTANT, 0xFF, 1, True))) == constant(-1)


def test_number_of_operands() -> None:
    assert split_operands("") == ()
    assert split_operands("-4@%edi  8@%rsi ") == ("-4@%edi", "8@%rsi")
    assert len(split_operands(" ".join(["8@%rdi"] * MAX_OPERANDS))) == MAX_OPERANDS
    with pytest.raises(OperandError, match="13 arguments"):
        split_operands(" ".join(["8@%rdi"] * (MAX_OPERANDS + 1)))


def test_address_of_a_number() -> None:
    """What the action Set writes to."""
    place = read("-4@-16(%rbp)").address
    assert place == Read(register("rbp"), (-16,), in_place=True, memory=Memory.USER)
    for text in ("-4@%edi", "-4@$5", "8@$counter"):
        with pytest.raises(ValueError, match="no address"):
            _ = read(text).address


@given(st.text(alphabet="-0123456789@%$(),+:abcdefilnoprstx_ .", max_size=40) | st.text(max_size=40))
def test_junk_is_a_read_or_refused(text: str) -> None:
    for prefix in ("", "8@", "-4@", "8@$", "8@%", "4@-8("):
        try:
            found = parse_operand(prefix + text)
        except OperandError:
            continue
        value = read_operand(found, found.size, found.signed, lambda _: 0)
        assert value.input.kind in (InputKind.REGISTER, InputKind.CONSTANT)
