# SPDX-License-Identifier: Apache-2.0
"""Readers of credentials, user namespaces, BPF objects, perf events and modules, against /proc and what was made."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.events.blob_names import MAP_TYPE, PERF_TYPE, PROG_TYPE
from agent.events.blobs import decode_blob
from agent.events.blobs_objects import BPF_FACTS, MODULE_FACTS, PERF_FACTS
from agent.events.layout import UNREADABLE
from agent.kernel import bpf
from agent.kernel.btf import Kind
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.mounts import ensure_tracefs, unmount
from agent.policy.kernel_names import CAPABILITIES
from tests.support.readers import Readers, Result, load_readers

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

SETS = {
    "inheritable": "CapInh",
    "permitted": "CapPrm",
    "effective": "CapEff",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}
CLONE_NEWUSER = 0x10000000
PR_SET_SECUREBITS = 28
SYS_PERF_EVENT_OPEN = 298

CHILD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
{before}
print(flush=True)
sys.stdin.readline()
os.getppid()
print(flush=True)
sys.stdin.readline()
"""
IDS = f"""
assert libc.prctl({PR_SET_SECUREBITS}, 0x15, 0, 0, 0) == 0
os.setresgid(21, 22, 23)
os.setresuid(1001, 1002, 1003)
"""
NAMESPACE = f"assert libc.unshare({CLONE_NEWUSER}) == 0"


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with load_readers() as loaded:
        yield loaded


def status(pid: int | str = "self") -> dict[str, str]:
    lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: text.strip() for name, text in lines}


def value(kind: str, result: Result, facts: int = 0) -> dict[str, Any]:
    found = decode_blob(kind, result.with_facts(facts), result.flags, result.mode)
    assert found is not None
    assert "malformed" not in found
    return found


def bits(names: list[str]) -> int:
    return sum(1 << CAPABILITIES[name] for name in names)


def of_child(readers: Readers, before: str, what: int) -> tuple[Result, dict[str, str], int]:
    """What is read at a child's getppid; its status and the inode of its user namespace at that time."""
    command = [sys.executable, "-c", CHILD.format(before=before)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        with readers.attached("on_enter", w0=child.pid, w1=what):
            child.stdin.write("\n")
            child.stdin.flush()
            result = readers.told()
        seen = status(child.pid), os.stat(f"/proc/{child.pid}/ns/user").st_ino
        child.communicate("\n", timeout=10)
    return result, *seen


@pytest.mark.parametrize("before", ["", IDS, NAMESPACE])
def test_credentials_are_those_of_proc(readers: Readers, before: str) -> None:
    result, seen, inode = of_child(readers, before, 1)
    found = value("cred", result)
    for kind in ("uid", "gid"):
        wanted = [int(number) for number in seen[kind.capitalize()].split()]  # real, effective, saved, file system
        assert [found[prefix + kind] for prefix in ("", "e", "s", "fs")] == wanted
    for name, line in SETS.items():
        assert bits(found["caps"][name]) == int(seen[line], 16)
    assert found["user_ns"]["ns"]["inum"] == inode
    if before == IDS:
        assert found["securebits"] == ["SECBIT_NOROOT", "SECBIT_NO_SETUID_FIXUP", "SECBIT_KEEP_CAPS"]


def test_user_namespace_has_level_owner_and_inode(readers: Readers) -> None:
    own = value("user_namespace", readers.run("user_namespace"))
    inode = os.stat("/proc/self/ns/user").st_ino
    assert own == {"level": 0, "uid": 0, "gid": 0, "ns": {"inum": inode, "is_host": True}}
    result, _, inode = of_child(readers, f"os.setegid(7); os.seteuid(9); {NAMESPACE}", 2)
    below = {"level": 1, "uid": 9, "gid": 7, "ns": {"inum": inode, "is_host": False}}
    assert value("user_namespace", result) == below


def test_capability_sets_are_numbers(readers: Readers) -> None:
    lines = (SETS[name] for name in ("inheritable", "permitted", "effective"))
    for number, line in enumerate(lines):
        result = readers.run("capabilities", number)
        assert (result.error, result.number) == (0, int(status()[line], 16))


def test_map_has_its_name_and_sizes(readers: Readers) -> None:
    with bpf.create_map(bpf.MapType.HASH, 8, 24, 77, "a_map", bpf.NO_PREALLOC) as made:
        found = value("bpf_map", readers.run("bpf_map", made.fileno()), BPF_FACTS.size)
    assert found.pop("id") > 0
    assert found == {
        "map_type": "BPF_MAP_TYPE_HASH",
        "map_name": "a_map",
        "map_flags": bpf.NO_PREALLOC,
        "key_size": 8,
        "value_size": 24,
        "max_entries": 77,
    }


def test_program_has_its_name_and_length(readers: Readers) -> None:
    fd = readers.fileno("t_bpf_prog")
    found = value("bpf_prog", readers.run("bpf_prog", fd), BPF_FACTS.size)
    info = bpf.program_info(fd)
    assert (found["prog_type"], found["prog_name"]) == ("BPF_PROG_TYPE_RAW_TRACEPOINT", "t_bpf_prog")
    assert (found["id"], found["insn_cnt"]) == (info.id, info.instructions)


PROGRAM = struct.pack("<IIQQIIQII16sII", 17, 99, 1, 2, 0, 0, 0, 0, 3, b"prog", 0, 41)
MAP = struct.pack("<7I16s", 2, 4, 8, 16, 1 << 10, 0, 0, b"map")


@pytest.mark.parametrize(
    ("attr", "command", "wanted"),
    [
        (
            PROGRAM,
            5,
            {
                "prog_type": "BPF_PROG_TYPE_RAW_TRACEPOINT",
                "insn_cnt": 99,
                "prog_name": "prog",
                "expected_attach_type": 41,
            },
        ),
        (
            PROGRAM[:48],
            5,
            {
                "prog_type": "BPF_PROG_TYPE_RAW_TRACEPOINT",
                "insn_cnt": 99,
                "prog_name": "",
                "expected_attach_type": 0,
            },
        ),
        (
            MAP,
            0,
            {
                "map_type": "BPF_MAP_TYPE_ARRAY",
                "key_size": 4,
                "value_size": 8,
                "max_entries": 16,
                "map_name": "map",
                "map_flags": 1 << 10,
            },
        ),
        (MAP, 1, {}),
    ],
)
def test_attributes_say_what_is_made(readers: Readers, attr: bytes, command: int, wanted: dict[str, Any]) -> None:
    memory = ctypes.create_string_buffer(attr, len(attr))
    result = readers.run("bpf_attr", ctypes.addressof(memory), len(attr), command)
    assert result.error == 0
    assert value("bpf_attr", result, BPF_FACTS.size) == wanted


def test_attributes_that_are_not_there(readers: Readers) -> None:
    result = readers.run("bpf_attr", 8, 72, 5)
    assert (result.error, result.flags, result.with_facts(BPF_FACTS.size)) == (-14, UNREADABLE, bytes(BPF_FACTS.size))


def perf_event(kind: int, config: int) -> int:
    attr = ctypes.create_string_buffer(struct.pack("<IIQ", kind, bpf.PERF_ATTR_SIZE, config), bpf.PERF_ATTR_SIZE)
    fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_PERF_EVENT_OPEN, attr, 0, -1, -1, bpf.PERF_FLAG_FD_CLOEXEC)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return int(fd)


