# SPDX-License-Identifier: Apache-2.0
"""The names that the agent tells the event process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.tables import MAX_GONE, ArgName, FeedError, PolicyName, RuleName, Tables, Workload


def _apply(tables: Tables, **fields: Any) -> int:
    return tables.apply(json.dumps(fields).encode())


def _workload(tables: Tables, number: int) -> None:
    _apply(tables, op="workload", id=number, pod={"name": f"p{number}"}, container={"id": "c"})


def _policy(tables: Tables, number: int) -> None:
    rule = {"function": "f", "args": [[0, "int"], [2, "fd"]], "actions": [["POST"], []]}
    _apply(tables, op="policy", id=number, name="n", namespace=None, rules=[rule])


def test_a_workload_is_known_by_its_number() -> None:
    tables = Tables()
    _workload(tables, 7)
    assert tables.workloads == {7: Workload({"name": "p7"}, {"id": "c"})}


def test_a_policy_is_known_with_its_rules() -> None:
    tables = Tables()
    _policy(tables, 3)
    rule = RuleName("f", (ArgName(0, "int"), ArgName(2, "fd")), (("POST",), ()))
    assert tables.policies == {3: PolicyName("n", None, (rule,))}


def test_lost_events_are_given_to_the_caller() -> None:
    assert _apply(Tables(), op="lost", id=12) == 12
    assert _apply(Tables(), op="workload_gone", id=12) == 0


def test_what_is_gone_keeps_its_name_until_many_more_went() -> None:
    tables = Tables()
    for number in range(MAX_GONE + 3):
        _workload(tables, number)
        _apply(tables, op="workload_gone", id=number)
    assert set(tables.workloads) == set(range(3, MAX_GONE + 3))


def test_policies_and_workloads_leave_one_by_one() -> None:
    tables = Tables()
    for number in range(MAX_GONE + 1):
        _policy(tables, number)
        _apply(tables, op="policy_gone", id=number)
    _workload(tables, 0)
    assert 0 not in tables.policies
    assert set(tables.policies) == set(range(1, MAX_GONE + 1))
    assert set(tables.workloads) == {0}


def test_what_nobody_told_of_may_go() -> None:
    tables = Tables()
    _apply(tables, op="workload_gone", id=1)
    assert not tables.workloads


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
        b'{"op":"policy","id":1,"name":"n","namespace":null,"rules":[{}]}',
        b'{"op":"policy","id":1,"name":"n","namespace":null,"rules":[{"function":"f","args":[[1]],"actions":[]}]}',
        b'{"op":"policy","id":1,"name":"n","namespace":null,"rules":5}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_an_error_and_changes_nothing(message: bytes) -> None:
    tables = Tables()
    with pytest.raises(FeedError):
        tables.apply(message)
    assert (tables.workloads, tables.policies) == ({}, {})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_ops = st.sampled_from(("workload", "workload_gone", "policy", "policy_gone", "lost", "x"))
_keys = ("pod", "container", "name", "namespace", "rules")


@given(st.fixed_dictionaries({"op": _ops, "id": _json}, optional=dict.fromkeys(_keys, _json)))
def test_junk_in_a_message_is_an_error_or_taken(fields: dict[str, Any]) -> None:
    tables = Tables()
    try:
        lost = _apply(tables, **fields)
    except FeedError:
        assert (tables.workloads, tables.policies) == ({}, {})
    else:
        assert lost == 0 or fields["op"] == "lost"


def test_unannounced_containers_wait_in_order_for_who_makes_lines_of_them() -> None:
    known = Tables()
    for number in (3, 1, 2):
        assert _apply(known, op="unannounced", id=0, event={"time_ns": number}) == 0
    assert [event["time_ns"] for event in known.unannounced] == [3, 1, 2]


@pytest.mark.parametrize(
    "event", [None, 7, "text", [1], {}, {"time_ns": None}, {"time_ns": "x"}, {"time_ns": -1}, {"time_ns": 2**63}]
)
def test_an_event_that_is_none_is_refused(event: Any) -> None:
    known = Tables()
    with pytest.raises(FeedError):
        _apply(known, op="unannounced", id=0, event=event)
    assert known.unannounced == []


def test_the_end_is_known_once_it_was_said() -> None:
    known = Tables()
    _workload(known, 1)
    assert not known.ended
    _apply(known, op="end", id=0)
    assert known.ended
