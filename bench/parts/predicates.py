# SPDX-License-Identifier: Apache-2.0
"""What a system call costs under many policies that all look at it and none of which matches, by what they compare."""

from __future__ import annotations

from enum import Enum
from typing import Any

from bench._common import Say
from bench.parts.cells import SELECTED, Call, Cell, Cells, bind_cells
from bench.parts.policies import filter_policy, join_policies
from bench.parts.samples import BATCHES, NONE, POLICIES, Case, Samples
from tests.support.agent import AgentProcess


class Predicate(Enum):
    """int: a descriptor is equal. prefix: a string in the process's memory begins with. path: the path of an open file,
    as the kernel has it, begins with. Each value: the call, the argument's type, the operator, and who makes the call.
    """

    INT = ("lseek", "int", "Equal", Call.HOOKED)
    PREFIX = ("access", "string", "Prefix", Call.TEXT)
    PATH = ("lseek", "fd", "Prefix", Call.FILE)

    @property
    def call(self) -> Call:
        return self.value[3]

    @property
    def label(self) -> str:
        return self.name.lower()

    def policies(self, count: int) -> str:
        """All of them different, and none of them met by what calls.c does."""
        call, kind, operator, _ = self.value
        return join_policies(
            filter_policy(f"never-{n}", SELECTED, call, kind, operator, [self._never(n)], "Post") for n in range(count)
        )

    def _never(self, number: int) -> str:
        return str(1_000_000 + number) if self is Predicate.INT else f"/usr/share/never/{number:04}/"


def measure_predicates(cells: Cells, calls: int, rounds: int, tell: Say) -> Samples:
    """Each round goes through all predicates, without podgate and with 1, 10 and 100 policies."""
    samples = Samples()
    for number in range(rounds):
        tell(f"  round {number + 1} of {rounds}")
        for predicate in Predicate:
            _measure(samples, Case(predicate.label, NONE), cells[SELECTED], predicate.call, calls)
        for predicate in Predicate:
            with AgentProcess("--unannounced", "report", "--cri-socket", "none") as agent:
                _measure_predicate(samples, cells, agent, predicate, calls)
    return samples


def _measure_predicate(samples: Samples, cells: Cells, agent: AgentProcess, predicate: Predicate, calls: int) -> None:
    for count in POLICIES:
        agent.add(predicate.policies(count))
        bind_cells(cells, agent.socket, count)
        for who, cell in cells.items():
            _measure(samples, Case(predicate.label, str(count), who), cell, predicate.call, calls)


def _measure(samples: Samples, case: Case, cell: Cell, call: Call, calls: int) -> None:
    samples.add(case, cell.measure(call, calls, BATCHES))


def added(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What policies add to the bare call: predicate → policies → who → nanoseconds."""
    return {
        predicate: {
            count: {who: round(ns - row[NONE], 1) for who, ns in figures.items()}
            for count, figures in row.items()
            if count != NONE
        }
        for predicate, row in table.items()
    }
