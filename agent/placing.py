# SPDX-License-Identifier: Apache-2.0
"""What policies are in the kernel: bits, serial numbers, ids of values and tables. Nothing here waits or does IO.

Bits are given out again when no rules with them are left; the owner says which are taken. Serial numbers and the ids of
values are never given to another policy or value: events that carry them may still be on their way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.kernel.errors import KernelError
from agent.policy.access import PointHook, Value
from agent.policy.automaton import SUBSTRING_OPERATORS, Substrings, substrings
from agent.policy.lineage import LineageTable
from agent.policy.model import NamespaceType, Policy, WorkloadSelector
from agent.policy.placed import PlacedPolicy, values_of
from agent.policy.sets import ValueSet, sets_of
from agent.workload.identity import MAX_POLICIES, PolicyId

FIRST_VALUE = 16  # lower ids are of what every event has: bpf/maps/events.h


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy and its hooks on this node."""

    policy: Policy
    hooks: tuple[PointHook, ...]


class Placer:
    """host_namespaces: what `host_ns` means."""

    def __init__(self, host_namespaces: Mapping[NamespaceType, int]) -> None:
        self._host_namespaces = dict(host_namespaces)
        self._serial = 0
        self._last_value = FIRST_VALUE - 1
        self._values: dict[Value, int] = {}
        self._last_table = 0
        self._automata: dict[Substrings, int] = {}
        self._sets: dict[ValueSet, int] = {}

    def place(
        self, wanted: Sequence[Resolved], taken: Collection[PolicyId], lineage: LineageTable
    ) -> list[PlacedPolicy]:
        """taken: bits that are not to be given out. Raises KernelError when there are too few others."""
        needed = sum(1 + len(workload_selectors(each.policy)) for each in wanted)
        free = iter([PolicyId(bit) for bit in range(MAX_POLICIES) if bit not in taken])
        if needed > MAX_POLICIES - len(taken):
            raise KernelError(
                f"{len(taken)} of {MAX_POLICIES} bits are in use, and {needed} more are needed: one for each policy "
                "and for each matchWorkloads"
            )
        return [self._place(each, free, lineage) for each in wanted]

    def _place(self, resolved: Resolved, free: Iterator[PolicyId], lineage: LineageTable) -> PlacedPolicy:
        policy, hooks = resolved.policy, resolved.hooks
        bit = next(free)
        self._serial += 1
        return PlacedPolicy(
            policy,
            bit,
            self._serial,
            hooks,
            {value: self._value(value) for hook in hooks for value in values_of(hook)},
            {workload: next(free) for workload in workload_selectors(policy)},
            lineage,
            {each: self._automaton(each) for each in substrings_of(policy)},
            self._host_namespaces,
            {each: self._set(each) for each in sets_of(policy)},
        )

    def _value(self, value: Value) -> int:
        known = self._values.get(value)
        if known is None:
            self._last_value += 1
            known = self._values[value] = self._last_value
        return known

    def _automaton(self, wanted: Substrings) -> int:
        known = self._automata.get(wanted)
        if known is None:
            self._last_table += 1
            known = self._automata[wanted] = self._last_table
        return known

    def _set(self, wanted: ValueSet) -> int:
        """Of the same numbers as automata: one number is not of both."""
        known = self._sets.get(wanted)
        if known is None:
            self._last_table += 1
            known = self._sets[wanted] = self._last_table
        return known

    def forget(self, placed: Iterable[PlacedPolicy]) -> list[int]:
        """placed: all that are left. Ids of the rest go, and are not given out again; those of tables and
        sets are returned.
        """
        left = list(placed)
        values = {value for each in left for value in each.value_ids}
        tables = {table for each in left for table in each.automata}
        sets = {each for one in left for each in one.sets}
        gone = [number for table, number in self._automata.items() if table not in tables]
        gone += [number for each, number in self._sets.items() if each not in sets]
        self._values = {value: number for value, number in self._values.items() if value in values}
        self._automata = {table: number for table, number in self._automata.items() if table in tables}
        self._sets = {each: number for each, number in self._sets.items() if each in sets}
        return gone


def workload_selectors(policy: Policy) -> tuple[WorkloadSelector, ...]:
    """The different matchWorkloads of a policy's selectors."""
    found = (each for hook in policy.hooks for selector in hook.selectors for each in selector.workloads)
    return tuple(dict.fromkeys(found))


def substrings_of(policy: Policy) -> tuple[Substrings, ...]:
    """The tables that a policy's SubString filters need."""
    filters = (
        each
        for hook in policy.hooks
        for selector in hook.selectors
        for each in (*selector.args, *selector.data, *selector.return_args)
        if each.operator in SUBSTRING_OPERATORS
    )
    return tuple(dict.fromkeys(table for each in filters for table in substrings(each)))


def bits_of(placed: PlacedPolicy) -> tuple[PolicyId, ...]:
    """All bits of a policy in the bindings."""
    return (placed.bit, *placed.workload_bits.values())
