# SPDX-License-Identifier: Apache-2.0
"""The policies of this node: from text to rules in force, and their status.

Theory of operation. A change goes through four steps, and only the last two touch what is in force:

1. text -> policies (all errors with their places);
2. rules of every system call that the change concerns are compiled and loaded, the new beside the old;
3. the slots are swapped: the new rules run, but no workload has their bits yet;
4. the bits of the new policies are set and those of replaced ones are cleared, in one write for each workload.

A deleted policy's bits are cleared first, so it ends at once; then its rules go. A bit is given out again when no
rules with it are left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from agent.hooks.gate import Gate
from agent.kernel.errors import KernelError
from agent.kernel.hookpoints import HookPoints
from agent.logs import fields
from agent.policy.model import Policy, PolicyKey
from agent.policy.plan import PlacedPolicy, PlanError, hooked_syscalls, plan_hooks
from agent.policy.reader import parse_policies
from agent.workload.identity import MAX_POLICIES, PolicyId
from agent.workload.scopes import Scope, scope_of

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


class PolicyStore:
    """One change at a time; reading never waits for one."""

    def __init__(self, hookpoints: HookPoints, gate: Gate, sink: PolicySink) -> None:
        self._change = threading.Lock()
        self._hookpoints = hookpoints
        self._gate = gate
        self._sink = sink
        self._entries: dict[PolicyKey, Entry] = {}
        self._serial = 0
        self._burned: set[PolicyId] = set()

    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for _, entry in sorted(self._entries.items(), key=lambda item: str(item[0])))

    def placed(self) -> tuple[PlacedPolicy, ...]:
        return tuple(entry.placed for entry in list(self._entries.values()) if entry.placed)

    def add_text(self, text: bytes, file: str) -> tuple[Outcome, ...]:
        """All policies of a file or none. Raises PolicyErrors or PolicyRejected, and then the rules in force are what
        they were.
        """
        return self.add(parse_policies(text, file))

    def add(self, policies: Iterable[Policy]) -> tuple[Outcome, ...]:
        began = time.monotonic()
        with self._change:
            wanted = tuple(policies)
            _refuse_twins(wanted)
            fresh = [policy for policy in wanted if not self._is_in_force(policy)]
            try:
                changes = self._put_in_force(fresh)
            except (KernelError, PlanError) as error:
                self._note_failure(fresh, str(error))
                raise PolicyRejected(str(error)) from error
            spent = int((time.monotonic() - began) * 1000)
            return tuple(Outcome(self._entries[p.key], changes.get(p.key, Change.UNCHANGED), spent) for p in wanted)

    def delete(self, key: PolicyKey) -> Outcome:
        """Raises NoSuchPolicy."""
        began = time.monotonic()
        with self._change:
            entry = self._entries.pop(key, None)
            if entry is None:
                raise NoSuchPolicy(key, sorted(self._entries, key=str))
            if entry.placed:
                self._deselect(entry.placed)
                self._clean_up([entry.placed])
            return Outcome(entry, Change.DELETED, int((time.monotonic() - began) * 1000))

    def _is_in_force(self, policy: Policy) -> bool:
        entry = self._entries.get(policy.key)
        return bool(entry and entry.placed and entry.policy.text_digest == policy.text_digest)

    def _put_in_force(self, policies: list[Policy]) -> dict[PolicyKey, Change]:
        if not policies:
            return {}
        absent = self._hookpoints.missing(call for policy in policies for call in hooked_syscalls(policy))
        if absent:
            raise KernelError(f"this kernel has no system call {', '.join(absent)}")
        placed = self._place(policies)
        replaced = [old.placed for policy in policies if (old := self._entries.get(policy.key)) and old.placed]
        calls = frozenset().union(*(hooked_syscalls(p.policy) for p in (*placed, *replaced)))
        self._compile((*self.placed(), *placed), calls)
        for new in placed:
            self._sink.policy_added(new)
        self._select(placed, replaced)
        before = {old.policy.key for old in replaced}
        changes = {new.policy.key: Change.REPLACED if new.policy.key in before else Change.ADDED for new in placed}
        self._entries |= {new.policy.key: Entry(new.policy, new) for new in placed}
        self._clean_up(replaced)
        return changes

    def _select(self, new: list[PlacedPolicy], old: list[PlacedPolicy]) -> None:
        """Raises KernelError when a binding cannot be written; the old policies are selected again then, and the new
        rules go.
        """
        try:
            self._gate.select(_scopes(new), [each.bit for each in old])
        except KernelError:
            try:
                self._gate.select(_scopes(old), [each.bit for each in new])
            except KernelError as error:
                self._burned |= {each.bit for each in new}
                log.error("bindings keep bits of policies that are not in force", extra=fields(error=str(error)))
            self._clean_up(new)
            raise

    def _deselect(self, placed: PlacedPolicy) -> None:
        """What is left of its bits where a binding cannot be written ends with its rules."""
        try:
            self._gate.select((), (placed.bit,))
        except KernelError as error:
            self._burned.add(placed.bit)
            log.error("bindings keep bits of an ended policy", extra=fields(error=str(error)))

    def _clean_up(self, gone: list[PlacedPolicy]) -> None:
        """Takes the rules of policies that select nobody any more out of the programs.

        When that fails they stay there, harmless but for their cost, and their bits are never given to other policies.
        """
        if not gone:
            return
        try:
            self._compile(self.placed(), frozenset().union(*(hooked_syscalls(old.policy) for old in gone)))
        except (KernelError, PlanError) as error:
            self._burned |= {old.bit for old in gone}
            log.error(
                "rules of ended policies stay in the programs; they select nobody", extra=fields(error=str(error))
            )
        for old in gone:
            self._sink.policy_removed(old.serial)

    def _place(self, policies: list[Policy]) -> list[PlacedPolicy]:
        used = {placed.bit for placed in self.placed()} | self._burned
        free = [PolicyId(bit) for bit in range(MAX_POLICIES) if bit not in used]
        if len(free) < len(policies):
            raise KernelError(f"{len(used)} policies are in force, {len(policies)} more do not fit into {MAX_POLICIES}")
        placed = []
        for bit, policy in zip(free, policies, strict=False):
            self._serial += 1
            placed.append(PlacedPolicy(policy, bit, self._serial))
        return placed

    def _compile(self, placed: Iterable[PlacedPolicy], calls: frozenset[str]) -> None:
        plans = plan_hooks(placed, calls)
        self._hookpoints.apply({call: plans.get(call) for call in calls})

    def _note_failure(self, policies: list[Policy], error: str) -> None:
        """A policy that is in force stays so, in its old form; one that is not is listed with its error."""
        for policy in policies:
            old = self._entries.get(policy.key)
            self._entries[policy.key] = replace(old, error=error) if old and old.placed else Entry(policy, None, error)


def _scopes(placed: Iterable[PlacedPolicy]) -> list[tuple[PolicyId, Scope]]:
    return [(each.bit, scope_of(each.policy)) for each in placed]


def _refuse_twins(policies: Iterable[Policy]) -> None:
    twins = sorted(str(key) for key, count in Counter(policy.key for policy in policies).items() if count > 1)
    if twins:
        raise PolicyRejected(f"given more than once: {', '.join(twins)}")
