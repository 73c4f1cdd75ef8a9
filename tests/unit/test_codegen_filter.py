# SPDX-License-Identifier: Apache-2.0
"""Filters as C conditions: their stages, and that gcc understands what they say of numbers as Python does."""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.policy.access import HookPoint, Input, InputKind, PointKind, Read, Value
from agent.policy.codegen_filter import argument_condition, cel, conditions, joined, numbers
from agent.policy.model import ArgFilter, ArgType, Cel, HookKind, Operator, Range, Selector
from agent.policy.placed import Rule
from agent.policy.plan import Chunk
from tests.support.evaluate_c import evaluate
from tests.support.planning import argument, hand_made, place_resolved, plan_of, plans_of
from tests.support.workload import kprobe, match, policy, selector

RAW = HookPoint(PointKind.RAW_TRACEPOINT, "event")
WORD = 1 << 64
NUMBERS = [kind for kind in ArgType if kind.is_number and kind is not ArgType.SYSCALL64]
PLAIN = (
    *(Operator.EQUAL, Operator.NOT_EQUAL, Operator.IN_MAP, Operator.NOT_IN_MAP, Operator.GT, Operator.LT),
    *(Operator.MASK, Operator.IN_RANGE, Operator.NOT_IN_RANGE),
)


def rule_of(values: list[Value], *selectors: Selector) -> tuple[Chunk, Rule]:
    (made,) = plans_of(place_resolved([hand_made(HookKind.RAW_TRACEPOINT, RAW, values, *selectors)])).values()
    return made.chunks[0], made.rules[0]


@st.composite
def number_filters(draw: st.DrawFn) -> tuple[ArgType, ArgFilter, int]:
    """A type, a filter on it, and an argument near one of its values."""
    kind = draw(st.sampled_from(NUMBERS))
    low = -(1 << (kind.bits - 1)) if kind.signed else 0
    high = low + (1 << kind.bits) - 1
    inside = st.one_of(st.integers(low, high), st.sampled_from((low, high, 0)))
    chosen = draw(st.sampled_from(PLAIN))
    plain = draw(st.lists(inside, min_size=1, max_size=7))
    values: tuple[int | Range, ...] = tuple(plain)
    if chosen.positive is Operator.IN_RANGE:
        values = tuple(Range(min(pair), max(pair)) for pair in zip(plain, reversed(plain), strict=True))
    if chosen is Operator.MASK:
        values = tuple(value % WORD for value in plain)
    near = draw(st.sampled_from(plain)) + draw(st.integers(-1, 1))
    return kind, ArgFilter((0,), chosen, values), min(max(near, low), high)


def holds(each: ArgFilter, number: int) -> bool:
    def meets(value: Any) -> bool:
        match each.operator.positive:
            case Operator.IN_RANGE:
                return bool(value.first <= number <= value.last)
            case Operator.MASK:
                return bool(value & number % WORD)
            case Operator.GT:
                return bool(number > value)
            case Operator.LT:
                return bool(number < value)
        return bool(number == value)

    return any(map(meets, each.values)) is not each.operator.negative


@settings(max_examples=10, deadline=None)
@given(st.lists(number_filters(), min_size=20, max_size=40))
def test_numbers_are_compared_as_python_does(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[ArgType, ArgFilter, int]]
) -> None:
    texts = []
    for kind, each, value in wanted:
        held = Value(kind, Read(Input(InputKind.ARGUMENT, 0, kind.bits // 8, kind.signed)))
        chunk, rule = rule_of([held], Selector(args=(each,)))
        texts.append((f"call->in[0] = {value % WORD}ULL;", argument_condition(chunk, rule, each, (held,))))
    found = evaluate(tmp_path_factory.mktemp("numbers"), texts)
    assert [bool(one) for one in found] == [holds(each, value) for _, each, value in wanted]


BINARY: dict[str, Callable[[int, int], int]] = {
    "+": op.add, "-": op.sub, "and": op.and_, "or": op.or_, "xor": op.xor,
    "==": op.eq, "!=": op.ne, "<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge,
    "&&": lambda a, b: bool(a) and bool(b), "||": lambda a, b: bool(a) or bool(b),
}  # fmt: skip
UNARY: dict[str, Callable[[int], int]] = {
    "!": op.not_, "-": op.neg, "not": op.invert,
    "int32": lambda a: (a + (1 << 31)) % (1 << 32) - (1 << 31), "uint32": lambda a: a % (1 << 32),
}  # fmt: skip
signed64 = st.integers(-(1 << 63), (1 << 63) - 1)
leaves = st.one_of(
    st.builds(Cel, st.just("const"), value=signed64), st.builds(Cel, st.just("arg"), value=st.integers(0, 1))
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Cel, st.sampled_from(sorted(BINARY)), st.tuples(inner, inner)),
        st.builds(Cel, st.sampled_from(sorted(UNARY)), st.tuples(inner)),
    ),
    max_leaves=8,
)


def value_of(tree: Cel, args: tuple[int, int]) -> int:
    if tree.op in ("const", "arg"):
        return tree.value if tree.op == "const" else args[tree.value]
    operands = [value_of(operand, args) for operand in tree.operands]
    found = UNARY[tree.op](*operands) if len(operands) == 1 else BINARY[tree.op](*operands)
    return (int(found) + (1 << 63)) % WORD - (1 << 63)


def test_a_system_calls_number_has_its_table() -> None:
    """Whether it is one of the 32-bit table is told by the task, not by the number."""
    held = argument(0, ArgType.SYSCALL64)
    chunk, rule = rule_of([held])
    text = argument_condition(chunk, rule, ArgFilter((0,), Operator.IN_MAP, (2,)), (held,))
    assert "pg_syscall_of((__u64)((__u64)call->in[0])) == 2ULL" in text


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(trees, signed64, signed64), min_size=10, max_size=20))
def test_expressions_are_those_of_64_bit_arithmetic(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[Cel, int, int]]
) -> None:
    values = [argument(0), argument(1)]
    chunk, _ = rule_of(values)
    texts = [
        (f"call->in[0] = {a % WORD}ULL; call->in[1] = {b % WORD}ULL;", cel(chunk, tree, dict(enumerate(values))))
        for tree, a, b in wanted
    ]
    found = evaluate(tmp_path_factory.mktemp("cel"), texts)
    assert found == [value_of(tree, (a, b)) for tree, a, b in wanted]


