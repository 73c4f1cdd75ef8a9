# SPDX-License-Identifier: Apache-2.0
"""The policies of examples/: each with what to run, and what must come of it.

trigger.yaml:

    needs:    what this kernel must let programs be attached to, as `agent.policy.facts.Abilities` names it; without it
              the example is not for this kernel
    files:    path below a scratch folder -> text, or copy (of a program); mode, in octal; capabilities, the attribute
              security.capability in hexadecimal
    runs:     name -> what is run, each in a container of its own whose pod has the run's name:
        needs                  system calls that a kernel may lack; without them nothing is run and nothing expected
        host: true             in no container instead
        namespace, labels, container   of the pod, and the container's name
        calls                  system calls by name with numbers, texts and {address, port} for socket addresses
        command, input         or a command, with its standard input

`{scratch}` and `{calls}` stand for the folder and for the program that makes system calls.

expected.yaml: run -> `status` (an exit status or a signal's name; any, when absent) and `events`: all that is reported
of the run, in order, of each the fields that count.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from agent.kernel.facts import RunningKernel
from tests.support.agent import EventReader
from tests.support.names import project_dir
from tests.support.patience import PATIENCE
from tests.support.workload import Cgroup, Identity, Node, lseek_policy, step, steps

EXAMPLES = project_dir() / "examples"
TRACEFS = Path("/sys/kernel/tracing")
RUN_S = 30.0 * PATIENCE
# The command is part of the container from its execve on, as what a runtime's exec starts.
_JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
_MARK = 0x70D6A7E  # a whence that no program gives to lseek


@dataclass(frozen=True, slots=True)
class Run:
    """One process. words: its command line."""

    name: str
    words: tuple[str, ...]
    host: bool = False
    namespace: str = "default"
    labels: tuple[tuple[str, str], ...] = ()
    container: str = "main"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """status: of the process, negative for a signal, None for any."""

    status: int | None
    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """What a folder says; placeholders are filled in."""

    policy: str
    runs: tuple[Run, ...]
    expected: Mapping[str, Expected]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: its end, and what was reported of it."""

    status: int
    events: tuple[dict[str, Any], ...]


def example_names() -> list[str]:
    return sorted(path.parent.name for path in EXAMPLES.glob("*/policy.yaml"))


def read_example(name: str, scratch: Path, calls: Path) -> Example:
    """Makes its files."""
    folder = EXAMPLES / name
    places = {"{scratch}": str(scratch), "{calls}": str(calls)}
    trigger = _fill(yaml.safe_load((folder / "trigger.yaml").read_text()), places)
    expected = _fill(yaml.safe_load((folder / "expected.yaml").read_text()), places)
    for path, file in trigger.get("files", {}).items():
        _make_file(scratch / path, file)
    left_out = {name for name, run in trigger["runs"].items() if not all(map(_has_call, run.get("needs", ())))}
    return Example(
        (folder / "policy.yaml").read_text(),
        tuple(_parse_run(name, run, calls) for name, run in trigger["runs"].items() if name not in left_out),
        {name: _parse_expected(each) for name, each in expected.items() if name not in left_out},
    )


def find_lacking(name: str) -> str:
    """What an example needs and this kernel has not, with the reason; "" when there is nothing."""
    needs = yaml.safe_load((EXAMPLES / name / "trigger.yaml").read_text()).get("needs", ())
    if not needs:
        return ""
    with RunningKernel(TRACEFS) as kernel:
        reasons = ((need, getattr(kernel.abilities(), need)) for need in needs)
        return "; ".join(f"{need}: {reason}" for need, reason in reasons if reason)


def _has_call(name: str) -> bool:
    return f" T __x64_sys_{name}\n" in Path("/proc/kallsyms").read_text()


def _fill(node: Any, places: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _fill(value, places) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, places) for value in node]
    if isinstance(node, str):
        for name, value in places.items():
            node = node.replace(name, value)
    return node


