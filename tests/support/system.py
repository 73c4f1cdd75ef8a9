# SPDX-License-Identifier: Apache-2.0
"""Small readers and removers for what a container runtime leaves in the kernel: processes, mounts, cgroups.

Everything selects by a path or name that one owner chose (see names.py), never by a program's name.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from tests.support.wait import wait_until

MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def read_cmdline(pid: int) -> str:
    """The command line of a process with spaces between arguments; empty for a zombie or a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def find_processes(marker: str) -> list[int]:
    """PIDs of the processes whose command line contains `marker`, this one excepted."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and marker in read_cmdline(pid)]


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # proc(5): the state follows the command, which is in parentheses and may itself contain any character.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill_processes(pids: Iterable[int], deadline_s: float = 5.0) -> None:
    """SIGKILL each of `pids` and wait until they are gone; those that are gone already are fine."""
    targets = list(pids)
    for pid in targets:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not any(is_running(pid) for pid in targets), deadline_s, f"processes {targets} to end")


def parse_mount_points(mounts: str) -> list[str]:
    """Mount points of /proc/mounts text, in order of mounting, with the kernel's octal escapes undone."""
    points = (line.split(" ")[1] for line in mounts.splitlines())
    return [point.encode().decode("unicode_escape") for point in points]


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below `folder`, innermost first."""
    prefix = str(folder)
    points = parse_mount_points(Path("/proc/mounts").read_text())
    return [point for point in reversed(points) if point == prefix or point.startswith(prefix + "/")]


def mount(source: str, target: Path, kind: str) -> None:
    """mount(2) without flags or data; OSError with the target when it fails."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), 0, None) != 0:
        raise _last_error(target)


def unmount(point: str | Path) -> None:
    """Detach one mount; OSError with its path when that fails."""
    if _libc.umount2(os.fsencode(point), MNT_DETACH) != 0:
        raise _last_error(point)


def _last_error(path: str | Path) -> OSError:
    errno = ctypes.get_errno()
    return OSError(errno, os.strerror(errno), str(path))


def unmount_below(folder: Path) -> None:
    """Detach every mount at or below `folder`."""
    for point in mounts_below(folder):
        unmount(point)


def parse_cgroup_roots(mounts: str) -> list[Path]:
    """Mount points of all cgroup hierarchies, version 1 and 2, in /proc/mounts text."""
    fields = (line.split(" ") for line in mounts.splitlines())
    return [Path(field[1]) for field in fields if field[2] in ("cgroup", "cgroup2")]


def cgroup_roots() -> list[Path]:
    """The mount points of this machine's cgroup hierarchies."""
    return parse_cgroup_roots(Path("/proc/mounts").read_text())


def cgroup_trees(name: str) -> list[Path]:
    """The directories called `name` directly below each hierarchy's root, where they exist."""
    return [tree for root in cgroup_roots() if (tree := root / name).is_dir()]


def cgroup_members(tree: Path) -> list[int]:
    """PIDs in a cgroup and all cgroups below it."""
    pids: list[int] = []
    for folder, _, _ in os.walk(tree):
        try:
            pids += [int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()]
        except (FileNotFoundError, OSError):
            continue  # removed while we walked
    return pids


def remove_cgroups(name: str, deadline_s: float = 5.0) -> None:
    """Kill what is in the cgroups called `name` in any hierarchy and remove them with their children."""
    trees = cgroup_trees(name)
    kill_processes({pid for tree in trees for pid in cgroup_members(tree)}, deadline_s)
    for tree in trees:
        wait_until(lambda tree=tree: _remove_tree(tree), deadline_s, f"cgroup {tree} to be empty")  # type: ignore[misc]


def _remove_tree(tree: Path) -> bool:
    """rmdir a cgroup tree bottom up; False while the kernel still counts a process that has just died."""
    for folder, _, _ in os.walk(tree, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
