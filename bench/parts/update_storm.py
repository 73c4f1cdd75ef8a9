# SPDX-License-Identifier: Apache-2.0
"""A policy is updated again and again while containers violate it, each with one child after the other."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench._common import Say
from bench.parts.policies import policy_text
from bench.parts.sites import Site, open_plugged
from tests.support.cri import Container, ContainerSpec, Cri, Pod, PodSpec
from tests.support.image import FORKS, PAUSE
from tests.support.node import Node, Runtime
from tests.support.wait import wait_until

NAME = NAMESPACE = "updates"
PAUSE_MS = 10  # of a container between two children, so that the agent gets its share of the processors
KILLED = re.compile(r"^killed (\d+)$", re.MULTILINE)
ESCAPED = "escaped\n"
FIRST_S = 60.0


@dataclass(frozen=True, slots=True)
class Storm:
    """killed: children, as far as the containers have told; escaped: those that lived on. update_ms: of each update."""

    containers: int
    killed_before: int
    killed: int
    escaped: int
    update_ms: list[float]

    def fields(self) -> dict[str, Any]:
        return {
            "containers": self.containers,
            "updates": len(self.update_ms),
            "violations": self.killed + self.escaped,
            "violations_while_updating": self.killed + self.escaped - self.killed_before,
            "escaped": self.escaped,
            "update_ms": {"median": round(statistics.median(self.update_ms)), "max": round(max(self.update_ms))},
        }


def version(number: int) -> str:
    """All of them kill who calls with -1; each has another value beside it."""
    return policy_text(NAME, NAMESPACE, [-1, 1_000_000 + number], "Sigkill")


def run_storm(containers: int, updates: int, tell: Say) -> Storm:
    with Node(Runtime.CONTAINERD_2, images=(PAUSE, FORKS)) as node, open_plugged(node) as site:
        site.agent.add(version(0))
        pod = node.cri.run_pod(PodSpec(NAME, NAMESPACE))
        running = [_start(node.cri, pod, number) for number in range(containers)]
        wait_until(lambda: all(_killed(node.cri, each) for each in running), FIRST_S, "children that were killed")
        tell(f"  {containers} containers violate, {updates} updates")
        before = sum(_killed(node.cri, each) for each in running)
        took = [_update(site, number, updates, tell) for number in range(1, updates + 1)]
        after = [_killed(node.cri, each) for each in running]
        wait_until(_all_further(node.cri, running, after), FIRST_S, "children that were killed after the last update")
        node.cri.stop_pod(pod)
        texts = [node.cri.log_text(each) for each in running]
        killed = sum(_killed(node.cri, each) for each in running)
        return Storm(containers, before, killed, sum(text.count(ESCAPED) for text in texts), took)


def _start(cri: Cri, pod: Pod, number: int) -> Container:
    return cri.run(pod, ContainerSpec(f"c{number}", FORKS.reference, args=(str(PAUSE_MS),)))


def _killed(cri: Cri, container: Container) -> int:
    found = KILLED.findall(cri.log_text(container))
    return int(found[-1]) if found else 0


def _all_further(cri: Cri, running: list[Container], before: list[int]) -> Callable[[], bool]:
    return lambda: all(_killed(cri, each) > then for each, then in zip(running, before, strict=True))


def _update(site: Site, number: int, updates: int, tell: Say) -> float:
    began = time.monotonic()
    site.agent.add(version(number))
    took = (time.monotonic() - began) * 1000
    if number % 20 == 0:
        tell(f"  {number} of {updates} updates")
    return took
