# SPDX-License-Identifier: Apache-2.0
"""Tells of the processes that an earlier agent held: which go on, and which could not be let go."""

from __future__ import annotations

import logging

from agent.logs import fields
from rthook.held import Sweep

log = logging.getLogger("podgate.agent")


class Releases:
    """The same problem comes with each sweep while it lasts; it is told once."""

    def __init__(self) -> None:
        self._problems: frozenset[str] = frozenset()

    def tell(self, *sweeps: Sweep) -> None:
        """sweeps: of one look at all that is held."""
        for sweep in sweeps:
            for release in sweep.done:
                told = fields(pid=release.hold.tgid, outcome=release.outcome.value)
                log.warning("released what an earlier agent held", extra=told)
        problems = frozenset[str]().union(*(sweep.problems for sweep in sweeps))
        for problem in sorted(problems - self._problems):
            log.error("what an earlier agent held could not be released", extra=fields(error=problem))
        self._problems = problems
