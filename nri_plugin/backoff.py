# SPDX-License-Identifier: Apache-2.0
"""When to try again: the delay doubles with each failure up to a cap. Pure; the caller has the clock."""


class Backoff:
    """Remembers when the next attempt is due; it is at once until the first failure."""

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._delay_s = first_s
        self._due = 0.0

    def failed(self, now: float) -> float:
        """Note a failure at `now`; the seconds until the next attempt."""
        delay = self._delay_s
        self._due = now + delay
        self._delay_s = min(delay * 2, self._cap_s)
        return delay

    def reset(self) -> None:
        """Start over: the next attempt is due at once, and the next failure costs the first delay."""
        self._delay_s = self._first_s
        self._due = 0.0

    def left(self, now: float) -> float:
        """Seconds until an attempt is due, 0 if it is."""
        return max(0.0, self._due - now)
