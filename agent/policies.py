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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from agent.hooks.gate import Gate
from agent.kernel.errors import KernelError
from agent.kernel.hookpoints import HookPoints
from agent.kernel.lineage import Lineage
from agent.kernel.rule_state import RuleState, entries_memory
from agent.logs import fields
from agent.placing import Placer, Resolved, bits_of
from agent.policy.access import HookPoint
from agent.policy.automaton import SubstringTooLongError
from agent.policy.errors import PolicyErrors
from agent.policy.gaps import find_gaps
from agent.policy.lineage import LineageError, LineageNeeds, needs_of
from agent.policy.model import Policy, PolicyKey, PolicyMode
from agent.policy.placed import PlacedPolicy
from agent.policy.plan import PlanError, PointPlan, changed_points, plan_hooks
from agent.policy.reader import parse_policies
from agent.policy.resolve import resolve_policy
from agent.policy.shares import share_out
from agent.policy.sockets import tracks
from agent.policy.user_facts import HookFacts
from agent.policy_entry import Change, Entry, FaultyPolicies, NoSuchPolicy, Outcome, PolicyRejected, refuse_twins
from agent.probed_files import Files, find_files, probed_paths, with_left_behind
from agent.workload.identity import PolicyId
from agent.workload.scopes import Scope, scope_of, scope_of_selector

MAX_TOLD = 100  # gaps in one line of the log

log = logging.getLogger("podgate.policies")


