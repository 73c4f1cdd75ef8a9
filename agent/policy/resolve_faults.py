# SPDX-License-Identifier: Apache-2.0
"""How what is wrong with one argument gets from where it is found to the place that knows its position."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agent.policy.errors import PolicyBaseError, Problems
from agent.policy.facts import FactsError
from agent.policy.model import Arg, Hook

_T = TypeVar("_T")


class ResolveError(PolicyBaseError):
    """What is wrong, and what to write instead."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, advice)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what}, {self.advice}"


def resolve_each(args: tuple[Arg, ...], resolve: Callable[[Arg], _T], hook: Hook, problems: Problems) -> tuple[_T, ...]:
    """What `resolve` makes of each argument; those that raise ResolveError or FactsError are reported and left out."""
    found = []
    for arg in args:
        try:
            found.append(resolve(arg))
        except (ResolveError, FactsError) as fault:
            problems.report(arg.source or hook.source, fault.what, fault.advice)
    return tuple(found)
