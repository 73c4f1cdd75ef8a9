# SPDX-License-Identifier: Apache-2.0
"""Conditions on values, by the plain evaluator."""

from __future__ import annotations

import pytest

from agent.policy.cel import arguments, parse_cel
from agent.policy.evaluate_seen import MAX_KEPT, Net, Seen, Text, buffer_seen, string_seen
from agent.policy.evaluate_values import meets, meets_value, typed, wrap
from agent.policy.model import Arg, ArgFilter, ArgType, FilterValue, Network, Operator, Range
from agent.policy.networks import parse_network
from agent.policy.operators import fitting

REGULAR, DIRECTORY = 0o100000, 0o040000
HEAD_GONE, TAIL_GONE = Text(b"c/shadow", cut_head=True), Text(b"/etc/shad", cut_tail=True)
WHOLE = Text(b"/etc/shadow", mode=REGULAR | 0o640)
MAPPED = Net(10, bytes(10) + b"\xff\xff\x7f\0\0\2")
UDP = Net(2, bytes([127, 0, 0, 1]), bytes([10, 0, 0, 9]), 53, 1024, 17, 7)
INT_MIN, LONG_MIN = -(1 << 31), -(1 << 63)

E, NE = Operator.EQUAL, Operator.NOT_EQUAL


def holds(operator: Operator, value: Seen, *wanted: FilterValue) -> bool:
    return meets_value(ArgFilter((0,), operator, wanted), value)


def holds_as(arg_type: ArgType, operator: Operator, value: Seen, *wanted: FilterValue) -> bool:
    return meets(ArgFilter((0,), operator, wanted), (Arg(0, arg_type),), (value,))


@pytest.mark.parametrize(
    ("arg_type", "register", "number"),
    [
        (ArgType.INT, 0xFFFFFFFF, -1),
        (ArgType.INT, 1 << 32, 0),
        (ArgType.INT, -1, -1),
        (ArgType.UINT, -1, 0xFFFFFFFF),
        (ArgType.SINT8, 0x1FF, -1),
        (ArgType.UINT8, 0x1FF, 255),
        (ArgType.INT16, 0x8000, -32768),
        (ArgType.LONG, 1 << 63, LONG_MIN),
        (ArgType.ULONG, -1, (1 << 64) - 1),
        (ArgType.KERNEL_CAP_T, -1, (1 << 64) - 1),
    ],
)
def test_registers_count_as_far_as_their_type_goes(arg_type: ArgType, register: int, number: int) -> None:
    assert typed(register, arg_type) == number


def test_only_numbers_have_a_width() -> None:
    assert typed(WHOLE, ArgType.STRING) is WHOLE
    assert typed(None, ArgType.INT) is None
    assert wrap(-1, 3, signed=False) == 7


@pytest.mark.parametrize(
    ("operator", "wanted", "met", "missed"),
    [
        (E, (1, 5), (1, 5), (0, 4)),
        (NE, (1, 5), (0, 4), (1, 5)),
        (Operator.IN_MAP, (1, 5), (5,), (4,)),
        (Operator.NOT_IN_MAP, (1, 5), (4,), (5,)),
        (Operator.GT, (5, -2), (-1, 6), (-2, -3)),
        (Operator.LT, (5, -2), (4, -3), (5, 6)),
        (Operator.MASK, (6, 8), (2, 14, -1), (1, 0, 16)),
        (Operator.IN_RANGE, (Range(-1, 1), Range(5, 5)), (-1, 0, 1, 5), (-2, 2, 4, 6)),
        (Operator.NOT_IN_RANGE, (Range(-1, 1), Range(5, 5)), (-2, 2, 4), (-1, 1, 5)),
    ],
)
def test_numbers(
    operator: Operator, wanted: tuple[FilterValue, ...], met: tuple[int, ...], missed: tuple[int, ...]
) -> None:
    assert [value for value in met if not holds(operator, value, *wanted)] == []
    assert [value for value in missed if holds(operator, value, *wanted)] == []


def test_number_is_compared_as_its_type_has_it() -> None:
    assert holds_as(ArgType.INT, Operator.LT, 0xFFFFFFFF, 0)
    assert not holds_as(ArgType.UINT, Operator.LT, 0xFFFFFFFF, 0)
    assert holds_as(ArgType.UINT8, E, 0x107, 7)


