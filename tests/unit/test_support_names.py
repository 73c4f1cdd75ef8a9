# SPDX-License-Identifier: Apache-2.0
"""Names that carry their owner."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.names import cache_dir, owner_pid, project_dir, unique_name


def test_names_are_new_at_each_call_and_carry_the_owner() -> None:
    first, second = unique_name("node"), unique_name("node")
    assert first != second
    assert owner_pid(f"mount /tmp/{first}-abc/state") == os.getpid()


@pytest.mark.parametrize("text", ["", "/sys/fs/bpf/podgate", "podgate-node-x-1", "mount /tmp/podgate-cc-abc"])
def test_text_without_an_owned_name_has_no_owner(text: str) -> None:
    assert owner_pid(text) is None


def test_cache_moves_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PODGATE_CACHE", raising=False)
    assert cache_dir() == Path("/var/cache/podgate")
    monkeypatch.setenv("PODGATE_CACHE", "/elsewhere")
    assert cache_dir() == Path("/elsewhere")


def test_project_directory_is_the_source_tree() -> None:
    assert (project_dir() / "pyproject.toml").is_file()
