# SPDX-License-Identifier: Apache-2.0
"""From the plan of a hook point to C text that calls the small functions of bpf/lib.

Nothing of a policy's text enters the C as text: values become numbers, bytes become 64-bit words, names become serial
numbers. A hook point has up to two programs for each chunk of its plan, one for the entry and one for the return:

    entry, chunk 0     who is selected? nobody: done. Else a context is claimed (bpf/maps/call.h), the inputs are kept
    every chunk        what its rules compare is read, stage by stage; their selectors are tried; what the hits ask for
                       is done; what they report is read and sent; rules that wait for the return are noted
    last chunk         the context is given back

    return, chunk 0    is anything left of this call? no: done
    every chunk        a call that could not be checked at its entry is checked now; rules that wait are asked again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import attrgetter

from agent.policy.access import PointKind, Value
from agent.policy.codegen_filter import (
    BINARY,
    PARENT,
    Condition,
    argument_condition,
    conditions,
    joined,
)
from agent.policy.codegen_value import facts_size, follow, load_input, number, read_value
from agent.policy.model import Action, ActionKind, ArgType, RateScope, Selector, posts, signals
from agent.policy.plan import Chunk, PointPlan, Rule, is_stored_number

PRELUDE = '#include "lib/syscall.h"\n'
LOAD_INFO = '#include "lib/load_info.h"\n'  # its structure is not on every kernel
_CONTEXTS = {
    PointKind.SYSCALL: "struct pg_sys_enter",
    PointKind.TRACEPOINT: "void",
    PointKind.RAW_TRACEPOINT: "struct bpf_raw_tracepoint_args",
    PointKind.UPROBE: "struct pt_regs",
    PointKind.USDT: "struct pt_regs",
}
_FORMS = {PointKind.RAW_TRACEPOINT: "raw", PointKind.UPROBE: "registers", PointKind.USDT: "registers"}
_SLOTS = {
    PointKind.SYSCALL: "slots",
    PointKind.TRACEPOINT: "slots",
    PointKind.RAW_TRACEPOINT: "slots_raw",
    PointKind.UPROBE: "slots_probe",
    PointKind.USDT: "slots_probe",
}
_SCOPES = {
    RateScope.THREAD: "PG_RATE_THREAD",
    RateScope.PROCESS: "PG_RATE_PROCESS",
    RateScope.GLOBAL: "PG_RATE_GLOBAL",
}
_NO_FRAME = "0"
_LOOKUPS = frozenset({ActionKind.GET_URL, ActionKind.DNS_LOOKUP})  # done by whoever reads the event
_AT_RETURN = ("PG_HIT_POST", "PG_HIT_KERNEL_STACK", "PG_HIT_USER_STACK")


class Side(Enum):
    """The two ends of a call."""

    ENTER = "enter"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the programs of a hook point go. attachment: its serial number; generation: of its rules. The slots are
    indexes of the PROG_ARRAY of its program type, one for each chunk.
    """

    attachment: int
    generation: int
    enter_slots: tuple[int, ...]
    exit_slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProgramName:
    """A program in the text of a module: its C name, the end of the call that it is for, and its chunk."""

    name: str
    side: Side
    chunk: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """One chunk with all that its text depends on."""

    plan: PointPlan
    place: Placement
    number: int

    @property
    def chunk(self) -> Chunk:
        return self.plan.chunks[self.number]

    @property
    def returning(self) -> tuple[tuple[int, Rule], ...]:
        """The rules that are reported at the return, with their places."""
        return tuple((n, rule) for n, rule in enumerate(self.chunk.rules) if rule.returns)

    def name(self, what: str) -> str:
        return f"pg_{what}_{self.place.attachment}_{self.number}"


def programs(plan: PointPlan, place: Placement) -> tuple[ProgramName, ...]:
    """The programs that `compile_module` writes for a hook point."""
    units = [_Unit(plan, place, number) for number in range(len(plan.chunks))]
    names = [ProgramName(unit.name("enter"), Side.ENTER, unit.number) for unit in units]
    if place.exit_slots:
        names += [ProgramName(unit.name("exit"), Side.EXIT, unit.number) for unit in units]
    return tuple(names)


def compile_module(plans: Iterable[tuple[PointPlan, Placement]]) -> str:
    """C text of several hook points."""
    chosen = list(plans)
    types = {value.type for plan, _ in chosen for chunk in plan.chunks for value in chunk.values}
    prelude = PRELUDE + (LOAD_INFO if ArgType.LOAD_INFO in types else "")
    return prelude + "".join("\n" + compile_point(plan, place) for plan, place in chosen)


