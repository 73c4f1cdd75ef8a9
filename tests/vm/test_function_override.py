# SPDX-License-Identifier: Apache-2.0
"""Override: a call that a policy refuses neither happens nor returns what it would have, also while policies change."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bpf_objects import bpf_objects
from tests.support.function_hooks import (
    INJECTION_LIST,
    RETURNS_INT,
    Told,
    function,
    lsm_hook,
    openat,
    override,
    policies,
    refusal,
    select,
)
from tests.support.language import (
    Document,
    act,
    arg,
    condition,
    counts,
    document,
    marker_policy,
    set_mode,
    status_of,
)
from tests.support.wait import wait_until
from tests.support.workload import RUN_S, Cgroup, Node, step, steps

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.timeout(120)]

EPERM, ENOENT, EACCES, ENODEV, EBADF = 1, 2, 13, 19, 9
KILL = act("Sigkill")
MORE = 3
MONITOR = [{"name": "policy-mode", "value": "monitor"}]
injecting = pytest.mark.skipif(not INJECTION_LIST.exists(), reason="this kernel has no function error injection")
not_injecting = pytest.mark.skipif(INJECTION_LIST.exists(), reason="this kernel has function error injection")


def opening(path: Path, *then: Mapping[str, Any], operator: str = "Equal") -> Document:
    """A hook on files that are opened."""
    return function(
        "security_file_open", arg(0, "file"), selectors=[select(condition(0, operator, str(path)), then=then)]
    )


def seeking(error: int, *then: Mapping[str, Any], call: str = "lseek") -> Document:
    """A hook on lseek(MINUS_7)."""
    return {
        "call": call,
        "args": [arg(0, "int")],
        "selectors": [select(condition(0, "Equal", -7), then=(override(error), *then))],
    }


@pytest.fixture(scope="module")
def kept(scratch: Path) -> Path:
    """A file that policies refuse to open."""
    path = scratch / "kept"
    path.write_text("secret\n")
    (scratch / "free").write_text("free\n")
    return path


def standing(kept: Path) -> list[Document]:
    """All policies that are in force throughout, each for a namespace of its own."""
    both = function(
        "security_file_open",
        arg(0, "file"),
        selectors=[
            select(condition(0, "Equal", str(kept)), then=[override(ENODEV)]),
            select(condition(0, "Prefix", str(kept)), then=[override(EPERM)]),
        ],
    )
    verdict = lsm_hook(
        "file_open", arg(0, "file"), selectors=[select(condition(0, "Equal", str(kept)), then=[override(EACCES)])]
    )
    return [
        marker_policy(),
        document("ended", "ended", kprobes=[opening(kept, override(EPERM), KILL)]),
        document("refused", "refused", kprobes=[opening(kept, override(EACCES))]),
        document("watched", "watched", kprobes=[opening(kept, override(EACCES), KILL)], options=MONITOR),
        document("first", "two", kprobes=[opening(kept, override(ENOENT))]),
        document("second", "two", kprobes=[opening(kept, override(EPERM))]),
        document("selectors", "selectors", kprobes=[both]),
        document("verdict", "verdict", lsmhooks=[verdict]),
        document("returned", "returned", kprobes=[opening(kept, override(EACCES)) | RETURNS_INT]),
    ]


@pytest.fixture(scope="class")
def in_force(node: Node, kept: Path) -> Iterator[None]:
    with policies(node, *map(json.dumps, standing(kept))):
        yield


@pytest.mark.usefixtures("in_force")
class TestStanding:
    """Under policies that stay."""

    @pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_TRUNC])
    def test_with_a_signal_the_call_neither_happens_nor_returns(
        self, node: Node, kept: Path, told: Told, flags: int
    ) -> None:
        with node.container("ended") as group:
            ended = group.run(steps(openat(kept, flags), step("getpid")))
            assert (ended.killed, ended.results) == (True, ())
            (event,) = told.of(group)
        assert kept.read_text() == "secret\n"
        assert event["actions"] == ["POST", "OVERRIDE EPERM", "SIGKILL"]
        assert (event["action"], event["enforced"]) == ("SIGKILL", True)

    def test_without_one_the_call_returns_the_error(self, node: Node, kept: Path, told: Told) -> None:
        with node.container("refused") as group:
            ended = group.run(steps(openat(kept), openat(kept, os.O_WRONLY | os.O_TRUNC), openat(kept.parent / "free")))
            assert ended.results == (-EACCES, -EACCES, 3)
            events = told.of(group)
        assert [event["actions"] for event in events] == [["POST", "OVERRIDE EACCES"]] * 2
        assert kept.read_text() == "secret\n"
        with node.container("nobody's") as group:
            assert group.run(openat(kept)).results == (3,)

    def test_function_that_was_refused_returns_the_error_to_its_own_hook(
        self, node: Node, kept: Path, told: Told
    ) -> None:
        with node.container("returned") as group:
            assert group.run(openat(kept)).results == (-EACCES,)
            (event,) = told.of(group)
        assert event["return"] == {"type": "int", "value": -EACCES, "error": "EACCES"}

    def test_monitor_mode_counts_and_lets_pass(self, node: Node, kept: Path, told: Told) -> None:
        before = counts(node, "watched").get("monitor_override", 0)
        with node.container("watched") as group:
            assert group.run(openat(kept)).results == (3,)
            (event,) = told.of(group)
            assert (event["mode"], event["would"]) == ("monitor", ["OVERRIDE EACCES", "SIGKILL"])
            assert counts(node, "watched")["monitor_override"] == before + 1
            set_mode(node, "watched", "watched", "enforce")
            assert group.run(openat(kept)).killed
            set_mode(node, "watched", "watched", "monitor")
            assert group.run(openat(kept)).results == (3,)

    def test_the_first_that_matches_says_the_error(self, node: Node, kept: Path, told: Told) -> None:
        with node.container("two") as group:
            assert group.run(openat(kept)).results == (-ENOENT,)
            events = told.of(group)
        assert [event["policy"]["name"] for event in events] == ["first", "second"]
        with node.container("selectors") as group:
            assert group.run(openat(kept)).results == (-ENODEV,)

    def test_verdict_of_the_security_module_is_the_result(self, node: Node, kept: Path, told: Told) -> None:
        with node.container("verdict") as group:
            ended = group.run(steps(openat(kept), openat(kept.parent / "free")))
            assert ended.results == (-EACCES, 3)
            (event,) = told.of(group)
        assert (event["hook"], event["function"], event["actions"]) == (
            "lsmhook",
            "file_open",
            ["POST", "OVERRIDE EACCES"],
        )

    def test_more_policies_on_a_function_take_no_more_links(self, node: Node, kept: Path) -> None:
        """They share a dispatcher."""
        before = bpf_objects(node)["links"]
        more = [document(f"more{n}", f"more{n}", kprobes=[opening(kept, override(EPERM))]) for n in range(MORE)]
        node.add(*more)
        try:
            assert bpf_objects(node)["links"] == before
            for name in ("more0", f"more{MORE - 1}"):
                with node.container(name) as group:
                    assert group.run(openat(kept)).results == (-EPERM,)
        finally:
            for each in more:
                node.agent.control.delete(each["metadata"]["name"], each["metadata"]["namespace"])


@not_injecting
def test_system_calls_are_not_overridden_without_error_injection(node: Node) -> None:
    said = refusal(node, document("seek", "seek", kprobes=[seeking(EACCES)]))
    assert "Override is not possible" in said
    assert "podgate doctor" in said


@injecting
def test_system_call_returns_the_error_instead_of_running(node: Node, told: Told) -> None:
    texts = (json.dumps(each) for each in (marker_policy(), document("seek", "seek", kprobes=[seeking(EACCES)])))
    with policies(node, *texts), node.container("seek") as group:
        ended = group.run(steps(step("lseek", -7, 0, 0), step("lseek", -1, 0, 0)))
        assert ended.results == (-EACCES, -EBADF)
        (event,) = told.of(group)
    assert (event["function"], event["actions"]) == ("__x64_sys_lseek", ["POST", "OVERRIDE EACCES"])


@injecting
def test_system_call_neither_happens_nor_returns(node: Node, scratch: Path) -> None:
    made = {
        "call": "mkdir",
        "args": [arg(0, "string")],
        "selectors": [select(condition(0, "Postfix", "/made"), then=[override(EPERM), KILL])],
    }
    with policies(node, json.dumps(document("mkdir", "mkdir", kprobes=[made]))), node.container("mkdir") as group:
        assert group.run(step("mkdir", str(scratch / "made"), 0o755)).killed
        assert group.run(step("mkdir", str(scratch / "other"), 0o755)).results == (0,)
    assert not (scratch / "made").exists()


def test_function_that_nobody_can_override_is_refused(node: Node) -> None:
    hook = function("tcp_connect", arg(0, "sock"), selectors=[select(condition(0, "DPort", 9), then=[override(EPERM)])])
    said = refusal(node, document("connect", "connect", kprobes=[hook]))
    assert 'Override is not possible on "tcp_connect"' in said or "Override is not possible on 'tcp_connect'" in said
    assert "podgate doctor" in said


@pytest.mark.parametrize(
    "hooks",
    [
        {"kprobes": [function("security_bprm_committed_creds", selectors=[select(then=[override(EPERM)])])]},
        {"lsmhooks": [lsm_hook("bprm_committed_creds", selectors=[select(then=[override(EPERM)])])]},
    ],
    ids=["kprobe", "lsm"],
)
def test_function_that_returns_nothing_is_refused(node: Node, hooks: dict[str, Any]) -> None:
    assert "returns nothing" in refusal(node, document("nothing", "nothing", **hooks))


def test_refused_hook_takes_the_policys_other_hooks_along(node: Node, kept: Path) -> None:
    nothing = function("security_bprm_committed_creds", selectors=[select(then=[override(EPERM)])])
    refusal(node, document("mixed", "mixed", kprobes=[opening(kept, override(EPERM)), nothing]))
    with node.container("mixed") as group:
        assert group.run(openat(kept)).results == (3,)


# While policies change.


class Storm:
    """Two threads that open a file as fast as they can."""

    def __init__(self, program: Path, group: Cgroup, path: Path) -> None:
        words = [str(program), str(group.path), "storm", "2", str(path)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        assert self._process.stdout.readline() == "running\n"

    def end(self) -> dict[str, int]:
        """How often it came out how."""
        out, _ = self._process.communicate("\n", timeout=RUN_S)
        names = ("opened", "other", "EPERM", "EACCES", "else")
        return dict(zip(names, map(int, out.split()), strict=True))

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def storm(program: Path, group: Cgroup, path: Path) -> Iterator[Storm]:
    running = Storm(program, group, path)
    try:
        yield running
    finally:
        running.kill()


def test_no_call_passes_unchecked_between_old_rules_and_new_ones(
    node: Node, functions_program: Path, kept: Path
) -> None:
    """Another policy comes and goes on the same function, and the policy itself is replaced."""
    old = document("changing", "changing", kprobes=[opening(kept, override(EPERM), act("NoPost"))])
    new = document("changing", "changing", kprobes=[opening(kept, override(EACCES), act("NoPost"))])
    other = document("other", "other", kprobes=[opening(kept, override(EPERM))])
    with (
        policies(node, json.dumps(old)),
        node.container("changing") as group,
        storm(functions_program, group, kept) as running,
    ):
        node.add(new)
        node.add(other)
        node.add(old)
        node.agent.control.delete("other", "other")
        assert status_of(node, "changing").containers == 1
        came = running.end()
    assert (came["opened"], came["other"], came["else"]) == (0, 0, 0)
    assert min(came["EPERM"], came["EACCES"]) > 100


def test_calls_pass_when_the_policy_is_gone(node: Node, functions_program: Path, kept: Path) -> None:
    """The last one on its function: programs and links go while calls run through them."""
    only = document("only", "only", kprobes=[opening(kept, override(EPERM), act("NoPost"))])
    before = bpf_objects(node)
    with node.container("only") as group, storm(functions_program, group, kept) as running:
        with policies(node, json.dumps(only)):
            pass
        assert group.run(openat(kept)).results == (3,)
        came = running.end()
    assert min(came["opened"], came["EPERM"]) > 100
    assert (came["other"], came["EACCES"], came["else"]) == (0, 0, 0)
    wait_until(lambda: bpf_objects(node) == before, 10.0, f"{before}, there are {bpf_objects(node)}")
