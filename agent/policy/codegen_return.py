# SPDX-License-Identifier: Apache-2.0
"""The rules of a program that wait for the return of a call."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy import codegen_sock as sock
from agent.policy.access import Value
from agent.policy.codegen_filter import argument_condition
from agent.policy.codegen_hits import hit_flags, may_ask, new_hit, parameter_lines, send_lines, told_values
from agent.policy.codegen_record import slot_names, slot_variables, values_head
from agent.policy.codegen_rules import take_awaited
from agent.policy.codegen_unit import Unit, indent
from agent.policy.codegen_value import read_value
from agent.policy.model import posts
from agent.policy.placed import Rule
from agent.policy.plan import is_stored_number


def returns_function(unit: Unit) -> Iterator[str]:
    compared = tuple(dict.fromkeys(v for _, rule in unit.returning for v in _compared_late(rule)))
    yield from values_head(unit, "returns", "int when", "void ")
    yield "\t__u64 signals = 0;"
    yield "\t__u32 flags;"
    yield from slot_variables(unit, compared)
    yield ""
    if names := [*slot_names(unit, compared), *sock.owner_names(unit.chunk)]:
        yield f"\tif (!({' && '.join(names)}))"
        yield "\t\treturn;"
    yield "\tif (!call->kept) {"
    yield from indent(take_awaited(unit), 2)
    yield f"\t\tif (!{unit.name('record')}(ctx, call, 0, when))"
    yield "\t\t\treturn;"
    yield "\t}"
    yield "\tcall->hits = 0;"
    yield "\tcall->values = 0;"
    for value in compared:
        if value in unit.chunk.texts or is_stored_number(value):
            yield from indent(read_value(unit.chunk, value, "0"), 1)
    for n, rule in unit.returning:
        yield f"\tif (call->awaiting & {1 << n:#x}ULL) {{"
        yield from _return_selectors(unit, n, rule)
        yield "\t}"
    yield sock.settle(unit.chunk, may_ask(unit))
    yield from send_lines(action for _, rule in unit.returning for s in rule.selectors for action in s.return_actions)
    yield "\tif (flags & PG_HIT_POST)"
    yield f"\t\t{unit.name('late')}(ctx, call, flags, when);"
    yield "}"


def _compared_late(rule: Rule) -> Iterator[Value]:
    if rule.hook.return_value and any(selector.return_args for selector in rule.selectors):
        yield rule.hook.return_value


def _return_selectors(unit: Unit, n: int, rule: Rule) -> Iterator[str]:
    late = rule.hook.hook.return_selectors
    matched = f"call->waiting[{n}] & ~PG_WAITING_LIMITED"
    arguments = f"{rule.placed.serial}, {rule.number}, {matched}, {rule.placed.bit}"
    if not late:
        mask = unit.chunk.mask(rule.reported_late)
        named = rule.hook.hook.return_arg_action is not None
        yield from indent(new_hit(arguments, ["PG_HIT_POST", *_entry_stacks(rule)], mask, (), named=named), 2)
        yield from indent(sock.track_returned(unit.chunk, rule), 2)
        return
    for place, (k, selector) in enumerate(late):
        value = rule.hook.return_value
        terms = [argument_condition(unit.chunk, rule, each, (value,)) for each in selector.return_args if value]
        yield f"\t\t{'} else if' if place else 'if'} ({' && '.join(f'({t})' for t in terms) or '1'}) {{"
        stacks = _entry_stacks(rule) if posts(selector.return_actions) else []
        flags = [*dict.fromkeys([*hit_flags(selector.return_actions), *stacks]), "PG_HIT_AT_RETURN"]
        mask = unit.chunk.mask(told_values(rule.reported_late, selector.return_actions))
        yield from indent(new_hit(arguments, flags, mask, selector.return_actions, named=True), 3)
        yield f"\t\t\thit->return_selector = {k};"
        yield f"\t\t\tpg_limit_late(call, {n}, hit);"
        yield from indent(parameter_lines(unit, rule, selector.return_actions, f"call->hash[{n}]"), 3)
        yield from indent(sock.track_returned(unit.chunk, rule), 3)
    yield "\t\t}"


def _entry_stacks(rule: Rule) -> list[str]:
    """What the entry's selectors asked for, taken at the return, where the event is made."""
    kernel, user = (
        any(getattr(action, what) for selector in rule.selectors for action in selector.actions)
        for what in ("kernel_stack", "user_stack")
    )
    return [name for name, on in (("PG_HIT_KERNEL_STACK", kernel), ("PG_HIT_USER_STACK", user)) if on]
