# SPDX-License-Identifier: Apache-2.0
"""The memory of the agent's two processes with many containers bound and many policies in force."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent.status import read_rss
from bench.parts.policies import FD_CALLS, join_policies, policy_text
from tests.support.agent import AgentProcess
from tests.support.cri import ContainerSpec, Cri, PodSpec
from tests.support.image import BUSYBOX
from tests.support.wait import wait_until

NAMESPACE = "idle"
CONTAINERS_A_POD = 13  # 100 containers make 8 pods
BOUND_S = 20.0
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """Resident bytes, shared pages counted in both processes."""

    containers: int
    policies: int
    total: int
    events: int

    @property
    def total_mb(self) -> float:
        return round(self.total / MEGABYTE, 1)

    def fields(self) -> dict[str, Any]:
        """The phase in the result."""
        agent = round((self.total - self.events) / MEGABYTE, 1)
        events = round(self.events / MEGABYTE, 1)
        return {"containers": self.containers, "policies": self.policies, "agent_mb": agent, "events_mb": events}


def measure_footprint(cri: Cri, agent: AgentProcess, containers: int, parallel: int) -> Footprint:
    """Starts containers that sleep, adds a file of policies on as many system calls, and removes both again."""
    pods = -(-containers // CONTAINERS_A_POD)
    with ThreadPoolExecutor(parallel) as threads:
        sleepers = list(threads.map(cri.run_pod, [PodSpec(f"idle-{n}", NAMESPACE) for n in range(pods)]))

        def start(number: int) -> None:
            cri.run(sleepers[number % pods], ContainerSpec(f"c{number}", BUSYBOX.reference, ("sleep", "3600")))

        try:
            list(threads.map(start, range(containers)))
            return _measure(agent, containers)
        finally:
            list(threads.map(cri.remove_pod, sleepers))


def _measure(agent: AgentProcess, containers: int) -> Footprint:
    texts = [policy_text(f"idle-{call.replace('_', '-')}", NAMESPACE, [-1], "Post", call) for call in FD_CALLS]
    agent.add(join_policies(texts))
    wait_until(lambda: _is_bound(agent, containers), BOUND_S, f"{len(texts)} policies on {containers} containers")
    status = agent.control.status()
    return Footprint(status.containers, status.policies, status.rss_bytes, read_rss(status.events_pid))


def _is_bound(agent: AgentProcess, containers: int) -> bool:
    """Whether every policy selects every container; the pods' sandboxes, which are bound as well, come on top."""
    policies = agent.control.list().policies
    return len(policies) == len(FD_CALLS) and all(policy.containers >= containers for policy in policies)