class PolicySink(Protocol):
    """Who has to know policies before their events come. Must not block."""

    def policy_added(self, placed: PlacedPolicy) -> None: ...

    def policy_removed(self, serial: int) -> None: ...


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What a PolicyStore changes. facts: what is known of this node, read anew for each change.
    compiling: around what ends with a compilation.
    """

    hookpoints: HookPoints[PointPlan]
    gate: Gate
    sink: PolicySink
    state: RuleState
    lineage: Lineage
    placer: Placer
    facts: Callable[[], AbstractContextManager[HookFacts]]
    compiling: Callable[[], AbstractContextManager[None]]


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

    def memory(self) -> Counter[int]:
        """Bytes of kernel memory by policies' serial numbers: their shares of programs, and their entries in maps."""
        placed = self.placed()
        entries = Counter({each.serial: entries_memory(each) for each in placed})
        return share_out(self._parts.hookpoints.memory(), placed) + entries

    def find(self, key: PolicyKey) -> Entry:
        """Raises NoSuchPolicy."""
        entry = self._entries.get(key)
        if entry is None:
            raise NoSuchPolicy(key, sorted(self._entries, key=str))
        return entry

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
            refuse_twins(wanted)
            fresh = [policy for policy in wanted if not self._is_in_force(policy)]
            try:
                changes = self._put_in_force(fresh)
            except (KernelError, PlanError, LineageError, SubstringTooLongError) as error:
                self._note_failure(fresh, str(error))
                raise PolicyRejected(str(error)) from error
            except FaultyPolicies as error:
                self._note_faults(fresh, error.by_policy)
                raise
            spent = int((time.monotonic() - began) * 1000)
            self._forget_errors(wanted)
            return tuple(Outcome(self._entries[p.key], changes.get(p.key, Change.UNCHANGED), spent) for p in wanted)

    def delete(self, keys: Iterable[PolicyKey]) -> tuple[Outcome, ...]:
        """In one change. Raises NoSuchPolicy when one of them is not there, and then all stay."""
        began = time.monotonic()
        with self._change:
            entries = {key: self.find(key) for key in keys}
            placed = [entry.placed for entry in entries.values() if entry.placed]
            self._entries = {key: entry for key, entry in self._entries.items() if key not in entries}
            if placed:
                self._deselect(placed)
                self._clean_up(placed)
            spent = int((time.monotonic() - began) * 1000)
            return tuple(Outcome(entry, Change.DELETED, spent) for entry in entries.values())

    def set_mode(self, key: PolicyKey, mode: PolicyMode) -> Outcome:
        """Raises NoSuchPolicy; PolicyRejected for one that is not in force, or that enforces nothing."""
        began = time.monotonic()
        with self._change:
            entry = self.find(key)
            if entry.placed is None:
                raise PolicyRejected(f"{key} is not in force: {entry.error}")
            if not entry.policy.enforces:
                raise PolicyRejected(f"{key} has no action that enforces: there is nothing to switch")
            try:
                self._parts.state.set_mode(entry.placed, mode)
            except KernelError as error:
                raise PolicyRejected(str(error)) from error
            return Outcome(entry, Change.MODE, int((time.monotonic() - began) * 1000))

    def follow_files(self, entry: Entry, changed: str) -> int:
        """Puts a policy in force anew, in its mode, on the files that are there now. changed: what happened to them.
        The serial number that it has then, 0 when it was another policy by now. Raises PolicyRejected: what is in force
        stays, and is listed with the reason. What is on the files before these stays too, for the programs that run on.
        """
        with self._change:
            if self._entries.get(entry.policy.key) is not entry or entry.placed is None:
                return 0
            policy = replace(entry.policy, mode=self.mode(entry))
            try:
                self._put_in_force([policy], entry)
            except (KernelError, PlanError, LineageError, SubstringTooLongError, PolicyErrors) as error:
                self._entries[policy.key] = replace(entry, error=f"{changed}: {error}", is_behind=True)
                raise PolicyRejected(str(error)) from error
            placed = self._entries[policy.key].placed
            return placed.serial if placed else 0

    def note(self, entry: Entry, error: str) -> None:
        """Lists a policy whose probes are on earlier files with the reason, unless it is another one by now."""
        with self._change:
            if self._entries.get(entry.policy.key) is entry:
                self._entries[entry.policy.key] = replace(entry, error=error, is_behind=True)

    def settle(self) -> None:
        """Gives up what only calls of ended rules still needed, when there is none any more. Does not wait for a change
        that is being made, which can compile for minutes: nothing is done then.
        """
        with self._unless_changing() as free:
            if free and self._parts.hookpoints.settle():
                self._lingering.clear()

    def settle_lineage(self) -> int | None:
        """Records for processes that got none when there was no room; how many. None while a change is being made."""
        with self._unless_changing() as free:
            return self._parts.lineage.settle() if free else None

    @contextmanager
    def _unless_changing(self) -> Iterator[bool]:
        free = self._change.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._change.release()

    def _is_in_force(self, policy: Policy) -> bool:
        entry = self._entries.get(policy.key)
        same = entry and entry.placed and entry.policy.text_digest == policy.text_digest
        return bool(same and entry and self.mode(entry) is policy.mode)

    def _put_in_force(self, policies: list[Policy], before: Entry | None = None) -> dict[PolicyKey, Change]:
        """before: what the only policy was on its earlier files."""
        if not policies:
            return {}
        with self._parts.compiling():
            return self._change_to(policies, before)

    def _change_to(self, policies: list[Policy], before: Entry | None) -> dict[PolicyKey, Change]:
        files = self._find_files(policies)
        resolved = self._resolve(policies)
        gaps = {each.policy.key: find_gaps(each.policy, each.hooks) for each in resolved}
        if before:
            resolved = [_with_left_behind(each, before, files[each.policy.key]) for each in resolved]
        placed = self._place(resolved)
        replaced = [entry.placed for p in policies if (entry := self._entries.get(p.key)) and entry.placed]
        points = changed_points((*placed, *replaced), self.placed())
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
        known = {old.policy.key for old in replaced}
        changes = {new.policy.key: Change.REPLACED if new.policy.key in known else Change.ADDED for new in placed}
        entries = [Entry(new.policy, new, gaps=gaps[new.policy.key], files=files[new.policy.key]) for new in placed]
        self._entries |= {entry.policy.key: entry for entry in entries}
        _tell_gaps(entries)
        self._clean_up(replaced)
        return changes

    def _find_files(self, policies: list[Policy]) -> dict[PolicyKey, Files]:
        """As they are before they are looked into: what changes meanwhile is found to have changed."""
        if not any(map(probed_paths, policies)):
            return {policy.key: {} for policy in policies}
        with self._parts.facts() as facts:
            return {policy.key: find_files(policy, facts.identity) for policy in policies}

    def _resolve(self, policies: list[Policy]) -> list[Resolved]:
        """Raises FaultyPolicies, when all of them have been looked at."""
        resolved: list[Resolved] = []
        faults: dict[PolicyKey, PolicyErrors] = {}
        with self._parts.facts() as facts:
            for policy in policies:
                try:
                    resolved.append(Resolved(policy, resolve_policy(policy, facts)))
                except PolicyErrors as error:
                    faults[policy.key] = error
        if faults:
            raise FaultyPolicies(faults)
        return resolved

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

    def _deselect(self, gone: list[PlacedPolicy]) -> None:
        """What is left of their bits where a binding cannot be written ends with their rules."""
        try:
            self._parts.gate.select((), _bits(gone))
        except KernelError as error:
            self._burned |= set(_bits(gone))
            log.error("bindings keep bits of an ended policy", extra=fields(error=str(error)))

    def _clean_up(self, gone: list[PlacedPolicy]) -> None:
        """Takes the rules of policies that select nobody any more out of the programs.

        When that fails they stay there, harmless but for their cost, and their bits are never given to other policies.
        """
        if not gone:
            return
        try:
            self._lingering |= set(_bits(gone))
            self._compile(self.placed(), changed_points(gone, self.placed()))
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
        if not any(tracks(each.policy) for each in self.placed()) and any(tracks(each.policy) for each in gone):
            self._parts.state.forget_sockets()

    def _compile(self, placed: Iterable[PlacedPolicy], points: frozenset[HookPoint]) -> None:
        plans = plan_hooks(placed, points)
        self._parts.hookpoints.apply({point: plans.get(point) for point in points})

    def _forget_errors(self, policies: Iterable[Policy]) -> None:
        """Of earlier attempts; that probes are on earlier files is true still."""
        for key in (policy.key for policy in policies):
            if not self._entries[key].is_behind:
                self._entries[key] = replace(self._entries[key], error="")

    def _note_faults(self, policies: list[Policy], faults: Mapping[PolicyKey, PolicyErrors]) -> None:
        """Each with its own; those without any are told whose kept them out."""
        names = ", ".join(sorted(map(str, faults)))
        for policy in policies:
            own = faults.get(policy.key)
            self._note_failure([policy], str(own) if own else f"given together with policies that have faults: {names}")

    def _note_failure(self, policies: list[Policy], error: str) -> None:
        """A policy that is in force stays so, in its old form; one that is not is listed with its error."""
        for policy in policies:
            old = self._entries.get(policy.key)
            self._entries[policy.key] = replace(old, error=error) if old and old.placed else Entry(policy, None, error)


def _with_left_behind(resolved: Resolved, before: Entry, files: Files) -> Resolved:
    old = before.placed.hooks if before.placed else ()
    return replace(resolved, hooks=with_left_behind(resolved.hooks, old, before.files, files))


def _tell_gaps(entries: Iterable[Entry]) -> None:
    for entry in entries:
        if entry.gaps:
            told = fields(
                policy=str(entry.policy.key),
                state=entry.state.value,
                not_enforced=[str(gap) for gap in entry.gaps[:MAX_TOLD]],
                count=len(entry.gaps),
            )
            log.warning("not all of a policy is enforced here", extra=told)


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
