# SPDX-License-Identifier: Apache-2.0
"""What does it cost a call that something is attached on its way? `python -m bench.attach_cost`, in a guest.

empty     programs of two instructions on every kind of attach point (bench/parts/attach_points.py)
policies  1, 10 and 100 that look at an integer and never match, on every kind that the agent chooses
          (bench/parts/attach_policies.py): what they cost, how long adding them takes, and whether that is what it may

Each of Debian's kernels runs in a guest (tools/vm); `--here` measures the kernel of this machine. Every figure comes
with the same call without anything attached, and with one of a call that does not reach the attach point. A figure
above its target is told in the result, and is no fault.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agent.cli import client
from agent.kernel.kernel_btf import KernelBtf
from bench._common import print_result, read_conditions, say
from bench.parts.attach_figures import describe_turns
from bench.parts.attach_points import Points, measure_empties
from bench.parts.attach_policies import COUNTS, SUBJECTS, PolicyBench, describe_measured, measure_policies, targets_of
from bench.parts.cells import SELECTED, SOURCE, Cell, open_cell
from bench.parts.targets import judge
from tests.support.image import compile_program
from tests.support.names import cache_dir, project_dir
from tests.support.patience import PATIENCE
from tests.support.points import open_tracefs
from tools.vm.kernels import SUITES, Kernel
from tools.vm.lock import GUESTS, hold
from tools.vm.machine import Job, run_guest
from tools.vm.override import NAME as OVERRIDE
from tools.vm.prepare import get_emulator, get_kernel
from tools.vm.suite import PATIENCE as GUEST_PATIENCE

DEADLINE_S = 3000.0
RESULT, PROGRAM = "result.json", "calls"
PARTS = ("empty", "policies")
KERNELS = (*SUITES, OVERRIDE)


@dataclass(frozen=True, slots=True)
class Options:
    """calls: in a batch. batches: of a case in a round. counts: of policies. parts, subjects: which ones."""

    calls: int
    batches: int
    rounds: int
    counts: tuple[int, ...]
    parts: tuple[str, ...]
    subjects: tuple[str, ...]

    def words(self) -> list[str]:
        """Of a command line."""
        numbers = ("--count", self.calls, "--batches", self.batches, "--rounds", self.rounds)
        lists = {"--policies": self.counts, "--part": self.parts, "--subject": self.subjects}
        return [str(word) for word in numbers] + [
            str(word) for option, values in lists.items() for value in values for word in (option, value)
        ]


def measure(program: Path, options: Options) -> dict[str, Any]:
    """Under this machine's own kernel."""
    conditions = read_conditions() | {"patience": PATIENCE}
    client.DEADLINE_S *= PATIENCE  # a policy is compiled before it is answered
    result: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="podgate-tracefs-") as private,
        open_tracefs(Path(private)) as tracefs,
        open_cell(program, SELECTED, max(os.sched_getaffinity(0))) as cell,
    ):
        points = Points(KernelBtf().kernel(), tracefs)
        if "empty" in options.parts:
            result |= measure_first_part(cell, points, options)
        if "policies" in options.parts:
            result |= measure_second_part(cell, points, options)
    size = {"calls": options.calls, "batches": options.batches, "rounds": options.rounds}
    return result | size | {"conditions": conditions}


def measure_first_part(cell: Cell, points: Points, options: Options) -> dict[str, Any]:
    say("empty programs")
    empties = measure_empties(cell, points, options.calls, options.batches, options.rounds, say)
    return {
        "empty": {name: describe_turns(turns) for name, turns in empties.turns.items()},
        "empty_refused": empties.refused,
    }


def measure_second_part(cell: Cell, points: Points, options: Options) -> dict[str, Any]:
    say("policies")
    bench = PolicyBench(cell, points, options.calls, options.batches * options.rounds, say)
    chosen = [subject for subject in SUBJECTS if not options.subjects or subject.name in options.subjects]
    made = measure_policies(bench, chosen, options.counts)
    result = {
        "policies": {name: describe_measured(measured) for name, measured in made.found.items()},
        "policies_refused": made.refused,
    }
    return result | {"targets": judge(result, targets_of(made.found))}


def guest_command(options: Options) -> list[str]:
    """/out is there and here."""
    python = str(project_dir() / ".venv/bin/python")
    own = ("--here", "--program", f"/out/{PROGRAM}", "--result", f"/out/{RESULT}")
    environment = ("env", f"PODGATE_PATIENCE={GUEST_PATIENCE}")
    return [*environment, python, "-m", "bench.attach_cost", *own, *options.words()]


def measure_in_guest(kernel: Kernel, options: Options) -> dict[str, Any]:
    """What a guest brings back. Raises VmError."""
    with tempfile.TemporaryDirectory(prefix=f"podgate-attach-{os.getpid()}-") as folder:
        out = Path(folder)
        compile_program(SOURCE, out / PROGRAM)
        job = Job(guest_command(options), project_dir(), out, DEADLINE_S, echo=say)
        with hold(cache_dir(), GUESTS):
            status = run_guest(get_emulator(cache_dir()), kernel, job)
        if status:
            raise SystemExit(f"attach_cost: {kernel.name}: the guest's command ended with status {status}")
        return dict(json.loads((out / RESULT).read_text()))


def measure_here(program: Path | None, options: Options) -> dict[str, Any]:
    """program: calls.c, if it is compiled."""
    with tempfile.TemporaryDirectory(prefix="podgate-calls-") as folder:
        if program is None:
            program = Path(folder) / PROGRAM
            compile_program(SOURCE, program)
        return measure(program, options)


@click.command()
@click.option("--kernel", "kernels", type=click.Choice(KERNELS), multiple=True, help="May be repeated.  [6.12]")
@click.option("--here", is_flag=True, help="Under this machine's own kernel instead.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this one; may be repeated.")
@click.option("--subject", "subjects", type=click.Choice([each.name for each in SUBJECTS]), multiple=True)
@click.option("--policies", "counts", type=click.IntRange(1), multiple=True, default=COUNTS, show_default=True)
@click.option(
    "--count", "calls", type=click.IntRange(1000), default=10_000, show_default=True, help="Calls in a batch."
)
@click.option("--batches", type=click.IntRange(2), default=20, show_default=True, help="Of a case in a round.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--program", type=click.Path(path_type=Path), help="calls.c, compiled.")
@click.option("--result", type=click.Path(path_type=Path), help="A file for the result, too.")
def main(kernels: tuple[str, ...], here: bool, program: Path | None, result: Path | None, **given: Any) -> None:
    """Measure what attach points cost."""
    options = Options(**given | {"parts": given["parts"] or PARTS})
    if here:
        found = measure_here(program, options)
    else:
        names = kernels or ("6.12",)
        found = {"kernels": {name: measure_in_guest(get_kernel(cache_dir(), name), options) for name in names}}
    if result:
        result.write_text(json.dumps(found))
    print_result({"bench": "attach_cost"} | found)


if __name__ == "__main__":
    main()
