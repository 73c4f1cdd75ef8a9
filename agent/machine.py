# SPDX-License-Identifier: Apache-2.0
"""What an agent needs of the machine before anything else, and what of it no policy reaches."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path

from agent.config import StartError

CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h
CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38}
IA32 = Path("/proc/sys/abi/vsyscall32")  # exists with CONFIG_IA32_EMULATION (arch/x86/entry/vdso/vdso32-setup.c)
IA32_NOTE = "32-bit system calls (int 0x80) are not covered: this kernel has CONFIG_IA32_EMULATION"


def check_machine() -> None:
    """Raises StartError for a processor or privileges that loading and attaching cannot do with."""
    if platform.machine() != "x86_64":
        raise StartError(f"podgate runs on x86_64, this is {platform.machine()}")
    if os.geteuid() != 0:
        raise StartError(
            "the agent needs root with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN: start it as root or privileged"
        )
    missing = missing_capabilities(Path("/proc/self/status").read_text())
    if missing:
        raise StartError(f"the agent lacks {' and '.join(missing)}: start it privileged, or add the capabilities")


def missing_capabilities(status: str) -> tuple[str, ...]:
    """Of those that loading and attaching take, by CapEff in /proc/self/status; CAP_SYS_ADMIN stands for each."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    if held >> CAP_SYS_ADMIN & 1:
        return ()
    return tuple(name for name, bit in CAPABILITIES.items() if not held >> bit & 1)


def take_lock(run_dir: Path) -> int:
    """Makes the run directory; a descriptor that holds it for its owner's life. Two agents on one would take each
    other's socket and pins: StartError.
    """
    run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(run_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StartError(f"another agent runs with {run_dir}: stop it, or use --run-dir and --pin-dir") from error
    return lock


def find_notes() -> tuple[str, ...]:
    """What no policy enforces on this machine."""
    return (IA32_NOTE,) if IA32.exists() else ()
