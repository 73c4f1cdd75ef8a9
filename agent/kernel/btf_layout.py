# SPDX-License-Identifier: Apache-2.0
"""The members of a struct or union with the padding that makes a C compiler put them where BTF says they are.

BTF records offsets and sizes but neither alignment attributes nor unnamed bit-fields; the padding stands for both. Bits
are counted as on a little-endian machine. Where a compiler puts a member by itself is the rule of the System V ABI,
which AArch64 shares for named members: at the next multiple of its alignment, a bit-field at the next bit if its
storage unit holds it from there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.kernel.btf import Btf, BtfError, Kind, Member


@dataclass(frozen=True, slots=True)
class Padding:
    """Bytes, or fewer than eight bits inside one byte: one of the two is 0."""

    bytes: int
    bits: int = 0


Field = Member | Padding


def plan_layout(btf: Btf, type_id: int) -> tuple[Field, ...]:
    """What to write between the braces. Raises BtfError for members that overlap or exceed the type."""
    if btf.kind(type_id) is Kind.UNION:
        return tuple(_union_fields(btf, type_id))
    return tuple(_struct_fields(btf, type_id))


def _struct_fields(btf: Btf, type_id: int) -> Iterator[Field]:
    packed = btf.is_packed(type_id)
    end = 0
    for member in btf.members(type_id):
        if member.bits:
            yield from _bit_padding(end, member.bit_offset, type_id)
            end = member.bit_offset + member.bits
        else:
            align = 1 if packed else btf.align(member.type_id)
            yield from _byte_padding(end, member.bit_offset, align, type_id)
            end = member.bit_offset + 8 * btf.size(member.type_id)
        yield member
    yield from _byte_padding(end, 8 * btf.size(type_id), btf.align(type_id), type_id)


def _union_fields(btf: Btf, type_id: int) -> Iterator[Field]:
    largest = 0
    for member in btf.members(type_id):
        if member.bit_offset:
            raise BtfError("a member of a union has an offset", type_id)
        largest = max(largest, member.bits or 8 * btf.size(member.type_id))
        yield member
    size = btf.size(type_id)
    if any(_byte_padding(largest, 8 * size, btf.align(type_id), type_id)):
        yield Padding(size)


def _byte_padding(end: int, offset: int, align: int, type_id: int) -> Iterator[Padding]:
    """Padding from bit `end` to bit `offset` where the compiler would leave less by itself."""
    natural = _round_up(end, 8 * align)
    if natural > offset or offset % 8:
        raise BtfError("members overlap or exceed the type", type_id)
    if natural < offset:
        yield Padding(offset // 8 - _round_up(end, 8) // 8)


def _bit_padding(end: int, offset: int, type_id: int) -> Iterator[Padding]:
    """Padding from bit `end` to bit `offset`: to the byte's end, whole bytes, the beginning of another byte."""
    gap = offset - end
    if gap < 0:
        raise BtfError("bit-fields overlap", type_id)
    head = min(gap, -end % 8)
    whole, tail = divmod(gap - head, 8)
    yield from (p for p in (Padding(0, head), Padding(whole), Padding(0, tail)) if p.bytes or p.bits)


def _round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step
