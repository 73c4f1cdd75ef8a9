# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel is locked down (kernel_lockdown(7)): then no program may write to the memory of processes."""

from __future__ import annotations

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.instructions import encode

PROBE_WRITE_USER = 36  # enum bpf_func_id


def may_write_user() -> bool:
    """Whether a program that calls bpf_probe_write_user is taken."""
    code = b"".join(
        (
            encode(0x7A, 10, offset=-8),
            encode(0xB7, 1),
            encode(0xBF, 2, 10),
            encode(0x07, 2, immediate=-8),
            encode(0xB7, 3, immediate=8),
            encode(0x85, immediate=PROBE_WRITE_USER),
            encode(0x95),
        )
    )
    try:
        bpf.load_program(bpf.ProgType.KPROBE, code, "pg_test").close()
    except KernelError:
        return False
    return True
