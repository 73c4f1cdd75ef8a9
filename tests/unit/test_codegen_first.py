# SPDX-License-Identifier: Apache-2.0
"""When a program may end before it asks whose call it is: only where no rule can hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agent.policy.access import HookPoint, Input, InputKind, PointKind
from agent.policy.codegen import compile_point
from agent.policy.codegen_first import MAX_TERMS, first_look
from agent.policy.codegen_unit import Placement
from agent.policy.plan import PointPlan, make_plan
from tests.support.planning import plan_of
from tests.support.workload import kprobe, lseek_policy, match, policy, selector

FIRST = Input(InputKind.ARGUMENT, 0)


def on_access(*selectors: dict[str, Any], name: str = "p") -> dict[str, Any]:
    return policy(name, kprobe("access", {0: "string", 1: "int"}, *selectors))


def begin_of(plan: PointPlan) -> str:
    """The entry's program up to where it asks whose call it is."""
    text = compile_point(plan, Placement(1, 1, tuple(range(len(plan.chunks))), ()))
    return text.partition("int pg_enter_1_0(")[2].partition("pg_select(")[0]


def test_numbers_are_compared_before_anybody_is_looked_up() -> None:
    look = first_look(plan_of(lseek_policy("a"), lseek_policy("b", match(0, "Equal", 7))))
    assert look is not None
    assert look.inputs == (FIRST,)
    assert [re.findall(r"== (-?\d+)LL", term) for term in look.terms] == [["-1"], ["7"]]


def test_what_several_policies_ask_is_asked_once() -> None:
    look = first_look(plan_of(*(lseek_policy(f"p{n}") for n in range(40))))
    assert look is not None
    assert len(look.terms) == 1


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([selector(match(0, "Equal", "/etc"))], id="text"),
        pytest.param([], id="no selector"),
        pytest.param([{"matchPIDs": [{"operator": "In", "values": [1]}]}], id="process"),
        pytest.param([selector(match(1, "Equal", 1)), selector(match(0, "Equal", "/etc"))], id="one of two"),
        pytest.param([selector(match(1, "InMap", *range(0, 4000, 2)))], id="set"),
    ],
)
def test_a_call_that_a_rule_may_be_about_is_looked_at_whole(chosen: list[dict[str, Any]]) -> None:
    assert first_look(plan_of(on_access(*chosen))) is None
    assert first_look(plan_of(on_access(selector(match(1, "Equal", 4)), name="a"), on_access(*chosen))) is None


def test_of_a_selector_that_compares_more_the_number_alone_is_looked_at() -> None:
    look = first_look(plan_of(on_access(selector(match(0, "Equal", "/etc"), match(1, "Equal", 4)))))
    assert look is not None
    assert (look.inputs, len(look.terms)) == ((Input(InputKind.ARGUMENT, 1),), 1)
    assert "s0" not in look.terms[0]


def test_rules_of_all_programs_are_looked_at() -> None:
    whole = plan_of(lseek_policy("a"), lseek_policy("b", match(0, "Equal", 7)))
    split = make_plan(whole.point, whole.rules, max_weight=1)
    assert len(split.chunks) == 2
    assert first_look(split) == first_look(whole)


def test_more_comparisons_than_a_look_is_worth() -> None:
    rules = plan_of(*(lseek_policy(f"p{n}", match(0, "Equal", n)) for n in range(MAX_TERMS + 1))).rules
    point = HookPoint(PointKind.SYSCALL, "lseek")
    assert first_look(make_plan(point, rules[:MAX_TERMS])) is not None
    assert first_look(make_plan(point, rules)) is None


def test_the_program_ends_there() -> None:
    assert "if (!((" in begin_of(plan_of(lseek_policy("a")))
    assert "if (!((" not in begin_of(plan_of(on_access(selector(match(0, "Equal", "/etc")))))
