# SPDX-License-Identifier: Apache-2.0
"""What does podgate add to a system call, one that is hooked and one that is not? `python -m bench.event_cost`.

Each round goes through all configurations: podgate not running, running without policies, with 1, 10 and 100 of them on
lseek, each looking for another descriptor than the one that is used; a process that they select, and one that they do
not. In one more, a single policy matches and posts an event for each call. Several rounds, because the machine is noisy
(bench/parts/samples.py).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench._common import Say, print_result, read_conditions, say
from bench.parts.cells import SELECTED, SOURCE, UNSELECTED, Call, Cells, bind_cells, open_cells
from bench.parts.others import count_others
from bench.parts.policies import policy_text, unmatched_policies
from bench.parts.samples import BATCHES, NONE, POLICIES, POST, Case, Samples, tabulate_cases
from tests.support.agent import AgentProcess
from tests.support.image import compile_program
from tests.support.wait import wait_until

# Some 200 bytes each: all batches together fit into the ring of 4 MiB, so that none is lost even if none is read.
POST_CALLS = 1000
POSTING = "posting"
BOUND_S = 10.0


@dataclass(slots=True)
class Bench:
    """cells: by whether policies select them. lost: events for which the ring had no room. others: see count_others."""

    cells: Cells
    calls: int
    samples: Samples
    say: Say
    lost: int = 0
    others: int = 0

    def run_round(self) -> None:
        """All configurations once."""
        self._measure_everything(NONE, [SELECTED], with_who=False)
        with AgentProcess() as agent:
            bind_cells(self.cells, agent.socket, 0)
            self._measure_everything("0", [UNSELECTED, SELECTED])
            self._measure_post(agent)
            for count in POLICIES:
                agent.add(unmatched_policies(count, SELECTED))
                bind_cells(self.cells, agent.socket, count)
                self._measure_everything(str(count), [UNSELECTED, SELECTED])

    def _measure_everything(self, policies: str, who: Sequence[str], *, with_who: bool = True) -> None:
        """Both calls in each cell, in turns: what slows the machine down slows all of them."""
        batches: dict[Case, list[float]] = {}
        for _ in range(BATCHES):
            for call in (Call.HOOKED, Call.UNRELATED):
                for one in who:
                    case = Case(call.name.lower(), policies, one if with_who else "")
                    batches.setdefault(case, []).extend(self.cells[one].measure(call, self.calls, 1))
        for case, values in batches.items():
            self.samples.add(case, values)
        self.others = max(self.others, count_others())

    def _measure_post(self, agent: AgentProcess) -> None:
        """One policy that matches. Its events are read and decoded by nobody: the cost is the kernel's."""
        agent.add(policy_text(POSTING, SELECTED, [-1], "Post"))
        bind_cells(self.cells, agent.socket, 1)
        batches = self.cells[SELECTED].measure(Call.HOOKED, min(self.calls, POST_CALLS), BATCHES)
        self.samples.add(Case(Call.HOOKED.name.lower(), POST, SELECTED), batches)
        self.lost += agent.control.status().counters["events_lost"]
        agent.control.delete(POSTING, SELECTED)
        wait_until(lambda: not agent.control.status().hooks, BOUND_S, "no hooked call")


def make_result(bench: Bench, rounds: int, conditions: dict[str, Any]) -> dict[str, Any]:
    best = bench.samples.best()
    hooked = tabulate_cases(best)["hooked"]
    post = best[Case("hooked", POST, SELECTED)]
    return {
        "bench": "event_cost",
        "ns": tabulate_cases(best),
        "ns_median_batch": tabulate_cases(bench.samples.typical()),
        "added_ns_unselected_100_vs_1": round(hooked["100"][UNSELECTED] - hooked["1"][UNSELECTED], 1),
        "added_ns_selected_100_vs_1": round(hooked["100"][SELECTED] - hooked["1"][SELECTED], 1),
        "post_ns": round(post, 1),
        "post_lost": bench.lost,
        "calls": bench.calls,
        "batches": BATCHES,
        "rounds": rounds,
        "conditions": conditions,
    }


def run(calls: int, rounds: int, tell: Say) -> dict[str, Any]:
    conditions = read_conditions()
    cpu = max(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podgate-calls-")))
        compile_program(SOURCE, folder / "calls")
        cells = stack.enter_context(open_cells(folder / "calls", cpu))
        bench = Bench(cells, calls, Samples(), tell)
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            bench.run_round()
        if bench.others:
            tell(f"event_cost: {bench.others} other agents ran meanwhile: the figures are too high")
        return make_result(bench, rounds, conditions | {"other_agents": bench.others})


@click.command()
@click.option("--count", type=click.IntRange(1000), default=100_000, show_default=True, help="Calls in a batch.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Each starts an agent.")
def main(count: int, rounds: int) -> None:
    """Measure what a system call costs with podgate and without."""
    print_result(run(count, rounds, say))


if __name__ == "__main__":
    main()
