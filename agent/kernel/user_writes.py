# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel lets programs write to the memory of processes, which the action Set does.

A kernel that is locked down (kernel_lockdown(7), integrity and above) does not give the helper out, nor to a loader
without CAP_SYS_ADMIN. So it is tried, with a program that is loaded and never attached.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.policy.facts import FactsError

LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")  # "none [integrity] confidentiality"
STATUS: Final = Path("/proc/self/status")
HELPER: Final = "bpf_probe_write_user"
PROBE_WRITE_USER: Final = 36  # enum bpf_func_id
CAP_SYS_ADMIN: Final = 21  # include/uapi/linux/capability.h

# *(u64 *)(r10 - 8) = 0; r1 = 0; r2 = r10 - 8; r3 = 8; call bpf_probe_write_user; r0 = 0; exit
_WORDS: Final = (
    (0x7A, 10, -8, 0),
    (0xB7, 1, 0, 0),
    (0xBF, 0xA2, 0, 0),
    (0x07, 2, 0, -8),
    (0xB7, 3, 0, 8),
    (0x85, 0, 0, PROBE_WRITE_USER),
    (0xB7, 0, 0, 0),
    (0x95, 0, 0, 0),
)


def find_write_refusal(lockdown: Path = LOCKDOWN) -> str:
    """Why programs cannot write there; "" when they can. Raises FactsError when that cannot be tried."""
    code = b"".join(struct.pack("<BBhi", *word) for word in _WORDS)
    try:
        bpf.load_program(bpf.ProgType.KPROBE, code, "pg_probe").close()
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
