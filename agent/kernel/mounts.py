# SPDX-License-Identifier: Apache-2.0
"""Where bpffs, tracefs and the cgroup v2 hierarchy are mounted, from /proc/self/mountinfo (proc(5)), and mounting
what is missing.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.errors import KernelError

BPFFS = Path("/sys/fs/bpf")
TRACEFS = Path("/sys/kernel/tracing")
TRACEFS_OLD = Path("/sys/kernel/debug/tracing")

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    root: str


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Lines of /proc/<pid>/mountinfo; octal escapes in the mount point are resolved."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 6 or not kind:
            continue
        mounts.append(Mount(_unescape(fields[4]), kind[0], _unescape(fields[3])))
    return tuple(mounts)


def _unescape(text: str) -> str:
    """Space, tab, line break and backslash are written as a backslash and three octal digits (fs/proc_namespace.c)."""
    data = text.encode(errors="surrogateescape")
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), data).decode(errors="surrogateescape")


def read_mounts() -> tuple[Mount, ...]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def mount_filesystem(kind: str, point: Path, hint: str) -> None:
    args = (kind.encode(), str(point).encode(), kind.encode(), 0, None)
    if _libc.mount(args[0], args[1], args[2], ctypes.c_ulong(args[3]), args[4]) != 0:
        raise KernelError(f"mount {kind} on {point}", ctypes.get_errno(), hint)


def unmount(point: Path) -> None:
    if _libc.umount2(str(point).encode(), 0) != 0:
        raise KernelError(f"umount {point}", ctypes.get_errno())


def _is_mounted(kind: str, point: Path) -> bool:
    return any(mount.kind == kind and mount.point == str(point) for mount in read_mounts())


def is_bpffs_mounted() -> bool:
    return _is_mounted("bpf", BPFFS)


def ensure_bpffs() -> bool:
    """True when it had to be mounted here."""
    if is_bpffs_mounted():
        return False
    if not BPFFS.is_dir():
        raise KernelError(f"{BPFFS} does not exist", 0, "the kernel needs CONFIG_BPF_SYSCALL=y and sysfs on /sys")
    mount_filesystem(
        "bpf", BPFFS, "mount the BPF file system there, and in a pod give it with mountPropagation: Bidirectional"
    )
    return True


def ensure_tracefs(private: Path) -> tuple[Path, bool]:
    """Where tracefs is, and whether it is mounted at `private`, which the caller takes down again.

    Mounts of tracefs show one and the same instance, so a private one takes nothing from anybody.
    """
    for point in (TRACEFS, TRACEFS_OLD):
        if _is_mounted("tracefs", point):
            return point, False
    if _is_mounted("tracefs", private):
        return private, True
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    hint = "the kernel needs CONFIG_FTRACE=y: system call tracepoints are found there"
    mount_filesystem("tracefs", private, hint)
    return private, True


def release_bpffs() -> bool:
    """Unmounts it when nobody has pins there: with the mount they would be gone. False when somebody has."""
    if any(not name.endswith(".debug") for name in os.listdir(BPFFS)):
        return False
    unmount(BPFFS)
    return True


def cgroup2_root() -> Path:
    """The mount of the whole unified hierarchy: /sys/fs/cgroup, or /sys/fs/cgroup/unified where v1 hierarchies exist
    beside it.
    """
    for mount in read_mounts():
        if mount.kind == "cgroup2" and mount.root == "/" and os.access(mount.point, os.R_OK | os.X_OK):
            return Path(mount.point)
    raise KernelError(
        "no cgroup v2 hierarchy is mounted",
        0,
        "containers are told apart by their cgroup v2 id: boot with a unified or hybrid layout",
    )
