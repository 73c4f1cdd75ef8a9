# SPDX-License-Identifier: Apache-2.0
"""What does podgate add to a container's start? `python -m bench.start_latency`, with real runtimes.

Create and start of a container, with podgate and without in turns, one at a time and many in parallel, along three
ways:

    nri   containerd; podgate is the agent and the NRI plugin
    oci   containerd without NRI; podgate is the agent and the OCI hook, and the agent asks containerd for labels
    runc  runc alone; podgate is the OCI hook, an agent runs all the time, and nobody has to be asked

In the first two, with and without are blocks of containers, because without means that no agent runs. What was added is
the difference of the medians with its interval (bench/parts/arms.py): where that holds 0, the noise is larger.

Then the OCI hook's whole process beside /bin/true's (bench/parts/processes.py), and containers with 4 MiB of memory
(bench/parts/small.py).

Exit status 1, with the reasons on standard error: a container was not bound, or the hook failed. A figure above its
target is told in the result, and is no such reason.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click

from bench._common import Say, print_result, quantiles, read_conditions, say, say_nothing
from bench.parts.arms import Arm, Round, run_rounds, split_evenly, tabulate_rounds
from bench.parts.bundles import open_bundles
from bench.parts.nodes import NAMESPACE, POLICY, Block, NodePath
from bench.parts.others import count_others
from bench.parts.processes import measure_processes, process_targets, tabulate_usages
from bench.parts.sites import HookFiles, hooked_options, open_hook_agent, open_hook_files, open_hooked, open_plugged
from bench.parts.small import try_small_memory
from bench.parts.starts import Starts, join_starts, read_oci
from bench.parts.targets import Target, judge
from tests.support.agent import AgentProcess
from tests.support.node import Node, NodeOptions, Runtime

RUNTIMES = {"2": Runtime.CONTAINERD_2, "1.7": Runtime.CONTAINERD_1_7}
BLOCK = 25  # containers between two changes of the arm, where a change takes a new agent
MIN_ROUNDS = 4  # an interval drawn from fewer says nothing
MIN_PROCESSES = 300
HOOK_P50_MS, HOOK_P99_MS = 1.0, 5.0
CLOSED = "default closed\n"  # a start without the agent fails, and is seen


@dataclass(frozen=True, slots=True)
class Options:
    count: int
    parallel: int
    runtime: Runtime
    say: Say

    @property
    def parallels(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((1, self.parallel)))

    @property
    def sizes(self) -> list[int]:
        """Of the blocks of each round."""
        return split_evenly(self.count, max(MIN_ROUNDS, -(-self.count // BLOCK)))


@dataclass(slots=True)
class Report:
    """The object that is printed, and what is wrong with it. others: see count_others."""

    result: dict[str, Any]
    faults: list[str] = field(default_factory=list)
    others: int = 0

    def add_path(self, name: str, table: dict[str, Any], starts: Starts, parallel: int) -> None:
        """table: of this parallelism. starts: what the door told of its containers."""
        times = {key: quantiles(values) for key, values in starts.times.items()}
        self.result.setdefault(name, {})[str(parallel)] = table | times
        if starts.unbound:
            count, first = len(starts.unbound), starts.unbound[0]
            self.faults.append(
                f"{name}, {parallel} at a time: {count} containers were not bound, the first: {first[:12]}"
            )


def measure_path(name: str, path: NodePath, options: Options, report: Report) -> None:
    """Along containerd."""

    def run_block(arm: Arm, number: int) -> Block:
        options.say(f"{name}: round {number + 1} of {len(options.sizes)}, {arm.value} podgate")
        report.others = max(report.others, count_others())
        return path.run_block(arm, number)

    rounds = run_rounds(len(options.sizes), run_block)
    for parallel in options.parallels:
        chosen = [Round(one.without[parallel], one.with_it[parallel]) for one in rounds]
        report.add_path(name, tabulate_rounds(chosen), join_starts(path.starts[parallel]), parallel)


def measure_nri(options: Options, report: Report) -> None:
    with Node(options.runtime) as node:
        nodes = dict.fromkeys(Arm, node)
        path = NodePath(nodes, partial(open_plugged, node), options.parallels, options.sizes)
        measure_path("nri", path, options, report)
        report.result["conditions"]["containerd"] = node.version


def measure_oci(options: Options, report: Report) -> None:
    with ExitStack() as stack:
        files = stack.enter_context(open_hook_files(CLOSED))
        plain = stack.enter_context(Node(options.runtime, NodeOptions(nri=False)))
        hooked = stack.enter_context(Node(options.runtime, hooked_options(files)))
        nodes = {Arm.WITHOUT: plain, Arm.WITH: hooked}
        attach = partial(open_hooked, files, hooked)
        measure_path("oci", NodePath(nodes, attach, options.parallels, options.sizes), options, report)


def measure_runc(options: Options, files: HookFiles, agent: AgentProcess, report: Report) -> None:
    folder = files.folder / "bundles"
    folder.mkdir()
    with open_bundles(folder, options.runtime, files.hook, NAMESPACE) as bundles:
        for parallel in options.parallels:
            options.say(f"runc: {options.count} containers in each arm, {parallel} at a time")
            rounds = run_rounds(-(-options.count // parallel), bundles.blocks_of(parallel))
            starts = read_oci(agent.background.lines(), bundles.hooked[parallel])
            report.add_path("runc", tabulate_rounds(rounds), starts, parallel)


def measure_hook(options: Options, report: Report) -> None:
    """What takes the hook and an agent, and no containerd."""
    with open_hook_files(CLOSED) as files, open_hook_agent(files, "none") as agent:
        agent.add(POLICY)
        measure_runc(options, files, agent, report)
        count = max(options.count, MIN_PROCESSES)
        options.say(f"process: {count} of each")
        usages, faults = measure_processes(files, agent, count, options.runtime)
        report.result["process"] = tabulate_usages(usages)
        report.faults += faults
        options.say("containers with little memory")
        small = try_small_memory(files, agent)
        report.result["memory_limit"] = small.fields()
        report.faults += small.faults()


def find_targets(result: dict[str, Any], parallel: int) -> tuple[Target, ...]:
    path = f"nri.{parallel}.hook_ms"
    return (Target(f"{path}.p50", HOOK_P50_MS), Target(f"{path}.p99", HOOK_P99_MS), *process_targets(result["process"]))


def run(options: Options) -> Report:
    head = {"bench": "start_latency", "count": options.count, "parallel": list(options.parallels)}
    report = Report(head | {"conditions": read_conditions()})
    measure_nri(options, report)
    measure_oci(options, report)
    measure_hook(options, report)
    report.result["targets"] = judge(report.result, find_targets(report.result, options.parallel))
    report.result["conditions"] = report.result.pop("conditions") | {"other_agents": report.others}
    if report.others:
        options.say(f"start_latency: {report.others} other agents ran meanwhile: no figure here is podgate's alone")
    return report


@click.command()
@click.option(
    "--count", type=click.IntRange(4), default=200, show_default=True, help="Containers in each arm of each way."
)
@click.option("--parallel", type=click.IntRange(1, 64), default=16, show_default=True, help="Starts at a time.")
@click.option(
    "--runtime", type=click.Choice(list(RUNTIMES)), default="2", show_default=True, help="containerd's version."
)
@click.option("--json", "only_json", is_flag=True, help="No progress, only the last line.")
def main(count: int, parallel: int, runtime: str, only_json: bool) -> None:
    """Measure what podgate adds to a container's start."""
    report = run(Options(count, parallel, RUNTIMES[runtime], say_nothing if only_json else say))
    for line in report.faults:
        say(f"start_latency: {line}")
    print_result(report.result)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
