# SPDX-License-Identifier: Apache-2.0
"""The programs themselves: who is selected, the chunks one after the other, the end of the call."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy import codegen_sock as sock
from agent.policy.access import TRAMPOLINES, VERDICTS, Input, InputKind, PointKind
from agent.policy.codegen_first import first_look
from agent.policy.codegen_unit import CONTEXTS, Side, Unit, indent
from agent.policy.codegen_value import SYSCALL_REGISTERS, load_input

_FORMS = {
    PointKind.RAW_TRACEPOINT: "raw",
    PointKind.UPROBE: "registers",
    PointKind.USDT: "registers",
    PointKind.KPROBE: "kprobe",
    PointKind.OVERRIDE: "kprobe",
    PointKind.FENTRY: "function",
    PointKind.FMOD_RET: "function",
    PointKind.LSM: "raw",
}
# How the function of a system call gets at a register of the process.
_CALL_REGISTERS = {
    PointKind.SYSCALL_FENTRY: "pg_call_register",
    PointKind.SYSCALL_KPROBE: "pg_probed_call_register",
    PointKind.SYSCALL_OVERRIDE: "pg_probed_call_register",
}
# Where a call's return address stands, by what there is at the entry and at the return: the same for both.
_FRAMES = {
    **dict.fromkeys((PointKind.UPROBE, PointKind.KPROBE), ("ctx->sp", "ctx->sp - 8")),
    **dict.fromkeys((PointKind.FENTRY, PointKind.FMOD_RET), ("(__u64)ctx", "(__u64)ctx")),
}
_NO_FRAME = ("0", "0")


def enter_program(unit: Unit) -> Iterator[str]:
    context = CONTEXTS[unit.plan.point.kind]
    if unit.plan.forgets:  # whatever becomes of the call: when it goes on in another program, that one does
        yield f"PG_INLINE int {unit.name('body')}({context} *ctx)"
        yield from _enter_body(unit)
        yield ""
        yield f"{_result(unit)} {unit.name('enter')}({context} *ctx)"
        yield from ("{", f"\t{unit.name('body')}(ctx);", sock.FORGET, "\treturn 0;", "}")
        return
    yield f"{_result(unit)} {unit.name('enter')}({context} *ctx)"
    yield from _enter_body(unit)


def _result(unit: Unit) -> str:
    """Of a verdict the verifier would lose sight of its bounds where it becomes an int."""
    return "long" if unit.plan.overrides and unit.plan.point.kind in VERDICTS else "int"


def _enter_body(unit: Unit) -> Iterator[str]:
    yield "{"
    if unit.chunk.sockets:
        yield from _begin_owned(unit)
    elif unit.number:
        yield f"\tstruct pg_call *call = pg_continue({_place(unit, Side.ENTER, unit.number)});"
        yield from _declare_verdict(unit)
        yield ""
        yield "\tif (!call)"
        yield "\t\treturn 0;"
        yield from _keep_inputs(unit)
    else:
        yield from _begin(unit)
        yield from _keep_inputs(unit)
    yield f"\tif ({unit.name('rules')}(ctx, call, PG_AT_ENTRY)) {{"
    yield from indent(_end_entry(unit), 2)
    yield "\t}"
    if unit.returning:
        yield "\tif (call->awaiting)"
        event = "call->kept ? pg_event_of(call->context) : NULL"
        keep = "pg_keep_exec_return" if unit.plan.is_exec else "pg_keep_return"
        yield f"\t\t{keep}(call, {event}, {_return_key(unit, Side.ENTER)}, {unit.place.generation});"
    yield from _next(unit, Side.ENTER)


def _begin(unit: Unit) -> Iterator[str]:
    yield f"\t__u64 p[{max(1, len(_words(unit)))}] = {{}};"
    yield "\tstruct pg_call *call;"
    yield "\t__u32 workload = 0;"
    yield from _declare_verdict(unit)
    yield ""
    if unit.plan.enforced:
        yield "\tpg_enforce();"
    yield from _look(unit)
    yield f"\tif (!{_select(unit)})"
    yield "\t\treturn 0;"
    if not unit.plan.asks_owners:
        words = _words(unit)
        selected = (f"(p[{words.index(word)}] & {mask:#x}ULL)" for word, mask in unit.plan.words.items())
        yield f"\tif (!({' || '.join(selected) or '0'}))"
        yield "\t\treturn 0;"
    yield "\tcall = pg_begin();"
    if unit.plan.overrides:
        yield "\tif (!call) {"
        yield f"\t\tverdict = pg_unchecked({_enforced(unit)});"
        yield from indent(_give_verdict(unit), 2)
        yield "\t}"
    else:
        yield "\tif (!call)"
        yield "\t\treturn 0;"
    yield from _keep_selection(unit)


def _look(unit: Unit) -> Iterator[str]:
    """Ends the program for calls that no rule is about."""
    look = first_look(unit.plan)
    if look is None:
        return
    yield "\t{"
    for n, wanted in enumerate(look.inputs):
        yield f"\t\t__u64 a{n} = {_at_entry(unit, wanted)};"
    yield ""
    yield f"\t\tif (!({' || '.join(f'({term})' for term in look.terms)}))"
    yield "\t\t\treturn 0;"
    yield "\t}"


def _at_entry(unit: Unit, wanted: Input) -> str:
    """An input in the context of an entry's program."""
    kind = unit.plan.point.kind
    if kind in _CALL_REGISTERS and wanted.kind is InputKind.ARGUMENT:
        return f"{_CALL_REGISTERS[kind]}(ctx, {SYSCALL_REGISTERS[wanted.number]})"
    return load_input(wanted, _FORMS.get(kind, "tracepoint"))


