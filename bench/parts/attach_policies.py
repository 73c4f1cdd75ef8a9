# SPDX-License-Identifier: Apache-2.0
"""Policies that look at a call and never match, on each kind of attach point that the agent chooses by itself."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.kernel.errors import KernelError
from bench._common import Say
from bench.parts.attach_figures import Batches
from bench.parts.attach_points import HOOK, LSEEK, SECURITY, Points, measure_both
from bench.parts.cells import Call, Cell, NotSelectedError
from bench.parts.policies import join_policies
from bench.parts.targets import Target
from nri_plugin.ttrpc.errors import RemoteError
from tests.support.agent import AgentProcess

COUNTS = (1, 10, 100)
SEEK, FCNTL = "ksys_lseek", "file_fcntl"
# What finds the file of a descriptor: Linux renamed it in 6.12, where it has a result that fentry cannot have.
FDGET = ("__fdget_pos", "fdget_pos")
OVERRIDE = {"action": "Override", "argError": -1}
POST = {"action": "Post"}


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of rule. family: the list of a policy's spec. hook: an entry without arguments and selectors. call: what
    reaches it; index: of the argument that is an int.
    """

    name: str
    call: Call
    family: str
    hook: Mapping[str, Any]
    index: int = 0
    action: Mapping[str, Any] = field(default_factory=lambda: POST)

    def policies(self, first: int, last: int) -> str:
        """Cluster-wide ones of these numbers, each with a value that no call has, and far from the others."""
        return join_policies(json.dumps(self._policy(number)) + "\n" for number in range(first, last))

    def _policy(self, number: int) -> dict[str, Any]:
        asked = {"index": self.index, "operator": "Equal", "values": [str(1_000_000 + 7919 * number)]}
        selector = {"matchArgs": [asked], "matchActions": [self.action]}
        hook = {**self.hook, "args": [{"index": self.index, "type": "int"}], "selectors": [selector]}
        return {
            "apiVersion": "cilium.io/v1alpha1",
            "kind": "TracingPolicy",
            "metadata": {"name": f"never-{number}"},
            "spec": {self.family: [hook]},
        }


SUBJECTS = (
    Subject("syscall", Call.HOOKED, "kprobes", {"call": LSEEK, "syscall": True}),
    Subject("tracepoint", Call.HOOKED, "tracepoints", {"subsystem": "syscalls", "event": "sys_enter_lseek"}, 5),
    *(Subject(name, Call.HOOKED, "kprobes", {"call": name, "syscall": False}) for name in FDGET),
    Subject("fentry", Call.HOOKED, "fentries", {"call": SEEK}),
    Subject("lsm", Call.CONTROL, "lsmhooks", {"hook": FCNTL}, 1),
    Subject("fmod_ret", Call.CONTROL, "kprobes", {"call": SECURITY, "syscall": False}, 1, OVERRIDE),
    Subject("syscall_override", Call.HOOKED, "kprobes", {"call": LSEEK, "syscall": True}, 0, OVERRIDE),
)
LIMITS = {"10_to_1": 1.3, "100_to_1": 2.0, "1_to_empty": 1.5, "unhooked_ratio": 1.05, "add_s.1": 8.0, "one_more_s": 8.0}
# The function of an attach point, where the agent's name of it is another.
FUNCTIONS = {"lseek": LSEEK, FCNTL: HOOK}


@dataclass(frozen=True, slots=True)
class Stage:
    """policies: how many there were. add_s: what adding the last of them took, `added` at once."""

    policies: int
    batches: Batches
    added: int
    add_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One subject. kind: what the agent attached to. bare: without an agent. empty: a program of two instructions in
    its place. one_more_s: what adding another policy took.
    """

    kind: str
    bare: Batches
    empty: Batches
    stages: tuple[Stage, ...]
    one_more_s: float


@dataclass(slots=True)
class PolicyBench:
    """batches: of each case."""

    cell: Cell
    points: Points
    calls: int
    batches: int
    tell: Say

    def measure(self, subject: Subject, counts: Sequence[int]) -> Measured:
        """Raises RemoteError when the agent refuses the policy, KernelError when the kernel does the empty program."""
        before = self._measure(subject)
        with AgentProcess("--unannounced", "report", "--cri-socket", "none") as agent:
            stages = tuple(self._stages(agent, subject, counts))
            (hook,) = agent.control.status().hooks
            one_more = _add(agent, subject, counts[-1], counts[-1] + 1)
        bare = before + self._measure(subject)
        with self.points.attach(hook.kind, FUNCTIONS.get(hook.name, hook.name)):
            empty = self._measure(subject)
        return Measured(hook.kind, bare, empty, stages, one_more)

    def _stages(self, agent: AgentProcess, subject: Subject, counts: Sequence[int]) -> Iterator[Stage]:
        done = 0
        for count in counts:
            took = _add(agent, subject, done, count)
            self._bind(agent, count)
            self.tell(f"  {subject.name}: {count} policies, the last {count - done} added in {took:.1f} s")
            yield Stage(count, self._measure(subject), count - done, took)
            done = count

    def _measure(self, subject: Subject) -> Batches:
        return measure_both(self.cell, subject.call, self.calls, self.batches)

    def _bind(self, agent: AgentProcess, policies: int) -> None:
        found = self.cell.bind(agent.socket)
        if found != policies:
            raise NotSelectedError(f"{found} policies select the process, not {policies}")


def _add(agent: AgentProcess, subject: Subject, first: int, last: int) -> float:
    """Seconds until they are in force."""
    text = subject.policies(first, last)
    began = time.monotonic()
    agent.add(text)
    return time.monotonic() - began


@dataclass(slots=True)
class Measurements:
    """By subject. refused: why a kernel has none of it."""

    found: dict[str, Measured] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def measure_policies(bench: PolicyBench, subjects: Iterable[Subject], counts: Sequence[int]) -> Measurements:
    """Each with an agent of its own: deleting a hundred policies takes longer."""
    made = Measurements()
    for subject in subjects:
        try:
            made.found[subject.name] = bench.measure(subject, counts)
        except (RemoteError, KernelError) as error:
            made.refused[subject.name] = str(error)
            bench.tell(f"  {subject.name}: {error}")
    return made


def describe_measured(measured: Measured) -> dict[str, Any]:
    """The figures of one subject, of each case the best batch; ratios whose policies were not measured are left out."""
    bare, empty = min(measured.bare.hooked), min(measured.empty.hooked)
    ns = {stage.policies: min(stage.batches.hooked) for stage in measured.stages}
    unhooked = statistics.median(min(stage.batches.unhooked) for stage in measured.stages) / min(measured.bare.unhooked)
    one = ns.get(1)
    return {
        "attached": measured.kind,
        "bare_ns": round(bare, 1),
        "empty_ns": round(empty, 1),
        "ns": {str(count): round(value, 1) for count, value in ns.items()},
        "to_bare": {str(count): round(value / bare, 2) for count, value in ns.items()},
        **({f"{count}_to_1": round(value / one, 3) for count, value in ns.items() if count > 1} if one else {}),
        **({"1_to_empty": round(one / empty, 3)} if one else {}),
        "unhooked_ratio": round(unhooked, 3),
        "add_s": {str(stage.policies): round(stage.add_s, 2) for stage in measured.stages},
        "one_more_s": round(measured.one_more_s, 2),
    }


def targets_of(subjects: Iterable[str]) -> tuple[Target, ...]:
    """What each is to reach; paths below `policies`."""
    return tuple(
        Target(f"policies.{subject}.{figure}", most) for subject in subjects for figure, most in LIMITS.items()
    )
