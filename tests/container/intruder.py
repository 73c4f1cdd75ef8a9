# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.container.intruder PID RUN_DIR CALL`: calls the agent as a process of a container would.

It enters the cgroup and the mount namespace of the container that PID is in, and prints what the agent answers.
RUN_DIR is as the container sees it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

from agent.cli.client import ControlClient
from nri_plugin.ttrpc import RemoteError
from rthook.api import hook_pb2
from rthook.client import AgentClient
from rthook.errors import HookError
from tests.container.stage import cgroup_directory


def enter(pid: int) -> None:
    """OSError when the kernel does not let us."""
    (cgroup_directory(pid) / "cgroup.procs").write_text(str(os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), f"setns into {pid}")


def calls(run_dir: Path) -> dict[str, Callable[[], object]]:
    hook, control = AgentClient(str(run_dir / "agent.sock"), 10.0), ControlClient(run_dir)
    container = hook_pb2.Container(
        id="mine", name="c", pod_name="p", pod_namespace="n", pid=os.getpid(), phase=hook_pb2.PHASE_RUNNING
    )
    return {
        "bind": lambda: hook.bind(container),
        "unbind": lambda: hook.unbind("mine"),
        "synchronize": lambda: hook.synchronize([]),
        "status": control.status,
        "delete": lambda: control.delete("by-namespace", "guarded"),
    }


def main() -> None:
    pid, run_dir, call = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    known = calls(run_dir)
    enter(pid)
    try:
        print("answered:", known[call]())
    except (HookError, RemoteError) as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
