# SPDX-License-Identifier: Apache-2.0
"""Does any container's first instruction escape its policy? `python -m bench.race`, with a real containerd.

Two phases, quiet and storm, each with as many containers, half of them selected by a policy that kills at the first
instruction. In the storm, other containers make events as fast as they can and a reader prints them.

`--door` says how the agent hears of containers, each way alone: by the NRI plugin, by the OCI hook, or by the kernel,
which holds what nobody announced (bench/parts/sites.py). With the plugin two figures follow that do not depend on the
door: how long `podgate policy add` takes until it enforces, and the agent's memory with many containers and policies.

With `--identity late` nobody is announced or held: a watcher asks the runtime what is new and announces it, as fast as
it can. That run shows what the gate is for.

Exit status 1, with the reasons on standard error: a container escaped, was wrongly killed, did not run or was not
bound, or a binding was left. A time above its target is told in the result, and is none of them.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import click

from bench._common import Say, print_result, read_conditions, say, say_nothing
from bench.parts.crowd import Crowd
from bench.parts.figures import Phase, find_faults, worst_of
from bench.parts.footprint import Footprint, measure_footprint
from bench.parts.others import count_others
from bench.parts.reaction import measure_policy_add
from bench.parts.sites import Door, Site, open_site
from bench.parts.storm import OBSERVE, Storm
from bench.parts.targets import Target, judge
from tests.support.names import project_dir
from tests.support.node import Runtime
from tests.support.wait import DeadlineError, wait_until

KILL = project_dir() / "demo/policies/lseek-namespaced.yaml"
RUNTIMES = {"2": Runtime.CONTAINERD_2, "1.7": Runtime.CONTAINERD_1_7}
HOOK, LATE = "hook", "late"
MEANS = {
    Door.NRI: "the NRI plugin",
    Door.OCI: "the OCI hook",
    Door.HOLD: "the kernel, which holds whom nobody announced",
    Door.LATE: "a watcher",
}
GONE_S = 10.0
POLICY_ADDS = 5
TARGETS = {Door.HOLD: (Target("held_ms.p50", 1.0), Target("held_ms.p99", 10.0))}


@dataclass(frozen=True, slots=True)
class Options:
    """footprint: how many containers idle while the agent's memory is read."""

    count: int
    parallel: int
    door: Door
    storm: bool
    runtime: Runtime
    footprint: int
    say: Say


@dataclass(frozen=True, slots=True)
class Stage:
    """What the phases are played on."""

    site: Site
    options: Options

    def bindings_left(self) -> int:
        """The bindings once all pods are gone; they have GONE_S seconds to go."""
        control = self.site.agent.control
        try:
            wait_until(lambda: control.status().bindings == 0, GONE_S, "no bindings")
        except DeadlineError:
            return int(control.status().bindings)
        return 0

    def run_phase(self, name: str, storm: Storm | None) -> Phase:
        """All containers of a phase, with a storm around them if there is one."""
        self.options.say(f"{name}: {self.options.count} containers, {self.options.parallel} at a time")
        crowd = Crowd(self.site.node.cri, name, self.options.parallel, self.options.say)
        with ExitStack() as around:
            if storm:
                around.enter_context(storm)
            began = time.monotonic()
            ended = crowd.run(self.options.count)
            seconds = time.monotonic() - began
        crowd.remove()
        left = self.bindings_left()  # after them all is logged
        starts = self.site.announcer.read_starts([one.container_id for one in ended if not one.failed])
        return Phase(name, ended, starts, left, seconds, storm.figures() if storm else {})

    def run_phases(self) -> list[Phase]:
        """Under the same policies: the one that kills, and the one that watches the storm."""
        agent = self.site.agent
        agent.add(KILL.read_text())
        agent.add(OBSERVE)
        phases = [self.run_phase("quiet", None)]
        if self.options.storm:
            phases.append(self.run_phase("storm", Storm(self.site.node.cri, agent, self.options.say)))
        for policy in agent.control.list().policies:
            agent.control.delete(policy.name, policy.namespace)
        return phases

    def policy_add(self) -> dict[str, float]:
        """Milliseconds."""
        self.options.say(f"policy_add: {POLICY_ADDS} times")
        took = measure_policy_add(self.site.node.cri, self.site.agent, POLICY_ADDS)
        return {"median": round(statistics.median(took)), "max": round(max(took))}

    def footprint(self) -> Footprint:
        self.options.say(f"footprint: {self.options.footprint} idle containers")
        return measure_footprint(self.site.node.cri, self.site.agent, self.options.footprint, self.options.parallel)


