# SPDX-License-Identifier: Apache-2.0
"""Conditions on values, one function for each kind of value. What is not known meets no positive condition, and so
each negative one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.policy.evaluate_seen import Net, Seen, Text
from agent.policy.model import Arg, ArgFilter, ArgType, Cel, FilterValue, Network, Operator, Range

_WORD_BITS = 64
_ALL = (1 << _WORD_BITS) - 1
_FILE_TYPE = 0o170000  # S_IFMT
_FIRST_FREE_PORT = 1024
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, addresses of IPv4 among those of IPv6

Condition = Callable[[Seen, FilterValue], bool]


def wrap(value: int, bits: int, signed: bool) -> int:
    """The low bits of a number, extended."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def typed(value: Seen, arg_type: ArgType) -> Seen:
    """A number as its type has it; everything else as it is."""
    if isinstance(value, int) and arg_type.is_number:
        return wrap(value, arg_type.bits, arg_type.signed)
    return value


def meets(condition: ArgFilter, declared: tuple[Arg, ...], seen: tuple[Seen, ...]) -> bool:
    """declared, seen: the hook's entries, which the positions of the condition count in."""
    if any(declared[position].type is ArgType.NOP for position in condition.positions):
        return False
    values = {position: typed(seen[position], declared[position].type) for position in condition.positions}
    if condition.operator is Operator.CEL_EXPR:
        return meets_expression(condition, values)
    if condition.operator is Operator.CAPABILITIES_GAINED:
        return gains_capabilities(condition, *(values[position] for position in condition.positions))
    (value,) = values.values()
    return meets_value(condition, value)


def meets_value(condition: ArgFilter, value: Seen) -> bool:
    """A condition on one value."""
    operator = condition.operator
    holds = _CONDITIONS[operator.positive]
    wanted: tuple[FilterValue, ...] = condition.values
    if operator.positive in (Operator.SPORT_PRIV, Operator.DPORT_PRIV):
        wanted = (Range(0, _FIRST_FREE_PORT - 1),)
    found = value is not None and any(holds(value, each) for each in wanted)
    return not found if operator.negative else found


# Numbers.


def is_equal(value: Seen, wanted: FilterValue) -> bool:
    """A number or a whole text."""
    if isinstance(value, Text):
        return value.is_whole and value.data == wanted
    return value == wanted


def is_greater(value: Seen, wanted: FilterValue) -> bool:
    """Of two numbers."""
    return isinstance(value, int) and isinstance(wanted, int) and value > wanted


def is_less(value: Seen, wanted: FilterValue) -> bool:
    """Of two numbers."""
    return isinstance(value, int) and isinstance(wanted, int) and value < wanted


def has_bit(value: Seen, wanted: FilterValue) -> bool:
    """One in common."""
    return isinstance(value, int) and isinstance(wanted, int) and value & wanted != 0


def is_in_range(value: Seen, wanted: FilterValue) -> bool:
    """Both ends included."""
    return isinstance(value, int) and isinstance(wanted, Range) and wanted.first <= value <= wanted.last


def gains_capabilities(condition: ArgFilter, before: Seen, after: Seen) -> bool:
    """One of those that count, or any, is in the second set and not in the first."""
    if not isinstance(before, int) or not isinstance(after, int):
        return False
    counting = next((value for value in condition.values if isinstance(value, int)), _ALL)
    return after & ~before & counting != 0


# Texts.


def begins(value: Seen, wanted: FilterValue) -> bool:
    """A text whose beginning is known."""
    if not isinstance(value, Text) or not isinstance(wanted, bytes):
        return False
    return not value.cut_head and value.data.startswith(wanted)


def ends(value: Seen, wanted: FilterValue) -> bool:
    """A text whose end is known."""
    if not isinstance(value, Text) or not isinstance(wanted, bytes):
        return False
    return not value.cut_tail and value.data.endswith(wanted)


def contains(value: Seen, wanted: FilterValue) -> bool:
    """In what is known of the text."""
    return isinstance(value, Text) and isinstance(wanted, bytes) and wanted in value.data


def contains_any_case(value: Seen, wanted: FilterValue) -> bool:
    """The case of the letters of ASCII does not matter."""
    return isinstance(value, Text) and isinstance(wanted, bytes) and wanted.lower() in value.data.lower()


