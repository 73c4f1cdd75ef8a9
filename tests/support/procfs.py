# SPDX-License-Identifier: Apache-2.0
"""A node's /proc, cgroup hierarchy and root directory made of files, for what reads them by path."""

from __future__ import annotations

from pathlib import Path

from agent.kernel.cgroup import CgroupFinder

HOST_PID_NAMESPACE = "pid:[4026531836]"


class FakeNode:
    """procfs: what stands for /proc. host: the host's root directory, which pid 1 has."""

    def __init__(self, folder: Path) -> None:
        self.cgroups, self.procfs, self.host = folder / "cgroup", folder / "proc", folder / "host"
        for path in (self.cgroups, self.procfs, self.host):
            path.mkdir()
        self.finder = CgroupFinder(self.cgroups, self.procfs)
        self.process(1, "/init.scope", parent=0)
        self.namespace("self", HOST_PID_NAMESPACE)
        (self.procfs / "self/root").symlink_to(self.host)

    def cgroup(self, path: str) -> int:
        """Its id."""
        directory = Path(f"{self.cgroups}{path}")
        directory.mkdir(parents=True, exist_ok=True)
        return directory.stat().st_ino

    def process(self, pid: int, cgroup: str, *, parent: int = 1, state: str = "S", root: Path | None = None) -> None:
        folder = self.procfs / str(pid)
        folder.mkdir(exist_ok=True)
        self.cgroup(cgroup)
        (folder / "cgroup").write_text(f"12:cpu:/old\n0::{cgroup}\n")
        (folder / "stat").write_text(f"{pid} (a) 7 (b) {state} {parent} 1 1")
        link = folder / "root"
        link.unlink(missing_ok=True)
        link.symlink_to(root or self.host)
        self.namespace(str(pid), HOST_PID_NAMESPACE)

    def namespace(self, process: str, text: str) -> None:
        link = self.procfs / process / "ns/pid"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(text)