@dataclass(frozen=True, slots=True)
class Report:
    """The object that is printed, and what is wrong with it."""

    result: dict[str, Any]
    faults: list[str]


def run(options: Options) -> Report:
    conditions = read_conditions() | {"parallel": options.parallel}
    options.say(f"a private containerd, the agent, and {MEANS[options.door]}")
    others = count_others()
    with open_site(options.door, options.runtime) as site:
        report = measure(Stage(site, options), conditions | {"containerd": site.node.version})
    report.result["conditions"]["other_agents"] = others = max(others, count_others())
    if others:
        options.say(f"race: {others} other agents ran meanwhile: what they do to containers is counted here")
    return report


def measure(stage: Stage, conditions: dict[str, Any]) -> Report:
    """The phases one after the other, then with the plugin what does not depend on the door."""
    door = stage.options.door
    phases = stage.run_phases()
    shown = {phase.name: phase.fields() for phase in phases}
    late = door is Door.LATE
    result: dict[str, Any] = {"bench": "race", "identity": LATE if late else HOOK, "door": None if late else door.value}
    result |= worst_of(phases)
    if door is Door.NRI:
        result["policy_add_ms"] = stage.policy_add()
        footprint = stage.footprint()
        left = stage.bindings_left()
        shown["footprint"] = footprint.fields() | {"bindings_left": left}
        result["agent_rss_mb"] = footprint.total_mb
        result["bindings_left"] = max(result["bindings_left"], left)
    result |= {"targets": judge(result, TARGETS.get(door, ())), "phases": shown, "conditions": conditions}
    return Report(result, [] if late else find_all_faults(result, phases))


def find_all_faults(result: dict[str, Any], phases: list[Phase]) -> list[str]:
    """One line for each broken promise of the whole run."""
    lines = [line for phase in phases for line in find_faults(phase)]
    if result["bindings_left"] and not any(phase.bindings_left for phase in phases):
        lines.append(f"footprint: {result['bindings_left']} bindings left after all pods were removed")
    return lines


def choose_door(door: str | None, identity: str) -> Door:
    """A usage error for a door that nobody would go through."""
    if identity == LATE:
        if door:
            raise click.BadParameter(f"with --identity {LATE} every door is shut", param_hint="--door")
        return Door.LATE
    return Door(door or Door.NRI.value)


@click.command()
@click.option("--count", type=click.IntRange(2), default=200, show_default=True, help="Containers in each phase.")
@click.option("--parallel", type=click.IntRange(1, 64), default=8, show_default=True, help="Starts at a time.")
@click.option(
    "--door",
    type=click.Choice([Door.NRI.value, Door.OCI.value, Door.HOLD.value]),
    help="How the agent hears of containers, the other ways off.  [default: nri]",
)
@click.option(
    "--identity",
    type=click.Choice([HOOK, LATE]),
    default=HOOK,
    show_default=True,
    help="Who announces containers: the door, or a watcher that comes late.",
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
    door: str | None,
    identity: str,
    storm: bool,
    runtime: str,
    footprint_containers: int | None,
    only_json: bool,
) -> None:
    """Count containers that escape their policy at their first instruction."""
    idle = footprint_containers or min(100, count)
    tell = say_nothing if only_json else say
    report = run(Options(count, parallel, choose_door(door, identity), storm, RUNTIMES[runtime], idle, tell))
    for line in report.faults:
        say(f"race: {line}")
    print_result(report.result)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
