# SPDX-License-Identifier: Apache-2.0
"""What becomes of containers that start while something of podgate is broken? `python -m bench.hook_faults`.

Each fault happens in the middle of a stream of starts, at a real containerd, under each failure rule: `default open`,
`closed` or `quarantine`, with one exempt namespace. At the door nri the plugin announces containers; at the door oci it
is the OCI hook, which stands in the spec that containerd starts every container's from. The first system call of every
container of the guarded namespace violates that namespace's policy, which kills. The modes run side by side, each on a
containerd of its own.

    agent_stopped         SIGSTOP, later SIGCONT
    agent_slow            stopped for three quarters of the time
    disk_full             where logs, spool and sockets are
    socket_removed        the agent's; it is back when the agent was restarted
    agent_restarted       SIGTERM, and a new one
    agent_killed          SIGKILL, and a new one some seconds later
    plugin_killed         SIGKILL, and a new one some seconds later
    containerd_restarted  SIGTERM, and a new one

With the last two nobody applies the failure rule for a while: in the modes closed and quarantine the agent runs with
`--unannounced strict` there, otherwise with `report`.

Of each: started, escaped (ran its first system call and beyond), blocked (refused), quarantined (started bound to
every policy, and killed), killed (by its own policy), hung (the start took more than ten seconds, or never ended),
failed (did not run, and not for us), untold (escaped, and no line says that it started unguarded). recovery_s: from the
fault's end, when all was put right or started again, until a start was answered as bound. in_fault: starts that were
under way between the fault's beginning and the recovery. Kubelets try again; nobody does here.

Exit status 1, with the reasons on standard error: an escape under closed or quarantine, or one that is untold; a start
that hung; a container of the exempt namespace that did not start; no recovery.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click

from bench._common import Say, print_result, read_conditions, say, say_nothing
from bench.faults.cell import Load, choose_unannounced, make_healthy, run_cell
from bench.faults.kinds import FAULTS, Fault
from bench.faults.patience import InterruptedBenchError
from bench.faults.site import Door, Place, Site, open_site
from bench.faults.starts import Cell, sum_up
from bench.faults.told import parse_line
from rthook.failure import Treatment

MODES = (Treatment.OPEN, Treatment.CLOSED, Treatment.QUARANTINE)
TOLD_LINES = 20
TURNS = frozenset(
    {
        "ready",
        "stopping: no policy is enforced any more",
        "an earlier agent's rules end here",
        "agent_lost",
        "agent_synchronized",
        "nri_lost",
        "nri_ready",
    }
)


@dataclass(frozen=True, slots=True)
class Options:
    doors: tuple[Door, ...]
    modes: tuple[Treatment, ...]
    faults: tuple[Fault, ...]
    load: Load
    say: Say


@dataclass(frozen=True, slots=True)
class Ended:
    """cells of one site; lines: what is wrong with them, with what the logs say of it."""

    version: str
    cells: list[Cell]
    lines: list[str]


def run_site(place: Place, options: Options, stop: threading.Event) -> Ended:
    """All faults that can happen at its door, one after the other."""
    faults = [fault for fault in options.faults if place.door in fault.doors]
    cells: list[Cell] = []
    lines: list[str] = []
    with open_site(place, stop) as site:
        anew = False
        for fault in faults:
            make_healthy(site, choose_unannounced(fault, place.mode), anew=anew)
            anew = fault.leaves
            cell = run_cell(site, fault, options.load)
            cells.append(cell)
            options.say(describe_cell(cell))
            lines += find_reasons(site, cell)
        return Ended(site.node.version, cells, lines)


def describe_cell(cell: Cell) -> str:
    fields = cell.fields()
    shown = ("started", "in_fault", "escaped", "blocked", "quarantined", "killed", "failed", "hung", "untold")
    return f"{cell.name}: {', '.join(f'{what} {fields[what]}' for what in (*shown, 'recovery_s'))}"


def find_reasons(site: Site, cell: Cell) -> list[str]:
    """Broken promises; below them what was logged of the first container of each, and of who came and went."""
    shown = {found[0].container_id for _, found in cell.broken()} - {""}
    faults = cell.find_faults()
    return faults + [f"  {line}" for line in site.guard.lines() if faults and is_telling(line, shown)][:TOLD_LINES]


def is_telling(line: str, containers: Set[str]) -> bool:
    """Whether it says something of one of the containers, or of a process's coming and going."""
    parsed = parse_line(line) or {}
    return parsed.get("container_id") in containers or parsed.get("event") in TURNS


