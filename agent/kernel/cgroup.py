# SPDX-License-Identifier: Apache-2.0
"""Which cgroup a process is in, asked of the kernel: /proc/<pid>/cgroup names it, the directory's inode number is its
id.

On 64-bit kernels from 5.5 the inode number of a cgroup v2 directory is kernfs_node.id, the number that
bpf_get_current_cgroup_id() gives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.errors import CgroupError
from agent.workload.identity import CgroupId

INIT_PID_NS = 0xEFFFFFFC  # PROC_PID_INIT_INO
SWITCHES = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")  # lines of /proc/<pid>/status
MAX_CGROUP_FILE = 65536  # /proc/<pid>/cgroup: some 15 hierarchies with a path of at most PATH_MAX each


@dataclass(frozen=True, slots=True)
class ProcessCgroup:
    """nested: the process is not in this cgroup itself but below it."""

    id: CgroupId
    path: str  # from the hierarchy's root, as the agent sees it
    nested: bool = False


def parse_proc_cgroup(text: str) -> str | None:
    """The path in the unified hierarchy, the line `0::PATH` (cgroups(7)); a removed cgroup's path ends in `
    (deleted)`.
    """
    for line in text.splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None


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


class CgroupFinder:
    """Finds cgroups below one mount of the unified hierarchy. procfs: where the host's /proc is."""

    def __init__(self, root: Path, procfs: Path = Path("/proc")) -> None:
        self._root = root
        self._procfs = procfs

    def of_process(self, pid: int, cgroups_path: str = "") -> ProcessCgroup:
        """The cgroup of a live process. cgroups_path, when the runtime tells it, must lead there: a recycled pid is
        refused, and of a process that moved below the container's cgroup (an init system does) it is the container's.
        """
        path = self._path(pid)
        container = cut_at(path, expected_component(cgroups_path))
        if container is None:
            raise CgroupError(f"process {pid} is in cgroup {path}, not in the container's {cgroups_path}")
        return ProcessCgroup(self._id(container), container, container != path)

    def own(self) -> ProcessCgroup:
        path = self._read(os.getpid())
        return ProcessCgroup(self._id(path), path)

    def of_any(self, pid: int) -> ProcessCgroup:
        """The cgroup of any live process, the host's included; the root cgroup has the path `/`."""
        path = self._read(pid)
        return ProcessCgroup(self._id(path), path)

    def id_of(self, path: str) -> CgroupId:
        """path: from the hierarchy's root."""
        return self._id(path)

    def progress(self, pid: int) -> tuple[int, ...] | None:
        """Changes when a process has done anything: device and inode of its executable, and how often its main thread
        was scheduled away (proc(5), /proc/<pid>/status). None when it is gone.
        """
        try:
            image = os.stat(self._procfs / str(pid) / "exe")
            status = (self._procfs / str(pid) / "status").read_text(errors="replace")
        except OSError:
            return None
        switches = (line.rpartition(":")[2] for line in status.splitlines() if line.startswith(SWITCHES))
        return (image.st_dev, image.st_ino, *map(int, switches))

    def still_there(self, pid: int, cgroup: ProcessCgroup) -> bool:
        """True while the process lives (a zombie does not) in that very cgroup, or below it."""
        try:
            inside = f"{self._read(pid)}/".startswith(f"{cgroup.path}/")
            return inside and self._id(cgroup.path) == cgroup.id and not self._is_zombie(pid)
        except CgroupError:
            return False

    def _path(self, pid: int) -> str:
        if pid <= 0:
            raise CgroupError(f"no init process is named (pid {pid})")
        path = self._read(pid)
        if path == "/":
            raise CgroupError(f"process {pid} is in the root cgroup: it names no container")
        if "/.." in path:
            raise CgroupError(
                f"process {pid} is outside of the agent's cgroup namespace", 0, "run the agent in the host's"
            )
        if self._is_zombie(pid):
            raise CgroupError(f"process {pid} has exited")
        return path

    def _read(self, pid: int) -> str:
        try:
            with open(self._procfs / str(pid) / "cgroup", "rb", buffering=0) as file:
                text = file.read(MAX_CGROUP_FILE).decode(errors="surrogateescape")
        except OSError as error:
            raise CgroupError(f"process {pid} is gone", error.errno or 0) from error
        path = parse_proc_cgroup(text)
        if path is None:
            raise CgroupError(f"process {pid} is in no cgroup v2", 0, "the node needs the unified hierarchy mounted")
        if path.endswith(" (deleted)"):
            raise CgroupError(f"the cgroup {path} of process {pid} was removed")
        return path

    def _is_zombie(self, pid: int) -> bool:
        try:
            with open(self._procfs / str(pid) / "stat", "rb", buffering=0) as file:
                stat = file.read(4096)
        except OSError as error:
            raise CgroupError(f"process {pid} is gone", error.errno or 0) from error
        return stat.rpartition(b") ")[2][:1] in (b"Z", b"X", b"x")

    def _id(self, path: str) -> CgroupId:
        try:
            return CgroupId(os.stat(f"{self._root}{path}").st_ino)
        except OSError as error:
            raise CgroupError(f"cgroup {path} is not below {self._root}", error.errno or 0) from error
