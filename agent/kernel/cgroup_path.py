# SPDX-License-Identifier: Apache-2.0
"""From what a runtime's configuration says of a container's cgroup (linux.cgroupsPath) to the cgroup and its init
process, where no process is named.

Theory of operation
    A runtime that drives cgroups by itself takes the text for a path below each hierarchy's root; one that asks systemd
    takes slice:prefix:name, where systemd puts the scope prefix-name.scope into the directory of the slice (runc
    libcontainer/cgroups/systemd, crun src/libcrun/cgroup-systemd.c, systemd.slice(5)). The same directory exists in the
    unified hierarchy whether that is the only one or, in the hybrid layout, one of several. crun puts the processes one
    level deeper, into the child `container`; the container's cgroup is the one above all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.kernel.errors import CgroupError
from agent.workload.identity import CgroupId

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH_MAX = 4096  # linux/limits.h, with the closing NUL
# runc's when the slice is empty; systemd's own for a scope that names none.
DEFAULT_SLICE = "system.slice"
CRUN_CHILD = "container"
# An announced container is being made: it has its init process, and for moments some of the runtime's and its hooks'.
# One that runs already and has more than this is not announced by its path.
MAX_PROCESSES = 1024
MAX_PROCS_FILE = MAX_PROCESSES * 8  # a pid has seven digits at most, and each has a line
MAX_STAT = 4096
MAX_STATUS = 1 << 20  # the line of groups alone may have 65,536 numbers


@dataclass(frozen=True, slots=True)
class AnnouncedCgroup:
    """A container's cgroup. path: from the unified hierarchy's root, as `/a/b`. nested: the process is in a child."""

    id: CgroupId
    path: str
    init_pid: int
    nested: bool = False


def candidates(cgroups_path: str) -> tuple[str, ...]:
    """The directories that a cgroups path may lead to, relative to the unified hierarchy's root, the likeliest first.

    CgroupError for one that leads to none: empty, the root itself, with `..`, longer than PATH_MAX.
    """
    _check_text(cgroups_path)
    parts = cgroups_path.split(":")
    if len(parts) == 3 and "/" not in cgroups_path:
        return _systemd_directories(*parts)
    steps = _split(cgroups_path)
    if not steps:
        raise _unusable(cgroups_path, "it names the root cgroup")
    return ("/".join(steps),)


def container_id_of(cgroups_path: str) -> str:
    """The container's id as runtimes put it into the cgroup's name, `cri-containerd-ID.scope`, `crio-ID` or ID alone;
    empty when there is none. It is what the name says, and need not be an id that the runtime knows.
    """
    name = cgroups_path.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return name.removesuffix(".scope").rpartition("-")[2]


def find_announced(root: Path, cgroups_path: str, procfs: Path = Path("/proc")) -> AnnouncedCgroup:
    """The container's cgroup below `root`, the unified hierarchy's mount, and its init process. CgroupError when there
    is no such cgroup, or no process in it.

    Of several processes the init is the one that is pid 1 of its pid namespace, or the one that started first.
    """
    for directory in candidates(cgroups_path):
        try:
            with _opened(root / directory) as fd:
                return _announced(fd, directory, procfs)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CgroupError(f"cgroup {directory} cannot be read", error.errno or 0) from error
    raise CgroupError(f"no cgroup below {root} is that of {cgroups_path!r}")


def _check_text(cgroups_path: str) -> None:
    try:
        length = len(cgroups_path.encode())
    except UnicodeEncodeError as error:
        raise _unusable(cgroups_path, "it is no UTF-8") from error
    if not length:
        raise _unusable(cgroups_path, "it is empty")
    if length >= PATH_MAX:
        raise CgroupError(f"a cgroups path of {length} bytes, the limit is {PATH_MAX - 1}")
    if "\0" in cgroups_path:
        raise _unusable(cgroups_path, "it has a NUL")


def _unusable(cgroups_path: str, reason: str) -> CgroupError:
    return CgroupError(f"cgroups path {cgroups_path!r}: {reason}")


def _split(cgroups_path: str) -> list[str]:
    steps = [step for step in cgroups_path.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise _unusable(cgroups_path, "it leads upwards")
    return steps


def _systemd_directories(slice_name: str, prefix: str, name: str) -> tuple[str, ...]:
    """Without a prefix runc and crun keep the dash; podman's own name has none."""
    text = f"{slice_name}:{prefix}:{name}"
    if not name:
        raise _unusable(text, "it names no scope")
    if name.endswith(".slice"):
        units: tuple[str, ...] = (name,)
    else:
        units = (f"{prefix}-{name}.scope",) if prefix else (f"-{name}.scope", f"{name}.scope")
    above = expand_slice(slice_name or DEFAULT_SLICE)
    return tuple(f"{above}/{unit}" if above else unit for unit in units)


