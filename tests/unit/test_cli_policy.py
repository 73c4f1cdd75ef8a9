# SPDX-License-Identifier: Apache-2.0
"""podgate policy add, set-mode, delete and list: what the agent is asked, and how its answers are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api import control_pb2
from nri_plugin.ttrpc import Code
from tests.support.stage import Stage, policy_status, refuse

_GOOD = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicyNamespaced
metadata: {name: guard, namespace: shop}
spec: {kprobes: [{call: sys_lseek}, {call: sys_access}]}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A policy."""
    path = tmp_path / "good.yaml"
    path.write_text(_GOOD)
    return str(path)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_an_added_policy_is_told_with_its_notes_beside(stage: Stage, file: str) -> None:
    status = policy_status(change="added", milliseconds=340, notes=["32-bit calls are not covered"])
    stage.serve("AddPolicies", lambda: control_pb2.AddPoliciesResponse(policies=[status, status]))
    result = stage.run("policy", "add", file)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["shop/guard: added, enabled after 340 ms, selects 2 containers"] * 2
    assert result.stderr == "note: 32-bit calls are not covered\n"
    request = control_pb2.AddPoliciesRequest.FromString(stage.control.calls[0][1])
    assert (request.file, request.text.decode()) == (file, _GOOD)


def test_a_refused_policy_is_told_as_the_agent_says_it(stage: Stage) -> None:
    stage.serve("AddPolicies", refuse(Code.INVALID_ARGUMENT, "<stdin>:1:1: wrong, write it right"))
    result = stage.run("policy", "add", "-", text="x")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "<stdin>:1:1: wrong, write it right\n")


@pytest.mark.parametrize("args", [("shop/guard",), ("guard", "-n", "shop")])
def test_a_policy_is_deleted_by_both_spellings(stage: Stage, args: tuple[str, ...]) -> None:
    assert deleted(stage, *args) == [("guard", "shop")]


def test_several_policies_are_one_change(stage: Stage) -> None:
    wanted = [("guard", "shop"), ("a", ""), ("b", "shop")]
    assert deleted(stage, "shop/guard", "a", "shop/b") == wanted
    assert stage.run("policy", "delete").exit_code == 2


def deleted(stage: Stage, *args: str) -> list[tuple[str, str]]:
    """What the agent is asked to delete; it says so of one."""
    gone = policy_status(state="deleted", milliseconds=5)
    stage.serve("DeletePolicies", lambda: control_pb2.DeletePoliciesResponse(policies=[gone]))
    result = stage.run("policy", "delete", *args)
    assert (result.exit_code, result.stdout) == (0, "shop/guard: deleted after 5 ms\n")
    request = control_pb2.DeletePoliciesRequest.FromString(stage.control.calls[0][1])
    return [(policy.name, policy.namespace) for policy in request.policies]


def test_a_policy_that_is_not_there_is_a_refusal(stage: Stage) -> None:
    stage.serve("DeletePolicies", refuse(Code.NOT_FOUND, "no policy x here; there are: y"))
    result = stage.run("policy", "delete", "x")
    assert (result.exit_code, result.stderr) == (1, "no policy x here; there are: y\n")


def test_policies_are_a_table_and_one_not_in_force_is_a_status(stage: Stage) -> None:
    counts = {"post": 5, "sigkill": 2, "set": 1, "nopost": 9, "monitor_sigkill": 4, "monitor_override": 1}
    rows = [
        policy_status(
            actions=counts,
            kernel_memory_bytes=12_400,
            attached=["fentry __x64_sys_access", "fentry __x64_sys_lseek", "raw tracepoint sched_switch"],
        ),
        policy_status("1e5", "load_error", error="no room", id=0, hooks=[]),
    ]
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=rows))
    result = stage.run("policy", "list")
    header, first, second = result.stdout.splitlines()
    names = ["ID", "NAME", "NAMESPACE", "KIND", "STATE", "MODE", "CONTAINERS", "HOOKS", "ATTACHED"]
    assert header.split() == [*names, "KERNELMEMORY", "POST", "ENFORCED", "MONITORED", "ERROR"]
    assert first.split() == [
        *("7", "guard", "shop", "TracingPolicyNamespaced", "enabled", "enforce", "2", "access,lseek"),
        *("fentry,raw_tracepoint", "12.1", "KiB", "5", "3", "5"),
    ]
    assert second.split()[:2] == ["-", "1e5"]
    assert second.endswith("no room")
    assert result.exit_code == 1
    rows.pop()
    assert stage.run("policy", "list").exit_code == 0


def test_what_is_not_enforced_has_a_table_of_its_own(stage: Stage) -> None:
    gap = control_pb2.NotEnforced(section="kprobes[1]", name="fork", reason="call_not_found", source="p.yaml:9:5")
    rows = [policy_status(state="partial", not_enforced=[gap])]
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=rows))
    result = stage.run("policy", "list")
    _, row, empty, header, told = result.stdout.splitlines()
    assert ("partial" in row.split(), empty, result.exit_code) == (True, "", 0)
    assert header.split() == ["POLICY", "HOOK", "NOT", "ENFORCED", "REASON"]
    assert told.split() == ["shop/guard", "kprobes[1]", "fork", "call_not_found"]
    (found,) = json.loads(stage.run("policy", "list", "-o", "json").stdout)
    assert (found["state"], found["not_enforced"][0]["reason"]) == ("partial", "call_not_found")
    rows[0].state = "not_hooked"
    assert stage.run("policy", "list").exit_code == 1, "nothing of it is in force"