def _enforced(unit: Unit) -> str:
    """Whether the process is subject to a policy that overrides and is not in monitor mode."""
    words = _words(unit)
    masks = unit.plan.overriding_words
    terms = (f"(p[{words.index(word)}] & {mask:#x}ULL & ~pg_monitored({word}))" for word, mask in masks.items())
    return " | ".join(terms)


def _end_entry(unit: Unit) -> Iterator[str]:
    """The end of the entry's programs: the call is made, or not."""
    if not unit.plan.overrides:
        yield "pg_release(call);"
        yield "return 0;"
        return
    yield "verdict = pg_verdict(call);"
    if unit.plan.may_defer:
        yield "if (verdict)"
        yield "\tpg_drop_deferred();"
    yield "pg_release(call);"
    yield from _give_verdict(unit)


def _give_verdict(unit: Unit) -> Iterator[str]:
    """The variable `verdict` to the kernel."""
    if unit.plan.point.kind in VERDICTS:
        yield "return verdict;"
        return
    yield f"pg_ask_override({unit.place.attachment}, verdict);"
    yield "return 0;"


def _declare_verdict(unit: Unit) -> Iterator[str]:
    if unit.plan.overrides:
        yield "\tlong verdict;"


def _begin_owned(unit: Unit) -> Iterator[str]:
    """Of a program that is asked of a socket's owner: it selects anew, whatever the one before it found."""
    place = _place(unit, Side.ENTER, unit.number)
    yield f"\tstruct pg_call *call = {f'pg_continue({place})' if unit.number else 'pg_begin()'};"
    yield f"\t__u64 p[{max(1, len(_words(unit)))}] = {{}};"
    yield from _declare_owner()
    yield from _declare_verdict(unit)
    yield ""
    yield "\tif (!call) {"
    if unit.plan.overrides and not unit.number:
        yield f"\t\tif (!{_select(unit)})"
        yield "\t\t\treturn 0;"
        yield f"\t\tverdict = pg_unchecked({_enforced(unit)});"
        yield from indent(_give_verdict(unit), 2)
    else:
        yield "\t\treturn 0;"
    yield "\t}"
    yield from _keep_inputs(unit)
    yield from sock.choose_subject(unit.chunk, _words(unit), tuple(_end_entry(unit)))
    yield from _keep_selection(unit)


def _declare_owner() -> Iterator[str]:
    """What `sock.choose_subject` works with, beside `p` and `call`."""
    yield f"\tstruct pg_owner *{sock.OWNER};"
    yield "\t__u32 workload = 0;"
    yield "\tlong error = 0;"
    yield "\t__u64 n = 0;"


def _select(unit: Unit) -> str:
    return f"pg_select(p, &workload, {sum(1 << word for word in _words(unit)):#x}, {int(unit.plan.is_exec)})"


def _words(unit: Unit) -> list[int]:
    return sorted(set(unit.plan.words).union(*(chunk.workload_words for chunk in unit.plan.chunks)))