def run_door(door: Door, options: Options, stop: threading.Event) -> list[Ended]:
    """Its modes side by side. An error in one, or an interrupt, ends all of them, and is raised when they are over."""
    first = list(Door).index(door) * len(MODES)
    places = [Place(door, mode, first + MODES.index(mode)) for mode in options.modes]
    with ThreadPoolExecutor(len(places)) as threads:
        futures = [threads.submit(run_site, place, options, stop) for place in places]
        for future in futures:
            future.add_done_callback(lambda done: _end_others(done, stop))
        try:
            return _results(futures)
        except BaseException:
            stop.set()
            raise


def _end_others(done: Future[Ended], stop: threading.Event) -> None:
    if done.exception():
        stop.set()


def _results(futures: list[Future[Ended]]) -> list[Ended]:
    """The error that ended the others is raised, not theirs."""
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, InterruptedBenchError):
            raise error
    return [future.result() for future in futures]


def run(options: Options) -> tuple[dict[str, Any], list[str]]:
    """The result, and what is wrong."""
    conditions = read_conditions() | {"parallel": options.load.parallel, "modes_side_by_side": len(options.modes)}
    stop = threading.Event()
    ended = [one for door in options.doors for one in run_door(door, options, stop)]
    cells = [cell for one in ended for cell in one.cells]
    result = {"bench": "hook_faults", "count": options.load.count} | sum_up(cells)
    result |= {"cells": [cell.fields() for cell in cells], "conditions": conditions | {"containerd": ended[0].version}}
    return result, [line for one in ended for line in one.lines]


def choose_faults(name: str | None, doors: tuple[Door, ...]) -> tuple[Fault, ...]:
    """Those that can happen at one of the doors; a usage error for one that can at none."""
    faults = tuple(fault for fault in FAULTS if name in (None, fault.name) and fault.doors & set(doors))
    if not faults:
        raise click.BadParameter(f"{name} does not happen at this door", param_hint="--fault")
    return faults


@click.command()
@click.option("--door", type=click.Choice([door.value for door in Door]), help="[default: both]")
@click.option("--mode", type=click.Choice([mode.value for mode in MODES]), help="[default: all]")
@click.option("--fault", type=click.Choice([fault.name for fault in FAULTS]), help="[default: all]")
@click.option("--count", type=click.IntRange(3), default=24, show_default=True, help="Containers for each, at least.")
@click.option("--parallel", type=click.IntRange(1, 16), default=2, show_default=True, help="Starts at a time, a mode.")
@click.option("--json", "only_json", is_flag=True, help="No progress, only the last line.")
def main(door: str | None, mode: str | None, fault: str | None, count: int, parallel: int, only_json: bool) -> None:
    """Count what becomes of starts while agent, plugin, disk or runtime fail."""
    doors = (Door(door),) if door else tuple(Door)
    faults = choose_faults(fault, doors)
    doors = tuple(one for one in doors if any(one in fault.doors for fault in faults))
    modes = (Treatment(mode),) if mode else MODES
    # make and others end a run by it; what was mounted is unmounted then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Options(doors, modes, faults, Load(count, parallel), say_nothing if only_json else say)
    result, lines = run(options)
    for line in lines:
        say(f"hook_faults: {line}")
    print_result(result)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
