# SPDX-License-Identifier: Apache-2.0
"""From resolved policies to the plans of their hook points."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.model import Action, ActionKind, ArgFilter, ArgType, HookKind, Operator, Selector
from agent.policy.placed import PlacedPolicy, Rule, descriptor_number, values_of
from agent.policy.plan import (
    MAX_CHUNKS,
    MAX_INPUTS,
    MAX_NUMBERS,
    MAX_RULES,
    MAX_TEXTS,
    MAX_VALUES,
    PlanError,
    PointPlan,
    can_fault,
    hook_points,
    input_place,
    make_plan,
    plan_hooks,
    str_point,
)
from tests.support.planning import argument, hand_made, place, place_resolved, plan, plan_of, plans_of
from tests.support.workload import kprobe, lseek_policy, match, policy, selector

BOTH = policy(
    "both", kprobe("lseek", {0: "int"}, selector()), kprobe("access", {0: "string"}, selector(match(0, "Equal", "x")))
)
LSEEK, ACCESS = HookPoint(PointKind.SYSCALL, "lseek"), HookPoint(PointKind.SYSCALL, "access")
FUNCTION = HookPoint(PointKind.UPROBE, "/bin/x", 0x40)
RAW = HookPoint(PointKind.RAW_TRACEPOINT, "event")
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}


def described(made: PointPlan) -> list[tuple[int, int, int]]:
    return [(rule.placed.bit, rule.placed.serial, rule.number) for rule in made.rules]


def number_at(offset: int, argument_: int = 0) -> Value:
    """A number in the kernel's memory."""
    return Value(ArgType.UINT64, Read(Input(InputKind.ARGUMENT, argument_), (offset,)))


def raw_plan(values: list[Value], point: HookPoint = RAW) -> PointPlan:
    (made,) = plans_of(place_resolved([hand_made(HookKind.RAW_TRACEPOINT, point, values)])).values()
    return made


def test_each_hook_point_has_the_rules_of_all_policies_in_their_order() -> None:
    plans = plan(lseek_policy("one"), BOTH, lseek_policy("two"))
    assert sorted(plans) == ["access", "lseek"]
    assert described(plans["lseek"]) == [(0, 100, 0), (1, 101, 0), (2, 102, 0)]
    assert described(plans["access"]) == [(1, 101, 1)]


def test_hook_points_that_are_not_asked_for_are_left_out() -> None:
    placed = place(BOTH)
    assert hook_points(placed[0]) == {LSEEK, ACCESS}
    assert list(plan_hooks(placed, [ACCESS, RAW])) == [ACCESS]


def test_rules_come_in_the_order_of_their_serial_numbers() -> None:
    first, second = place(lseek_policy("one"), lseek_policy("two"))
    assert plan_hooks([second, first], [LSEEK]) == plan_hooks([first, second], [LSEEK])


def test_same_value_is_read_once_for_all_rules() -> None:
    reader = kprobe("pwrite64", {0: "fd", 1: "char_buf:2"}, selector(match(1, "Prefix", "x")))
    other = kprobe("pwrite64", {1: "char_buf:3", 0: "fd"}, selector(match(0, "Prefix", "/")))
    (chunk,) = plan(policy("a", reader), policy("b", reader), policy("c", other))["pwrite64"].chunks
    descriptor, buffer, longer = chunk.texts
    assert [value.type for value in (descriptor, buffer, longer)].count(ArgType.FD) == 1
    assert sorted(chunk.texts.values()) == [0, 1, 2]
    assert len({rule.compared for rule in chunk.rules}) == 2
    assert chunk.mask(chunk.values) == (1 << len(chunk.values)) - 1


def test_a_descriptor_is_reported_with_its_number() -> None:
    (rule,) = plan_of(policy("p", kprobe("fsync", {0: "fd"}, selector()))).rules
    path, number = rule.reported
    assert (path.type, number) == (ArgType.FD, descriptor_number(path))
    assert number.type is ArgType.INT
    assert rule.compared == ()


