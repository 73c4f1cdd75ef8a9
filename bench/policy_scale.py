# SPDX-License-Identifier: Apache-2.0
"""Does podgate hold with a thousand policies, and while they change? `python -m bench.policy_scale`.

scale   1,024 namespaced policies on 16 hook points: the kernel's memory for all maps and programs, the agent's, what
        one more and an update take, and what binding a container takes (bench/parts/scale.py)
storm   one policy is updated 100 times while 16 containers violate it all the time: each child that lives on has
        escaped (bench/parts/update_storm.py)
cost    a call under 1, 10 and 100 policies that compare an integer, a string's prefix and a path, none of which
        matches, in a process that they select and in one that they do not (bench/parts/predicates.py)

Exit status 1 when a child escaped. A figure above its target is told in the result, and is no fault.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench._common import Say, print_result, read_conditions, say
from bench.parts.cells import SOURCE, open_cells
from bench.parts.others import count_others
from bench.parts.predicates import added, measure_predicates
from bench.parts.samples import BATCHES, tabulate_cases
from bench.parts.scale import measure_scale
from bench.parts.targets import Target, judge
from bench.parts.update_storm import run_storm
from tests.support.image import compile_program

TARGETS = (
    Target("scale.kernel_bytes_per_policy", 16384),
    Target("scale.agent_rss_mb", 120),
    Target("scale.add_one_ms.median", 2000),
    Target("scale.bind_update_us.p50", 100),
    Target("storm.escaped", 0),
)
PARTS = ("scale", "storm", "cost")


@contextmanager
def compiled() -> Iterator[Path]:
    """calls.c."""
    with tempfile.TemporaryDirectory(prefix="podgate-calls-") as folder:
        program = Path(folder) / "calls"
        compile_program(SOURCE, program)
        yield program


def measure_cost(program: Path, calls: int, rounds: int, tell: Say) -> dict[str, Any]:
    with open_cells(program, max(os.sched_getaffinity(0))) as cells:
        samples = measure_predicates(cells, calls, rounds, tell)
    table = tabulate_cases(samples.best())
    return {"ns": table, "added_ns": added(table), "calls": calls, "batches": BATCHES, "rounds": rounds}


@click.command()
@click.option("--policies", type=click.IntRange(16), default=1024, show_default=True, help="Of scale.")
@click.option("--updates", type=click.IntRange(1), default=100, show_default=True, help="Of storm.")
@click.option("--containers", type=click.IntRange(1), default=16, show_default=True, help="Of storm.")
@click.option(
    "--count", type=click.IntRange(1000), default=20_000, show_default=True, help="Of cost: calls in a batch."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of cost: with three agents.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this one; may be repeated.")
def main(policies: int, updates: int, containers: int, count: int, rounds: int, parts: tuple[str, ...]) -> None:
    """Measure podgate with many policies, and while they change."""
    wanted = parts or PARTS
    result: dict[str, Any] = {"bench": "policy_scale"}
    conditions = read_conditions()
    others = count_others()
    with compiled() as program:
        if "scale" in wanted:
            say("scale")
            result["scale"] = measure_scale(program, policies, max(os.sched_getaffinity(0)), say).fields()
        if "storm" in wanted:
            say("storm")
            result["storm"] = run_storm(containers, updates, say).fields()
        if "cost" in wanted:
            say("cost")
            result["cost"] = measure_cost(program, count, rounds, say)
    targets = tuple(target for target in TARGETS if target.path.partition(".")[0] in wanted)
    conditions["other_agents"] = max(others, count_others())
    print_result(result | {"targets": judge(result, targets), "conditions": conditions})
    escaped = result.get("storm", {}).get("escaped", 0)
    if escaped:
        say(f"policy_scale: {escaped} violations of an updated policy were not stopped")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
