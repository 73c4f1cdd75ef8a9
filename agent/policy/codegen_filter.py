# SPDX-License-Identifier: Apache-2.0
"""The filters of a selector as C conditions, each with its stage: what it needs to have been read.

A condition of stage 0 asks registers, bits and the task; of stage 1 what is in memory; of stage 2 the paths of
binaries, which cost a walk up the file tree. Values of a stage are only read when a selector's conditions of the
stages before hold, so that a call which no rule is about costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from agent.policy.access import Value
from agent.policy.automaton import SUBSTRING_OPERATORS, substrings
from agent.policy.codegen_process import (
    capability_change_condition,
    capability_condition,
    lineage_condition,
    namespace_change_condition,
    namespace_condition,
    pid_condition,
)
from agent.policy.codegen_sets import network_condition, number_condition, port_condition, set_condition
from agent.policy.codegen_text import text_condition
from agent.policy.codegen_value import constant, number
from agent.policy.model import (
    ArgFilter,
    BinaryFilter,
    Cel,
    Network,
    Operator,
    Range,
    Selector,
)
from agent.policy.placed import Rule, filtered
from agent.policy.plan import Chunk, is_stored_number
from agent.policy.sets import network_sets, number_set, text_set, texts_of

STAGES = (0, 1, 2)
BINARY = "sb"
PARENT = "sp"
_MAX_TERMS = 4  # more equal numbers than that become a switch, of which the compiler makes a tree
_COMPARISONS = {Operator.EQUAL: "==", Operator.IN: "==", Operator.IN_MAP: "==", Operator.GT: ">", Operator.LT: "<"}
_NET_ADDRESSES = {Operator.SADDR: "PG_NET_SOURCE", Operator.DADDR: "PG_NET_DESTINATION"}
_NET_PORTS = {
    Operator.SPORT: "PG_NET_SOURCE",
    Operator.DPORT: "PG_NET_DESTINATION",
    Operator.SPORT_PRIV: "PG_NET_SOURCE",
    Operator.DPORT_PRIV: "PG_NET_DESTINATION",
}
_NET_NUMBERS = {Operator.PROTOCOL: "pg_net_protocol", Operator.FAMILY: "pg_net_family", Operator.STATE: "pg_net_state"}
_EQUALITY = {Operator.IN: Operator.EQUAL, Operator.NOT_IN: Operator.NOT_EQUAL}
_FIRST_FREE_PORT = 1024
_V4_BYTES = 4


@dataclass(frozen=True, slots=True)
class Condition:
    """A C expression, and what it looks at: values, or the paths of binaries."""

    stage: int
    text: str
    values: tuple[Value, ...] = ()
    binary: bool = False
    parent: bool = False


def conditions(chunk: Chunk, rule: Rule, selector: Selector) -> list[Condition]:
    """All that must hold at the entry, the cheap ones first."""
    found = [*_process(rule, selector), *_arguments(chunk, rule, selector), *_binaries(rule, selector)]
    return sorted(found, key=lambda condition: condition.stage)


def joined(found: list[Condition], before: int = len(STAGES)) -> str:
    """The conditions of the stages below `before`, in C."""
    return " && ".join(f"({c.text})" for c in found if c.stage < before) or "1"


def _arguments(chunk: Chunk, rule: Rule, selector: Selector) -> Iterator[Condition]:
    for each, values in filtered(rule, selector):
        if len(values) < len(each.positions):
            yield Condition(0, "0")  # a nop has no value that could match
            continue
        text = argument_condition(chunk, rule, each, values)
        stored = any(is_stored_number(value) or not value.type.is_number for value in values)
        yield Condition(int(stored), text, values)


def argument_condition(chunk: Chunk, rule: Rule, each: ArgFilter, values: tuple[Value, ...]) -> str:
    """A filter on values that were read."""
    if each.operator is Operator.CEL_EXPR:
        (tree,) = (value for value in each.values if isinstance(value, Cel))
        return _known(chunk, values, cel(chunk, tree, dict(zip(each.positions, values, strict=True))))
    if each.operator is Operator.CAPABILITIES_GAINED:
        before, after = (number(chunk, value) for value in values)
        mask = next((value for value in each.values if isinstance(value, int)), (1 << 64) - 1)
        return _known(chunk, values, f"{after} & ~{before} & {mask:#x}ULL")
    (value,) = values
    if each.operator in SUBSTRING_OPERATORS:
        found = _substrings(rule, f"s{chunk.texts[value]}", each)
    elif value.type.is_number:
        found = _known(chunk, values, _numbers(rule, number(chunk, value), value.type.signed, each))
    else:
        found = _slot(rule, f"s{chunk.texts[value]}", each)
    return f"!({found})" if each.operator.negative else found


def _known(chunk: Chunk, values: tuple[Value, ...], text: str) -> str:
    """What is not known meets nothing."""
    stored = [chunk.numbers[value] for value in values if is_stored_number(value)]
    return " && ".join([*(f"pg_is_known(call, {place})" for place in stored), f"({text})"])


def _numbers(rule: Rule, name: str, signed: bool, each: ArgFilter) -> str:
    many = number_set(each)
    return number_condition(name, rule.placed.sets[many]) if many else numbers(name, signed, each)


def numbers(name: str, signed: bool, each: ArgFilter) -> str:
    """Whether a number meets the positive operator with any of the values."""
    operator = each.operator.positive
    plain = [value for value in each.values if isinstance(value, int)]
    if operator is Operator.MASK:
        return f"{name} & {reduce(or_, plain, 0):#x}ULL"
    if operator is Operator.IN_RANGE:
        ranges = (value for value in each.values if isinstance(value, Range))
        return " || ".join(_between(name, signed, value) for value in ranges)
    if operator in (Operator.GT, Operator.LT):
        plain = [min(plain) if operator is Operator.GT else max(plain)]
    if len(plain) <= _MAX_TERMS:
        sign = _COMPARISONS[operator]
        return " || ".join(f"({name} {sign} {constant(value, signed=signed)})" for value in plain)
    cases = " ".join(f"case {constant(value, signed=signed)}:" for value in sorted(set(plain)))
    return f"({{ int found = 0; switch ({name}) {{ {cases} found = 1; }} found; }})"


def _between(name: str, signed: bool, value: Range) -> str:
    first, last = constant(value.first, signed=signed), constant(value.last, signed=signed)
    return f"({name} >= {first} && {name} <= {last})"


def _slot(rule: Rule, name: str, each: ArgFilter) -> str:
    """Whether what is in a slot meets the positive operator with any of the values."""
    operator = each.operator.positive
    if operator in _NET_ADDRESSES or operator in _NET_PORTS:
        return _connection(rule, name, each)
    plain = [item for item in each.values if isinstance(item, int)]
    if operator is Operator.FILE_TYPE:
        return " || ".join(f"pg_is_file_type({name}, {kind:#o})".replace("0o", "0") for kind in plain)
    if operator in _NET_NUMBERS:
        return " || ".join(f"{_NET_NUMBERS[operator]}({name}) == {item}" for item in plain)
    return _texts(rule, name, operator, texts_of(each.values))


def _texts(rule: Rule, name: str, operator: Operator, values: Iterable[bytes]) -> str:
    """operator: also a negative one."""
    many = text_set(operator, values)
    if many is None:
        return text_condition(name, operator, values)
    found = set_condition(name, many, rule.placed.sets[many])
    return f"!({found})" if operator.negative else found


def _connection(rule: Rule, name: str, each: ArgFilter) -> str:
    """Of a socket, a packet or an address."""
    operator, sets = each.operator.positive, rule.placed.sets
    if operator in _NET_ADDRESSES:
        side = _NET_ADDRESSES[operator]
        if many := network_sets(each):
            return network_condition(name, side, many, sets)
        networks = (item for item in each.values if isinstance(item, Network))
        return " || ".join(_network(name, side, item) for item in networks)
    side = _NET_PORTS[operator]
    if ports := number_set(each):
        return port_condition(name, side, sets[ports])
    ranges = [item for item in each.values if isinstance(item, Range)] or [Range(0, _FIRST_FREE_PORT - 1)]
    return " || ".join(f"pg_net_port_in({name}, {side}, {item.first}, {item.last})" for item in ranges)


def _substrings(rule: Rule, name: str, each: ArgFilter) -> str:
    return " || ".join(f"pg_finds({name}, {rule.placed.automata[wanted]})" for wanted in substrings(each))


def _network(name: str, side: str, network: Network) -> str:
    """Addresses are compared as two 64-bit words in the order of the bytes in memory."""
    v4 = len(network.address) == _V4_BYTES
    mask = ((1 << network.bits) - 1) << (8 * len(network.address) - network.bits)
    words = []
    for data in (network.address, mask.to_bytes(len(network.address), "big")):
        padded = data.ljust(16, b"\0")
        words += [int.from_bytes(padded[:8], "little"), int.from_bytes(padded[8:], "little")]
    family = "PG_AF_INET" if v4 else "PG_AF_INET6"
    numbers_ = ", ".join(f"{word:#x}ULL" for word in words)
    return f"pg_net_addr_in({name}, {side}, {family}, {numbers_})"


def cel(chunk: Chunk, tree: Cel, values: Mapping[int, Value]) -> str:
    """An expression in 64-bit arithmetic."""
    operands = [cel(chunk, operand, values) for operand in tree.operands]
    match tree.op, operands:
        case "const", _:
            return f"({constant(tree.value, signed=True)})"
        case "arg", _:
            return f"(__s64)({number(chunk, values[tree.value])})"
        case "int32", [one]:
            return f"(__s64)(__s32)({one})"
        case "uint32", [one]:
            return f"(__s64)(__u32)({one})"
        case ("not", [one]):
            return f"(~({one}))"
        case ("!", [one]):
            return f"(!({one}))"
        case "-", [one]:
            return f"(__s64)(-(__u64)({one}))"
        case (("+" | "-"), [left, right]):  # signed overflow is undefined in C, and the compiler makes use of that
            return f"(__s64)((__u64)({left}) {tree.op} (__u64)({right}))"
    sign = {"and": "&", "or": "|", "xor": "^"}.get(tree.op, tree.op)
    return "(" + f" {sign} ".join(operands) + ")"


def _process(rule: Rule, selector: Selector) -> Iterator[Condition]:
    """What the task itself tells."""
    if selector.workloads:
        bits = (rule.placed.workload_bits[workload] for workload in selector.workloads)
        yield Condition(0, " || ".join(f"(call->policies[{bit // 64}] & {1 << bit % 64:#x}ULL)" for bit in bits))
    for text in _task_conditions(rule, selector):
        yield Condition(0, text)


def _task_conditions(rule: Rule, selector: Selector) -> Iterator[str]:
    owned = bool(rule.sockets)
    yield from (pid_condition(each, rule.placed.lineage, owned) for each in selector.pids)
    yield from (namespace_condition(each, rule.placed.host_namespaces, owned) for each in selector.namespaces)
    yield from (namespace_change_condition(each, owned) for each in selector.namespace_changes)
    yield from (capability_condition(each, owned) for each in selector.capabilities)
    yield from (capability_change_condition(each, owned) for each in selector.capability_changes)


def _binaries(rule: Rule, selector: Selector) -> Iterator[Condition]:
    for each in selector.binaries:
        yield Condition(2, _binary(rule, each, BINARY, of_parent=False), binary=True)
    for each in selector.parent_binaries:
        yield Condition(2, _binary(rule, each, PARENT, of_parent=True), parent=True)


def _binary(rule: Rule, each: BinaryFilter, slot: str, *, of_parent: bool) -> str:
    operator = _EQUALITY.get(each.operator, each.operator)
    found = f"({_texts(rule, slot, operator, each.values)})"
    if not each.follow_children:
        return found
    followed = lineage_condition(each, rule.placed.lineage, of_parent=of_parent, owned=bool(rule.sockets))
    return f"({found} {'&&' if each.operator.negative else '||'} {followed})"
