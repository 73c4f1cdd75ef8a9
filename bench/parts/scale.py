# SPDX-License-Identifier: Apache-2.0
"""A thousand policies at once: their memory, what one more costs, and what binding a container costs under them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.status import read_rss
from bench._common import Say, quantiles
from bench.parts.cells import Cell, open_cell
from bench.parts.kernel_memory import KernelMemory, read_kernel_memory
from bench.parts.map_updates import watch_map_updates
from bench.parts.policies import FD_CALLS, join_policies, policy_text
from tests.support.agent import AgentProcess
from tests.support.wait import wait_until

POINTS = FD_CALLS[:16]
NAMESPACES = 32
CELLS = 64
MORE = 5  # times that one more is added
MEGABYTE = 1 << 20
GONE_S = 20.0


class TooFewError(Exception):
    """The agent has other policies than it was given."""


@dataclass(frozen=True, slots=True)
class Scale:
    """policies: how many. bare: the kernel's memory without any; loaded: with all of them. Times in milliseconds, of
    binds in microseconds; bind_us: all that the agent does for one, on average.
    """

    policies: int
    load_ms: float
    bare: KernelMemory
    loaded: KernelMemory
    agent_rss: int
    events_rss: int
    add_ms: list[float]
    update_ms: list[float]
    binds: int
    bind_updates_us: list[float]
    bind_us: float

    def fields(self) -> dict[str, Any]:
        return {
            "policies": self.policies,
            "hook_points": len(POINTS),
            "load_ms": round(self.load_ms),
            "kernel_bytes_per_policy": round(self.loaded.total / self.policies),
            "kernel_bytes": {"maps": self.loaded.maps, "programs": self.loaded.programs},
            "kernel_bytes_without_policies": {"maps": self.bare.maps, "programs": self.bare.programs},
            "agent_rss_mb": round((self.agent_rss + self.events_rss) / MEGABYTE, 1),
            "events_rss_mb": round(self.events_rss / MEGABYTE, 1),
            "add_one_ms": {"median": round(statistics.median(self.add_ms)), "max": round(max(self.add_ms))},
            "update_one_ms": {"median": round(statistics.median(self.update_ms)), "max": round(max(self.update_ms))},
            "binds": self.binds,
            "map_updates_per_bind": round(len(self.bind_updates_us) / self.binds, 2),
            "bind_update_us": quantiles(self.bind_updates_us, 1),
            "bind_mean_us": round(self.bind_us),
        }


def scale_policy(number: int, value: int) -> str:
    """One of many: they take turns in the hook points, the namespaces and what they do; `value` is what they look for,
    a descriptor that nobody has.
    """
    call = POINTS[number % len(POINTS)]
    action = "Sigkill" if number % 2 else "Post"
    return policy_text(f"scale-{number}", f"scale-{number % NAMESPACES}", [value], action, call)


def measure_scale(program: Path, count: int, cpu: int, tell: Say) -> Scale:
    """program: the compiled calls.c."""
    with AgentProcess("--unannounced", "report", "--cri-socket", "none") as agent:
        bare = read_kernel_memory(agent)
        tell(f"  {count} policies on {len(POINTS)} hook points")
        load_ms = _time(lambda: agent.add(join_policies(scale_policy(n, 1_000_000 + n) for n in range(count))))
        _check(agent, count)
        tell("  one more, and updates of one")
        add_ms = [_time_one_more(agent, count + n) for n in range(MORE)]
        update_ms = [_time(partial(agent.add, scale_policy(n, 2_000_000 + n))) for n in range(MORE)]
        _check(agent, count)
        loaded = read_kernel_memory(agent)
        status = agent.control.status()
        events_rss = read_rss(status.events_pid)
        tell(f"  {CELLS} containers are bound")
        updates = _bind(program, agent, cpu)
        (bind,) = (stage for stage in agent.control.status().stages if stage.door == "agent" and stage.stage == "bind")
        return Scale(
            count,
            load_ms,
            bare,
            loaded,
            status.rss_bytes - events_rss,
            events_rss,
            add_ms,
            update_ms,
            CELLS,
            updates,
            bind.sum_us / bind.count,
        )


def _check(agent: AgentProcess, count: int) -> None:
    policies = agent.control.list().policies
    if len(policies) != count or any(policy.error for policy in policies):
        raise TooFewError(f"{len(policies)} policies are listed, {count} were added")


def _time(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return (time.monotonic() - began) * 1000


def _time_one_more(agent: AgentProcess, number: int) -> float:
    """It is deleted again, which is not counted."""
    took = _time(lambda: agent.add(scale_policy(number, 1_000_000 + number)))
    agent.control.delete(f"scale-{number}", f"scale-{number % NAMESPACES}")
    return took


def _bind(program: Path, agent: AgentProcess, cpu: int) -> list[float]:
    """Microseconds of each map update, while CELLS new cgroups are bound."""
    with ExitStack() as stack:
        cells = [stack.enter_context(open_cell(program, f"scale-{n % NAMESPACES}", cpu)) for n in range(CELLS)]
        updates = stack.enter_context(watch_map_updates(agent.pid))
        for cell in cells:
            _bind_one(cell, agent)
        took = updates.microseconds()
    wait_until(lambda: agent.control.status().bindings == 0, GONE_S, "no bindings")
    return took


def _bind_one(cell: Cell, agent: AgentProcess) -> None:
    if not cell.bind(agent.socket):
        raise TooFewError(f"no policy selects {cell.namespace}")
