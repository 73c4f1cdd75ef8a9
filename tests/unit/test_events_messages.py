# SPDX-License-Identifier: Apache-2.0
"""What the agent says of a policy's rules, and what the event process understands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.events.actions import action_names, is_enforcing
from agent.events.arguments import make_argument
from agent.events.feed import policy_message
from agent.events.messages import MAX_RULES_MESSAGE, rule_message, split_policy
from agent.events.rules import RuleName, parse_rule
from agent.events.tables import Tables
from agent.policy.access import HookPoint, Input, InputKind, PointHook, PointKind, Read, Value
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    Hook,
    HookKind,
    Operator,
    Policy,
    PolicyKind,
    Selector,
    Source,
    UprobeTarget,
    WorkloadSelector,
)
from agent.policy.placed import PlacedPolicy
from agent.workload.identity import PolicyId

HERE = Source("p", 1, 1)
POST = Action(ActionKind.POST)


def value(kind: ArgType, number: int, **more: Any) -> Value:
    return Value(kind, Read(Input(InputKind.ARGUMENT, number)), **more)


def hook(kind: HookKind = HookKind.SYSCALL, **more: Any) -> Hook:
    given: dict[str, Any] = {"calls": ("newuname",), "call": "sys_newuname", "args": (), "selectors": (Selector(),)}
    return Hook(kind=kind, source=HERE, **(given | more))


def point(of: Hook, kind: PointKind = PointKind.SYSCALL, name: str = "uname", **more: Any) -> PointHook:
    place = HookPoint(kind, name, more.pop("offset", 0))
    return PointHook(place, 0, of, more.pop("args", ()), **more)


def understood(of: PointHook, ids: dict[Value, int] | None = None) -> RuleName:
    return parse_rule(json.loads(json.dumps(rule_message(of, ids or {}))))


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (point(hook()), {"hook": "syscall", "function": "__x64_sys_newuname", "call": "sys_newuname"}),
        (
            point(hook(), PointKind.SYSCALL_FENTRY),
            {"hook": "syscall", "function": "__x64_sys_newuname", "call": "sys_newuname"},
        ),
        (
            point(hook(), PointKind.SYSCALL_OVERRIDE),
            {"hook": "syscall", "function": "__x64_sys_newuname", "call": "sys_newuname"},
        ),
        (
            point(hook(HookKind.KPROBE, call="list:tcp"), PointKind.FENTRY, "tcp_connect"),
            {"hook": "kprobe", "function": "tcp_connect", "call": "list:tcp"},
        ),
        (
            point(hook(HookKind.KPROBE, call="security_file_open"), PointKind.LSM, "file_open"),
            {"hook": "kprobe", "function": "security_file_open"},
        ),
        (
            point(hook(HookKind.LSM, call="file_open"), PointKind.LSM, "file_open"),
            {"hook": "lsmhook", "function": "file_open"},
        ),
        (
            point(hook(HookKind.TRACEPOINT, calls=("sched/a",), call="sched/a"), PointKind.TRACEPOINT, "sched/a"),
            {"hook": "tracepoint", "subsystem": "sched", "event": "a"},
        ),
        (
            point(hook(HookKind.RAW_TRACEPOINT, calls=("sched/a",), call="sched/a"), PointKind.RAW_TRACEPOINT, "a"),
            {"hook": "raw tracepoint", "subsystem": "sched", "event": "a"},
        ),
        (
            point(
                hook(HookKind.UPROBE, calls=(), call="", target=UprobeTarget("/bin/y"), message="m", tags=("t",)),
                PointKind.UPROBE, "/real/y", offset=64, symbol="main+0x4",
            ),
            {"hook": "uprobe", "path": "/bin/y", "symbol": "main+0x4", "offset": 64, "message": "m", "tags": ["t"]},
        ),
        (
            point(
                hook(HookKind.USDT, calls=("prov/name",), call="prov/name", target=UprobeTarget("/bin/y")),
                PointKind.USDT, "/bin/y", offset=64,
            ),
            {"hook": "usdt", "path": "/bin/y", "provider": "prov", "name": "name", "offset": 64},
        ),
    ],
)  # fmt: skip
def test_where_a_rule_stands_is_understood(place: PointHook, what: dict[str, Any]) -> None:
    assert understood(place).what == what


def test_values_are_told_by_their_ids_and_types() -> None:
    number, text, unread = value(ArgType.UINT, 0), value(ArgType.CHAR_BUF, 1, is_string=True), Arg(2, ArgType.NOP)
    returned = Value(ArgType.INT, Read(Input(InputKind.RETURN)), at_return=True)
    args = ((Arg(0, ArgType.AUTO, label="first"), number), (Arg(1, ArgType.CHAR_BUF), text), (unread, None))
    place = point(
        hook(returns=True, return_arg=Arg(0, ArgType.INT, label="ret")),
        args=args, data=((Arg(0, ArgType.STRING), text),), return_value=returned,
    )  # fmt: skip
    rule = understood(place, {number: 16, text: 17, returned: 18})
    assert rule.args == (
        make_argument(ArgType.UINT, {"index": 0, "label": "first"}, 16),
        make_argument(ArgType.STRING, {"index": 1}, 17),
        make_argument(ArgType.NOP, {"index": 2}),
    )
    assert rule.data == (make_argument(ArgType.STRING, {"index": 0}, 17),)
    assert rule.returns == make_argument(ArgType.INT, {"label": "ret"}, 18)


def test_a_descriptors_number_is_told_where_it_is_a_value_too() -> None:
    path, number = value(ArgType.FD, 0), value(ArgType.INT, 0)
    place = point(hook(), args=((Arg(0, ArgType.FD), path),))
    assert understood(place, {path: 16}).args[0].number_id is None
    assert understood(place, {path: 16, number: 17}).args[0].number_id == 17


def test_what_selectors_do_is_told_for_entry_and_return() -> None:
    url = Action(ActionKind.GET_URL, text="http://u/")
    name = Action(ActionKind.DNS_LOOKUP, text="a.example")
    kill = Action(ActionKind.SIGKILL)
    stacks = Action(ActionKind.POST, kernel_stack=True, user_stack=True)
    chosen = Selector(label="l", actions=(stacks, url, kill), return_actions=(name,))
    plain = Selector(return_args=(ArgFilter((), Operator.EQUAL, (1,)),), actions=(Action(ActionKind.NO_POST),))
    rule = understood(point(hook(returns=True, selectors=(chosen, plain, Selector()))))
    first, second, third = rule.selectors
    assert (first.label, first.entry.names, first.at_return.names) == (
        "l",
        ("POST", "GETURL", "SIGKILL"),
        ("POST", "DNSLOOKUP"),
    )
    assert (first.entry.without, first.entry.would) == (("POST", "GETURL"), ("SIGKILL",))
    assert (first.entry.urls, first.entry.hosts, first.at_return.hosts) == (("http://u/",), (), ("a.example",))
    assert (first.entry.kernel_stack, first.entry.user_stack, first.at_return.user_stack) == (True, True, False)
    assert (second.entry.posts, second.at_return.names, third.at_return.names) == (False, ("POST",), ())


def test_tables_take_what_the_feed_says_of_a_policy() -> None:
    number = value(ArgType.INT, 0)
    places = tuple(point(hook(), name=name, args=((Arg(0, ArgType.INT), number),)) for name in ("openat", "lseek"))
    policy = Policy(PolicyKind.NAMESPACED, "guard", "shop", (hook(),), WorkloadSelector(), HERE, "digest")
    tables = Tables()
    message = policy_message(PlacedPolicy(policy, PolicyId(1), 44, places, {number: 99}))
    tables.apply(json.dumps(message).encode())
    known = tables.policies[44]
    assert (known.name, known.namespace) == ("guard", "shop")
    assert [rule.what["function"] for rule in known.rules] == ["__x64_sys_openat", "__x64_sys_lseek"]
    assert [rule.args[0].value_id for rule in known.rules] == [99, 99]


def test_long_policies_are_split_and_others_are_not() -> None:
    short = {"op": "policy", "id": 1, "rules": [{}] * MAX_RULES_MESSAGE}
    assert list(split_policy(short)) == [short]
    assert list(split_policy({"op": "workload", "id": 1})) == [{"op": "workload", "id": 1}]
    parts = list(split_policy({"op": "policy", "id": 1, "name": "n", "rules": list(range(2 * MAX_RULES_MESSAGE + 1))}))
    assert [part.get("first") for part in parts] == [None, MAX_RULES_MESSAGE, 2 * MAX_RULES_MESSAGE]
    assert [number for part in parts for number in part["rules"]] == list(range(2 * MAX_RULES_MESSAGE + 1))


@pytest.mark.parametrize(
    ("actions", "names"),
    [
        ((), ("POST",)),
        ((POST,), ("POST",)),
        ((Action(ActionKind.NO_POST),), ("NOPOST",)),
        ((Action(ActionKind.SIGKILL), POST), ("POST", "SIGKILL")),
        ((Action(ActionKind.SIGNAL, signal=9),), ("POST", "SIGKILL")),
        (
            (Action(ActionKind.SIGNAL, signal=10), Action(ActionKind.SIGNAL, signal=63)),
            ("POST", "SIGNAL SIGUSR1", "SIGNAL 63"),
        ),
        ((Action(ActionKind.OVERRIDE, error=1),), ("POST", "OVERRIDE EPERM")),
        ((Action(ActionKind.OVERRIDE),), ("POST", "OVERRIDE")),
        ((Action(ActionKind.NOTIFY_ENFORCER, error=1, signal=9),), ("POST", "NOTIFYENFORCER EPERM SIGKILL")),
        ((Action(ActionKind.NOTIFY_ENFORCER, error=9999),), ("POST", "NOTIFYENFORCER 9999")),
        ((Action(ActionKind.SET, position=2, value=5),), ("POST", "SET 5")),
    ],
)
def test_words_for_actions(actions: tuple[Action, ...], names: tuple[str, ...]) -> None:
    assert action_names(actions) == names


@pytest.mark.parametrize("kind", ActionKind)
def test_the_word_tells_whether_monitor_mode_leaves_an_action_out(kind: ActionKind) -> None:
    name = action_names((Action(kind, signal=15, error=1),))[-1]
    assert is_enforcing(name) is kind.enforces
