# SPDX-License-Identifier: Apache-2.0
"""Programs run as a container's held init process runs its hooks, and what each of them took (programs/launch.c)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.mounts import cgroup2_root
from tests.support.image import compile_program
from tests.support.names import project_dir
from tests.support.system import remove_cgroups

SOURCE = project_dir() / "bench/programs/launch.c"


class LauncherError(Exception):
    """The launcher has ended instead of answering."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, from before its fork until it was waited for. status: its exit code; below 0, a signal."""

    status: int
    wall_ms: float
    cpu_ms: float
    rss_kib: int


def parse_usage(line: str) -> Usage:
    """ValueError for a line that is no answer of launch.c."""
    status, wall_ns, cpu_us, rss_kib = map(int, line.split())
    return Usage(os.waitstatus_to_exitcode(status), wall_ns / 1e6, cpu_us / 1e3, rss_kib)


class Launcher:
    """programs: each a command line. state: the file that they read. It lives in the cgroup from its start on."""

    def __init__(self, program: Path, cgroup: Path, state: Path, programs: Sequence[Sequence[str]]) -> None:
        words = [word for each in programs for word in ("--", *each)][1:]
        self._process = subprocess.Popen(
            [program, cgroup / "cgroup.procs", state, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, number: int) -> Usage:
        """Once; number: the program's place."""
        if self._process.stdin is None or self._process.stdout is None:
            raise LauncherError("no pipes")
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise LauncherError(f"ended with status {self._process.wait()}")
        return parse_usage(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def open_launcher(folder: Path, name: str, state: Path, programs: Sequence[Sequence[str]]) -> Iterator[Launcher]:
    """folder: where it is compiled to. name: of its cgroup, which is removed at the end."""
    compile_program(SOURCE, folder / "launch")
    directory = cgroup2_root() / name
    directory.mkdir()
    try:
        launcher = Launcher(folder / "launch", directory, state, programs)
        try:
            yield launcher
        finally:
            launcher.close()
    finally:
        remove_cgroups(name)
