# SPDX-License-Identifier: Apache-2.0
"""How the event cost's batches become figures, and the program that makes the calls."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.parts.cells import SOURCE
from bench.parts.samples import NONE, POST, Case, Samples, tabulate_cases
from tests.support.image import compile_program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bench") / "calls"
    compile_program(SOURCE, target)
    return target


def run_program(program: Path, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], input=text, capture_output=True, text=True, check=False, timeout=20)


def test_best_batch_of_a_round_and_median_of_the_rounds() -> None:
    case, samples = Case("hooked", "1", "selected"), Samples()
    for batches in ([90, 10, 50], [20, 21, 70], [300, 400, 500]):
        samples.add(case, batches)
    assert samples.best() == {case: 20}
    assert samples.typical() == {case: 50}


def test_figures_are_told_by_call_policies_and_process() -> None:
    figures = {
        Case("hooked", NONE): 100.04,
        Case("hooked", "1", "selected"): 150.06,
        Case("hooked", "1", "unselected"): 120,
        Case("unrelated", NONE): 80,
        Case("hooked", POST, "selected"): 2000,
    }
    assert tabulate_cases(figures) == {
        "hooked": {"none": 100.0, "1": {"selected": 150.1, "unselected": 120}},
        "unrelated": {"none": 80},
    }


def test_program_answers_each_batch_with_a_time_that_grows_with_its_size(program: Path) -> None:
    done = run_program(program, "h 10\nu 10\nh 300000\nu 300000\n")
    assert (done.returncode, done.stderr) == (0, "")
    few_hooked, few_unrelated, hooked, unrelated = map(int, done.stdout.splitlines())
    assert 0 < few_hooked < hooked
    assert 0 < few_unrelated < unrelated


@pytest.mark.parametrize("text", ["x 10\n", "h\n", "h ten\n", "h 1 1\n", f"h {'9' * 40}\n"])
def test_program_refuses_what_is_no_batch(program: Path, text: str) -> None:
    done = run_program(program, text)
    assert (done.returncode, done.stdout) == (2, "")
