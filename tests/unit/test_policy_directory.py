# SPDX-License-Identifier: Apache-2.0
"""What an agent starts with: what keeps it from starting, and what keeps out nothing but itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agent.config import StartError
from agent.policy_directory import load_directory, read_directory
from agent.policy_entry import PolicyState
from tests.support.policy_stage import Stage, version
from tests.support.workload import kprobe, policy


@pytest.fixture
def stage() -> Stage:
    return Stage()


def write(directory: Path, **documents: dict[str, Any]) -> None:
    for name, document in documents.items():
        (directory / f"{name}.json").write_text(json.dumps(document))


def faulty(name: str) -> dict[str, Any]:
    return policy(name, kprobe("fork", {0: "int"}), kprobe("vfork", {0: "int"}))


def test_all_policies_are_one_change(stage: Stage, tmp_path: Path) -> None:
    write(tmp_path, a=version("a", 1), b=version("b", 2))
    (tmp_path / "notes.txt").write_text("kind: Pod")
    load_directory(stage.store, tmp_path)
    assert stage.log[:4] == ["facts", "prepare 1", "prepare 2", "compile lseek [1, 2]"]


def test_every_fault_of_every_file_is_a_refusal_to_start(tmp_path: Path) -> None:
    write(tmp_path, a={"kind": "Pod"}, b={"kind": "Job"}, c=version("c", 1))
    with pytest.raises(StartError) as caught:
        read_directory(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path}/a.json:1:" in text
    assert f"{tmp_path}/b.json:1:" in text


def test_a_policy_that_is_there_twice_is_a_refusal_to_start(tmp_path: Path) -> None:
    write(tmp_path, a=version("a", 1), b=version("a", 2))
    text = f"{tmp_path}/b.json:1:1: the policy a is at {tmp_path}/a.json:1:1 too, give it another name"
    with pytest.raises(StartError) as caught:
        read_directory(tmp_path)
    assert str(caught.value) == text


def test_what_this_node_cannot_do_keeps_out_nothing_else(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    caplog.set_level(logging.INFO, "podgate")
    write(tmp_path, a=faulty("a"), b=version("b", 1), c=version("c", 2), d=faulty("d"))
    load_directory(stage.store, tmp_path)
    assert stage.rules.slots == {"lseek": [1, 2]}
    assert {name: state for name, (state, _) in stage.listed().items()} == {
        **dict.fromkeys(("a", "d"), PolicyState.LOAD_ERROR),
        **dict.fromkeys(("b", "c"), PolicyState.ENABLED),
    }
    first, *others = caplog.records
    faults = vars(first)["fields"]["error"].splitlines()
    assert [fault.partition(":")[0] for fault in faults] == [f"{tmp_path}/{name}.json" for name in "aadd"]
    told = [(each.levelname, vars(each)["fields"]["policy"], vars(each)["fields"]["state"]) for each in others]
    assert told == [
        ("ERROR", "a", "load_error"),
        ("INFO", "b", "enabled"),
        ("INFO", "c", "enabled"),
        ("ERROR", "d", "load_error"),
    ]


def test_what_the_kernel_refuses_is_tried_one_by_one(stage: Stage, tmp_path: Path) -> None:
    write(tmp_path, a=version("a", 1), b=version("b", 2))
    stage.rules.fail = True
    load_directory(stage.store, tmp_path)
    assert stage.log.count("facts") == 3
    assert stage.listed() == dict.fromkeys(("a", "b"), (PolicyState.LOAD_ERROR, True))
