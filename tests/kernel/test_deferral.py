# SPDX-License-Identifier: Apache-2.0
"""Texts in memory that is not resident when the call is made: it is checked at its exit, and enforced all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import EventReader
from tests.support.workload import Cgroup, Ended, Node, kprobe, match, policy, selector, start_node, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

SECRET = "/forbidden/by/policy"
CROSSING = "/crossing" + "/x" * 20  # begins in a resident page and ends in another one
BAD = 0x10  # below mmap_min_addr: no process has memory there


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose execve is forbidden."""
    program = tmp_path_factory.mktemp("exec") / "forbidden"
    program.symlink_to("/bin/true")
    return program


@pytest.fixture(scope="module")
def deferring(calls_program: Path, target: Path) -> Iterator[Node]:
    texts = selector(match(0, "Equal", SECRET, CROSSING))
    with start_node(calls_program) as node:
        node.add(
            policy("path", kprobe("access", {0: "string"}, texts), namespace="path"),
            policy("not", kprobe("access", {0: "string"}, selector(match(0, "NotEqual", SECRET))), namespace="not"),
            policy(
                "bytes",
                kprobe("pwrite64", {1: "char_buf:2"}, selector(match(1, "Prefix", "SECRET"))),
                namespace="bytes",
            ),
            policy("exec", kprobe("execve", {0: "string"}, selector(match(0, "Equal", str(target)))), namespace="exec"),
        )
        yield node


