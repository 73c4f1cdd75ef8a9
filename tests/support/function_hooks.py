# SPDX-License-Identifier: Apache-2.0
"""Hooks on kernel functions: policies, the node of the guest that they are tried on, and what its events say."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nri_plugin.ttrpc import RemoteError
from tests.support.agent import EventReader
from tests.support.bpf_objects import bpf_objects
from tests.support.language import Document, act, await_marker
from tests.support.names import project_dir
from tests.support.wait import wait_until
from tests.support.workload import RUN_S, Cgroup, Node, step

POLICIES = project_dir() / "tests/support/policies"
SOURCE = project_dir() / "tests/support/programs/functions.c"
INJECTION_LIST = Path("/sys/kernel/debug/error_injection/list")
AT_FDCWD = -100
KILLED = -signal.SIGKILL
JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
RETURNS_INT: Document = {
    "return": True,
    "returnArg": {"index": 0, "type": "int"},
    "returnArgAction": "Post",
}


def build_functions(folder: Path) -> Path:
    """Compiles programs/functions.c, static."""
    target = folder / "functions"
    flags = ("-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread")
    subprocess.run(["gcc", *flags, "-o", target, SOURCE], check=True)
    return target


def function(call: str, *args: Mapping[str, Any], **fields: Any) -> Document:
    """An entry of kprobes on a kernel function, or one of fentries."""
    return {"call": call, "syscall": False, "args": list(args)} | fields


def lsm_hook(name: str, *args: Mapping[str, Any], **fields: Any) -> Document:
    """An entry of lsmhooks."""
    return {"hook": name, "args": list(args)} | fields


def select(*conditions: Mapping[str, Any], then: Sequence[Mapping[str, Any]] = (), **filters: Any) -> Document:
    """A selector. then: its actions."""
    actions = {"matchActions": list(then)} if then else {}
    return {"matchArgs": list(conditions)} | actions | filters


def override(error: int) -> Document:
    """error: a positive errno."""
    return act("Override", argError=-error)


def read_policies(name: str, scratch: Path) -> str:
    """A file of tests/support/policies. scratch: what {scratch} stands for there."""
    return (POLICIES / f"{name}.yaml").read_text().replace("{scratch}", str(scratch))


def openat(path: Path | str, flags: int = os.O_RDONLY) -> list[str]:
    """A step of calls.c."""
    return step("openat", AT_FDCWD, str(path), flags, 0o600)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was run in a container."""

    status: int
    out: str


def run_in(group: Cgroup, *command: Path | str, folder: Path | str = "/", text: str = "") -> Done:
    """Any program in a container. text: its input."""
    words = ["/bin/sh", "-c", JOIN, str(group.path), *map(str, command)]
    done = subprocess.run(words, cwd=folder, input=text, text=True, capture_output=True, timeout=RUN_S, check=False)
    return Done(done.returncode, done.stdout)


class Told:
    """The events of a node whose policies have that of `language.marker_policy` among them."""

    def __init__(self, node: Node, reader: EventReader) -> None:
        self._node = node
        self._reader = reader

    def all(self) -> list[dict[str, Any]]:
        """Of policies, in order; all that was done until now is among them."""
        await_marker(self._node, self._reader)
        return [event for event in self._reader.all() if event["type"] == "policy"]

    def of(self, container: Cgroup | str) -> list[dict[str, Any]]:
        """Of a container, or of one that a runtime has made, by its id."""
        identifier = container if isinstance(container, str) else container.path.name
        return [event for event in self.all() if (event.get("container") or {}).get("id") == identifier]

    def find(self, container: Cgroup, policy: str) -> dict[str, Any]:
        """The first event of a policy, which may come late: one with stacks does."""
        return self._reader.find(
            lambda event: (
                event["type"] == "policy"
                and event["policy"]["name"] == policy
                and (event["container"] or {}).get("id") == container.path.name
            )
        )


def paths(events: Sequence[Mapping[str, Any]], index: int = 0) -> list[Any]:
    """Of each event what one of its arguments, by its place, has as its value."""
    return [event["args"][index].get("value") for event in events]


@contextmanager
def policies(node: Node, *texts: str) -> Iterator[None]:
    """In force, all put there in one compilation; none is afterwards."""
    node.agent.add("\n---\n".join(texts))
    try:
        yield
    finally:
        node.clear()


def refusal(node: Node, policy: Document) -> str:
    """What the agent says of a policy that the node cannot carry out: it may be listed with its fault, and nothing of
    it is loaded.
    """
    before, name = bpf_objects(node), policy["metadata"]["name"]
    with pytest.raises(RemoteError) as caught:
        node.add(policy)
    listed = [status for status in node.agent.control.list().policies if status.name == name]
    assert [status.state for status in listed] in ([], ["load_error"])
    for status in listed:
        node.agent.control.delete(status.name, status.namespace)
    wait_until(lambda: bpf_objects(node) == before, 10.0, f"{before}")
    return str(caught.value)
