# SPDX-License-Identifier: Apache-2.0
"""How long a container runtime takes to create and start a container, with podgate and without.

Without means that nothing of podgate runs, and that the node has no hook. With and without are blocks of containers;
each block with podgate has an agent of its own, and the first container of each is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from bench.parts.arms import Arm
from bench.parts.policies import policy_text
from bench.parts.sites import Site
from bench.parts.starts import Starts
from tests.support.cri import Container, ContainerSpec, Cri, Pod, PodSpec
from tests.support.image import BUSYBOX
from tests.support.node import Node
from tests.support.wait import DeadlineError, wait_until

NAMESPACE = "latency"
POLICY = policy_text("latency", NAMESPACE, [1_000_000], "Sigkill")  # selects them all, and no process breaks it
LOGGED_S = 5.0
# Milliseconds of each container's start, by how many were started at a time.
Block = dict[int, list[float]]


@dataclass(frozen=True, slots=True)
class Timed:
    container: Container
    milliseconds: float


@dataclass(slots=True)
class NodePath:
    """One door. nodes: the node of each arm, perhaps the same. attach: podgate on the node, for one block. sizes: of
    each round's blocks. starts: what the door told, by how many were started at a time; one a block.
    """

    nodes: Mapping[Arm, Node]
    attach: Callable[[], AbstractContextManager[Site]]
    parallels: tuple[int, ...]
    sizes: list[int]
    starts: dict[int, list[Starts]] = field(default_factory=dict)

    def run_block(self, arm: Arm, number: int) -> Block:
        if arm is Arm.WITHOUT:
            cri = self.nodes[arm].cri
            return {each: _times(start_many(cri, self.sizes[number], each)) for each in self.parallels}
        with self.attach() as site:
            site.agent.add(POLICY)
            return {each: self._run_guarded(site, self.sizes[number], each) for each in self.parallels}

    def _run_guarded(self, site: Site, count: int, parallel: int) -> list[float]:
        timed = start_many(site.node.cri, count, parallel)
        ids = [one.container.id for one in timed]
        self.starts.setdefault(parallel, []).append(await_starts(site, ids))
        return _times(timed)


def _times(timed: list[Timed]) -> list[float]:
    return [one.milliseconds for one in timed]


def await_starts(site: Site, ids: list[str]) -> Starts:
    """What the door says of them. A line of the log may come a little after the container has been let go."""
    with suppress(DeadlineError):  # those that are missing then are named as unbound
        wait_until(lambda: not site.announcer.read_starts(ids).unbound, LOGGED_S, "a line for each start")
    return site.announcer.read_starts(ids)


def start_many(cri: Cri, count: int, parallel: int) -> list[Timed]:
    """Containers of one pod that sleep; the pod is removed at the end."""
    pod = cri.run_pod(PodSpec("latency", NAMESPACE))
    try:
        _start_one(cri, pod, "first")
        with ThreadPoolExecutor(parallel) as threads:
            return list(threads.map(lambda number: _start_one(cri, pod, f"c{number}"), range(count)))
    finally:
        cri.remove_pod(pod)


def _start_one(cri: Cri, pod: Pod, name: str) -> Timed:
    spec = ContainerSpec(name, BUSYBOX.reference, ("sleep", "3600"))
    began = time.perf_counter()
    container = cri.run(pod, spec)
    return Timed(container, (time.perf_counter() - began) * 1000)