@pytest.mark.parametrize(
    ("operator", "wanted", "met", "missed"),
    [
        (E, b"/etc/shadow", (WHOLE,), (TAIL_GONE, HEAD_GONE, Text(b"/etc/shadow", cut_tail=True), Text(b"/etc/"))),
        (NE, b"/etc/shadow", (TAIL_GONE, HEAD_GONE, None), (WHOLE,)),
        (Operator.PREFIX, b"/etc/", (WHOLE, TAIL_GONE), (HEAD_GONE, Text(b"/etc/x", cut_head=True), None)),
        (Operator.NOT_PREFIX, b"/etc/", (HEAD_GONE, None), (WHOLE, TAIL_GONE)),
        (Operator.POSTFIX, b"/shadow", (WHOLE, HEAD_GONE), (TAIL_GONE, Text(b"/shadow", cut_tail=True), None)),
        (Operator.NOT_POSTFIX, b"/shadow", (TAIL_GONE, None), (WHOLE, HEAD_GONE)),
        (Operator.SUBSTRING, b"/shad", (WHOLE, HEAD_GONE, TAIL_GONE), (Text(b"/SHADOW"), None)),
        (Operator.SUBSTRING_IGNORE_CASE, b"/ShAd", (WHOLE, Text(b"/SHADOW")), (Text(b"/shed"), None)),
        (Operator.FILE_TYPE, REGULAR, (WHOLE,), (Text(b"x"), Text(b"x", mode=DIRECTORY), None)),
        (Operator.NOT_FILE_TYPE, REGULAR, (Text(b"x"), Text(b"x", mode=DIRECTORY), None), (WHOLE,)),
    ],
)  # fmt: skip
def test_texts(operator: Operator, wanted: FilterValue, met: tuple[Seen, ...], missed: tuple[Seen, ...]) -> None:
    assert [value for value in met if not holds(operator, value, wanted)] == []
    assert [value for value in missed if holds(operator, value, wanted)] == []


def test_case_of_other_letters_than_those_of_ascii_matters() -> None:
    assert holds(Operator.SUBSTRING_IGNORE_CASE, Text("aÀb".encode()), "AÀB".encode())
    assert not holds(Operator.SUBSTRING_IGNORE_CASE, Text("aàb".encode()), "AÀB".encode())


def test_texts_are_kept_as_far_as_there_is_room() -> None:
    assert buffer_seen(bytes(MAX_KEPT)) == Text(bytes(MAX_KEPT))
    assert buffer_seen(bytes(MAX_KEPT + 1)) == Text(bytes(MAX_KEPT), cut_tail=True)
    assert string_seen(b"a\0b") == Text(b"a")
    assert string_seen(b"a" * (MAX_KEPT - 1)).is_whole
    assert not string_seen(b"a" * MAX_KEPT).is_whole


@pytest.mark.parametrize(
    ("operator", "wanted", "met", "missed"),
    [
        (Operator.SADDR, parse_network("127.0.0.0/8"), (UDP, MAPPED), (Net(), None)),
        (Operator.SADDR, parse_network("::/0"), (Net(10, bytes(16)),), (UDP,)),
        (Operator.SADDR, parse_network("::ffff:127.0.0.0/104"), (MAPPED,), (UDP,)),
        (Operator.NOT_SADDR, parse_network("127.0.0.0/8"), (Net(), None, Net(2, bytes(4))), (UDP,)),
        (Operator.DADDR, parse_network("10.0.0.9"), (UDP,), (Net(2, bytes([10, 0, 0, 9])),)),
        (Operator.SPORT, Range(53, 60), (UDP, Net(sport=60)), (Net(sport=61), Net())),
        (Operator.NOT_SPORT, Range(53, 60), (Net(sport=61), Net(), None), (UDP,)),
        (Operator.DPORT, Range(1024, 1024), (UDP,), (Net(dport=1023),)),
        (Operator.PROTOCOL, 17, (UDP,), (Net(), None)),
        (Operator.FAMILY, 2, (UDP,), (Net(10), Net(), None)),
        (Operator.FAMILY, 1, (Text(b"@x", family=1),), (Text(b"@x"), UDP)),
        (Operator.STATE, 7, (UDP,), (Net(state=1), Net())),
    ],
)  # fmt: skip
def test_sockets_and_addresses(
    operator: Operator, wanted: FilterValue, met: tuple[Seen, ...], missed: tuple[Seen, ...]
) -> None:
    assert [value for value in met if not holds(operator, value, wanted)] == []
    assert [value for value in missed if holds(operator, value, wanted)] == []


