# SPDX-License-Identifier: Apache-2.0
"""bcc compiles against the header tree, and what its program reads in the kernel is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.kernel.btf_c import CText, declare
from agent.kernel.header_roots import KERNEL_ROOTS
from agent.kernel.header_text import KernelFacts, tree_files
from agent.kernel.headers import ensure_tree
from agent.kernel.kernel_btf import KernelBtf

pytestmark = pytest.mark.kernel

COMPILE_DEADLINE_S = 60
# Everything that bcc does happens in a child: it changes the working directory and keeps LLVM in memory.
CHILD = r"""
import json, os
from bcc import BPF

TEXT = '''
#include <linux/sched.h>
#include <uapi/linux/ptrace.h>

struct seen {
    u32 parent;
    char name[TASK_COMM_LEN];
};
BPF_HASH(seen, u32, struct seen, 16);

int on_enter(struct bpf_raw_tracepoint_args *ctx)
{
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    struct task_struct *parent = NULL;
    struct seen value = {};

    if (pid != PID)
        return 0;
    bpf_probe_read_kernel(&parent, sizeof(parent), &task->real_parent);
    bpf_probe_read_kernel(&value.parent, sizeof(value.parent), &parent->tgid);
    bpf_probe_read_kernel_str(value.name, sizeof(value.name), &task->comm);
    seen.update(&pid, &value);
    return 0;
}
'''
program = BPF(text=TEXT, cflags=["-Wall", "-Werror", f"-DPID={os.getpid()}"])
program.load_func("on_enter", BPF.RAW_TRACEPOINT)
program.attach_raw_tracepoint(tp="sys_enter", fn_name="on_enter")
os.getppid()
program.detach_raw_tracepoint(tp="sys_enter")
found = {key.value: [value.parent, value.name.decode()] for key, value in program["seen"].items()}
with open("/proc/self/comm") as comm:
    expected = {os.getpid(): [os.getppid(), comm.read().strip()]}
print(json.dumps([found, expected]))
"""


def run_bcc(tree: Path) -> list[dict[str, list[object]]]:
    """What the child's program saw of the child, and what is true."""
    environment = {**os.environ, "BCC_KERNEL_SOURCE": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMPILE_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: list[dict[str, list[object]]] = json.loads(done.stdout)
    return answer


def test_program_reads_its_parent_through_the_tree(tmp_path: Path) -> None:
    found, expected = run_bcc(ensure_tree(tmp_path / "headers"))
    assert found == expected
    assert [parent for parent, _ in found.values()] == [os.getpid()]


def test_program_compiles_where_the_kernel_lacks_the_latest_helpers(tmp_path: Path) -> None:
    whole = declare(KernelBtf().kernel(), KERNEL_ROOTS)
    lost = {"BPF_FUNC_cgrp_storage_get", "BPF_FUNC_cgrp_storage_delete", "TASK_COMM_LEN"}
    text = whole.text
    for name in lost:
        assert name in text
        text = text.replace(f"{name} =", f"lost_{name} =")
    uname = os.uname()
    facts = KernelFacts(uname.release, uname.machine, os.sysconf("SC_PAGE_SIZE"))
    for name, content in tree_files(CText(text, "", whole.enumerators - lost), facts).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found, expected = run_bcc(tmp_path)
    assert found == expected
