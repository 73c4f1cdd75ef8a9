# SPDX-License-Identifier: Apache-2.0
"""What examples/ has in each folder, and how its outcomes are compared."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.policy.reader import parse_policies
from tests.support.examples import (
    EXAMPLES,
    Expected,
    Outcome,
    differences,
    example_names,
    matches,
    read_example,
    socket_address,
    with_policy,
)

EVENT = {"a": 1, "b": [{"c": 2, "d": 3}]}


@pytest.mark.parametrize("name", example_names())
def test_every_example_is_complete(name: str, tmp_path: Path) -> None:
    assert {path.name for path in (EXAMPLES / name).iterdir()} == {"policy.yaml", "trigger.yaml", "expected.yaml"}
    (policy,) = parse_policies((EXAMPLES / name / "policy.yaml").read_bytes(), name)
    assert policy.name == name
    assert f"[`{name}`]({name}/policy.yaml)" in (EXAMPLES / "README.md").read_text()
    example = read_example(name, tmp_path, Path("/calls"))
    assert {run.name for run in example.runs} == set(example.expected)
    assert any(expected.events for expected in example.expected.values())
    assert any(not expected.events for expected in example.expected.values())


def test_the_page_names_every_example_and_no_others() -> None:
    assert len(example_names()) == 17
    assert (EXAMPLES / "README.md").read_text().count("/policy.yaml) |") == 17


def test_placeholders_and_files(tmp_path: Path) -> None:
    example = read_example("privilege-gain", tmp_path, Path("/calls"))
    setuid = tmp_path / "setuid"
    assert setuid.stat().st_mode & 0o7777 == 0o4755
    assert [run.words[-2] for run in example.runs if run.name == "as-root"] == [str(setuid)]
    assert "{" not in "".join(word for run in example.runs for word in run.words)


def test_parts_of_an_event_are_compared() -> None:
    assert matches({"b": [{"c": 2}]}, EVENT)
    assert not matches({"b": [{"c": 3}]}, EVENT)
    assert not matches({"b": []}, EVENT)
    assert not matches({"e": None}, EVENT)


def test_what_differs_is_named() -> None:
    expected = {"one": Expected(0, ({"a": 1},)), "two": Expected(-9, ()), "three": Expected(None, ())}
    assert differences(expected, {"one": Outcome(0, (EVENT,)), "two": Outcome(-9, ()), "three": Outcome(5, ())}) == []
    found = {"one": Outcome(0, ({"a": 2},)), "two": Outcome(0, (EVENT,)), "four": Outcome(0, ())}
    lines = differences(expected, found)
    assert lines[0] == "four: not in expected.yaml"
    assert lines[1].startswith("one: event 0 is")
    assert lines[2] == "three: not in trigger.yaml"
    assert lines[3].startswith("two: 1 events instead of 0")
    assert lines[4] == "two: ended with 0 instead of -9"


def test_socket_addresses() -> None:
    address = socket_address("10.1.2.3", 443)
    assert (len(address), address[2:4], address[4:8]) == (16, b"\x01\xbb", bytes([10, 1, 2, 3]))
    address = socket_address("2001:db8::7", 53)
    assert (len(address), address[2:4], address[8:24]) == (
        28,
        b"\0\x35",
        socket.inet_pton(socket.AF_INET6, "2001:db8::7"),
    )


def test_a_line_that_is_not_there_cannot_be_changed(tmp_path: Path) -> None:
    example = read_example("shell-input", tmp_path, Path("/calls"))
    assert "wget" not in with_policy(example, "wget ", "fetch ").policy
    with pytest.raises(ValueError, match="does not say"):
        with_policy(example, "no such text", "")
