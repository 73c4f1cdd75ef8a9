# SPDX-License-Identifier: Apache-2.0
"""A policy in words: whom it applies to, what it hooks and does there, what that costs, and what it does not do.

All of it is in the model; what depends on a node is there when the node was asked (`NodeView`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.policy.access import PointHook
from agent.policy.errors import PolicyError, PolicyErrors, Problems
from agent.policy.explain_cost import Cost, estimate_cost
from agent.policy.explain_points import describe_means, describe_points
from agent.policy.explain_selectors import conditions, describe_actions, return_conditions
from agent.policy.explain_traps import Trap, find_traps
from agent.policy.explain_values import describe_values
from agent.policy.explain_workloads import applies_to
from agent.policy.gaps import Gap, find_gaps
from agent.policy.model import Hook, Policy, PolicyMode, Selector
from agent.policy.plan import PointPlan, str_point
from agent.policy.resolve_actions import check_actions, check_nodes


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node makes of a policy. hooks: for each of the policy's, in order, its places. plans: of all hook points,
    of the policy alone; none when there are errors, for the node refuses the policy then.
    """

    hooks: tuple[tuple[PointHook, ...], ...]
    plans: tuple[PointPlan, ...]
    errors: tuple[PolicyError, ...]

    def gaps(self, policy: Policy) -> tuple[Gap, ...]:
        """What the node leaves out, as the policy lets it; none when it refuses the policy."""
        return () if self.errors else find_gaps(policy, (each for found in self.hooks for each in found))


@dataclass(frozen=True, slots=True)
class SelectorText:
    """number: in the hook's selectors. when: its conditions. then: what a match does, one entry each."""

    number: int
    label: str
    when: str
    then: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HookText:
    """One hook. through: what its programs are attached to. places: where on this node, when it was asked. at_return:
    the second list, asked at the return; when there is one and none of it holds, there is no event.
    """

    section: str
    kind: str
    call: str
    through: tuple[str, ...]
    places: tuple[str, ...]
    message: str
    values: tuple[str, ...]
    selectors: tuple[SelectorText, ...]
    returns: bool
    at_return: tuple[SelectorText, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """asked: whether the node was. refusals: why it refuses the policy; when it was not asked, why every node does.
    gaps: what it leaves out, as the policy lets it.
    """

    policy: str
    kind: str
    source: str
    mode: str
    applies_to: str
    enforcers: tuple[str, ...]
    hooks: tuple[HookText, ...]
    cost: Cost
    asked: bool
    refusals: tuple[PolicyError, ...]
    traps: tuple[Trap, ...]
    gaps: tuple[Gap, ...] = ()


def explain_policy(policy: Policy, node: NodeView | None = None) -> Explanation:
    """Without a node what the policy says by itself."""
    places = node.hooks if node else ((),) * len(policy.hooks)
    return Explanation(
        str(policy.key),
        policy.kind.value,
        str(policy.source),
        _mode(policy),
        applies_to(policy),
        policy.enforcers,
        tuple(_hook(hook, found, policy) for hook, found in zip(policy.hooks, places, strict=True)),
        estimate_cost(policy, node.plans if node else ()),
        node is not None,
        node.errors if node else refused_anywhere(policy),
        find_traps(policy, places),
        node.gaps(policy) if node else (),
    )


def refused_anywhere(policy: Policy) -> tuple[PolicyError, ...]:
    """What of a policy this version does on no node."""
    problems = Problems()
    try:
        for hook in policy.hooks:
            check_actions(hook, problems)
        check_nodes(policy, problems)
        problems.check()
    except PolicyErrors as error:
        return error.errors
    return ()


def _mode(policy: Policy) -> str:
    if not policy.enforces:
        return f"{policy.mode.value}: it has no action that enforces, and only observes"
    if policy.mode is PolicyMode.MONITOR:
        return "monitor: actions that enforce are counted and left out"
    return "enforce: actions that enforce are carried out"


def _hook(declared: Hook, found: Sequence[PointHook], policy: Policy) -> HookText:
    first = found[0] if found else None
    hook = first.hook if first else declared
    means = describe_means(hook, found, policy)
    return HookText(
        hook.section,
        hook.kind.value,
        hook.call,
        tuple(describe_points(hook, found)),
        tuple(str_point(each.point) for each in found),
        hook.message,
        describe_values(hook, first),
        tuple(_entry(number, each, hook, policy, means) for number, each in enumerate(hook.selectors)),
        hook.returns,
        tuple(_return(number, each, hook) for number, each in hook.return_selectors),
    )


def _entry(number: int, selector: Selector, hook: Hook, policy: Policy, means: str) -> SelectorText:
    then = describe_actions(selector.actions, hook, means=means)
    return SelectorText(number, selector.label, conditions(selector, hook, policy), then)


def _return(number: int, selector: Selector, hook: Hook) -> SelectorText:
    then = describe_actions(selector.return_actions, hook, at_return=True)
    return SelectorText(number, selector.label, return_conditions(selector, hook), then)
