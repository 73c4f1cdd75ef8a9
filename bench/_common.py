# SPDX-License-Identifier: Apache-2.0
"""What every benchmark needs: percentiles, the conditions under which it ran, its output."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# Takes one line of text for whoever watches.
Say = Callable[[str], None]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that `percent` (0 to 100) of them do not exceed: nearest rank, so one that was seen.

    ValueError when there are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[max(1, int(rank)) - 1]


def quantiles(values: Sequence[float], digits: int = 2) -> dict[str, float] | None:
    """p50 and p99, rounded; None when nothing was measured."""
    if not values:
        return None
    return {f"p{percent}": round(percentile(values, percent), digits) for percent in (50, 99)}


def read_conditions() -> dict[str, Any]:
    """Under what a benchmark runs: call it at the start, for load1 is the load of the minute before."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load1": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def say(text: str) -> None:
    """Progress, on standard error: standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def say_nothing(_text: str) -> None:
    """Takes progress that nobody wants to see."""


def print_result(result: Mapping[str, Any]) -> None:
    """The last line of output."""
    print(json.dumps(result), flush=True)