def test_two_hooks_of_a_policy_on_one_call_are_two_rules() -> None:
    hook = kprobe("lseek", {0: "int"}, selector())
    assert [rule.number for rule in plan_of(policy("p", hook, hook)).rules] == [0, 1]


def test_a_system_call_keeps_all_its_arguments() -> None:
    (chunk,) = plan_of(lseek_policy("p")).chunks
    assert chunk.inputs == tuple(Input(InputKind.ARGUMENT, number) for number in range(6))
    assert input_place(chunk, Input(InputKind.ARGUMENT, 3, 4, signed=True)) == 3


def test_inputs_of_other_hook_points_are_those_that_values_begin_with() -> None:
    constant = Value(ArgType.UINT64, Read(Input(InputKind.CONSTANT, 5)))
    indexed = Read(Input(InputKind.REGISTER, 8), (1,), index=Input(InputKind.REGISTER, 16), scale=8)
    (chunk,) = raw_plan([number_at(8, 2), constant, Value(ArgType.UINT8, indexed), number_at(9, 2)]).chunks
    assert chunk.inputs == (
        Input(InputKind.ARGUMENT, 2),
        Input(InputKind.REGISTER, 8),
        Input(InputKind.REGISTER, 16),
    )
    assert list(chunk.numbers.values()) == [0, 1, 2]
    assert constant not in chunk.numbers


