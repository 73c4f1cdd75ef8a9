# SPDX-License-Identifier: Apache-2.0
"""The arguments of a USDT probe: text that the compiler wrote, to reads.

A note lists operands of x86-64 assembly in AT&T syntax, each after its size in bytes, negative for signed integers:

    -4@%edi            a register
    8@-16(%rbp)        memory at a displacement from a register
    8@(%rdi,%rsi,8)    memory at a base, and an index times a scale
    -4@$5              a constant
    4@counter+4(%rip)  memory at a symbol of the file

Source: the "UserSpaceProbeImplementation" page of the SystemTap project, version 3 of the notes. A symbol's address
moves with the file in memory as the probe's own does, so it is written as a distance from the instruction pointer,
which at a probe is the probe's address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique

from agent.policy.access import Input, InputKind, Memory, Read
from agent.policy.errors import PolicyBaseError, quote
from agent.policy.registers import REGISTERS

MAX_OPERANDS = 12  # of one probe: the macros of <sys/sdt.h> go to STAP_PROBE12

_HEAD = re.compile(r"(?P<sign>-?)(?P<size>\d{1,2})(?P<float>f?)@(?P<rest>.+)", re.ASCII | re.DOTALL)
_NUMBER = r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|\d{1,20})"
_SYMBOL = r"(?P<symbol>[A-Za-z_.$][\w.$@]*)(?P<plus>[+-](?:0[xX][0-9a-fA-F]{1,16}|\d{1,20}))?"
_PLACE = rf"(?:(?P<number>{_NUMBER})|{_SYMBOL})"
_REGISTER = re.compile(r"%(\w+)", re.ASCII)
_IMMEDIATE = re.compile(rf"\${_PLACE}", re.ASCII)
_MEMORY = re.compile(rf"{_PLACE}?(?:\((?:%(?P<base>\w+))?(?:,%(?P<index>\w+)(?:,(?P<scale>[1248]))?)?\))?", re.ASCII)
_U64 = (1 << 64) - 1


class OperandError(PolicyBaseError):
    """An operand cannot be read by a probe: why."""


@unique
class OperandKind(Enum):
    """What an operand says."""

    REGISTER = "a register"
    CONSTANT = "a constant"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Operand:
    """One argument of a probe. size: bytes, 1, 2, 4 or 8.

    register: of a REGISTER, the base of MEMORY. index: of MEMORY, "" for none. symbol: that `displacement` is added to,
    of CONSTANT (its address) and of MEMORY, where it stands for the base.
    """

    kind: OperandKind
    size: int
    signed: bool
    register: str = ""
    index: str = ""
    scale: int = 1
    symbol: str = ""
    displacement: int = 0


def split_operands(text: str) -> tuple[str, ...]:
    """The operands of a note, one for each argument. Raises OperandError when there are more than any probe has."""
    operands = tuple(text.split())
    if len(operands) > MAX_OPERANDS:
        raise OperandError(f"it has {len(operands)} arguments and no probe has more than {MAX_OPERANDS}")
    return operands


def parse_operand(text: str) -> Operand:
    """Raises OperandError, saying why a probe cannot read it."""
    head = _HEAD.fullmatch(text)
    if head is None:
        raise OperandError("it does not say its size in bytes")
    if head["float"] or head["rest"].startswith(("%xmm", "%ymm", "%zmm", "%st")):
        raise OperandError("it is a floating point number, and a probe does not see those registers")
    size, signed = int(head["size"]), bool(head["sign"])
    if size not in (1, 2, 4, 8):
        raise OperandError(f"a probe reads 1, 2, 4 or 8 bytes and it has {size}")
    rest = head["rest"]
    if rest.startswith("%") and ":" not in rest:
        return _parse_register(rest, size, signed)
    return _parse_immediate(rest, size, signed) if rest.startswith("$") else _parse_memory(rest, size, signed)


def _parse_register(text: str, size: int, signed: bool) -> Operand:
    match = _REGISTER.fullmatch(text)
    if match is None or match[1] not in REGISTERS:
        raise OperandError(f"{quote(text)} is no register that a probe sees")
    # Compilers name a wider register than the size, never a narrower one.
    if REGISTERS[match[1]].size < size:
        raise OperandError(f"{size} bytes are wider than the register {text}")
    return Operand(OperandKind.REGISTER, size, signed, match[1])


def _parse_immediate(text: str, size: int, signed: bool) -> Operand:
    match = _IMMEDIATE.fullmatch(text)
    if match is None:
        raise OperandError(f"{quote(text)} is no constant")
    return Operand(OperandKind.CONSTANT, size, signed, symbol=match["symbol"] or "", displacement=_displacement(match))


def _parse_memory(text: str, size: int, signed: bool) -> Operand:
    if ":" in text:
        raise OperandError("it is relative to a segment register (thread-local memory), which a probe cannot follow")
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise OperandError("it is no operand of x86-64 assembly")
    base, index, symbol = match["base"] or "", match["index"] or "", match["symbol"] or ""
    for name in filter(None, (base, index)):
        if name not in REGISTERS or REGISTERS[name].size != 8:
            raise OperandError(f"%{name} is no 64-bit register")
    scale = int(match["scale"] or 1)
    if symbol:
        base, index, scale = _beside_symbol(base, index, scale)
    elif base in ("", "rip"):
        raise OperandError("its address is fixed or relative to an unknown instruction, and programs are loaded at any")
    return Operand(OperandKind.MEMORY, size, signed, base, index, scale, symbol, _displacement(match))


def _beside_symbol(base: str, index: str, scale: int) -> tuple[str, str, int]:
    """Base, index and scale next to a symbol, which stands for the base: a register there is an index."""
    if base in ("", "rip"):
        return "", index, scale
    if index:
        raise OperandError("its address is the sum of a symbol and two registers")
    return "", base, 1


def _displacement(match: re.Match[str]) -> int:
    text = match["number"] or match["plus"]
    if not text:
        return 0
    digits = text.lstrip("+-")
    value = int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
    if value > _U64:
        raise OperandError(f"{text} has more than 64 bits")
    return -value if text.startswith("-") else value


def read_operand(operand: Operand, size: int, signed: bool, locate: Callable[[str], int]) -> Read:
    """How a program gets at the low `size` bytes of an operand, extended as `signed` says.

    locate: the distance of a symbol from the probe in bytes; may raise OperandError.
    """
    if operand.kind is OperandKind.REGISTER:
        return Read(REGISTERS[operand.register].input(size, signed))
    distance = operand.displacement + (locate(operand.symbol) if operand.symbol else 0)
    if operand.kind is OperandKind.MEMORY:
        return _read_memory(operand, distance, size, signed)
    if operand.symbol:
        return Read(_pointer("rip"), (distance,), in_place=True, memory=Memory.USER)
    return fold(Read(Input(InputKind.CONSTANT, distance, size, signed)))


def _read_memory(operand: Operand, distance: int, size: int, signed: bool) -> Read:
    index = _pointer(operand.index) if operand.index else None
    base = _pointer("rip" if operand.symbol else operand.register)
    return Read(base, (distance,), False, Memory.USER, size, signed, index=index, scale=operand.scale)


def _pointer(register: str) -> Input:
    return REGISTERS[register].input(8, False)


def fold(read: Read) -> Read:
    """The same read, of a constant with its 64 bits as they come out."""
    given = read.input
    if given.kind is not InputKind.CONSTANT or read.offsets:
        return read
    return Read(Input(InputKind.CONSTANT, _extend(given.number, given.size, given.signed)))


def _extend(value: int, size: int, signed: bool) -> int:
    """The low `size` bytes of a number as 64 bits."""
    bits = 8 * size
    value &= (1 << bits) - 1
    if signed and value >> (bits - 1):
        value -= 1 << bits
    return value & _U64