def expand_slice(slice_name: str) -> str:
    """The directory of a systemd slice: a-b.slice is a.slice/a-b.slice, and -.slice the root, which is empty here."""
    name = slice_name.removesuffix(".slice")
    if name == "-" and slice_name == "-.slice":
        return ""
    steps = name.split("-")
    if name == slice_name or not all(steps) or name.startswith("."):
        raise CgroupError(f"{slice_name!r} is no slice of systemd")
    return "/".join("-".join(steps[: count + 1]) + ".slice" for count in range(len(steps)))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """A descriptor of it: what is read below it is of that very cgroup, though another may get its name."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _announced(fd: int, directory: str, procfs: Path) -> AnnouncedCgroup:
    pids, nested = _read_pids(fd, "cgroup.procs"), False
    if not pids:
        pids, nested = _read_pids(fd, f"{CRUN_CHILD}/cgroup.procs"), True
    if not pids:
        raise CgroupError(f"cgroup {directory} has no process")
    return AnnouncedCgroup(CgroupId(os.fstat(fd).st_ino), f"/{directory}", _find_init(directory, pids, procfs), nested)


def _read_pids(fd: int, name: str) -> list[int]:
    """None of a cgroup that is not there."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return []
    with open(opened, "rb") as file:
        text = file.read(MAX_PROCS_FILE + 1)
    if len(text) > MAX_PROCS_FILE:
        raise CgroupError(f"more than {MAX_PROCESSES} processes: not a container that is being made")
    pids = [int(line) for line in text.split()]
    if 0 in pids:
        # cgroup_procs_show: of a process that the reader's pid namespace does not have.
        raise CgroupError("a process of another pid namespace", 0, "run the agent in the host's")
    return pids


@dataclass(frozen=True, slots=True)
class _Process:
    """What tells an init: whether it is pid 1 of the innermost of so many pid namespaces, and when it started."""

    pid: int
    first: bool
    depth: int
    started: int


def _find_init(directory: str, pids: Iterable[int], procfs: Path) -> int:
    living = [process for pid in pids if (process := _read_process(pid, procfs)) is not None]
    if not living:
        raise CgroupError(f"cgroup {directory}: its processes have exited")
    return min(living, key=lambda process: (not process.first, process.depth, process.started, process.pid)).pid


def _read_process(pid: int, procfs: Path) -> _Process | None:
    """None for one that is gone or dead."""
    try:
        stat = _read(procfs / str(pid) / "stat", MAX_STAT)
        status = _read(procfs / str(pid) / "status", MAX_STATUS)
    except OSError:
        return None
    # proc(5): after the name, which may hold anything, comes field 3; starttime is field 22.
    fields = stat.rpartition(b") ")[2].split()
    if fields[0] in (b"Z", b"X", b"x"):
        return None
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith(b"NSpid:")), [])
    return _Process(pid, len(numbers) > 1 and numbers[-1] == b"1", len(numbers), int(fields[19]))


def _read(path: Path, limit: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(limit)
