# SPDX-License-Identifier: Apache-2.0
"""How hook_faults reads what is told of a start, what it counts it as, and which promises it finds broken."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import threading
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench.faults.cell import choose_unannounced
from bench.faults.disk import mounted_disk
from bench.faults.kinds import FAULTS
from bench.faults.others import find_meddlers
from bench.faults.patience import InterruptedBenchError, Patience
from bench.faults.site import VIOLATE, Door, Place, make_mark, parse_mark
from bench.faults.starts import Cell, Kind, Start, Times, sum_up
from bench.faults.told import Saying, Told, by_container, find_recovery, parse_line, read_told
from bench.hook_faults import choose_faults, is_telling, main
from rthook.failure import Treatment
from tests.support.image import compile_program
from tests.support.system import mounts_below
from tests.support.wait import DeadlineError

TS = "2026-01-01T00:00:00.500000+00:00"
AT = 1767225600.5
KILLED = Start(1, False, 10.0, 10.2, "k", exit_code=137)
ESCAPED = Start(2, False, 10.0, 10.2, "e", exit_code=0, output="ran\n")
REFUSED = Start(3, False, 10.0, 10.2, "b", error="UNKNOWN: podgate: agent at /x: no answer", exit_code=128)
AWAY = Start(4, False, 10.0, 10.2, error="UNAVAILABLE: connection refused")
NEVER_ENDED = Start(5, False, 10.0, 10.2, "n")
EXEMPT = Start(6, True, 10.0, 10.2, "x", exit_code=0, output="ran\n")
TIMES = Times(9.0, 11.0, 12.25)


def make_line(event: str, **fields: object) -> str:
    return json.dumps({"ts": TS, "level": "info", "event": event, "container_id": "c1", **fields})


def make_cell(*starts: Start, mode: Treatment = Treatment.CLOSED, **said: Saying) -> Cell:
    sayings = {container: frozenset({saying}) for container, saying in said.items()}
    return Cell("nri", mode, "agent_killed", "report", TIMES, starts, sayings)


@pytest.mark.parametrize(
    ("line", "saying"),
    [
        (make_line("start_container", outcome="bound"), Saying.BOUND),
        (make_line("start_container", outcome="open"), Saying.OPEN),
        (make_line("start_container", outcome="closed"), Saying.CLOSED),
        (make_line("start_container", outcome="quarantined"), Saying.QUARANTINED),
        (make_line("a hook decided without the agent", outcome="open"), Saying.OPEN),
        (make_line("unannounced", treatment="strict", outcome="identified"), Saying.STRICT),
        (make_line("unannounced", treatment="report", outcome="unidentified"), Saying.UNANNOUNCED),
        (make_line("bound", stage="hook:createContainer"), Saying.BOUND),
        ('{"ts":1767225600.500,"stage":"createContainer","container_id":"c1","outcome":"open"}', Saying.OPEN),
    ],
)
def test_line_says_something_of_a_container(line: str, saying: Saying) -> None:
    assert read_told([line]) == [Told("c1", saying, AT)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Traceback (most recent call last):",
        make_line("bound", stage="bind"),  # the agent's view of a call of the plugin's, which has the last word
        make_line("run_pod_sandbox", outcome="open"),
        make_line("start_container", outcome="bound", container_id=None),
        make_line("cgroup_removed"),
        '{"ts":1,"container_id":"c1","outcome":"open"',
        '{"ts":1}{}',
    ],
)
def test_line_says_nothing_of_a_start(line: str) -> None:
    assert read_told([line]) == []


def test_line_behind_a_torn_one_is_read() -> None:
    whole = make_line("start_container", outcome="open")
    for cut in range(len(whole)):
        assert parse_line(whole[:cut] + whole) == json.loads(whole)


def test_hook_that_gave_up_before_the_agent_bound_decides() -> None:
    told = [Told("a", Saying.BOUND, 5.0), Told("a", Saying.QUARANTINED, 4.0), Told("b", Saying.BOUND, 6.0)]
    assert by_container(told) == {"a": {Saying.QUARANTINED}, "b": {Saying.BOUND}}
    assert find_recovery(told, 4.5) == 6.0
    assert find_recovery(told, 6.5) is None


@pytest.mark.parametrize(
    ("start", "said", "kind"),
    [
        (KILLED, set(), Kind.KILLED),
        (KILLED, {Saying.BOUND}, Kind.KILLED),
        (KILLED, {Saying.QUARANTINED}, Kind.QUARANTINED),
        (KILLED, {Saying.STRICT}, Kind.QUARANTINED),
        (ESCAPED, {Saying.QUARANTINED}, Kind.ESCAPED),
        (dataclasses.replace(KILLED, output="ran\n"), set(), Kind.ESCAPED),
        (dataclasses.replace(REFUSED, output="ran\n"), set(), Kind.ESCAPED),
        (REFUSED, {Saying.CLOSED}, Kind.BLOCKED),
        (dataclasses.replace(REFUSED, error="hook #0: podgate-hook: createContainer: x"), set(), Kind.BLOCKED),
        (AWAY, set(), Kind.FAILED),
        (dataclasses.replace(KILLED, exit_code=2), set(), Kind.FAILED),
        (NEVER_ENDED, {Saying.BOUND}, Kind.HUNG),
        (dataclasses.replace(KILLED, answered=20.1), set(), Kind.HUNG),
        (dataclasses.replace(REFUSED, answered=20.1), set(), Kind.HUNG),
    ],
)
def test_start_is_counted_as(start: Start, said: set[Saying], kind: Kind) -> None:
    assert start.kind(frozenset(said)) is kind


def test_cell_counts_guarded_and_exempt_apart() -> None:
    late = dataclasses.replace(KILLED, number=7, asked=13.0, answered=13.1)
    cell = make_cell(KILLED, REFUSED, EXEMPT, late, mode=Treatment.OPEN)
    fields = cell.fields()
    shown = {key: fields[key] for key in ("started", "in_fault", "killed", "blocked", "escaped", "recovery_s")}
    assert shown == {"started": 3, "in_fault": 2, "killed": 2, "blocked": 1, "escaped": 0, "recovery_s": 1.25}
    assert fields["exempt"] == {"started": 1, "ran": 1, "killed_by_strict": 0}
    assert cell.find_faults() == []


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (make_cell(ESCAPED, e=Saying.OPEN), "1 escaped, the first: e"),
        (make_cell(ESCAPED, mode=Treatment.QUARANTINE, e=Saying.OPEN), "1 escaped, the first: e"),
        (make_cell(ESCAPED, mode=Treatment.OPEN, e=Saying.BOUND), "1 escaped and were told nowhere"),
        (make_cell(ESCAPED, mode=Treatment.OPEN), "told: nothing"),
        (make_cell(NEVER_ENDED), "1 hung"),
        (make_cell(dataclasses.replace(NEVER_ENDED, exempt=True)), "1 hung"),
        (make_cell(AWAY), "1 failed, and nobody refused them"),
        (make_cell(dataclasses.replace(REFUSED, exempt=True)), "1 of the exempt namespace were refused"),
        (
            make_cell(dataclasses.replace(KILLED, exempt=True), k=Saying.QUARANTINED),
            "1 of the exempt namespace were kept from running",
        ),
        (make_cell(), "nothing was started during the fault"),
        (dataclasses.replace(make_cell(KILLED), times=Times(9.0, 11.0, None)), "no start was bound any more"),
    ],
)
def test_broken_promise_is_told_with_its_first_start(cell: Cell, words: str) -> None:
    assert any(words in line for line in cell.find_faults())


@pytest.mark.parametrize(
    "cell",
    [
        make_cell(ESCAPED, KILLED, mode=Treatment.OPEN, e=Saying.OPEN),
        make_cell(ESCAPED, KILLED, mode=Treatment.OPEN, e=Saying.UNANNOUNCED),
        make_cell(dataclasses.replace(KILLED, exempt=True), k=Saying.STRICT),
        dataclasses.replace(make_cell(AWAY), runtime_away=True),
        make_cell(REFUSED, KILLED),
    ],
)
def test_what_a_mode_allows_is_no_fault(cell: Cell) -> None:
    assert cell.find_faults() == []


def test_agents_of_others_are_named_beside_a_broken_promise_only() -> None:
    broken, kept = make_cell(ESCAPED), make_cell(KILLED)
    line = "nri closed agent_killed: agents of others were there and meddle with strangers: pin-1: hold"
    assert dataclasses.replace(broken, meddlers=("pin-1: hold",)).find_faults()[-1] == line
    assert dataclasses.replace(kept, meddlers=("pin-1: hold",)).find_faults() == []


def test_sum_is_told_by_mode() -> None:
    opened = make_cell(ESCAPED, KILLED, mode=Treatment.OPEN, e=Saying.OPEN)
    never = dataclasses.replace(make_cell(NEVER_ENDED), times=Times(1.0, 2.0, None))
    total = sum_up([make_cell(REFUSED), make_cell(REFUSED, KILLED), opened, never])
    assert total["modes"] == {
        "closed": {"started": 4, "escaped": 0, "blocked": 2, "quarantined": 0, "killed": 1},
        "open": {"started": 2, "escaped": 1, "blocked": 0, "quarantined": 0, "killed": 1},
    }
    assert (total["hung"], total["untold"], total["recovery_s_max"]) == (1, 0, 1.25)


def test_strict_stands_in_where_nobody_applies_the_rule() -> None:
    chosen = {(fault.name, mode): choose_unannounced(fault, mode) for fault in FAULTS for mode in Treatment}
    strict = {"plugin_killed", "containerd_restarted"}
    guarded = {Treatment.CLOSED, Treatment.QUARANTINE}
    assert {key for key, treatment in chosen.items() if treatment == "strict"} == {
        (name, mode) for name in strict for mode in guarded
    }


def test_each_site_has_a_violation_of_its_own() -> None:
    places = [Place(door, mode, number) for number, (door, mode) in enumerate((d, m) for d in Door for m in Treatment)]
    marks = [parse_mark(place.mark) for place in places]
    assert len(set(marks)) == len(marks)
    assert all(1 << 24 < mark < 1 << 31 for mark in marks)
    assert [make_mark(number) for number in (0, 35, 36)] == ["0000", "z000", "0100"]


def test_program_that_nothing_stops_says_so(tmp_path: Path) -> None:
    program = tmp_path / "violate"
    compile_program(VIOLATE.programs["violate"], program)
    done = subprocess.run([program, "0a1z"], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (0, "ran\n")


@pytest.mark.container
def test_disk_is_full_until_it_is_freed_and_gone_at_the_end(tmp_path: Path) -> None:
    point = tmp_path / "disk"
    with mounted_disk(point) as disk:
        (point / "log").write_text("before")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (point / "new").write_text("x")
        disk.free()
        disk.free()
        (point / "new").write_text("x")
    assert mounts_below(point) == []
    assert list(point.iterdir()) == []


def test_patience_ends_with_the_bench_and_with_the_deadline() -> None:
    stop = threading.Event()
    patience = Patience(stop)
    patience.until(lambda: True, 0.0, "what is so")
    with pytest.raises(DeadlineError, match="what never is"):
        patience.until(lambda: False, 0.01, "what never is")
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(InterruptedBenchError):
        patience.until(lambda: False, 60.0, "the end")
    assert time.monotonic() - began < 30
    with pytest.raises(InterruptedBenchError):
        patience.pause(60.0)


def test_what_is_no_agents_directory_meddles_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "podgate" / "maps").mkdir(parents=True)
    (tmp_path / "podgate" / "maps" / "doors").write_text("")
    (tmp_path / "maps.debug").write_text("")
    assert find_meddlers(tmp_path, ()) == []


@pytest.mark.parametrize(
    ("line", "telling"),
    [
        (make_line("bound", stage="bind"), True),
        (make_line("bound", container_id="c2"), False),
        (make_line("agent_lost", container_id=None), True),
        (make_line("policy", container_id=None), False),
        ("Traceback", False),
    ],
)
def test_lines_of_a_container_and_of_coming_and_going_are_shown(line: str, telling: bool) -> None:
    assert is_telling(line, {"c1"}) is telling


def test_fault_must_be_one_of_the_door() -> None:
    both = tuple(Door)
    assert choose_faults(None, both) == FAULTS
    assert [fault.name for fault in choose_faults("plugin_killed", both)] == ["plugin_killed"]
    with pytest.raises(click.BadParameter, match="plugin_killed does not happen at this door"):
        choose_faults("plugin_killed", (Door.OCI,))


@pytest.mark.parametrize("arguments", [["--door", "hold"], ["--mode", "exempt"], ["--fault", "rain"], ["--count", "2"]])
def test_usage_errors(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2
