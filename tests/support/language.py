# SPDX-License-Identifier: Apache-2.0
"""Policies of every kind of hook, and the program of tests/support/programs/subject.c that they are tried on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.api import control_pb2
from tests.support.agent import EventReader
from tests.support.names import project_dir
from tests.support.wait import DeadlineError
from tests.support.workload import Cgroup, Node, step

Document = dict[str, Any]
FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")
MARKER_S = 3.0
MARK = -77_001  # a descriptor that only markers use


def build_subject(folder: Path) -> Path:
    """With its symbols, and with frame pointers, by which the kernel walks a stack."""
    source, target = project_dir() / "tests/support/programs/subject.c", folder / "subject"
    subprocess.run(["gcc", *FLAGS, "-o", target, source], check=True)
    return target


def document(name: str, namespace: str | None = None, **spec: Any) -> Document:
    """A policy: namespaced when a namespace is given, else cluster-wide."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    kind = "TracingPolicyNamespaced" if namespace else "TracingPolicy"
    return {"apiVersion": "cilium.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def act(action: str, **parameters: Any) -> dict[str, Any]:
    return {"action": action} | parameters


def arg(index: int, kind: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index} | ({"type": kind} if kind else {}) | fields


def condition(index: int, operator: str, *values: int | str) -> dict[str, Any]:
    return {"index": index, "operator": operator} | ({"values": [str(value) for value in values]} if values else {})


class Subject:
    """A process of the program that does what it is told."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.pid = self._process.pid
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def do(self, line: str) -> str:
        """What it prints; nothing when it has ended."""
        try:
            self.say(line)
        except BrokenPipeError:
            return ""
        return self._read()

    def stop_storm(self) -> tuple[int, int]:
        """(calls, signals that came)"""
        calls, signals = self.do("").split()
        return int(calls), int(signals)

    def end(self) -> int:
        """Its status."""
        try:
            self._close_input()
            return self._process.wait(20)
        finally:
            self.close()

    def _close_input(self) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # what it did not read any more goes with it
            self._process.stdin.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close_input()
        if self._process.stdout:
            self._process.stdout.close()


@contextmanager
def subject(program: Path, group: Cgroup | None = None) -> Iterator[Subject]:
    """In a container, or of the host."""
    process = Subject(program)
    try:
        if group:
            assert process.do(f"enter {group.path}") == "entered"
        yield process
    finally:
        process.close()


def marker_policy() -> Document:
    """Makes an event of a host process's lseek(MARK)."""
    hook = {
        "call": "lseek",
        "args": [arg(0, "int")],
        "selectors": [{"matchArgs": [condition(0, "Equal", MARK)]}],
    }
    return document("marker", kprobes=[hook])


class Heard:
    """The events of one reader, and the knowledge that all of a process's have come."""

    def __init__(self, node: Node, reader: EventReader) -> None:
        self._node = node
        self._reader = reader

    def one(self, pid: int) -> dict[str, Any]:
        """The first event of a process."""
        return first_of(self._reader, pid)

    def all(self, pid: int) -> list[dict[str, Any]]:
        """Of a process that does nothing any more. Needs the policy of `marker_policy`."""
        await_marker(self._node, self._reader)
        return [event for event in self._reader.all() if _pid(event) == pid and event["type"] == "policy"]

    def by_policy(self, pid: int) -> list[str]:
        return [event["policy"]["name"] for event in self.all(pid)]


def await_marker(node: Node, reader: EventReader) -> None:
    """Until the events of all that was done before are there. A kernel that can be preempted now and then passes a
    hook by (tests/vm/test_passed_by.py): then that of the marker's policy is met once more.
    """
    for last in (False, False, True):
        pid = node.host(step("lseek", MARK, 0, 0)).pid
        try:
            first_of(reader, pid, MARKER_S)
            return
        except DeadlineError:
            if last:
                raise


def first_of(reader: EventReader, pid: int, deadline_s: float = 10.0) -> dict[str, Any]:
    """The first event of a process, waited for."""
    return reader.find(lambda event: _pid(event) == pid, deadline_s)


def _pid(event: Mapping[str, Any]) -> int | None:
    process = event.get("process")
    return process["pid"] if process else None


@contextmanager
def hearing(node: Node) -> Iterator[Heard]:
    with EventReader(node.agent.run_dir) as reader:
        yield Heard(node, reader)


def status_of(node: Node, name: str) -> control_pb2.PolicyStatus:
    return next(status for status in node.agent.control.list().policies if status.name == name)


def counts(node: Node, name: str) -> dict[str, int]:
    """What a policy's rules did."""
    return {action: int(count) for action, count in status_of(node, name).actions.items()}


def selector_counts(node: Node, name: str) -> dict[tuple[str, int, bool], dict[str, int]]:
    """By (where, selector, at the return)."""
    return {
        (one.function, one.selector, one.at_return): {action: int(n) for action, n in one.actions.items()}
        for one in status_of(node, name).selectors
    }


def values(event: Mapping[str, Any], where: str = "args") -> Sequence[Any]:
    return [value.get("value") for value in event[where]]


def set_mode(node: Node, name: str, namespace: str, mode: str) -> None:
    """Raises RemoteError."""
    node.agent.control.set_mode(name, namespace, mode)
