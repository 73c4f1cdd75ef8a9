# SPDX-License-Identifier: Apache-2.0
"""What became of each start under a fault, and what of that is a broken promise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bench.faults.told import UNGUARDED, Saying
from rthook.failure import Treatment

KILLED = 137  # 128 + SIGKILL
HUNG_S = 10.0
# How the runtime's error begins what the plugin and the OCI hook say.
REFUSALS = ("podgate: ", "podgate-hook: ")


class Kind(Enum):
    ESCAPED = "escaped"
    """It did what its policy forbids, and lived. Of an exempt one: it ran."""
    BLOCKED = "blocked"
    """Its start was refused by us."""
    QUARANTINED = "quarantined"
    """It was bound to every policy for want of its own, and killed at its first instruction."""
    KILLED = "killed"
    """Its own policy killed it at its first instruction."""
    HUNG = "hung"
    FAILED = "failed"
    """It did not run, and nobody refused it: the runtime was away."""


@dataclass(frozen=True, slots=True)
class Start:
    """One container. asked, answered: around what the runtime was asked for last, in seconds since 1970. error: the
    runtime's, empty when it says that it started. exit_code: None when it did not run, or did not end.
    """

    number: int
    exempt: bool
    asked: float
    answered: float
    container_id: str = ""
    error: str = ""
    exit_code: int | None = None
    output: str = ""

    @property
    def is_hung(self) -> bool:
        return self.answered - self.asked > HUNG_S or (not self.error and self.exit_code is None)

    def kind(self, said: frozenset[Saying]) -> Kind:
        """said: of this container."""
        if self.exit_code == 0 or self.output:
            return Kind.ESCAPED
        if self.is_hung:
            return Kind.HUNG
        if self.error:
            return Kind.BLOCKED if any(words in self.error for words in REFUSALS) else Kind.FAILED
        if self.exit_code != KILLED:
            return Kind.FAILED
        return Kind.QUARANTINED if said & {Saying.QUARANTINED, Saying.STRICT} else Kind.KILLED


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds since 1970. ended: when what was wrong was put right, or the process that was gone was started again.
    recovered: when a start was answered as bound after that; None: never.
    """

    began: float
    ended: float
    recovered: float | None

    @property
    def recovery_s(self) -> float | None:
        return None if self.recovered is None else round(self.recovered - self.ended, 2)

    def overlap(self, start: Start) -> bool:
        """Whether the start was under way while something was wrong."""
        return start.asked <= (self.recovered or self.ended) and start.answered >= self.began


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault under one rule. unannounced: the agent's treatment. said: by container. runtime_away: it is part of the
    fault that the runtime does not answer. meddlers: agents of others that may have had a hand in it.
    """

    door: str
    mode: Treatment
    fault: str
    unannounced: str
    times: Times
    starts: tuple[Start, ...]
    said: Mapping[str, frozenset[Saying]] = field(default_factory=dict)
    runtime_away: bool = False
    meddlers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.door} {self.mode.value} {self.fault}"

    def find(self, kind: Kind, *, exempt: bool = False) -> list[Start]:
        return [one for one in self.starts if one.exempt is exempt and self.kind(one) is kind]

    def kind(self, start: Start) -> Kind:
        return start.kind(self.sayings(start))

    def sayings(self, start: Start) -> frozenset[Saying]:
        return self.said.get(start.container_id, frozenset())

    @property
    def untold(self) -> list[Start]:
        """Those that escaped, and no line says that they started unguarded."""
        return [one for one in self.find(Kind.ESCAPED) if not self.sayings(one) & UNGUARDED]

    @property
    def hung(self) -> list[Start]:
        """Exempt ones too."""
        return [one for one in self.starts if one.is_hung]

    @property
    def quarantined_exempt(self) -> list[Start]:
        """The treatment strict does not know the failure rule; the rule itself never puts an exempt one there."""
        wrong = self.find(Kind.QUARANTINED, exempt=True) + self.find(Kind.KILLED, exempt=True)
        return [one for one in wrong if Saying.STRICT not in self.sayings(one)]

    def fields(self) -> dict[str, Any]:
        """The cell in the result."""
        guarded = [one for one in self.starts if not one.exempt]
        counts = {kind.value: len(self.find(kind)) for kind in Kind}
        return {
            "door": self.door,
            "mode": self.mode.value,
            "fault": self.fault,
            "unannounced": self.unannounced,
            "started": len(guarded),
            "in_fault": sum(map(self.times.overlap, guarded)),
            **counts,
            "hung": len(self.hung),
            "untold": len(self.untold),
            "recovery_s": self.times.recovery_s,
            "meddlers": len(self.meddlers),
            "exempt": {
                "started": sum(one.exempt for one in self.starts),
                "ran": len(self.find(Kind.ESCAPED, exempt=True)),
                "killed_by_strict": sum(
                    one.exempt and one.exit_code == KILLED and Saying.STRICT in self.sayings(one) for one in self.starts
                ),
            },
        }

    def broken(self) -> list[tuple[str, list[Start]]]:
        """Each promise that does not hold, with the starts that show it."""
        may_escape = self.mode is Treatment.OPEN
        lists = {
            "escaped": [] if may_escape else self.find(Kind.ESCAPED),
            "escaped and were told nowhere": self.untold if may_escape else [],
            "hung": self.hung,
            "failed, and nobody refused them": [] if self.runtime_away else self.find(Kind.FAILED),
            "of the exempt namespace were refused": self.find(Kind.BLOCKED, exempt=True),
            "of the exempt namespace were kept from running": self.quarantined_exempt,
            "of the exempt namespace failed": [] if self.runtime_away else self.find(Kind.FAILED, exempt=True),
        }
        return [(what, found) for what, found in lists.items() if found]

    def find_faults(self) -> list[str]:
        """One line for each broken promise, with the first start that shows it."""
        lines = [
            f"{self.name}: {len(found)} {what}, the first: {self.describe(found[0])}" for what, found in self.broken()
        ]
        if self.times.recovered is None:
            lines.append(f"{self.name}: no start was bound any more after the fault's end")
        if not any(map(self.times.overlap, self.starts)):
            lines.append(f"{self.name}: nothing was started during the fault; it shows nothing")
        if lines and self.meddlers:
            lines.append(
                f"{self.name}: agents of others were there and meddle with strangers: {', '.join(self.meddlers)}"
            )
        return lines

    def describe(self, start: Start) -> str:
        """A start in words; its time counts from the fault's beginning."""
        said = ", ".join(sorted(saying.value for saying in self.sayings(start))) or "nothing"
        ending = start.error or f"exit code {start.exit_code}, output {start.output!r}"
        return (
            f"{start.container_id[:12] or f'number {start.number}'} at {start.asked - self.times.began:+.2f} s of "
            f"{self.times.ended - self.times.began:.2f} s, {start.answered - start.asked:.2f} s long, told: {said}; "
            f"{ending}"
        )


def sum_up(cells: list[Cell]) -> dict[str, Any]:
    """Of all cells together, by mode where that makes the difference."""
    rows = [(cell.mode, cell.fields()) for cell in cells]
    by_mode = {
        mode.value: {
            what: sum(row[what] for its, row in rows if its is mode)
            for what in ("started", "escaped", "blocked", "quarantined", "killed")
        }
        for mode in {cell.mode: None for cell in cells}
    }
    recoveries = [row["recovery_s"] for _, row in rows if row["recovery_s"] is not None]
    return {
        "modes": by_mode,
        "hung": sum(row["hung"] for _, row in rows),
        "untold": sum(row["untold"] for _, row in rows),
        "recovery_s_max": max(recoveries, default=None),
        "meddled": sum(bool(row["meddlers"]) for _, row in rows),
        "exempt_killed_by_strict": sum(row["exempt"]["killed_by_strict"] for _, row in rows),
    }
