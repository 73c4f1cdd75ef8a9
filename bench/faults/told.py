# SPDX-License-Identifier: Apache-2.0
"""What is told of single containers: by the plugin's log, the agent's log, and the OCI hook's own file. Pure.

A full disk tears lines: what was written of one stands in front of the next, without a line break.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

BEGINNING = '{"ts":'  # of every line
CREATE_CONTAINER = "hook:createContainer"  # the agent's name of the OCI hook's stage
BY_HOOK = "a hook decided without the agent"


class Saying(Enum):
    """What a line says of a container."""

    BOUND = "bound"
    """By the agent, and whoever asked had the answer in time."""
    OPEN = "open"
    """It started unguarded."""
    CLOSED = "closed"
    QUARANTINED = "quarantined"
    UNANNOUNCED = "unannounced"
    """Nobody had announced it at its first execve, and it went on unguarded."""
    STRICT = "strict"
    """Nobody had announced it at its first execve, and it went on under every policy."""


@dataclass(frozen=True, slots=True)
class Told:
    """at: seconds since 1970."""

    container_id: str
    saying: Saying
    at: float


UNGUARDED = frozenset({Saying.OPEN, Saying.UNANNOUNCED})
DECISIONS = {saying.value: saying for saying in (Saying.OPEN, Saying.CLOSED, Saying.QUARANTINED)}


def parse_line(text: str) -> dict[str, Any] | None:
    """The last object that begins in the line; None when none is whole."""
    _, found, rest = text.rpartition(BEGINNING)
    try:
        value = json.loads(found + rest)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_told(lines: Iterable[str]) -> list[Told]:
    """Of all lines that say something of a container's start, whichever file they are from."""
    parsed = (parse_line(line) for line in lines)
    told = (_read_one(line) for line in parsed if line)
    return [one for one in told if one]


def by_container(told: Iterable[Told]) -> Mapping[str, frozenset[Saying]]:
    """All that is said of each. The agent also tells of a call as bound whose hook had given up by then: what the hook
    decided counts.
    """
    found: dict[str, set[Saying]] = defaultdict(set)
    for one in told:
        found[one.container_id].add(one.saying)
    decided = set(DECISIONS.values())
    return {key: frozenset(says - {Saying.BOUND} if says & decided else says) for key, says in found.items()}


def find_recovery(told: Iterable[Told], since: float) -> float | None:
    """When the first start after `since` was answered as bound; None when none was."""
    known = list(told)
    says = by_container(known)
    times = [one.at for one in known if one.saying is Saying.BOUND and Saying.BOUND in says[one.container_id]]
    return min((at for at in times if at >= since), default=None)


def _read_one(line: Mapping[str, Any]) -> Told | None:
    saying = _find_saying(line)
    container = line.get("container_id")
    return Told(container, saying, _parse_time(line["ts"])) if saying and isinstance(container, str) else None


def _find_saying(line: Mapping[str, Any]) -> Saying | None:
    """A line of the hook's own file has no event."""
    event, outcome = line.get("event"), str(line.get("outcome"))
    if event == "start_container":
        return Saying.BOUND if outcome == Saying.BOUND.value else DECISIONS.get(outcome)
    if event in (BY_HOOK, None):
        return DECISIONS.get(outcome)
    if event == "unannounced":
        return Saying.STRICT if line.get("treatment") == "strict" else Saying.UNANNOUNCED
    return Saying.BOUND if event == "bound" and line.get("stage") == CREATE_CONTAINER else None


def _parse_time(value: object) -> float:
    """The hook writes seconds since 1970, the others ISO 8601."""
    return float(value) if isinstance(value, int | float) else datetime.fromisoformat(str(value)).timestamp()