def compile_point(plan: PointPlan, place: Placement) -> str:
    """The rules of one hook point and the programs that run them."""
    lines: list[str] = []
    for number_ in range(len(plan.chunks)):
        unit = _Unit(plan, place, number_)
        lines += [*_record(unit), "", *_rules(unit), ""]
        if unit.returning:
            lines += [*_late(unit), "", *_returns(unit), ""]
        lines += [*_enter(unit), ""]
        if place.exit_slots:
            lines += [*_exit(unit), ""]
    return "\n".join(lines)


# The record: what the hits report, read when it was not compared.


def _record(unit: _Unit) -> Iterator[str]:
    values = [value for value in unit.chunk.values if not value.at_return]
    yield from _values_head(unit, "record", "__u32 flags, int when", "struct pg_event *")
    yield from _slots(unit, values)
    yield f"\tstruct pg_string *{BINARY} = pg_string_of(call->context, PG_SLOT_BINARY);"
    yield f"\tstruct pg_string *{PARENT} = pg_string_of(call->context, PG_SLOT_PARENT);"
    yield ""
    yield f"\tif (!({' && '.join(['event', BINARY, PARENT, *_slot_names(unit, values)])}))"
    yield "\t\treturn NULL;"
    yield "\tpg_event_head(event, call->workload, when == PG_AT_ENTRY ? 0 : PG_EVENT_DEFERRED);"
    yield "\tif (!pg_is_filled(call, PG_SLOT_BINARY))"
    yield f"\t\tpg_read_binary({BINARY});"
    yield f"\tpg_item_text(event, PG_ID_BINARY, {BINARY}, 0);"
    yield "\tif (pg_is_filled(call, PG_SLOT_PARENT))"
    yield f"\t\tpg_item_text(event, PG_ID_PARENT, {PARENT}, 0);"
    yield from _stacks()
    for value in values:
        yield from _report(unit, value)
    yield "\treturn event;"
    yield "}"


def _values_head(unit: _Unit, what: str, more: str, result: str) -> Iterator[str]:
    context = _CONTEXTS[unit.plan.point.kind]
    yield f"PG_INLINE {result}{unit.name(what)}({context} *ctx, struct pg_call *call, {more})"
    yield "{"
    yield "\tstruct pg_event *event = pg_event_of(call->context);"
    yield "\t__u64 n = 0, size = 0;"
    yield "\tlong error = 0, before = 0;"
    yield "\tint later = 0;"


def _stacks() -> Iterator[str]:
    yield "\tif (flags & PG_HIT_KERNEL_STACK)"
    yield "\t\tpg_item_stack(event, PG_ID_KERNEL_STACK, ctx, 0);"
    yield "\tif (flags & PG_HIT_USER_STACK)"
    yield "\t\tpg_item_stack(event, PG_ID_USER_STACK, ctx, BPF_F_USER_STACK);"


def _slots(unit: _Unit, values: Iterable[Value]) -> Iterator[str]:
    for value in values:
        if value in unit.chunk.texts:
            place = unit.chunk.texts[value]
            yield f"\tstruct pg_string *s{place} = pg_string_of(call->context, {place});"


def _slot_names(unit: _Unit, values: Iterable[Value]) -> list[str]:
    return [f"s{unit.chunk.texts[value]}" for value in values if value in unit.chunk.texts]


def _identity(unit: _Unit, value: Value) -> int:
    return next(rule.placed.value_ids[value] for rule in unit.chunk.rules if value in rule.placed.value_ids)


def _report(unit: _Unit, value: Value) -> Iterator[str]:
    place = unit.chunk.values.index(value)
    identity = _identity(unit, value)
    yield f"\tif (call->values & {1 << place:#x}ULL) {{"
    if value in unit.chunk.texts:
        slot = unit.chunk.texts[value]
        yield f"\t\tif (!pg_is_filled(call, {slot})) {{"
        yield from _indent(read_value(unit.chunk, value, "0"), 3)
        yield "\t\t}"
        yield f"\t\tpg_item_text(event, {identity}, s{slot}, {facts_size(value)});"
    elif is_stored_number(value):
        yield f"\t\tif (!pg_is_filled(call, PG_SLOTS + {unit.chunk.numbers[value]})) {{"
        yield from _indent(read_value(unit.chunk, value, "0"), 3)
        yield "\t\t}"
        known = f"!pg_is_known(call, {unit.chunk.numbers[value]})"
        yield f"\t\tpg_item_number(event, {identity}, {number(unit.chunk, value)}, {known});"
    else:
        yield f"\t\tpg_item_number(event, {identity}, {number(unit.chunk, value)}, 0);"
    yield "\t}"


