# SPDX-License-Identifier: Apache-2.0
"""What a policy costs, in words and in the plan's own units; how long that takes is a matter of the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.policy.access import HookPoint, PointHook, PointKind
from agent.policy.automaton import SUBSTRING_OPERATORS
from agent.policy.explain_words import count
from agent.policy.lineage import needs_of
from agent.policy.model import ArgType, Hook, HookKind, Policy, Selector
from agent.policy.placed import PlacedPolicy, Rule
from agent.policy.plan import PointPlan, str_point
from agent.policy.sets import TextSet, look_ups, set_bytes, sets_of
from agent.policy.sockets import tracks
from agent.workload.identity import PolicyId

LIGHT, MODERATE = 100, 1500  # comparisons of eight bytes at a call: up to there

_NOWHERE = HookPoint(PointKind.SYSCALL, "")


@dataclass(frozen=True, slots=True)
class Cost:
    """hook_points: how many places are hooked; of a USDT hook that is only known on a node. programs: how many are
    loaded, dispatchers left out; None when the node was not asked. weight: comparisons of eight bytes at the heaviest
    hook point, when every selector is tried, about. estimate: the same in words. notes: what else there is to pay.
    """

    hook_points: int
    programs: int | None
    weight: int
    compares_text: bool
    watches_return: bool
    estimate: str
    notes: tuple[str, ...]


def estimate_cost(policy: Policy, plans: Sequence[PointPlan]) -> Cost:
    """plans: of all hook points of the policy alone; none when the node was not asked."""
    if not plans:
        return _unplanned(policy)
    weights = {str_point(plan.point): sum(rule.weight for rule in plan.rules) for plan in plans}
    where = max(weights, key=lambda name: weights[name])
    return Cost(
        len(plans),
        sum(len(plan.chunks) * (1 + plan.has_return) for plan in plans),
        weights[where],
        any(not value.type.is_number for plan in plans for rule in plan.rules for value in rule.compared)
        or any(_asks_binaries(hook) for hook in policy.hooks),
        any(plan.has_return for plan in plans),
        _estimate(weights[where], where),
        (*_notes(policy), *_chunk_notes(plans)),
    )


def _unplanned(policy: Policy) -> Cost:
    weights = [(hook_weight(policy, hook), hook.call or hook.section) for hook in policy.hooks]
    weight, where = max(weights, key=lambda pair: pair[0])
    return Cost(
        sum(map(count_places, policy.hooks)) + len(policy.enforcers),
        None,
        weight,
        any(map(_compares_text, policy.hooks)),
        any(hook.returns or _may_wait(hook) for hook in policy.hooks) or bool(policy.enforcers),
        _estimate(weight, where),
        tuple(_notes(policy)),
    )


def hook_weight(policy: Policy, hook: Hook) -> int:
    """Of a hook by what it says alone, in the plan's unit."""
    return Rule(PlacedPolicy(policy, PolicyId(0), 0), 0, PointHook(_NOWHERE, 0, hook, ())).weight


def count_places(hook: Hook) -> int:
    """How many hook points a hook names."""
    target = hook.target
    if target is None or hook.kind is HookKind.USDT:
        return max(len(hook.calls), 1)
    return len(target.symbols) + len(target.offsets) + len(target.addresses)


def compared_types(hook: Hook) -> frozenset[ArgType]:
    """The declared types of what the selectors' filters look at, at the entry."""
    pairs = ((s.args, hook.args) for s in hook.selectors), ((s.data, hook.data) for s in hook.selectors)
    return frozenset(
        declared[place].type
        for group in pairs
        for filters, declared in group
        for each in filters
        for place in each.positions
    )


def _compares_text(hook: Hook) -> bool:
    return any(not kind.is_number and kind is not ArgType.AUTO for kind in compared_types(hook)) or _asks_binaries(hook)


def _asks_binaries(hook: Hook) -> bool:
    return any(selector.binaries or selector.parent_binaries for selector in hook.selectors)


def _may_wait(hook: Hook) -> bool:
    """Whether what is compared may not be in memory yet when the call begins."""
    in_process = {kind for kind in compared_types(hook) if not kind.is_number} - {ArgType.FD}
    return hook.kind is HookKind.SYSCALL and bool(in_process)


def _estimate(weight: int, where: str) -> str:
    word = "light" if weight <= LIGHT else "moderate" if weight <= MODERATE else "heavy"
    return (
        f"{word}: trying all selectors takes about as long as {count(weight, 'comparison')} of eight bytes, at {where}"
    )


def _notes(policy: Policy) -> Iterator[str]:
    yield "a call of a process that the policy does not apply to costs the look-up of that alone"
    selectors = [selector for hook in policy.hooks for selector in hook.selectors]
    if any(map(_may_wait, policy.hooks)):
        yield "the exit of the call is watched too: text that is not in memory at the entry is compared there"
    if any(map(_asks_binaries, policy.hooks)):
        yield "the path of a binary is put together by a walk up the file tree, once all other conditions hold"
    if any(kind.is_path for hook in policy.hooks for kind in compared_types(hook)):
        yield "the path of a file is put together by a walk up the file tree, for each call that gets as far"
    if tracks(policy):
        yield (
            "while it is in force, every hit of a tracepoint that looks at a socket, in whatever policy, looks up its "
            "owner, and every change of a TCP socket's state is looked at"
        )
    if any(map(_searches, selectors)):
        yield "SubString looks at each byte of the text"
    yield from _set_notes(policy)
    if any(map(_follows, selectors)):
        yield "forks and execves of all processes are followed, for followChildren, followForks or a change filter"


def _set_notes(policy: Policy) -> Iterator[str]:
    sets = sets_of(policy)
    if not sets:
        return
    values = sum(len(each.values if isinstance(each, TextSet) else each.prefixes) for each in sets)
    looks = sum(map(look_ups, sets))
    memory = -(-sum(map(set_bytes, sets)) // 1024)
    yield (
        f"{count(values, 'value')} are in {count(len(sets), 'set')} in maps, {memory:,} KiB of kernel memory: "
        f"{count(looks, 'look-up')} when all are asked, each about 0.1 µs however many values there are"
    )


def _searches(selector: Selector) -> bool:
    return any(each.operator in SUBSTRING_OPERATORS for each in (*selector.args, *selector.data, *selector.return_args))


def _follows(selector: Selector) -> bool:
    return not needs_of((selector,)).is_empty


def _chunk_notes(plans: Sequence[PointPlan]) -> Iterator[str]:
    for plan in plans:
        if len(plan.chunks) > 1:
            yield f"the rules at {str_point(plan.point)} take {len(plan.chunks)} programs, one after the other"
