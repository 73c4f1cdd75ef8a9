# SPDX-License-Identifier: Apache-2.0
"""The names behind the numbers of events: workloads and policies, as the agent tells them over the feed. Pure.

A message of the feed is one JSON object: {"op": "workload" | "workload_gone" | "policy" | "rules" | "policy_gone" |
"lost" | "unannounced" | "end", "id": N, ...}. A policy with more rules than a message takes comes as "policy" with the
first ones and "rules" with more of them, `first` being the number of the first. What is gone is kept for a while,
bounded: its events may still be in the ring.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.events.rules import RuleName, parse_rule

MAX_GONE = 4096  # workloads and policies each
COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class FeedError(Exception):
    """The agent said something that is not in the protocol of the feed."""


@dataclass(frozen=True, slots=True)
class PolicyName:
    """rules: as far as they were told."""

    name: str
    namespace: str | None
    rules: tuple[RuleName, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """fields: pod and container as events show them; text: the same in JSON, as it is wanted for every event."""

    fields: Mapping[str, Any]
    text: str


class Tables:
    def __init__(self) -> None:
        self.workloads: dict[int, Workload] = {}
        self.policies: dict[int, PolicyName] = {}
        self.unannounced: list[Mapping[str, Any]] = []
        """Events of containers that no hook announced; who makes lines of them takes them out."""
        self.ended = False
        """Whether the agent said that it stops."""
        self._asking: set[int] = set()
        self._gone: dict[str, OrderedDict[int, None]] = {"workload": OrderedDict(), "policy": OrderedDict()}

    def apply(self, message: bytes) -> int:
        """How many events the ring had no room for, when the message says that. Raises FeedError; nothing has changed
        then.
        """
        try:
            fields = json.loads(message)
            return self._apply(fields, int(fields["id"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise FeedError(f"not a message of the feed: {message[:100]!r}") from error

    def _apply(self, fields: Mapping[str, Any], key: int) -> int:
        match fields["op"]:
            case "workload":
                self.workloads[key] = _workload(fields)
            case "policy":
                self._policy(key, PolicyName(fields["name"], fields["namespace"], _rules(fields)))
            case "rules":
                self._more_rules(key, int(fields["first"]), _rules(fields))
            case "workload_gone":
                self._leave("workload", self.workloads, key)
            case "policy_gone":
                self._leave("policy", self.policies, key)
                self._asking.discard(key)
            case "lost":
                return key
            case "unannounced":
                self.unannounced.append(_unannounced(fields["event"]))
            case "end":
                self.ended = True
            case _:
                raise FeedError(f"unknown operation {fields['op']!r}")
        return 0

    @property
    def looks_up(self) -> bool:
        """Whether a policy that is in force wants something looked up."""
        return bool(self._asking)

    def _policy(self, key: int, policy: PolicyName) -> None:
        self.policies[key] = policy
        if any(rule.looks_up for rule in policy.rules):
            self._asking.add(key)

    def _more_rules(self, key: int, first: int, rules: tuple[RuleName, ...]) -> None:
        """Those that do not follow the known ones are of no use: a message before them was dropped."""
        known = self.policies.get(key)
        if known and len(known.rules) == first:
            self._policy(key, replace(known, rules=known.rules + rules))

    def _leave(self, kind: str, table: dict[int, Any], key: int) -> None:
        gone = self._gone[kind]
        gone[key] = None
        while len(gone) > MAX_GONE:
            table.pop(gone.popitem(last=False)[0], None)


def _unannounced(event: Mapping[str, Any]) -> Mapping[str, Any]:
    if not 0 <= int(event["time_ns"]) < 1 << 63:
        raise ValueError("no time since boot")
    return dict(event)


def _workload(fields: Mapping[str, Any]) -> Workload:
    shown = {"pod": fields["pod"], "container": fields["container"]}
    return Workload(shown, COMPACT.encode(shown))


def _rules(fields: Mapping[str, Any]) -> tuple[RuleName, ...]:
    return tuple(parse_rule(rule) for rule in fields["rules"])
