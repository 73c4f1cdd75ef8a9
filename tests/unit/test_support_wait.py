# SPDX-License-Identifier: Apache-2.0
"""Waiting with a deadline."""

from __future__ import annotations

import pytest

from tests.support.wait import DeadlineError, wait_until


def test_gives_the_first_true_value() -> None:
    values = iter([0, "", 7, 8])
    assert wait_until(lambda: next(values), 5, "a value") == 7


def test_asks_at_least_once_when_the_deadline_has_passed() -> None:
    assert wait_until(lambda: True, 0, "truth") is True


def test_says_what_it_waited_for() -> None:
    with pytest.raises(DeadlineError, match=r"waited 0\.01 s for the moon"):
        wait_until(lambda: False, 0.01, "the moon")


def test_missed_deadline_fails_a_test_like_an_assertion() -> None:
    assert issubclass(DeadlineError, AssertionError)