def test_what_an_added_policy_does_not_enforce_is_told(stage: Stage, file: str) -> None:
    gap = control_pb2.NotEnforced(section="uprobes[0]", name="/bin/x", reason="digest_rejected", source="p.yaml:9:5")
    status = policy_status(state="partial", change="added", milliseconds=3, not_enforced=[gap])
    stage.serve("AddPolicies", lambda: control_pb2.AddPoliciesResponse(policies=[status]))
    result = stage.run("policy", "add", file)
    assert result.stdout == "shop/guard: added, partial after 3 ms, selects 2 containers\n"
    assert result.stderr == "p.yaml:9:5: uprobes[0]: /bin/x is not enforced here: digest_rejected\n"


def test_the_faults_of_every_file_are_told(stage: Stage, file: str, tmp_path: Path) -> None:
    """And those without any are in force."""
    wrong = [refuse(Code.INVALID_ARGUMENT, f"{place}: wrong") for place in ("a:1:1", "b:2:2")]
    answers = iter([wrong[0], _added, wrong[1]])

    def answer() -> control_pb2.AddPoliciesResponse:
        made = next(answers)()
        assert isinstance(made, control_pb2.AddPoliciesResponse)
        return made

    stage.serve("AddPolicies", answer)
    result = stage.run("policy", "add", file, file, file)
    assert (result.exit_code, result.stderr) == (1, "a:1:1: wrong\nb:2:2: wrong\n")
    assert result.stdout == "shop/guard: added, enabled after 0 ms, selects 2 containers\n"
    stage.control.calls.clear()
    missing = stage.run("policy", "add", file, str(tmp_path / "nowhere"))
    assert (missing.exit_code, stage.control.calls) == (1, []), "nothing is added when a file cannot be read"


def _added() -> control_pb2.AddPoliciesResponse:
    return control_pb2.AddPoliciesResponse(policies=[policy_status(change="added")])


def test_many_hooks_are_counted_in_the_table(stage: Stage) -> None:
    row = policy_status(hooks=["a", "b", "c", "d", "e"])
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=[row]))
    assert "  a,b,c,+2  " in stage.run("policy", "list").stdout


def test_selectors_have_a_table_of_what_they_did(stage: Stage) -> None:
    selectors = [
        control_pb2.SelectorStatus(function="openat", selector=1, label="keys", actions={"sigkill": 2, "post": 3}),
        control_pb2.SelectorStatus(function="openat", selector=0, at_return=True, actions={"post": 1, "nopost": 0}),
    ]
    row = policy_status(selectors=selectors)
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=[row]))
    lines = stage.run("policy", "list", "--selectors").stdout.splitlines()
    assert lines[2:4] == ["", "POLICY      HOOK    SELECTOR    LABEL    AT      DID"]
    assert [line.split() for line in lines[4:]] == [
        ["shop/guard", "openat", "1", "keys", "entry", "post=3", "sigkill=2"],
        ["shop/guard", "openat", "0", "-", "return", "post=1"],
    ]
    assert "DID" not in stage.run("policy", "list").stdout


def test_policies_as_json_have_every_field(stage: Stage) -> None:
    row = policy_status(selectors=[control_pb2.SelectorStatus(function="lseek", actions={"post": 1})])
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=[row]))
    (found,) = json.loads(stage.run("policy", "list", "-o", "json").stdout)
    assert (found["name"], found["hooks"], found["error"], found["milliseconds"]) == (
        "guard",
        ["access", "lseek"],
        "",
        0,
    )
    assert found["selectors"][0]["actions"] == {"post": "1"}
    assert set(found) == set(control_pb2.PolicyStatus.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("args", "mode"), [((), ""), (("--mode", "monitor"), "monitor"), (("--mode", "enforce"), "enforce")]
)
def test_the_mode_of_an_addition_is_asked_for(stage: Stage, args: tuple[str, ...], mode: str) -> None:
    status = policy_status(change="added", mode=mode or "enforce", milliseconds=1)
    stage.serve("AddPolicies", lambda: control_pb2.AddPoliciesResponse(policies=[status]))
    result = stage.run("policy", "add", *args, "-", text=_GOOD)
    assert control_pb2.AddPoliciesRequest.FromString(stage.control.calls[0][1]).mode == mode
    assert ("in monitor mode" in result.stdout) is (mode == "monitor")


@pytest.mark.parametrize("args", [("shop/guard", "monitor"), ("guard", "monitor", "-n", "shop")])
def test_a_policy_is_switched_by_both_spellings(stage: Stage, args: tuple[str, ...]) -> None:
    status = policy_status(change="mode", mode="monitor", milliseconds=2)
    stage.serve("SetPolicyMode", lambda: control_pb2.SetPolicyModeResponse(policy=status))
    result = stage.run("policy", "set-mode", *args)
    assert (result.exit_code, result.stdout) == (0, "shop/guard: monitor after 2 ms\n")
    request = control_pb2.SetPolicyModeRequest.FromString(stage.control.calls[0][1])
    assert (request.name, request.namespace, request.mode) == ("guard", "shop", "monitor")
    (row,) = json.loads(stage.run("policy", "set-mode", *args, "-o", "json").stdout)
    assert row["mode"] == "monitor"


def test_a_policy_that_has_nothing_to_switch_is_a_refusal(stage: Stage) -> None:
    stage.serve("SetPolicyMode", refuse(Code.FAILED_PRECONDITION, "guard has no action that enforces"))
    result = stage.run("policy", "set-mode", "guard", "enforce")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "guard has no action that enforces\n")
