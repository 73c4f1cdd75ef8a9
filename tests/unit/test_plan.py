# SPDX-License-Identifier: Apache-2.0
"""Policies to hook plans: which texts are read once, in which slot, and what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.policy.model import Arg, ArgType
from agent.policy.plan import (
    MAX_RULES,
    MAX_SLOTS,
    HookPlan,
    PlacedPolicy,
    PlanError,
    Slot,
    hooked_syscalls,
    plan_hooks,
    slot_of,
)
from agent.policy.reader import parse_policies
from agent.workload.identity import PolicyId
from tests.support.workload import kprobe, match, policy, selector


def _place(document: dict[str, Any], bit: int = 0, serial: int = 1) -> PlacedPolicy:
    return PlacedPolicy(parse_policies(json.dumps(document).encode(), "p.yaml")[0], PolicyId(bit), serial)


def _plan(*policies: PlacedPolicy, syscall: str = "access") -> HookPlan:
    return plan_hooks(policies, [syscall])[syscall]


def test_one_text_of_a_call_has_one_slot_however_many_rules_read_it() -> None:
    hook = kprobe("access", {0: "string"}, selector(match(0, "Equal", "/a")))
    plan = _plan(*(_place(policy(f"p{n}", hook), n, n + 1) for n in range(5)))
    assert plan.slots == (Slot(0, "string"),)
    assert [rule.slots for rule in plan.rules] == [{0: 0}] * 5


def test_different_readings_of_an_argument_have_slots_of_their_own() -> None:
    hooks = [
        kprobe("write", {1: kind, 2: "size_t"}, selector())
        for kind in ("string", "char_buf:2", "char_buf:0", "char_buf:2")
    ]
    plan = _plan(*(_place(policy(f"p{n}", hook), n, n + 1) for n, hook in enumerate(hooks)), syscall="write")
    assert plan.slots == (Slot(1, "char_buf", 0), Slot(1, "char_buf", 2), Slot(1, "string"))
    assert [rule.slots[1] for rule in plan.rules] == [2, 1, 0, 1]


def test_numbers_have_no_slot() -> None:
    assert [slot_of(Arg(0, kind)) for kind in ArgType if kind.is_number] == [None] * 5
    assert slot_of(Arg(3, ArgType.FD)) == Slot(3, "fd")


def test_rules_come_in_the_order_of_serials_and_hooks() -> None:
    twice = [kprobe("access", {1: "int"}, selector(match(1, "Equal", n))) for n in range(2)]
    other = kprobe("lseek", {0: "int"}, selector())
    late, early = _place(policy("a", *twice), 0, 9), _place(policy("b", other, twice[0]), 5, 3)
    plan = _plan(late, early)
    assert [(rule.serial, rule.number, rule.bit) for rule in plan.rules] == [(3, 1, 5), (9, 0, 0), (9, 1, 0)]


def test_only_calls_that_are_asked_for_and_hooked_are_planned() -> None:
    placed = _place(policy("a", kprobe("access", {1: "int"}, selector()), kprobe("lseek", {0: "int"}, selector())))
    assert set(plan_hooks([placed], ["lseek", "openat"])) == {"lseek"}
    assert hooked_syscalls(placed.policy) == {"access", "lseek"}


def test_a_slot_is_compared_only_when_a_selector_looks_at_it() -> None:
    hook = kprobe("rename", {0: "string", 1: "string"}, selector(match(1, "Prefix", "/x")))
    plan = _plan(_place(policy("a", hook)), syscall="rename")
    assert plan.rules[0].compared == {1}


@pytest.mark.parametrize(
    ("kind", "matches", "reads"),
    [
        ("int", [match(0, "Equal", 1)], False),
        ("fd", [match(0, "Equal", "/a")], False),
        ("string", [], False),
        ("string", [match(0, "Equal", "/a")], True),
    ],
)
def test_the_exit_is_watched_only_for_user_memory_that_is_compared(kind: str, matches: list[Any], reads: bool) -> None:
    plan = _plan(_place(policy("a", kprobe("access", {0: kind}, selector(*matches)))))
    assert plan.reads_text is reads


@pytest.mark.parametrize(("call", "is_exec"), [("execve", True), ("execveat", True), ("access", False)])
def test_execs_are_known(call: str, is_exec: bool) -> None:
    assert _plan(_place(policy("a", kprobe(call, {3: "int"}, selector()))), syscall=call).is_exec is is_exec


def _slots(count: int) -> list[PlacedPolicy]:
    """Policies that read so many different texts of one call."""
    kinds = [(index, kind) for kind in ("string", "fd") for index in range(4)][:count]
    hooks = [kprobe("access", {index: kind}, selector()) for index, kind in kinds]
    return [_place(policy(f"p{n}", hook), n, n + 1) for n, hook in enumerate(hooks)]


def test_as_many_texts_as_there_are_slots_fit() -> None:
    assert len(_plan(*_slots(MAX_SLOTS)).slots) == MAX_SLOTS


def test_one_text_more_is_refused_with_the_name_of_the_call() -> None:
    with pytest.raises(PlanError) as caught:
        _plan(*_slots(MAX_SLOTS + 1))
    assert caught.value.syscall == "access"
    assert str(caught.value).startswith("access: 8 different text arguments")


def test_as_many_rules_as_a_call_can_hit_fit_and_one_more_is_refused() -> None:
    placed = _place(policy("a", *(kprobe("access", {1: "int"}, selector()) for _ in range(4))))
    rules = [PlacedPolicy(placed.policy, PolicyId(n), n + 1) for n in range(MAX_RULES // 4)]
    assert len(_plan(*rules).rules) == MAX_RULES
    with pytest.raises(PlanError, match=r"access: 1028 kprobes over all policies"):
        _plan(*rules, placed)
