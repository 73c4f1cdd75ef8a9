# SPDX-License-Identifier: Apache-2.0
"""What only a kernel can show of the language, on system calls: returns, copies at the return, enforcers, rate limits,
operators, workloads, data of the task, and many rules. Each subject has a namespace of its own.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.language import (
    Document,
    Heard,
    act,
    arg,
    condition,
    counts,
    document,
    hearing,
    marker_policy,
    selector_counts,
    values,
)
from tests.support.workload import Node, start_node, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

EBADF, ESPIPE = 9, 29
KILL = act("Sigkill")
MANY = 70  # rules: more than one program has


def lseek(*selectors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"call": "lseek", "args": [arg(0, "int")], "selectors": list(selectors)} | fields


def access(*selectors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"call": "access", "args": [arg(0, "string")], "selectors": list(selectors)} | fields


def when(operator: str, *wanted: int | str, then: Any = KILL, index: int = 0) -> dict[str, Any]:
    return {"matchArgs": [condition(index, operator, *wanted)], "matchActions": [then]}


def limited(scope: str) -> Document:
    hook = lseek(when("LT", 0, then=act("Post", rateLimit="1h", rateLimitScope=scope)))
    return document("rate", f"rate-{scope}", kprobes=[hook])


RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}
RETURNED_EBADF = {"matchReturnArgs": [condition(0, "Equal", -EBADF)], "matchReturnActions": [KILL]}
WORKLOADS = [
    {"matchWorkloads": {"podSelector": {"matchLabels": {"app": "a"}}}, "matchActions": [act("Signal", argSig=10)]},
    {"matchWorkloads": {"containerSelector": {"matchLabels": {"name": "main"}}}, "matchActions": [KILL]},
]
POLICIES = (
    marker_policy(),
    document("return-kill", "return-kill", kprobes=[lseek(RETURNED_EBADF, **RETURNS)]),
    document("return-post", "return-post", kprobes=[lseek(when("Equal", -1, then=act("Post")), **RETURNS)]),
    document(
        "return-both",
        "return-both",
        kprobes=[lseek(when("Equal", -1, then=act("Signal", argSig=10)) | RETURNED_EBADF, **RETURNS)],
    ),
    document(
        "copy",
        "copy",
        kprobes=[
            {
                "call": "read",
                "args": [arg(0, "fd"), arg(1, "char_buf", returnCopy=True, sizeArgIndex=3), arg(2, "size_t")],
                "selectors": [when("Postfix", "/copied", then=act("Post"))],
                **RETURNS,
            }
        ],
    ),
    document(
        "enforcer",
        "enforcer",
        kprobes=[
            lseek(
                when("Equal", -1, then=act("NotifyEnforcer", argSig=9)),
                when("Equal", -2, then=act("CleanupEnforcerNotification")),
            )
        ],
        enforcers=[{"calls": ["sys_getpgid"]}],
    ),
    *map(limited, ("thread", "process", "global")),
    document("many", "many", kprobes=[lseek(when("Equal", -100 - n)) for n in range(MANY)]),
    document("many-posts", "many-posts", kprobes=[lseek(then_post := when("Equal", -1, then=act("Post")))] * MANY),
    document("many-texts", "many-texts", kprobes=[access(when("Equal", f"/text/{n}")) for n in range(MANY)]),
    document("many-returns", "many-returns", kprobes=[lseek(when("Equal", -1, then=act("Post")), **RETURNS)] * MANY),
    document(
        "many-execs",
        "many-execs",
        kprobes=[
            {"call": "execve", "args": [arg(0, "string")], "selectors": [when("Equal", path)]}
            for path in [*(f"/text/{n}" for n in range(MANY - 1)), "/bin/true"]
        ],
    ),
    document("workloads", "workloads", kprobes=[lseek(*WORKLOADS)]),
    document("substring", "substring", kprobes=[access(when("SubString", "needle", "pin"))]),
    document("anycase", "anycase", kprobes=[access(when("SubStringIgnCase", "NeeDle"))]),
    document(
        "filetype",
        "filetype",
        kprobes=[{"call": "fsync", "args": [arg(0, "fd")], "selectors": [when("FileType", "dir")]}],
    ),
    document(
        "sockaddr",
        "sockaddr",
        kprobes=[
            {
                "call": "connect",
                "args": [arg(0, "int"), arg(1, "sockaddr")],
                "selectors": [
                    {
                        "matchArgs": [
                            condition(1, "SAddr", "127.0.0.0/30", "::1"),
                            condition(1, "SPort", "7:9"),
                        ],
                        "matchActions": [KILL],
                    }
                ],
            }
        ],
    ),
    document(
        "task",
        "task",
        kprobes=[
            lseek(
                {"matchData": [condition(0, "Equal", "calls")], "matchArgs": [condition(0, "LT", 0)]},
                data=[
                    {"source": "current_task", "resolve": "comm", "type": "string", "label": "name"},
                    {"source": "pt_regs", "resolve": "edi", "type": "int", "label": "register"},
                    {"source": "current_task", "resolve": "mm.owner.tgid", "type": "int"},
                ],
            )
        ],
    ),
)


@pytest.fixture(scope="module")
def scene(calls_program: Path) -> Iterator[Node]:
    with start_node(calls_program) as node:
        node.add(*POLICIES)
        yield node


@pytest.fixture(scope="module")
def heard(scene: Node) -> Iterator[Heard]:
    with hearing(scene) as heard:
        yield heard


def test_an_action_at_the_return_asks_what_was_returned(scene: Node, heard: Heard) -> None:
    with scene.container("return-kill") as group:
        killed, fine = group.call("lseek", -1, 0, 0), group.call("lseek", 0, 0, 0)
    assert (killed.status, fine.status, fine.results) == (-signal.SIGKILL, 0, (-ESPIPE,))
    assert heard.all(fine.pid) == []
    (event,) = heard.all(killed.pid)
    assert event["return"] == {"type": "long", "value": -EBADF, "error": "EBADF"}
    assert (event["return_selector"], event["return_action"], event["enforced"]) == (0, "SIGKILL", True)
    assert values(event) == [-1]


def test_without_a_return_selector_the_entrys_decides(scene: Node, heard: Heard) -> None:
    with scene.container("return-post") as group:
        ended = group.run(steps(step("lseek", -1, 0, 0), step("lseek", -2, 0, 0)))
    (event,) = heard.all(ended.pid)
    assert (values(event), event["return"]["value"], event["actions"]) == ([-1], -EBADF, ["POST"])


def test_entry_and_return_act_each_on_its_own(scene: Node, heard: Heard) -> None:
    """The signal of the entry comes first, so that of the return finds nobody: it is counted all the same."""
    with scene.container("return-both") as group:
        ended = group.call("lseek", -1, 0, 0)
    assert ended.status in (-signal.SIGKILL, -signal.SIGUSR1)
    (event,) = heard.all(ended.pid)
    assert (event["selector"], event["return_selector"], event["return_action"]) == (0, 0, "SIGKILL")
    found = selector_counts(scene, "return-both")
    assert found["lseek", 0, False]["signal"] == 1
    assert found["lseek", 0, True]["sigkill"] == 1


def test_what_a_call_filled_in_is_copied_at_its_return(scene: Node, heard: Heard, tmp_path: Path) -> None:
    target = tmp_path / "copied"
    target.write_bytes(b"hello world")
    with scene.container("copy") as group:
        ended = group.run(steps(step("open", str(target), 0), step("read", 3, "r:64", 5), step("read", 3, "r:64", 64)))
    assert ended.results == (3, 5, 6)
    first, second = heard.all(ended.pid)
    assert base64.b64decode(first["args"][1]["base64"]) == b"hello"
    assert base64.b64decode(second["args"][1]["base64"]).startswith(b" world")
    assert (first["return"]["value"], second["return"]["value"]) == (5, 6)
    assert first["args"][0]["path"] == str(target)


def test_enforcer_acts_at_its_own_call(scene: Node) -> None:
    with scene.container("enforcer") as group:
        assert group.call("getpgid", 0).status == 0
        notified = group.run(steps(step("lseek", -1, 0, 0), step("access", "/", 0), step("getpgid", 0)))
        taken_back = group.run(steps(step("lseek", -1, 0, 0), step("lseek", -2, 0, 0), step("getpgid", 0)))
    assert (notified.status, notified.results) == (-signal.SIGKILL, (-EBADF, 0))
    assert (taken_back.status, len(taken_back.results)) == (0, 3)
    assert counts(scene, "enforcer")["notify_enforcer"] == 2


@pytest.mark.parametrize(("scope", "expected"), [("thread", [2, 1]), ("process", [1, 1]), ("global", [1, 0])])
def test_equal_events_come_once_in_a_while(scene: Node, heard: Heard, scope: str, expected: list[int]) -> None:
    """Of two processes; in each one thread makes the call twice and another one once."""
    call = step("lseek", -1, 0, 0)
    with scene.container(f"rate-{scope}") as group:
        before = counts(scene, "rate").get("rate_limited", 0)
        ended = [group.run(steps(call, call, ["thread"], call)) for _ in range(2)]
        other = group.run(steps(step("lseek", -2, 0, 0), step("lseek", -2, 0, 0)))
    posted = [len(heard.all(one.pid)) for one in ended]
    assert posted == ([2, 2] if scope == "thread" else expected)
    assert len(heard.all(other.pid)) == 1, "with another value"
    assert before >= 0


@pytest.mark.parametrize("number", [0, 1, 62, 63, 64, 65, MANY - 1])
def test_rules_beyond_one_program_act(scene: Node, number: int) -> None:
    with scene.container("many") as group:
        assert group.call("lseek", -100 - number, 0, 0).killed


def test_values_of_no_rule_are_let_pass(scene: Node) -> None:
    with scene.container("many") as group:
        assert group.call("lseek", -100 - MANY, 0, 0).status == 0
    with scene.container("many-texts") as group:
        assert group.call("access", "/text/", 0).status == 0


@pytest.mark.parametrize("namespace", ["many-posts", "many-returns"])
def test_each_of_many_rules_makes_its_event(scene: Node, heard: Heard, namespace: str) -> None:
    with scene.container(namespace) as group:
        ended = group.call("lseek", -1, 0, 0)
    events = heard.all(ended.pid)
    assert len(events) == MANY
    assert all(values(event) == [-1] for event in events)
    assert {"return" in event for event in events} == {namespace == "many-returns"}


@pytest.mark.parametrize("number", [0, 63, MANY - 1])
def test_many_rules_check_a_late_text_at_the_exit(scene: Node, heard: Heard, tmp_path: Path, number: int) -> None:
    text = tmp_path / "text"
    text.write_bytes(f"/text/{number}".encode() + b"\0")
    with scene.container("many-texts") as group:
        ended = group.call("access", f"f:{text}", 0)
    assert ended.killed
    (event,) = heard.all(ended.pid)
    assert (event["deferred"], values(event)) == (True, [f"/text/{number}"])


def test_many_rules_check_a_late_path_of_an_execve(scene: Node, tmp_path: Path) -> None:
    """Each program finds the kernel's copy of it: the caller's memory is gone."""
    text = tmp_path / "text"
    text.write_bytes(b"/bin/true\0")
    with scene.container("many-execs") as group:
        assert group.call("execve", f"f:{text}", 0, 0).killed
        assert group.call("execve", "/bin/true", 0, 0).killed


def test_selectors_ask_for_workloads(scene: Node) -> None:
    with (
        scene.container("workloads", {"app": "a"}) as first,
        scene.container("workloads", {"app": "b"}, pod="other") as second,
    ):
        assert first.call("lseek", -1, 0, 0).status == -signal.SIGUSR1
        assert second.call("lseek", -1, 0, 0).killed


@pytest.mark.parametrize(
    ("namespace", "text", "killed"),
    [
        ("substring", "/hay/needle/hay", True),
        ("substring", "needle", True),
        ("substring", "/hay/needl", False),
        ("substring", "/hay/Needle", False),
        ("substring", "/neepine", True),
        ("substring", "x" * 4000 + "needle", True),
        ("anycase", "/hay/nEEDLE", True),
        ("anycase", "/hay/nEEDL", False),
    ],
)
def test_texts_are_searched(scene: Node, namespace: str, text: str, killed: bool) -> None:
    with scene.container(namespace) as group:
        assert group.call("access", text, 0).killed is killed


def test_file_types_are_told_apart(scene: Node, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with scene.container("filetype") as group:
        assert group.run(steps(step("open", str(tmp_path), os.O_RDONLY), step("fsync", 3))).killed
        assert group.run(steps(step("open", str(file), os.O_RDONLY), step("fsync", 3))).status == 0


def address4(host: str, port: int) -> bytes:
    return struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)


def address6(host: str, port: int) -> bytes:
    begin = struct.pack("<H", socket.AF_INET6) + struct.pack(">HI", port, 0)
    return begin + socket.inet_pton(socket.AF_INET6, host) + bytes(4)


@pytest.mark.parametrize(
    ("family", "address", "killed"),
    [
        (socket.AF_INET, address4("127.0.0.3", 9), True),
        (socket.AF_INET, address4("127.0.0.4", 9), False),
        (socket.AF_INET, address4("127.0.0.1", 10), False),
        (socket.AF_INET6, address6("::1", 7), True),
        (socket.AF_INET6, address6("::2", 7), False),
    ],
)
def test_addresses_are_compared(scene: Node, family: int, address: bytes, killed: bool) -> None:
    with scene.container("sockaddr") as group:
        made = step("socket", family, socket.SOCK_DGRAM, 0)
        assert group.run(steps(made, step("connect", 3, address, len(address)))).killed is killed


def test_data_of_the_task_is_compared_and_told(scene: Node, heard: Heard) -> None:
    with scene.container("task") as group:
        ended = group.call("lseek", -5, 0, 0)
    (event,) = heard.all(ended.pid)
    assert [(value.get("label"), value["value"]) for value in event["data"]] == [
        ("name", "calls"),
        ("register", -5),
        (None, ended.pid),
    ]
