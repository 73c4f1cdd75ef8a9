# SPDX-License-Identifier: Apache-2.0
"""Calls through the 32-bit gate: who sees them, and with which numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.machine import IA32
from agent.policy.syscalls import NUMBERS
from tests.support.language import arg, condition, document, hearing, marker_policy, values
from tests.support.workload import Node, step, steps

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not IA32.exists(), reason="no 32-bit calls: the kernel has no CONFIG_IA32_EMULATION"),
]

LSEEK_32, EXECVE_32 = 19, 11  # arch/x86/entry/syscalls/syscall_32.tbl


def lseek_32() -> list[str]:
    return ["int80", str(LSEEK_32), "i:-77", "i:0", "i:0"]


def tracepoint(event: str, *args: dict[str, Any], **fields: Any) -> dict[str, Any]:
    subsystem, _, name = event.partition("/")
    return {"subsystem": subsystem, "event": name, "args": list(args)} | fields


def heard_by(node: Node, words: list[str], *hooks: dict[str, Any], kprobes: Any = ()) -> list[Any]:
    """The values of the events of a process in a container."""
    node.add(marker_policy(), document("p", "tables", tracepoints=list(hooks), kprobes=list(kprobes)))
    with hearing(node) as heard, node.container("tables") as group:
        ended = group.run(words)
        return [values(event) for event in heard.all(ended.pid)]


def test_system_calls_and_their_tracepoints_see_native_calls_only(node: Node) -> None:
    words = steps(lseek_32(), step("lseek", -78, 0, 0))
    kprobe = {"call": "lseek", "args": [arg(0, "int")]}
    found = heard_by(node, words, tracepoint("syscalls/sys_enter_lseek", arg(5, "int32")), kprobes=[kprobe])
    assert found == [[-78], [-78]]


def test_all_calls_pass_the_raw_tracepoint_with_numbers_of_their_own(node: Node) -> None:
    """Compared as a mere number the 32-bit lseek is the native readv; syscall64 tells them apart."""
    assert NUMBERS["readv"] == LSEEK_32
    words = steps(lseek_32(), step("lseek", -78, 0, 0))
    number = {"matchArgs": [condition(4, "Equal", LSEEK_32)]}
    name = {"matchArgs": [condition(4, "Equal", "readv")]}
    found = heard_by(
        node,
        words,
        tracepoint("raw_syscalls/sys_enter", arg(4, "int64"), selectors=[number]),
        tracepoint("raw_syscalls/sys_enter", arg(4, "syscall64"), selectors=[name]),
    )
    assert found == [[LSEEK_32]]


def test_a_program_that_a_32_bit_execve_runs_is_seen(node: Node, tmp_path: Path) -> None:
    """The gate takes pointers of 32 bits: this program is not position-independent, so that its heap is low enough."""
    program = tmp_path / "program"
    program.symlink_to("/bin/true")
    path = f"b:{bytes(program).hex()}00"
    native = {"call": "execve", "args": [arg(0, "string")]}
    words = ["int80", str(EXECVE_32), path, "i:0", "i:0"]
    found = heard_by(node, words, tracepoint("sched/sched_process_exec", arg(4)), kprobes=[native])
    assert found == [[str(program)]]