def test_what_could_not_be_read_meets_nothing_and_so_every_negation(tmp_path: Path) -> None:
    stored = Value(ArgType.INT, Read(Input(InputKind.ARGUMENT), (8,), size=4, signed=True))
    chunk, rule = rule_of([stored])
    filters = [ArgFilter((0,), each, (0,)) for each in (Operator.EQUAL, Operator.NOT_EQUAL)]
    texts = [argument_condition(chunk, rule, each, (stored,)) for each in filters]
    unread = [("call->unreadable = 1;", text) for text in texts]
    assert evaluate(tmp_path, [*unread, *(("", text) for text in texts)]) == [0, 1, 1, 0]


def test_gained_is_what_the_second_has_and_the_first_has_not(tmp_path: Path) -> None:
    sets = [argument(number, ArgType.KERNEL_CAP_T) for number in (0, 1)]
    chunk, rule = rule_of(sets)
    texts = []
    for values in ((), (0b100,)):
        text = argument_condition(chunk, rule, ArgFilter((0, 1), Operator.CAPABILITIES_GAINED, values), tuple(sets))
        texts += [(f"call->in[0] = {old}; call->in[1] = {new};", text) for old, new in ((1, 3), (3, 1), (0, 1 << 2))]
    assert [bool(found) for found in evaluate(tmp_path, texts)] == [True, False, True, False, False, True]


def test_many_numbers_become_a_switch() -> None:
    each = ArgFilter((0,), Operator.EQUAL, (5, 4, 3, 2, 1, 1))
    assert "switch (x) { case 1LL: case 2LL: case 3LL: case 4LL: case 5LL: found = 1; }" in numbers("x", True, each)
    assert "switch" not in numbers("x", True, ArgFilter((0,), Operator.EQUAL, (1, 2, 3, 4)))


def stages(**asks: Any) -> list[int]:
    hook = kprobe("openat", {0: "int", 1: "string"}, selector(match(1, "Equal", "x"), match(0, "Equal", 1)) | asks)
    made = plan_of(policy("p", hook))
    (rule,) = made.rules
    return [each.stage for each in conditions(made.chunks[0], rule, rule.selectors[0])]


def test_cheap_conditions_come_first() -> None:
    assert stages() == [0, 1]
    binaries = [{"operator": "In", "values": ["/x"]}]
    assert stages(matchBinaries=binaries, matchParentBinaries=binaries) == [0, 1, 2, 2]
    assert stages(matchPIDs=[{"operator": "In", "values": [1]}]) == [0, 0, 1]


def test_conditions_are_joined_up_to_a_stage() -> None:
    made = plan_of(
        policy("p", kprobe("openat", {0: "int", 1: "string"}, selector(match(0, "Equal", 1), match(1, "Prefix", "/"))))
    )
    found = conditions(made.chunks[0], made.rules[0], made.rules[0].selectors[0])
    assert joined(found, 0) == "1"
    assert joined(found, 1) == f"({found[0].text})"
    assert joined(found) == f"({found[0].text}) && ({found[1].text})"
    assert [len(each.values) for each in found] == [1, 1]


def test_a_value_that_is_not_declared_matches_nothing() -> None:
    """A `nop` has no value."""
    hook = {"call": "lseek", "args": [{"index": 0, "type": "int"}], "selectors": [selector(match(0, "Equal", 1))]}
    (rule,) = plan_of(policy("p", hook)).rules
    empty = replace(rule, hook=replace(rule.hook, args=((rule.hook.args[0][0], None),)))
    (chunk, _) = rule_of([argument(0)])
    assert [each.text for each in conditions(chunk, empty, empty.selectors[0])] == ["0"]


def test_binaries_with_their_descendants() -> None:
    def text(operator: str) -> str:
        asks = {"matchBinaries": [{"operator": operator, "values": ["/x"], "followChildren": True}]}
        made = plan_of(policy("p", kprobe("lseek", {0: "int"}, asks)))
        (found,) = conditions(made.chunks[0], made.rules[0], made.rules[0].selectors[0])
        assert (found.stage, found.binary, found.parent) == (2, True, False)
        return found.text

    assert text("In").endswith(" || pg_in_lineage(0, 77ULL))")
    assert text("NotIn").endswith(" && pg_outside_lineage(0, 77ULL))")
