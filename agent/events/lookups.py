# SPDX-License-Identifier: Apache-2.0
"""What GetUrl and DnsLookup ask for, after the event, by a helper (lookups_main.py).

Off unless the agent was told to allow it: then nothing leaves the node, and each lookup that was wanted is a line that
says so. Bounded: MAX_KEPT at once, RATE in a second after a burst, WAIT_S for one. Answers are not used: a line says
how each lookup ended.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.events.decoder import RawEvent
from agent.events.encoder import encode_line, format_time, policy_fields
from agent.events.helper import Helper
from agent.events.tables import Tables

ALLOW_LOOKUPS = "--allow-lookups"  # of the event process, and of the agent
MAX_KEPT = 24  # three rounds of what the helper does at once, each of 5 s: more would wait longer than WAIT_S
RATE = 20.0  # in a second: a policy that matches each call must not make the node flood a server
BURST = 50.0
WAIT_S = 15.0  # the helper gives each 5 s, and has others before it
MAX_REASON = 200
OUTCOMES = frozenset({"done", "failed", "timeout"})


@dataclass(frozen=True, slots=True)
class Lookup:
    """kind: url or name. event: the fields of a line that say which event wanted it."""

    kind: str
    text: str
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Kept:
    lookup: Lookup
    until: float


def wanted(event: RawEvent, tables: Tables) -> tuple[Lookup, ...]:
    """What the actions of an event want to know."""
    policy = tables.policies.get(event.policy)
    if policy is None or event.rule >= len(policy.rules):
        return ()
    actions = policy.rules[event.rule].actions(event.selector, event.return_selector)
    if not any(part.looks_up for part in actions):
        return ()
    said = {"policy": policy_fields(event, policy), "process": {"pid": event.pid}}
    return tuple(
        [Lookup("url", text, said) for part in actions for text in part.urls]
        + [Lookup("name", text, said) for part in actions for text in part.hosts]
    )


class Lookups:
    """helper: None: not allowed. clock: monotonic seconds; wall: ns since 1970. counters: lookups_done and so on, by
    outcome.
    """

    def __init__(
        self,
        helper: Helper | None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._helper = helper
        self._clock = clock
        self._wall = wall
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._number = 0
        self._tokens, self._filled = BURST, clock()
        self._lines: list[bytes] = []
        self.counters: Counter[str] = Counter()

    @property
    def is_allowed(self) -> bool:
        return self._helper is not None

    def fileno(self) -> int:
        """-1 when not allowed."""
        return self._helper.fileno() if self._helper else -1

    def add(self, lookup: Lookup) -> None:
        if self._helper is None:
            self._end(lookup, "off", "the agent does not allow lookups: start it with --allow-lookups")
        elif len(self._kept) >= MAX_KEPT:
            self._end(lookup, "dropped", "too many lookups at once")
        elif not self._has_token():
            self._end(lookup, "dropped", f"more than {RATE:g} lookups in a second")
        else:
            self._ask(self._helper, lookup)

    def _ask(self, helper: Helper, lookup: Lookup) -> None:
        if not helper.pid:
            self._drop_lost()
        self._number += 1
        request = {"id": self._number, "kind": lookup.kind, "text": lookup.text}
        if helper.send(json.dumps(request).encode()):
            self._kept[self._number] = _Kept(lookup, self._clock() + WAIT_S)
        else:
            self._end(lookup, "dropped", "the process that looks up takes nothing")

    def lines(self) -> list[bytes]:
        """Of what ended. To be called when `fileno` is readable, and in time."""
        if self._helper:
            self._collect(self._helper)
        lines, self._lines = self._lines, []
        return lines

    def wait_s(self) -> float | None:
        """After how long `lines` is to be called though nothing is readable; None: never."""
        return max(0.0, next(iter(self._kept.values())).until - self._clock()) if self._kept else None

    def close(self) -> None:
        if self._helper:
            self._helper.close()

    def _collect(self, helper: Helper) -> None:
        for message in helper.receive():
            try:
                self._take(json.loads(message))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                print(f"event process: lookups: not an answer: {error!r}", file=sys.stderr, flush=True)
                helper.end()
        if not helper.pid:
            self._drop_lost()
        now = self._clock()
        while self._kept and (first := next(iter(self._kept.items())))[1].until <= now:
            self._end(self._kept.pop(first[0]).lookup, "timeout", "no answer in time")

    def _take(self, answer: dict[str, Any]) -> None:
        outcome, reason, status = answer["outcome"], str(answer["reason"])[:MAX_REASON], answer["status"]
        if outcome not in OUTCOMES or not isinstance(status, int | None):
            raise ValueError(f"an outcome {outcome!r}")
        kept = self._kept.pop(int(answer["id"]), None)
        if kept:
            self._end(kept.lookup, outcome, reason, status)

    def _drop_lost(self) -> None:
        while self._kept:
            self._end(self._kept.popitem(last=False)[1].lookup, "failed", "the process that looks up has ended")

    def _end(self, lookup: Lookup, outcome: str, reason: str, status: int | None = None) -> None:
        self.counters[f"lookups_{outcome}"] += 1
        fields = {"type": "lookup", "time": format_time(self._wall())} | lookup.event
        fields |= {lookup.kind: lookup.text, "outcome": outcome}
        if status is not None:
            fields["status"] = status
        if reason:
            fields["reason"] = reason
        self._lines.append(encode_line(fields))

    def _has_token(self) -> bool:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
