# SPDX-License-Identifier: Apache-2.0
"""Processes, mounts and cgroups, read and removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import system
from tests.support.wait import DeadlineError, wait_until

MOUNTS = r"""/dev/vda / ext4 rw 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
tmpfs /tmp/with\040space tmpfs rw 0 0
"""


def start_sleeper(marker: str) -> subprocess.Popen[bytes]:
    """A process that waits for the end of its input and has `marker` in its command line."""
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", marker], stdin=subprocess.PIPE)


def test_mount_points_lose_their_escapes() -> None:
    assert system.parse_mount_points(MOUNTS) == ["/", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified", "/tmp/with space"]


def test_cgroup_roots_are_those_of_both_versions() -> None:
    roots = [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/unified")]
    assert system.parse_cgroup_roots(MOUNTS) == roots


def test_mounts_below_a_folder_come_innermost_first() -> None:
    points = system.mounts_below(Path("/proc"))
    assert points[-1] == "/proc"
    assert "/" not in points


def test_process_is_found_by_a_marker_and_killed(tmp_path: Path) -> None:
    marker = str(tmp_path / "marker")
    with start_sleeper(marker) as process:
        wait_until(lambda: system.find_processes(marker) == [process.pid], 5, "the process to show its command line")
        system.kill_processes([process.pid])
        assert not system.is_running(process.pid)
    assert system.find_processes(marker) == []


def test_killing_what_is_gone_is_no_error() -> None:
    with start_sleeper("gone") as process:
        process.kill()
    system.kill_processes([process.pid])
    assert not system.is_running(process.pid)


def test_own_process_runs_and_is_not_found_by_marker() -> None:
    assert system.is_running(os.getpid())
    assert os.getpid() not in system.find_processes("python")


def test_cgroup_that_nobody_made_is_removed_without_error() -> None:
    system.remove_cgroups("podgate-absent")
    assert system.cgroup_trees("podgate-absent") == []


def test_tree_that_stays_busy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busy" / "file").mkdir(parents=True)
    (tmp_path / "busy" / "memory.stat").touch()  # rmdir of a plain directory fails like that of a used cgroup
    monkeypatch.setattr(system, "cgroup_roots", lambda: [tmp_path])
    with pytest.raises(DeadlineError, match="busy to be empty"):
        system.remove_cgroups("busy", deadline_s=0.05)


def test_unmount_of_what_is_no_mount_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path)):
        system.unmount(tmp_path)


@pytest.mark.container
def test_mounts_below_a_folder_are_all_taken_away(tmp_path: Path) -> None:
    system.mount("tmpfs", tmp_path, "tmpfs")
    (tmp_path / "inner").mkdir()
    system.mount("tmpfs", tmp_path / "inner", "tmpfs")
    assert system.mounts_below(tmp_path) == [f"{tmp_path}/inner", str(tmp_path)]
    system.unmount_below(tmp_path)
    assert system.mounts_below(tmp_path) == []