def _make_file(path: Path, file: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if "copy" in file:
        shutil.copyfile(file["copy"], path)
    else:
        path.write_text(file["text"])
    path.chmod(int(file.get("mode", "644"), 8))
    if "capabilities" in file:
        os.setxattr(path, "security.capability", bytes.fromhex(file["capabilities"]))


def _parse_run(name: str, run: Mapping[str, Any], calls: Path) -> Run:
    words = run["command"] if "command" in run else [str(calls), "-", *steps(*map(_call, run["calls"]))]
    return Run(
        name,
        tuple(words),
        run.get("host", False),
        run.get("namespace", "default"),
        tuple(run.get("labels", {}).items()),
        run.get("container", "main"),
        run.get("input", ""),
    )


def _call(words: Sequence[Any]) -> list[str]:
    return step(words[0], *(socket_address(**word) if isinstance(word, dict) else word for word in words[1:]))


def socket_address(address: str, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    if ":" in address:
        head = struct.pack("=HHI", socket.AF_INET6, socket.htons(port), 0)
        return head + socket.inet_pton(socket.AF_INET6, address) + bytes(4)
    return struct.pack("=HH", socket.AF_INET, socket.htons(port)) + socket.inet_aton(address) + bytes(8)


def _parse_expected(each: Mapping[str, Any]) -> Expected:
    status = each.get("status")
    if isinstance(status, str):
        status = -signal.Signals[status].value
    return Expected(status, tuple(each["events"]))


def perform(node: Node, events: EventReader, example: Example) -> dict[str, Outcome]:
    """Puts the policy in force and runs everything; what became of each run, once all of its events are there."""
    node.agent.add("\n---\n".join((example.policy, json.dumps(_mark_policy()))))
    ended = {run.name: _perform(node, run) for run in example.runs}
    _await_events(node, events)
    told = [event for event in events.all() if event.get("type") == "policy" and event["policy"]["name"] != "mark"]
    names = {pid: name for name, (pid, _) in ended.items()}
    found = {name: [e for e in told if _run_of(e, names) == name] for name in ended}
    return {name: Outcome(status, tuple(found[name])) for name, (_, status) in ended.items()}


def _run_of(event: Mapping[str, Any], names: Mapping[int, str]) -> str | None:
    return event["pod"]["name"] if event["pod"] else names.get(event["process"]["pid"])


def _perform(node: Node, run: Run) -> tuple[int, int]:
    """Pid and status."""
    if run.host:
        return _wait(run.words, run.text)
    with _container(node, run) as group:
        return _wait(("sh", "-c", _JOIN, str(group.path), *run.words), run.text)


def _wait(words: Sequence[str], text: str) -> tuple[int, int]:
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        process.communicate(text.encode(), RUN_S)
    return process.pid, process.returncode


@contextmanager
def _container(node: Node, run: Run) -> Iterator[Cgroup]:
    with node.cgroup() as group:
        placeholder = group.start(["wait"])
        placeholder.await_waiting()
        identity = Identity(run.namespace, run.labels, run.name, run.container)
        node.announce(placeholder.pid, identity, id=group.path.name)
        try:
            yield group
        finally:
            node.hook.unbind(group.path.name)
            placeholder.end()


def _mark_policy() -> dict[str, Any]:
    """Added with the example's: a compilation for itself takes a guest some ten seconds."""
    condition = {"index": 2, "operator": "Equal", "values": [str(_MARK)]}
    mark = lseek_policy("mark", condition, actions=({"action": "Post"},))
    mark["spec"]["kprobes"][0]["args"] = [{"index": 2, "type": "int"}]
    return mark


def _await_events(node: Node, events: EventReader) -> None:
    """Events come in the order in which they were made: after that of a last call all others are there."""
    pid = node.host(step("lseek", -1, 0, _MARK)).pid
    events.find(lambda event: event.get("type") == "policy" and event["process"]["pid"] == pid)


def differences(expected: Mapping[str, Expected], found: Mapping[str, Outcome]) -> list[str]:
    """What is not as it should be, for people."""
    lines = [f"{name}: not in {where}" for name, where in _missing(expected, found)]
    for name in expected.keys() & found.keys():
        lines += [f"{name}: {line}" for line in _differences(expected[name], found[name])]
    return sorted(lines)


def _missing(expected: Mapping[str, Expected], found: Mapping[str, Outcome]) -> Iterator[tuple[str, str]]:
    yield from ((name, "trigger.yaml") for name in expected.keys() - found.keys())
    yield from ((name, "expected.yaml") for name in found.keys() - expected.keys())


def _differences(expected: Expected, found: Outcome) -> Iterator[str]:
    if expected.status not in (None, found.status):
        yield f"ended with {found.status} instead of {expected.status}"
    if len(expected.events) != len(found.events):
        yield f"{len(found.events)} events instead of {len(expected.events)}: {found.events}"
        return
    for number, (wanted, event) in enumerate(zip(expected.events, found.events, strict=True)):
        if not matches(wanted, event):
            yield f"event {number} is {event} instead of {wanted}"


def matches(wanted: Any, found: Any) -> bool:
    """Of mappings those members that are wanted; lists are as long, and everything else is equal."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(key in found and matches(wanted[key], found[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(matches, wanted, found))
    return bool(wanted == found)


def with_policy(example: Example, old: str, new: str) -> Example:
    """The same with another policy. Raises ValueError when the policy does not say `old`."""
    if old not in example.policy:
        raise ValueError(f"the policy does not say {old!r}")
    return replace(example, policy=example.policy.replace(old, new))