def is_of_file_type(value: Seen, wanted: FilterValue) -> bool:
    """A path that leads to a file of this type, S_IFMT bits."""
    return isinstance(value, Text) and value.mode & _FILE_TYPE == wanted


# Sockets and addresses.


def is_of_family(value: Seen, wanted: FilterValue) -> bool:
    """A socket, a packet or an address, local ones included."""
    return isinstance(value, Net | Text) and value.family == wanted


def is_of_protocol(value: Seen, wanted: FilterValue) -> bool:
    """A socket or a packet."""
    return isinstance(value, Net) and value.protocol == wanted


def is_in_state(value: Seen, wanted: FilterValue) -> bool:
    """A socket."""
    return isinstance(value, Net) and value.state == wanted


def comes_from_address(value: Seen, wanted: FilterValue) -> bool:
    """The source's address is in a network."""
    return isinstance(value, Net) and isinstance(wanted, Network) and is_in_network(value.saddr, wanted)


def goes_to_address(value: Seen, wanted: FilterValue) -> bool:
    """The destination's address is in a network."""
    return isinstance(value, Net) and isinstance(wanted, Network) and is_in_network(value.daddr, wanted)


def comes_from_port(value: Seen, wanted: FilterValue) -> bool:
    """The source's port is in a range."""
    return isinstance(value, Net) and is_in_range(value.sport, wanted)


def goes_to_port(value: Seen, wanted: FilterValue) -> bool:
    """The destination's port is in a range."""
    return isinstance(value, Net) and is_in_range(value.dport, wanted)


def is_in_network(address: bytes | None, network: Network) -> bool:
    """An address of IPv4 that is written as one of IPv6 is in networks of both kinds."""
    if address is None:
        return False
    if len(address) > len(network.address) and address.startswith(_MAPPED):
        address = address.removeprefix(_MAPPED)
    if len(address) != len(network.address):
        return False
    unused = 8 * len(address) - network.bits
    return int.from_bytes(address, "big") >> unused == int.from_bytes(network.address, "big") >> unused


_CONDITIONS: Mapping[Operator, Condition] = {
    Operator.EQUAL: is_equal,
    Operator.IN: is_equal,
    Operator.IN_MAP: is_equal,
    Operator.GT: is_greater,
    Operator.LT: is_less,
    Operator.MASK: has_bit,
    Operator.IN_RANGE: is_in_range,
    Operator.PREFIX: begins,
    Operator.POSTFIX: ends,
    Operator.SUBSTRING: contains,
    Operator.SUBSTRING_IGNORE_CASE: contains_any_case,
    Operator.FILE_TYPE: is_of_file_type,
    Operator.SADDR: comes_from_address,
    Operator.DADDR: goes_to_address,
    Operator.SPORT: comes_from_port,
    Operator.SPORT_PRIV: comes_from_port,
    Operator.DPORT: goes_to_port,
    Operator.DPORT_PRIV: goes_to_port,
    Operator.PROTOCOL: is_of_protocol,
    Operator.FAMILY: is_of_family,
    Operator.STATE: is_in_state,
}


# Expressions.


def meets_expression(condition: ArgFilter, values: Mapping[int, Seen]) -> bool:
    """CelExpr. values: by position; all that it names have to be known."""
    numbers = {position: value for position, value in values.items() if isinstance(value, int)}
    if len(numbers) < len(values):
        return False
    return all(calculate(tree, numbers) != 0 for tree in condition.values if isinstance(tree, Cel))


def calculate(tree: Cel, values: Mapping[int, int]) -> int:
    """In signed numbers of 64 bits, whose sums wrap; conditions are 0 or 1."""
    if tree.op == "const":
        return tree.value
    if tree.op == "arg":
        return wrap(values[tree.value], _WORD_BITS, signed=True)
    operands = [calculate(operand, values) for operand in tree.operands]
    if len(operands) == 1:
        return wrap(_UNARY[tree.op](*operands), _WORD_BITS, signed=True)
    return wrap(_BINARY[tree.op](*operands), _WORD_BITS, signed=True)


_UNARY: Mapping[str, Callable[[int], int]] = {
    "int32": lambda a: wrap(a, 32, signed=True),
    "uint32": lambda a: wrap(a, 32, signed=False),
    "not": lambda a: ~a,
    "-": lambda a: -a,
    "!": lambda a: int(not a),
}
_BINARY: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "&&": lambda a, b: int(a != 0 and b != 0),
    "||": lambda a, b: int(a != 0 or b != 0),
}
