# SPDX-License-Identifier: Apache-2.0
"""Containers without a runtime: cgroups with a process, announced as a hook would, and programs that run there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.kernel.mounts import cgroup2_root
from agent.policy.syscalls import NUMBERS
from rthook.api import hook_pb2
from rthook.client import AgentClient
from tests.support import system
from tests.support.agent import AgentProcess
from tests.support.names import project_dir, unique_name
from tests.support.patience import PATIENCE
from tests.support.wait import wait_until

RUN_S = 20.0 * PATIENCE
HELD = hook_pb2.PHASE_HELD
RUNNING = hook_pb2.PHASE_RUNNING


def build_calls(folder: Path) -> Path:
    """Compiles programs/calls.c, static."""
    source = project_dir() / "tests/support/programs/calls.c"
    target = folder / "calls"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", target, source], check=True)
    return target


def build_first(folder: Path) -> tuple[Path, Path]:
    """Compiles programs/first.c: the program, and the file that it makes with its first instructions."""
    source = project_dir() / "tests/support/programs/first.c"
    target, made = folder / "first", folder / "made"
    define = f'-DFIRST="{made}"'
    subprocess.run(["gcc", "-Wall", "-Werror", "-static", "-nostdlib", define, "-o", target, source], check=True)
    return target, made


def number_of(syscall: str) -> str:
    return str(NUMBERS[syscall])


def step(syscall: str, *args: int | str | bytes) -> list[str]:
    """One step of calls.c: numbers, texts and buffers; a str that begins with e:, f:, x: or r: stays as it is."""
    return [number_of(syscall), *map(_argument, args)]


def _argument(arg: int | str | bytes) -> str:
    if isinstance(arg, bytes):
        return f"b:{arg.hex()}"
    if isinstance(arg, int):
        return f"i:{arg}"
    return arg if arg[:2] in ("e:", "f:", "x:", "r:") else f"s:{arg}"


def steps(*parts: Sequence[str]) -> list[str]:
    """Steps one after the other."""
    words: list[str] = []
    for part in parts:
        words += [*(["--"] if words else []), *part]
    return words


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that was run: status is negative for a signal, results are those of its system calls, in order."""

    pid: int
    status: int
    results: tuple[int, ...]
    errors: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Running:
    """A calls process that has been started and waits on its standard input for `go`."""

    def __init__(self, program: Path, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def await_waiting(self) -> tuple[int, ...]:
        """Until it has printed "waiting"; the results until then."""
        results: list[int] = []
        out = self._process.stdout
        while out and (line := out.readline()):
            if line == "waiting\n":
                return tuple(results)
            results.append(int(line))
        raise AssertionError(f"ended with {self._process.wait()}: {self._process.communicate()}")

    def go(self) -> None:
        """Lets it go on beyond one `wait`."""
        if self._process.stdin:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """Leaves a zombie until `end`."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not system.is_running(self.pid), RUN_S, f"process {self.pid} to be a zombie")

    def end(self) -> Ended:
        """Waits for its end; what `wait`s still gets an end of file."""
        try:
            out, errors = self._process.communicate(timeout=RUN_S)
        finally:
            self.close()
        results = tuple(int(line) for line in out.splitlines() if line != "waiting")
        return Ended(self.pid, self._process.returncode, results, errors)

    def close(self) -> None:
        """Whatever it does still."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


class Cgroup:
    """A cgroup of the unified hierarchy with a name of its own, removed with all below it at the end."""

    def __init__(self, program: Path, parent: Path | None = None) -> None:
        self.path = (parent or cgroup2_root()) / unique_name("group")
        self.path.mkdir()
        self._program = program
        self._started: list[Running] = []

    @property
    def id(self) -> int:
        return self.path.stat().st_ino

    def child(self, *names: str) -> Path:
        """A nested cgroup, made if it is not there."""
        path = self.path.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, words: Sequence[str], at: Path | None = None) -> Running:
        running = Running(self._program, [str(at or self.path), *words])
        self._started.append(running)
        return running

    def put(self, pid: int, at: Path | None = None) -> None:
        """Moves a process into this cgroup or one below it, as a runtime does."""
        ((at or self.path) / "cgroup.procs").write_text(str(pid))

    def run(self, words: Sequence[str], at: Path | None = None) -> Ended:
        """Runs calls in this cgroup or one below it."""
        return self.start(words, at).end()

    def call(self, syscall: str, *args: int | str | bytes) -> Ended:
        return self.run(step(syscall, *args))

    def remove(self) -> None:
        for running in self._started:
            running.close()
        system.kill_processes(system.cgroup_members(self.path))
        wait_until(self._remove, 10.0, f"{self.path} to be empty")

    def _remove(self) -> bool:
        for folder, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Identity:
    """What a hook says of a container beside its process."""

    namespace: str = "default"
    labels: tuple[tuple[str, str], ...] = ()
    pod: str = "pod"
    name: str = "main"


