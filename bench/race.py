# SPDX-License-Identifier: Apache-2.0
"""Does any container's first instruction escape its policy? `python -m bench.race`, with a real containerd.

Two phases, quiet and storm, each with as many containers, half of them selected by a policy that kills at the first
instruction. In the storm, other containers make events as fast as they can and a reader prints them. Then: how long
`podgate policy add` takes until it enforces, and the agent's memory with many containers and policies.

With `--identity late` no plugin runs: a watcher asks the runtime what is new and announces it, as fast as it can. That
run shows what the gate is for.

Exit status 1, with the reasons on standard error: a container escaped, was wrongly killed or did not run, or a binding
was left.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click

from bench._common import Say, print_result, read_conditions, say, say_nothing
from bench.parts.crowd import Crowd
from bench.parts.figures import Decision, Ended, Phase, find_faults, worst_of
from bench.parts.footprint import Footprint, measure_footprint
from bench.parts.reaction import measure_policy_add
from bench.parts.storm import OBSERVE, Storm
from bench.parts.watcher import Watcher
from tests.support.agent import AgentProcess, PluginProcess
from tests.support.names import project_dir
from tests.support.node import Node, Runtime
from tests.support.wait import DeadlineError, wait_until

KILL = project_dir() / "demo/policies/lseek-namespaced.yaml"
RUNTIMES = {"2": Runtime.CONTAINERD_2, "1.7": Runtime.CONTAINERD_1_7}
HOOK, LATE = "hook", "late"
GONE_S = 10.0
POLICY_ADDS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """footprint: how many containers idle while the agent's memory is read."""

    count: int
    parallel: int
    identity: str
    storm: bool
    runtime: Runtime
    footprint: int
    say: Say


class Announcer:
    """Who tells the agent of containers: the plugin, or in its stead the watcher."""

    def __init__(self, node: Node, agent: AgentProcess, identity: str) -> None:
        self._parts: PluginProcess | Watcher
        self._parts = PluginProcess(agent, node.nri_socket) if identity == HOOK else Watcher(node.cri, agent.socket)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._parts:
            yield

    def decisions(self, ended: tuple[Ended, ...]) -> tuple[Decision, ...]:
        """Of the starts of these containers, those that were bound."""
        if isinstance(self._parts, Watcher):
            return ()
        wanted = {one.container_id for one in ended}
        lines = [
            line for line in self._parts.decisions() if line["container_id"] in wanted and line["outcome"] == "bound"
        ]
        return tuple(Decision(line["hook_us"], line["bind_us"]) for line in lines)

    def figures(self) -> dict[str, int]:
        """What a watcher has counted so far."""
        if isinstance(self._parts, Watcher):
            return {"bound": self._parts.bound, "too_late": self._parts.too_late}
        return {}


@dataclass(frozen=True, slots=True)
class Stage:
    """What the phases are played on."""

    node: Node
    agent: AgentProcess
    announcer: Announcer
    options: Options

    def bindings_left(self) -> int:
        """The bindings once all pods are gone; they have GONE_S seconds to go."""
        try:
            wait_until(lambda: self.agent.control.status().bindings == 0, GONE_S, "no bindings")
        except DeadlineError:
            return int(self.agent.control.status().bindings)
        return 0

    def run_phase(self, name: str, storm: Storm | None) -> Phase:
        """All containers of a phase, with a storm around them if there is one."""
        self.options.say(f"{name}: {self.options.count} containers, {self.options.parallel} at a time")
        before = self.announcer.figures()
        crowd = Crowd(self.node.cri, name, self.options.parallel, self.options.say)
        with ExitStack() as around:
            if storm:
                around.enter_context(storm)
            began = time.monotonic()
            ended = crowd.run(self.options.count)
            seconds = time.monotonic() - began
        crowd.remove()
        extra = {key: value - before[key] for key, value in self.announcer.figures().items()}
        extra |= storm.figures() if storm else {}
        return Phase(name, ended, self.announcer.decisions(ended), self.bindings_left(), seconds, extra)

    def run_phases(self) -> list[Phase]:
        """Under the same policies: the one that kills, and the one that watches the storm."""
        self.agent.add(KILL.read_text())
        self.agent.add(OBSERVE)
        phases = [self.run_phase("quiet", None)]
        if self.options.storm:
            phases.append(self.run_phase("storm", Storm(self.node.cri, self.agent, self.options.say)))
        for policy in self.agent.control.list().policies:
            self.agent.control.delete(policy.name, policy.namespace)
        return phases

    def policy_add(self) -> dict[str, float]:
        """Milliseconds."""
        self.options.say(f"policy_add: {POLICY_ADDS} times")
        took = measure_policy_add(self.node.cri, self.agent, POLICY_ADDS)
        return {"median": round(statistics.median(took)), "max": round(max(took))}

    def footprint(self) -> Footprint:
        self.options.say(f"footprint: {self.options.footprint} idle containers")
        return measure_footprint(self.node.cri, self.agent, self.options.footprint, self.options.parallel)