def _indent(lines: Iterable[str], depth: int) -> Iterator[str]:
    return ("\t" * depth + line for line in lines)


# The rules of a chunk at the entry, or at the exit when they could not be checked there.


def _rules(unit: _Unit) -> Iterator[str]:
    found = {(n, k): conditions(unit.chunk, rule, s) for n, rule, k, s in _selectors(unit)}
    compared = tuple(dict.fromkeys(value for rule in unit.chunk.rules for value in rule.compared))
    yield from _values_head(unit, "rules", "int when", "int ")
    yield "\t__u64 signals = 0;"
    yield "\t__u32 flags;"
    yield from _slots(unit, compared)
    binary, parent = (any(getattr(c, what) for cs in found.values() for c in cs) for what in ("binary", "parent"))
    for needed, name, slot in ((binary, BINARY, "PG_SLOT_BINARY"), (parent, PARENT, "PG_SLOT_PARENT")):
        if needed:
            yield f"\tstruct pg_string *{name} = pg_string_of(call->context, {slot});"
    names = [*_slot_names(unit, compared), *([BINARY] if binary else []), *([PARENT] if parent else [])]
    yield ""
    if names:
        yield f"\tif (!({' && '.join(names)}))"
        yield "\t\treturn 0;"
    yield from _reads(unit, found, compared)
    for n, rule in enumerate(unit.chunk.rules):
        yield from _rule(unit, n, rule, [found[n, k] for k in range(len(rule.selectors))])
    yield from _settle(unit)
    yield "\treturn 0;"
    yield "}"


def _selectors(unit: _Unit) -> Iterator[tuple[int, Rule, int, Selector]]:
    for n, rule in enumerate(unit.chunk.rules):
        for k, selector in enumerate(rule.selectors):
            yield n, rule, k, selector


_Found = dict[tuple[int, int], list[Condition]]
_Wants = Callable[[Condition], bool]


def _reads(unit: _Unit, found: _Found, compared: tuple[Value, ...]) -> Iterator[str]:
    """What selectors compare, each under the conditions of the stages before it."""
    waits = _waits(unit)
    for value in compared:
        if value.type.is_number and not is_stored_number(value):
            continue
        guard = _guard(unit, found, partial(_looks_at, value), 1)
        if any(value in rule.compared and rule.has_rate for rule in unit.chunk.rules):
            guard = _selected(unit)
        yield f"\tif ({guard}) {{"
        yield from _indent(read_value(unit.chunk, value, waits), 2)
        yield "\t}"
    if unit.plan.may_defer:
        place = unit.place
        yield f"\tif (later && pg_defer(call, {place.attachment}, {place.generation}, {unit.number}))"
        yield "\t\treturn 1;"
    for what, name, slot in (("binary", BINARY, "PG_SLOT_BINARY"), ("parent", PARENT, "PG_SLOT_PARENT")):
        guard = _guard(unit, found, attrgetter(what), 2)
        if guard != "0":
            yield f"\tif ({guard}) {{"
            yield f"\t\tpg_read_{what if what == 'binary' else 'parent_binary'}({name});"
            yield f"\t\tpg_fill(call, {slot});"
            yield "\t}"


def _looks_at(value: Value, condition: Condition) -> bool:
    return value in condition.values


def _waits(unit: _Unit) -> str:
    return "when == PG_AT_ENTRY" if unit.plan.may_defer else "0"


def _selected(unit: _Unit) -> str:
    return " || ".join(f"(call->policies[{word}] & {mask:#x}ULL)" for word, mask in unit.chunk.words.items())


def _guard(unit: _Unit, found: _Found, wants: _Wants, stage: int) -> str:
    """Whether a selector that looks at something gets as far as that."""
    terms: dict[str, None] = {}
    for (n, _), cs in found.items():
        if any(wants(c) for c in cs):
            before = joined(cs, stage)
            terms[f"({_policy_bit(unit.chunk.rules[n])} && {before})"] = None
    return " || ".join(terms) or "0"


