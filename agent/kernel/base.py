# SPDX-License-Identifier: Apache-2.0
"""The base programs of bpf/base: loaded once as one unit, attached to raw tracepoints, pinned."""

from __future__ import annotations

import os

from agent.kernel import bpf
from agent.kernel.cgroup import CgroupFinder
from agent.kernel.errors import KernelError
from agent.kernel.loader import BPF_SOURCES, Loader, ProgramForm, ProgramSource
from agent.kernel.maps import Maps, read_selfcheck
from agent.kernel.pins import Pins

# pg_exec stands before pg_door: what is armed by an execve is known when the door looks.
ATTACHED = {
    "pg_cgroup_mkdir": "cgroup_mkdir",
    "pg_watch_cgroup": "cgroup_mkdir",
    "pg_cgroup_release": "cgroup_release",
    "pg_forget_cgroup": "cgroup_release",
    "pg_cgroup_attach": "cgroup_attach_task",
    "pg_fork": "sched_process_fork",
    "pg_exit": "sched_process_exit",
    "pg_exec": "sched_process_exec",
    "pg_door": "sched_process_exec",
}
SOURCES = ("base.c", "doors.c")
SELF = "pg_self"
QUARANTINE = "pg_quarantine"
QUARANTINE_PIN = "quarantine"  # in the pin directory, where the hooks look for it


def _unit() -> str:
    """One text, in which each file keeps its own line numbers: bcc finds programs in its main file only."""
    return "\n".join(_numbered(name, (BPF_SOURCES / "base" / name).read_text()) for name in SOURCES)


def _numbered(name: str, text: str) -> str:
    """bcc puts a line of attributes before each function: those inside of it are counted from its brace on."""
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), 1):
        lines += [line, f"#line {number + 1}"] if line == "{" else [line]
    return "\n".join(lines)


class BasePrograms:
    """Owns the links; what is pinned stays when the agent goes."""

    def __init__(self, links: dict[str, bpf.Fd], selfcheck: bpf.Fd, quarantine: bpf.Fd) -> None:
        self._links = links
        self._selfcheck = selfcheck
        self._quarantine = quarantine

    @classmethod
    def attach(cls, loader: Loader, pins: Pins) -> BasePrograms:
        names = (*ATTACHED, SELF, QUARANTINE)
        forms = dict.fromkeys(names, ProgramForm(bpf.ProgType.RAW_TRACEPOINT))
        programs = loader.load(ProgramSource(_unit(), forms, thorough=True))
        links = {}
        for name, tracepoint in ATTACHED.items():
            with programs[name] as program:
                links[name] = bpf.open_raw_tracepoint(tracepoint, program.fileno())
            bpf.pin(links[name].fileno(), str(pins.links / name.removeprefix("pg_")))
        return cls(links, programs[SELF], programs[QUARANTINE])

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

    def offer_quarantine(self, pins: Pins) -> None:
        """From now on hooks may put containers into quarantine here: the policies that it stands for are in force."""
        bpf.pin(self._quarantine.fileno(), str(pins.directory / QUARANTINE_PIN))

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._selfcheck.close()
        self._quarantine.close()
