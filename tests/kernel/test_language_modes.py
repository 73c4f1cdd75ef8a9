# SPDX-License-Identifier: Apache-2.0
"""Monitor mode, counters, and change under load."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.language import (
    Document,
    Heard,
    act,
    arg,
    build_subject,
    condition,
    counts,
    document,
    hearing,
    marker_policy,
    selector_counts,
    set_mode,
    status_of,
    subject,
)
from tests.support.workload import Node, start_node, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KILL, POST, USR1 = act("Sigkill"), act("Post"), act("Signal", argSig=10)
MONITOR = [{"name": "policy-mode", "value": "monitor"}]
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}
AT_RETURN = {"matchReturnArgs": [condition(0, "LT", 0)], "matchReturnActions": [KILL]}


def lseek(*selectors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"call": "lseek", "args": [arg(0, "int")], "selectors": list(selectors)} | fields


def when(number: int, *actions: dict[str, Any]) -> dict[str, Any]:
    return {"matchArgs": [condition(0, "Equal", number)], "matchActions": list(actions)}


ACTIONS = (KILL, act("Signal", argSig=10), act("NotifyEnforcer", argSig=9), act("NoPost"))
ENFORCERS = [{"calls": ["sys_getpgid"]}]
POLICIES = (
    marker_policy(),
    document("watched", "watched", kprobes=[lseek(when(-1, KILL), when(-2, USR1))], options=MONITOR),
    document("returned", "returned", kprobes=[lseek(AT_RETURN, **RETURNS)], options=MONITOR),
    document("noted", "noted", kprobes=[lseek(when(-1, ACTIONS[2]))], enforcers=ENFORCERS, options=MONITOR),
    document("switched", "switched", kprobes=[lseek(when(-1, KILL)), lseek(AT_RETURN, **RETURNS)]),
    document(
        "counted",
        "counted",
        kprobes=[
            lseek(when(-1, POST), when(-2, act("NoPost")), when(-3, USR1, act("NoPost"))),
            {"call": "access", "args": [arg(0, "string")], "selectors": [{"label": "any", "matchActions": [POST]}]},
        ],
    ),
    document(
        "silent",
        "silent",
        kprobes=[lseek(when(-1, act("NoPost")), when(-2, USR1, act("NoPost")), when(-3, POST), **RETURNS)],
    ),
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def scene(calls_program: Path) -> Iterator[Node]:
    with start_node(calls_program) as node:
        node.add(*POLICIES)
        yield node


@pytest.fixture(scope="module")
def heard(scene: Node) -> Iterator[Heard]:
    with hearing(scene) as heard:
        yield heard


def test_monitor_mode_counts_what_it_leaves_out(scene: Node, heard: Heard) -> None:
    with scene.container("watched") as group:
        ended = group.run(steps(step("lseek", -1, 0, 0), step("lseek", -2, 0, 0)))
    assert (ended.status, len(ended.results)) == (0, 2)
    first, second = heard.all(ended.pid)
    assert (first["mode"], first["would"], first["actions"]) == ("monitor", ["SIGKILL"], ["POST"])
    assert second["would"] == ["SIGNAL SIGUSR1"]
    assert "enforced" not in first
    assert counts(scene, "watched") == {"post": 2, "monitor_sigkill": 1, "monitor_signal": 1}


def test_monitor_mode_holds_at_the_return_too(scene: Node, heard: Heard) -> None:
    with scene.container("returned") as group:
        ended = group.call("lseek", -1, 0, 0)
    (event,) = heard.all(ended.pid)
    assert (ended.status, event["mode"], event["would"]) == (0, "monitor", ["SIGKILL"])
    assert selector_counts(scene, "returned")["lseek", 0, True] == {"post": 1, "monitor_sigkill": 1}


def test_monitor_mode_notifies_nobody(scene: Node) -> None:
    with scene.container("noted") as group:
        assert group.run(steps(step("lseek", -1, 0, 0), step("getpgid", 0))).status == 0
    assert counts(scene, "noted") == {"post": 1, "monitor_notify_enforcer": 1}


def test_mode_is_switched_while_rules_run(scene: Node) -> None:
    with scene.container("switched") as group:
        assert group.call("lseek", -1, 0, 0).killed
        set_mode(scene, "switched", "switched", "monitor")
        assert status_of(scene, "switched").mode == "monitor"
        assert group.call("lseek", -1, 0, 0).status == 0
        assert group.call("lseek", -2, 0, 0).status == 0, "a return action"
        set_mode(scene, "switched", "switched", "enforce")
        assert group.call("lseek", -1, 0, 0).killed
        assert group.call("lseek", -2, 0, 0).killed


def test_counters_are_those_of_each_selector(scene: Node) -> None:
    with scene.container("counted") as group:
        calls = [step("lseek", -1, 0, 0), step("lseek", -1, 0, 0), step("lseek", -2, 0, 0), step("access", "/", 0)]
        assert group.run(steps(*calls)).status == 0
        assert group.call("lseek", -3, 0, 0).status == -signal.SIGUSR1
    assert selector_counts(scene, "counted") == {
        ("lseek", 0, False): {"post": 2},
        ("lseek", 1, False): {"nopost": 1},
        ("lseek", 2, False): {"nopost": 1, "signal": 1},
        ("access", 0, False): {"post": 1},
    }
    assert counts(scene, "counted") == {"post": 3, "nopost": 2, "signal": 1}
    assert [one.label for one in status_of(scene, "counted").selectors if one.function == "access"] == ["any"]


def test_no_event_of_a_hook_with_a_return_is_counted_too(scene: Node, heard: Heard) -> None:
    """Nothing is left to do at the return then, so it is counted at the entry, with a signal and without."""
    with scene.container("silent") as group:
        calls = [step("lseek", -1, 0, 0), step("lseek", -1, 0, 0), step("lseek", -3, 0, 0)]
        quiet = group.run(steps(*calls))
        assert group.call("lseek", -2, 0, 0).status == -signal.SIGUSR1
    assert [event["selector"] for event in heard.all(quiet.pid)] == [2]
    assert selector_counts(scene, "silent") == {
        ("lseek", 0, False): {"nopost": 2},
        ("lseek", 1, False): {"nopost": 1, "signal": 1},
        ("lseek", 2, False): {"post": 1},
    }


def versions(name: str) -> Iterator[Document]:
    """All say the same of lseek(-1), each in other words: another number of rules, another hook beside them."""
    for number in itertools.count():
        other = [lseek(when(-100 - n, KILL)) for n in range(number % 2 * 70)]
        yield document(name, name, kprobes=[*other, lseek(when(-1, USR1, act("NoPost")), when(-200 - number, KILL))])


def test_no_call_escapes_while_policies_change(scene: Node, program: Path) -> None:
    """A thread's signal is delivered on its way back to user mode: each call has had its own when the next begins."""
    made = versions("stormy")
    scene.add(next(made))
    with ExitStack() as stack:
        group = stack.enter_context(scene.container("stormy"))
        storms = [stack.enter_context(subject(program, group)) for _ in range(2)]
        for storm in storms:
            storm.say("storm")
        for _ in range(4):
            scene.add(next(made))
        found = [storm.stop_storm() for storm in storms]
    assert all(calls == signals and calls > 0 for calls, signals in found), found


def test_modes_switch_in_the_middle_of_calls(scene: Node, program: Path) -> None:
    """Every call is counted once, in the one mode or the other."""
    scene.add(document("flip", "flip", kprobes=[lseek(when(-1, USR1, act("NoPost")))]))
    with scene.container("flip") as group, subject(program, group) as storm:
        storm.say("storm")
        for mode in ("monitor", "enforce") * 10:
            set_mode(scene, "flip", "flip", mode)
        calls, signals = storm.stop_storm()
    found = counts(scene, "flip")
    assert (found["signal"] + found["monitor_signal"], found["nopost"]) == (calls, calls)
    assert found["signal"] == signals
    assert 0 < signals < calls
