# SPDX-License-Identifier: Apache-2.0
"""Batches of the event cost's configurations over all rounds, and the figures made of them. Pure.

The machine is shared, and slow phases are long: within a round the best batch counts, over the rounds the median of
those.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NONE = "none"  # podgate does not run
POLICIES = (1, 10, 100)  # how many look at a call
BATCHES = 15  # of one case in a round
POST = "post"  # one policy that matches, and posts


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """What was measured. policies: a number, NONE or POST. who: selected or unselected, empty when nobody asks."""

    call: str
    policies: str
    who: str = ""


class Samples:
    """Nanoseconds per call, by case and round."""

    def __init__(self) -> None:
        self._rounds: dict[Case, list[list[float]]] = defaultdict(list)

    def add(self, case: Case, batches: Sequence[float]) -> None:
        """One round's batches of a case."""
        self._rounds[case].append(list(batches))

    def best(self) -> dict[Case, float]:
        """The median over the rounds of each round's best batch."""
        return {case: statistics.median(map(min, rounds)) for case, rounds in self._rounds.items()}

    def typical(self) -> dict[Case, float]:
        """The median over the rounds of each round's median batch."""
        return {case: statistics.median(map(statistics.median, rounds)) for case, rounds in self._rounds.items()}


def tabulate_cases(figures: Mapping[Case, float], digits: int = 1) -> dict[str, dict[str, Any]]:
    """Call → policies → who → nanoseconds; without "who" where nobody asks. POST, a figure of its own, is left out."""
    table: dict[str, dict[str, Any]] = {}
    for case, value in figures.items():
        if case.policies == POST:
            continue
        row = table.setdefault(case.call, {})
        if case.who:
            row.setdefault(case.policies, {})[case.who] = round(value, digits)
        else:
            row[case.policies] = round(value, digits)
    return table
