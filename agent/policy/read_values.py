# SPDX-License-Identifier: Apache-2.0
"""The values of a condition on an argument, by its operator and the argument's type."""

from collections.abc import Callable, Mapping

from agent.policy.automaton import SUBSTRING_OPERATORS, SubstringTooLongError, split
from agent.policy.context import Context
from agent.policy.document import Scalar
from agent.policy.errors import quote
from agent.policy.fields import one_of, suggest
from agent.policy.kernel_names import CAPABILITIES, FAMILIES, FILE_TYPES, PROTOCOLS, STATES
from agent.policy.model import ArgType, FilterValue, Operator
from agent.policy.networks import MAX_PORT, parse_network, parse_ports, parse_range
from agent.policy.operators import ADDRESSES, PORTS
from agent.policy.read_calls import CallReader
from agent.policy.values import MAX_VALUE_BYTES, number_range, parse_number

_NUMBER_ADVICE = "write it in decimal or with 0x, 0o or 0b"
# What an `auto` may turn out to be.
_AUTO_RANGE = (-(1 << 63), (1 << 64) - 1)
_NUMBER_OPERATORS = frozenset({Operator.GT, Operator.LT, Operator.MASK, Operator.IN_MAP, Operator.NOT_IN_MAP})
# An empty text is at the begin, the end and everywhere of each.
_NEEDS_TEXT = frozenset(
    {
        Operator.PREFIX,
        Operator.NOT_PREFIX,
        Operator.POSTFIX,
        Operator.NOT_POSTFIX,
        Operator.SUBSTRING,
        Operator.SUBSTRING_IGNORE_CASE,
    }
)
# sk_protocol, sk_family and sk_state: u16, u16 and u8.
_NAMED: Mapping[Operator, tuple[str, str, Mapping[str, int], int]] = {
    Operator.PROTOCOL: ("protocol", "IPPROTO_", PROTOCOLS, 0xFFFF),
    Operator.FAMILY: ("address family", "AF_", FAMILIES, 0xFFFF),
    Operator.STATE: ("state of a TCP socket", "TCP_", STATES, 0xFF),
}

_Reader = Callable[[Scalar], FilterValue | None]


def _value_range(arg_type: ArgType) -> tuple[int, int]:
    """The least and the greatest number of a number type, and of `auto`."""
    return _AUTO_RANGE if arg_type is ArgType.AUTO else number_range(arg_type.bits, arg_type.signed)