def _policy_bit(rule: Rule) -> str:
    bit = rule.placed.bit
    return f"(call->policies[{bit // 64}] & {1 << bit % 64:#x}ULL)"


def _rule(unit: _Unit, n: int, rule: Rule, found: list[list[Condition]]) -> Iterator[str]:
    late = "" if rule.returns or not unit.place.exit_slots else f" && call->first <= {unit.number}"
    yield f"\tif ({_policy_bit(rule)}{late}) {{"
    for k, (selector, each) in enumerate(zip(rule.selectors, found, strict=True)):
        yield f"\t\t{'} else if' if k else 'if'} ({joined(each)}) {{"
        yield from _indent(_hit(unit, n, rule, k, selector), 3)
    yield "\t\t}"
    yield "\t}"


def _hit(unit: _Unit, n: int, rule: Rule, k: int, selector: Selector) -> Iterator[str]:
    arguments = f"{rule.placed.serial}, {rule.number}, {k}, {rule.placed.bit}"
    flags = _flags(selector.actions)
    if not rule.returns:
        yield from _new_hit(arguments, flags, unit.chunk.mask(rule.reported), selector.actions)
        yield from _parameters(unit, rule, selector.actions, _hash(unit, rule.reported))
        return
    limited = any(action.rate_ms for action in selector.actions)
    flags = ["PG_HIT_AWAITS", *(flag for flag in flags if flag not in _AT_RETURN)]
    if limited or signals(selector.actions) or len(flags) > 1:
        yield from _new_hit(arguments, flags, 0, selector.actions)
        yield from _parameters(unit, rule, selector.actions, _hash(unit, rule.reported))
    yield from _await(unit, n, rule, k, selector)


def _await(unit: _Unit, n: int, rule: Rule, k: int, selector: Selector) -> Iterator[str]:
    """The selectors at the return are asked even when the entry posts nothing, or not so soon again."""
    late = rule.hook.hook.return_selectors
    limited = any(action.rate_ms for action in selector.actions)
    if not late:
        if posts(selector.actions):
            if limited:
                yield "if (!(hit->flags & PG_HIT_LIMITED))"
            yield f"{chr(9) * limited}pg_await(call, {n}, {k});"
        return
    yield f"pg_await(call, {n}, {f'{k} | (hit->flags & PG_HIT_LIMITED ? PG_WAITING_LIMITED : 0)' if limited else k});"
    if _limits_late(rule):
        yield f"call->hash[{n}] = {_hash(unit, rule.reported)};"


def _limits_late(rule: Rule) -> bool:
    return any(action.rate_ms for selector in rule.selectors for action in selector.return_actions)


def _new_hit(arguments: str, flags: list[str], values: int, actions: tuple[Action, ...]) -> Iterator[str]:
    wanted = sum({1 << (signal - 1) for signal in signals(actions)})
    needed = "struct pg_hit *hit = " if _has_parameters(actions) or "PG_HIT_AT_RETURN" in flags else ""
    yield f"{needed}pg_hit(call, {arguments}, {' | '.join(flags) or '0'}, {values:#x}ULL, {wanted:#x}ULL);"


def _has_parameters(actions: tuple[Action, ...]) -> bool:
    return any(a.rate_ms or a.kind in (ActionKind.NOTIFY_ENFORCER, ActionKind.SET) for a in actions)


def _flags(actions: tuple[Action, ...]) -> list[str]:
    kinds = {action.kind for action in actions}
    found = {
        "PG_HIT_POST": posts(actions) or bool(kinds & _LOOKUPS),
        "PG_HIT_KERNEL_STACK": any(action.kernel_stack for action in actions),
        "PG_HIT_USER_STACK": any(action.user_stack for action in actions),
        "PG_HIT_NOTIFY": ActionKind.NOTIFY_ENFORCER in kinds,
        "PG_HIT_CLEANUP": ActionKind.CLEANUP_ENFORCER in kinds,
        "PG_HIT_SET": ActionKind.SET in kinds,
    }
    return [name for name, holds in found.items() if holds]


