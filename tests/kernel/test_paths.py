# SPDX-License-Identifier: Apache-2.0
"""Paths behind descriptors: as the process sees them, across mounts and below its root, whole or marked as cut."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import system
from tests.support.agent import EventReader
from tests.support.workload import Cgroup, Ended, Node, kprobe, match, policy, selector, start_node, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

MS_BIND = 4096
MAX_COMPONENTS = 256  # PG_PATH_DEPTH of bpf/lib/walk.h
REGULAR = {"file_type": "regular", "mode": "0644"}
FOLDER = {"file_type": "dir", "mode": "0755"}
NAME = "podgate-paths"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """base/target on a tmpfs, which is bound a second time at base/again."""
    base = tmp_path_factory.mktemp(NAME)
    (base / "fs").mkdir()
    (base / "again").mkdir()
    system.mount("tmpfs", base / "fs", "tmpfs")
    (base / "fs/inner").mkdir()
    (base / "fs/inner/target").write_text("x")
    _bind(base / "fs/inner", base / "again")
    yield base
    system.unmount_below(base)


def _bind(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(bytes(source), bytes(target), None, ctypes.c_ulong(MS_BIND), None) != 0:
        raise OSError(ctypes.get_errno(), "mount --bind", str(target))


@pytest.fixture(scope="module")
def paths(calls_program: Path, folder: Path) -> Iterator[Node]:
    def on_fd(name: str, *conditions: Any) -> dict[str, Any]:
        return policy(name, kprobe("lseek", {0: "fd"}, *conditions), namespace=name)

    with start_node(calls_program) as node:
        node.add(
            on_fd("equal", selector(match(0, "Equal", str(folder / "fs/inner/target")))),
            on_fd("bound", selector(match(0, "Equal", str(folder / "again/target")))),
            on_fd("root", selector(match(0, "Equal", "/inner/target", "/"))),
            on_fd("prefix", selector(match(0, "Prefix", f"{folder}/"))),
            on_fd("postfix", selector(match(0, "Postfix", "/last"))),
            on_fd("allowed", selector(match(0, "NotEqual", "/dev/null"))),
            on_fd("post", selector(actions=({"action": "Post"},))),
        )
        yield node


@pytest.fixture
def heard(paths: Node) -> Iterator[EventReader]:
    with EventReader(paths.agent.run_dir) as reader:
        yield reader


def seek(group: Cgroup, path: Path | str) -> Ended:
    """lseek on a descriptor of the path."""
    return group.run(steps(step("open", str(path), os.O_RDONLY), step("lseek", 3, 0, 0)))


def told(ended: Ended, heard: EventReader) -> dict[str, Any]:
    event = heard.find(lambda event: bool(event.get("process") and event["process"]["pid"] == ended.pid))
    argument: dict[str, Any] = event["args"][0]
    return argument


def test_path_is_compared_whole(paths: Node, folder: Path) -> None:
    with paths.container("equal") as group:
        assert seek(group, folder / "fs/inner/target").killed
        assert seek(group, folder / "fs/inner").status == 0
        assert seek(group, folder / "again/target").status == 0


def test_bind_mount_shows_the_path_that_was_opened(paths: Node, folder: Path, heard: EventReader) -> None:
    with paths.container("bound") as group:
        ended = seek(group, folder / "again/target")
        assert ended.killed
        path = str(folder / "again/target")
        assert told(ended, heard) == {"index": 0, "type": "fd", "value": 3, "path": path} | REGULAR
        assert seek(group, folder / "fs/inner/target").status == 0


def test_link_is_followed_to_the_file(paths: Node, folder: Path) -> None:
    link = folder / "link"
    link.symlink_to(folder / "fs/inner/target")
    with paths.container("equal") as group:
        assert seek(group, link).killed
    link.unlink()


def test_path_begins_at_the_root_of_the_process(paths: Node, folder: Path) -> None:
    with paths.container("root") as group:
        chroot = step("chroot", str(folder / "fs"))
        assert group.run(steps(chroot, step("open", "/inner/target", 0), step("lseek", 3, 0, 0))).killed
        assert group.run(steps(chroot, step("open", "/", 0), step("lseek", 3, 0, 0))).killed
        assert seek(group, "/").killed
        assert seek(group, folder / "fs/inner/target").status == 0


def test_prefix_covers_every_file_system_below(paths: Node, folder: Path) -> None:
    with paths.container("prefix") as group:
        assert seek(group, folder / "fs/inner/target").killed
        assert seek(group, folder / "again/target").killed
        assert seek(group, folder).status == 0


def test_deleted_file_keeps_its_path(paths: Node, folder: Path) -> None:
    gone = folder / "gone"
    gone.write_text("x")
    with paths.container("prefix") as group:
        words = steps(step("open", str(gone), 0), step("unlink", str(gone)), step("lseek", 3, 0, 0))
        assert group.run(words).killed


def test_bad_descriptors_have_no_path(paths: Node, heard: EventReader) -> None:
    with paths.container("post") as group:
        for descriptor in (-1, 999, 1 << 30):
            argument = told(group.call("lseek", descriptor, 0, 0), heard)
            assert argument == {"index": 0, "type": "fd", "value": descriptor, "path": None, "unreadable": True}
    with paths.container("equal") as group:
        assert group.call("lseek", -1, 0, 0).status == 0
    with paths.container("allowed") as group:
        assert group.call("lseek", -1, 0, 0).killed
        assert seek(group, "/dev/null").status == 0


def test_pipe_has_no_path_of_the_file_system(paths: Node, heard: EventReader) -> None:
    with paths.container("post") as group:
        ended = group.run(steps(step("pipe2", "r:8", 0), step("lseek", 3, 0, 0)))
        argument = told(ended, heard)
    assert re.fullmatch(r"pipe:\[\d+\]", argument["path"])
    assert argument["file_type"] == "fifo"


def deep(folder: Path, components: int) -> str:
    """A directory below folder whose path has so many components, with short names: paths end at PATH_MAX."""
    path = folder.joinpath(*["d"] * (components - len(folder.parts) + 1))
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


def test_deep_path_is_whole_up_to_the_limit_and_marked_as_cut_beyond(
    paths: Node, folder: Path, heard: EventReader
) -> None:
    whole, cut = deep(folder, MAX_COMPONENTS - 4), deep(folder, MAX_COMPONENTS + 40)
    before = paths.counter("path_too_deep")
    with paths.container("post") as group:
        assert told(seek(group, whole), heard) == {"index": 0, "type": "fd", "value": 3, "path": whole} | FOLDER
        assert paths.counter("path_too_deep") == before
        argument = told(seek(group, cut), heard)
    assert argument["truncated"] is True
    assert cut.endswith(argument["path"])
    assert paths.counter("path_too_deep") == before + 1


def test_cut_path_has_its_end_but_not_its_begin(paths: Node, folder: Path) -> None:
    cut = Path(deep(folder, MAX_COMPONENTS + 40)) / "last"
    cut.mkdir()
    with paths.container("postfix") as group:
        assert seek(group, cut).killed
    with paths.container("prefix") as group:
        assert seek(group, cut).status == 0
