# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel lets programs write to the memory of processes, which the action Set does.

A kernel that is locked down (kernel_lockdown(7), integrity and above) does not give the helper out, nor to a loader
without CAP_SYS_ADMIN. So it is tried, with a program that is loaded and never attached.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.instructions import (
    ADD_CONSTANT,
    CALL,
    FRAME,
    MOVE,
    MOVE_CONSTANT,
    PROBE_WRITE_USER,
    RETURN_0,
    STORE_DOUBLE,
    encode,
)
from agent.policy.facts import FactsError

LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")  # "none [integrity] confidentiality"
STATUS: Final = Path("/proc/self/status")
HELPER: Final = "bpf_probe_write_user"
CAP_SYS_ADMIN: Final = 21  # include/uapi/linux/capability.h

# *(u64 *)(r10 - 8) = 0; r1 = 0; r2 = r10 - 8; r3 = 8; call bpf_probe_write_user; r0 = 0; exit
WRITE_USER: Final = b"".join(
    (
        encode(STORE_DOUBLE, FRAME, offset=-8),
        encode(MOVE_CONSTANT, 1),
        encode(MOVE, 2, FRAME),
        encode(ADD_CONSTANT, 2, immediate=-8),
        encode(MOVE_CONSTANT, 3, immediate=8),
        encode(CALL, immediate=PROBE_WRITE_USER),
        RETURN_0,
    )
)


def find_write_refusal(lockdown: Path = LOCKDOWN) -> str:
    """Why programs cannot write there; "" when they can. Raises FactsError when that cannot be tried."""
    try:
        bpf.load_program(bpf.ProgType.KPROBE, WRITE_USER, "pg_probe").close()
    except KernelError as error:
        if HELPER not in error.hint:
            raise FactsError(f"whether programs may write to processes is unknown: {error}", "leave Set out") from error
        return f"the kernel refuses {HELPER}, {_reason(lockdown)}"
    return ""


def _reason(lockdown: Path) -> str:
    if not _is_admin():
        return "since the agent lacks CAP_SYS_ADMIN"
    try:
        mode = lockdown.read_text().partition("[")[2].partition("]")[0]
    except OSError:  # securityfs is not mounted here
        mode = ""
    return f"since it is locked down for {mode}" if mode not in ("", "none") else "as kernels do that are locked down"


def _is_admin() -> bool:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)
