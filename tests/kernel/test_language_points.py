# SPDX-License-Identifier: Apache-2.0
"""What only a kernel can show of the language, beyond system calls: tracepoints, uprobes, USDT probes, stacks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nri_plugin.ttrpc import RemoteError
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
    subject,
    values,
)
from tests.support.lockdown import may_write_user
from tests.support.wait import wait_until
from tests.support.workload import Node, start_node, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KILL = act("Sigkill")
GAUGE = [arg(0, "int32"), arg(1, "int32")]
EXEC_FILENAME, EXEC_PID = 4, 5  # fields of sched/sched_process_exec, behind the four common ones


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_subject(tmp_path_factory.mktemp("subject"))


def when(index: int, operator: str, *wanted: int | str, then: Any = KILL) -> dict[str, Any]:
    return {"matchArgs": [condition(index, operator, *wanted)], "matchActions": [then]}


def exec_tracepoint(*selectors: dict[str, Any], args: list[dict[str, Any]], raw: bool = False) -> dict[str, Any]:
    hook = {"subsystem": "sched", "event": "sched_process_exec", "args": args, "selectors": list(selectors)}
    return hook | ({"raw": True} if raw else {})


def uprobe(program: Path, *symbols: str, **fields: Any) -> dict[str, Any]:
    return {"path": str(program), "symbols": list(symbols)} | fields


def usdt(program: Path, *selectors: dict[str, Any], args: list[dict[str, Any]]) -> dict[str, Any]:
    probe = {"path": str(program), "provider": "podgate_test", "name": "gauge"}
    return probe | {"args": args, "selectors": list(selectors)}


def policies(program: Path, calls: Path) -> list[Document]:
    grade = [arg(0, "long"), arg(1, "string")]
    return [
        marker_policy(),
        document(
            "exec",
            "exec",
            tracepoints=[
                exec_tracepoint(when(EXEC_FILENAME, "Equal", str(calls)), args=[arg(EXEC_FILENAME), arg(EXEC_PID)])
            ],
        ),
        document(
            "enter",
            "enter",
            tracepoints=[
                {
                    "subsystem": "syscalls",
                    "event": "sys_enter_lseek",
                    "args": [arg(5, "int"), arg(6, "int64")],
                    "selectors": [when(6, "InRange", "10:20")],
                }
            ],
        ),
        document(
            "all-calls",
            "all-calls",
            tracepoints=[
                {
                    "subsystem": "raw_syscalls",
                    "event": "sys_enter",
                    "args": [arg(4, "syscall64")],
                    "selectors": [when(4, "InMap", "sys_getpgid", "sys_getsid")],
                }
            ],
        ),
        document(
            "raw",
            "raw",
            tracepoints=[
                exec_tracepoint(
                    when(2, "Postfix", "/calls", then=act("Post")),
                    args=[arg(0, "int", resolve="mm.owner.tgid", label="owner"), arg(2, "linux_binprm")],
                    raw=True,
                )
            ],
        ),
        document(
            "gained",
            "gained",
            tracepoints=[
                exec_tracepoint(
                    {
                        "matchArgs": [{"args": [0, 1], "operator": "CapabilitiesGained", "values": ["CAP_SYS_ADMIN"]}],
                        "matchActions": [act("Signal", argSig=10)],
                    },
                    args=[
                        arg(0, "cap_inheritable", resolve="real_cred.cap_inheritable"),
                        arg(0, "cap_effective", resolve="real_cred.cap_effective"),
                    ],
                    raw=True,
                )
            ],
        ),
        document(
            "grade", "grade", uprobes=[uprobe(program, "grade", args=grade, selectors=[when(1, "Prefix", "bad")])]
        ),
        document(
            "graded",
            "graded",
            uprobes=[
                uprobe(
                    program,
                    "grade",
                    args=grade,
                    **{"return": True},
                    returnArg={"index": 0, "type": "long"},
                    selectors=[
                        {
                            "matchReturnArgs": [condition(0, "GT", 100)],
                            "matchReturnActions": [KILL],
                        }
                    ],
                )
            ],
        ),
        document(
            "named",
            "named",
            uprobes=[
                uprobe(
                    program,
                    "name_of",
                    args=[arg(0, "long")],
                    **{"return": True},
                    returnArg={"index": 0, "type": "string"},
                )
            ],
        ),
        document(
            "sums",
            "sums",
            uprobes=[
                uprobe(
                    program, "sum", args=[arg(0, "long")], **{"return": True}, returnArg={"index": 0, "type": "long"}
                )
            ],
        ),
        document(
            "gauge",
            "gauge",
            usdts=[usdt(program, when(0, "Equal", 7, then=act("Post")), when(1, "GT", 100), args=GAUGE)],
        ),
        document(
            "kernel-stacks",
            "kernel-stacks",
            kprobes=[
                {
                    "call": "lseek",
                    "args": [arg(0, "int")],
                    "selectors": [when(0, "Equal", -1, then=act("Post", kernelStackTrace=True))],
                }
            ],
            tracepoints=[
                exec_tracepoint({"matchActions": [act("Post", kernelStackTrace=True)]}, args=[arg(EXEC_FILENAME)])
            ],
        ),
        document(
            "stacks",
            "stacks",
            uprobes=[
                uprobe(program, "grade", args=grade, selectors=[{"matchActions": [act("Post", userStackTrace=True)]}])
            ],
        ),
        document(
            "kinds",
            "kinds",
            kprobes=[{"call": "lseek", "args": [arg(0, "int")], "selectors": [when(0, "Equal", -1, then=act("Post"))]}],
            tracepoints=[
                exec_tracepoint(args=[arg(EXEC_FILENAME)]),
                exec_tracepoint(args=[arg(2, "linux_binprm")], raw=True),
            ],
            uprobes=[uprobe(program, "grade", args=grade[:1])],
            usdts=[usdt(program, args=GAUGE[1:])],
        ),
    ]


@pytest.fixture(scope="module")
def scene(calls_program: Path, program: Path) -> Iterator[Node]:
    with start_node(calls_program) as node:
        node.add(*policies(program, calls_program))
        yield node


@pytest.fixture(scope="module")
def heard(scene: Node) -> Iterator[Heard]:
    with hearing(scene) as heard:
        yield heard


def told(
    node: Node, heard: Heard, program: Path, namespace: str, *lines: str
) -> tuple[list[str], list[dict[str, Any]]]:
    """What a subject in a container of the namespace printed, and its events."""
    with node.container(namespace) as group, subject(program, group) as process:
        answers = [process.do(line) for line in lines]
        process.end()
        return answers, heard.all(process.pid)


def test_fields_of_a_tracepoint(scene: Node, heard: Heard, calls_program: Path) -> None:
    with scene.container("exec") as group:
        ended = group.run(steps(step("getpid"), ["exec"], step("getpid")))
    assert (ended.status, len(ended.results)) == (-signal.SIGKILL, 1)
    (event,) = heard.all(ended.pid)
    assert values(event) == [str(calls_program), ended.pid]
    assert (event["hook"], event["subsystem"], event["event"]) == ("tracepoint", "sched", "sched_process_exec")


def test_a_system_calls_tracepoint(scene: Node) -> None:
    with scene.container("enter") as group:
        assert group.call("lseek", 0, 10, 0).killed
        assert group.call("lseek", 0, 20, 0).killed
        assert group.call("lseek", 0, 21, 0).status == 0


def test_one_tracepoint_for_all_calls(scene: Node, heard: Heard) -> None:
    with scene.container("all-calls") as group:
        killed = group.call("getsid", 0)
        assert killed.killed
        assert group.call("getpid").status == 0
    (event,) = heard.all(killed.pid)
    assert event["args"][0]["value"] == {"id": 124, "name": "getsid", "abi": "x64"}


def test_arguments_of_a_raw_tracepoint(scene: Node, heard: Heard, calls_program: Path) -> None:
    with scene.container("raw") as group:
        ended = group.run(steps(["exec"], step("getpid")))
    (event,) = heard.all(ended.pid)
    assert (event["hook"], values(event)) == ("raw tracepoint", [ended.pid, str(calls_program)])
    assert event["args"][0]["label"] == "owner"


def test_gained_capabilities(scene: Node, heard: Heard) -> None:
    with scene.container("gained") as group:
        ended = group.run(steps(["exec"], step("getpid")))
    (event,) = heard.all(ended.pid)
    assert ended.status == -signal.SIGUSR1
    assert "CAP_SYS_ADMIN" in event["args"][1]["names"]
    assert "CAP_SYS_ADMIN" not in event["args"][0]["names"]


def test_arguments_of_a_function(scene: Node, heard: Heard, program: Path) -> None:
    answers, events = told(scene, heard, program, "grade", "grade 3 good", "grade 4 badly", "grade 5 good")
    assert answers == ["6", "", ""]
    (event,) = events
    assert (event["hook"], event["path"], event["symbol"]) == ("uprobe", str(program), "grade")
    assert (values(event), event["action"]) == ([4, "badly"], "SIGKILL")


def test_return_of_a_function_kills(scene: Node, heard: Heard, program: Path) -> None:
    answers, events = told(scene, heard, program, "graded", "grade 50 x", "grade 51 x")
    assert answers == ["100", ""]
    (event,) = events
    assert (values(event), event["return"]["value"], event["return_action"]) == ([51, "x"], 102, "SIGKILL")


def test_text_that_a_function_returns(scene: Node, heard: Heard, program: Path) -> None:
    answers, events = told(scene, heard, program, "named", "name 0", "name 1")
    assert answers == ["6", "4"]
    assert [(values(event), event["return"]["value"]) for event in events] == [([0], "nobody"), ([1], "some")]


def test_a_function_that_calls_itself_returns_as_often(scene: Node, heard: Heard, program: Path) -> None:
    answers, events = told(scene, heard, program, "sums", "sum 4")
    assert answers == ["10"]
    assert [(values(event), event["return"]["value"]) for event in events] == [
        ([0], 0),
        ([1], 1),
        ([2], 3),
        ([3], 6),
        ([4], 10),
    ]


def test_arguments_of_a_probe(scene: Node, heard: Heard, program: Path) -> None:
    answers, events = told(scene, heard, program, "gauge", "gauge 6", "gauge 7", "gauge 101", "gauge 1")
    assert answers == ["6", "7", "", ""]
    assert [(event["name"], values(event), event["actions"]) for event in events] == [
        ("gauge", [7, 7], ["POST"]),
        ("gauge", [101, 101], ["POST", "SIGKILL"]),
    ]


def test_set_writes_the_processs_memory(node: Node, program: Path) -> None:
    """A kernel that is locked down lets no program write there, and the policy is refused."""
    hook = usdt(program, when(0, "Equal", 7, then=act("Set", argIndex=0, argValue=41)), args=GAUGE)
    if not may_write_user():
        with pytest.raises(
            RemoteError, match=r"\d+:\d+: Set is not possible on this node: the kernel refuses bpf_probe_write_user"
        ):
            node.add(document("set", "set", usdts=[hook]))
        return
    node.add(document("set", "set", usdts=[hook]))
    with node.container("set") as group, subject(program, group) as process:
        assert [process.do(f"gauge {number}") for number in (6, 7)] == ["6", "41"]
    assert counts(node, "set")["set"] == 1


@pytest.mark.parametrize("command", ["grade 1 bad", "gauge 101"])
def test_functions_are_watched_in_selected_containers_only(
    scene: Node, heard: Heard, program: Path, command: str
) -> None:
    answers, events = told(scene, heard, program, "elsewhere", command)
    assert (len(answers[0]) > 0, events) == (True, [])
    with subject(program) as process:
        assert process.do(command)
        process.end()
        assert heard.all(process.pid) == []


def deep_call(node: Node, heard: Heard, program: Path) -> dict[str, Any]:
    """The event; none when finding the symbols took too long, as it may on a busy machine."""
    with node.container("stacks") as group, subject(program, group) as process:
        process.do("deep 3")
        event = heard.one(process.pid)
    return event if event.get("symbols", True) else {}


def test_stacks_have_the_programs_symbols(scene: Node, heard: Heard, program: Path) -> None:
    event = wait_until(partial(deep_call, scene, heard, program), 60.0, "an event with symbols")
    user = [frame["symbol"] for frame in event["user_stack"]]
    # The function's own frame is not set up yet where it begins: its caller may be left out.
    assert [name for name in user if name != "inner"][:3] == ["grade", "outer", "main"]
    assert event["user_stack"][0]["module"] == str(program)


@pytest.mark.parametrize(
    ("steps_", "symbol"), [((["exec"], step("getpid")), "execve"), ((step("lseek", -1, 0, 0),), "syscall")]
)
def test_stacks_have_the_kernels_symbols(scene: Node, heard: Heard, steps_: tuple[list[str], ...], symbol: str) -> None:
    def call() -> dict[str, Any]:
        with scene.container("kernel-stacks") as group:
            event = heard.one(group.run(steps(*steps_)).pid)
        return event if event.get("symbols", True) else {}

    event = wait_until(call, 60.0, "an event with symbols")
    assert any(symbol in frame["symbol"] for frame in event["kernel_stack"] if frame["symbol"])
    assert event["kernel_stack"][0]["module"] == "kernel"


def test_one_policy_of_all_kinds(scene: Node, heard: Heard, program: Path) -> None:
    with scene.container("kinds") as group:
        ended = group.run(steps(["exec"], step("lseek", -1, 0, 0)))
        kinds = [event["hook"] for event in heard.all(ended.pid)]
    assert sorted(kinds) == ["raw tracepoint", "syscall", "tracepoint"]
    _, events = told(scene, heard, program, "kinds", "grade 1 x", "gauge 1")
    assert [event["hook"] for event in events] == ["uprobe", "usdt"]
