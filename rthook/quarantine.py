# SPDX-License-Identifier: Apache-2.0
"""Binding a container to every policy without the agent: its pinned program `quarantine` does it in the kernel.

Each generation of the agent that is in force has one, and the container has to be bound in all of them.
"""

import errno
import os
import struct
from pathlib import Path

from rthook.bpf import BpfError, open_object, run_program
from rthook.errors import HookError
from rthook.generations import iterate_generations

PROGRAM = "quarantine"
# The program's arguments: the cgroup's id, and the pid of the init process that the runtime holds.
ARGUMENTS = struct.Struct("<QQ")
# For the second, of a workload that runs already.
NO_INIT = (1 << 64) - 1


class QuarantineError(HookError):
    """The container is not in quarantine: the generation's directory, and what went wrong there."""

    def __init__(self, where: Path, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def put_in_quarantine(pin_dir: Path, cgroup_id: int, init_pid: int = NO_INIT) -> int:
    """In how many generations the cgroup is bound, at least one; QuarantineError when one refuses, or there is none.

    init_pid: of the process whose execve ends the set-up, NO_INIT when the workload runs already. A generation without
    the program is on its way in or out, and another one has to answer: a starting agent takes over what was bound in
    earlier ones until its program was there, so the first is asked once more at the end.
    """
    arguments = ARGUMENTS.pack(cgroup_id, init_pid)
    try:
        bound = {one for one in iterate_generations(pin_dir) if _run(one, arguments)}
    except OSError as error:
        raise QuarantineError(pin_dir, f"earlier generations cannot be listed: {error.strerror}") from error
    if _run(pin_dir, arguments):
        bound.add(pin_dir)
    if not bound:
        raise QuarantineError(pin_dir, "no agent has left a quarantine program there")
    return len(bound)


def _run(generation: Path, arguments: bytes) -> bool:
    """False when the generation is not there, not yet, or not any more."""
    try:
        program = open_object(generation / PROGRAM)
    except BpfError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise QuarantineError(generation, str(error)) from error
    try:
        result = run_program(program, arguments)
    except BpfError as error:
        raise QuarantineError(generation, str(error)) from error
    finally:
        os.close(program)
    if result < 0:
        raise QuarantineError(generation, f"the program gave {os.strerror(-result)}")
    if result > 0:
        raise QuarantineError(generation, f"the program gave {result}, which means nothing")
    return True
