# SPDX-License-Identifier: Apache-2.0
"""What follows from a call, by the plain evaluator: which selector, which actions, which event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.policy.evaluate import NOTHING, Event, Outcome, Verdict, evaluate, sent_together
from agent.policy.evaluate_seen import Call, Lineage, Process, Snapshot, Text
from agent.policy.lineage import BinaryPredicate, PidPredicate
from agent.policy.model import (
    SIGKILL,
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    Hook,
    HookKind,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    Operator,
    PidFilter,
    PolicyMode,
    Selector,
    Source,
    WorkloadSelector,
)

KILL = Action(ActionKind.SIGKILL)
USR1 = Action(ActionKind.SIGNAL, signal=10)
POST, NO_POST = Action(ActionKind.POST), Action(ActionKind.NO_POST)
NOTIFY, CLEAN = Action(ActionKind.NOTIFY_ENFORCER, signal=9), Action(ActionKind.CLEANUP_ENFORCER)
LIMITED = Action(ActionKind.POST, rate_ms=1000)
IN, NOT_IN = Operator.IN, Operator.NOT_IN


def number_is(*values: int) -> tuple[ArgFilter, ...]:
    return (ArgFilter((0,), Operator.EQUAL, values),)


def returns(*values: int) -> tuple[ArgFilter, ...]:
    return (ArgFilter((), Operator.EQUAL, values),)


def hook(*selectors: Selector, at_return: bool = False) -> Hook:
    returned = Arg(0, ArgType.INT) if at_return else None
    place = Source("p", 1, 1)
    args = (Arg(0, ArgType.INT),)
    return Hook(HookKind.SYSCALL, ("dup",), "dup", args, selectors, place, returns=at_return, return_arg=returned)


def verdict(number: int, *selectors: Selector, mode: PolicyMode = PolicyMode.ENFORCE) -> Verdict:
    return evaluate(hook(*selectors), Call((number,)), mode)


def test_first_selector_that_matches_is_the_only_one() -> None:
    selectors = (Selector(args=number_is(1), actions=(KILL,)), Selector(args=number_is(1, 2)), Selector())
    assert verdict(1, *selectors) == Verdict(Outcome(0, (KILL,)), event=Event(0))
    assert verdict(2, *selectors) == Verdict(Outcome(1), event=Event(1))
    assert verdict(3, *selectors) == Verdict(Outcome(2), event=Event(2))


def test_nothing_matches() -> None:
    assert verdict(3, Selector(args=number_is(1))) == NOTHING


def test_all_filters_have_to_hold() -> None:
    both = Selector(args=(*number_is(1), ArgFilter((0,), Operator.GT, (1,))))
    assert verdict(1, both) == NOTHING


def test_data_has_its_own_places() -> None:
    one = replace(hook(Selector(data=number_is(7))), data=(Arg(0, ArgType.UINT8),))
    assert evaluate(one, Call((0,), (0x107,))).event
    assert evaluate(one, Call((7,), (0,))) == NOTHING


def test_no_post_makes_no_event() -> None:
    assert verdict(1, Selector(actions=(USR1, NO_POST))) == Verdict(Outcome(0, (USR1, NO_POST)))


def test_rate_limit_may_take_the_event_away() -> None:
    assert verdict(1, Selector(actions=(LIMITED,))).event == Event(0, limited=True)


def test_monitor_mode_withholds_what_enforces_and_posts() -> None:
    actions = (KILL, USR1, NOTIFY, CLEAN, POST)
    found = verdict(1, Selector(actions=actions), mode=PolicyMode.MONITOR)
    assert found == Verdict(Outcome(0, (CLEAN, POST), (KILL, USR1, NOTIFY)), event=Event(0))
    assert found.at_entry
    assert found.at_entry.signals == ()


def at_return(given: tuple[int, int], *selectors: Selector, mode: PolicyMode = PolicyMode.ENFORCE) -> Verdict:
    """given: the number and what was returned."""
    return evaluate(hook(*selectors, at_return=True), Call((given[0],), returned=given[1]), mode)


def test_return_without_conditions_is_where_the_event_comes() -> None:
    assert at_return((1, 5), Selector(actions=(USR1,))) == Verdict(Outcome(0, (USR1,)), event=Event(0))
    assert at_return((1, 5), Selector(actions=(NO_POST,))) == Verdict(Outcome(0, (NO_POST,)))


def test_list_of_the_return_is_a_second_one() -> None:
    selectors = (
        Selector(args=number_is(1), actions=(USR1,)),
        Selector(args=number_is(2), return_args=returns(-1), return_actions=(KILL,)),
        Selector(args=number_is(3), return_args=returns(-1, 0)),
    )
    assert at_return((1, -1), *selectors) == Verdict(Outcome(0, (USR1,)), Outcome(1, (KILL,)), Event(0, 1))
    assert at_return((1, 0), *selectors) == Verdict(Outcome(0, (USR1,)), Outcome(2), Event(0, 2))
    assert at_return((1, 4), *selectors) == Verdict(Outcome(0, (USR1,)))
    assert at_return((9, -1), *selectors) == NOTHING


def test_what_the_return_does_not_post_is_not_posted() -> None:
    quiet = Selector(return_actions=(NO_POST, USR1))
    assert at_return((1, 0), quiet) == Verdict(Outcome(0), Outcome(0, (NO_POST, USR1)))


def test_entry_that_posts_nothing_leaves_the_return_its_event() -> None:
    assert at_return((1, 0), Selector(actions=(NO_POST,), return_actions=(POST,))).event == Event(0, 0)


def test_rate_limit_of_the_entry_leaves_the_return_its_actions() -> None:
    found = at_return((1, 0), Selector(actions=(LIMITED,), return_actions=(KILL,)))
    assert found == Verdict(Outcome(0, (LIMITED,)), Outcome(0, (KILL,)), Event(0, 0))


def test_returned_number_has_the_width_of_its_type() -> None:
    assert at_return((1, 0xFFFFFFFF), Selector(return_args=returns(-1))).at_return == Outcome(0)


def test_monitor_mode_holds_at_the_return_too() -> None:
    found = at_return((1, 0), Selector(return_actions=(KILL,)), mode=PolicyMode.MONITOR)
    assert found.at_return == Outcome(0, (), (KILL,))


def test_call_that_does_not_end_has_no_return() -> None:
    selector = Selector(actions=(USR1,), return_actions=(KILL,))
    found = evaluate(hook(selector, at_return=True), Call((1,), ends=False))
    assert found == Verdict(Outcome(0, (USR1,)))


def test_signals_of_all_rules_are_sent_once_and_sigkill_alone() -> None:
    outcomes = [Outcome(0, (USR1,)), None, Outcome(0, (USR1, Action(ActionKind.SIGNAL, signal=5))), Outcome(1, (POST,))]
    assert sent_together(outcomes) == (5, 10)
    assert sent_together([*outcomes, Outcome(0, (KILL,))]) == (SIGKILL,)
    assert sent_together([*outcomes, Outcome(0, (), (KILL,))]) == (5, 10)


# Filters on the process.

BASH = Text(b"/bin/bash")
SYS_ADMIN, NET_RAW = 1 << 21, 1 << 13


def selects(process: Process, **filters: object) -> bool:
    selector = Selector(**filters)  # type: ignore[arg-type]
    return evaluate(hook(selector), Call((0,), process=process)) is not NOTHING


def test_pids_in_one_namespace_or_the_other() -> None:
    process = Process(700, 7)
    assert selects(process, pids=(PidFilter(IN, (1, 700)),))
    assert not selects(process, pids=(PidFilter(IN, (7,)),))
    assert selects(process, pids=(PidFilter(IN, (7,), namespace_pid=True),))
    assert selects(process, pids=(PidFilter(NOT_IN, (7,)),))
    assert not selects(process, pids=(PidFilter(NOT_IN, (7,), namespace_pid=True),))


@pytest.mark.parametrize(
    ("own", "met", "known", "positive", "negative"),
    [
        (True, False, True, True, False),
        (False, True, True, True, False),
        (False, False, True, False, True),
        (False, False, False, True, True),
        (True, False, False, True, False),
        (False, True, False, True, False),
    ],
)
def test_lineage_of_pids(own: bool, met: bool, known: bool, positive: bool, negative: bool) -> None:
    lineage = Lineage(frozenset({PidPredicate((5,), False)}) if met else frozenset(), known)
    process = Process(5 if own else 6, lineage=lineage)
    assert selects(process, pids=(PidFilter(IN, (5,), follow_forks=True),)) is positive
    assert selects(process, pids=(PidFilter(NOT_IN, (5,), follow_forks=True),)) is negative


@pytest.mark.parametrize(
    ("operator", "value", "meets"),
    [
        (IN, b"/bin/bash", True),
        (IN, b"/bin/bas", False),
        (NOT_IN, b"/bin/bash", False),
        (Operator.PREFIX, b"/bin/", True),
        (Operator.NOT_PREFIX, b"/bin/", False),
        (Operator.POSTFIX, b"/bash", True),
        (Operator.NOT_POSTFIX, b"/sh", True),
    ],
)
def test_binaries_of_the_process_and_of_its_parent(operator: Operator, value: bytes, meets: bool) -> None:
    condition = BinaryFilter(operator, (value,))
    assert selects(Process(binary=BASH), binaries=(condition,)) is meets
    assert selects(Process(binary=BASH), parent_binaries=(condition,)) is operator.negative
    assert selects(Process(parent_binary=BASH), parent_binaries=(condition,)) is meets


def test_lineage_of_binaries_is_asked_for_by_the_positive_operator() -> None:
    met = Lineage(frozenset({BinaryPredicate("Prefix", (b"/bin/", b"/sbin/"))}))
    values = (b"/sbin/", b"/bin/", b"/bin/")
    follows, avoids = (BinaryFilter(each, values, True) for each in (Operator.PREFIX, Operator.NOT_PREFIX))
    child = Process(binary=Text(b"/opt/x"), parent_binary=Text(b"/opt/x"), lineage=met)
    assert selects(child, binaries=(follows,))
    assert not selects(child, binaries=(avoids,))
    assert not selects(child, parent_binaries=(follows,))
    assert selects(replace(child, parent_lineage=met), parent_binaries=(follows,))
    assert selects(replace(child, lineage=Lineage()), binaries=(avoids,))


def test_namespaces_by_number_or_as_the_hosts() -> None:
    process = Process(now=Snapshot({NamespaceType.UTS: 70}))
    uts = NamespaceFilter(NamespaceType.UTS, IN, (70, 71))
    host = NamespaceFilter(NamespaceType.UTS, IN, (), host=True)
    selector = Selector(namespaces=(host,))
    assert selects(process, namespaces=(uts,))
    assert not selects(process, namespaces=(replace(uts, operator=NOT_IN),))
    assert not selects(process, namespaces=(host,))
    assert evaluate(hook(selector), Call((0,), process=process, host_namespaces={NamespaceType.UTS: 70})).event
    assert selects(process, namespaces=(NamespaceFilter(NamespaceType.NET, NOT_IN, (70,)),))


def test_changes_of_namespaces_since_the_execve() -> None:
    then = Snapshot({NamespaceType.UTS: 1, NamespaceType.NET: 2})
    process = Process(now=Snapshot({NamespaceType.UTS: 9, NamespaceType.NET: 2}), at_execve=then)
    net, both = (NamespaceType.NET,), (NamespaceType.NET, NamespaceType.UTS)
    assert selects(process, namespace_changes=(NamespaceChangeFilter(IN, both),))
    assert not selects(process, namespace_changes=(NamespaceChangeFilter(NOT_IN, both),))
    assert not selects(process, namespace_changes=(NamespaceChangeFilter(IN, net),))
    assert selects(process, namespace_changes=(NamespaceChangeFilter(NOT_IN, net),))


def test_capabilities_count_in_the_hosts_user_namespace_only_or_in_any() -> None:
    kind = CapabilityType.PERMITTED
    has = Snapshot(capabilities={kind: SYS_ADMIN})
    host, other = Process(now=has), Process(now=replace(has, in_host_user=False))
    asks = CapabilityFilter(kind, IN, SYS_ADMIN | NET_RAW)
    assert selects(host, capabilities=(asks,))
    assert not selects(other, capabilities=(asks,))
    assert selects(other, capabilities=(replace(asks, namespaced=True),))
    assert selects(other, capabilities=(replace(asks, operator=NOT_IN),))
    assert not selects(host, capabilities=(replace(asks, mask=NET_RAW),))
    assert not selects(host, capabilities=(replace(asks, type=CapabilityType.EFFECTIVE),))


def test_changes_of_capabilities_since_the_execve() -> None:
    kind = CapabilityType.EFFECTIVE
    then, now = (Snapshot(capabilities={kind: mask}) for mask in (SYS_ADMIN, NET_RAW))
    process = Process(now=now, at_execve=then)
    for mask in (SYS_ADMIN, NET_RAW):
        asks = CapabilityChangeFilter(kind, IN, mask)
        assert selects(process, capability_changes=(asks,))
        assert not selects(process, capability_changes=(replace(asks, operator=NOT_IN),))
    assert not selects(process, capability_changes=(CapabilityChangeFilter(kind, IN, 1),))
    moved = replace(process, now=replace(then, in_host_user=False))
    assert selects(moved, capability_changes=(CapabilityChangeFilter(kind, IN, SYS_ADMIN),))
    assert not selects(moved, capability_changes=(CapabilityChangeFilter(kind, IN, SYS_ADMIN, namespaced=True),))


@pytest.mark.parametrize("operator", [IN, NOT_IN])
def test_changes_of_a_process_that_nobody_knows_are_taken_for_any(operator: Operator) -> None:
    asks = CapabilityChangeFilter(CapabilityType.EFFECTIVE, operator, 1)
    assert selects(Process(), namespace_changes=(NamespaceChangeFilter(operator, (NamespaceType.NET,)),))
    assert selects(Process(), capability_changes=(asks,))


def test_workloads_of_a_selector_are_any_of_them() -> None:
    here, there = WorkloadSelector(host=True), WorkloadSelector()
    one = hook(Selector(workloads=(there, here)))
    assert evaluate(one, Call((0,), workloads=frozenset({here}))).event
    assert evaluate(one, Call((0,))) == NOTHING
