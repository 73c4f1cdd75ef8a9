# SPDX-License-Identifier: Apache-2.0
"""Parts of a policy in words: values, lists of them, numbers by the names that the kernel has for them."""

from __future__ import annotations

import errno
import ipaddress
import signal
from collections.abc import Iterable, Mapping, Sequence

from agent.policy.errors import quote
from agent.policy.kernel_names import CAPABILITIES, FAMILIES, FILE_TYPES, PROTOCOLS, STATES
from agent.policy.model import ArgType, Cel, FilterValue, Network, Operator, Range
from agent.policy.syscalls import NUMBERS

MAX_SHOWN = 8  # values of one condition; who wants all of them has the policy

_MILLISECONDS = (("h", 3_600_000), ("min", 60_000), ("s", 1000))
_OF_OPERATOR = {
    Operator.FILE_TYPE: FILE_TYPES,
    Operator.PROTOCOL: PROTOCOLS,
    Operator.FAMILY: FAMILIES,
    Operator.STATE: STATES,
}
_CALLED = frozenset({"and", "or", "xor", "not", "int32", "uint32"})


def either(texts: Iterable[str], conjunction: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`; of many the first few and how many more."""
    every = list(texts)
    shown = every[:MAX_SHOWN]
    if more := len(every) - len(shown):
        shown.append(f"{more} more" if conjunction == "and" else f"one of {more} more")
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} {conjunction} {shown[-1]}"


def count(number: int, noun: str) -> str:
    """`1 program`, `2 programs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(milliseconds: int) -> str:
    """In the greatest unit in which it is whole."""
    for unit, size in _MILLISECONDS:
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds} ms"


def text(value: bytes) -> str:
    """In double quotes, printable and short."""
    return quote(value.decode("utf-8", "backslashreplace"))


def signal_name(number: int) -> str:
    """`SIGTERM`; of a real-time signal its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def error_name(number: int) -> str:
    """`-EPERM`."""
    return f"-{errno.errorcode.get(number, number)}"


def capabilities(mask: int) -> tuple[str, ...]:
    """The names of those in a mask; bits without a name by their numbers."""
    names = {number: name for name, number in CAPABILITIES.items()}
    return tuple(names.get(bit, f"bit {bit}") for bit in range(mask.bit_length()) if mask >> bit & 1)


def value(operator: Operator, arg_type: ArgType | None, wanted: FilterValue) -> str:
    """One value of a condition; arg_type: what it is compared with, as far as that is known."""
    if isinstance(wanted, bytes):
        return text(wanted)
    if isinstance(wanted, Range):
        return str(wanted.first) if wanted.first == wanted.last else f"{wanted.first} to {wanted.last}"
    if isinstance(wanted, Network):
        return network(wanted)
    if isinstance(wanted, Cel):
        return expression(wanted)
    names = _OF_OPERATOR.get(operator.positive)
    if names is not None:
        return _named(names, wanted)
    return _number(operator, arg_type, wanted)


def _number(operator: Operator, arg_type: ArgType | None, wanted: int) -> str:
    if arg_type is not None and arg_type.is_capability_set:
        return either(capabilities(wanted), "and") or "none"
    if arg_type is ArgType.CAPABILITY:
        return _named(CAPABILITIES, wanted)
    if arg_type is ArgType.SYSCALL64:
        return _named(NUMBERS, wanted)
    return f"{wanted:#x}" if operator is Operator.MASK else str(wanted)


def _named(names: Mapping[str, int], wanted: int) -> str:
    """The first name of a number, or the number itself."""
    return next((name for name, number in names.items() if number == wanted), str(wanted))


def network(wanted: Network) -> str:
    """`10.0.0.0/8`; a single address without its length."""
    address = ipaddress.ip_address(wanted.address)
    return str(address) if wanted.bits == address.max_prefixlen else f"{address}/{wanted.bits}"


def expression(tree: Cel) -> str:
    """As a policy would write it; brackets where they say something."""
    operands = tree.operands
    if tree.op == "const":
        return str(tree.value)
    if tree.op == "arg":
        return f"arg{tree.value}"
    if tree.op in _CALLED:
        return f"{tree.op}({', '.join(map(expression, operands))})"
    if len(operands) == 1:
        return f"{tree.op}{_bracketed(operands[0])}"
    return f" {tree.op} ".join(map(_bracketed, operands))


def _bracketed(tree: Cel) -> str:
    shown = expression(tree)
    return shown if not tree.operands or tree.op in _CALLED else f"({shown})"


def joined(conditions: Sequence[str]) -> str:
    """Conditions that must all hold."""
    return ", and ".join(conditions)
