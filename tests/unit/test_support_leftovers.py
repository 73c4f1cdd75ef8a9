# SPDX-License-Identifier: Apache-2.0
"""The guard against leftovers sees what this session made and not what another one works with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import system
from tests.support.leftovers import collect_leftovers, is_foreign
from tests.support.names import unique_name


def test_directory_is_seen_and_gone_after_removal() -> None:
    folder = Path("/tmp") / unique_name("guard")
    folder.mkdir()
    try:
        assert f"directory {folder}" in collect_leftovers()
    finally:
        folder.rmdir()
    assert f"directory {folder}" not in collect_leftovers()


def test_child_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert any(line.startswith(f"child process {child.pid}:") for line in collect_leftovers())
        child.kill()
    assert not any(line.startswith(f"child process {child.pid}:") for line in collect_leftovers())


@pytest.mark.container
def test_mount_and_cgroup_are_seen() -> None:
    name = unique_name("guard")
    folder, cgroup = Path("/tmp") / name, system.cgroup_roots()[0] / name
    folder.mkdir()
    cgroup.mkdir()
    system.mount("tmpfs", folder, "tmpfs")
    try:
        assert {f"mount {folder}", f"cgroup {cgroup}"} <= collect_leftovers()
    finally:
        system.unmount_below(folder)
        folder.rmdir()
        system.remove_cgroups(name)
    assert not {line for line in collect_leftovers() if name in line}


def test_only_a_live_owner_other_than_ourselves_is_foreign() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        line = f"mount /tmp/podgate-node-{other.pid}-0-x/state"
        assert is_foreign(line)
        other.kill()
    assert not is_foreign(line)
    assert not is_foreign(f"mount /tmp/podgate-node-{os.getpid()}-0-x/state")
    assert not is_foreign("pin /sys/fs/bpf/podgate")