def _parameters(unit: _Unit, rule: Rule, actions: tuple[Action, ...], hashed: str) -> Iterator[str]:
    """What actions need beyond flags; the hit is at hand as `hit`. hashed: what makes two events equal."""
    for action in actions:
        if action.rate_ms:
            yield f"pg_limit(hit, {_SCOPES[action.rate_scope]}, {hashed}, {action.rate_ms * 1_000_000}ULL);"
        if action.kind is ActionKind.NOTIFY_ENFORCER:
            yield f"hit->notify_signal = {action.signal};"
        if action.kind is ActionKind.SET:
            value = rule.hook.args[action.position][1]
            if value:
                yield from _set(unit, value, action.value)


def _set(unit: _Unit, value: Value, new: int) -> Iterator[str]:
    yield from follow(unit.chunk, value.read.address, "n")
    yield f"if (!error) pg_set(hit, n, {new & 0xFFFFFFFF}U);"


def _hash(unit: _Unit, values: tuple[Value, ...]) -> str:
    text = "PG_HASH_BEGIN"
    for value in values:
        if value in unit.chunk.texts:
            text = f"pg_hash_text({text}, s{unit.chunk.texts[value]})"
        else:
            text = f"pg_hash({text}, {number(unit.chunk, value)})"
    return text


def _send(actions: Iterable[Action]) -> Iterator[str]:
    return (f"\tpg_send_if(call, signals, {number_});" for number_ in sorted(set(signals(tuple(actions)))))


def _settle(unit: _Unit) -> Iterator[str]:
    rules = len(unit.chunk.rules)
    yield f"\tflags = pg_settle(call, {rules}, &signals);"
    yield from _send(action for rule in unit.chunk.rules for s in rule.selectors for action in s.actions)
    if unit.returning:
        yield "\tif (call->awaiting)"
        yield f"\t\tcall->values |= {_awaited(unit):#x}ULL;"
    yield f"\tif (!(flags & PG_HIT_POST){' && !call->awaiting' if unit.returning else ''})"
    yield "\t\treturn 0;"
    yield f"\tevent = {unit.name('record')}(ctx, call, flags, when);"
    yield "\tif (!event)"
    yield "\t\treturn 0;"
    yield f"\tpg_send_hits(call, event, {rules});"
    if unit.returning:
        yield "\tcall->kept = 1;"


def _awaited(unit: _Unit) -> int:
    """The values that events at the return have from the entry."""
    return unit.chunk.mask(value for _, rule in unit.returning for value in rule.reported)


# The return.


def _late(unit: _Unit) -> Iterator[str]:
    """What is read at the return goes behind what the record has."""
    values = [value for value in unit.chunk.values if value.at_return]
    yield from _values_head(unit, "late", "__u32 flags, int when", "void ")
    yield from _slots(unit, values)
    yield ""
    yield f"\tif (!({' && '.join(['event', *_slot_names(unit, values)])}))"
    yield "\t\treturn;"
    yield from _stacks()
    for value in values:
        yield from _report(unit, value)
    yield "\tevent->flags |= PG_EVENT_RETURN;"
    yield f"\tpg_send_hits(call, event, {len(unit.chunk.rules)});"
    yield "}"


def _returns(unit: _Unit) -> Iterator[str]:
    compared = tuple(dict.fromkeys(v for _, rule in unit.returning for v in _compared_late(rule)))
    yield from _values_head(unit, "returns", "int when", "void ")
    yield "\t__u64 signals = 0;"
    yield "\t__u32 flags;"
    yield from _slots(unit, compared)
    yield ""
    if names := _slot_names(unit, compared):
        yield f"\tif (!({' && '.join(names)}))"
        yield "\t\treturn;"
    yield "\tif (!call->kept) {"
    yield f"\t\tcall->values = {_awaited(unit):#x}ULL;"
    yield f"\t\tif (!{unit.name('record')}(ctx, call, 0, when))"
    yield "\t\t\treturn;"
    yield "\t}"
    yield "\tcall->hits = 0;"
    yield "\tcall->values = 0;"
    for value in compared:
        if value in unit.chunk.texts or is_stored_number(value):
            yield from _indent(read_value(unit.chunk, value, "0"), 1)
    for n, rule in unit.returning:
        yield f"\tif (call->awaiting & {1 << n:#x}ULL) {{"
        yield from _return_selectors(unit, n, rule)
        yield "\t}"
    yield f"\tflags = pg_settle(call, {len(unit.chunk.rules)}, &signals);"
    yield from _send(action for _, rule in unit.returning for s in rule.selectors for action in s.return_actions)
    yield "\tif (flags & PG_HIT_POST)"
    yield f"\t\t{unit.name('late')}(ctx, call, flags, when);"
    yield "}"


