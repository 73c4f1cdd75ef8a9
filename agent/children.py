# SPDX-License-Identifier: Apache-2.0
"""A process of the agent's that is started again when it ends."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence

from agent.logs import fields

RESTART_FIRST_S = 1.0
RESTART_CAP_S = 60.0  # of one that ends at once, each time
STEADY_S = 60.0  # after which an end is the first one again
STOP_S = 3.0

log = logging.getLogger("podgate.agent")


class Child:
    """name: for the log. Its standard input is empty; what it writes goes where the agent's goes."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._ended = False
        self._delay = RESTART_FIRST_S
        self.restarts = 0

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)
        self._started, self._ended = time.monotonic(), False

    def check(self) -> None:
        """Starts it again when it has ended, each time later."""
        process = self._process
        if process is None or process.poll() is None:
            return
        age = time.monotonic() - self._started
        if not self._ended and age > STEADY_S:
            self._delay = RESTART_FIRST_S
        self._ended = True  # from now on the age is not its own any more
        if age < self._delay:
            return
        self.restarts += 1
        self._delay = min(self._delay * 2, RESTART_CAP_S)
        log.error("a process of the agent's ended, starting it again", extra=self._fields(process.returncode))
        self.start()

    def _fields(self, status: int) -> dict[str, object]:
        return fields(process=self._name, status=status, restarts=self.restarts)

    def stop(self) -> None:
        """By SIGTERM; by SIGKILL when that is not enough."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