@dataclass(frozen=True, slots=True)
class Report:
    """The object that is printed, and what is wrong with it."""

    result: dict[str, Any]
    faults: list[str]


def run(options: Options) -> Report:
    conditions = read_conditions() | {"parallel": options.parallel}
    options.say(f"a private containerd, the agent, {'the NRI plugin' if options.identity == HOOK else 'a watcher'}")
    with Node(options.runtime) as node, AgentProcess() as agent:
        announcer = Announcer(node, agent, options.identity)
        with announcer.running():
            stage = Stage(node, agent, announcer, options)
            return measure(stage, conditions | {"containerd": node.version})


def measure(stage: Stage, conditions: dict[str, Any]) -> Report:
    """The phases one after the other. What compares the gate with a watcher ends after the containers' own phases."""
    identity = stage.options.identity
    phases = stage.run_phases()
    result: dict[str, Any] = {"bench": "race", "identity": identity, **worst_of(phases)}
    shown = {phase.name: phase.fields() for phase in phases}
    result |= {"agent_rss_mb": None, "policy_add_ms": None}
    if identity == HOOK:
        result["policy_add_ms"] = stage.policy_add()
        footprint = stage.footprint()
        left = stage.bindings_left()
        shown["footprint"] = footprint.fields() | {"bindings_left": left}
        result["agent_rss_mb"] = footprint.total_mb
        result["bindings_left"] = max(result["bindings_left"], left)
    result |= {"phases": shown, "conditions": conditions}
    return Report(result, find_all_faults(result, phases) if identity == HOOK else [])


def find_all_faults(result: dict[str, Any], phases: list[Phase]) -> list[str]:
    """One line for each broken promise of the whole run."""
    lines = [line for phase in phases for line in find_faults(phase)]
    if result["bindings_left"] and not any(phase.bindings_left for phase in phases):
        lines.append(f"footprint: {result['bindings_left']} bindings left after all pods were removed")
    return lines


@click.command()
@click.option("--count", type=click.IntRange(2), default=200, show_default=True, help="Containers in each phase.")
@click.option("--parallel", type=click.IntRange(1, 64), default=8, show_default=True, help="Starts at a time.")
@click.option(
    "--identity",
    type=click.Choice([HOOK, LATE]),
    default=HOOK,
    show_default=True,
    help="Who announces containers: the runtime's hook, or a watcher that comes late.",
)
@click.option("--storm/--no-storm", default=True, show_default=True, help="A second phase, in a storm of events.")
@click.option(
    "--runtime", type=click.Choice(list(RUNTIMES)), default="2", show_default=True, help="containerd's version."
)
@click.option(
    "--footprint-containers",
    type=click.IntRange(1),
    help="Idle containers while memory is read.  [default: --count, at most 100]",
)
@click.option("--json", "only_json", is_flag=True, help="No progress, only the last line.")
def main(
    count: int,
    parallel: int,
    identity: str,
    storm: bool,
    runtime: str,
    footprint_containers: int | None,
    only_json: bool,
) -> None:
    """Count containers that escape their policy at their first instruction."""
    idle = footprint_containers or min(100, count)
    report = run(Options(count, parallel, identity, storm, RUNTIMES[runtime], idle, say_nothing if only_json else say))
    for line in report.faults:
        say(f"race: {line}")
    print_result(report.result)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
