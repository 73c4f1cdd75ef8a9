# SPDX-License-Identifier: Apache-2.0
"""What attaching costs, from batches with and without it that took turns. Pure.

Of a round the best batch of each kind counts, since a busy machine slows single batches down by half and more; what is
told is the median over the rounds, and beside it what the median batches say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Batches:
    """Nanoseconds per call, one figure a batch: of the call that reaches the attach point, and of one that does not."""

    hooked: list[float]
    unhooked: list[float]

    def __add__(self, other: Batches) -> Batches:
        return Batches(self.hooked + other.hooked, self.unhooked + other.unhooked)


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of one case. bare: around it, without anything attached."""

    bare: Batches
    attached: Batches


# Makes one figure of a round's batches.
Pick = Callable[[Sequence[float]], float]


def ratios(turns: Sequence[Turn], pick: Pick) -> tuple[float, float]:
    """How many times its bare time each of both calls takes: the hooked one and the unhooked one."""
    of_hooked = [pick(turn.attached.hooked) / pick(turn.bare.hooked) for turn in turns]
    of_unhooked = [pick(turn.attached.unhooked) / pick(turn.bare.unhooked) for turn in turns]
    return statistics.median(of_hooked), statistics.median(of_unhooked)


def describe_turns(turns: Sequence[Turn]) -> dict[str, float]:
    """The figures of one case over all its rounds."""
    ratio, unhooked = ratios(turns, min)
    median_ratio, median_unhooked = ratios(turns, statistics.median)
    return {
        "bare_ns": round(statistics.median(min(turn.bare.hooked) for turn in turns), 1),
        "ns": round(statistics.median(min(turn.attached.hooked) for turn in turns), 1),
        "ratio": round(ratio, 3),
        "unhooked_bare_ns": round(statistics.median(min(turn.bare.unhooked) for turn in turns), 1),
        "unhooked_ratio": round(unhooked, 3),
        "ratio_median_batch": round(median_ratio, 3),
        "unhooked_ratio_median_batch": round(median_unhooked, 3),
    }
