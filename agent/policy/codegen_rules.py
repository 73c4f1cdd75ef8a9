# SPDX-License-Identifier: Apache-2.0
"""The rules of a program at the entry of a call, or at its exit when they could not be checked there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter

from agent.policy import codegen_sock as sock
from agent.policy.access import Value
from agent.policy.codegen_filter import BINARY, PARENT, Condition, conditions, joined
from agent.policy.codegen_hits import hit_lines, may_ask, send_hits, send_lines
from agent.policy.codegen_record import slot_names, slot_variables, values_head
from agent.policy.codegen_unit import Unit, indent, policy_bit
from agent.policy.codegen_value import read_value
from agent.policy.model import Selector
from agent.policy.placed import Rule
from agent.policy.plan import is_stored_number


def rules_function(unit: Unit) -> Iterator[str]:
    found = {(n, k): conditions(unit.chunk, rule, s) for n, rule, k, s in _selectors(unit)}
    compared = tuple(dict.fromkeys(value for rule in unit.chunk.rules for value in rule.compared))
    yield from values_head(unit, "rules", "int when", "int ")
    yield "\t__u64 signals = 0;"
    yield "\t__u32 flags;"
    yield from sock.declare_process(unit.chunk)
    yield from slot_variables(unit, compared)
    binary, parent = (any(getattr(c, what) for cs in found.values() for c in cs) for what in ("binary", "parent"))
    for needed, name, slot in ((binary, BINARY, "PG_SLOT_BINARY"), (parent, PARENT, "PG_SLOT_PARENT")):
        if needed:
            yield f"\tstruct pg_string *{name} = pg_string_of(call->context, {slot});"
    names = [*slot_names(unit, compared), *([BINARY] if binary else []), *([PARENT] if parent else [])]
    names += sock.owner_names(unit.chunk)
    yield ""
    if names:
        yield f"\tif (!({' && '.join(names)}))"
        yield "\t\treturn 0;"
    yield from sock.find_process(unit.chunk)
    yield from _reads(unit, found, compared)
    for n, rule in enumerate(unit.chunk.rules):
        yield from _rule(unit, n, rule, [found[n, k] for k in range(len(rule.selectors))])
    yield from _settle(unit)
    yield "\treturn 0;"
    yield "}"


def _selectors(unit: Unit) -> Iterator[tuple[int, Rule, int, Selector]]:
    for n, rule in enumerate(unit.chunk.rules):
        for k, selector in enumerate(rule.selectors):
            yield n, rule, k, selector


_Found = dict[tuple[int, int], list[Condition]]
_Wants = Callable[[Condition], bool]


def _reads(unit: Unit, found: _Found, compared: tuple[Value, ...]) -> Iterator[str]:
    """What selectors compare, each under the conditions of the stages before it."""
    waits = _waits(unit)
    for value in compared:
        if value.type.is_number and not is_stored_number(value):
            continue
        guard = _guard(unit, found, partial(_looks_at, value), 1)
        if any(value in rule.compared and rule.has_rate for rule in unit.chunk.rules):
            guard = _selected(unit)
        yield f"\tif ({guard}) {{"
        yield from indent(read_value(unit.chunk, value, waits), 2)
        yield "\t}"
    if unit.plan.may_defer:
        place = unit.place
        yield f"\tif (later && pg_defer(call, {place.attachment}, {place.generation}, {unit.number}))"
        yield "\t\treturn 1;"
    for what, name, slot in (("binary", BINARY, "PG_SLOT_BINARY"), ("parent", PARENT, "PG_SLOT_PARENT")):
        guard = _guard(unit, found, attrgetter(what), 2)
        if guard != "0":
            yield f"\tif ({guard}) {{"
            yield f"\t\t{sock.read_binary(unit.chunk, what if what == 'binary' else 'parent_binary', name)}"
            yield f"\t\tpg_fill(call, {slot});"
            yield "\t}"


def _looks_at(value: Value, condition: Condition) -> bool:
    return value in condition.values


def _waits(unit: Unit) -> str:
    return "when == PG_AT_ENTRY" if unit.plan.may_defer else "0"


def _selected(unit: Unit) -> str:
    return " || ".join(f"(call->policies[{word}] & {mask:#x}ULL)" for word, mask in unit.chunk.words.items())


def _guard(unit: Unit, found: _Found, wants: _Wants, stage: int) -> str:
    """Whether a selector that looks at something gets as far as that."""
    terms: dict[str, None] = {}
    for (n, _), cs in found.items():
        if any(wants(c) for c in cs):
            before = joined(cs, stage)
            terms[f"({policy_bit(unit.chunk.rules[n])} && {before})"] = None
    return " || ".join(terms) or "0"


def _rule(unit: Unit, n: int, rule: Rule, found: list[list[Condition]]) -> Iterator[str]:
    late = "" if rule.returns or not unit.place.exit_slots else f" && call->first <= {unit.number}"
    yield f"\tif ({policy_bit(rule)}{late}) {{"
    for k, (selector, each) in enumerate(zip(rule.selectors, found, strict=True)):
        yield f"\t\t{'} else if' if k else 'if'} ({joined(each)}) {{"
        yield from indent(hit_lines(unit, n, rule, k, selector), 3)
    yield "\t\t}"
    yield "\t}"


def _settle(unit: Unit) -> Iterator[str]:
    yield sock.settle(unit.chunk, may_ask(unit))
    yield from send_lines(action for rule in unit.chunk.rules for s in rule.selectors for action in s.actions)
    if unit.returning:
        yield from indent(_note_awaited(unit), 1)
    yield f"\tif (!(flags & PG_HIT_POST){' && !call->awaiting' if unit.returning else ''})"
    yield "\t\treturn 0;"
    yield f"\tevent = {unit.name('record')}(ctx, call, flags, when);"
    yield "\tif (!event)"
    yield "\t\treturn 0;"
    yield send_hits(unit)
    if unit.returning:
        yield "\tcall->kept = 1;"


def _note_awaited(unit: Unit) -> Iterator[str]:
    """Adds what events at the return have from the entry to what is reported. What goes into the ring for large values
    is much: with them, only where there will be an event.
    """
    if _awaits_large(unit):
        yield from _each_awaited(unit)
    else:
        yield "if (call->awaiting)"
        yield f"\tcall->values |= {_awaited(unit):#x}ULL;"


def take_awaited(unit: Unit) -> Iterator[str]:
    """The same, and nothing else is reported."""
    if _awaits_large(unit):
        yield "call->values = 0;"
        yield from _each_awaited(unit)
    else:
        yield f"call->values = {_awaited(unit):#x}ULL;"


def _awaits_large(unit: Unit) -> bool:
    return any(value.is_large for _, rule in unit.returning for value in rule.reported)


def _awaited(unit: Unit) -> int:
    return unit.chunk.mask(value for _, rule in unit.returning for value in rule.reported)


def _each_awaited(unit: Unit) -> Iterator[str]:
    for n, rule in unit.returning:
        if rule.reported:
            yield f"if (pg_will_report(call, {n}))"
            yield f"\tcall->values |= {unit.chunk.mask(rule.reported):#x}ULL;"
