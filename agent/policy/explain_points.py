# SPDX-License-Identifier: Apache-2.0
"""What the programs of a hook are attached to, in words: as the policy has it, and on a node as `resolve` found it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.policy.access import SYSCALLS, HookPoint, PointHook, PointKind
from agent.policy.errors import quote
from agent.policy.explain_words import either
from agent.policy.function_points import FMOD_RET, OVERRIDE_METHOD, OVERRIDE_RETURN, SECURITY, hooked_function
from agent.policy.model import Hook, HookKind, Policy, UprobeTarget
from agent.policy.syscalls import kernel_name

_HELPER = "bpf_override_return"
_EXIT = "syscalls/sys_exit_{event}"
# What stands at the entry of a system call or function and, where it has one, at its return; {event}: of the call.
WAYS = {
    PointKind.SYSCALL: ("syscalls/sys_enter_{event}", _EXIT),
    PointKind.SYSCALL_FENTRY: ("fentry", _EXIT),
    PointKind.SYSCALL_KPROBE: ("a kprobe", _EXIT),
    PointKind.SYSCALL_OVERRIDE: (f"a kprobe with {_HELPER}", _EXIT),
    PointKind.KPROBE: ("a kprobe", "a kretprobe"),
    PointKind.OVERRIDE: (f"a kprobe with {_HELPER}", "a kretprobe"),
    PointKind.FENTRY: ("fentry", "fexit"),
    PointKind.FMOD_RET: ("fmod_ret", "fexit"),
    PointKind.LSM: ("a program of the security module bpf", ""),
}
# How a call is kept from being made.
_MEANS = {
    PointKind.SYSCALL_OVERRIDE: _HELPER,
    PointKind.OVERRIDE: _HELPER,
    PointKind.FMOD_RET: "fmod_ret",
    PointKind.LSM: "the verdict of the security module bpf",
}
_METHODS = {FMOD_RET: "fmod_ret", OVERRIDE_RETURN: _HELPER}
_NOUNS = {
    HookKind.SYSCALL: "the system call",
    HookKind.TRACEPOINT: "the tracepoint",
    HookKind.RAW_TRACEPOINT: "the raw tracepoint",
    HookKind.KPROBE: "the kernel function",
    HookKind.FENTRY: "the kernel function",
    HookKind.LSM: "the LSM hook",
}
_ON_KERNEL = frozenset({HookKind.SYSCALL, HookKind.KPROBE, HookKind.FENTRY, HookKind.LSM})


def describe_points(hook: Hook, found: Sequence[PointHook]) -> Iterator[str]:
    """One entry for each place. found: those on a node; none when it was not asked, or refuses the hook."""
    if hook.target is not None:
        yield _of_file(hook, hook.target)
    elif found and hook.kind in _ON_KERNEL:
        yield from map(_on_node, found)
    elif hook.call_pattern:
        yield f"all kernel functions that match {quote(hook.call_pattern)}"
    else:
        yield from (f"{_NOUNS[hook.kind]} {name}" for name in hook.calls)


def describe_means(hook: Hook, found: Sequence[PointHook], policy: Policy) -> str:
    """How Override is done at a hook of the kernel; "" at other hooks. found: as above."""
    if hook.kind not in _ON_KERNEL:
        return ""
    if known := dict.fromkeys(_MEANS[each.point.kind] for each in found if each.point.kind in _MEANS):
        return f"by {either(known, 'and')}"
    return f"by {either(_possible_means(hook, policy))}; a node that cannot do that refuses the policy"


def _possible_means(hook: Hook, policy: Policy) -> list[str]:
    """Of whatever node."""
    if hook.kind is HookKind.LSM:
        return [_MEANS[PointKind.LSM]]
    if method := policy.options.get(OVERRIDE_METHOD, ""):
        return [_METHODS.get(method, method)]
    names = hook.calls or (hook.call_pattern.removeprefix("^"),)
    if hook.kind is HookKind.SYSCALL or not any(name.startswith(SECURITY) for name in names):
        return [_HELPER]
    return [_MEANS[PointKind.FMOD_RET], _MEANS[PointKind.LSM], _HELPER]


def _on_node(rule: PointHook) -> str:
    point, name = rule.point, hooked_function(rule)
    module = f" of the module {point.module}" if point.module else ""
    at_entry, at_return = WAYS[point.kind]
    both = [at_entry, at_return] if rule.hook.returns and at_return else [at_entry]
    ways = either([way.format(event=kernel_name(name)) for way in both], "and")
    return f"{_NOUNS[rule.hook.kind]} {name}{module}, {_preposition(point)} {ways}{_of_function(rule, name)}"


def _preposition(point: HookPoint) -> str:
    return "at" if point.kind is PointKind.SYSCALL else "by"


def _of_function(rule: PointHook, name: str) -> str:
    """What is hooked, where it has another name."""
    point = rule.point
    if point.kind in SYSCALLS:
        return f" of {point.function}" if point.function else ""
    return f" at its hook {point.name}" if name != point.name else ""


def _of_file(hook: Hook, target: UprobeTarget) -> str:
    path = quote(target.path)
    if hook.kind is HookKind.USDT:
        return f"a uprobe at each location of the USDT probe {hook.calls[0]} of {path}"
    places = [
        *target.symbols,
        *(f"offset {n:#x}" for n in target.offsets),
        *(f"address {n:#x}" for n in target.addresses),
    ]
    kind = "a uprobe and a uretprobe" if hook.returns else "a uprobe"
    return f"{kind} at {either(places, 'and')} of {path}"
