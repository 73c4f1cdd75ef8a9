# SPDX-License-Identifier: Apache-2.0
"""What a status consists of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from rthook.install.options import RuntimeName


class Verdict(Enum):
    """WRONG makes the exit status 1."""

    OK = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Check:
    """`advice`: what to do, for what is wrong."""

    name: str
    verdict: Verdict
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """`source`: of what is told - running (the daemon's own words), binary, or file. `refusal`: what a refusal does."""

    runtime: RuntimeName
    version: str
    pid: int | None
    source: str
    refusal: str
    facts: Mapping[str, object] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.verdict is not Verdict.WRONG for check in self.checks)


def judge(name: str, good: bool, detail: str, advice: str) -> Check:
    """OK, or WRONG with advice."""
    return Check(name, Verdict.OK if good else Verdict.WRONG, detail, "" if good else advice)


def note(name: str, detail: str) -> Check:
    return Check(name, Verdict.NOTE, detail)


def wrong(name: str, detail: str, advice: str) -> Check:
    return Check(name, Verdict.WRONG, detail, advice)
