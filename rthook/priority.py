# SPDX-License-Identifier: Apache-2.0
"""Scheduling priority of a process that container starts wait for, or that must not get in their way.

A nice value counts among the processes of one scheduling group. Where the kernel groups each session by itself
(CONFIG_SCHED_AUTOGROUP, proc(5) under /proc/[pid]/autogroup), it decides nothing between a daemon and a container's
shell; the group has a nice value of its own, and that is set too. In a cpu cgroup the group's weight decides: there it
is the unit's or pod's configuration that has to give it.
"""

import os
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def set_priority(nice: int) -> list[str]:
    """Sets both; gives what could not be set and why, in words. Nothing fails for it."""
    refused = []
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        refused.append(f"nice {nice}: {error.strerror}")
    try:
        if AUTOGROUP.exists():
            AUTOGROUP.write_text(str(nice))
    except OSError as error:
        refused.append(f"{AUTOGROUP} {nice}: {error.strerror}")
    return refused


def set_realtime() -> str:
    """Puts the calling thread before all that is not real-time (SCHED_RR, sched(7)); empty, or why that was refused.

    For threads that work for a fraction of a millisecond and that a container's start waits for. What they start is
    scheduled as usual; the kernel's limit for real-time work (sched_rt_runtime_us) leaves the rest its share.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError as error:
        return f"SCHED_RR: {error.strerror}"
    return ""
