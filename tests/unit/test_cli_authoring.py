# SPDX-License-Identifier: Apache-2.0
"""podgate policy check, explain, show and schema, which need no agent."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api import control_pb2
from agent.kernel.mounts import read_mounts
from nri_plugin.ttrpc import Code
from tests.support.stage import Stage, policy_status, refuse

_GOOD = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicyNamespaced
metadata: {name: guard, namespace: shop}
spec: {kprobes: [{call: sys_lseek}, {call: sys_access}]}
"""
_BAD = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: guard}
spec: {kprobes: [{call: sys_lseek, selectors: [{matchArgs: [{index: 3, operator: Equal, values: ["1"]}]}]}, {call: no}]}
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A good policy and a faulty one."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(_GOOD)
    bad.write_text(_BAD)
    return str(good), str(bad)


def test_a_good_policy_is_checked_without_an_agent(stage: Stage, files: tuple[str, str]) -> None:
    result = stage.run("policy", "check", files[0])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{files[0]}:1:1: TracingPolicyNamespaced shop/guard on access, lseek: ok\n"


def test_every_fault_is_on_standard_error_with_its_place(stage: Stage, files: tuple[str, str]) -> None:
    result = stage.run("policy", "check", files[1], files[0])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.rpartition(": ")[0].removeprefix(files[1]).split(":")[1] for line in lines] == ["4", "4"]
    assert "matchArgs names argument 3" in lines[0]
    assert result.stdout.endswith("shop/guard on access, lseek: ok\n")


def test_a_check_as_json_has_policies_and_errors(stage: Stage, files: tuple[str, str]) -> None:
    result = stage.run("policy", "check", "-o", "json", *files)
    good, bad = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (1, "")
    assert good == {
        "policy": "shop/guard",
        "kind": "TracingPolicyNamespaced",
        "hooks": ["access", "lseek"],
        "source": f"{files[0]}:1:1",
        "errors": [],
    }
    assert (bad["policy"], bad["hooks"], bad["source"]) == (None, [], files[1])
    assert [(error["file"], error["line"]) for error in bad["errors"]] == [(files[1], 4), (files[1], 4)]
    assert "matchArgs names argument 3" in bad["errors"][0]["message"]
    assert bad["errors"][0]["advice"].startswith("add index 3")


def test_standard_input_is_checked_under_its_name(stage: Stage) -> None:
    good, bad = stage.run("policy", "check", "-", text=_GOOD), stage.run("policy", "check", "-", text="kind: Pod")
    assert good.stdout.startswith("<stdin>:1:1: ")
    assert bad.stderr.startswith("<stdin>:1:")
    assert (good.exit_code, bad.exit_code) == (0, 1)


def test_a_file_that_cannot_be_read_is_a_refusal(stage: Stage) -> None:
    result = stage.run("policy", "check", "/nowhere/x.yaml")
    assert (result.exit_code, result.stderr) == (1, "/nowhere/x.yaml: No such file or directory\n")


