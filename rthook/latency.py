# SPDX-License-Identifier: Apache-2.0
"""How long the stages of a start take, and what came of them: histograms with fixed buckets. Pure.

The buckets' upper bounds are in microseconds, and the last bucket has none. They reach past the 2 s that container
runtimes wait for a plugin, so that what came too late is seen as such.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BOUNDS_US = (
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
)
BUCKETS = len(BOUNDS_US) + 1


@dataclass(slots=True)
class StageStats:
    """One stage's durations. timeout_us: the runtime's patience, 0 when it is not known. last_success_us: Unix time."""

    timeout_us: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    sum_us: int = 0
    max_us: int = 0
    last_success_us: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return sum(self.buckets)

    @property
    def headroom_us(self) -> int:
        """What was left of the runtime's patience at the slowest call; negative when it was overrun."""
        return self.timeout_us - self.max_us

    def observe(self, spent_us: int, outcome: str, *, succeeded_at_us: int = 0) -> None:
        """succeeded_at_us: Unix time of a success, 0 for a failure."""
        self.buckets[bisect_left(BOUNDS_US, spent_us)] += 1
        self.sum_us += spent_us
        self.max_us = max(self.max_us, spent_us)
        self.last_success_us = max(self.last_success_us, succeeded_at_us)
        self.outcomes[outcome] += 1

    def quantile_us(self, share: float) -> int:
        """An upper bound of the share's quantile: its bucket's bound, or the largest value in the last one."""
        wanted = share * self.count
        seen = 0
        for count, bound in zip(self.buckets, BOUNDS_US, strict=False):
            seen += count
            if seen and seen >= wanted:
                return min(bound, self.max_us)
        return self.max_us
