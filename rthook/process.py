# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process: whether it lives, whether it is stopped, and which cgroup it is in.

A cgroup v2 directory's inode number is the id that BPF programs see, on 64-bit kernels from 5.5.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from rthook.errors import HookError

CGROUP2_SUPER_MAGIC = 0x63677270  # include/uapi/linux/magic.h
CGROUP_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
STATFS_SIZE = 120  # struct statfs on 64 bits; f_type is its first member, a long
MAX_CGROUP_FILE = 65536  # some 15 hierarchies with a path of at most PATH_MAX each
MAX_STAT_FILE = 4096  # 52 numbers and a name of at most 64 characters
# proc(5): the fields behind the name, of which the state is number 3 and the start time number 22.
START_TIME_FIELD = 22 - 3
NS_PER_S = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.statfs.argtypes = (ctypes.c_char_p, ctypes.c_char_p)


class ProcessError(HookError):
    """Which cgroup a process is in cannot be said."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(pid, reason)
        self.pid = pid
        self.reason = reason

    def __str__(self) -> str:
        return f"process {self.pid} {self.reason}"


@dataclass(frozen=True, slots=True)
class TaskStat:
    """state: one letter of proc(5). start: clock ticks since boot."""

    state: str
    start: int

    @property
    def is_dead(self) -> bool:
        """A zombie has run its last instruction."""
        return self.state in "ZXx"


def parse_stat(data: bytes) -> TaskStat:
    """The state follows the name, which is in parentheses and may hold any character; ValueError for anything else."""
    fields = data.rpartition(b") ")[2].split()
    if len(fields) <= START_TIME_FIELD:
        raise ValueError(f"a stat file of {len(fields)} fields")
    return TaskStat(fields[0].decode(), int(fields[START_TIME_FIELD]))


def read_stat(directory: Path) -> TaskStat | None:
    """Of /proc/PID, or of one thread below it; None when it is gone."""
    try:
        return parse_stat(_read(directory / "stat", MAX_STAT_FILE))
    except (FileNotFoundError, ProcessLookupError):
        return None
    except ValueError as error:
        raise ProcessError(int(directory.name), f"has {error}") from error


def is_alive(pid: int, procfs: Path = Path("/proc")) -> bool:
    """Whether the process is there and no zombie."""
    stat = read_stat(procfs / str(pid))
    return stat is not None and not stat.is_dead


def find_cgroup_id(pid: int, cgroups_path: str = "", procfs: Path = Path("/proc"), root: Path | None = None) -> int:
    """The container's cgroup id, from a live process in it. ProcessError says why there is none.

    cgroups_path, when the runtime tells it, must lead there, so that a recycled pid is refused; of a process that moved
    below the container's cgroup it is the container's. root: where the unified hierarchy is mounted, by default looked
    for.
    """
    path = read_cgroup_path(pid, procfs)
    if not is_alive(pid, procfs):
        raise ProcessError(pid, "has exited")
    container = cut_at(path, expected_component(cgroups_path))
    if container is None:
        raise ProcessError(pid, f"is in cgroup {path}, not in the container's {cgroups_path}")
    return read_cgroup_id(pid, container, root)


def read_cgroup_id(pid: int, path: str, root: Path | None = None) -> int:
    """Of the cgroup at `path`, in which the process is; ProcessError when it cannot be found."""
    root = find_cgroup_root() if root is None else root
    if root is None:
        raise ProcessError(pid, f"is in cgroup {path}, and no cgroup v2 is mounted on {CGROUP_ROOTS[0]}")
    try:
        return os.stat(f"{root}{path}").st_ino
    except OSError as error:
        raise ProcessError(pid, f"is in cgroup {path}, which is not below {root}: {error.strerror}") from error


def read_cgroup_path(pid: int, procfs: Path = Path("/proc")) -> str:
    """The process's path in the unified hierarchy; ProcessError for one that names no container."""
    if pid <= 0:
        raise ProcessError(pid, "is no process")
    try:
        text = _read(procfs / str(pid) / "cgroup", MAX_CGROUP_FILE).decode(errors="surrogateescape")
    except OSError as error:
        raise ProcessError(pid, f"is gone: {error.strerror}") from error
    path = next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)
    if path is None:
        raise ProcessError(pid, "is in no cgroup v2")
    if path == "/":
        raise ProcessError(pid, "is in the root cgroup: it names no container")
    if path.endswith(" (deleted)"):
        raise ProcessError(pid, f"is in a cgroup that was removed, {path}")
    if "/.." in path:
        raise ProcessError(pid, f"is outside of our cgroup namespace, in {path}")
    return path


def expected_component(cgroups_path: str) -> str:
    """The directory name that a runtime's cgroupsPath leads to; under systemd's driver it is `slice:prefix:name`."""
    parts = cgroups_path.split(":")
    if len(parts) == 3 and "/" not in cgroups_path:
        return parts[2] if parts[2].endswith(".slice") else f"{parts[1]}-{parts[2]}.scope"
    return cgroups_path.rstrip("/").rpartition("/")[2]


def cut_at(path: str, component: str) -> str | None:
    """The path up to its first directory of that name; None when it has none. An empty name cuts nothing."""
    parts = path.split("/")
    if not component:
        return path
    return "/".join(parts[: parts.index(component) + 1]) if component in parts else None


def find_cgroup_root() -> Path | None:
    """Where the unified hierarchy is mounted: in its own layout, or beside version 1."""
    return next(filter(_is_cgroup2, CGROUP_ROOTS), None)


def _is_cgroup2(path: Path) -> bool:
    buffer = ctypes.create_string_buffer(STATFS_SIZE)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return int.from_bytes(buffer.raw[:8], "little") == CGROUP2_SUPER_MAGIC


def _read(path: Path, limit: int) -> bytes:
    """At most `limit` bytes, in one read: the kernel makes the text of a whole file at the first."""
    with open(path, "rb", buffering=0) as file:
        return file.read(limit) or b""
