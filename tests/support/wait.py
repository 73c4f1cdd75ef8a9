# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.patience import PATIENCE

T = TypeVar("T")

# Long enough not to burn a core while a runtime works, short enough not to show in a test's duration.
POLL_S = 0.005


class DeadlineError(AssertionError):
    """A condition did not come true in time; an AssertionError, so that pytest reports a failure and not an error."""

    def __init__(self, what: str, deadline_s: float) -> None:
        super().__init__(what, deadline_s)
        self.what = what
        self.deadline_s = deadline_s

    def __str__(self) -> str:
        return f"waited {self.deadline_s:g} s for {self.what}"


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str) -> T:
    """Call `predicate` until it returns something true, and return that; DeadlineError after `deadline_s` seconds.

    The predicate is called at least once, and once more after the deadline has passed. PATIENCE makes it longer.
    """
    deadline_s *= PATIENCE
    end = time.monotonic() + deadline_s
    while True:
        late = time.monotonic() >= end
        if value := predicate():
            return value
        if late:
            raise DeadlineError(what, deadline_s)
        time.sleep(POLL_S)
