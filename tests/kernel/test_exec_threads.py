# SPDX-License-Identifier: Apache-2.0
"""An execve by a thread that is not its group's leader: the thread has the leader's id when it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.policy.codegen_unit import Side
from tests.support.language import act, arg, condition, counts, document, hearing, marker_policy, status_of, values
from tests.support.workload import Cgroup, Ended, Node, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

RETURN = {"return": True, "returnArg": {"index": 0, "type": "int"}}
MANY = 70  # hooks, more than one program has
MISSING = "/does/not/exist"


def execve(path: Path, **fields: Any) -> dict[str, Any]:
    matches = {"matchArgs": [condition(0, "Equal", str(path), MISSING)]}
    return {"call": "execve", "args": [arg(0, "string")], "selectors": [matches]} | fields


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.symlink_to("/bin/true")
    return path


def run(group: Cgroup, *paths: Path | str, leader: bool = False) -> Ended:
    first = () if leader else (["thread"],)
    return group.run(steps(*first, *(step("execve", str(path), 0, 0) for path in paths)))


@pytest.mark.parametrize("leader", [True, False])
def test_return_is_reported(node: Node, target: Path, leader: bool) -> None:
    node.add(marker_policy(), document("exec", "exec", kprobes=[execve(target, **RETURN)]))
    with hearing(node) as heard, node.container("exec") as group:
        ended = run(group, target, leader=leader)
        assert ended.status == 0
        (event,) = heard.all(ended.pid)
    assert (values(event), event["return"]["value"]) == ([str(target)], 0)
    assert node.counter("return_lost") == 0


def test_return_of_an_execve_that_fails_and_of_the_one_after_it(node: Node, target: Path) -> None:
    node.add(marker_policy(), document("exec", "exec", kprobes=[execve(target, **RETURN)]))
    with hearing(node) as heard, node.container("exec") as group:
        ended = run(group, MISSING, target)
        events = heard.all(ended.pid)
    assert [(values(event), event["return"]["value"]) for event in events] == [([MISSING], -2), ([str(target)], 0)]


def test_returns_of_rules_in_several_programs(node: Node, target: Path) -> None:
    node.add(marker_policy(), document("many", "exec", kprobes=[execve(target, **RETURN) for _ in range(MANY)]))
    (point,) = (hook for hook in node.agent.control.status().hooks if hook.name == "execve")
    assert point.programs > len(Side), "the rules are in one program"
    with hearing(node) as heard, node.container("exec") as group:
        ended = run(group, target)
        assert len(heard.all(ended.pid)) == MANY


def test_actions_at_the_return_are_carried_out(node: Node, target: Path) -> None:
    late = {"matchReturnArgs": [condition(0, "Equal", 0)], "matchReturnActions": [act("Sigkill")]}
    selector = execve(target)["selectors"][0] | late
    node.add(document("exec", "exec", kprobes=[execve(target, **RETURN, selectors=[selector])]))
    with node.container("exec") as group:
        assert run(group, target).killed
        assert run(group, MISSING).results == (-2,)


def test_enforcer_of_the_execve_itself(node: Node, target: Path) -> None:
    selector = execve(target)["selectors"][0] | {"matchActions": [act("NotifyEnforcer", argSig=9)]}
    hook = execve(target, selectors=[selector])
    node.add(document("notifier", "exec", kprobes=[hook], enforcers=[{"calls": ["execve"]}]))
    assert status_of(node, "notifier").error == ""
    with node.container("exec") as group:
        assert run(group, target).killed
    assert counts(node, "notifier")["notify_enforcer"] == 1
