# SPDX-License-Identifier: Apache-2.0
"""When probes follow their files, and what is told while they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.file_keeper import FIRST_WAIT_S, MAX_WAIT_S, FileKeeper
from agent.kernel.user_files import UserFiles
from agent.policy.model import Policy
from agent.policy.user_facts import FileIdentity, UserFileError
from agent.policy_entry import Entry, PolicyRejected
from agent.probed_files import find_files, probed_paths
from tests.support.planning import place, read
from tests.support.wait import wait_until
from tests.support.workload import lseek_policy

LIBRARY, TYPES = "/lib/a.so", "/lib/a.btf"


def probing(name: str = "probes") -> Policy:
    hook = {"path": LIBRARY, "btfPath": TYPES, "symbols": ["f"]}
    document = lseek_policy(name)
    (policy,) = read({**document, "spec": {"uprobes": [hook], "kprobes": document["spec"]["kprobes"]}})
    return policy


class _Node:
    """Files, a clock, and a store with one policy; it follows as often as it is told to, unless it refuses."""

    def __init__(self) -> None:
        self.files = {LIBRARY: 1, TYPES: 2}
        self.now = 100.0
        self.refuses = ""
        self.followed: list[str] = []
        (placed,) = place(lseek_policy("probes"))
        self.entry = Entry(probing(), placed)
        self._renew()
        self.keeper = FileKeeper(self, self.identity, lambda: self.now)

    def identity(self, path: str) -> FileIdentity:
        if path not in self.files:
            raise UserFileError(f"{path}: gone", "look")
        return FileIdentity(1, self.files[path], 0, 0, 0)

    def _renew(self) -> None:
        files = find_files(self.entry.policy, self.identity)
        self.entry = replace(self.entry, error="", files=files, is_behind=False)

    def entries(self) -> tuple[Entry, ...]:
        return (self.entry,)

    def follow_files(self, entry: Entry, changed: str) -> int:
        assert entry is self.entry
        self.followed.append(changed)
        if self.refuses:
            self.entry = replace(entry, error=f"{changed}: {self.refuses}", is_behind=True)
            raise PolicyRejected(self.refuses)
        self._renew()
        assert entry.placed
        self.entry = replace(self.entry, placed=replace(entry.placed, serial=entry.placed.serial + 1))
        return entry.placed.serial + 1

    def note(self, entry: Entry, error: str) -> None:
        assert entry is self.entry
        self.entry = replace(entry, error=error, is_behind=True)

    def check_after(self, seconds: float) -> int:
        """How often the policy was followed until then."""
        self.now += seconds
        self.keeper.check()
        return len(self.followed)


@pytest.fixture
def node() -> _Node:
    return _Node()


def test_probed_files_are_those_of_the_hooks_and_of_their_types() -> None:
    assert probed_paths(probing()) == {LIBRARY, TYPES}
    assert probed_paths(read(lseek_policy("a"))[0]) == frozenset()


def test_files_that_stay_are_left_alone(node: _Node) -> None:
    assert [node.check_after(2) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("path", [LIBRARY, TYPES])
def test_another_file_is_followed_once(node: _Node, path: str) -> None:
    node.files[path] = 7
    assert [node.check_after(2) for _ in range(3)] == [1, 1, 1]
    assert node.followed == [f"{path} was replaced or changed, and probes are on what was there before"]
    assert node.entry.error == ""


def test_failure_is_listed_and_tried_again_ever_more_seldom(node: _Node) -> None:
    del node.files[LIBRARY]
    node.refuses = "it has no symbol"
    assert node.check_after(0) == 1
    assert node.entry.error == f"{LIBRARY} is gone, and probes are on what was there before: it has no symbol"
    waits = [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    for number, wait in enumerate(waits, 1):
        assert (node.check_after(wait - 0.5), node.check_after(0.5)) == (number, number + 1)
    node.refuses, node.files[LIBRARY] = "", 9
    assert (node.check_after(MAX_WAIT_S), node.entry.error) == (5, "")
    assert node.check_after(2) == 5


def test_file_that_is_back_ends_the_failure(node: _Node) -> None:
    """The very same one, as when something was mounted over it."""
    node.refuses = "no"
    known = node.files.pop(LIBRARY)
    node.check_after(0)
    node.files[LIBRARY], node.refuses = known, ""
    assert (node.check_after(FIRST_WAIT_S), node.entry.error) == (2, "")
    assert node.followed[-1] == "files were replaced, and probes are on what was there before"


def test_file_that_changes_all_the_time_is_followed_seldom_and_that_is_listed(node: _Node) -> None:
    for second in range(3600):
        node.files[LIBRARY] = 100 + second
        node.check_after(1)
    assert 5 <= len(node.followed) <= 13
    assert "too often: they follow later" in node.entry.error
    assert node.check_after(MAX_WAIT_S) > 5
    followed = len(node.followed)
    node.now += 3 * MAX_WAIT_S
    node.files[LIBRARY] = 1
    assert node.check_after(0) == followed + 1
    node.files[LIBRARY] = 2
    assert node.check_after(FIRST_WAIT_S) == followed + 2, "it was calm, so it begins anew"


def test_file_that_is_back_before_it_was_followed_ends_what_was_listed(node: _Node) -> None:
    """As when a directory is moved away and back, soon after a change."""
    node.files[LIBRARY] = 7
    assert node.check_after(0) == 1
    del node.files[LIBRARY]
    assert (node.check_after(2), node.entry.is_behind) == (1, True)
    node.files[LIBRARY] = 7
    node.check_after(2)
    node.check_after(FIRST_WAIT_S)
    assert (node.entry.error, node.entry.is_behind) == ("", False)


def test_error_of_another_attempt_does_not_hide_that_probes_are_behind(node: _Node) -> None:
    node.files[LIBRARY] = 7
    assert node.check_after(0) == 1
    node.entry = replace(node.entry, error="its new text has faults")
    node.files[LIBRARY] = 8
    assert (node.check_after(2), node.entry.is_behind) == (1, True)


def test_policy_that_was_added_again_begins_anew(node: _Node) -> None:
    node.files[LIBRARY] = 7
    assert node.check_after(0) == 1
    assert node.entry.placed
    node.entry = replace(node.entry, placed=replace(node.entry.placed, serial=999))
    node.files[LIBRARY] = 8
    assert node.check_after(2) == 2


def test_policy_that_is_not_in_force_is_not_followed(node: _Node) -> None:
    node.files[LIBRARY] = 7
    node.entry = replace(node.entry, placed=None)
    assert node.check_after(2) == 0


def test_keeper_looks_by_itself_and_stops(tmp_path: Path) -> None:
    node = _Node()
    file = tmp_path / "file"
    file.touch()
    keeper = FileKeeper(node, lambda _: UserFiles().identity(str(file)))
    keeper.start()
    try:
        wait_until(lambda: node.followed, 10.0, "the files to be looked at")
    finally:
        keeper.stop()
    followed = len(node.followed)
    keeper.check()
    assert followed == 1
