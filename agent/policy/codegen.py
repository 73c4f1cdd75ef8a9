# SPDX-License-Identifier: Apache-2.0
"""From a hook plan to C text that calls the small functions of bpf/lib.

Nothing of a policy's text enters the C as text: values become numbers, bytes become 64-bit words, names become serial
numbers. For one system call all policies are one straight line: who is selected is asked once, then each selected
policy's selectors are tried in order, and what they hit is reported at the end. The same body serves the entry and,
where texts are compared, the exit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from agent.policy.model import ArgMatch, ArgType, Operator, Selector
from agent.policy.plan import EXEC_PATH_ARG, HookPlan, Rule, Slot

PRELUDE = '#include "lib/syscall.h"\n'
_WORD = (1 << 64) - 1
_READERS = {
    ArgType.INT: "pg_arg_s32",
    ArgType.UINT: "pg_arg_u32",
    ArgType.LONG: "pg_arg_s64",
    ArgType.ULONG: "pg_arg_u64",
    ArgType.SIZE_T: "pg_arg_u64",
}
_TEXT_IDS = {
    ArgType.STRING.value: "PG_TEXT_STRING",
    ArgType.CHAR_BUF.value: "PG_TEXT_BYTES",
    ArgType.FD.value: "PG_TEXT_FD",
}
_COMPARISONS = {Operator.EQUAL: "==", Operator.NOT_EQUAL: "==", Operator.GT: ">", Operator.LT: "<", Operator.MASK: "&"}


def enter_name(plan: HookPlan) -> str:
    return f"pg_enter_{plan.syscall}"


def exit_name(plan: HookPlan) -> str:
    return f"pg_exit_{plan.syscall}"


def compile_module(plans: Iterable[tuple[HookPlan, int]]) -> str:
    """C text of several hook points; each comes with the serial number of its attachment."""
    return PRELUDE + "".join("\n" + compile_hook(plan, attachment) for plan, attachment in plans)


def compile_hook(plan: HookPlan, attachment: int) -> str:
    """The rules of one hook point and the programs that run them."""
    lines = [*_head(plan), *_reads(plan, attachment)]
    for rule in plan.rules:
        lines += _rule(rule)
    lines += _tail(plan)
    return "\n".join([*lines, *_programs(plan, attachment)]) + "\n"


def _head(plan: HookPlan) -> Iterator[str]:
    masks = _masks(plan.rules)
    words = sum(1 << word for word in masks)
    yield f"PG_INLINE int pg_rules_{plan.syscall}(const __u64 *args, int when)"
    yield "{"
    yield "\t__u64 p[PG_POLICY_WORDS] = {};"
    yield "\tstruct pg_call *call;"
    yield "\t__u32 workload = 0;"
    yield "\tlong error, refused;"
    for number in range(len(plan.slots)):
        yield f"\tstruct pg_string *s{number} = pg_string({number});"
    yield ""
    yield f"\tif (!pg_select(p, &workload, {words:#x}, {int(plan.is_exec)}))"
    yield "\t\treturn 0;"
    yield f"\tif (!({_selected(masks)}))"
    yield "\t\treturn 0;"
    yield "\tcall = pg_call(args);"
    yield "\tif (!(" + " && ".join(["call", *(f"s{n}" for n in range(len(plan.slots)))]) + "))"
    yield "\t\treturn 0;"


def _masks(rules: Iterable[Rule]) -> dict[int, int]:
    """Word of the bindings' bits -> the bits of the rules' policies in it."""
    masks: dict[int, int] = defaultdict(int)
    for rule in rules:
        masks[rule.bit // 64] |= 1 << (rule.bit % 64)
    return dict(sorted(masks.items()))


def _selected(masks: dict[int, int]) -> str:
    return " || ".join(f"(p[{word}] & {mask:#x}ULL)" for word, mask in masks.items())


def _reads(plan: HookPlan, attachment: int) -> Iterator[str]:
    """Before the rules: the texts that a selected policy compares."""
    for number, slot in enumerate(plan.slots):
        comparing = [rule for rule in plan.rules if number in rule.compared]
        if not comparing:
            continue
        yield f"\tif ({_selected(_masks(comparing))}) {{"
        yield from _read(plan, number, slot, "\t\t")
        if slot.kind != ArgType.FD.value:
            unreadable = f"pg_unreadable(error, call->args[{slot.index}], when)"
            yield f"\t\tif ({unreadable} && pg_defer(call, {attachment}ULL))"
            yield "\t\t\treturn 0;"
        yield "\t}"


def _read(plan: HookPlan, number: int, slot: Slot, indent: str) -> Iterator[str]:
    address = f"call->args[{slot.index}]"
    if slot.kind == ArgType.FD.value:
        yield f"{indent}pg_read_fd_path(s{number}, (__s32){address});"
    elif slot.kind == ArgType.CHAR_BUF.value:
        size = f"{'pg_arg_u32' if slot.size_bits == 32 else 'pg_arg_u64'}(call, {slot.size_arg})"
        yield f"{indent}error = pg_read_user_bytes(s{number}, {address}, {size});"
    elif EXEC_PATH_ARG.get(plan.syscall) == slot.index:
        user = f"pg_read_user_string(s{number}, {address})"
        yield f"{indent}error = when == PG_AT_EXEC ? pg_read_exec_string(s{number}) : {user};"
    else:
        yield f"{indent}error = pg_read_user_string(s{number}, {address});"
    yield f"{indent}pg_filled(call, {number}, {_TEXT_IDS[slot.kind]} | {slot.index});"


def _rule(rule: Rule) -> Iterator[str]:
    yield f"\tif (p[{rule.bit // 64}] & {1 << (rule.bit % 64):#x}ULL) {{"
    for number, selector in enumerate(rule.selectors):
        condition = " && ".join(f"({_match(rule, match)})" for match in selector.match_args) or "1"
        yield f"\t\t{'} else if' if number else 'if'} ({condition}) {{"
        yield from _actions(rule, number, selector)
    yield "\t\t}"
    yield "\t}"


def _actions(rule: Rule, number: int, selector: Selector) -> Iterator[str]:
    wanted = sum({1 << (signal - 1) for signal in selector.signals})
    if wanted:
        yield f"\t\t\tpg_want_signals(call, {wanted:#x}ULL);"
    if selector.posts:
        yield f"\t\t\tpg_hit(call, {rule.serial}, {rule.number}, {number});"
    if not wanted and not selector.posts:
        yield "\t\t\t;"


def _tail(plan: HookPlan) -> Iterator[str]:
    """After the rules: the texts that are only reported, and the report."""
    compared = {slot for rule in plan.rules for slot in rule.compared}
    yield "\trefused = pg_send_signals(call);"
    yield "\tif (!call->hits)"
    yield "\t\treturn 0;"
    for number, slot in enumerate(plan.slots):
        if number not in compared:
            yield from _read(plan, number, slot, "\t")
        else:
            yield f"\tif (!(call->slots & {1 << number:#x})) {{"
            yield from _read(plan, number, slot, "\t\t")
            yield "\t}"
    flags = "when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0"
    yield f"\tpg_report(call, workload, {flags}, {len(plan.rules)}, refused);"
    yield "\treturn 0;"
    yield "}"


def _programs(plan: HookPlan, attachment: int) -> Iterator[str]:
    yield ""
    yield f"int {enter_name(plan)}(struct pg_sys_enter *ctx)"
    yield "{"
    yield f"\treturn pg_rules_{plan.syscall}(ctx->args, PG_AT_ENTRY);"
    yield "}"
    if not plan.reads_text:
        return
    when = "ctx->ret == 0 ? PG_AT_EXEC : PG_AT_EXIT" if plan.is_exec else "PG_AT_EXIT"
    yield ""
    yield f"int {exit_name(plan)}(struct pg_sys_exit *ctx)"
    yield "{"
    yield "\t__u64 args[6];"
    yield ""
    yield f"\tif (!pg_resume({attachment}ULL, args))"
    yield "\t\treturn 0;"
    yield f"\treturn pg_rules_{plan.syscall}(args, {when});"
    yield "}"


def _match(rule: Rule, match: ArgMatch) -> str:
    kind = rule.types[match.index]
    if kind.is_number:
        return _numbers(kind, match)
    text = _texts(rule.slots[match.index], match.operator, [v for v in match.values if isinstance(v, bytes)])
    return f"!({text})" if match.operator is Operator.NOT_EQUAL else text


def _numbers(kind: ArgType, match: ArgMatch) -> str:
    reader = f"{_READERS[kind]}(call, {match.index})"
    terms = " || ".join(
        f"({reader} {_COMPARISONS[match.operator]} {_number(value, kind)})"
        for value in match.values
        if isinstance(value, int)
    )
    return f"!({terms})" if match.operator is Operator.NOT_EQUAL else terms


def _number(value: int, kind: ArgType) -> str:
    """A C constant; the smallest signed one cannot be written as the negation of a positive one."""
    if not kind.signed:
        return f"{value}ULL"
    return "(-9223372036854775807LL - 1)" if value == -(1 << 63) else f"{value}LL"


def _texts(slot: int, operator: Operator, values: list[bytes]) -> str:
    """Any of the values. They are grouped by length: one length test, and for a suffix one copy, for each."""
    groups: dict[int, set[bytes]] = defaultdict(set)
    for value in values:
        groups[len(value)].add(value)
    return " || ".join(_group(slot, operator, length, sorted(group)) for length, group in sorted(groups.items()))


def _group(slot: int, operator: Operator, length: int, values: list[bytes]) -> str:
    name = f"s{slot}"
    if operator is Operator.POSTFIX:
        either = " || ".join(_words("t", value) for value in values)
        return f"({{ const struct pg_string *t = pg_tail({name}, {length}); t && ({either}); }})"
    either = " || ".join(_words(name, value) for value in values)
    if operator is Operator.PREFIX:
        return f"(pg_has_head({name}, {length}) && ({either}))"
    return f"(pg_is_whole({name}, {length}) && ({either}))"


def _words(name: str, value: bytes) -> str:
    """The bytes, compared eight at a time; the last word is masked to what the value has of it."""
    if not value:
        return "1"
    terms = []
    for index in range(0, len(value), 8):
        part = value[index : index + 8]
        number, mask = int.from_bytes(part, "little"), _WORD >> (64 - 8 * len(part))
        word = f"pg_word({name}, {index // 8})"
        terms.append(f"{word} == {number:#x}ULL" if mask == _WORD else f"({word} & {mask:#x}ULL) == {number:#x}ULL")
    return "(" + " && ".join(terms) + ")"
