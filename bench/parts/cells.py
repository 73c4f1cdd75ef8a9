# SPDX-License-Identifier: Apache-2.0
"""Processes that make system calls in cgroups of their own, one cgroup a process, and what a call costs there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path

from agent.kernel.mounts import cgroup2_root
from rthook.api import hook_pb2
from rthook.client import AgentClient
from tests.support.names import project_dir, unique_name
from tests.support.system import remove_cgroups

SOURCE = project_dir() / "bench/programs/calls.c"
BIND_S = 5.0
SELECTED, UNSELECTED = "selected", "unselected"  # whom policies of the benchmarks select; the namespaces, too


class Call(Enum):
    """What calls.c can call; the value is the letter that asks for it."""

    HOOKED = "h"
    UNRELATED = "u"
    TEXT = "t"
    FILE = "f"
    CONTROL = "c"


class NotSelectedError(Exception):
    """A cell is selected by another number of policies than it must be."""


class CallsEndedError(Exception):
    """The program in a cell ended instead of answering."""


class Cell:
    """One process in one cgroup, which the agent knows as a container of a pod in `namespace` once it is bound."""

    def __init__(self, program: Path, namespace: str, cpu: int) -> None:
        self.namespace = namespace
        self.name = unique_name("cell")
        self._directory = cgroup2_root() / self.name
        self._directory.mkdir()
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        (self._directory / "cgroup.procs").write_text(f"{self._process.pid}\n")
        os.sched_setaffinity(self._process.pid, {cpu})

    def bind(self, agent_socket: Path) -> int:
        """Announces the cell as a running container; gives how many policies select it."""
        container = hook_pb2.Container(
            id=self.name,
            name="calls",
            pod_name=self.name,
            pod_namespace=self.namespace,
            pid=self._process.pid,
            phase=hook_pb2.PHASE_RUNNING,
        )
        client = AgentClient(str(agent_socket), BIND_S)
        try:
            return client.bind(container).policies
        finally:
            client.close()

    def measure(self, call: Call, calls: int, batches: int) -> list[float]:
        """Nanoseconds per call, one figure a batch."""
        return [self._time(call, calls) / calls for _ in range(batches)]

    def _time(self, call: Call, calls: int) -> int:
        if self._process.stdin is None or self._process.stdout is None:
            raise CallsEndedError(f"{self.name}: no pipes")
        self._process.stdin.write(f"{call.value} {calls}\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise CallsEndedError(f"{self.name}: ended with status {self._process.wait()}")
        return int(answer)

    def close(self) -> None:
        """Ends the process and removes the cgroup."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        remove_cgroups(self.name)


@contextmanager
def open_cell(program: Path, namespace: str, cpu: int) -> Iterator[Cell]:
    """A cell that is closed at the end."""
    cell = Cell(program, namespace, cpu)
    try:
        yield cell
    finally:
        cell.close()


Cells = dict[str, Cell]


@contextmanager
def open_cells(program: Path, cpu: int) -> Iterator[Cells]:
    """One that policies select, one that they do not."""
    with ExitStack() as stack:
        yield {who: stack.enter_context(open_cell(program, who, cpu)) for who in (SELECTED, UNSELECTED)}


def bind_cells(cells: Cells, agent_socket: Path, policies: int) -> None:
    """Binding again what is bound says how many policies select it now. Raises NotSelectedError."""
    for who, cell in cells.items():
        found, wanted = cell.bind(agent_socket), policies if who == SELECTED else 0
        if found != wanted:
            raise NotSelectedError(f"{found} policies select the process that is {who}, not {wanted}")
