# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder play on: a node with agent, plugin and event reader, its pods, and policies as text."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.agent import AgentProcess, EventReader, PluginProcess
from tests.support.cri import Container, ContainerSpec, Pod, PodSpec
from tests.support.image import BUSYBOX, FIRST, Image
from tests.support.node import Node
from tests.support.wait import wait_until

KILLED = 128 + signal.SIGKILL
# What the first-instruction program prints when nothing stops its call.
NOT_STOPPED = "Bad file descriptor\n"
# Exit code and output of that program.
STOPPED = (KILLED, "")
FREE = (0, NOT_STOPPED)
# Busybox and the first-instruction program: for violations by a process that a container starts later.
TOOLS = Image("localhost/tools:1", (), {**BUSYBOX.programs, **FIRST.programs}, BUSYBOX.links)
VIOLATE = ContainerSpec(image=FIRST.reference)
SLEEP = ContainerSpec(name="sleeper", image=TOOLS.reference, command=("sleep", "1000"))
# Calls /first when it is told to (`release`); its exit code is that of /first.
ON_DEMAND = "until [ -e /tmp/go ]; do usleep 20000; done; /first"
WAITING = ContainerSpec(name="waiting", image=TOOLS.reference, command=("busybox", "sh", "-c", ON_DEMAND))
SETTLE_S = 60.0
# Records that a pod has by itself: its own cgroup's and its pause container's.
RECORDS_OF_POD = 2
# Of all nodes together: a pod's name is part of its log's path, which outlives it.
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Pods:
    """Whom a policy selects: a namespace's pods, or those with these labels; both empty: everything."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def policy_text(name: str, pods: Pods, *kprobes: dict[str, Any]) -> str:
    """One policy, as JSON (which is YAML)."""
    kind = "TracingPolicyNamespaced" if pods.namespace else "TracingPolicy"
    metadata = {"name": name} | ({"namespace": pods.namespace} if pods.namespace else {})
    spec: dict[str, Any] = {"kprobes": list(kprobes)}
    if pods.labels:
        spec["podSelector"] = {"matchLabels": dict(pods.labels)}
    return json.dumps({"apiVersion": "cilium.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})


def kill_at(call: str, *, kind: str = "", operator: str = "Equal", value: str = "") -> dict[str, Any]:
    """A kprobe that kills whoever makes the call; with a kind, only when the first argument matches."""
    selector: dict[str, Any] = {"matchActions": [{"action": "Sigkill"}]}
    if not kind:
        return {"call": call, "selectors": [selector]}
    selector["matchArgs"] = [{"index": 0, "operator": operator, "values": [value]}]
    return {"call": call, "args": [{"index": 0, "type": kind}], "selectors": [selector]}


KILL_LSEEK = kill_at("lseek", kind="int", value="-1")


def join_policies(*texts: str) -> str:
    """One file of several policies."""
    return "\n---\n".join(texts)


@dataclass(frozen=True, slots=True)
class Stage:
    """A node and its agent. Pods get names of their own unless they are given one."""

    node: Node
    agent: AgentProcess

    def pod(self, namespace: str = "other", labels: Mapping[str, str] | None = None, name: str = "") -> Pod:
        return self.node.cri.run_pod(PodSpec(name or f"pod-{next(_numbers)}", namespace, labels or {}))

    def run(self, spec: ContainerSpec, namespace: str = "other", labels: Mapping[str, str] | None = None) -> Container:
        """A container in a pod of its own."""
        return self.node.cri.run(self.pod(namespace, labels), spec)

    def outcome(self, container: Container) -> tuple[int, str]:
        """Exit code and output of a container, which ends by itself."""
        return self.node.cri.wait_exit(container), self.node.cri.log_text(container)

    def violate(self, namespace: str = "other", labels: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit code and output of a new pod whose first instructions are the violation."""
        return self.outcome(self.run(VIOLATE, namespace, labels))

    def violate_inside(self, container: Container) -> tuple[int, str]:
        """The same of a process that is started in a running container."""
        result = self.node.cri.exec(container, "/first")
        return result.exit_code, result.stdout

    def release(self, container: Container) -> None:
        """Let a container of WAITING go on, from outside of it."""
        Path(f"/proc/{self.node.cri.pid(container)}/root/tmp/go").touch()

    def clear(self) -> None:
        """Remove all pods and wait until the agent and the kernel have forgotten them."""
        self.node.cri.remove_all_pods()
        wait_until(lambda: self.pods() == 0, SETTLE_S, "pods to be forgotten")
        self.await_counts(0, 0)

    def counts(self) -> tuple[int, int]:
        """(containers that the agent knows, records in the kernel of them and of their nested cgroups)"""
        status = self.agent.control.status()
        return status.containers, status.bindings - RECORDS_OF_POD * status.sandboxes

    def records(self) -> int:
        """In the kernel, those of pods included."""
        return self.agent.control.status().bindings

    def pods(self) -> int:
        """Whose sandboxes the agent knows."""
        return self.agent.control.status().sandboxes

    def await_counts(self, containers: int, bindings: int) -> None:
        wait_until(
            lambda: self.counts() == (containers, bindings), SETTLE_S, f"{containers} containers, {bindings} bindings"
        )

    def find_event(self, events: EventReader, container: Container) -> dict[str, Any]:
        """The first event of a container, waited for."""
        return events.find(lambda event: (event.get("container") or {}).get("id") == container.id)


def cgroup_directory(pid: int) -> Path:
    """The directory of a process's cgroup in the unified hierarchy, as the host sees it."""
    path = next(line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    return unified_root() / path.lstrip("/")


def unified_root() -> Path:
    mounts = (line.split(" ") for line in Path("/proc/mounts").read_text().splitlines())
    return next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2")


def move_into_nested(pid: int, name: str) -> Path:
    """Move a process into a new cgroup below its own; gives the new directory."""
    nested = cgroup_directory(pid) / name
    nested.mkdir()
    (nested / "cgroup.procs").write_text(str(pid))
    return nested


STOP_S = 10.0


def _is_stopped(task: Path) -> bool:
    """One thread; they stop one after the other. proc(5): the state stands behind the name in brackets."""
    return (task / "stat").read_text().rpartition(") ")[2].startswith("T")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs: SIGSTOP, and SIGCONT at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: all(_is_stopped(task) for task in Path(f"/proc/{pid}/task").iterdir()), STOP_S, "it to stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def plugged(stage: Stage, rule: str = "default open") -> Iterator[PluginProcess]:
    """A plugin with a failure rule; before it is stopped every pod is removed, and all it was told to do is done."""
    with PluginProcess(stage.agent, stage.node.nri_socket, failure_rule=f"{rule}\n") as plugin:
        try:
            yield plugin
        finally:
            stage.clear()
