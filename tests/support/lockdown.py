# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel is locked down (kernel_lockdown(7)): then no program may write to the memory of processes."""

from __future__ import annotations

import struct

from agent.kernel import bpf
from agent.kernel.errors import KernelError

PROBE_WRITE_USER = 36  # enum bpf_func_id
_REGISTERS_SET = ((0x7A, 10, -8, 0), (0xB7, 1, 0, 0), (0xBF, 0xA2, 0, 0), (0x07, 2, 0, -8), (0xB7, 3, 0, 8))
_CALL, _EXIT = 0x85, 0x95


def may_write_user() -> bool:
    """Whether a program that calls bpf_probe_write_user is taken."""
    words = (*_REGISTERS_SET, (_CALL, 0, 0, PROBE_WRITE_USER), (_EXIT, 0, 0, 0))
    code = b"".join(struct.pack("<BBhi", *word) for word in words)
    try:
        bpf.load_program(bpf.ProgType.KPROBE, code, "pg_test").close()
    except KernelError:
        return False
    return True
