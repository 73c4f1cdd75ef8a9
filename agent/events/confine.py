# SPDX-License-Identifier: Apache-2.0
"""What a helper gives up before it touches what others made."""

from __future__ import annotations

import ctypes
import os
import resource

# include/uapi/linux/prctl.h, include/uapi/linux/capability.h
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITY_VERSION_3 = 0x20080522
SYS_CAPSET = 126  # of x86_64


def confine(memory: int, kept: int) -> list[str]:
    """memory: bytes of address space. kept: mask of capabilities. Gives what could not be given up and why, in words.

    No new privilege and no core is to be had either.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    refused = [_said("no_new_privs")] if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) else []
    for capability in range(64):
        if not kept >> capability & 1:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL beyond the last one; EPERM without CAP_SETPCAP
    return refused + ([_said("capset")] if _set_capabilities(libc, kept & _permitted()) else [])


def _set_capabilities(libc: ctypes.CDLL, mask: int) -> int:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    return int(libc.syscall(SYS_CAPSET, header, sets))


def _permitted() -> int:
    """Those that it has: more cannot be set."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))


def _said(what: str) -> str:
    return f"{what}: {os.strerror(ctypes.get_errno())}"
