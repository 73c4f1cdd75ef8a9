# SPDX-License-Identifier: Apache-2.0
"""How start_latency takes turns, compares, and measures processes; nothing here starts a container."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.hooks.annotations import Kind, Runtime, identify
from agent.hooks.spec import parse_config
from bench.parts.arms import Arm, Round, compare, join_rounds, run_rounds, split_evenly, tabulate_rounds
from bench.parts.bundles import make_spec, place_spec, pod_annotations
from bench.parts.launcher import SOURCE, Launcher, LauncherError, Usage, parse_usage
from bench.parts.processes import (
    MAX_RSS_KIB,
    count_failures,
    order_of,
    process_targets,
    tabulate_usages,
)
from bench.parts.small import NO_HOOK, OURS, TRUE, SmallMemory
from bench.parts.starts import Starts
from bench.parts.targets import judge
from bench.start_latency import Options, Report, find_targets
from tests.support.image import compile_program
from tests.support.node import Runtime as Containerd

SPREAD = [90.0, 95.0, 100.0, 105.0, 110.0]


def say(_text: str) -> None:
    """Nobody listens."""


def options(count: int, parallel: int = 16) -> Options:
    return Options(count, parallel, Containerd.CONTAINERD_2, say)


# Turns.


def test_arms_take_turns_in_being_the_first() -> None:
    played: list[tuple[int, Arm]] = []

    def run_block(arm: Arm, number: int) -> str:
        played.append((number, arm))
        return f"{arm.value} {number}"

    rounds = run_rounds(3, run_block)
    first, second = Arm.WITHOUT, Arm.WITH
    assert played == [(0, first), (0, second), (1, second), (1, first), (2, first), (2, second)]
    assert rounds == [Round(f"without {n}", f"with {n}") for n in range(3)]


@pytest.mark.parametrize(
    ("count", "parts", "sizes"), [(200, 8, [25] * 8), (20, 4, [5] * 4), (10, 4, [3, 3, 2, 2]), (4, 4, [1] * 4)]
)
def test_containers_are_spread_over_the_rounds(count: int, parts: int, sizes: list[int]) -> None:
    assert split_evenly(count, parts) == sizes


@pytest.mark.parametrize(("count", "rounds"), [(4, 4), (20, 4), (100, 4), (101, 5), (200, 8)])
def test_there_are_enough_rounds_and_no_large_blocks(count: int, rounds: int) -> None:
    sizes = options(count).sizes
    assert (len(sizes), sum(sizes)) == (rounds, count)
    assert max(sizes) <= 25


@pytest.mark.parametrize(("parallel", "parallels"), [(16, (1, 16)), (1, (1,))])
def test_one_at_a_time_is_always_measured(parallel: int, parallels: tuple[int, ...]) -> None:
    assert options(20, parallel).parallels == parallels


# Differences.


def test_difference_is_that_of_the_medians_of_all_rounds() -> None:
    rounds = [Round([1.0, 2.0, 30.0], [4.0]), Round([3.0, 4.0], [6.0, 8.0])]
    assert join_rounds(rounds) == ([1.0, 2.0, 30.0, 3.0, 4.0], [4.0, 6.0, 8.0])
    assert compare(rounds).median == 6.0 - 3.0


def test_clear_difference_is_distinct_and_inside_its_interval() -> None:
    rounds = [Round(SPREAD, [value + 50 for value in SPREAD]) for _ in range(6)]
    found = compare(rounds)
    assert found.median == 50
    assert 0 < found.low <= 50 <= found.high < 100
    assert found.distinct


def test_difference_below_the_noise_is_not_distinct() -> None:
    found = compare([Round(SPREAD, [value + 1 for value in SPREAD]) for _ in range(6)])
    assert found.low < 0 < found.high
    assert not found.distinct


def test_rounds_that_differ_make_the_interval_wide() -> None:
    """One round in four was slow, and only in one arm: within the rounds there is no spread at all."""
    slow, usual = Round([100.0] * 5, [200.0] * 5), Round([100.0] * 5, [100.0] * 5)
    found = compare([slow, usual, usual, usual])
    assert (found.median, found.low, found.distinct) == (0, 0, False)
    assert found.high == 100


def test_gain_is_distinct_too() -> None:
    assert compare([Round([10.0, 11.0], [1.0, 2.0])] * 4).distinct


def test_same_measurements_give_the_same_interval() -> None:
    rounds = [Round(SPREAD, SPREAD[1:])] * 4
    assert compare(rounds) == compare(rounds)


def test_arm_without_values_is_an_error() -> None:
    with pytest.raises((statistics.StatisticsError, IndexError)):
        compare([Round([], [1.0])])


def test_table_has_both_arms_and_what_was_added() -> None:
    table = tabulate_rounds([Round([1.0], [2.5])] * 4)
    assert table["n"] == [4, 4]
    assert (table["without_ms"]["p50"], table["with_ms"]["p50"]) == (1.0, 2.5)
    assert table["added_ms"] == {"median": 1.5, "ci95": [1.5, 1.5], "distinct": True}


# Bundles.


def test_spec_of_a_bundle_names_its_pod_and_its_cgroup(tmp_path: Path) -> None:
    base = {"process": {"args": ["sh"], "terminal": True, "cwd": "/"}, "linux": {"namespaces": []}, "hostname": "h"}
    annotations = pod_annotations("latency", "alone")
    spec = place_spec(make_spec(base, annotations), "/podgate-x/c1", tmp_path)
    read = parse_config(json.dumps(spec).encode())
    identity = identify(read.annotations, Runtime.AUTO, "c1")
    assert read.cgroups_path == "/podgate-x/c1"
    assert (identity.namespace, identity.pod_name, identity.kind) == ("latency", "alone", Kind.CONTAINER)
    assert identity.labels == (), "known, so that nobody is asked"
    assert spec["process"] == {"args": ["/pause"], "terminal": False, "cwd": "/"}
    assert base["process"] == {"args": ["sh"], "terminal": True, "cwd": "/"}, "as it was"


# Processes.


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bench") / "launch"
    compile_program(SOURCE, target)
    return target


@contextmanager
def launcher_of(program: Path, folder: Path, *commands: list[str]) -> Iterator[Launcher]:
    """In no cgroup: a file takes what it would write there."""
    (folder / "cgroup.procs").write_text("")
    (folder / "state").write_text("the state\n")
    launcher = Launcher(program, folder, folder / "state", commands)
    try:
        yield launcher
    finally:
        launcher.close()


def test_launcher_enters_its_cgroup_and_hands_over_the_state(program: Path, tmp_path: Path) -> None:
    script = f"env >{tmp_path}/env; cat >{tmp_path}/copy; echo unseen"
    with launcher_of(program, tmp_path, ["/bin/true"], ["/bin/sh", "-c", script]) as launcher:
        assert launcher.run(1).status == 0
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    assert (tmp_path / "copy").read_text() == "the state\n"
    assert set((tmp_path / "env").read_text().split()) <= {f"PWD={Path.cwd()}", "_=/usr/bin/env", "SHLVL=0", "OLDPWD="}


def test_launcher_tells_how_each_program_ended(program: Path, tmp_path: Path) -> None:
    commands = [["/bin/true"], ["/bin/sh", "-c", "exit 3"], ["/bin/sh", "-c", "kill -9 $$"], ["/no/such/program"]]
    with launcher_of(program, tmp_path, *commands) as launcher:
        assert [launcher.run(number).status for number in (0, 1, 2, 3, 0)] == [0, 3, -9, 127, 0]


def test_launcher_tells_what_a_program_took(program: Path, tmp_path: Path) -> None:
    busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    with launcher_of(program, tmp_path, ["/bin/true"], ["/bin/sh", "-c", busy]) as launcher:
        idle, worked = launcher.run(0), launcher.run(1)
    assert 0 < idle.cpu_ms < worked.cpu_ms
    assert idle.wall_ms < worked.wall_ms
    assert 100 < idle.rss_kib < 20_000, "of the program, not of the interpreter that runs this test"


@pytest.mark.parametrize("order", ["2\n", "x\n", "00\n", "\n"])
def test_launcher_refuses_what_is_no_program(program: Path, tmp_path: Path, order: str) -> None:
    (tmp_path / "p").write_text("")
    words = [str(program), str(tmp_path / "p"), str(tmp_path / "p"), "/bin/true", "--", "/bin/true"]
    done = subprocess.run(words, input=order, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(("words", "status"), [([], 2), (["a", "b"], 2), (["/no/such/cgroup", "b", "/bin/true"], 1)])
def test_launcher_needs_a_cgroup_a_state_and_a_program(program: Path, words: list[str], status: int) -> None:
    done = subprocess.run([program, *words], input="", capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (status, "")


def test_launcher_that_ends_is_told(program: Path, tmp_path: Path) -> None:
    with (
        launcher_of(program, tmp_path, ["/bin/true"]) as launcher,
        pytest.raises(LauncherError, match="ended with status 2"),
    ):
        launcher.run(7)


@pytest.mark.parametrize("line", ["", "1 2 3\n", "1 2 3 4 5\n", "a 2 3 4\n"])
def test_answer_of_another_form_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        parse_usage(line)


def test_answer_is_in_milliseconds() -> None:
    assert parse_usage("256 1500000 700 640\n") == Usage(1, 1.5, 0.7, 640)


def test_bind_comes_before_unbind_and_true_on_either_side() -> None:
    assert [order_of(number) for number in (0, 1)] == [
        ("true", "createContainer", "poststop"),
        ("createContainer", "poststop", "true"),
    ]


def usages(wall_ms: float, rss_kib: int = 700) -> list[Usage]:
    return [Usage(0, wall_ms + step / 10, 0.5, rss_kib + step) for step in range(3)]


def test_table_of_processes_has_medians_and_the_largest_memory() -> None:
    table = tabulate_usages({"true": usages(1.0), "createContainer": usages(2.0), "poststop": usages(1.5)})
    assert table["n"] == 3
    assert table["createContainer"] == {
        "wall_ms": {"p50": 2.1, "p99": 2.2},
        "cpu_ms": {"p50": 0.5, "p99": 0.5},
        "rss_kib": 702,
    }


def test_failures_are_counted_by_program() -> None:
    failed = [Usage(1, 1, 1, 1), Usage(-9, 1, 1, 1)]
    assert count_failures({"true": usages(1.0), "createContainer": [*usages(1.0), *failed]}) == {"createContainer": 2}


@pytest.mark.parametrize(
    ("wall_ms", "rss_kib", "met"),
    [(2.9, 700, [True, True, True]), (3.4, 700, [False, True, True]), (2.0, MAX_RSS_KIB, [True, True, False])],
)
def test_hook_is_measured_by_what_true_takes(wall_ms: float, rss_kib: int, met: list[bool]) -> None:
    table = tabulate_usages({"true": usages(1.0), "createContainer": usages(wall_ms, rss_kib)})
    judged = judge({"process": table}, process_targets(table))
    assert [one["met"] for one in judged.values()] == met
    assert judged["process.createContainer.wall_ms.p50"]["at_most"] == 3.2


# Little memory.


@pytest.mark.parametrize(
    ("ran", "bound", "faults"),
    [
        ((8, 8, 8), 8, []),
        ((7, 5, 4), 7, []),
        ((8, 8, 0), 8, ["no container ran with the hook, though some did"]),
        ((0, 0, 0), 0, ["nothing is known"]),
        ((8, 8, 3), 2, ["3 containers ran with the hook, and 2 were bound"]),
    ],
)
def test_hook_is_blamed_for_what_true_does_not_do(ran: tuple[int, int, int], bound: int, faults: list[str]) -> None:
    small = SmallMemory(dict(zip((NO_HOOK, TRUE, OURS), ran, strict=True)), bound)
    found = small.faults()
    assert len(found) == len(faults)
    assert all(wanted in line for wanted, line in zip(faults, found, strict=True))


# The report.


def test_path_has_the_doors_times_and_faults_its_unbound() -> None:
    report = Report({})
    report.add_path("nri", {"n": [1, 1]}, Starts({"hook_ms": [1.0]}, ("0123456789abcdef",)), 16)
    report.add_path("nri", {"n": [2, 2]}, Starts({"hook_ms": [2.0]}), 1)
    assert report.result == {
        "nri": {
            "16": {"n": [1, 1], "hook_ms": {"p50": 1.0, "p99": 1.0}},
            "1": {"n": [2, 2], "hook_ms": {"p50": 2.0, "p99": 2.0}},
        }
    }
    assert report.faults == ["nri, 16 at a time: 1 containers were not bound, the first: 0123456789ab"]


def test_plugin_is_judged_where_many_start_at_once() -> None:
    table = tabulate_usages({"true": usages(1.0), "createContainer": usages(2.0)})
    result = {"nri": {"1": {"hook_ms": {"p50": 9, "p99": 9}}, "16": {"hook_ms": {"p50": 0.9, "p99": 6}}}}
    judged = judge(result | {"process": table}, find_targets(result | {"process": table}, 16))
    assert (judged["nri.16.hook_ms.p50"]["met"], judged["nri.16.hook_ms.p99"]["met"]) == (True, False)
    assert len(judged) == 5
