# SPDX-License-Identifier: Apache-2.0
"""What the OCI hook decided while the agent did not answer it: JSON lines that it appends to a file, collected here.

The file is renamed, and read at the next look, some second later. So a hook which writes at that moment loses nothing:
it opens the file anew for each line, or it has the renamed one open and is done by then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from agent.logs import fields

MAX_SPOOL = 2 << 20  # the hook writes 1 MiB at most, and several may be at it
MAX_TOLD = 200  # lines logged of one file: an outage on a busy node must not flood the log; all are counted
OUTCOMES = frozenset({"open", "closed", "quarantined"})

log = logging.getLogger("podgate.hook")


class Spool:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = path.with_name(path.name + ".taken")
        self.outcomes: Counter[str] = Counter()

    def collect(self) -> int:
        """How many decisions were new. A file that an earlier agent did not get to the end of is read again."""
        known = 0
        for line in self._read():
            self._take(line, told=known < MAX_TOLD)
            known += 1
        self._taken.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(self._taken)
        return known

    def _read(self) -> list[bytes]:
        """Of what was renamed before; only of a plain file: the directory is root's, but what stands there is checked
        all the same. What is none is told, and goes.
        """
        try:
            descriptor = os.open(self._taken, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            return self._refuse(str(error))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return self._refuse("no plain file")
            text = file.read(MAX_SPOOL + 1)
        if len(text) > MAX_SPOOL:
            self._refuse(f"larger than {MAX_SPOOL} bytes, the rest is not read")
        return text[:MAX_SPOOL].splitlines()

    def _refuse(self, reason: str) -> list[bytes]:
        """What the hooks decided is not known, or not all of it."""
        self.outcomes["unreadable"] += 1
        log.error("what hooks decided cannot be read", extra=fields(path=str(self._path), reason=reason))
        return []

    def _take(self, line: bytes, *, told: bool) -> None:
        try:
            decision: dict[str, Any] = json.loads(line)
            outcome = str(decision["outcome"])
        except (ValueError, KeyError, TypeError, RecursionError):
            outcome, decision = "unreadable", {"line": line[:200].decode(errors="replace")}
        if outcome not in OUTCOMES:
            outcome = "unreadable"
        self.outcomes[outcome] += 1
        if told:
            log.error("a hook decided without the agent", extra={"fields": decision})
