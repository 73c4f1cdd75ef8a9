# SPDX-License-Identifier: Apache-2.0
"""Symbols for the stacks of events, from a helper (symbols_main.py), without holding up other events.

An event with a stack is kept until its symbols are there, at most WAIT_S, and then goes as it is: `"symbols": false`,
with the reason. Events without stacks overtake it. What is kept is bounded in number and bytes; beyond that events go
at once, without symbols.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.events.decoder import RawEvent
from agent.events.encoder import encode_line
from agent.events.helper import Helper
from agent.events.stacks import Symbols, Trace, encode_request, parse_answer, stack_fields, trace_of

WAIT_S = 2.0  # starting the helper takes half a second, and a first look at a process's files some tens of ms
HANG_S = 10.0  # that long without an answer, and the helper is taken for stuck
MAX_KEPT = 512
MAX_KEPT_BYTES = 16 << 20
KPTR_RESTRICT = Path("/proc/sys/kernel/kptr_restrict")

LOST = "the process that finds symbols has ended"
FULL = "too many stacks at once"
LATE = "the symbols took too long"


@dataclass(frozen=True, slots=True)
class _Kept:
    event: RawEvent
    trace: Trace
    fields: dict[str, Any]
    size: int
    until: float


class Stacks:
    """counters: stacks_symbolised, stacks_lost, stacks_full, stacks_late, stacks_refused (the helper had no symbols),
    by what became of events; symbol_helper_lost: how often the helper ended.
    """

    def __init__(self, helper: Helper, clock: Callable[[], float] = time.monotonic) -> None:
        self._helper = helper
        self._clock = clock
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._owed: set[int] = set()
        self._owed_since = 0.0
        """When the helper last answered, or was asked with nothing owed."""
        self._number = 0
        self._lines: list[bytes] = []
        self.counters: Counter[str] = Counter()

    def fileno(self) -> int:
        return self._helper.fileno()

    def add(self, event: RawEvent, fields: dict[str, Any], size: int) -> None:
        """Its line will be among `lines`. size: bytes that keeping it takes, about."""
        kept = _Kept(event, trace_of(event), fields, size, self._clock() + WAIT_S)
        if len(self._kept) >= MAX_KEPT or self._kept_bytes + size > MAX_KEPT_BYTES:
            self._give_up(kept, "full", FULL)
        elif kept.trace.kernel or kept.trace.user:
            self._ask(kept)
        else:
            self._finish(kept, Symbols())

    def _ask(self, kept: _Kept) -> None:
        if not self._helper.pid:
            self._drop_lost()
        self._number += 1
        if not self._helper.send(encode_request(self._number, kept.trace)):
            self._give_up(kept, *(("full", FULL) if self._helper.pid else ("lost", LOST)))
            return
        if not self._owed:
            self._owed_since = self._clock()
        self._owed.add(self._number)
        self._kept[self._number] = kept
        self._kept_bytes += kept.size

    def lines(self) -> list[bytes]:
        """Those that need not wait any longer, or may not. To be called when `fileno` is readable, and in time."""
        for message in self._helper.receive():
            self._take(message)
        now = self._clock()
        if self._owed and now - self._owed_since >= HANG_S:
            self._helper.end()
        if not self._helper.pid:
            self._drop_lost()
        while self._kept and (first := next(iter(self._kept.items())))[1].until <= now:
            self._give_up(self._release(first[0]), "late", LATE)
        self.counters["symbol_helper_lost"] = self._helper.lost
        lines, self._lines = self._lines, []
        return lines

    def wait_s(self) -> float | None:
        """After how long `lines` is to be called though nothing is readable; None: never."""
        ends = [self._owed_since + HANG_S] if self._owed else []
        ends += [next(iter(self._kept.values())).until] if self._kept else []
        return max(0.0, min(ends) - self._clock()) if ends else None

    def close(self) -> None:
        self._helper.close()

    def _take(self, message: bytes) -> None:
        try:
            number, symbols = parse_answer(message)
        except ValueError as error:
            print(f"event process: symbols: {error}", file=sys.stderr, flush=True)
            self._helper.end()
            return
        self._owed.discard(number)
        self._owed_since = self._clock()
        if number in self._kept:
            self._answer(self._release(number), symbols)

    def _answer(self, kept: _Kept, symbols: Symbols) -> None:
        try:
            self._finish(kept, symbols)
        except ValueError:  # other frames than were asked for
            self._give_up(kept, "lost", LOST)
            self._helper.end()

    def _finish(self, kept: _Kept, symbols: Symbols) -> None:
        hidden = bool(kept.trace.kernel) and is_hidden()
        stacks = stack_fields(kept.event, kept.trace, symbols, hidden)
        self._lines.append(encode_line(kept.fields | stacks))
        self.counters["stacks_refused" if "symbols" in stacks else "stacks_symbolised"] += 1

    def _give_up(self, kept: _Kept, counter: str, reason: str) -> None:
        hidden = bool(kept.trace.kernel) and is_hidden()
        stacks = stack_fields(kept.event, kept.trace, Symbols(reason=reason), hidden)
        self._lines.append(encode_line(kept.fields | stacks))
        self.counters[f"stacks_{counter}"] += 1

    def _drop_lost(self) -> None:
        self._owed.clear()
        while self._kept:
            self._give_up(self._release(next(iter(self._kept))), "lost", LOST)

    def _release(self, number: int) -> _Kept:
        kept = self._kept.pop(number)
        self._kept_bytes -= kept.size
        return kept


def is_hidden() -> bool:
    """Whether the node's administrator hides kernel addresses, from root too or from others only."""
    try:
        return KPTR_RESTRICT.read_text().strip() != "0"
    except OSError:
        return True