def _keep_selection(unit: Unit) -> Iterator[str]:
    yield "\tcall->workload = workload;"
    for place, word in enumerate(_words(unit)):
        yield f"\tcall->policies[{word}] = p[{place}];"


def _keep_inputs(unit: Unit) -> Iterator[str]:
    """Where a call has a return, the first chunk keeps those of all; else each has its own."""
    if unit.number and unit.plan.shares_inputs:
        return
    for place, wanted in enumerate(unit.chunk.inputs):
        yield f"\tcall->in[{place}] = {_at_entry(unit, wanted)};"


def _next(unit: Unit, side: Side) -> Iterator[str]:
    """The next chunk's program, or the end of the call."""
    following = unit.number + 1
    if following < len(unit.plan.chunks):
        slots = unit.place.enter_slots if side is Side.ENTER else unit.place.exit_slots
        yield f"\tcall->place = {_place(unit, side, following)};"
        yield f"\tpg_once(call->slot) = {slots[following]};"
        yield f"\tpg_tail_call(ctx, {unit.slots(side)}, pg_once(call->slot));"
    elif side is Side.EXIT and unit.plan.is_exec:
        yield "\tpg_forget_exec();"
    if side is Side.ENTER:
        yield from indent(_end_entry(unit), 1)
    else:
        yield "\tpg_release(call);"
        yield "\treturn 0;"
    yield "}"


def _place(unit: Unit, side: Side, number_: int) -> str:
    return f"pg_place({unit.place.attachment}ULL, {int(side is Side.EXIT)}, {number_})"


def _frame(unit: Unit, side: Side) -> str:
    """What tells a call from another of the same thread: where its return address stands, or its trampoline's frame."""
    at_entry, at_return = _FRAMES.get(unit.plan.point.kind, _NO_FRAME)
    return at_entry if side is Side.ENTER else at_return


def _return_key(unit: Unit, side: Side) -> str:
    fields = f".frame = {_frame(unit, side)}, .attachment = {unit.place.attachment}, .chunk = {unit.number}"
    return f"(struct pg_return_key){{.pid_tgid = bpf_get_current_pid_tgid(), {fields}}}"


def exit_program(unit: Unit) -> Iterator[str]:
    kind = unit.plan.point.kind
    context = "struct pg_sys_exit" if unit.plan.point.is_syscall else CONTEXTS[kind]
    yield f"int {unit.name('exit')}({context} *ctx)"
    yield "{"
    yield f"\t__u64 p[{max(1, len(_words(unit)))}] = {{}};"
    yield from _declare_owner() if unit.chunk.sockets else ("\t__u32 workload = 0;",)
    yield f"\tstruct pg_call *call = {_resumed(unit)};"
    yield f"\tint when = {_when(unit)};"
    yield ""
    if unit.plan.enforced and not unit.number:
        yield "\tpg_enforce();"
    yield "\tif (!call)"
    yield "\t\treturn 0;"
    if not unit.number:
        yield f"\tcall->ret = {_returned(unit)};"
    if unit.chunk.sockets:
        yield from sock.choose_subject(unit.chunk, _words(unit), ("pg_release(call);", "return 0;"))
        yield from _keep_selection(unit)
    elif not unit.number:
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


def _returned(unit: Unit) -> str:
    kind = unit.plan.point.kind
    if unit.plan.point.is_syscall:
        return "ctx->ret"
    return "(__s64)pg_result(ctx)" if kind in TRAMPOLINES else "(__s64)ctx->ax"


def _resumed(unit: Unit) -> str:
    if unit.number:
        return f"pg_continue({_place(unit, Side.EXIT, unit.number)})"
    returns = any(rule.returns for rule in unit.plan.rules)
    attachment, generation = unit.place.attachment, unit.place.generation
    options = f"{_frame(unit, Side.EXIT)}, {int(unit.plan.may_defer)}, {int(returns)}"
    return f"pg_resume({attachment}, {generation}, {options})"


def _when(unit: Unit) -> str:
    return "ctx->ret == 0 ? PG_AT_EXEC : PG_AT_EXIT" if unit.plan.is_exec else "PG_AT_EXIT"


def _select_late(unit: Unit) -> Iterator[str]:
    yield f"\tif (!{_select(unit)}) {{"
    yield "\t\tpg_release(call);"
    yield "\t\treturn 0;"
    yield "\t}"
    yield from _keep_selection(unit)
