# SPDX-License-Identifier: Apache-2.0
"""Containers with 4 MiB of memory, in which hooks run too: with no hook, with /bin/true as one, and with podgate's.

runc's own init process takes more than 3 MiB of them, and the kernel ends it now and then, with any hook more often: so
the three take turns, and what is counted is how many containers ran. The agent tells how often the hook was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.parts.bundles import pod_annotations
from bench.parts.nodes import NAMESPACE
from bench.parts.sites import HookFiles
from bench.parts.starts import CREATE_CONTAINER as STAGE
from tests.support.agent import AgentProcess
from tests.support.containerd_config import Runc
from tests.support.image import FIRST
from tests.support.oci_hooks import CREATE_CONTAINER, Hook
from tests.support.podman import PodmanNode, RunSpec

MEMORY = 4 << 20
TRIES = 8
POD = "small"
NO_HOOK, TRUE, OURS = "no_hook", "true", "podgate_hook"


@dataclass(frozen=True, slots=True)
class SmallMemory:
    """ran: of TRIES containers each, how many did. bound: how often the hook was done."""

    ran: Mapping[str, int]
    bound: int

    def fields(self) -> dict[str, Any]:
        return {"mib": MEMORY >> 20, "tries": TRIES, "ran": dict(self.ran), "bound": self.bound}

    def faults(self) -> list[str]:
        lines = []
        if not self.ran[TRUE]:
            lines.append("memory_limit: no container ran with /bin/true as its hook either, so nothing is known")
        elif not self.ran[OURS]:
            lines.append("memory_limit: no container ran with the hook, though some did with /bin/true")
        if self.bound < self.ran[OURS]:
            lines.append(f"memory_limit: {self.ran[OURS]} containers ran with the hook, and {self.bound} were bound")
        return lines


def try_small_memory(files: HookFiles, agent: AgentProcess) -> SmallMemory:
    """With podman and the system's runc: newer ones need more themselves."""
    spec = RunSpec(FIRST.reference, annotations=pod_annotations(NAMESPACE, POD), memory_bytes=MEMORY)
    hooks = {NO_HOOK: None, TRUE: Hook(CREATE_CONTAINER, Path("/bin/true")), OURS: files.hook}
    ran = Counter(dict.fromkeys(hooks, 0))
    with PodmanNode(Runc.SYSTEM, (FIRST,)) as node:
        for _ in range(TRIES):
            for name, hook in hooks.items():
                node.clear_hooks()
                if hook:
                    node.add_hook(hook)
                ran[name] += node.run(spec).status == 0
    return SmallMemory(ran, count_bound(agent))


def count_bound(agent: AgentProcess) -> int:
    """Of the containers here."""
    lines = agent.background.lines()
    return sum(line["event"] == "bound" and line["stage"] == STAGE and line["pod"] == POD for line in lines)
