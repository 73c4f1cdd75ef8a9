# SPDX-License-Identifier: Apache-2.0
"""The policies of this node: from text to rules in force, and their status.

Theory of operation. A change goes through four steps, and only the last two touch what is in force:

1. text -> policies (all errors with their places);
2. its hooks are resolved on this node: hook points, and how each value is read there;
3. rules of every hook point that the change concerns are compiled and loaded, the new beside the old, and swapped in:
   the new rules run, but no workload has their bits yet;
4. the bits of the new policies are set and those of replaced ones are cleared, in one write for each workload.

A deleted policy's bits are cleared first, so it ends at once; then its rules go. A bit is given out again when no
rules with it are left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from agent.hooks.gate import Gate
from agent.kernel.errors import KernelError
from agent.kernel.hookpoints import HookPoints
from agent.kernel.lineage import Lineage
from agent.kernel.rule_state import RuleState
from agent.logs import fields
from agent.placing import Placer, Resolved, bits_of
from agent.policy.access import HookPoint
from agent.policy.automaton import SubstringTooLongError
from agent.policy.errors import PolicyErrors
from agent.policy.lineage import LineageError, LineageNeeds, needs_of
from agent.policy.model import Policy, PolicyKey, PolicyMode
from agent.policy.plan import PlacedPolicy, PlanError, PointPlan, hook_points, plan_hooks
from agent.policy.reader import parse_policies
from agent.policy.resolve import resolve_policy
from agent.policy.user_facts import HookFacts
from agent.workload.identity import PolicyId
from agent.workload.scopes import Scope, scope_of, scope_of_selector

log = logging.getLogger("podgate.policies")


class PolicyState(Enum):
    ENABLED = "enabled"
    LOAD_ERROR = "load_error"


class Change(Enum):
    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    DELETED = "deleted"
    MODE = "mode"


class PolicyRejected(Exception):  # noqa: N818 - named as the outcome that it is
    """The kernel's side refused: nothing has changed. The text is the compiler's or the verifier's last lines."""


class NoSuchPolicy(Exception):  # noqa: N818 - as above
    def __init__(self, key: PolicyKey, known: Iterable[PolicyKey]) -> None:
        super().__init__(key)
        self.key = key
        self.known = tuple(known)

    def __str__(self) -> str:
        names = ", ".join(map(str, self.known)) or "none"
        return f"no policy {self.key} here; there are: {names}"


