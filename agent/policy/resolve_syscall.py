# SPDX-License-Identifier: Apache-2.0
"""Hooks on system calls: one hook point for each call."""

from __future__ import annotations

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointHook, PointKind, Read, Value
from agent.policy.errors import Problems, quote
from agent.policy.facts import Facts, FactsError
from agent.policy.function_points import OverrideError, choose_syscall_point, override_of
from agent.policy.leaf import Leaf, LeafKind
from agent.policy.model import Arg, ArgType, Hook
from agent.policy.resolve_call import Call, resolve_argument
from agent.policy.resolve_data import resolve_data
from agent.policy.resolve_faults import ResolveError, resolve_each
from agent.policy.resolve_types import resolve_value


def resolve_syscalls(
    hook: Hook, number: int, facts: Facts, problems: Problems, method: str = ""
) -> tuple[PointHook, ...]:
    """One for each call that this kernel has; with `ignore_missing` that may be none. method: the policy's option
    `override-method`, "" without.
    """
    calls = []
    for name in hook.calls:
        try:
            fields = facts.syscall(name)
        except FactsError as error:
            problems.report(hook.source, error.what, error.advice)
            return ()
        if fields is not None:
            calls.append(Call(name, fields, _argument, returns=hook.returns))
        elif not hook.ignore_missing:
            what = f"this kernel has no system call {quote(name)}"
            problems.report(hook.source, what, "leave it out, or set `ignore.callNotFound: true`")
    data = resolve_each(hook.data, lambda entry: resolve_data(entry, facts), hook, problems) if calls else ()
    points = [_point(hook, call.name, facts, problems, method) for call in calls]
    found = enumerate(zip(calls, points, strict=True))
    return tuple(_resolve(hook, number + n, call, point, data, facts, problems) for n, (call, point) in found)


def _point(hook: Hook, call: str, facts: Facts, problems: Problems, method: str) -> HookPoint:
    """With a fault that is reported any: it is not used."""
    try:
        return choose_syscall_point(call, hook, facts, method)
    except OverrideError as fault:
        override = override_of(hook)
        problems.report((override.source if override else None) or hook.source, fault.what, fault.advice)
        return HookPoint(PointKind.SYSCALL, call)


def _resolve(
    hook: Hook,
    number: int,
    call: Call,
    point: HookPoint,
    data: tuple[tuple[Arg, Value | None], ...],
    facts: Facts,
    problems: Problems,
) -> PointHook:
    args = resolve_each(hook.args, lambda arg: resolve_argument(arg, call, hook, facts), hook, problems)
    wanted = (hook.return_arg,) if hook.returns and hook.return_arg is not None else ()
    returned = resolve_each(wanted, lambda arg: _resolve_return(arg, hook), hook, problems)
    return PointHook(point, number, hook, args, data, returned[0] if returned else None)


def _argument(index: int) -> Input:
    return Input(InputKind.ARGUMENT, index)


def _resolve_return(arg: Arg, hook: Hook) -> Value | None:
    """A number, or the file that a returned descriptor stands for."""
    if arg.resolve or arg.btf_type or arg.size_arg is not None:
        raise ResolveError(
            "what a system call returns is a number, without members and length", "leave all but `type` out"
        )
    if hook.return_arg_action is not None:
        raise ResolveError(
            f"returnArgAction {hook.return_arg_action.value} needs a sock, and a system call returns a number",
            "leave it out",
        )
    if not (arg.type.is_number or arg.type in (ArgType.AUTO, ArgType.FD, ArgType.NOP)) or arg.type is ArgType.SYSCALL64:
        raise ResolveError(
            f"a system call does not return type {arg.type.value}", "use type: long, or type: fd for a descriptor"
        )
    read = Read(Input(InputKind.RETURN, signed=True))
    leaf = Leaf(LeafKind.REGISTER, read, "what the call returns", signed=True, memory=Memory.USER)
    _, value = resolve_value(arg, leaf)
    return None if value is None else Value(value.type, value.read, value.memory, at_return=True)
