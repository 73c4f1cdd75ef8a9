# SPDX-License-Identifier: Apache-2.0
"""Events as JSON lines: every number gets its name, and what has none says so. Pure."""

from __future__ import annotations

import base64
import errno
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.events.decoder import RawEvent, Text
from agent.events.layout import CUT_HEAD, CUT_TAIL, UNREADABLE
from agent.events.tables import ArgName, RuleName, Tables, Workload
from agent.workload.identity import WORKLOAD_QUARANTINED

_SIGNED = {"int": 32, "long": 64}
_UNSIGNED = {"uint": 32, "ulong": 64, "size_t": 64}
_SIGNALS = ("SIGKILL", "SIGNAL")


def encode_event(event: RawEvent, tables: Tables, boot_offset: int) -> bytes:
    """One line, newline included. boot_offset: ns to add to a time since boot for one since 1970."""
    policy = tables.policies.get(event.policy)
    rule = policy.rules[event.rule] if policy and event.rule < len(policy.rules) else None
    fields: dict[str, Any] = {"type": "policy", "time": format_time(event.time + boot_offset)}
    fields["policy"] = {"name": policy.name, "namespace": policy.namespace} if policy else {"serial": event.policy}
    fields |= _what(event, rule)
    fields["process"] = _process(event)
    fields |= _where(event, tables.workloads.get(event.workload))
    if event.deferred:
        fields["deferred"] = True
    return encode_line(fields)


def encode_unannounced(event: Mapping[str, Any], boot_offset: int) -> bytes:
    """The line of a container that no hook announced. Raises KeyError, TypeError for what the agent never says."""
    fields = {"type": "unannounced", "time": format_time(int(event["time_ns"]) + boot_offset)}
    return encode_line(fields | {key: value for key, value in event.items() if key != "time_ns"})


def encode_line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace") + b"\n"


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _what(event: RawEvent, rule: RuleName | None) -> dict[str, Any]:
    if rule is None:
        return {"function": None, "rule": event.rule, "selector": event.selector, "args": [], "action": None}
    actions = rule.actions[event.selector] if event.selector < len(rule.actions) else ()
    fields: dict[str, Any] = {
        "function": rule.function,
        "selector": event.selector,
        "args": [_argument(event, arg) for arg in rule.args],
        "action": actions[-1] if actions else None,
        "actions": list(actions),
    }
    if any(action.startswith(_SIGNALS) for action in actions):
        fields["enforced"] = event.error == 0
        if event.error:
            fields["error"] = errno.errorcode.get(-event.error, str(event.error))
    return fields


def _argument(event: RawEvent, arg: ArgName) -> dict[str, Any]:
    raw = event.args[arg.index]
    fields: dict[str, Any] = {"index": arg.index, "type": arg.type}
    if arg.type in _SIGNED:
        return fields | {"value": _signed(raw, _SIGNED[arg.type])}
    if arg.type in _UNSIGNED:
        return fields | {"value": raw & ((1 << _UNSIGNED[arg.type]) - 1)}
    text = event.texts.get((arg.index, arg.type))
    if arg.type == "fd":
        return fields | {"value": _signed(raw, 32)} | _text(text, "path")
    if arg.type == "char_buf":
        return fields | _bytes(text)
    return fields | _text(text, "value")


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _text(text: Text | None, name: str) -> dict[str, Any]:
    if text is None or text.flags & UNREADABLE:
        return {name: None, "unreadable": True}
    return {name: text.data.decode(errors="backslashreplace")} | _cut(text)


def _bytes(text: Text | None) -> dict[str, Any]:
    if text is None or text.flags & UNREADABLE:
        return {"base64": None, "unreadable": True}
    return {"base64": base64.b64encode(text.data).decode()} | _cut(text)


def _cut(text: Text) -> dict[str, Any]:
    return {"truncated": True} if text.flags & (CUT_TAIL | CUT_HEAD) else {}


def _process(event: RawEvent) -> dict[str, Any]:
    binary = event.binary
    path = binary.data.decode(errors="backslashreplace") if binary and not binary.flags & UNREADABLE else None
    return {
        "pid": event.pid,
        "tid": event.tid,
        "uid": event.uid,
        "binary": path,
        "comm": event.comm.decode(errors="backslashreplace"),
    }


def _where(event: RawEvent, workload: Workload | None) -> dict[str, Any]:
    """The host's processes have no pod; a workload without a name is one that the agent did not get to tell of. A
    quarantined container's name nobody knows.
    """
    if event.workload == WORKLOAD_QUARANTINED:
        return {"pod": None, "container": None, "quarantined": True, "cgroup": event.cgroup}
    if workload:
        return {"pod": workload.pod, "container": workload.container}
    if event.workload:
        return {"pod": None, "container": None, "workload": event.workload, "unresolved": True}
    return {"pod": None, "container": None}


def action_names(posts: bool, signals: tuple[int, ...], signal_name: dict[int, str]) -> tuple[str, ...]:
    """POST, then what was done to the process: SIGKILL, or SIGNAL with the signal's name."""
    done = tuple("SIGKILL" if number == 9 else f"SIGNAL {signal_name.get(number, number)}" for number in signals)
    return (("POST",) if posts else ()) + done
