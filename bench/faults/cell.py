# SPDX-License-Identifier: Apache-2.0
"""One fault in the middle of a stream of starts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

from agent.cli.client import ControlClient
from bench.faults.kinds import Fault
from bench.faults.others import find_meddlers
from bench.faults.site import EXEMPT, GUARDED, Site
from bench.faults.starts import Cell, Times
from bench.faults.stream import Stream, start_one
from bench.faults.told import by_container, find_recovery
from rthook.failure import Treatment
from tests.support.names import owner_pid
from tests.support.wait import DeadlineError

HEALTHY_S = 60.0
RECOVERY_S = 60.0
# A third of a small stream, with a machine that does other things.
STREAM_S = 120.0
# The agent looks at the hook's file once a second, and reads what it found at the look before.
TOLD_S = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """count: containers in a cell, at least. parallel: started at the same time."""

    count: int
    parallel: int


def choose_unannounced(fault: Fault, mode: Treatment) -> str:
    """What the agent does with containers that nobody announces: with the plugin gone the failure rule has no one who
    applies it.
    """
    return "strict" if fault.unannounced and mode is not Treatment.OPEN else "report"


def make_healthy(site: Site, unannounced: str, *, anew: bool) -> None:
    """Returns when a start was bound. anew: what the last fault has left must go.

    The agent is asked for its status, as by whoever watches a node: that must change nothing.
    """
    guard = site.guard
    if not guard.unannounced:
        guard.start(unannounced)
    elif anew or guard.unannounced != unannounced:
        guard.restart(unannounced)
    since = time.time()
    if not site.standing:
        site.standing = {namespace: site.new_pod(namespace) for namespace in (GUARDED, EXEMPT)}
    site.patience.until(lambda: _is_bound(site, since), HEALTHY_S, "a start that is bound, before the fault")
    ControlClient(guard.paths.run).status()


def _is_bound(site: Site, since: float) -> bool:
    start_one(site, 0)
    return find_recovery(site.guard.told(), since) is not None


def run_cell(site: Site, fault: Fault, load: Load) -> Cell:
    """The site must be healthy."""
    guard, part = site.guard, max(1, load.count // 3)
    guard.listen()
    meddlers = set(_find_meddlers(site))
    with Stream(site, load.parallel) as stream:
        _await(site, stream, part)
        began = time.time()
        try:
            fault.begin(site)
            _await(site, stream, 2 * part)
            site.patience.pause(max(0.0, began + fault.lasts_s - time.time()))
        finally:
            fault.end(site)
        ended = time.time()
        meddlers.update(_find_meddlers(site))
        recovered = _await_recovery(site, ended)
        _await(site, stream, max(load.count, stream.begun + part))
    meddlers.update(_find_meddlers(site))
    cell = Cell(
        site.place.door.value,
        site.place.mode,
        fault.name,
        guard.unannounced,
        Times(began, ended, recovered),
        tuple(sorted(stream.starts, key=lambda one: one.number)),
        by_container(guard.told()),
        fault.runtime_away,
        tuple(sorted(meddlers)),
    )
    return _await_told(site, cell)


def _find_meddlers(site: Site) -> list[str]:
    """Those of this bench have marks of their own, and harm nobody."""
    pins = site.guard.paths.pin_dir
    ours = [path for path in pins.parent.iterdir() if owner_pid(path.name) == os.getpid()]
    return find_meddlers(pins.parent, ours)


def _await(site: Site, stream: Stream, begun: int) -> None:
    site.patience.until(lambda: stream.begun >= begun, STREAM_S, f"{begun} starts")


def _await_recovery(site: Site, since: float) -> float | None:
    found: list[float] = []

    def recovered() -> bool:
        at = find_recovery(site.guard.told(), since)
        found.extend([at] if at is not None else [])
        return bool(found)

    try:
        site.patience.until(recovered, RECOVERY_S, "a start that is bound, after the fault")
    except DeadlineError:
        return None
    return found[0]


def _await_told(site: Site, cell: Cell) -> Cell:
    """With all that is said until nothing is missing, or TOLD_S seconds have passed."""
    latest = [cell]

    def all_told() -> bool:
        latest.append(replace(cell, said=by_container(site.guard.told())))
        return not latest[-1].untold

    try:
        site.patience.until(all_told, TOLD_S, "all to be told")
    except DeadlineError:
        return latest[-1]
    return latest[-1]
