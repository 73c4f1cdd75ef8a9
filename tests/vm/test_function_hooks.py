# SPDX-License-Identifier: Apache-2.0
"""Hooks on kernel functions of every kind: entry and return, one in another, modules, stacks; and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.abilities import read_preemptible
from tests.support.examples import socket_address
from tests.support.function_hooks import (
    RETURNS_INT,
    Told,
    function,
    lsm_hook,
    openat,
    override,
    paths,
    policies,
    refusal,
    select,
)
from tests.support.language import Document, act, arg, condition, document, marker_policy
from tests.support.wait import wait_until
from tests.support.workload import Node, step, steps

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.timeout(120)]

PORT = 9  # of nobody
ADDRESS = socket_address("127.0.0.1", PORT)
DATAGRAM = steps(step("socket", 2, 2, 0), step("sendto", 3, b"hello", 5, 0, ADDRESS, len(ADDRESS)))
EACCES, EISDIR, ENOENT = 13, 21, 2
# Below an overlay each file of it is opened once more, by the function that opens it.
ON_OVERLAY = "/etc/hostname"
OVERLAY_BTF = Path("/sys/kernel/btf/overlay")
BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")
STACKS = act("Post", kernelStackTrace=True, userStackTrace=True)
on_overlay = pytest.mark.skipif(not OVERLAY_BTF.exists(), reason="overlay is no module of this kernel")


def opening(path: Path | str, **fields: Any) -> Document:
    return function(
        "security_file_open", arg(0, "file"), selectors=[select(condition(0, "Postfix", str(path)))], **fields
    )


def returning(kind: str) -> Document:
    return {"return": True, "returnArg": {"index": 0, "type": kind}}


@pytest.fixture(scope="module")
def file(scratch: Path) -> Path:
    (scratch / "folder").mkdir()
    found = scratch / "opened"
    found.write_text("text\n")
    refused_file(found).write_text("text\n")
    return found


def kinds(file: Path) -> Document:
    """Several on one function, in one policy; one of them refuses the file of that name in the folder."""
    refused = select(condition(0, "Equal", str(refused_file(file))), then=[override(EACCES)])
    hooks: Document = {
        "kprobes": [
            opening("/opened"),
            opening("/opened") | {"selectors": [refused]},
            opening("/opened", **RETURNS_INT),
        ],
        "fentries": [opening("/opened"), opening("/opened", **RETURNS_INT)],
        "lsmhooks": [lsm_hook("file_open", arg(0, "file"), selectors=[select(condition(0, "Postfix", "/opened"))])],
    }
    return document("kinds", "kinds", **hooks)


def refused_file(file: Path) -> Path:
    return file.parent / "folder" / file.name


def standing(file: Path) -> list[Document]:
    """Each for a namespace of its own."""
    fget = function("fget", arg(0, "fd"), selectors=[select(condition(0, "Equal", str(file)))], **returning("file"))
    packet = function("ip_make_skb", arg(0, "sock"), arg(4, "int"), **returning("skb"))
    failing = function(
        "vfs_unlink",
        arg(2, "dentry"),
        selectors=[{"matchReturnArgs": [condition(0, "LT", 0)], "matchReturnActions": [act("Post")]}],
        **returning("int"),
    )
    stack = opening(file) | {"selectors": [select(condition(0, "Equal", str(file)), then=[STACKS])]}
    sent = function("ip_make_skb", arg(4, "int"), selectors=[select(condition(4, "Equal", 13), then=[STACKS])])
    found = [
        marker_policy(),
        kinds(file),
        document("object", "object", kprobes=[fget]),
        document("packet", "packet", kprobes=[packet]),
        document("failing", "failing", kprobes=[failing]),
        document("stack", "stack", kprobes=[stack]),
        document("sent", "sent", kprobes=[sent]),
        document("nested", "nested", kprobes=[opening("hostname", **RETURNS_INT)]),
        document("fentry", "fentry", fentries=[opening(file, **RETURNS_INT)]),
        document("lsm", "lsm", lsmhooks=[lsm_hook("file_open", arg(0, "file"))]),
        document(
            "auto", "auto", kprobes=[function("tcp_connect", arg(0, resolve="__sk_common.skc_family", label="family"))]
        ),
    ]
    if OVERLAY_BTF.exists():
        hook = function(
            "ovl_open", arg(1, "file"), selectors=[select(condition(1, "Equal", ON_OVERLAY))], **RETURNS_INT
        )
        found.append(document("module", "module", kprobes=[hook]))
    return found


def seen(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """The hook of each, the function, and whether it tells what that returned; in no order of time."""
    return sorted((event["hook"], event["function"], "return" in event) for event in events)


@pytest.fixture(scope="class")
def in_force(node: Node, file: Path) -> Iterator[None]:
    with policies(node, *map(json.dumps, standing(file))):
        yield


@pytest.mark.usefixtures("in_force")
class TestStanding:
    """Under policies that stay."""

    def test_every_kind_of_hook_on_a_function_sees_the_same_call(self, node: Node, told: Told, file: Path) -> None:
        with node.container("kinds") as group:
            assert group.run(openat(file)).results == (3,)
            events = told.of(group)
        everywhere = [
            ("fentry", "security_file_open", False),
            ("fentry", "security_file_open", True),
            ("kprobe", "security_file_open", False),
            ("kprobe", "security_file_open", True),
        ]
        assert seen(events) == [*everywhere, ("lsmhook", "file_open", False)]
        assert paths(events) == [str(file)] * 5
        assert {event["return"]["value"] for event in events if "return" in event} == {0}
        with node.container("kinds") as group:
            assert group.run(openat(refused_file(file))).results == (-EACCES,)
            events = told.of(group)
        # By fmod_ret the function itself, which would have asked the security module, did not run. On a kernel that can
        # be preempted the policy stands there itself.
        asked = [("lsmhook", "file_open", False)] if read_preemptible() else []
        assert seen(events) == sorted([*everywhere, ("kprobe", "security_file_open", False), *asked])
        assert {event["return"]["value"] for event in events if "return" in event} == {-EACCES}

    def test_returned_object_is_read(self, node: Node, told: Told, file: Path) -> None:
        with node.container("object") as group:
            group.run(steps(openat(file), step("mmap", 0, 4096, 1, 2, 3, 0)))
            (event,) = told.of(group)
        assert (event["args"][0]["path"], event["args"][0]["value"]) == (str(file), 3)
        assert (event["return"]["type"], event["return"]["value"]) == ("file", str(file))

    def test_function_with_arguments_on_the_stack_is_hooked(self, node: Node, told: Told) -> None:
        """Of those in registers; its result is a packet."""
        with node.container("packet") as group:
            assert group.run(DATAGRAM).results == (3, 5)
            (event,) = told.of(group)
        sock, size = event["args"]
        assert (sock["value"]["protocol"], size["value"]) == ("IPPROTO_UDP", 5 + 8)
        packet = event["return"]["value"]
        assert (packet["family"], packet["daddr"], packet["protocol"]) == ("AF_INET", "127.0.0.1", "IPPROTO_UDP")

    def test_only_what_fails_is_told(self, node: Node, told: Told, file: Path) -> None:
        gone = file.with_name("unlinked")
        gone.touch()
        with node.container("failing") as group:
            ended = group.run(steps(step("unlink", str(gone)), step("unlink", str(file.with_name("folder")))))
            assert ended.results == (0, -EISDIR)
            (event,) = told.of(group)
        assert event["return"] == {"type": "int", "value": -EISDIR, "error": "EISDIR"}
        assert event["args"][0]["value"].endswith("/folder")

    def test_stacks_are_those_of_the_call(self, node: Node, told: Told, file: Path) -> None:
        def stack_of(policy: str, words: list[str]) -> dict[str, Any]:
            """Where the kernel's symbols took too long, as they may on a busy machine, of another call."""

            def call() -> dict[str, Any]:
                with node.container(policy) as group:
                    group.run(words)
                    event = told.find(group, policy)
                return event if any(frame["symbol"] for frame in event["kernel_stack"]) else {}

            return wait_until(call, 60.0, "an event with symbols")

        events = [stack_of("stack", steps(openat(file), step("getpid"))), stack_of("sent", DATAGRAM)]
        symbols = [[frame["symbol"] for frame in event["kernel_stack"]] for event in events]
        assert all("do_syscall_64" in each for each in symbols), symbols
        assert "udp_sendmsg" in symbols[1]
        assert all(event["user_stack"] for event in events)

    @on_overlay
    def test_function_inside_itself_returns_twice(self, node: Node, told: Told) -> None:
        with node.container("nested") as group:
            assert group.run(openat(ON_OVERLAY)).results == (3,)
            events = told.of(group)
        assert [event["return"] for event in events] == [{"type": "int", "value": 0}] * 2
        assert {os.path.basename(path) for path in paths(events)} == {"hostname"}

    @on_overlay
    def test_function_of_a_module_is_hooked(self, node: Node, told: Told) -> None:
        with node.container("module") as group:
            assert group.run(openat(ON_OVERLAY)).results == (3,)
            (event,) = told.of(group)
        assert (event["function"], paths([event]), event["return"]["value"]) == ("ovl_open", [ON_OVERLAY], 0)

    def test_fentry_tells_entry_and_return(self, node: Node, told: Told, file: Path) -> None:
        with node.container("fentry") as group:
            assert group.run(openat(file)).results == (3,)
            (event,) = told.of(group)
        assert (event["hook"], paths([event]), event["return"]["value"]) == ("fentry", [str(file)], 0)

    def test_hook_of_the_security_module_is_asked(self, node: Node, told: Told, file: Path) -> None:
        with node.container("lsm") as group:
            assert group.run(openat(file)).results == (3,)
            events = told.of(group)
        assert paths(events) == [str(file)]
        assert (events[0]["hook"], events[0]["function"], events[0]["action"]) == ("lsmhook", "file_open", "POST")

    def test_member_of_an_argument_has_the_type_that_btf_says(self, node: Node, told: Told) -> None:
        with node.container("auto") as group:
            group.run(steps(step("socket", 2, 1, 0), step("connect", 3, ADDRESS, len(ADDRESS))))
            (event,) = told.of(group)
        assert (event["args"][0]["label"], event["args"][0]["value"]) == ("family", 2)

    def test_others_are_not_hooked(self, node: Node, told: Told, file: Path) -> None:
        with node.container("nobody's") as group:
            assert group.run(steps(openat(file), openat(ON_OVERLAY))).results == (3, 4)
            assert told.of(group) == []