class PolicySink(Protocol):
    """Who has to know policies before their events come. Must not block."""

    def policy_added(self, placed: PlacedPolicy) -> None: ...

    def policy_removed(self, serial: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """placed is None when its rules never were in force. error: of the last attempt."""

    policy: Policy
    placed: PlacedPolicy | None
    error: str = ""

    @property
    def state(self) -> PolicyState:
        return PolicyState.ENABLED if self.placed else PolicyState.LOAD_ERROR


@dataclass(frozen=True, slots=True)
class Outcome:
    entry: Entry
    change: Change
    milliseconds: int


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What a PolicyStore changes. facts: what is known of this node, read anew for each change."""

    hookpoints: HookPoints[PointPlan]
    gate: Gate
    sink: PolicySink
    state: RuleState
    lineage: Lineage
    placer: Placer
    facts: Callable[[], AbstractContextManager[HookFacts]]


class PolicyStore:
    """One change at a time; reading never waits for one."""

    def __init__(self, parts: StoreParts) -> None:
        self._change = threading.Lock()
        self._parts = parts
        self._entries: dict[PolicyKey, Entry] = {}
        self._burned: set[PolicyId] = set()
        self._lingering: set[PolicyId] = set()
        """Bits of ended policies whose rules calls may still come to."""

    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for _, entry in sorted(self._entries.items(), key=lambda item: str(item[0])))

    def placed(self) -> tuple[PlacedPolicy, ...]:
        return tuple(entry.placed for entry in list(self._entries.values()) if entry.placed)

    def mode(self, entry: Entry) -> PolicyMode:
        """The one in force."""
        return self._parts.state.mode(entry.placed) if entry.placed else entry.policy.mode

    def counts(self, entry: Entry) -> Counter[str]:
        """What its rules did since they are in force."""
        return self._parts.state.counts(entry.placed) if entry.placed else Counter()

    def selector_counts(self, entry: Entry) -> dict[tuple[int, int, bool], Counter[str]]:
        """The same by (rule, selector, whether it is one of the return's); those that did nothing are left out."""
        return self._parts.state.selector_counts(entry.placed) if entry.placed else {}

    def add_text(self, text: bytes, file: str, mode: PolicyMode | None = None) -> tuple[Outcome, ...]:
        """All policies of a file or none. mode: instead of what they say. Raises PolicyErrors or PolicyRejected, and
        then the rules in force are what they were.
        """
        policies = parse_policies(text, file)
        return self.add(replace(policy, mode=mode) for policy in policies) if mode else self.add(policies)

    def add(self, policies: Iterable[Policy]) -> tuple[Outcome, ...]:
        began = time.monotonic()
        with self._change:
            wanted = tuple(policies)
            _refuse_twins(wanted)
            fresh = [policy for policy in wanted if not self._is_in_force(policy)]
            try:
                changes = self._put_in_force(fresh)
            except (KernelError, PlanError, LineageError, SubstringTooLongError) as error:
                self._note_failure(fresh, str(error))
                raise PolicyRejected(str(error)) from error
            except PolicyErrors as error:
                self._note_failure(fresh, str(error))
                raise
            spent = int((time.monotonic() - began) * 1000)
            return tuple(Outcome(self._entries[p.key], changes.get(p.key, Change.UNCHANGED), spent) for p in wanted)

    def delete(self, key: PolicyKey) -> Outcome:
        """Raises NoSuchPolicy."""
        began = time.monotonic()
        with self._change:
            entry = self._find(key)
            del self._entries[key]
            if entry.placed:
                self._deselect(entry.placed)
                self._clean_up([entry.placed])
            return Outcome(entry, Change.DELETED, int((time.monotonic() - began) * 1000))

    def set_mode(self, key: PolicyKey, mode: PolicyMode) -> Outcome:
        """Raises NoSuchPolicy; PolicyRejected for one that is not in force, or that enforces nothing."""
        began = time.monotonic()
        with self._change:
            entry = self._find(key)
            if entry.placed is None:
                raise PolicyRejected(f"{key} is not in force: {entry.error}")
            if not entry.policy.enforces:
                raise PolicyRejected(f"{key} has no action that enforces: there is nothing to switch")
            try:
                self._parts.state.set_mode(entry.placed, mode)
            except KernelError as error:
                raise PolicyRejected(str(error)) from error
            return Outcome(entry, Change.MODE, int((time.monotonic() - began) * 1000))

    def settle(self) -> None:
        """Gives up what only calls of ended rules still needed, when there is none any more."""
        with self._change:
            if self._parts.hookpoints.settle():
                self._lingering.clear()

    def settle_lineage(self) -> int:
        """Records for processes that got none when there was no room; how many."""
        with self._change:
            return self._parts.lineage.settle()

    def _find(self, key: PolicyKey) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise NoSuchPolicy(key, sorted(self._entries, key=str))
        return entry

    def _is_in_force(self, policy: Policy) -> bool:
        entry = self._entries.get(policy.key)
        same = entry and entry.placed and entry.policy.text_digest == policy.text_digest
        return bool(same and entry and self.mode(entry) is policy.mode)

    def _put_in_force(self, policies: list[Policy]) -> dict[PolicyKey, Change]:
        if not policies:
            return {}
        placed = self._place(self._resolve(policies))
        replaced = [old.placed for policy in policies if (old := self._entries.get(policy.key)) and old.placed]
        points = frozenset().union(*(hook_points(each) for each in (*placed, *replaced)))
        try:
            for new in placed:
                self._parts.state.prepare(new)
            self._compile((*self.placed(), *placed), points)
        except (KernelError, PlanError):
            self._forget(placed)
            raise
        for new in placed:
            self._parts.sink.policy_added(new)
        self._select(placed, replaced)
        before = {old.policy.key for old in replaced}
        changes = {new.policy.key: Change.REPLACED if new.policy.key in before else Change.ADDED for new in placed}
        self._entries |= {new.policy.key: Entry(new.policy, new) for new in placed}
        self._clean_up(replaced)
        return changes

    def _resolve(self, policies: list[Policy]) -> list[Resolved]:
        with self._parts.facts() as facts:
            return [Resolved(policy, resolve_policy(policy, facts)) for policy in policies]

    def _place(self, resolved: list[Resolved]) -> list[PlacedPolicy]:
        """What processes descend from is known before the rules ask for it."""
        needs = _needs((*(each.policy for each in self.placed()), *(each.policy for each in resolved)))
        taken = {bit for placed in self.placed() for bit in bits_of(placed)} | self._burned | self._lingering
        lineage = self._parts.lineage.change(needs)
        try:
            return self._parts.placer.place(resolved, taken, lineage)
        except (KernelError, SubstringTooLongError):
            self._forget([])
            raise

    def _select(self, new: list[PlacedPolicy], old: list[PlacedPolicy]) -> None:
        """Raises KernelError when a binding cannot be written; the old policies are selected again then, and the new
        rules go.
        """
        try:
            self._parts.gate.select(_scopes(new), _bits(old))
        except KernelError:
            try:
                self._parts.gate.select(_scopes(old), _bits(new))
            except KernelError as error:
                self._burned |= set(_bits(new))
                log.error("bindings keep bits of policies that are not in force", extra=fields(error=str(error)))
            self._clean_up(new)
            raise

    def _deselect(self, placed: PlacedPolicy) -> None:
        """What is left of its bits where a binding cannot be written ends with its rules."""
        try:
            self._parts.gate.select((), bits_of(placed))
        except KernelError as error:
            self._burned |= set(bits_of(placed))
            log.error("bindings keep bits of an ended policy", extra=fields(error=str(error)))

    def _clean_up(self, gone: list[PlacedPolicy]) -> None:
        """Takes the rules of policies that select nobody any more out of the programs.

        When that fails they stay there, harmless but for their cost, and their bits are never given to other policies.
        """
        if not gone:
            return
        try:
            self._lingering |= set(_bits(gone))
            self._compile(self.placed(), frozenset().union(*map(hook_points, gone)))
            if self._parts.hookpoints.settle():
                self._lingering.clear()
            self._forget(gone)
        except (KernelError, PlanError) as error:
            self._burned |= set(_bits(gone))
            log.error(
                "rules of ended policies stay in the programs; they select nobody", extra=fields(error=str(error))
            )
        for old in gone:
            self._parts.sink.policy_removed(old.serial)

    def _forget(self, gone: list[PlacedPolicy]) -> None:
        """What only these needed, when no program uses it."""
        self._parts.state.forget(gone, self._parts.placer.forget(self.placed()))
        self._parts.lineage.change(_needs(each.policy for each in self.placed()))

    def _compile(self, placed: Iterable[PlacedPolicy], points: frozenset[HookPoint]) -> None:
        plans = plan_hooks(placed, points)
        self._parts.hookpoints.apply({point: plans.get(point) for point in points})

    def _note_failure(self, policies: list[Policy], error: str) -> None:
        """A policy that is in force stays so, in its old form; one that is not is listed with its error."""
        for policy in policies:
            old = self._entries.get(policy.key)
            self._entries[policy.key] = replace(old, error=error) if old and old.placed else Entry(policy, None, error)


def _scopes(placed: Iterable[PlacedPolicy]) -> list[tuple[PolicyId, Scope]]:
    """Of policies, and of their selectors' matchWorkloads."""
    scopes: list[tuple[PolicyId, Scope]] = []
    for each in placed:
        scopes.append((each.bit, scope_of(each.policy)))
        scopes += ((bit, scope_of_selector(each.policy, part)) for part, bit in each.workload_bits.items())
    return scopes


def _bits(placed: Iterable[PlacedPolicy]) -> list[PolicyId]:
    return [bit for each in placed for bit in bits_of(each)]


def _needs(policies: Iterable[Policy]) -> LineageNeeds:
    return needs_of(selector for policy in policies for hook in policy.hooks for selector in hook.selectors)


def _refuse_twins(policies: Iterable[Policy]) -> None:
    twins = sorted(str(key) for key, count in Counter(policy.key for policy in policies).items() if count > 1)
    if twins:
        raise PolicyRejected(f"given more than once: {', '.join(twins)}")
