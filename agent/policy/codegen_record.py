# SPDX-License-Identifier: Apache-2.0
"""Events in the text of a program: what the hits report, read when it was not compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.policy import codegen_sock as sock
from agent.policy.access import Value
from agent.policy.codegen_filter import BINARY, PARENT
from agent.policy.codegen_hits import send_hits
from agent.policy.codegen_unit import CONTEXTS, Unit, indent
from agent.policy.codegen_value import number, read_value, report_text
from agent.policy.plan import is_stored_number


def record_function(unit: Unit) -> Iterator[str]:
    values = [value for value in unit.chunk.values if not value.at_return]
    yield from values_head(unit, "record", "__u32 flags, int when", "struct pg_event *")
    yield from slot_variables(unit, values)
    yield f"\tstruct pg_string *{BINARY} = pg_string_of(call->context, PG_SLOT_BINARY);"
    yield f"\tstruct pg_string *{PARENT} = pg_string_of(call->context, PG_SLOT_PARENT);"
    yield ""
    names = ["event", *sock.owner_names(unit.chunk), BINARY, PARENT, *slot_names(unit, values)]
    yield f"\tif (!({' && '.join(names)}))"
    yield "\t\treturn NULL;"
    yield "\tpg_event_head(event, call->workload, when == PG_AT_ENTRY ? 0 : PG_EVENT_DEFERRED);"
    yield from sock.event_subject(unit.chunk)
    yield "\tif (!pg_is_filled(call, PG_SLOT_BINARY))"
    yield f"\t\t{sock.read_binary(unit.chunk, 'binary', BINARY)}"
    yield f"\tpg_item_text(event, PG_ID_BINARY, {BINARY}, 0);"
    yield "\tif (pg_is_filled(call, PG_SLOT_PARENT))"
    yield f"\t\tpg_item_text(event, PG_ID_PARENT, {PARENT}, 0);"
    yield from _stacks(unit)
    for value in values:
        yield from _report(unit, value)
    yield "\treturn event;"
    yield "}"


def values_head(unit: Unit, what: str, more: str, result: str) -> Iterator[str]:
    context = CONTEXTS[unit.plan.point.kind]
    yield f"PG_INLINE {result}{unit.name(what)}({context} *ctx, struct pg_call *call, {more})"
    yield "{"
    yield "\tstruct pg_event *event = pg_event_of(call->context);"
    yield from sock.declare_owner(unit.chunk)
    yield "\t__u64 n = 0, size = 0;"
    yield "\tlong error = 0, before = 0;"
    yield "\tint later = 0;"


def _stacks(unit: Unit) -> Iterator[str]:
    yield "\tif (flags & PG_HIT_KERNEL_STACK)"
    yield "\t\tpg_item_stack(event, PG_ID_KERNEL_STACK, ctx, 0);"
    yield f"\tif (flags & PG_HIT_USER_STACK{sock.own_stack(unit.chunk)})"
    yield "\t\tpg_item_stack(event, PG_ID_USER_STACK, ctx, BPF_F_USER_STACK);"


def slot_variables(unit: Unit, values: Iterable[Value]) -> Iterator[str]:
    for value in values:
        if value in unit.chunk.texts:
            place = unit.chunk.texts[value]
            yield f"\tstruct pg_string *s{place} = pg_string_of(call->context, {place});"


def slot_names(unit: Unit, values: Iterable[Value]) -> list[str]:
    return [f"s{unit.chunk.texts[value]}" for value in values if value in unit.chunk.texts]


def _identity(unit: Unit, value: Value) -> int:
    return next(rule.placed.value_ids[value] for rule in unit.chunk.rules if value in rule.placed.value_ids)


def _report(unit: Unit, value: Value) -> Iterator[str]:
    place = unit.chunk.values.index(value)
    identity = _identity(unit, value)
    yield f"\tif (call->values & {1 << place:#x}ULL) {{"
    if value in unit.chunk.texts:
        slot = unit.chunk.texts[value]
        yield f"\t\tif (!pg_is_filled(call, {slot})) {{"
        yield from indent(read_value(unit.chunk, value, "0"), 3)
        yield "\t\t}"
        yield from indent(report_text(unit.chunk, value, identity), 2)
    elif is_stored_number(value):
        yield f"\t\tif (!pg_is_filled(call, PG_SLOTS + {unit.chunk.numbers[value]})) {{"
        yield from indent(read_value(unit.chunk, value, "0"), 3)
        yield "\t\t}"
        known = f"!pg_is_known(call, {unit.chunk.numbers[value]})"
        yield f"\t\tpg_item_number(event, {identity}, {number(unit.chunk, value)}, {known});"
    else:
        yield f"\t\tpg_item_number(event, {identity}, {number(unit.chunk, value)}, 0);"
    yield "\t}"


def late_function(unit: Unit) -> Iterator[str]:
    """What is read at the return goes behind what the record has."""
    values = [value for value in unit.chunk.values if value.at_return]
    yield from values_head(unit, "late", "__u32 flags, int when", "void ")
    yield from slot_variables(unit, values)
    yield ""
    yield f"\tif (!({' && '.join(['event', *sock.owner_names(unit.chunk), *slot_names(unit, values)])}))"
    yield "\t\treturn;"
    yield from _stacks(unit)
    for value in values:
        yield from _report(unit, value)
    yield "\tevent->flags |= PG_EVENT_RETURN;"
    yield send_hits(unit)
    yield "}"
