# SPDX-License-Identifier: Apache-2.0
"""From what a policy says to where and how it is done on this node: hooks to hook points, arguments to reads.

Everything that depends on the node is decided here, once, before anything is compiled. A policy that this node cannot
carry out whole is refused, with every reason and its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from agent.policy.access import PointHook
from agent.policy.errors import Problems
from agent.policy.facts import FactsError
from agent.policy.function_points import OVERRIDE_METHOD
from agent.policy.model import Hook, HookKind, Policy
from agent.policy.resolve_actions import check_actions, check_enforcers, check_nodes, check_sockets
from agent.policy.resolve_filters import decide_filters
from agent.policy.resolve_function import resolve_functions
from agent.policy.resolve_structures import check_structures
from agent.policy.resolve_syscall import resolve_syscalls
from agent.policy.resolve_tracepoint import resolve_raw_tracepoint, resolve_tracepoint
from agent.policy.resolve_user import resolve_user_hook
from agent.policy.user_facts import HookFacts

_Resolver = Callable[[Hook, int, HookFacts, Problems], tuple[PointHook, ...]]
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
_FUNCTIONS = frozenset({HookKind.KPROBE, HookKind.FENTRY, HookKind.LSM})
_RESOLVERS: dict[HookKind, _Resolver] = {
    HookKind.TRACEPOINT: resolve_tracepoint,
    HookKind.RAW_TRACEPOINT: resolve_raw_tracepoint,
    HookKind.UPROBE: resolve_user_hook,
    HookKind.USDT: resolve_user_hook,
}


def resolve_policy(policy: Policy, facts: HookFacts) -> tuple[PointHook, ...]:
    """All hooks of a policy, numbered through in order. Raises PolicyErrors with every fault."""
    problems = Problems()
    found: list[PointHook] = []
    for hook in policy.hooks:
        found += resolve_hook(hook, len(found), facts, problems, policy.options)
    check_policy(policy, facts, problems)
    problems.check()
    return tuple(found)


def check_policy(policy: Policy, facts: HookFacts, problems: Problems) -> None:
    """Reports what is wrong with a policy beside its hooks."""
    check_nodes(policy, problems)
    try:
        check_enforcers(policy, facts, problems)
    except FactsError as error:
        problems.report(policy.source, error.what, error.advice)


def resolve_hook(
    hook: Hook, number: int, facts: HookFacts, problems: Problems, options: Mapping[str, str] = _NO_OPTIONS
) -> tuple[PointHook, ...]:
    """One hook's, numbered from `number` on. options: those of its policy. Faults are reported; what has any is not to
    be used.
    """
    check_actions(hook, problems)
    try:
        found = _resolver(hook, options)(hook, number, facts, problems)
        for each in found:
            check_sockets(each, problems)
            check_structures(each, facts, problems)
        return tuple(decide_filters(each, problems) for each in found)
    except FactsError as error:
        problems.report(hook.source, error.what, error.advice)
        return ()


def _resolver(hook: Hook, options: Mapping[str, str]) -> _Resolver:
    method = options.get(OVERRIDE_METHOD, "")
    if hook.kind in _FUNCTIONS:
        return partial(resolve_functions, method=method)
    return partial(resolve_syscalls, method=method) if hook.kind is HookKind.SYSCALL else _RESOLVERS[hook.kind]