class ValueReader:
    """Reads values; each that cannot be read is reported and left out."""

    def __init__(self, context: Context) -> None:
        self._problems = context.problems
        self._calls = CallReader(context)

    def read(self, operator: Operator, arg_type: ArgType, scalars: list[Scalar]) -> tuple[FilterValue, ...]:
        """The values of an operator that fits the type, but for CelExpr and CapabilitiesGained."""
        if _takes_calls(operator, arg_type):
            return tuple(number for scalar in scalars for number in self._call_numbers(scalar, arg_type))
        reader = self._reader(operator, arg_type)
        values = [reader(scalar) for scalar in scalars]
        return tuple(value for value in values if value is not None)

    def capabilities(self, scalars: list[Scalar]) -> int:
        """The mask of named capabilities."""
        mask = 0
        for scalar in scalars:
            number = self._capability(scalar)
            mask |= 0 if number is None else 1 << number
        return mask

    def _reader(self, operator: Operator, arg_type: ArgType) -> _Reader:
        if operator in ADDRESSES:
            return self._network
        if operator in PORTS:
            return self._ports
        if operator in _NAMED:
            return lambda scalar: self._named(scalar, operator)
        if operator.positive is Operator.FILE_TYPE:
            return self._file_type
        if operator.positive is Operator.IN_RANGE:
            return lambda scalar: self._range(scalar, arg_type)
        if arg_type.is_number or operator in _NUMBER_OPERATORS:
            return lambda scalar: self._number(scalar, arg_type)
        return lambda scalar: self._text(scalar, operator)

    def _call_numbers(self, scalar: Scalar, arg_type: ArgType) -> list[int]:
        """Numbers, or the names of system calls, or a list of them."""
        if scalar.text[:1] in "+-0123456789":
            number = self._number(scalar, arg_type)
            return [] if number is None else [number]
        return self._calls.numbers(scalar)

    def _number(self, scalar: Scalar, arg_type: ArgType) -> int | None:
        least, greatest = _value_range(arg_type)
        if scalar.text.startswith("CAP_") and (arg_type is ArgType.CAPABILITY or arg_type.is_capability_set):
            number = self._capability(scalar)
            return None if number is None else 1 << number if arg_type.is_capability_set else number
        try:
            number = parse_number(scalar.text)
        except ValueError:
            what = f"{quote(scalar.text)} is not a number, and the argument has type {arg_type.value}"
            self._problems.report(scalar.source, what, _NUMBER_ADVICE)
            return None
        if least <= number <= greatest:
            return number
        what = f"{quote(scalar.text)} does not fit type {arg_type.value}"
        self._problems.report(scalar.source, what, f"write a number from {least} to {greatest}")
        return None

    def _range(self, scalar: Scalar, arg_type: ArgType) -> FilterValue | None:
        least, greatest = _value_range(arg_type)
        try:
            found = parse_range(scalar.text)
        except ValueError:
            what = f"{quote(scalar.text)} is not a range"
            self._problems.report(scalar.source, what, "write the least and the greatest number as min:max")
            return None
        if least <= found.first and found.last <= greatest:
            return found
        what = f"{quote(scalar.text)} does not fit type {arg_type.value}"
        self._problems.report(scalar.source, what, f"write numbers from {least} to {greatest}")
        return None

    def _text(self, scalar: Scalar, operator: Operator) -> bytes | None:
        value = scalar.text.encode("utf-8")
        if len(value) > MAX_VALUE_BYTES:
            what = f"a value has {len(value)} bytes and the limit is {MAX_VALUE_BYTES}"
            self._problems.report(scalar.source, what, "shorten it")
        elif b"\0" in value:
            what = "a value has a NUL byte, which ends the argument's text"
            self._problems.report(scalar.source, what, "leave it out")
        elif not value and operator in _NEEDS_TEXT:
            verb = "matches nothing" if operator.negative else "matches everything"
            what = f"an empty value for {operator.value} {verb}"
            self._problems.report(scalar.source, what, "leave the match out or write a value")
        elif self._has_table(value, operator, scalar):
            return value
        return None

    def _has_table(self, value: bytes, operator: Operator, scalar: Scalar) -> bool:
        """Whether what looks for it in the middle of a text has room; with a report when not."""
        if operator not in SUBSTRING_OPERATORS:
            return True
        try:
            split((value,), ignore_case=operator is Operator.SUBSTRING_IGNORE_CASE)
        except SubstringTooLongError as error:
            self._problems.report(scalar.source, str(error), "shorten it, or use Prefix or Postfix")
            return False
        return True

    def _network(self, scalar: Scalar) -> FilterValue | None:
        try:
            return parse_network(scalar.text)
        except ValueError:
            what = f"{quote(scalar.text)} is not an address"
            self._problems.report(scalar.source, what, "write one as 10.1.2.3, 10.0.0.0/8, fe80::1 or fe80::/10")
            return None

    def _ports(self, scalar: Scalar) -> FilterValue | None:
        try:
            return parse_ports(scalar.text)
        except ValueError:
            what = f"{quote(scalar.text)} is not a port"
            self._problems.report(scalar.source, what, f"write a number from 0 to {MAX_PORT}, or two as min:max")
            return None

    def _named(self, scalar: Scalar, operator: Operator) -> FilterValue | None:
        what, prefix, names, greatest = _NAMED[operator]
        name = scalar.text.upper()
        for spelled in (name, prefix + name):
            if spelled in names:
                return names[spelled]
        try:
            number = parse_number(scalar.text)
        except ValueError:
            advice = suggest(scalar.text, names, f"write a name as {next(iter(names))}, or a number")
            self._problems.report(scalar.source, f"unknown {what} {quote(scalar.text)}", advice)
            return None
        if 0 <= number <= greatest:
            return number
        what = f"{quote(scalar.text)} is not the number of a {what}"
        self._problems.report(scalar.source, what, f"write a number from 0 to {greatest}")
        return None

    def _file_type(self, scalar: Scalar) -> FilterValue | None:
        if scalar.text not in FILE_TYPES:
            # Each once, in its short spelling.
            advice = f"use {one_of(list(FILE_TYPES)[: len(set(FILE_TYPES.values()))])}"
            advice = suggest(scalar.text, FILE_TYPES, advice)
            self._problems.report(scalar.source, f"unknown file type {quote(scalar.text)}", advice)
        return FILE_TYPES.get(scalar.text)

    def _capability(self, scalar: Scalar) -> int | None:
        if scalar.text not in CAPABILITIES:
            advice = suggest(scalar.text, CAPABILITIES, "write one as CAP_SYS_ADMIN")
            self._problems.report(scalar.source, f"unknown capability {quote(scalar.text)}", advice)
        return CAPABILITIES.get(scalar.text)


def _takes_calls(operator: Operator, arg_type: ArgType) -> bool:
    """Whether a value may name system calls; of `auto` only where text cannot be meant."""
    if arg_type is ArgType.AUTO:
        return operator.positive is Operator.IN_MAP
    return arg_type is ArgType.SYSCALL64 and operator.positive is not Operator.IN_RANGE
