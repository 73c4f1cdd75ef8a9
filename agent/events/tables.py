# SPDX-License-Identifier: Apache-2.0
"""The names behind the numbers of events: workloads and policies, as the agent tells them over the feed. Pure.

A message of the feed is one JSON object: {"op": "workload" | "workload_gone" | "policy" | "policy_gone" | "lost" |
"unannounced" | "end", "id": N, ...}. What is gone is kept for a while, bounded: its events may still be in the ring.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_GONE = 4096  # workloads and policies each


class FeedError(Exception):
    """The agent said something that is not in the protocol of the feed."""


@dataclass(frozen=True, slots=True)
class ArgName:
    """An argument that a rule declares, with its type's name."""

    index: int
    type: str


@dataclass(frozen=True, slots=True)
class RuleName:
    function: str
    args: tuple[ArgName, ...]
    actions: tuple[tuple[str, ...], ...]  # of each selector


@dataclass(frozen=True, slots=True)
class PolicyName:
    name: str
    namespace: str | None
    rules: tuple[RuleName, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """pod and container as events show them."""

    pod: Mapping[str, Any]
    container: Mapping[str, Any]


class Tables:
    def __init__(self) -> None:
        self.workloads: dict[int, Workload] = {}
        self.policies: dict[int, PolicyName] = {}
        self.unannounced: list[Mapping[str, Any]] = []
        """Events of containers that no hook announced; who makes lines of them takes them out."""
        self.ended = False
        """Whether the agent said that it stops."""
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
                self.workloads[key] = Workload(fields["pod"], fields["container"])
            case "policy":
                self.policies[key] = _policy(fields)
            case "workload_gone":
                self._leave("workload", self.workloads, key)
            case "policy_gone":
                self._leave("policy", self.policies, key)
            case "lost":
                return key
            case "unannounced":
                self.unannounced.append(_unannounced(fields["event"]))
            case "end":
                self.ended = True
            case _:
                raise FeedError(f"unknown operation {fields['op']!r}")
        return 0

    def _leave(self, kind: str, table: dict[int, Any], key: int) -> None:
        gone = self._gone[kind]
        gone[key] = None
        while len(gone) > MAX_GONE:
            table.pop(gone.popitem(last=False)[0], None)


def _unannounced(event: Mapping[str, Any]) -> Mapping[str, Any]:
    if not 0 <= int(event["time_ns"]) < 1 << 63:
        raise ValueError("no time since boot")
    return dict(event)


def _policy(fields: Mapping[str, Any]) -> PolicyName:
    rules = tuple(
        RuleName(
            rule["function"],
            tuple(ArgName(index, kind) for index, kind in rule["args"]),
            tuple(tuple(actions) for actions in rule["actions"]),
        )
        for rule in fields["rules"]
    )
    return PolicyName(fields["name"], fields["namespace"], rules)
