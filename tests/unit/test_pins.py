# SPDX-License-Identifier: Apache-2.0
"""The agent's directory of pins, on an ordinary file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kernel.errors import KernelError
from agent.kernel.pins import Pins, remove_tree


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "podgate")


def _pin(pins: Pins, *names: str) -> None:
    for name in names:
        (pins.links / name).touch()
    (pins.maps / "bindings").touch()


def _names(directory: Path) -> list[str]:
    """Of the pins, those of an agent after those of its predecessor, maps first."""
    return [
        path.name
        for path in sorted(
            directory.glob("*/*/*"), key=lambda path: (path.parts[-3], path.parts[-2] == "links", path.name)
        )
    ]


def test_a_first_agent_finds_nothing_and_has_empty_directories(pins: Pins) -> None:
    assert pins.prepare() is False
    assert (list(pins.maps.iterdir()), list(pins.links.iterdir())) == ([], [])
    assert pins.directory.stat().st_mode & 0o777 == 0o700


def test_what_an_earlier_agent_left_is_set_aside(pins: Pins) -> None:
    pins.prepare()
    _pin(pins, "a", "b")
    assert pins.prepare() is True
    assert list(pins.links.iterdir()) == []
    assert _names(pins.previous) == ["bindings", "a", "b"]


def test_releasing_the_earlier_agents_gives_how_many_links_it_had(pins: Pins) -> None:
    pins.prepare()
    _pin(pins, "a", "b")
    pins.prepare()
    _pin(pins, "mine")
    assert pins.release_previous() == 2
    assert not pins.previous.exists()
    assert (pins.links / "mine").exists()


def test_releasing_twice_is_harmless(pins: Pins) -> None:
    pins.prepare()
    assert pins.release_previous() == 0
    pins.release()
    pins.release()
    assert not pins.directory.exists()


def test_what_several_crashed_agents_left_is_all_kept_and_released(pins: Pins) -> None:
    """The second may have crashed before its rules were in force: the first one's must stay."""
    for name in ("first", "second"):
        pins.prepare()
        _pin(pins, name)
    assert pins.prepare() is True
    assert _names(pins.previous) == ["bindings", "first", "bindings", "second"]
    assert pins.release_previous() == 2
    assert not pins.previous.exists()


def test_an_agent_that_crashed_before_it_released_the_earlier_one_is_known(pins: Pins) -> None:
    """Only the directory set aside is left: its rules are in force still."""
    pins.prepare()
    _pin(pins, "a")
    pins.prepare()
    pins.release()
    assert pins.prepare() is True
    assert pins.release_previous() == 1


def test_links_go_before_maps(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.prepare()
    _pin(pins, "a")
    removed: list[str] = []
    unlink = Path.unlink

    def note(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.parent.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    pins.release()
    assert removed == ["links", "maps"]


def test_a_place_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match="must be on a writable bpffs"):
        Pins(tmp_path / "file/podgate").prepare()


def test_a_tree_that_is_not_there_is_removed(tmp_path: Path) -> None:
    remove_tree(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
