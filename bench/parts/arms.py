# SPDX-License-Identifier: Apache-2.0
"""What a change adds to a time, from measurements with it and without it that take turns. Pure.

A round has both arms, and the arm that comes first changes from round to round: what slows the machine down for a while
does not always meet the same one. The difference is that of the medians over all rounds. Its interval comes from the
bootstrap in two steps: rounds are drawn, then measurements within each, so that it is wide when rounds differ.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from bench._common import percentile, quantiles

RESAMPLES = 1000
CONFIDENCE = 95
SEED = 1  # the same measurements give the same interval

_Block = TypeVar("_Block")
_Block_co = TypeVar("_Block_co", covariant=True)


class Arm(Enum):
    WITHOUT = "without"
    WITH = "with"


@dataclass(frozen=True, slots=True)
class Round(Generic[_Block_co]):
    """One block of each arm."""

    without: _Block_co
    with_it: _Block_co


@dataclass(frozen=True, slots=True)
class Difference:
    """With less without, of the medians; low and high bound it with CONFIDENCE percent."""

    median: float
    low: float
    high: float

    @property
    def distinct(self) -> bool:
        """False when the noise is larger than the difference."""
        return self.low > 0 or self.high < 0

    def fields(self, digits: int = 2) -> dict[str, Any]:
        low, high = round(self.low, digits), round(self.high, digits)
        return {"median": round(self.median, digits), f"ci{CONFIDENCE}": [low, high], "distinct": self.distinct}


def run_rounds(rounds: int, run_block: Callable[[Arm, int], _Block]) -> list[Round[_Block]]:
    """run_block is told the arm and the round's number."""
    done = []
    for number in range(rounds):
        order = (Arm.WITHOUT, Arm.WITH) if number % 2 == 0 else (Arm.WITH, Arm.WITHOUT)
        blocks = {arm: run_block(arm, number) for arm in order}
        done.append(Round(blocks[Arm.WITHOUT], blocks[Arm.WITH]))
    return done


def split_evenly(count: int, parts: int) -> list[int]:
    """`parts` numbers that differ by one at most; their sum is `count`."""
    return [count // parts + (number < count % parts) for number in range(parts)]


def compare(rounds: Sequence[Round[Sequence[float]]]) -> Difference:
    """ValueError (statistics.StatisticsError) when an arm has no values."""
    draw = random.Random(SEED)
    drawn = [_difference(_resample(rounds, draw)) for _ in range(RESAMPLES)]
    tail = (100 - CONFIDENCE) / 2
    return Difference(_difference(rounds), percentile(drawn, tail), percentile(drawn, 100 - tail))


def _resample(rounds: Sequence[Round[Sequence[float]]], draw: random.Random) -> list[Round[Sequence[float]]]:
    chosen = draw.choices(rounds, k=len(rounds))
    return [
        Round(draw.choices(one.without, k=len(one.without)), draw.choices(one.with_it, k=len(one.with_it)))
        for one in chosen
    ]


def _difference(rounds: Sequence[Round[Sequence[float]]]) -> float:
    without, with_it = join_rounds(rounds)
    return statistics.median(with_it) - statistics.median(without)


def join_rounds(rounds: Sequence[Round[Sequence[float]]]) -> tuple[list[float], list[float]]:
    """All values without, all values with."""
    return [value for one in rounds for value in one.without], [value for one in rounds for value in one.with_it]


def tabulate_rounds(rounds: Sequence[Round[Sequence[float]]]) -> dict[str, Any]:
    """Both arms and their difference, of milliseconds."""
    without, with_it = join_rounds(rounds)
    return {
        "n": [len(without), len(with_it)],
        "without_ms": quantiles(without),
        "with_ms": quantiles(with_it),
        "added_ms": compare(rounds).fields(),
    }
