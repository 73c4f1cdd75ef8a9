# SPDX-License-Identifier: Apache-2.0
"""A policy store whose surroundings only keep a log of what is asked of them, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agent.hooks.gate import Gate
from agent.kernel.errors import KernelError, LoaderError
from agent.kernel.hookpoints import HookPoints
from agent.kernel.lineage import Lineage
from agent.kernel.rule_state import RuleState
from agent.placing import Placer
from agent.policies import PolicyStore, StoreParts
from agent.policy.access import HookPoint, PointKind
from agent.policy.errors import PolicyErrors
from agent.policy.lineage import LineageNeeds, LineageTable
from agent.policy.model import PolicyKey, PolicyMode
from agent.policy.placed import PlacedPolicy
from agent.policy.plan import PointPlan
from agent.policy_entry import Change, PolicyRejected, PolicyState
from agent.workload.errors import PolicyIdInUse
from agent.workload.identity import PolicyId
from agent.workload.scopes import Scope
from tests.support.planning import HOST_NAMESPACES, PlanKernel, read
from tests.support.workload import kprobe, lseek_policy, match, policy


@dataclass
class _Rules:
    """Stands for HookPoints: serials of the rules of each hook point."""

    log: list[str]
    slots: dict[str, list[int]] = field(default_factory=dict)
    fail: bool = False
    settled: bool = True

    def apply(self, plans: Mapping[HookPoint, PointPlan | None]) -> None:
        if self.fail:
            raise LoaderError("load", "the verifier's words")
        for point, plan in sorted(plans.items(), key=lambda item: item[0].sort_key):
            self.slots.pop(point.name, None)
            if plan:
                self.slots[point.name] = [rule.placed.serial for rule in plan.rules]
            self.log.append(f"compile {point.name} {self.slots.get(point.name, [])}")

    def settle(self) -> bool:
        return self.settled

    def memory(self) -> dict[HookPoint, int]:
        return {HookPoint(PointKind.SYSCALL, name): 1000 for name in self.slots}


@dataclass
class _State:
    """Stands for RuleState. fail: whether the next preparation is refused."""

    log: list[str]
    ready: dict[int, PolicyMode] = field(default_factory=dict)
    tables: set[int] = field(default_factory=set)
    fail: bool = False

    def prepare(self, placed: PlacedPolicy) -> None:
        if self.fail:
            raise KernelError("bpf(MAP_UPDATE_ELEM)", 7)
        self.ready[placed.serial] = placed.policy.mode
        self.tables |= set(placed.automata.values())
        self.log.append(f"prepare {placed.serial}")

    def forget(self, gone: Iterable[PlacedPolicy], tables: Iterable[int]) -> None:
        self.tables -= set(tables)
        for placed in gone:
            self.ready.pop(placed.serial, None)
            self.log.append(f"forget {placed.serial}")

    def forget_sockets(self) -> None:
        self.log.append("forget sockets")

    def mode(self, placed: PlacedPolicy) -> PolicyMode:
        return self.ready[placed.serial]

    def set_mode(self, placed: PlacedPolicy, mode: PolicyMode) -> None:
        if self.fail:
            raise KernelError("bpf(MAP_UPDATE_ELEM)", 7)
        self.ready[placed.serial] = mode
        self.log.append(f"mode {placed.serial} {mode.value}")

    def counts(self, placed: PlacedPolicy) -> Counter[str]:
        return Counter(post=placed.serial)

    def selector_counts(self, placed: PlacedPolicy) -> dict[tuple[int, int, bool], Counter[str]]:
        return {(0, 0, False): Counter(post=placed.serial)}


@dataclass
class _Lineage:
    """Stands for Lineage; what stays the same is not logged."""

    log: list[str]
    table: LineageTable = field(default_factory=LineageTable)

    def change(self, needs: LineageNeeds) -> LineageTable:
        table = self.table.change(needs, 5)
        if table != self.table:
            self.log.append(f"lineage {len(needs.predicates)}")
        self.table = table
        return table

    def settle(self) -> int:
        return 3


@dataclass
class _Selection:
    """Stands for the gate: which bits select whom. fail: how many of the next calls write nothing and raise."""

    log: list[str]
    scopes: dict[int, Scope] = field(default_factory=dict)
    fail: int = 0

    def select(self, added: Iterable[tuple[PolicyId, Scope]], removed: Iterable[PolicyId]) -> int:
        new: dict[int, Scope] = dict(added)
        old = list(removed)
        for bit in new:
            if bit in self.scopes:
                raise PolicyIdInUse(PolicyId(bit))
        self.scopes |= new
        for bit in old:
            self.scopes.pop(bit, None)
        if self.fail:
            self.fail -= 1
            raise KernelError("bpf(MAP_UPDATE_ELEM)", 12)
        self.log.append(f"select +{sorted(new)} -{sorted(old)}")
        return 0


@dataclass
class _Sink:
    log: list[str]

    def policy_added(self, placed: PlacedPolicy) -> None:
        self.log.append(f"added {placed.serial}")

    def policy_removed(self, serial: int) -> None:
        self.log.append(f"removed {serial}")


class Stage:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.rules, self.selection = _Rules(self.log), _Selection(self.log)
        self.state, self.lineage = _State(self.log), _Lineage(self.log)
        parts = StoreParts(
            cast(HookPoints[PointPlan], self.rules),
            cast(Gate, self.selection),
            _Sink(self.log),
            cast(RuleState, self.state),
            cast(Lineage, self.lineage),
            Placer(HOST_NAMESPACES),
            self.facts,
            self.compiling,
        )
        self.compilers: list[str] = []
        self.store = PolicyStore(parts)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        self.compilers.append(f"begun after {self.log}")
        yield
        self.compilers.append("over")

    @contextmanager
    def facts(self) -> Iterator[PlanKernel]:
        self.log.append("facts")
        yield PlanKernel()

    def add(self, *documents: dict[str, Any]) -> list[Change]:
        self.log.clear()
        return [outcome.change for outcome in self.store.add(read(*documents))]

    def rejected(self, *documents: dict[str, Any]) -> str:
        self.log.clear()
        with pytest.raises((PolicyRejected, PolicyErrors)) as caught:
            self.store.add(read(*documents))
        return str(caught.value)

    def delete(self, name: str, namespace: str | None = None) -> None:
        self.log.clear()
        (outcome,) = self.store.delete([PolicyKey(namespace, name)])
        assert outcome.change is Change.DELETED

    def switch(self, name: str, mode: PolicyMode) -> Change:
        self.log.clear()
        return self.store.set_mode(PolicyKey(None, name), mode).change

    def bits(self) -> dict[str, int]:
        return {str(placed.policy.key): placed.bit for placed in self.store.placed()}

    def listed(self) -> dict[str, tuple[PolicyState, bool]]:
        """State, and whether there is an error."""
        return {str(entry.policy.key): (entry.state, bool(entry.error)) for entry in self.store.entries()}

    def modes(self) -> dict[str, str]:
        return {str(entry.policy.key): self.store.mode(entry).value for entry in self.store.entries()}


def version(name: str, number: int) -> dict[str, Any]:
    return lseek_policy(name, match(0, "Equal", number))


def following(name: str, *paths: str) -> dict[str, Any]:
    """Each path needs a predicate of its own."""
    each = [{"operator": "In", "values": [path], "followChildren": True} for path in paths]
    return policy(name, kprobe("lseek", {0: "int"}, *({"matchBinaries": [one]} for one in each)))