def _compared_late(rule: Rule) -> Iterator[Value]:
    if rule.hook.return_value and any(selector.return_args for selector in rule.selectors):
        yield rule.hook.return_value


def _return_selectors(unit: _Unit, n: int, rule: Rule) -> Iterator[str]:
    mask = unit.chunk.mask(rule.reported_late)
    late = rule.hook.hook.return_selectors
    matched = f"call->waiting[{n}] & ~PG_WAITING_LIMITED"
    arguments = f"{rule.placed.serial}, {rule.number}, {matched}, {rule.placed.bit}"
    if not late:
        yield from _indent(_new_hit(arguments, ["PG_HIT_POST", *_entry_stacks(rule)], mask, ()), 2)
        return
    for place, (k, selector) in enumerate(late):
        value = rule.hook.return_value
        terms = [argument_condition(unit.chunk, rule, each, (value,)) for each in selector.return_args if value]
        yield f"\t\t{'} else if' if place else 'if'} ({' && '.join(f'({t})' for t in terms) or '1'}) {{"
        stacks = _entry_stacks(rule) if posts(selector.return_actions) else []
        flags = [*dict.fromkeys([*_flags(selector.return_actions), *stacks]), "PG_HIT_AT_RETURN"]
        yield from _indent(_new_hit(arguments, flags, mask, selector.return_actions), 3)
        yield f"\t\t\thit->return_selector = {k};"
        yield f"\t\t\tpg_limit_late(call, {n}, hit);"
        yield from _indent(_parameters(unit, rule, selector.return_actions, f"call->hash[{n}]"), 3)
    yield "\t\t}"


def _entry_stacks(rule: Rule) -> list[str]:
    """What the entry's selectors asked for, taken at the return, where the event is made."""
    kernel, user = (
        any(getattr(action, what) for selector in rule.selectors for action in selector.actions)
        for what in ("kernel_stack", "user_stack")
    )
    return [name for name, on in (("PG_HIT_KERNEL_STACK", kernel), ("PG_HIT_USER_STACK", user)) if on]


# The programs.


def _enter(unit: _Unit) -> Iterator[str]:
    context = _CONTEXTS[unit.plan.point.kind]
    yield f"int {unit.name('enter')}({context} *ctx)"
    yield "{"
    if unit.number:
        yield f"\tstruct pg_call *call = pg_continue({_place(unit, Side.ENTER, unit.number)});"
        yield ""
        yield "\tif (!call)"
        yield "\t\treturn 0;"
    else:
        yield from _begin(unit)
    yield from _keep_inputs(unit)
    yield f"\tif ({unit.name('rules')}(ctx, call, PG_AT_ENTRY)) {{"
    yield "\t\tpg_release(call);"
    yield "\t\treturn 0;"
    yield "\t}"
    if unit.returning:
        yield "\tif (call->awaiting)"
        event = "call->kept ? pg_event_of(call->context) : NULL"
        yield f"\t\tpg_keep_return(call, {event}, {_return_key(unit, Side.ENTER)}, {unit.place.generation});"
    yield from _next(unit, Side.ENTER)


def _begin(unit: _Unit) -> Iterator[str]:
    yield "\t__u64 p[PG_POLICY_WORDS] = {};"
    yield "\tstruct pg_call *call;"
    yield "\t__u32 workload = 0;"
    yield ""
    if unit.plan.enforced:
        yield "\tpg_enforce();"
    yield f"\tif (!{_select(unit)})"
    yield "\t\treturn 0;"
    selected = (f"(p[{word}] & {mask:#x}ULL)" for word, mask in unit.plan.words.items())
    yield f"\tif (!({' || '.join(selected) or '0'}))"
    yield "\t\treturn 0;"
    yield "\tcall = pg_begin();"
    yield "\tif (!call)"
    yield "\t\treturn 0;"
    yield from _keep_selection(unit)


def _select(unit: _Unit) -> str:
    return f"pg_select(p, &workload, {sum(1 << word for word in _words(unit)):#x}, {int(unit.plan.is_exec)})"


def _words(unit: _Unit) -> list[int]:
    return sorted(set(unit.plan.words).union(*(chunk.workload_words for chunk in unit.plan.chunks)))


def _keep_selection(unit: _Unit) -> Iterator[str]:
    yield "\tcall->workload = workload;"
    for word in _words(unit):
        yield f"\tcall->policies[{word}] = p[{word}];"


