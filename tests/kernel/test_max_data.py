# SPDX-License-Identifier: Apache-2.0
"""maxData: large buffers arrive byte for byte, and what does not is told."""

from __future__ import annotations

import base64
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.policy.access import MAX_DATA, MAX_TEXT
from tests.support import system
from tests.support.language import Heard, act, arg, condition, document, hearing, marker_policy
from tests.support.names import project_dir
from tests.support.workload import Cgroup, Node, start_node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

DESCRIPTOR = 77  # of programs/writer.c
MULTIPLIER = 2654435761
LIMITED = {
    "matchArgs": [condition(0, "Equal", DESCRIPTOR)],
    "matchActions": [act("Post", rateLimit="1h", rateLimitScope="process")],
    "matchReturnArgs": [condition(0, "GT", 0)],
}
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}
BUFFER = arg(1, "char_buf", sizeArgIndex=3, maxData=True)
ROUNDS = 30


def pattern(seed: int, size: int) -> bytes:
    """A buffer of programs/writer.c."""
    words = [(n * MULTIPLIER + seed) & 0xFFFFFFFF for n in range(-(-size // 4))]
    return struct.pack(f"<{len(words)}I", *words)[:size]


def hook(call: str, buffer: dict[str, Any], *more: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """more: selectors; without, each call on the descriptor is reported."""
    own = {"matchArgs": [condition(0, "Equal", DESCRIPTOR)]}
    args = [arg(0, "int"), buffer, arg(2, "size_t")]
    return {"call": call, "args": args, "selectors": list(more or (own,))} | fields


POLICIES = (
    marker_policy(),
    document("writes", "writes", kprobes=[hook("write", BUFFER)]),
    document("reads", "reads", kprobes=[hook("read", BUFFER | {"returnCopy": True}, **RETURNS)]),
    document("cold", "cold", kprobes=[hook("write", BUFFER, {"matchArgs": [condition(1, "Prefix", "cold")]})]),
    document("returned", "returned", kprobes=[hook("write", BUFFER, **RETURNS)]),
    document("limited", "limited", kprobes=[hook("write", BUFFER, LIMITED, **RETURNS)]),
)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = project_dir() / "tests/support/programs/writer.c", tmp_path_factory.mktemp("writer") / "writer"
    flags = ("-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run(["gcc", *flags, "-o", target, source], check=True)
    return target


@pytest.fixture(scope="module")
def scene(calls_program: Path) -> Iterator[Node]:
    with start_node(calls_program) as node:
        node.add(*POLICIES)
        yield node


@pytest.fixture(scope="module")
def heard(scene: Node) -> Iterator[Heard]:
    with hearing(scene) as heard:
        yield heard


def start(writer: Path, group: Cgroup | None, *words: object) -> subprocess.Popen[str]:
    place = group.path if group else "-"
    return subprocess.Popen([writer, place, *map(str, words)], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[int]:
    """What its calls gave."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [int(line) for line in out.split()]


def run(writer: Path, group: Cgroup | None, *words: object) -> tuple[int, list[int]]:
    """Its pid, and what its calls gave."""
    process = start(writer, group, *words)
    return process.pid, finish(process)


def told(event: dict[str, Any]) -> bytes:
    return base64.b64decode(event["args"][1]["base64"])


def state(event: dict[str, Any]) -> tuple[bool, int | None]:
    """Whether the buffer is told to be cut, and how large it was."""
    return event["args"][1].get("truncated", False), event["args"][1].get("size")


@pytest.mark.parametrize("skew", [0, 1, 4095])
@pytest.mark.parametrize("size", [1, 4096, 4097, 8192, 36_864, 36_863, 36_865, 300_000, MAX_DATA])
def test_a_buffer_arrives_byte_for_byte(scene: Node, heard: Heard, writer: Path, size: int, skew: int) -> None:
    with scene.container("writes") as group:
        pid, results = run(writer, group, "write", "/dev/null", 1 + size, size, size, skew)
    (event,) = heard.all(pid)
    assert results == [size]
    assert told(event) == pattern(1 + size, size)
    assert state(event) == (False, None)


@pytest.mark.parametrize(
    ("size", "length", "kept"),
    [
        (400_000, 400_000, MAX_DATA),
        (MAX_DATA + 1, MAX_DATA + 1, MAX_DATA),
        (200_000, 300_000, 200_704),
        (4096, 300_000, 4096),
        (8192, 300_000, 8192),
        (40_960, 300_000, 40_960),
        (MAX_DATA, 1 << 31, MAX_DATA),
        (8192, (1 << 32) + 9000, 8192),
        (8192, (1 << 64) - 1, 8192),
    ],
)
def test_what_does_not_arrive_is_told(
    scene: Node, heard: Heard, writer: Path, size: int, length: int, kept: int
) -> None:
    """Of 200,000 bytes the last page can be read as a whole. /dev/null takes any length, and looks at nothing."""
    with scene.container("writes") as group:
        pid, _ = run(writer, group, "write", "/dev/null", 3, size, length, 0)
    (event,) = heard.all(pid)
    assert told(event)[:size] == pattern(3, size)[:kept]
    assert len(told(event)) == kept
    assert state(event) == (True, min(length, 0xFFFFFFFF))


def test_what_a_call_filled_in_is_read_at_its_return(scene: Node, heard: Heard, writer: Path, tmp_path: Path) -> None:
    """As much as it returned, not as much as there was room for."""
    file = tmp_path / "file"
    file.write_bytes(pattern(4, 300_000))
    with scene.container("reads") as group:
        pid, results = run(writer, group, "read", file, MAX_DATA)
    (event,) = heard.all(pid)
    assert (results, event["return"]["value"], state(event)) == ([300_000], 300_000, (False, None))
    assert told(event) == pattern(4, 300_000)


def test_a_value_of_the_entry_waits_for_the_return(scene: Node, heard: Heard, writer: Path) -> None:
    with scene.container("returned") as group:
        pid, _ = run(writer, group, "write", "/dev/null", 5, 300_000, 300_000, 0)
    (event,) = heard.all(pid)
    assert event["return"]["value"] == 300_000
    assert told(event) == pattern(5, 300_000)


def test_a_buffer_that_is_not_resident_is_read_at_the_exit(
    scene: Node, heard: Heard, writer: Path, tmp_path: Path
) -> None:
    """When it is compared: the whole call is checked there."""
    source, target, data = tmp_path / "source", tmp_path / "target", b"cold" + pattern(6, 299_996)
    source.write_bytes(data)
    with scene.container("cold") as group:
        pid, results = run(writer, group, "map", target, source, 300_000)
    (event,) = heard.all(pid)
    assert (results, event["deferred"], state(event)) == ([300_000], True, (False, None))
    assert told(event) == data == target.read_bytes()


def test_a_large_value_comes_at_its_rate(scene: Node, heard: Heard, writer: Path) -> None:
    with scene.container("limited") as group:
        pid, results = run(writer, group, "repeat", "/dev/null", 7, 40_000, 3)
    assert results == [40_000] * 3
    assert len(heard.all(pid)) == 1


def test_buffers_of_several_processes_do_not_mix(scene: Node, heard: Heard, writer: Path) -> None:
    """Readers may lose lines at this pace; what they get is whole, or told to be cut."""
    with scene.container("writes") as group:
        seeds = range(100, 108)
        processes = [start(writer, group, "write", "/dev/null", seed, 200_000, 200_000, seed) for seed in seeds]
        for process in processes:
            assert finish(process) == [200_000]
    whole = 0
    for seed, process in zip(seeds, processes, strict=True):
        for event in heard.all(process.pid):
            data = told(event)
            assert data == pattern(seed, 200_000)[: len(data)]
            assert state(event) == ((False, None) if len(data) == 200_000 else (True, 200_000))
            whole += len(data) == 200_000
    assert whole


def test_a_buffer_that_changes_has_at_each_place_what_was_there(scene: Node, heard: Heard, writer: Path) -> None:
    """Another thread overwrites it, and makes a page unreadable again and again."""
    size = 100_000
    with scene.container("writes") as group:
        pid, results = run(writer, group, "churn", "/dev/null", 11, size, ROUNDS)
    one, other = pattern(11, size), pattern(12, size)
    events = heard.all(pid)
    assert results == [size] * ROUNDS
    assert events
    for event in events:
        data = told(event)
        assert all(byte in (a, b) for byte, a, b in zip(data, one, other, strict=False))
        assert state(event) == ((False, None) if len(data) == size else (True, size))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def event_process(node: Node) -> int:
    """Of this agent."""
    children = Path(f"/proc/{node.agent.pid}/task/{node.agent.pid}/children").read_text().split()
    (found,) = (pid for pid in map(int, children) if "agent.events.main" in system.read_cmdline(pid))
    return found


def test_a_ring_without_room_cuts_values_and_keeps_events(calls_program: Path, writer: Path) -> None:
    """While nobody reads it: two blocks of 32,768 bytes are less than three quarters of it, three are more."""
    with start_node(calls_program, "--ring-kib", "128") as node:
        node.add(marker_policy(), document("writes", kprobes=[hook("write", BUFFER)]))
        with hearing(node) as heard:
            with stopped(event_process(node)):
                first, _ = run(writer, None, "write", "/dev/null", 8, 300_000, 300_000, 0)
                second, _ = run(writer, None, "write", "/dev/null", 8, 300_000, 300_000, 0)
            events = [*heard.all(first), *heard.all(second)]
        assert (node.counter("data_lost"), node.counter("events_lost")) == (2, 0)
    assert [state(event) for event in events] == [(True, 300_000)] * 2
    assert len(told(events[0])) == MAX_TEXT + 2 * 32_768
    for event in events:
        assert told(event) == pattern(8, 300_000)[: len(told(event))]
