# SPDX-License-Identifier: Apache-2.0
"""The base programs of bpf/base/base.c: loaded once, attached to raw tracepoints, pinned."""

from __future__ import annotations

import os
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.cgroup import CgroupFinder
from agent.kernel.errors import KernelError
from agent.kernel.loader import BPF_SOURCES, Loader, ProgramSource
from agent.kernel.maps import Maps, read_selfcheck

ATTACHED = {"pg_cgroup_mkdir": "cgroup_mkdir", "pg_cgroup_release": "cgroup_release", "pg_exec": "sched_process_exec"}
SELF = "pg_self"


class BasePrograms:
    """Owns the links; what is pinned stays when the agent goes."""

    def __init__(self, links: dict[str, bpf.Fd], selfcheck: bpf.Fd) -> None:
        self._links = links
        self._selfcheck = selfcheck

    @classmethod
    def attach(cls, loader: Loader, pins: Path) -> BasePrograms:
        text = (BPF_SOURCES / "base" / "base.c").read_text()
        programs = loader.load(ProgramSource(text, dict.fromkeys((*ATTACHED, SELF), bpf.ProgType.RAW_TRACEPOINT)))
        links = {}
        for name, tracepoint in ATTACHED.items():
            with programs[name] as program:
                links[name] = bpf.open_raw_tracepoint(tracepoint, program.fileno())
            bpf.pin(links[name].fileno(), str(pins / tracepoint))
        return cls(links, programs[SELF])

    def check_identity(self, maps: Maps, finder: CgroupFinder) -> None:
        """Compares what BPF sees of this process with what /proc and the cgroup directory say: other ids would guard
        other processes.
        """
        bpf.run_raw_tracepoint(self._selfcheck.fileno())
        cgroup, tgid = read_selfcheck(maps)
        if tgid != os.getpid():
            raise KernelError(
                f"BPF sees this process as pid {tgid}, not {os.getpid()}",
                0,
                "run the agent in the host's pid namespace",
            )
        own = finder.own()
        if cgroup != own.id:
            raise KernelError(
                f"BPF sees cgroup id {cgroup}, the directory {own.path} has {own.id}",
                0,
                "run the agent in the host's cgroup namespace",
            )

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._selfcheck.close()