def test_perf_event_has_type_and_config(readers: Readers) -> None:
    fd = perf_event(1, 2)  # PERF_COUNT_SW_PAGE_FAULTS
    found = value("perf_event", readers.run("perf_event", fd), PERF_FACTS.size)
    os.close(fd)
    assert (found["type"], found["config"], found["kprobe_func"]) == ("PERF_TYPE_SOFTWARE", 2, "")


def test_perf_event_of_a_tracepoint_has_its_name(readers: Readers, tmp_path: Path) -> None:
    tracefs, mounted = ensure_tracefs(tmp_path / "tracing")
    try:
        identifier = int((tracefs / "events/sched/sched_process_exec/id").read_text())
        with bpf.open_tracepoint_event(identifier) as event:
            found = value("perf_event", readers.run("perf_event", event.fileno()), PERF_FACTS.size)
    finally:
        if mounted:
            unmount(tracefs)
    assert (found["type"], found["config"]) == ("PERF_TYPE_TRACEPOINT", identifier)
    assert (found["kprobe_func"], found["pmu"]) == ("sched_process_exec", "tracepoint")


@pytest.mark.parametrize(
    ("taints", "names"), [(0, []), (1 << 12 | 1 << 13, ["TAINT_OOT_MODULE", "TAINT_UNSIGNED_MODULE"])]
)
def test_module_has_name_and_taints(readers: Readers, taints: int, names: list[str]) -> None:
    text = ctypes.create_string_buffer(b"a_module")
    found = value("module", readers.run("module", ctypes.addressof(text), taints), MODULE_FACTS.size)
    assert found == {"name": "a_module", "tainted": names}
    for good in (True, False):
        result = readers.run("load_info", ctypes.addressof(text), taints, good)
        found = value("load_info", result, MODULE_FACTS.size)
        assert found == {"name": "a_module", "tainted": names, "signature_ok": good}


@pytest.mark.parametrize(
    ("enumeration", "prefix", "names"),
    [
        ("bpf_map_type", "BPF_MAP_TYPE_", MAP_TYPE),
        ("bpf_prog_type", "BPF_PROG_TYPE_", PROG_TYPE),
        ("perf_type_id", "PERF_TYPE_", PERF_TYPE),
    ],
)
def test_words_are_this_kernels(enumeration: str, prefix: str, names: dict[int, str]) -> None:
    btf = KernelBtf().kernel()
    identifier = btf.find(Kind.ENUM, enumeration)
    assert identifier is not None
    kernel: dict[int, set[str]] = {}
    for each in btf.enumerators(identifier):
        if each.name.startswith(prefix) and not each.name.endswith("_MAX"):
            kernel.setdefault(each.value, set()).add(each.name.removesuffix("_DEPRECATED"))
    known = {number: name for number, name in names.items() if number in kernel}
    assert len(known) == len(kernel)
    assert all(name in kernel[number] for number, name in known.items())
