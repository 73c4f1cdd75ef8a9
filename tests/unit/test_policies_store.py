# SPDX-License-Identifier: Apache-2.0
"""The policy store: what a change does, in which order, and that a change that fails is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agent.hooks.gate import Gate
from agent.kernel.errors import KernelError, LoaderError
from agent.kernel.hookpoints import HookPoints
from agent.policies import Change, NoSuchPolicy, PolicyRejected, PolicyState, PolicyStore
from agent.policy.errors import PolicyErrors
from agent.policy.model import Policy, PolicyKey
from agent.policy.plan import MAX_SLOTS, HookPlan, PlacedPolicy
from agent.policy.reader import parse_policies
from agent.workload.errors import PolicyIdInUse
from agent.workload.identity import MAX_POLICIES, PolicyId
from agent.workload.scopes import Scope
from tests.support.workload import kprobe, lseek_policy, match, policy, selector


@dataclass
class _Rules:
    """Stands for HookPoints: serials of the rules of each call."""

    log: list[str]
    slots: dict[str, list[int]] = field(default_factory=dict)
    fail: bool = False
    unknown: tuple[str, ...] = ()

    def missing(self, syscalls: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(set(syscalls) & set(self.unknown)))

    def apply(self, plans: Mapping[str, HookPlan | None]) -> None:
        if self.fail:
            raise LoaderError("load", "the verifier's words")
        for call, plan in sorted(plans.items()):
            self.slots.pop(call, None)
            if plan:
                self.slots[call] = [rule.serial for rule in plan.rules]
            self.log.append(f"compile {call} {self.slots.get(call, [])}")


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


class _Stage:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.rules, self.selection = _Rules(self.log), _Selection(self.log)
        self.store = PolicyStore(cast(HookPoints, self.rules), cast(Gate, self.selection), _Sink(self.log))

    def add(self, *documents: dict[str, Any]) -> list[Change]:
        self.log.clear()
        return [outcome.change for outcome in self.store.add(_parse(*documents))]

    def rejected(self, *documents: dict[str, Any]) -> str:
        self.log.clear()
        with pytest.raises(PolicyRejected) as caught:
            self.store.add(_parse(*documents))
        return str(caught.value)

    def delete(self, name: str, namespace: str | None = None) -> None:
        self.log.clear()
        assert self.store.delete(PolicyKey(namespace, name)).change is Change.DELETED

    def bits(self) -> dict[str, int]:
        return {str(placed.policy.key): placed.bit for placed in self.store.placed()}

    def listed(self) -> dict[str, tuple[PolicyState, bool]]:
        """State, and whether there is an error."""
        return {str(entry.policy.key): (entry.state, bool(entry.error)) for entry in self.store.entries()}


def _parse(*documents: dict[str, Any]) -> tuple[Policy, ...]:
    return parse_policies("\n---\n".join(map(json.dumps, documents)).encode(), "p.yaml")


def _version(name: str, number: int) -> dict[str, Any]:
    return lseek_policy(name, match(0, "Equal", number))


@pytest.fixture
def stage() -> _Stage:
    return _Stage()


def test_rules_and_names_come_before_the_bits(stage: _Stage) -> None:
    assert stage.add(lseek_policy("a"), lseek_policy("b", namespace="shop")) == [Change.ADDED, Change.ADDED]
    assert stage.log == ["compile lseek [1, 2]", "added 1", "added 2", "select +[0, 1] -[]"]
    assert stage.selection.scopes == {0: Scope(), 1: Scope("shop")}
    assert stage.listed() == {"a": (PolicyState.ENABLED, False), "shop/b": (PolicyState.ENABLED, False)}


def test_the_same_policy_again_is_no_change(stage: _Stage) -> None:
    stage.add(lseek_policy("a"))
    assert stage.add(lseek_policy("a"), lseek_policy("b")) == [Change.UNCHANGED, Change.ADDED]
    assert stage.log == ["compile lseek [1, 2]", "added 2", "select +[1] -[]"]
    assert stage.add(lseek_policy("a")) == [Change.UNCHANGED]
    assert stage.log == []


def test_a_replaced_policy_has_its_new_rules_before_its_old_ones_end(stage: _Stage) -> None:
    stage.add(_version("a", 1))
    assert stage.add(_version("a", 2)) == [Change.REPLACED]
    assert stage.log == ["compile lseek [1, 2]", "added 2", "select +[1] -[0]", "compile lseek [2]", "removed 1"]
    assert stage.bits() == {"a": 1}


def test_a_replacement_on_another_call_takes_the_old_call_down(stage: _Stage) -> None:
    stage.add(lseek_policy("a"))
    stage.add(policy("a", kprobe("access", {0: "string"}, selector())))
    assert stage.rules.slots == {"access": [2]}


def test_a_deleted_policy_ends_before_its_rules_go(stage: _Stage) -> None:
    stage.add(_version("a", 1), _version("b", 2))
    stage.delete("a")
    assert stage.log == ["select +[] -[0]", "compile lseek [2]", "removed 1"]
    stage.delete("b")
    assert stage.log == ["select +[] -[1]", "compile lseek []", "removed 2"]
    assert (stage.listed(), stage.rules.slots, stage.selection.scopes) == ({}, {}, {})


def test_deleting_what_is_not_there_names_what_is(stage: _Stage) -> None:
    stage.add(lseek_policy("a"), lseek_policy("b", namespace="shop"))
    with pytest.raises(NoSuchPolicy, match=r"no policy shop/a here; there are: a, shop/b"):
        stage.store.delete(PolicyKey("shop", "a"))


def test_only_the_calls_that_change_are_compiled(stage: _Stage) -> None:
    stage.add(lseek_policy("a"))
    stage.add(policy("b", kprobe("access", {0: "string"}, selector())))
    assert stage.log[0] == "compile access [2]"
    assert stage.rules.slots == {"lseek": [1], "access": [2]}


def test_a_compilation_that_fails_changes_nothing_and_is_listed(stage: _Stage) -> None:
    stage.add(_version("a", 1))
    stage.rules.fail = True
    assert "verifier's words" in stage.rejected(_version("a", 2), _version("b", 1))
    assert (stage.log, stage.selection.scopes) == ([], {0: Scope()})
    assert stage.listed() == {"a": (PolicyState.ENABLED, True), "b": (PolicyState.LOAD_ERROR, True)}
    assert [placed.policy.hooks for placed in stage.store.placed()] == [_parse(_version("a", 1))[0].hooks]


def test_a_policy_that_failed_can_be_tried_again(stage: _Stage) -> None:
    stage.rules.fail = True
    stage.rejected(lseek_policy("a"))
    stage.rules.fail = False
    stage.add(lseek_policy("a"))
    assert stage.listed() == {"a": (PolicyState.ENABLED, False)}


def test_a_policy_that_never_was_in_force_is_deleted_without_a_trace(stage: _Stage) -> None:
    stage.rules.fail = True
    stage.rejected(lseek_policy("a"))
    stage.delete("a")
    assert (stage.log, stage.listed()) == ([], {})


def test_a_call_that_the_kernel_does_not_have_is_named(stage: _Stage) -> None:
    stage.rules.unknown = ("lseek",)
    assert stage.rejected(lseek_policy("a")) == "this kernel has no system call lseek"
    assert stage.log == []


def test_what_cannot_be_planned_is_rejected(stage: _Stage) -> None:
    hooks = [kprobe("access", {index: kind}, selector()) for index in range(4) for kind in ("string", "fd")]
    assert len(hooks) == MAX_SLOTS + 1
    assert "access: 8 different text arguments" in stage.rejected(policy("a", *hooks))
    assert stage.log == []


def test_a_faulty_text_is_told_with_its_place_and_changes_nothing(stage: _Stage) -> None:
    with pytest.raises(PolicyErrors, match=r"^file\.yaml:1:1: "):
        stage.store.add_text(b"kind: Pod", "file.yaml")
    assert (stage.log, stage.listed()) == ([], {})


def test_twins_are_refused_before_anything(stage: _Stage) -> None:
    twins = _parse(_version("a", 1)) + _parse(_version("a", 2))
    with pytest.raises(PolicyRejected, match="given more than once: a"):
        stage.store.add(twins)
    assert (stage.log, stage.listed()) == ([], {})


def test_the_bit_of_a_deleted_policy_is_given_out_again_its_serial_never(stage: _Stage) -> None:
    stage.add(_version("a", 1), _version("b", 1))
    stage.delete("a")
    stage.add(_version("c", 1))
    assert stage.bits() == {"b": 1, "c": 0}
    assert stage.rules.slots == {"lseek": [2, 3]}


def test_a_bit_that_old_rules_still_have_is_not_given_out(stage: _Stage) -> None:
    """The compilation without them failed: they would act for the bit's next owner."""
    stage.add(_version("a", 1), _version("b", 1))
    stage.rules.fail = True
    stage.delete("a")
    assert stage.log == ["select +[] -[0]", "removed 1"]
    stage.rules.fail = False
    stage.add(_version("c", 1))
    assert stage.bits() == {"b": 1, "c": 2}


