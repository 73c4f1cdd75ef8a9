# SPDX-License-Identifier: Apache-2.0
"""Waiting that an interrupt ends: the bench's threads get no signal, and each has something to take down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.support.wait import DeadlineError

# What is waited for takes a tenth of a second or more, and reading logs for it must not take what it works with.
POLL_S = 0.05


class InterruptedBenchError(Exception):
    """Somebody wants the bench to end."""


class Patience:
    """Every wait of the bench goes through one of these. stop: set by whoever ends it."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def until(self, predicate: Callable[[], bool], deadline_s: float, what: str) -> None:
        """DeadlineError when it does not come true; InterruptedBenchError."""
        deadline = time.monotonic() + deadline_s
        while not predicate():
            if time.monotonic() >= deadline:
                raise DeadlineError(what, deadline_s)
            self.pause(POLL_S)

    def pause(self, seconds: float) -> None:
        """InterruptedBenchError when the end comes meanwhile."""
        if self._stop.wait(seconds):
            raise InterruptedBenchError
