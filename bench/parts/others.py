# SPDX-License-Identifier: Apache-2.0
"""Agents of others on this machine: hooks of system calls, and what is done about containers that nobody announced, are
in force for the whole machine. Beside one that holds, no start here is what it would be.
"""

from __future__ import annotations

import os

from tests.support.system import find_processes, read_cmdline

COMMAND = "/podgate-agent"


def is_other(command_line: str, owner: int) -> bool:
    """Whether an agent is none of the process `owner`, which its --run-dir names (tests/support/names.py)."""
    return COMMAND in command_line and f"-{owner}-" not in command_line


def count_others() -> int:
    """How many there are now."""
    return sum(is_other(read_cmdline(pid), os.getpid()) for pid in find_processes(COMMAND))
