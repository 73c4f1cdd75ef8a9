# SPDX-License-Identifier: Apache-2.0
"""Which files are opened for probes: digests, kinds, and that nobody changes them meanwhile."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel.user_files import UserFiles
from agent.policy.errors import PolicyErrors
from agent.policy.model import UprobeTarget
from agent.policy.user_facts import FileIdentity, UserFileError
from tests.support.probed import build_probed
from tests.support.user_hooks import UserFacts, refused, resolve, uprobe


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_probed(tmp_path_factory.mktemp("probed"))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512", "build-id"])
def test_digests(program: Path, algorithm: str) -> None:
    with UserFiles().open_file(str(program)) as file:
        build_id = file.build_id
    right = build_id if algorithm == "build-id" else hashlib.new(algorithm, program.read_bytes()).hexdigest()
    wrong = f"{algorithm}:{'0' * len(right)}"
    target = UprobeTarget(str(program), ("podgate_add",), digests=(wrong, f"{algorithm}:{right.upper()}"))
    assert resolve(uprobe(target))
    refused(uprobe(replace(target, digests=(wrong,))), "has none of binaryDigests")
    assert resolve(uprobe(replace(target, digests=(wrong,), ignore_digest=True))) == ()


def test_no_build_id_is_no_match(tmp_path: Path) -> None:
    without = build_probed(tmp_path, "-Wl,--build-id=none")
    target = UprobeTarget(str(without), ("podgate_add",), digests=("build-id:",))
    refused(uprobe(target), "has none of binaryDigests")


def test_refused_paths(program: Path, tmp_path: Path) -> None:
    fifo, script = tmp_path / "fifo", tmp_path / "script"
    os.mkfifo(fifo)
    script.write_text("#!/bin/sh\n" + " " * 64)
    for path, reason in (
        (str(tmp_path / "none"), "No such file or directory"),
        (str(tmp_path), "is no regular file"),
        (str(fifo), "is no regular file"),
        ("/dev/zero", "is no regular file"),
        ("probed", "is no absolute path"),
        ("/a\0b", "null byte"),
        (str(script), "no ELF file"),
    ):
        refused(uprobe(UprobeTarget(path, ("main",))), reason)
    (tmp_path / "link").symlink_to(program)
    assert resolve(uprobe(UprobeTarget(str(tmp_path / "link"), ("main",))))


class _Replacing(UserFacts):
    """Something is put in the place of the file while it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def identity(self, path: str) -> FileIdentity:
        self._path.rename(f"{self._path}.old")
        self._path.write_bytes(b"another")
        return super().identity(path)


def test_file_that_is_replaced_meanwhile(program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(program.read_bytes())
    with pytest.raises(PolicyErrors, match="being changed"):
        resolve(uprobe(copy, "podgate_add"), _Replacing(copy))


def test_file_that_is_written_to_meanwhile(program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(program.read_bytes())
    files = UserFiles()
    before = files.identity(str(copy))
    with pytest.raises(UserFileError, match="being changed"), files.open_file(str(copy)):  # noqa: PT012
        with copy.open("ab") as file:
            file.write(b"more")
        assert files.identity(str(copy)) != before
    with pytest.raises(UserFileError, match="being changed"), files.open_file(str(copy)) as opened:  # noqa: PT012
        os.truncate(copy, 100)
        opened.digest("sha256")