# Bad input.


def refuse(node: Node, **hooks: Any) -> str:
    """What the agent says of a policy that has one hook that is right, too."""
    right = function("security_inode_getattr", arg(0, "path"))
    return refusal(node, document("bad", "bad", **(hooks | {"kprobes": [right, *hooks.get("kprobes", ())]})))


def test_function_that_is_not_there_is_refused_with_the_nearest_one(node: Node) -> None:
    said = refuse(
        node,
        kprobes=[function("security_file_opened")],
        fentries=[function("tcp_conect")],
        lsmhooks=[lsm_hook("file_opened")],
    )
    assert "this kernel has no function" in said
    assert "did you mean security_file_open" in said
    assert "tcp_connect" in said
    assert "no LSM hook" in said
    assert "did you mean file_open" in said


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [(arg(0, "sock"), "file"), (arg(0, "linux_binprm"), "file"), (arg(3, "int"), "has no argument 3")],
)
def test_argument_that_contradicts_btf_is_refused(node: Node, wrong: Document, reason: str) -> None:
    for kind in ("kprobes", "fentries"):
        said = refuse(node, **{kind: [function("security_file_open", wrong)]})
        assert reason in said
        assert "security_file_open" in said
    assert reason in refuse(node, lsmhooks=[lsm_hook("file_open", wrong)])


def test_return_of_a_function_without_one_is_refused(node: Node) -> None:
    said = refuse(node, kprobes=[function("security_bprm_committed_creds", **returning("int"))])
    assert "returns nothing" in said


def test_function_that_is_there_several_times_is_refused(node: Node) -> None:
    said = refuse(node, kprobes=[function("init_once")])
    assert "functions" in said
    assert "which is meant" in said


def test_function_that_the_kernel_does_not_let_be_probed_is_refused(node: Node) -> None:
    name = BLACKLIST.read_text().split("\n", 1)[0].split("\t")[-1]
    assert name in refuse(node, kprobes=[function(name)])
