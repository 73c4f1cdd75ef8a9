# SPDX-License-Identifier: Apache-2.0
"""From policies to the plans of their system calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.policy.plan import MAX_RULES, MAX_SLOTS, HookPlan, PlacedPolicy, PlanError, Slot, hooked_syscalls, plan_hooks
from agent.policy.reader import parse_policies
from agent.workload.identity import PolicyId
from tests.support.workload import kprobe, lseek_policy, match, policy, selector


def place(*documents: dict[str, Any]) -> list[PlacedPolicy]:
    """Bits from 0, serial numbers from 10."""
    policies = parse_policies("\n---\n".join(map(json.dumps, documents)).encode(), "test")
    return [PlacedPolicy(p, PolicyId(n), 10 + n) for n, p in enumerate(policies)]


def plan(*documents: dict[str, Any]) -> dict[str, HookPlan]:
    placed = place(*documents)
    return plan_hooks(placed, frozenset().union(*(hooked_syscalls(p.policy) for p in placed)))


BOTH = policy(
    "both", kprobe("lseek", {0: "int"}, selector()), kprobe("access", {0: "string"}, selector(match(0, "Equal", "x")))
)


def test_each_call_has_the_rules_of_all_policies_in_their_order() -> None:
    plans = plan(lseek_policy("one"), BOTH, lseek_policy("two"))
    assert sorted(plans) == ["access", "lseek"]
    assert [(rule.bit, rule.serial, rule.number) for rule in plans["lseek"].rules] == [
        (0, 10, 0),
        (1, 11, 0),
        (2, 12, 0),
    ]
    assert [(rule.bit, rule.number) for rule in plans["access"].rules] == [(1, 1)]


def test_calls_that_are_not_asked_for_are_left_out() -> None:
    assert sorted(plan_hooks(place(BOTH), ["access", "openat"])) == ["access"]


def test_rules_come_in_the_order_of_their_serial_numbers() -> None:
    first, second = place(lseek_policy("one"), lseek_policy("two"))
    assert plan_hooks([second, first], ["lseek"]) == plan_hooks([first, second], ["lseek"])


def test_same_text_is_read_once_for_all_rules() -> None:
    reader = kprobe("pwrite64", {0: "fd", 1: "char_buf:2"}, selector(match(1, "Prefix", "x")))
    other = kprobe("pwrite64", {1: "char_buf:3", 0: "fd"}, selector(match(0, "Prefix", "/")))
    made = plan(policy("a", reader), policy("b", reader), policy("c", other))["pwrite64"]
    assert made.slots == (Slot(0, "fd"), Slot(1, "char_buf", 2), Slot(1, "char_buf", 3))
    assert [rule.slots for rule in made.rules] == [{0: 0, 1: 1}, {0: 0, 1: 1}, {0: 0, 1: 2}]
    assert [rule.compared for rule in made.rules] == [frozenset({1}), frozenset({1}), frozenset({0})]


def test_two_hooks_of_a_policy_on_one_call_are_two_rules() -> None:
    hook = kprobe("lseek", {0: "int"}, selector())
    assert [rule.number for rule in plan(policy("p", hook, hook))["lseek"].rules] == [0, 1]


def test_more_texts_than_slots_are_refused_with_the_call() -> None:
    six = kprobe("openat", dict.fromkeys(range(6), "string"), selector())
    assert (
        len(plan(policy("a", six), policy("b", kprobe("openat", {0: "fd"}, selector())))["openat"].slots) == MAX_SLOTS
    )
    with pytest.raises(PlanError, match="openat: 8 different text arguments over all policies on this call, at most 7"):
        plan(policy("a", six), policy("b", kprobe("openat", {0: "fd", 1: "fd"}, selector())))


@pytest.mark.parametrize(("call", "is_exec"), [("execve", True), ("execveat", True), ("open", False)])
def test_execve_calls_are_known(call: str, is_exec: bool) -> None:
    assert plan(policy("p", kprobe(call, {0: "int"}, selector())))[call].is_exec is is_exec


def test_as_many_rules_as_a_call_can_hit_fit_and_one_more_is_refused() -> None:
    (four,) = place(policy("p", *(kprobe("lseek", {0: "int"}, selector()) for _ in range(4))))
    rules = [PlacedPolicy(four.policy, PolicyId(n), n + 1) for n in range(MAX_RULES // 4)]
    assert len(plan_hooks(rules, ["lseek"])["lseek"].rules) == MAX_RULES
    with pytest.raises(PlanError, match="lseek: 1028 kprobes over all policies on this call, at most 1024"):
        plan_hooks([*rules, four], ["lseek"])


def test_buffers_with_different_sizes_have_slots_of_their_own() -> None:
    hooks = [kprobe("write", {1: f"char_buf:{size}"}, selector()) for size in (2, 0, 2)]
    made = plan(*(policy(f"p{n}", hook) for n, hook in enumerate(hooks)))["write"]
    assert made.slots == (Slot(1, "char_buf", 0), Slot(1, "char_buf", 2))
    assert [rule.slots[1] for rule in made.rules] == [1, 0, 1]


@pytest.mark.parametrize(
    ("kind", "compared", "reads"),
    [("int", True, False), ("fd", True, False), ("string", False, False), ("string", True, True)],
)
def test_exit_is_watched_only_for_memory_of_the_process_that_is_compared(
    kind: str, compared: bool, reads: bool
) -> None:
    matches = [match(0, "Equal", 1)] if compared else []
    made = plan(policy("p", kprobe("access", {0: kind}, selector(*matches))))["access"]
    assert made.reads_text is reads
    assert made.rules[0].compared == ({0} if compared and kind != "int" else set())