def test_privileged_ports_need_no_values() -> None:
    assert holds(Operator.SPORT_PRIV, UDP)
    assert not holds(Operator.DPORT_PRIV, UDP)
    assert holds(Operator.NOT_DPORT_PRIV, UDP)
    assert holds(Operator.NOT_SPORT_PRIV, None)


def test_network_of_no_bits_has_every_address_of_its_kind() -> None:
    assert holds(Operator.SADDR, UDP, Network(bytes(4), 0))


def expression(text: str, *numbers: Seen, arg_type: ArgType = ArgType.LONG) -> bool:
    tree = parse_cel(text, lambda place: True if place < len(numbers) else None)
    declared = tuple(Arg(n, arg_type) for n in range(len(numbers)))
    return meets(ArgFilter(arguments(tree), Operator.CEL_EXPR, (tree,)), declared, numbers)


@pytest.mark.parametrize(
    ("text", "number", "answer"),
    [
        ("arg0 + 1 > arg0", 5, True),
        ("arg0 + 1 > arg0", (1 << 63) - 1, False),
        ("arg0 - 1 < 0", LONG_MIN, False),
        ("-arg0 == arg0", LONG_MIN, True),
        ("int32(arg0) == -1", 0xFFFFFFFF, True),
        ("uint32(arg0) == 4294967295", -1, True),
        ("and(arg0, 6) == 4 && !(or(arg0, 1) == arg0)", 12, True),
        ("xor(arg0, not(0)) == not(arg0)", 99, True),
        ("arg0 <= 3 || arg0 >= 7", 5, False),
        ("arg0 != 5", 5, False),
    ],
)
def test_expressions_are_of_64_bits_and_wrap(text: str, number: int, answer: bool) -> None:
    assert expression(text, number) is answer


def test_expression_sees_an_unsigned_number_of_64_bits_as_a_signed_one() -> None:
    assert expression("arg0 < 0", (1 << 64) - 1, arg_type=ArgType.ULONG)


def test_expression_of_what_is_not_known_never_holds() -> None:
    assert not expression("arg0 == 1 || arg1 == 1", 1, None)
    assert expression("arg0 == 1 || arg1 == 1", 1, 2)


def test_gained_capabilities_are_new_and_among_those_that_count() -> None:
    sets = (Arg(0, ArgType.CAP_EFFECTIVE), Arg(1, ArgType.CAP_PERMITTED))

    def gained(before: Seen, after: Seen, *counting: int) -> bool:
        return meets(ArgFilter((0, 1), Operator.CAPABILITIES_GAINED, counting), sets, (before, after))

    assert gained(0b01, 0b11)
    assert not gained(0b11, 0b01)
    assert gained(0, 1 << 63, 1 << 63)
    assert not gained(0b01, 0b11, 0b01)
    assert not gained(None, 0b11)


def test_nop_has_no_value_that_any_condition_is_about() -> None:
    assert not holds_as(ArgType.NOP, E, None, 1)
    assert not holds_as(ArgType.NOP, NE, None, 1)


@pytest.mark.parametrize("arg_type", [each for each in ArgType if fitting(each) and each is not ArgType.AUTO])
def test_every_operator_of_every_type_says_no_of_what_is_not_known(arg_type: ArgType) -> None:
    """But for the negative ones, which then hold."""
    declared = (Arg(0, arg_type), Arg(1, arg_type))
    for operator in fitting(arg_type):
        values: tuple[FilterValue, ...] = (1,)
        positions: tuple[int, ...] = (0,)
        if operator is Operator.CEL_EXPR:
            values = (parse_cel("arg0 == arg0", lambda _: True),)
        if operator is Operator.CAPABILITIES_GAINED:
            positions = (0, 1)
        condition = ArgFilter(positions, operator, values)
        assert meets(condition, declared, (None, None)) is operator.negative, operator
