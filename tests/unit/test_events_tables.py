# SPDX-License-Identifier: Apache-2.0
"""The names that the agent tells the event process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.arguments import make_argument
from agent.events.rules import NO_ACTIONS, ActionsName, RuleName, SelectorName
from agent.events.tables import MAX_GONE, FeedError, PolicyName, Tables, Workload
from agent.policy.model import ArgType
from tests.support.events import actions, arg, rule, selector, tables, tell


def _workload(known: Tables, number: int) -> None:
    tell(known, op="workload", id=number, pod={"name": f"p{number}"}, container={"id": "c"})


def _policy(known: Tables, number: int, *rules: dict[str, Any]) -> None:
    tell(known, op="policy", id=number, name="n", namespace=None, rules=list(rules or (rule(),)))


def test_a_workload_is_known_by_its_number() -> None:
    known = Tables()
    _workload(known, 7)
    shown = {"pod": {"name": "p7"}, "container": {"id": "c"}}
    assert known.workloads == {7: Workload(shown, '{"pod":{"name":"p7"},"container":{"id":"c"}}')}


def test_a_policy_is_known_with_its_rules() -> None:
    known = Tables()
    chosen = selector("POST", "SIGKILL", label="l", get_url=["http://u"], user_stack=True, at_return=actions("NOPOST"))
    _policy(
        known, 3, rule(arg(16, "int", 1, "a"), data=[arg(None, "nop")], selectors=[chosen], **{"return": arg(9, "int")})
    )
    entry = ActionsName(("POST", "SIGKILL"), ("POST",), ("SIGKILL",), ("http://u",), (), False, True)
    expected = RuleName(
        {"hook": "syscall", "function": "__x64_sys_lseek"},
        (make_argument(ArgType.INT, {"index": 1, "label": "a"}, 16),),
        (make_argument(ArgType.NOP, {"index": 0}),),
        make_argument(ArgType.INT, {}, 9),
        (SelectorName("l", entry, ActionsName(("NOPOST",), ("NOPOST",), ())),),
    )
    assert known.policies == {3: PolicyName("n", None, (expected,))}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"call": "list:files"}, {"hook": "syscall", "function": "__x64_sys_lseek", "call": "list:files"}),
        ({"call": "__x64_sys_lseek"}, {"hook": "syscall", "function": "__x64_sys_lseek"}),
        (
            {"kind": "tracepoint", "function": "sched/sched_switch", "call": "sched/sched_switch"},
            {"hook": "tracepoint", "subsystem": "sched", "event": "sched_switch"},
        ),
        (
            {"kind": "raw tracepoint", "function": "sched_switch"},
            {"hook": "raw tracepoint", "subsystem": None, "event": "sched_switch"},
        ),
        (
            {"kind": "uprobe", "path": "/lib/x", "symbol": "main+0x4", "offset": 9, "call": "/lib/x"},
            {"hook": "uprobe", "path": "/lib/x", "symbol": "main+0x4", "offset": 9},
        ),
        (
            {"kind": "uprobe", "path": "/lib/x", "offset": 9, "function": "", "message": "m", "tags": ["t"]},
            {"hook": "uprobe", "path": "/lib/x", "symbol": None, "offset": 9, "message": "m", "tags": ["t"]},
        ),
        (
            {"kind": "usdt", "path": "/bin/y", "function": "prov/name", "offset": 3},
            {"hook": "usdt", "path": "/bin/y", "provider": "prov", "name": "name", "offset": 3},
        ),
    ],
)
def test_a_rule_says_what_was_hooked_by_the_kind_of_hook(fields: dict[str, Any], what: dict[str, Any]) -> None:
    known = tables(rule(**fields))
    assert known.policies[2].rules[0].what == what


def test_rules_that_come_later_follow_the_first_ones() -> None:
    known = tables(rule(function="a"))
    tell(known, op="rules", id=2, first=1, rules=[rule(function="b"), rule(function="c")])
    assert [each.what["function"] for each in known.policies[2].rules] == ["a", "b", "c"]


@pytest.mark.parametrize(("policy", "first"), [(2, 2), (2, 0), (7, 0)])
def test_rules_that_do_not_follow_are_not_taken_for_others(policy: int, first: int) -> None:
    known = tables(rule(function="a"))
    tell(known, op="rules", id=policy, first=first, rules=[rule(function="b")])
    assert [each.what["function"] for each in known.policies[2].rules] == ["a"]
    assert set(known.policies) == {2}


@pytest.mark.parametrize(
    ("chosen", "asks"),
    [
        (selector(), False),
        (selector(dns=["x"]), True),
        (selector(at_return=actions("POST", get_url=["http://u"])), True),
    ],
)
def test_it_is_known_whether_a_policy_wants_something_looked_up(chosen: dict[str, Any], asks: bool) -> None:
    known = tables(rule(), rule(selectors=[chosen]))
    assert known.looks_up is asks
    tell(known, op="policy_gone", id=2)
    assert not known.looks_up


def test_actions_of_selectors_that_there_are_not_are_none() -> None:
    known = tables().policies[2].rules[0]
    assert known.actions(0, 0xFFFF) == (ActionsName(("POST",), ("POST",), ()), NO_ACTIONS)
    assert known.actions(1, 0) == (NO_ACTIONS, NO_ACTIONS)


def test_lost_events_are_given_to_the_caller() -> None:
    assert tell(Tables(), op="lost", id=12) == 12
    assert tell(Tables(), op="workload_gone", id=12) == 0


def test_what_is_gone_keeps_its_name_until_many_more_went() -> None:
    known = Tables()
    for number in range(MAX_GONE + 3):
        _workload(known, number)
        tell(known, op="workload_gone", id=number)
    assert set(known.workloads) == set(range(3, MAX_GONE + 3))


def test_policies_and_workloads_leave_one_by_one() -> None:
    known = Tables()
    for number in range(MAX_GONE + 1):
        _policy(known, number)
        tell(known, op="policy_gone", id=number)
    _workload(known, 0)
    assert 0 not in known.policies
    assert set(known.policies) == set(range(1, MAX_GONE + 1))
    assert set(known.workloads) == {0}


def test_what_nobody_told_of_may_go() -> None:
    known = Tables()
    tell(known, op="workload_gone", id=1)
    assert not known.workloads


def _broken_rule(**fields: Any) -> bytes:
    message = {"op": "policy", "id": 1, "name": "n", "namespace": None, "rules": [rule(**fields)]}
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"op":"workload"}',
        b'{"id":1}',
        b'{"op":"workload","id":1}',
        b'{"op":"workload","id":"x"}',
        b'{"op":"workload","id":null}',
        b'{"op":"lost","id":Infinity}',
        b'{"op":"lost","id":NaN}',
        b'{"op":"other","id":1}',
        b'{"op":["policy"],"id":1}',
        b'{"op":"rules","id":1}',
        b'{"op":"policy","id":1,"name":"n","namespace":null,"rules":[{}]}',
        b'{"op":"policy","id":1,"name":"n","namespace":null,"rules":5}',
        b"[" * 100_000,
        _broken_rule(kind="elsewhere"),
        _broken_rule(args=[[1]]),
        _broken_rule(args=[arg(16, "integer")]),
        _broken_rule(args=[arg(16, "int", 0, "", "x")]),  # type: ignore[arg-type]
        _broken_rule(selectors=[{"label": ""}]),
        _broken_rule(selectors=[selector(get_url=5)]),
    ],
)
def test_what_is_no_message_is_an_error_and_changes_nothing(message: bytes) -> None:
    known = Tables()
    with pytest.raises(FeedError):
        known.apply(message)
    assert (known.workloads, known.policies) == ({}, {})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_ops = st.sampled_from(("workload", "workload_gone", "policy", "rules", "policy_gone", "lost", "x"))
_keys = ("pod", "container", "name", "namespace", "rules", "first")


@given(st.fixed_dictionaries({"op": _ops, "id": _json}, optional=dict.fromkeys(_keys, _json)))
def test_junk_in_a_message_is_an_error_or_taken(fields: dict[str, Any]) -> None:
    known = Tables()
    try:
        lost = tell(known, **fields)
    except FeedError:
        assert (known.workloads, known.policies) == ({}, {})
    else:
        assert lost == 0 or fields["op"] == "lost"


@given(st.sampled_from(tuple(rule())), _json)
def test_junk_in_a_rule_is_an_error_or_taken(key: str, junk: Any) -> None:
    known = Tables()
    try:
        _policy(known, 1, rule() | {key: junk})
    except FeedError:
        assert not known.policies
    else:
        assert json.loads(json.dumps(dict(known.policies[1].rules[0].what)))["hook"]


def test_unannounced_containers_wait_in_order_for_who_makes_lines_of_them() -> None:
    known = Tables()
    for number in (3, 1, 2):
        assert tell(known, op="unannounced", id=0, event={"time_ns": number}) == 0
    assert [event["time_ns"] for event in known.unannounced] == [3, 1, 2]


@pytest.mark.parametrize(
    "event", [None, 7, "text", [1], {}, {"time_ns": None}, {"time_ns": "x"}, {"time_ns": -1}, {"time_ns": 2**63}]
)
def test_an_event_that_is_none_is_refused(event: Any) -> None:
    known = Tables()
    with pytest.raises(FeedError):
        tell(known, op="unannounced", id=0, event=event)
    assert known.unannounced == []


def test_the_end_is_known_once_it_was_said() -> None:
    known = Tables()
    _workload(known, 1)
    assert not known.ended
    tell(known, op="end", id=0)
    assert known.ended