def _keep_inputs(unit: _Unit) -> Iterator[str]:
    """Where a call has a return, the first chunk keeps those of all; else each has its own."""
    if unit.number and unit.plan.shares_inputs:
        return
    form = _FORMS.get(unit.plan.point.kind, "tracepoint")
    for place, wanted in enumerate(unit.chunk.inputs):
        yield f"\tcall->in[{place}] = {load_input(wanted, form)};"


def _next(unit: _Unit, side: Side) -> Iterator[str]:
    """The next chunk's program, or the end of the call."""
    following = unit.number + 1
    if following < len(unit.plan.chunks):
        slots = unit.place.enter_slots if side is Side.ENTER else unit.place.exit_slots
        yield f"\tcall->place = {_place(unit, side, following)};"
        yield f"\tpg_once(call->slot) = {slots[following]};"
        yield f"\tpg_tail_call(ctx, {_SLOTS[unit.plan.point.kind]}, pg_once(call->slot));"
    elif side is Side.EXIT and unit.plan.is_exec:
        yield "\tpg_forget_exec_string();"
    yield "\tpg_release(call);"
    yield "\treturn 0;"
    yield "}"


def _place(unit: _Unit, side: Side, number_: int) -> str:
    return f"pg_place({unit.place.attachment}ULL, {int(side is Side.EXIT)}, {number_})"


def _frame(unit: _Unit, side: Side) -> str:
    """Of a uprobe the return address stands at the stack pointer at the entry, and just below it at the return."""
    if unit.plan.point.kind is not PointKind.UPROBE:
        return _NO_FRAME
    return "ctx->sp" if side is Side.ENTER else "ctx->sp - 8"


def _return_key(unit: _Unit, side: Side) -> str:
    fields = f".frame = {_frame(unit, side)}, .attachment = {unit.place.attachment}, .chunk = {unit.number}"
    return f"(struct pg_return_key){{.pid_tgid = bpf_get_current_pid_tgid(), {fields}}}"


def _exit(unit: _Unit) -> Iterator[str]:
    syscall = unit.plan.point.kind is PointKind.SYSCALL
    context = "struct pg_sys_exit" if syscall else _CONTEXTS[unit.plan.point.kind]
    returned = "ctx->ret" if syscall else "(__s64)ctx->ax"
    yield f"int {unit.name('exit')}({context} *ctx)"
    yield "{"
    yield "\t__u64 p[PG_POLICY_WORDS] = {};"
    yield "\t__u32 workload = 0;"
    yield f"\tstruct pg_call *call = {_resumed(unit)};"
    yield f"\tint when = {_when(unit)};"
    yield ""
    if unit.plan.enforced and not unit.number:
        yield "\tpg_enforce();"
    yield "\tif (!call)"
    yield "\t\treturn 0;"
    if not unit.number:
        yield f"\tcall->ret = {returned};"
        yield from _select_late(unit)
    yield f"\tif (call->first <= {unit.number} || call->again)"
    yield f"\t\t{unit.name('rules')}((void *)ctx, call, when);"
    if unit.returning:
        yield "\telse {"
        yield f"\t\tstruct pg_return_key key = {_return_key(unit, Side.EXIT)};"
        yield ""
        yield "\t\tpg_take_return(call, &key);"
        yield "\t}"
        yield "\tif (call->awaiting)"
        yield f"\t\t{unit.name('returns')}((void *)ctx, call, when);"
    yield from _next(unit, Side.EXIT)


def _resumed(unit: _Unit) -> str:
    if unit.number:
        return f"pg_continue({_place(unit, Side.EXIT, unit.number)})"
    returns = any(rule.returns for rule in unit.plan.rules)
    attachment, generation = unit.place.attachment, unit.place.generation
    options = f"{_frame(unit, Side.EXIT)}, {int(unit.plan.may_defer)}, {int(returns)}"
    return f"pg_resume({attachment}, {generation}, {options})"


def _when(unit: _Unit) -> str:
    return "ctx->ret == 0 ? PG_AT_EXEC : PG_AT_EXIT" if unit.plan.is_exec else "PG_AT_EXIT"


def _select_late(unit: _Unit) -> Iterator[str]:
    yield f"\tif (!{_select(unit)}) {{"
    yield "\t\tpg_release(call);"
    yield "\t\treturn 0;"
    yield "\t}"
    yield from _keep_selection(unit)
