# SPDX-License-Identifier: Apache-2.0
"""What the race counts: from each container's end to the figures of a phase, and to those of the whole run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench._common import quantiles
from bench.parts.starts import Starts

KILLED = 137  # 128 + SIGKILL
UNTOUCHED = "Bad file descriptor"  # what /first prints when nothing stops its first call


@dataclass(frozen=True, slots=True)
class Ended:
    """How one container ended. exit_code is None when it did not start, or did not end; `reason` says why."""

    container_id: str
    selected: bool
    exit_code: int | None
    output: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        """The runtime did not run it: it says nothing about the gate."""
        return self.exit_code is None

    @property
    def escaped(self) -> bool:
        """Selected, and yet it did something."""
        return self.selected and not self.failed and (self.exit_code != KILLED or bool(self.output))

    @property
    def wrongly_killed(self) -> bool:
        """Not selected, and yet it was kept from something."""
        return not self.selected and not self.failed and (self.exit_code != 0 or self.output.strip() != UNTOUCHED)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase. starts: what the door says of them. extra: figures that only this phase has."""

    name: str
    ended: tuple[Ended, ...]
    starts: Starts
    bindings_left: int
    seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def times(self) -> dict[str, dict[str, float] | None]:
        """p50 and p99 of each time that the door has."""
        return {name: quantiles(values) for name, values in self.starts.times.items()}

    def count(self, what: str) -> int:
        """How many containers have the property `what` of Ended."""
        return sum(bool(getattr(one, what)) for one in self.ended)

    def fields(self) -> dict[str, Any]:
        """The phase in the result."""
        return {
            "containers": len(self.ended),
            "selected": self.count("selected"),
            "escaped": self.count("escaped"),
            "wrongly_killed": self.count("wrongly_killed"),
            "failed": self.count("failed"),
            "unbound": len(self.starts.unbound),
            **self.times,
            "bindings_left": self.bindings_left,
            "seconds": round(self.seconds, 1),
            **self.starts.counts,
            **self.extra,
        }


def worst_quantiles(phases: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    """Of each quantile the largest."""
    measured = [phase for phase in phases if phase]
    return {key: max(phase[key] for phase in measured) for key in measured[0]} if measured else None


def worst_of(phases: Sequence[Phase]) -> dict[str, Any]:
    """The figures of the whole run: each is that of the phase in which it is worst."""
    return {
        "containers": min(len(phase.ended) for phase in phases),
        "selected": min(phase.count("selected") for phase in phases),
        **{what: max(phase.count(what) for phase in phases) for what in ("escaped", "wrongly_killed", "failed")},
        "unbound": max(len(phase.starts.unbound) for phase in phases),
        **{name: worst_quantiles([phase.times[name] for phase in phases]) for name in phases[0].times},
        "bindings_left": max(phase.bindings_left for phase in phases),
    }


def find_faults(phase: Phase) -> list[str]:
    """One line for each promise that the phase broke."""
    lines = []
    for what in ("escaped", "wrongly_killed", "failed"):
        found = [one for one in phase.ended if getattr(one, what)]
        if found:
            lines.append(
                f"{phase.name}: {len(found)} of {len(phase.ended)} containers {what}, the first: {describe(found[0])}"
            )
    if phase.starts.unbound:
        first = phase.starts.unbound[0]
        lines.append(
            f"{phase.name}: {len(phase.starts.unbound)} containers ran and were not bound, the first: {first[:12]}"
        )
    if phase.bindings_left:
        lines.append(f"{phase.name}: {phase.bindings_left} bindings left after all pods were removed")
    return lines


def describe(one: Ended) -> str:
    """A container's end in words."""
    ending = one.reason if one.failed else f"exit code {one.exit_code}, output {one.output!r}"
    return f"{one.container_id[:12]} ({'selected' if one.selected else 'not selected'}): {ending}"
