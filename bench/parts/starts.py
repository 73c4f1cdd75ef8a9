# SPDX-License-Identifier: Apache-2.0
"""What the logs of agent and plugin say of containers' starts, for each door by which the agent hears of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]
CREATE_CONTAINER = "hook:createContainer"  # the agent's name of the stage
FELL_BACK = "unidentified"  # what the outcome of one that nobody could identify begins with


@dataclass(frozen=True, slots=True)
class Starts:
    """times: by their name in the result, which ends in the unit. unbound: ids of containers that ran and that the door
    has not bound, as far as it tells. counts: the door's own.
    """

    times: Mapping[str, Sequence[float]] = field(default_factory=dict)
    unbound: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


def read_nri(lines: Iterable[Line], ids: Iterable[str]) -> Starts:
    """Of the plugin's log. hook_ms: from the runtime's request to the answer; bind_us: the agent's part in it."""
    wanted = tuple(ids)
    bound = [line for line in _of(lines, wanted, "start_container") if line["outcome"] == "bound"]
    times = {"hook_ms": [line["hook_us"] / 1000 for line in bound], "bind_us": [line["bind_us"] for line in bound]}
    return Starts(times, _missing(wanted, bound))


def read_oci(lines: Iterable[Line], ids: Iterable[str]) -> Starts:
    """Of the agent's log. agent_ms: from the hook's request to the answer, as the agent sees it."""
    wanted = tuple(ids)
    bound = [line for line in _of(lines, wanted, "bound") if line["stage"] == CREATE_CONTAINER]
    return Starts({"agent_ms": [line["spent_us"] / 1000 for line in bound]}, _missing(wanted, bound))


def read_hold(lines: Iterable[Line], ids: Iterable[str]) -> Starts:
    """Of the agent's log. held_ms: from the stop in the kernel to the continuation, of each stop.

    A container of which the log has neither a stop nor a case was bound before its execve.
    """
    wanted, known = tuple(ids), tuple(lines)
    stops, cases = _of(known, wanted, "released"), _of(known, wanted, "unannounced")
    lost = [line for line in cases if line["outcome"].startswith(FELL_BACK)]
    counts = {
        "held": len(_ids(stops)),
        "stops": len(stops),
        "bound_before": len(set(wanted) - _ids(stops) - _ids(cases)),
        "fell_back": len(_ids(lost)),
    }
    unbound = tuple(one for one in wanted if one in _ids(lost))
    return Starts({"held_ms": [line["held_us"] / 1000 for line in stops]}, unbound, counts)


def join_starts(parts: Sequence[Starts]) -> Starts:
    """What a door told of several groups of containers. Its counts are left out: some are sums already."""
    names = dict.fromkeys(name for part in parts for name in part.times)
    times = {name: [value for part in parts for value in part.times.get(name, ())] for name in names}
    return Starts(times, tuple(one for part in parts for one in part.unbound))


def _of(lines: Iterable[Line], ids: Sequence[str], event: str) -> list[Line]:
    wanted = set(ids)
    return [line for line in lines if line.get("event") == event and line["container_id"] in wanted]


def _ids(lines: Iterable[Line]) -> set[str]:
    return {line["container_id"] for line in lines}


def _missing(ids: Sequence[str], bound: Iterable[Line]) -> tuple[str, ...]:
    found = _ids(bound)
    return tuple(one for one in ids if one not in found)
