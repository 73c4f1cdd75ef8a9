# SPDX-License-Identifier: Apache-2.0
"""What tests may leave behind in the kernel and the file system, and how to tell it from what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support import system
from tests.support.names import owner_pid

BPFFS = Path("/sys/fs/bpf")


def collect_leftovers() -> frozenset[str]:
    """One line for each process, mount, cgroup, BPF pin and directory of podgate's.

    What belongs to another test session that still runs (by the PID in its name) is left out.
    """
    lines = (*_processes(), *_mounts(), *_cgroups(), *_paths())
    return frozenset(line for line in lines if not is_foreign(line))


def is_foreign(line: str) -> bool:
    """Whether a name in `line` carries the PID of another process that is alive."""
    owner = owner_pid(line)
    return owner is not None and owner != os.getpid() and system.is_running(owner)


def _processes() -> Iterator[str]:
    """Our own children, and whatever has one of our names in its command line."""
    for child in _children():
        yield f"child process {child}: {system.read_cmdline(child)}"
    for pid in system.find_processes(f"-{os.getpid()}-"):
        if owner_pid(cmdline := system.read_cmdline(pid)) == os.getpid():
            yield f"process {pid}: {cmdline}"


def _children() -> list[int]:
    """PIDs of this process's children, of all its threads (CONFIG_PROC_CHILDREN)."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split() if system.is_running(int(pid))]


def _mounts() -> Iterator[str]:
    points = system.parse_mount_points(Path("/proc/mounts").read_text())
    return (f"mount {point}" for point in points if "podgate" in point)


def _cgroups() -> Iterator[str]:
    for root in system.cgroup_roots():
        for folder, names, _ in os.walk(root):
            found = [name for name in names if name.startswith("podgate")]
            yield from (f"cgroup {folder}/{name}" for name in found)
            names[:] = [name for name in names if name not in found]


def _paths() -> Iterable[str]:
    pins = (f"pin {path}" for path in BPFFS.glob("podgate*"))
    folders = (f"directory {path}" for path in Path("/tmp").glob("podgate-*"))
    return (*pins, *folders)