def test_what_no_node_can_do_is_an_error_offline_too(stage: Stage) -> None:
    notify = "sys_lseek, selectors: [{matchActions: [{action: NotifyEnforcer, argError: -1}]}]}"
    text = _GOOD.replace("sys_lseek}", notify).replace("spec: {", "spec: {enforcers: [{calls: [sys_lseek]}], ")
    result = stage.run("policy", "check", "-", text=text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("<stdin>:4:")
    assert "NotifyEnforcer" in result.stderr


def test_a_selection_of_nodes_is_an_error_offline_too(stage: Stage) -> None:
    """The agent refuses it."""
    text = _GOOD.replace("spec: {", "spec: {nodeSelector: {matchLabels: {pool: edge}}, ")
    result = stage.run("policy", "check", "-", text=text)
    assert result.exit_code == 1
    assert "nodeSelector is not supported by this version" in result.stderr


def test_more_than_a_policy_file_may_have_is_not_read(stage: Stage, tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    for command in ("check", "add", "explain", "show"):
        result = stage.run("policy", command, str(large))
        text = f"{large}: more than 1,048,576 bytes, the most of a policy file: split it\n"
        assert (result.exit_code, result.stderr) == (1, text)


HOOKS = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: hooks}
spec:
  tracepoints: [{subsystem: sched, event: sched_process_exec}]
  uprobes: [{path: /bin/x, symbols: [f]}, {path: /bin/x, offsets: [16]}]
  usdts: [{path: /bin/y, provider: p, name: n}]
"""


def test_a_check_names_hooks_of_every_kind(stage: Stage) -> None:
    result = stage.run("policy", "check", "-", text=HOOKS)
    hooks = "/bin/x:0x10, /bin/x:f, /bin/y:p/n, sched/sched_process_exec"
    assert result.stdout == f"<stdin>:1:1: TracingPolicy hooks on {hooks}: ok\n"


def test_a_node_is_not_asked_without_root(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, files: tuple[str, str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reason = "asking this node takes root, and this is uid 1000"
    for args in (("check", "--node"), ("show", "--c")):
        result = stage.run("policy", *args, files[0])
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{reason}\n")
    explained = stage.run("policy", "explain", files[0])
    assert explained.exit_code == 0
    assert f"this node was not asked: {reason}\n" in explained.stdout


def test_an_explanation_has_all_of_its_parts(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    kill = (
        "{label: keys, matchArgs: [{index: 1, operator: Postfix, values: [.key]}], matchActions: [{action: Sigkill}]}"
    )
    more = "message: no keys, args: [{index: 1, type: string}], return: true, returnArg: {index: 0, type: int}"
    hook = f"{{call: sys_openat, {more}, selectors: [{kill}]}}"
    file.write_text(_GOOD.replace("{call: sys_lseek}", hook))
    result = stage.run("policy", "explain", "--offline", str(file))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:20] == [
        f"TracingPolicyNamespaced shop/guard ({file}:1:1)",
        "  applies to: all containers of all pods in the namespace shop; no host process",
        "  mode: enforce: actions that enforce are carried out",
        "",
        "kprobes[0]: syscall sys_openat",
        "  hooks: the system call openat",
        '  message: "no keys"',
        "  reads: argument 1 (string): text up to its NUL in the process's memory, at most 4,096 bytes",
        "  reads: what is returned (int): a number of 32 bits, signed",
        '  selectors[0] "keys", when: argument 1 (string) ends with ".key"',
        "    then: an event at the return; SIGKILL to the calling process",
        "  at the return: the event, with what was returned when returnArg is given",
        "",
        "kprobes[1]: syscall sys_access",
        "  hooks: the system call access",
        "  when: always",
        "    then: an event",
        "",
        "cost",
        "  - 2 hook points; text is compared; the return is watched",
    ]
    assert "\nthis node was not asked: --offline was given\n" in result.stdout
    assert "\ntraps\n  - kprobes[0]: kill is not prevent:" in result.stdout


def test_an_explanation_as_json_has_the_same(stage: Stage, files: tuple[str, str]) -> None:
    (found,) = json.loads(stage.run("policy", "explain", "--offline", "-o", "json", files[0]).stdout)
    assert (found["policy"], found["mode"].partition(":")[0]) == ("shop/guard", "enforce")
    assert [hook["section"] for hook in found["hooks"]] == ["kprobes[0]", "kprobes[1]"]
    assert found["hooks"][0]["selectors"] == [{"number": 0, "label": "", "when": "always", "then": ["an event"]}]
    assert (found["cost"]["hook_points"], found["cost"]["programs"]) == (2, None)
    assert found["node"] == {"asked": False, "reason": "--offline was given", "refusals": [], "not_enforced": []}
    assert found["traps"][0]["where"] == "kprobes[0].selectors[0]"


def test_all_policies_of_a_file_are_explained(stage: Stage) -> None:
    text = f"{_GOOD}---\n{_GOOD.replace('guard', 'other')}"
    result = stage.run("policy", "explain", "--offline", "-", text=text)
    assert [line for line in result.stdout.splitlines() if line.startswith("TracingPolicy")] == [
        "TracingPolicyNamespaced shop/guard (<stdin>:1:1)",
        "TracingPolicyNamespaced shop/other (<stdin>:6:1)",
    ]


@pytest.mark.parametrize("command", ["explain", "show"])
def test_a_faulty_file_is_told_as_by_a_check(stage: Stage, files: tuple[str, str], command: str) -> None:
    result = stage.run("policy", command, files[1])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == stage.run("policy", "check", files[1]).stderr


def test_a_policy_is_shown_as_it_was_understood(stage: Stage) -> None:
    text = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: p}
spec:
  podSelector: {}
  lists: [{name: calls, type: syscalls, values: [sys_dup, sys_dup2]}]
  selectorsMacros: {shell: {matchBinaries: [{operator: In, values: [/bin/sh]}]}}
  kprobes:
    - call: list:calls
      args: [{index: 0, type: int}]
      selectors:
        - macros: [shell]
          matchArgs: [{index: 0, operator: InRange, values: ["1:2"]}]
          matchActions: [{action: Signal, argSig: 15}]
    - call: sys_connect
      args: [{index: 1, type: sockaddr, sizeArgIndex: 3}, {index: 0, type: int}]
      selectors:
        - matchArgs: [{index: 1, operator: SAddr, values: [10.0.0.0/8]}, {operator: CelExpr, values: [arg1 > 2]}]
"""
    (policy,) = json.loads(stage.run("policy", "show", "-", text=text).stdout)
    assert (policy["name"], policy["mode"], policy["workloads"]) == ("p", "enforce", {"pods": {}, "host": False})
    listed, connect = policy["hooks"]
    assert listed["calls"] == ["dup", "dup2"]
    (selector,) = listed["selectors"]
    assert selector["binaries"] == [{"operator": "In", "values": ["/bin/sh"], "follow_children": False}]
    assert selector["args"][0]["values"] == [{"first": 1, "last": 2}]
    assert selector["actions"] == [{"kind": "Signal", "signal": 15, "source": "<stdin>:14:26"}]
    assert [each["values"] for each in connect["selectors"][0]["args"]] == [["10.0.0.0/8"], ["arg1 > 2"]]


def test_a_policy_of_the_node_is_shown_by_its_name(stage: Stage) -> None:
    row = policy_status(actions={"post": 3})
    answer = control_pb2.GetPolicyResponse(policy=row, document=b'{"name": "guard"}', c=b"int x;\n")
    stage.serve("GetPolicy", lambda: answer)
    for args in (("shop/guard",), ("guard", "-n", "shop")):
        found = json.loads(stage.run("policy", "show", *args).stdout)
        assert (found["name"], found["id"], found["actions"]) == ("guard", 7, {"post": "3"})
        assert found["policy"] == {"name": "guard"}
        assert stage.run("policy", "show", "--c", *args).stdout == "int x;\n"
    asked = [control_pb2.GetPolicyRequest.FromString(payload) for _, payload in stage.control.calls]
    assert [(each.name, each.namespace, each.c) for each in asked] == [
        ("guard", "shop", False),
        ("guard", "shop", True),
    ] * 2


def test_a_name_that_neither_a_file_nor_a_policy_has_is_told_both(stage: Stage) -> None:
    stage.serve("GetPolicy", refuse(Code.NOT_FOUND, "no policy guard here; there are: shop/guard"))
    missing = stage.run("policy", "show", "guard")
    text = "guard: no such file, and no policy guard here; there are: shop/guard\n"
    assert (missing.exit_code, missing.stderr) == (1, text)


def test_a_name_without_an_agent_and_a_file_is_told_both(stage: Stage) -> None:
    result = stage.run("policy", "show", "nosuch")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("nosuch: no such file, and no agent at ")


def test_the_schema_is_printed(stage: Stage) -> None:
    assert json.loads(stage.run("policy", "schema").stdout)["title"]
    assert stage.run("policy", "schema", "--crd").stdout.startswith("apiVersion: apiextensions")


@pytest.mark.kernel
def test_a_node_is_asked_without_leaving_anything(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, str]
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    result = stage.run("policy", "check", "--node", files[0], "-", text=HOOKS)
    assert result.stdout == f"{files[0]}:1:1: TracingPolicyNamespaced shop/guard on access, lseek: ok on this node\n"
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == ["6", "6", "7"]
    assert "/bin/x" in result.stderr
    explained = stage.run("policy", "explain", files[0]).stdout
    assert "  here: lseek\n" in explained
    assert "2 hook points, 2 programs;" in explained
    assert "\nthis node can do all of it\n" in explained
    assert [mount for mount in read_mounts() if mount.point.startswith(str(private))] == []
    assert list(private.iterdir()) == []


PARTIAL = _GOOD.replace("{call: sys_access}", "{call: sys_nosuchcall, ignore: {callNotFound: true}}")


@pytest.mark.kernel
def test_what_this_node_leaves_out_is_told(stage: Stage) -> None:
    checked = stage.run("policy", "check", "--node", "-", text=PARTIAL)
    assert checked.exit_code == 0
    assert checked.stdout.endswith("on lseek: ok on this node, but for 1 that are not enforced\n")
    assert checked.stderr == "<stdin>:4:37: kprobes[1]: nosuchcall is not enforced here: call_not_found\n"
    (found,) = json.loads(stage.run("policy", "check", "--node", "-o", "json", "-", text=PARTIAL).stdout)
    (gap,) = found["not_enforced"]
    assert (gap["section"], gap["name"], gap["reason"]) == ("kprobes[1]", "nosuchcall", "call_not_found")
    explained = stage.run("policy", "explain", "-", text=PARTIAL).stdout
    assert "\nthis node can do it in part: not enforced are\n" in explained
    assert '"nosuchcall": this kernel has no such' in explained
    nothing = PARTIAL.replace("{call: sys_lseek}, ", "")
    assert "\nnothing of it is enforced on this node\n" in stage.run("policy", "explain", "-", text=nothing).stdout


@pytest.mark.kernel
def test_the_c_of_a_file_has_a_program_for_each_side(stage: Stage) -> None:
    returns = "{call: sys_lseek, return: true, returnArg: {index: 0, type: int}}"
    result = stage.run("policy", "show", "--c", "-", text=_GOOD.replace("{call: sys_lseek}", returns))
    assert result.exit_code == 0
    programs = re.findall(r"^int (pg_\w+)\(", result.stdout, re.MULTILINE)
    assert programs == ["pg_enter_1_0", "pg_enter_2_0", "pg_exit_2_0"]
    assert result.stdout.startswith('#include "lib/syscall.h"\n')


@pytest.mark.kernel
def test_the_c_of_a_policy_that_the_node_refuses_is_its_faults(stage: Stage) -> None:
    result = stage.run("policy", "show", "--c", "-", text=HOOKS)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("<stdin>:6:")


@pytest.mark.kernel
def test_the_explanation_in_the_documentation_is_what_is_printed(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/authoring.md").read_text()
    (policy,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (explanation,) = re.findall(r"^```text\n(.*?)^  - …\n```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("no-secrets.yaml").write_text(policy)
    printed = stage.run("policy", "explain", "no-secrets.yaml").stdout
    assert _without_ways(printed).startswith(_without_ways(explanation))


def _without_ways(explanation: str) -> str:
    """An explanation without what hooks are attached to: that depends on the node."""
    return re.sub("^(  hooks: [^,]*),.*$", r"\1", explanation, flags=re.MULTILINE)
