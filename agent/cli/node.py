# SPDX-License-Identifier: Apache-2.0
"""What this node makes of policies, without an agent and without loading anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.kernel.errors import KernelError
from agent.kernel.mounts import ensure_tracefs, unmount
from agent.kernel.node_facts import NodeFacts
from agent.kernel.process_scan import read_host_namespaces
from agent.placing import Placer, Resolved
from agent.policy.access import PointHook
from agent.policy.automaton import SubstringTooLongError
from agent.policy.errors import PolicyError, PolicyErrors, Problems
from agent.policy.explain import NodeView
from agent.policy.lineage import LineageError, LineageTable, needs_of
from agent.policy.model import Policy
from agent.policy.plan import PlanError, PointPlan, hook_points, plan_hooks
from agent.policy.resolve import check_policy, resolve_hook
from agent.policy.user_facts import HookFacts

_TOO_LARGE = "use fewer selectors or values, or spread them over several hook points"


class NodeUnknownError(Exception):
    """The node cannot be asked: why, and what to do."""


@contextmanager
def open_node() -> Iterator[HookFacts]:
    """The kernel and the files of this node. Where tracefs is not mounted, it is, at a place of its own, for as long.
    Raises NodeUnknownError.
    """
    if os.geteuid() != 0:
        raise NodeUnknownError(f"asking this node takes root, and this is uid {os.geteuid()}")
    with _tracefs() as tracefs, NodeFacts(tracefs) as facts:
        yield facts


@contextmanager
def _tracefs() -> Iterator[Path]:
    private = Path(tempfile.mkdtemp(prefix="podgate-tracing-"))
    try:
        tracefs, mounted = ensure_tracefs(private)
    except KernelError as error:
        private.rmdir()
        raise NodeUnknownError(str(error)) from error
    try:
        yield tracefs
    finally:
        if mounted:
            unmount(private)
        private.rmdir()


def look_at(policy: Policy, facts: HookFacts) -> NodeView:
    """One policy as if it were the only one; whatever is wrong with it is in the view."""
    errors: list[PolicyError] = []
    hooks = _resolve(policy, facts, errors)
    plans: tuple[PointPlan, ...] = ()
    if not errors:
        try:
            plans = make_plans([Resolved(policy, tuple(each for places in hooks for each in places))])
        except (PlanError, LineageError, SubstringTooLongError, KernelError) as error:
            source = policy.source
            errors.append(PolicyError(source.file, source.line, source.column, str(error), _TOO_LARGE))
    return NodeView(hooks, plans, tuple(errors))


def _resolve(policy: Policy, facts: HookFacts, errors: list[PolicyError]) -> tuple[tuple[PointHook, ...], ...]:
    """For each hook its places, numbered through; none of one with faults."""
    places: list[tuple[PointHook, ...]] = []
    for hook in policy.hooks:
        problems = Problems()
        try:
            found = resolve_hook(hook, sum(map(len, places)), facts, problems, policy.options)
            problems.check()
        except PolicyErrors as error:
            errors += error.errors
            found = ()
        places.append(found)
    _check_rest(policy, facts, errors)
    return tuple(places)


def _check_rest(policy: Policy, facts: HookFacts, errors: list[PolicyError]) -> None:
    """What is wrong with a policy beside its hooks."""
    problems = Problems()
    try:
        check_policy(policy, facts, problems)
        problems.check()
    except PolicyErrors as error:
        errors += error.errors


def make_plans(resolved: Sequence[Resolved]) -> tuple[PointPlan, ...]:
    """Of all hook points of these policies together. Raises PlanError, LineageError, SubstringTooLongError,
    KernelError.
    """
    selectors = (selector for each in resolved for hook in each.policy.hooks for selector in hook.selectors)
    lineage = LineageTable().change(needs_of(selectors), 0)
    placed = Placer(read_host_namespaces()).place(resolved, (), lineage)
    points = frozenset().union(*map(hook_points, placed))
    return tuple(plan_hooks(placed, points).values())