def test_as_many_policies_as_there_are_bits_fit(stage: _Stage) -> None:
    stage.add(*(_version(f"p{n}", n) for n in range(MAX_POLICIES)))
    refused = stage.rejected(_version("more", 1))
    assert refused == "1024 policies are in force, 1 more do not fit into 1024"
    stage.delete("p7")
    stage.add(_version("more", 1))
    assert stage.bits()["more"] == 7
    assert re.match(r"1024 policies are in force", stage.rejected(_version("more", 2)))


def test_bindings_that_cannot_be_written_leave_the_old_policies_selected(stage: _Stage) -> None:
    stage.add(_version("a", 1))
    stage.selection.fail = 1
    assert "MAP_UPDATE_ELEM" in stage.rejected(_version("a", 2), _version("b", 1))
    assert stage.selection.scopes == {0: Scope()}
    assert stage.rules.slots == {"lseek": [1]}
    assert stage.listed() == {"a": (PolicyState.ENABLED, True), "b": (PolicyState.LOAD_ERROR, True)}
    assert stage.log[-2:] == ["removed 2", "removed 3"]
    assert stage.add(_version("a", 2), _version("b", 1)) == [Change.REPLACED, Change.ADDED]


def test_bits_that_may_be_left_in_a_binding_are_not_given_out(stage: _Stage) -> None:
    stage.selection.fail = 2  # putting the old bits back fails too
    stage.rejected(_version("a", 1))
    stage.add(_version("a", 1))
    assert stage.bits() == {"a": 1}


def test_a_deleted_policy_ends_even_when_bindings_cannot_be_written(stage: _Stage) -> None:
    """Its rules go, so what is left of its bits selects nothing; they are not given out again."""
    stage.add(_version("a", 1))
    stage.selection.fail = 1
    stage.delete("a")
    assert (stage.rules.slots, stage.listed()) == ({}, {})
    stage.add(_version("b", 1))
    assert stage.bits() == {"b": 1}
