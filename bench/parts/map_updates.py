# SPDX-License-Identifier: Apache-2.0
"""How often one process changes a BPF map, and how long each of those system calls takes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from bcc import BPF

from agent.kernel.headers import ensure_tree

MAX_SAMPLES = 4096
# struct pt_regs: the system call's arguments. enum bpf_cmd of include/uapi/linux/bpf.h: 2 BPF_MAP_UPDATE_ELEM.
_TEXT = """
#include <linux/ptrace.h>
#include <linux/bpf.h>
BPF_HASH(began, u32, u64);
BPF_ARRAY(used, u32, 1);
BPF_ARRAY(samples, u64, MAX_SAMPLES);

RAW_TRACEPOINT_PROBE(sys_enter)
{
	u64 id = bpf_get_current_pid_tgid(), now;
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	u32 thread = id;
	u64 command = 0;

	if (id >> 32 != PROCESS || ctx->args[1] != 321)
		return 0;
	bpf_probe_read_kernel(&command, sizeof(command), &regs->di);
	if (command != 2)
		return 0;
	now = bpf_ktime_get_ns();
	began.update(&thread, &now);
	return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
	u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns(), *then, took;
	u32 thread = id, zero = 0, *count, at;

	if (id >> 32 != PROCESS)
		return 0;
	then = began.lookup(&thread);
	if (!then)
		return 0;
	took = now - *then;
	began.delete(&thread);
	count = used.lookup(&zero);
	if (!count)
		return 0;
	at = *count;
	lock_xadd(count, 1);
	samples.update(&at, &took);
	return 0;
}
"""


class MapUpdates:
    """What was seen since it was opened."""

    def __init__(self, program: BPF) -> None:
        self._program = program

    def microseconds(self) -> list[float]:
        """Of each update, in its order."""
        count = min(self._program["used"][ctypes.c_int(0)].value, MAX_SAMPLES)
        samples = self._program["samples"]
        return [samples[ctypes.c_int(at)].value / 1000 for at in range(count)]


@contextmanager
def watch_map_updates(pid: int) -> Iterator[MapUpdates]:
    """pid: of the process, all of its threads."""
    os.environ["BCC_KERNEL_SOURCE"] = str(ensure_tree())
    program = BPF(text=_TEXT, cflags=[f"-DPROCESS={pid}", f"-DMAX_SAMPLES={MAX_SAMPLES}", "-w"])
    try:
        yield MapUpdates(program)
    finally:
        program.cleanup()
