# SPDX-License-Identifier: Apache-2.0
"""Policies with their places in the kernel, and their rules: one hook of one policy at one hook point each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.policy.access import PointHook, Value
from agent.policy.automaton import Substrings
from agent.policy.lineage import LineageTable
from agent.policy.model import (
    Action,
    ActionKind,
    ArgFilter,
    ArgType,
    NamespaceType,
    Policy,
    Selector,
    WorkloadSelector,
)
from agent.policy.sets import ValueSet
from agent.policy.weights import selector_weight
from agent.workload.identity import PolicyId

RULE_WEIGHT = 20  # of a rule without selectors


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """A policy with its bit in the bindings and its serial number, which no other policy of this agent ever had.

    hooks: resolved on this node; a rule's number is its place in them. value_ids: of every value in hooks.
    workload_bits: the bits of its selectors' matchWorkloads. lineage: has what depends on a process's ancestors.
    automata: the ids of its substrings' tables; sets: those of its values that are in maps. host_namespaces: the inode
    numbers that `host_ns` means.
    """

    policy: Policy
    bit: PolicyId
    serial: int
    hooks: tuple[PointHook, ...] = ()
    value_ids: Mapping[Value, int] = field(default_factory=dict)
    workload_bits: Mapping[WorkloadSelector, PolicyId] = field(default_factory=dict)
    lineage: LineageTable = field(default_factory=LineageTable)
    automata: Mapping[Substrings, int] = field(default_factory=dict)
    host_namespaces: Mapping[NamespaceType, int] = field(default_factory=dict)
    sets: Mapping[ValueSet, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """One hook of one policy at this hook point. returns: reported at the return. sockets: asked of the owner of the
    first of these that is tracked; none while no policy tracks any.
    """

    placed: PlacedPolicy
    number: int
    hook: PointHook
    sockets: tuple[Value, ...] = ()

    @property
    def selectors(self) -> tuple[Selector, ...]:
        return self.hook.hook.selectors

    @property
    def returns(self) -> bool:
        return self.hook.hook.returns

    @property
    def actions(self) -> tuple[Action, ...]:
        """Of all its selectors, at the entry and at the return."""
        return tuple(action for s in self.selectors for action in (*s.actions, *s.return_actions))

    @property
    def overrides(self) -> bool:
        """Whether any selector keeps the call from being made."""
        return any(a.kind is ActionKind.OVERRIDE for selector in self.selectors for a in selector.actions)

    @property
    def enforces(self) -> bool:
        """Whether any selector does something to the call or the process at the entry."""
        return any(a.kind.enforces for selector in self.selectors for a in selector.actions)

    @property
    def reported(self) -> tuple[Value, ...]:
        """The values of its events that are known at the entry."""
        return reported(self.hook)

    @property
    def reported_late(self) -> tuple[Value, ...]:
        """Those that are known at the return."""
        return reported_late(self.hook)

    @property
    def compared(self) -> tuple[Value, ...]:
        """The values that its selectors' filters look at, at the entry."""
        filters = (f for selector in self.selectors for f in filtered(self, selector))
        found = [value for values in filters for value in values[1]]
        return tuple(dict.fromkeys([*found, *(self.reported if self.has_rate else ())]))

    @property
    def has_rate(self) -> bool:
        """Whether events may come too soon after equal ones, so that what they report is known before they are made."""
        return any(action.rate_ms for action in self.actions)

    @property
    def weight(self) -> int:
        """How much of a program it takes, about; in the unit of one comparison of eight bytes."""
        return RULE_WEIGHT + sum(map(selector_weight, self.selectors))


def reported(hook: PointHook) -> tuple[Value, ...]:
    """What events tell that is known at the entry."""
    return tuple(value for value in _declared(hook) if not value.at_return)


def reported_late(hook: PointHook) -> tuple[Value, ...]:
    """What events tell that is known at the return: copies of arguments, and what was returned."""
    late = tuple(value for value in _declared(hook) if value.at_return)
    return (*late, hook.return_value) if hook.return_value else late


def values_of(hook: PointHook) -> tuple[Value, ...]:
    """All that events tell, each once."""
    return tuple(dict.fromkeys((*reported(hook), *reported_late(hook))))


def _declared(hook: PointHook) -> Iterator[Value]:
    for _, value in (*hook.args, *hook.data):
        if value:
            yield value
            if value.type is ArgType.FD:
                yield descriptor_number(value)


def descriptor_number(value: Value) -> Value:
    """What is reported beside the path of a descriptor."""
    return Value(ArgType.INT, value.read, at_return=value.at_return)


def filtered(rule: Rule, selector: Selector) -> Iterator[tuple[ArgFilter, tuple[Value, ...]]]:
    """The filters of a selector on arguments and data, each with the values that it looks at."""
    for filters, declared in ((selector.args, rule.hook.args), (selector.data, rule.hook.data)):
        for each in filters:
            values = tuple(declared[position][1] for position in each.positions)
            yield each, tuple(value for value in values if value)
