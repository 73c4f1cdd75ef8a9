# SPDX-License-Identifier: Apache-2.0
"""The OCI hook's whole process beside /bin/true's, started in the same way and place, with a real agent that answers.

A small program (programs/launch.c) stands for runc's init process: it is in a cgroup that config.json names, and starts
the hook as its child with the state as standard input. So the agent does all that it does for a container: it reads
config.json (containerd's default spec), finds cgroup and init process, and binds. After each bind the hook runs at
poststop, so that the next one is a new container's. The annotations name the pod as podman's do: no runtime is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._common import quantiles
from bench.parts.bundles import make_spec, place_spec, pod_annotations
from bench.parts.launcher import Launcher, Usage, open_launcher
from bench.parts.nodes import NAMESPACE
from bench.parts.sites import HookFiles
from bench.parts.starts import read_oci
from bench.parts.targets import Target
from tests.support.agent import AgentProcess
from tests.support.names import unique_name
from tests.support.node import Runtime, default_spec
from tests.support.oci_hooks import CREATE_CONTAINER, POSTSTOP

TRUE = "true"
PROGRAMS = (TRUE, CREATE_CONTAINER, POSTSTOP)
# 1.5 MB, in the kernel's unit.
MAX_RSS_KIB = 1_500_000 // 1024
MAX_CPU_MS = 2.0

Usages = dict[str, list[Usage]]


def measure_processes(files: HookFiles, agent: AgentProcess, count: int, runtime: Runtime) -> tuple[Usages, list[str]]:
    """`count` runs of each program, and what went wrong."""
    name = unique_name("cell")
    folder = files.folder / name
    folder.mkdir()
    state = write_container(folder, name, runtime)
    commands = [["/bin/true"], *(files.command(stage) for stage in (CREATE_CONTAINER, POSTSTOP))]
    with open_launcher(folder, name, state, commands) as launcher:
        usages = run_in_turns(launcher, count)
    bound = len(read_oci(agent.background.lines(), [name]).times["agent_ms"])
    faults = [f"{program}: {bad} of {count} ended with an error" for program, bad in count_failures(usages).items()]
    if bound != count + 1:
        faults.append(f"{CREATE_CONTAINER}: the agent has bound {bound} times, not {count + 1}")
    return usages, faults


def write_container(folder: Path, name: str, runtime: Runtime) -> Path:
    """A bundle whose cgroup is `name`; gives the state's file."""
    annotations = pod_annotations(NAMESPACE, "cell")
    spec = place_spec(make_spec(default_spec(runtime), annotations), f"/{name}", folder)
    (folder / "config.json").write_text(json.dumps(spec))
    state = {"ociVersion": "1.0.2", "id": name, "status": "creating", "pid": 1, "bundle": str(folder)}
    path = folder / "state.json"
    path.write_text(json.dumps(state | {"annotations": annotations}))
    return path


def run_in_turns(launcher: Launcher, count: int) -> Usages:
    """The first of each is not counted: it brings the files into memory."""
    usages: Usages = {program: [] for program in PROGRAMS}
    for number in range(count + 1):
        for program in order_of(number):
            usages[program].append(launcher.run(PROGRAMS.index(program)))
    return {program: runs[1:] for program, runs in usages.items()}


def order_of(number: int) -> tuple[str, ...]:
    """/bin/true comes before and behind the hook in turns; poststop always ends what createContainer began."""
    hook = (CREATE_CONTAINER, POSTSTOP)
    return (TRUE, *hook) if number % 2 == 0 else (*hook, TRUE)


def count_failures(usages: Usages) -> dict[str, int]:
    """Of the programs that have any."""
    failed = {program: sum(run.status != 0 for run in runs) for program, runs in usages.items()}
    return {program: count for program, count in failed.items() if count}


def tabulate_usages(usages: Usages) -> dict[str, Any]:
    """By program."""
    return {"n": len(usages[TRUE]), **{program: _tabulate(runs) for program, runs in usages.items()}}


def _tabulate(runs: Sequence[Usage]) -> dict[str, Any]:
    return {
        "wall_ms": quantiles([run.wall_ms for run in runs], 3),
        "cpu_ms": quantiles([run.cpu_ms for run in runs], 3),
        "rss_kib": max(run.rss_kib for run in runs),
    }


def process_targets(table: dict[str, Any]) -> tuple[Target, ...]:
    """Of a result with `table` at "process". The wall time's depends on what /bin/true takes here."""
    at_most = round(2 * table[TRUE]["wall_ms"]["p50"] + 1, 3)
    path = f"process.{CREATE_CONTAINER}"
    return (
        Target(f"{path}.wall_ms.p50", at_most),
        Target(f"{path}.cpu_ms.p50", MAX_CPU_MS),
        Target(f"{path}.rss_kib", MAX_RSS_KIB),
    )
