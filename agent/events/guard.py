# SPDX-License-Identifier: Apache-2.0
"""Looking after the processes that the agent holds: they are released when it hangs, and when it has died.

What is released, and when, is decided in rthook/held.py; here is how long and how often it is looked at.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

from rthook.bpf import BpfError, open_object, read_keys, read_shape
from rthook.generations import iterate_generations
from rthook.held import Hold, release_stale

PERIOD_S = 0.5
SETTLE_S = 3.0  # after the agent's death the kernel holds on until the heartbeat is stale, for one second
LAST_S = 65.0  # a process can be held for 60 s (--hold-deadline), and a heartbeat counts a second


class Guard:
    """pin_dir: of the agent."""

    def __init__(self, pin_dir: Path) -> None:
        self._pin_dir = pin_dir
        self._looked = 0.0
        self._told: set[Hold | str] = set()

    def look(self) -> None:
        """Once in a period, however often it is called."""
        if time.monotonic() - self._looked >= PERIOD_S:
            self._looked = time.monotonic()
            self.release()

    def release(self) -> None:
        """Ends what is overdue. What is left as it is, and what fails, is told once for as long as it lasts."""
        sweep, before = release_stale(self._pin_dir), self._told
        self._told = {release.hold for release in sweep.releases if not release.is_done} | set(sweep.faults)
        for release in sweep.releases:
            if release.hold not in before:
                _tell(f"{release.outcome.value}: process {release.hold.tgid}")
        for fault in sweep.faults:
            if fault not in before:
                _tell(f"what is held cannot be looked at: {fault}")

    def stay(self) -> None:
        """The agent is gone without a word: what it held must not wait for the next one."""
        began = time.monotonic()
        while (stayed := time.monotonic() - began) < LAST_S:
            self.release()
            if stayed >= SETTLE_S and not is_any_held(self._pin_dir):
                return
            time.sleep(PERIOD_S)


def is_any_held(pin_dir: Path) -> bool:
    """True too when that cannot be told."""
    try:
        return any(_has_held(generation / "maps" / "held") for generation in iterate_generations(pin_dir))
    except (BpfError, OSError):
        return True


def _has_held(pin: Path) -> bool:
    try:
        held = open_object(pin)
    except BpfError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    try:
        return bool(read_keys(held, read_shape(held)))
    finally:
        os.close(held)


def _tell(text: str) -> None:
    print(f"event process: {text}", file=sys.stderr, flush=True)