@pytest.mark.parametrize(
    ("values", "chunks"),
    [
        ([argument(n, ArgType.STRING, limit=m) for n in range(2) for m in range(1, MAX_TEXTS // 2 + 1)], 1),
        ([number_at(n) for n in range(MAX_NUMBERS)], 1),
        ([argument(0, ArgType.LONG, limit=n) for n in range(MAX_VALUES)], 1),
        ([argument(n) for n in range(MAX_INPUTS)], 1),
    ],
)
def test_as_many_values_as_a_program_has_room_for_fit_and_one_more_is_refused(values: list[Value], chunks: int) -> None:
    made = raw_plan(values)
    assert len(made.chunks) == chunks
    more = replace(values[-1], read=Read(Input(InputKind.ARGUMENT, 99), (10_000,)))
    with pytest.raises(PlanError, match=rf"event: a hook of policy p has {len(values) + 1} values: a program has room"):
        raw_plan([*values, more])


def test_rules_whose_values_do_not_fit_together_go_on_in_a_further_program() -> None:
    one, two = ([number_at(n, which) for n in range(30)] for which in (0, 1))
    resolved = [hand_made(HookKind.RAW_TRACEPOINT, RAW, values, name=f"p{n}") for n, values in enumerate((one, two))]
    (made,) = plans_of(place_resolved(resolved)).values()
    assert [len(chunk.rules) for chunk in made.chunks] == [1, 1]
    assert [chunk.inputs for chunk in made.chunks] == [
        (Input(InputKind.ARGUMENT, 0),),
        (Input(InputKind.ARGUMENT, 1),),
    ]
    assert not made.shares_inputs


def test_a_hook_point_with_a_return_has_the_same_inputs_in_every_program() -> None:
    one, two = ([number_at(n, which) for n in range(30)] for which in (0, 1))
    resolved = [hand_made(HookKind.UPROBE, FUNCTION, values, name=f"p{n}") for n, values in enumerate((one, two))]
    (made,) = plans_of(place_resolved(resolved)).values()
    assert made.shares_inputs
    assert {chunk.inputs for chunk in made.chunks} == {(Input(InputKind.ARGUMENT, 0), Input(InputKind.ARGUMENT, 1))}


def rules(count: int) -> tuple[Rule, ...]:
    (placed,) = place(lseek_policy("p"))
    return tuple(Rule(replace(placed, serial=n), 0, placed.hooks[0]) for n in range(count))


def test_a_program_has_as_many_rules_as_it_can_hit() -> None:
    assert [len(chunk.rules) for chunk in make_plan(LSEEK, rules(2 * MAX_RULES + 1)).chunks] == [64, 64, 1]


def test_more_programs_than_can_follow_each_other_are_refused() -> None:
    assert len(make_plan(LSEEK, rules(MAX_CHUNKS * MAX_RULES)).chunks) == MAX_CHUNKS
    with pytest.raises(PlanError, match=r"^lseek: 1985 rules need 32 programs, at most 31 can follow each other$"):
        make_plan(LSEEK, rules(MAX_CHUNKS * MAX_RULES + 1))


def test_a_heavy_rule_has_a_program_of_its_own() -> None:
    heavy = kprobe("access", {0: "string"}, selector(match(0, "Equal", *(f"{n:04}" * 1000 for n in range(20)))))
    light = kprobe("access", {0: "string"}, selector(match(0, "Equal", "x")))
    made = plan_of(policy("p", light, heavy, light))
    assert made.rules[1].weight > made.max_weight
    assert [len(chunk.rules) for chunk in made.chunks] == [1, 1, 1]


def test_halves_have_the_same_rules_in_lighter_programs() -> None:
    made, sizes = make_plan(LSEEK, rules(MAX_RULES)), []
    while len(made.chunks) < 16:
        sizes.append(len(made.chunks))
        assert tuple(rule for chunk in made.chunks for rule in chunk.rules) == made.rules
        made = made.halve()
    assert sizes[0] == 1
    assert sizes == sorted(set(sizes))


def test_a_single_rule_cannot_be_halved() -> None:
    made = make_plan(FUNCTION, rules(2)).halve()
    assert [len(chunk.rules) for chunk in made.chunks] == [1, 1]
    with pytest.raises(PlanError, match=r"^/bin/x\+0x40: one hook is too large for a program: use fewer or shorter"):
        made.halve()


@pytest.mark.parametrize(("call", "is_exec"), [("execve", True), ("lseek", False)])
def test_execve_calls_are_known(call: str, is_exec: bool) -> None:
    assert plan_of(policy("p", kprobe(call, {0: "int"}, selector()))).is_exec is is_exec


def test_a_tracepoint_of_that_name_is_no_execve() -> None:
    assert not raw_plan([], HookPoint(PointKind.TRACEPOINT, "execve")).is_exec


@pytest.mark.parametrize(
    ("kind", "compared", "defers"),
    [("int", True, False), ("fd", True, False), ("string", False, False), ("string", True, True)],
)
def test_exit_is_watched_only_for_memory_of_the_process_that_is_compared(
    kind: str, compared: bool, defers: bool
) -> None:
    matches = [match(0, "Equal", 1)] if compared else []
    made = plan_of(policy("p", kprobe("access", {0: kind}, selector(*matches))))
    assert (made.may_defer, made.has_return) == (defers, defers)
    assert len(made.rules[0].compared) == compared


def test_a_rate_limit_compares_all_that_is_reported() -> None:
    limited = selector(actions=[{"action": "Post", "rateLimit": "5"}])
    made = plan_of(policy("p", kprobe("access", {0: "string", 1: "int"}, limited)))
    assert made.rules[0].compared == made.rules[0].reported
    assert made.may_defer


def test_only_system_calls_wait_for_their_exit() -> None:
    text = argument(0, ArgType.STRING)
    (made,) = plans_of(
        place_resolved([hand_made(HookKind.UPROBE, FUNCTION, [text], Selector(), returned=argument(0))])
    ).values()
    assert can_fault(text)
    assert (made.may_defer, made.has_return) == (False, True)


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        (argument(0, ArgType.FD), False),
        (argument(0, ArgType.CHAR_BUF, length=Read(Input(InputKind.ARGUMENT, 1))), True),
        (Value(ArgType.FILE, Read(Input(InputKind.ARGUMENT))), False),
        (number_at(8), False),
        (Value(ArgType.INT, Read(Input(InputKind.ARGUMENT), (8,), memory=Memory.USER)), True),
        (Value(ArgType.INT, Read(Input(InputKind.ARGUMENT), (8,), in_place=True, memory=Memory.USER)), False),
    ],
)
def test_what_needs_the_processs_memory(value: Value, faults: bool) -> None:
    assert can_fault(value) is faults


def test_a_return_needs_a_program_at_the_return() -> None:
    hook = kprobe("lseek", {0: "int"}, selector()) | RETURNS
    made = plan_of(policy("p", hook))
    (rule,) = made.rules
    assert (made.has_return, rule.returns) == (True, True)
    assert rule.reported_late == (rule.hook.return_value,)


def test_copies_are_reported_late() -> None:
    copied = {"index": 1, "type": "char_buf", "sizeArgIndex": 3, "returnCopy": True}
    hook = {"call": "read", "args": [{"index": 0, "type": "int"}, copied], "selectors": [selector()]} | RETURNS
    (rule,) = plan_of(policy("p", hook)).rules
    assert [value.type for value in rule.reported] == [ArgType.INT]
    assert [value.type for value in rule.reported_late] == [ArgType.CHAR_BUF, ArgType.LONG]
    assert set(rule.placed.value_ids) == set(values_of(rule.hook))


def test_calls_of_enforcers_are_planned_without_rules() -> None:
    notify = selector(actions=[{"action": "NotifyEnforcer", "argSig": 9}])
    document = policy("p", kprobe("lseek", {0: "int"}, notify))
    document["spec"]["enforcers"] = [{"calls": ["sys_getpgid", "sys_lseek"]}]
    plans = plan(document)
    assert {name: (len(made.rules), made.enforced) for name, made in plans.items()} == {
        "getpgid": (0, True),
        "lseek": (1, True),
    }
    assert all(made.has_return for made in plans.values())


def test_words_of_the_bindings_are_those_of_the_rules_policies() -> None:
    made = plan_of(*(lseek_policy(name) for name in "abc"), bits=(1, 64, 1023))
    assert made.words == {0: 2, 1: 1, 15: 1 << 63}
    assert made.chunks[0].words == made.words
    workloads = selector() | {"matchWorkloads": {"podSelector": {}}}
    placed: PlacedPolicy = place(policy("p", kprobe("lseek", {0: "int"}, workloads)))[0]
    assert list(placed.workload_bits.values()) == [1]
    assert plans_of([placed])[LSEEK].chunks[0].workload_words == {0}


@pytest.mark.parametrize(
    ("point", "text"),
    [(LSEEK, "lseek"), (FUNCTION, "/bin/x+0x40"), (HookPoint(PointKind.TRACEPOINT, "a/b"), "a/b")],
)
def test_hook_points_have_names_for_people(point: HookPoint, text: str) -> None:
    assert str_point(point) == text


def test_rules_that_may_wait_do_not_hold_up_those_that_override() -> None:
    point = HookPoint(PointKind.SYSCALL_OVERRIDE, "access")
    deny = Selector(actions=(Action(ActionKind.OVERRIDE, error=1),))
    wanted = [
        hand_made(HookKind.SYSCALL, point, [argument(0, ArgType.STRING)], _is_path(deny), name="path"),
        hand_made(HookKind.SYSCALL, point, [argument(1)], _is_number(deny), name="number"),
    ]
    made = plans_of(place_resolved(wanted))[point]
    assert [[rule.placed.policy.name for rule in chunk.rules] for chunk in made.chunks] == [["number"], ["path"]]
    assert made.overriding_words == {0: 0b11}


def _is_path(selector: Selector) -> Selector:
    return replace(selector, args=(ArgFilter((0,), Operator.EQUAL, (b"/etc",)),))


def _is_number(selector: Selector) -> Selector:
    return replace(selector, args=(ArgFilter((0,), Operator.EQUAL, (4,)),))


@pytest.mark.parametrize(("kind", "fails_closed"), [(PointKind.LSM, True), (PointKind.OVERRIDE, False)])
def test_where_programs_are_interrupted_a_call_waits_for_those_that_only_kill_too(
    kind: PointKind, fails_closed: bool
) -> None:
    point = HookPoint(kind, "file_open")
    kill = Selector(actions=(Action(ActionKind.SIGKILL),))
    made = plans_of(place_resolved([hand_made(HookKind.LSM, point, [argument(1)], kill)]))[point]
    assert made.overrides is fails_closed
