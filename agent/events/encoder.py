# SPDX-License-Identifier: Apache-2.0
"""Events as JSON lines: every number gets its name, and what has none says so. Pure.

Whatever bytes a process chose, a line stays one line of valid JSON in UTF-8: what is not UTF-8 is written as \\xNN, and
characters that could steer a terminal or change the order of what is read are escaped.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from agent.events.arguments import argument, returned
from agent.events.decoder import Item, RawEvent
from agent.events.layout import BINARY_ID, NO_SELECTOR, PARENT_BINARY_ID, UNREADABLE
from agent.events.rules import RuleName
from agent.events.tables import COMPACT, PolicyName, Tables, Workload
from agent.workload.identity import WORKLOAD_QUARANTINED

Fields = dict[str, Any]

# DEL and C1, line and paragraph separators, marks and overrides of the writing direction.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_dump = COMPACT.encode


def encode_event(event: RawEvent, tables: Tables, boot_offset: int) -> bytes:
    """One line, newline included. boot_offset: ns to add to a time since boot for one since 1970."""
    workload = tables.workloads.get(event.workload)
    if workload is None:
        return encode_line(event_fields(event, tables, boot_offset))
    return _encode(f"{_dump(_own_fields(event, tables, boot_offset))[:-1]},{workload.text[1:]}")


def event_fields(event: RawEvent, tables: Tables, boot_offset: int) -> Fields:
    """What an event's line says, but for its stacks."""
    workload = tables.workloads.get(event.workload)
    return _own_fields(event, tables, boot_offset) | place_fields(event, workload)


def _own_fields(event: RawEvent, tables: Tables, boot_offset: int) -> Fields:
    """All but the pod and container."""
    policy = tables.policies.get(event.policy)
    rule = policy.rules[event.rule] if policy and event.rule < len(policy.rules) else None
    fields: Fields = {"type": "policy", "time": format_time(event.time + boot_offset)}
    fields["policy"] = policy_fields(event, policy)
    fields |= _unknown(event) if rule is None else _known(event, rule)
    if event.flags:
        fields |= _flags(event)
    fields["process"] = process_fields(event, boot_offset)
    return fields


def is_posted(event: RawEvent, tables: Tables) -> bool:
    """Whether the actions that decide, those at the return when there are some, leave an event for readers."""
    policy = tables.policies.get(event.policy)
    if policy is None or event.rule >= len(policy.rules):
        return True
    entry, late = policy.rules[event.rule].actions(event.selector, event.return_selector)
    return (late if event.return_selector != NO_SELECTOR else entry).posts


def encode_unannounced(event: Mapping[str, Any], boot_offset: int) -> bytes:
    """The line of a container that no hook announced. Raises KeyError, TypeError for what the agent never says."""
    fields = {"type": "unannounced", "time": format_time(int(event["time_ns"]) + boot_offset)}
    return encode_line(fields | {key: value for key, value in event.items() if key != "time_ns"})


def encode_line(fields: Fields) -> bytes:
    """fields: what json takes."""
    return _encode(_dump(fields))


def _encode(line: str) -> bytes:
    if not line.isascii() or "\x7f" in line:
        line = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    return line.encode(errors="backslashreplace") + b"\n"


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_format_second(seconds)}.{rest:09d}Z"


@lru_cache(1024)
def _format_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _unknown(event: RawEvent) -> Fields:
    return {"function": None, "rule": event.rule, "selector": event.selector, "args": [], "action": None}


def _known(event: RawEvent, rule: RuleName) -> Fields:
    items = event.items
    fields: Fields = dict(rule.what)
    fields["selector"] = event.selector
    if label := rule.label(event.selector):
        fields["selector_label"] = label
    fields["args"] = [argument(items, arg) for arg in rule.args]
    if rule.data:
        fields["data"] = [argument(items, arg) for arg in rule.data]
    if rule.returns and event.is_return:
        fields["return"] = returned(items, rule.returns)
    return fields | _actions(event, rule)


def _actions(event: RawEvent, rule: RuleName) -> Fields:
    """What was done; `would`: what monitor mode left out."""
    entry, late = rule.actions(event.selector, event.return_selector)
    monitored = event.is_monitored
    fields = _done("", entry.without if monitored else entry.names)
    if event.return_selector != NO_SELECTOR:
        fields["return_selector"] = event.return_selector
        if label := rule.label(event.return_selector):
            fields["return_selector_label"] = label
        fields |= _done("return_", late.without if monitored else late.names)
    if would := entry.would + late.would:
        fields |= {"would": list(would)} if monitored else _enforced(event.error)
    return fields


def _done(prefix: str, names: tuple[str, ...]) -> Fields:
    return {f"{prefix}action": names[-1] if names else None, f"{prefix}actions": list(names)}


def _enforced(error: int) -> Fields:
    return {"enforced": False, "error": errno.errorcode.get(-error, str(error))} if error else {"enforced": True}


def _flags(event: RawEvent) -> Fields:
    fields: Fields = {}
    if event.is_monitored:
        fields["mode"] = "monitor"
    if event.is_deferred:
        fields["deferred"] = True
    if event.is_cut:
        fields["incomplete"] = True
    if event.is_of_socket:
        fields["socket_owner"] = True
    return fields


def policy_fields(event: RawEvent, policy: PolicyName | None) -> Fields:
    return {"name": policy.name, "namespace": policy.namespace} if policy else {"serial": event.policy}


def process_fields(event: RawEvent, boot_offset: int) -> Fields:
    """Who did it. start: what tells a process from a later one with its pid."""
    fields: Fields = {
        "pid": event.pid,
        "tid": event.tid,
        "uid": event.uid,
        "start": format_time(event.start + boot_offset) if event.start else None,
        "binary": _path(event.items.get(BINARY_ID)),
        "comm": event.comm.decode(errors="backslashreplace"),
    }
    if PARENT_BINARY_ID in event.items:
        fields["parent"] = {"binary": _path(event.items[PARENT_BINARY_ID])}
    return fields


def _path(item: Item | None) -> str | None:
    if item is None or item.is_number or item.flags & UNREADABLE:
        return None
    return item.data.decode(errors="backslashreplace")


def place_fields(event: RawEvent, workload: Workload | None) -> Fields:
    """Where it ran. The host's processes have no pod; a workload without a name is one that the agent did not get to
    tell of. A quarantined container's name nobody knows.
    """
    if event.workload == WORKLOAD_QUARANTINED:
        return {"pod": None, "container": None, "quarantined": True, "cgroup": event.cgroup}
    if workload:
        return dict(workload.fields)
    if event.workload:
        return {"pod": None, "container": None, "workload": event.workload, "unresolved": True}
    return {"pod": None, "container": None}