class Node:
    """An agent and what is announced to it."""

    def __init__(self, agent: AgentProcess, program: Path) -> None:
        self.agent = agent
        self.program = program
        self.hook = AgentClient(str(agent.socket), 20.0)

    def announce(self, pid: int, identity: Identity, phase: int = RUNNING, /, **fields: Any) -> hook_pb2.BindResponse:
        """Bind; fields override those of the message. Raises AgentRefused."""
        return self.hook.bind(message(pid, identity, phase, **fields))

    @contextmanager
    def cgroup(self) -> Iterator[Cgroup]:
        group = Cgroup(self.program)
        try:
            yield group
        finally:
            group.remove()

    @contextmanager
    def container(
        self, namespace: str = "default", labels: Mapping[str, str] | None = None, pod: str = "pod"
    ) -> Iterator[Cgroup]:
        """A bound cgroup; its container id is the cgroup's name."""
        with self.cgroup() as group:
            placeholder = group.start(["wait"])
            placeholder.await_waiting()
            self.announce(placeholder.pid, Identity(namespace, tuple((labels or {}).items()), pod), id=group.path.name)
            try:
                yield group
            finally:
                self.hook.unbind(group.path.name)
                placeholder.end()

    def host(self, words: Sequence[str]) -> Ended:
        """Runs calls in no container."""
        return Running(self.program, ["-", *words]).end()

    def clear(self) -> None:
        """Deletes every policy."""
        names = [(status.name, status.namespace) for status in self.agent.control.list().policies]
        if names:
            self.agent.control.delete_all(names)

    def counter(self, name: str) -> int:
        return int(self.agent.control.status().counters[name])

    def add(self, *policies: Mapping[str, Any]) -> None:
        """Puts policies in force, all in one compilation. Raises RemoteError."""
        self.agent.add("\n---\n".join(map(json.dumps, policies)))

    def close(self) -> None:
        self.hook.close()


@contextmanager
def start_node(program: Path, *options: str) -> Iterator[Node]:
    """An agent of its own with these command line options."""
    with AgentProcess(*options) as agent:
        node = Node(agent, program)
        try:
            yield node
        finally:
            node.close()


@contextmanager
def outside(program: Path, words: Sequence[str]) -> Iterator[Running]:
    """A process of no container that waits for the first time."""
    running = Running(program, ["-", "wait", "--", *words])
    try:
        running.await_waiting()
        yield running
    finally:
        running.close()


def message(pid: int, identity: Identity, phase: int = RUNNING, /, **fields: Any) -> hook_pb2.Container:
    """The announcement of a container; fields override."""
    known: dict[str, Any] = {
        "id": unique_name("id"),
        "name": identity.name,
        "pod_name": identity.pod,
        "pod_namespace": identity.namespace,
        "pod_labels": dict(identity.labels),
        "pid": pid,
        "phase": phase,
    }
    return hook_pb2.Container(**(known | fields))


KILL = ({"action": "Sigkill"},)
POST = ({"action": "Post"},)


def match(index: int, operator: str, *values: int | str) -> dict[str, Any]:
    return {"index": index, "operator": operator, "values": [str(value) for value in values]}


def selector(*matches: Mapping[str, Any], actions: Sequence[Mapping[str, Any]] = KILL) -> dict[str, Any]:
    return {"matchArgs": list(matches), "matchActions": list(actions)}


def kprobe(call: str, args: Mapping[int, str], *selectors: Mapping[str, Any]) -> dict[str, Any]:
    """args: index to type; char_buf:N has its length in argument N (from 0, as in args)."""
    return {"call": call, "args": [_declare(index, kind) for index, kind in args.items()], "selectors": list(selectors)}


def _declare(index: int, kind: str) -> dict[str, Any]:
    kind, _, size = kind.partition(":")
    return {"index": index, "type": kind} | ({"sizeArgIndex": int(size) + 1} if size else {})


def policy(
    name: str, *kprobes: Mapping[str, Any], namespace: str | None = None, pods: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A policy document: namespaced when a namespace is given, else cluster-wide; pods is its podSelector."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    spec = {"kprobes": list(kprobes)} | ({"podSelector": pods} if pods is not None else {})
    kind = "TracingPolicyNamespaced" if namespace else "TracingPolicy"
    return {"apiVersion": "cilium.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def lseek_policy(
    name: str, *matches: Mapping[str, Any], actions: Sequence[Mapping[str, Any]] = KILL, **where: Any
) -> dict[str, Any]:
    """lseek(int fd, ...): by default -1 is killed."""
    return policy(
        name, kprobe("lseek", {0: "int"}, selector(*(matches or (match(0, "Equal", -1),)), actions=actions)), **where
    )
