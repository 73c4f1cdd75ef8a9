# SPDX-License-Identifier: Apache-2.0
"""Percentiles, conditions and output of the benchmarks."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from bench._common import percentile, print_result, quantiles, read_conditions, say, say_nothing


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 0, 7),
        ([7], 99, 7),
        ([3, 1, 2], 50, 2),
        ([4, 1, 3, 2], 50, 2),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 201)), 99, 198),
        (list(range(1, 21)), 99, 20),
        ([5, 9], 100, 9),
    ],
)
def test_percentile_is_a_value_that_was_seen_at_the_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_quantiles_are_rounded() -> None:
    assert quantiles([1.2345, 9.8765]) == {"p50": 1.23, "p99": 9.88}


def test_quantiles_of_nothing_are_nothing() -> None:
    assert quantiles([]) is None


def test_conditions_name_the_machine_and_the_moment() -> None:
    conditions = read_conditions()
    assert set(conditions) == {"kernel", "cpus", "load1", "python", "date"}
    assert conditions["cpus"] >= 1
    assert datetime.fromisoformat(conditions["date"]).tzinfo is not None


def test_result_is_one_line_on_standard_output_and_progress_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    say("half of it")
    say_nothing("nor this")
    print_result({"bench": "x", "nested": {"p50": 1}})
    captured = capsys.readouterr()
    assert captured.err == "half of it\n"
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out) == {"bench": "x", "nested": {"p50": 1}}