@pytest.fixture
def group(deferring: Node, request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    with deferring.container(request.param) as container:
        yield container


@pytest.fixture
def heard(deferring: Node) -> Iterator[EventReader]:
    with EventReader(deferring.agent.run_dir) as reader:
        yield reader


def in_file(folder: Path, text: bytes) -> str:
    """An argument that is a mapping of a file with this text."""
    path = folder / "text"
    path.write_bytes(text)
    return f"f:{path}"


def event_of(ended: Ended, heard: EventReader) -> dict[str, Any]:
    return heard.find(lambda event: bool(event.get("process") and event["process"]["pid"] == ended.pid))


@pytest.mark.parametrize("group", ["path"], indirect=True)
def test_path_in_an_untouched_page_is_matched_on_return(
    deferring: Node, group: Cgroup, heard: EventReader, tmp_path: Path
) -> None:
    before = deferring.counter("deferred")
    ended = group.call("access", in_file(tmp_path, SECRET.encode() + b"\0"), 0)
    assert ended.killed
    assert ended.results == ()
    event = event_of(ended, heard)
    assert (event["deferred"], event["args"]) == (True, [{"index": 0, "type": "string", "value": SECRET}])
    assert deferring.counter("deferred") == before + 1
    assert deferring.counter("unreadable") == 0


@pytest.mark.parametrize("group", ["path"], indirect=True)
def test_path_that_ends_in_an_untouched_page_is_matched(deferring: Node, group: Cgroup, tmp_path: Path) -> None:
    (tmp_path / "rest").write_bytes(CROSSING[9:].encode() + b"\0")
    before = deferring.counter("deferred")
    assert group.call("access", f"x:{CROSSING[:9]}:{tmp_path / 'rest'}", 0).killed
    assert deferring.counter("deferred") == before + 1


@pytest.mark.parametrize("group", ["path"], indirect=True)
def test_other_path_in_an_untouched_page_passes(group: Cgroup, tmp_path: Path) -> None:
    assert group.call("access", in_file(tmp_path, SECRET.encode() + b"x\0"), 0).results == (-2,)


@pytest.mark.parametrize("group", ["path"], indirect=True)
def test_resident_path_is_not_deferred(deferring: Node, group: Cgroup, heard: EventReader) -> None:
    before = deferring.counter("deferred")
    ended = group.call("access", SECRET, 0)
    assert ended.killed
    assert "deferred" not in event_of(ended, heard)
    assert deferring.counter("deferred") == before


@pytest.mark.parametrize("group", ["path"], indirect=True)
def test_bad_pointer_equals_nothing_and_is_counted(deferring: Node, group: Cgroup) -> None:
    before = deferring.counter("unreadable")
    assert group.call("access", BAD, 0).results == (-14,)
    assert deferring.counter("unreadable") == before + 1
    assert group.call("access", -1, 0).results == (-14,)
    assert group.call("access", SECRET, 0).killed


@pytest.mark.parametrize("group", ["path"], indirect=True)
def test_null_pointer_equals_nothing_and_is_not_deferred(deferring: Node, group: Cgroup) -> None:
    before = deferring.counter("deferred"), deferring.counter("unreadable")
    assert group.call("access", 0, 0).results == (-14,)
    assert (deferring.counter("deferred"), deferring.counter("unreadable")) == before


@pytest.mark.parametrize("group", ["not"], indirect=True)
def test_unreadable_text_is_not_equal_to_any_value(group: Cgroup, tmp_path: Path) -> None:
    """A list of what is allowed cannot be evaded by an address that nobody can read."""
    assert group.call("access", BAD, 0).killed
    assert group.call("access", in_file(tmp_path, b"/other\0"), 0).killed
    assert group.call("access", in_file(tmp_path, SECRET.encode() + b"\0"), 0).results == (-2,)


@pytest.mark.parametrize("group", ["bytes"], indirect=True)
def test_buffer_in_an_untouched_page_is_matched_on_return(group: Cgroup, heard: EventReader, tmp_path: Path) -> None:
    out = tmp_path / "out"
    opened = step("open", str(out), 0o102, 0o600)
    ended = group.run(steps(opened, step("pwrite64", 3, in_file(tmp_path, b"SECRET of state"), 15, 0)))
    assert ended.killed
    assert event_of(ended, heard)["deferred"] is True


@pytest.mark.parametrize("group", ["bytes"], indirect=True)
def test_buffer_that_is_mapped_only_in_part_is_matched_by_that_part(
    group: Cgroup, heard: EventReader, tmp_path: Path
) -> None:
    """The kernel writes what it can read of such a buffer, so a size beyond it must not hide the begin."""
    out = tmp_path / "out"
    opened = step("open", str(out), 0o102, 0o600)
    ended = group.run(steps(opened, step("pwrite64", 3, "e:SECRET", 4096, 0)))
    assert out.read_bytes() == b"SECRET"
    assert ended.killed
    seen = {"index": 1, "type": "char_buf", "base64": "U0VDUkVU", "truncated": True, "size": 4096}
    assert event_of(ended, heard)["args"] == [seen]


@pytest.mark.parametrize("group", ["exec"], indirect=True)
def test_execve_of_an_untouched_path_is_killed_before_the_image_runs(
    group: Cgroup, heard: EventReader, tmp_path: Path, target: Path
) -> None:
    ended = group.call("execve", in_file(tmp_path, bytes(target) + b"\0"), 0, 0)
    assert ended.killed
    event = event_of(ended, heard)
    assert (event["deferred"], event["args"][0]["value"]) == (True, str(target))


@pytest.mark.parametrize("group", ["exec"], indirect=True)
@pytest.mark.parametrize("resident", [True, False])
def test_execve_by_another_thread_is_killed(group: Cgroup, tmp_path: Path, target: Path, resident: bool) -> None:
    path = str(target) if resident else in_file(tmp_path, bytes(target) + b"\0")
    assert group.run(steps(["thread"], step("execve", path, 0, 0))).killed


@pytest.mark.parametrize("group", ["exec"], indirect=True)
def test_execve_of_another_untouched_path_succeeds(group: Cgroup, tmp_path: Path) -> None:
    for first in ((), (["thread"],)):
        ended = group.run(steps(*first, step("execve", in_file(tmp_path, b"/bin/true\0"), 0, 0)))
        assert (ended.status, ended.results) == (0, ())


@pytest.mark.parametrize("group", ["exec"], indirect=True)
def test_execve_that_fails_is_judged_by_its_path_too(group: Cgroup, tmp_path: Path, target: Path) -> None:
    missing = in_file(tmp_path, b"/does/not/exist\0")
    assert group.call("execve", missing, 0, 0).results == (-2,)
    ended = group.run(steps(step("execve", missing, 0, 0), step("execve", str(target), 0, 0)))
    assert (ended.killed, ended.results) == (True, (-2,))
