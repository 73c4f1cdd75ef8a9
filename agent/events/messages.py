# SPDX-License-Identifier: Apache-2.0
"""What the feed says of policies and workloads; rules.py and tables.py read it. Pure.

A rule is {"kind", "function", "call", "message", "tags", "args", "data", "return", "selectors", "path", "symbol",
"offset"}; an argument [value id or null, type, label, index, value id of a descriptor's number or null].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.events.actions import action_names
from agent.policy.access import PointHook, PointKind, Value, syscall_function
from agent.policy.function_points import hooked_function
from agent.policy.model import Action, ActionKind, Arg, ArgType, Hook, Selector
from agent.workload.registry import Record

MAX_RULES_MESSAGE = 64  # a list of calls makes hundreds of rules, and a socket takes only so much at once

Message = dict[str, Any]


def workload_message(record: Record) -> Message:
    identity = record.identity
    return {
        "op": "workload",
        "id": record.workload,
        "pod": {
            "namespace": identity.namespace,
            "name": identity.pod_name,
            "uid": identity.pod_uid,
            "labels": dict(identity.labels),
        },
        "container": {"id": identity.container_id, "name": identity.container_name, "image": identity.image},
    }


def rule_message(rule: PointHook, ids: Mapping[Value, int]) -> Message:
    """ids: of all values of the rule."""
    hook = rule.hook
    returned = (hook.return_arg or Arg(0, ArgType.LONG), rule.return_value)
    return {
        "kind": hook.kind.value,
        "function": _function(rule),
        "call": hook.call,
        "message": hook.message,
        "tags": list(hook.tags),
        "args": [_arg(arg, value, ids) for arg, value in rule.args],
        "data": [_arg(arg, value, ids) for arg, value in rule.data],
        "return": _arg(*returned, ids) if hook.returns and rule.return_value else None,
        "selectors": [_selector(hook, selector) for selector in hook.selectors],
        "path": hook.target.path if hook.target else "",
        "symbol": rule.symbol,
        "offset": rule.point.offset,
    }


def split_policy(message: Message) -> Iterator[Message]:
    """A policy with many rules in several messages, which must follow one another."""
    rules: Sequence[Message] = message.get("rules", ())
    if message["op"] != "policy" or len(rules) <= MAX_RULES_MESSAGE:
        yield message
        return
    yield message | {"rules": rules[:MAX_RULES_MESSAGE]}
    for first in range(MAX_RULES_MESSAGE, len(rules), MAX_RULES_MESSAGE):
        part = rules[first : first + MAX_RULES_MESSAGE]
        yield {"op": "rules", "id": message["id"], "first": first, "rules": part}


def _function(rule: PointHook) -> str:
    """The kernel's function of a system call or of a hook, else what the policy calls the place."""
    match rule.point.kind:
        case PointKind.SYSCALL | PointKind.SYSCALL_FENTRY | PointKind.SYSCALL_KPROBE | PointKind.SYSCALL_OVERRIDE:
            return syscall_function(rule.point.name)
        case PointKind.TRACEPOINT:
            return rule.point.name
        case PointKind.RAW_TRACEPOINT:
            named = (call for call in rule.hook.calls if call.rpartition("/")[2] == rule.point.name)
            return next(named, rule.point.name)
        case PointKind.USDT:
            return rule.hook.calls[0]
        case PointKind.UPROBE:
            return rule.symbol
        case _:
            return hooked_function(rule)


def _arg(arg: Arg, value: Value | None, ids: Mapping[Value, int]) -> list[Any]:
    if value is None:
        return [None, arg.type.value, arg.label, arg.index, None]
    kind = ArgType.STRING if value.is_string else value.type
    return [ids[value], kind.value, arg.label, arg.index, _number_id(value, ids)]


def _number_id(value: Value, ids: Mapping[Value, int]) -> int | None:
    """Of the number of a descriptor whose value is its path; None when it is not reported."""
    if value.type is not ArgType.FD:
        return None
    return ids.get(Value(ArgType.INT, value.read, at_return=value.at_return))


def _selector(hook: Hook, selector: Selector) -> Message:
    at_return = hook.returns and selector.asks_return
    return {
        "label": selector.label,
        "entry": _actions(selector.actions),
        "return": _actions(selector.return_actions) if at_return else None,
    }


def _actions(actions: tuple[Action, ...]) -> Message:
    return {
        "actions": list(action_names(actions)),
        "get_url": _texts(actions, ActionKind.GET_URL),
        "dns": _texts(actions, ActionKind.DNS_LOOKUP),
        "kernel_stack": any(action.kernel_stack for action in actions),
        "user_stack": any(action.user_stack for action in actions),
    }


def _texts(actions: tuple[Action, ...], kind: ActionKind) -> list[str]:
    return [action.text for action in actions if action.kind is kind]
