# SPDX-License-Identifier: Apache-2.0
"""What matches is done, to whom it is meant for, and told: actions, selectors, scopes and events.

Each subject has a namespace or a label of its own, so that all policies of this module are one compilation.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import EventReader
from tests.support.wait import wait_until
from tests.support.workload import (
    POST,
    Cgroup,
    Node,
    kprobe,
    lseek_policy,
    match,
    policy,
    selector,
    start_node,
    step,
    steps,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

Expression = dict[str, Any]


def signals(number: int) -> tuple[dict[str, Any]]:
    return ({"action": "Signal", "argSig": number},)


def expression(key: str, operator: str, *values: str) -> Expression:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


NO_POST = ({"action": "NoPost"},)
QUIET_KILL = ({"action": "Sigkill"}, {"action": "NoPost"})
BOTH = ({"action": "Sigkill"}, *signals(signal.SIGUSR1))
SELECTORS: Mapping[str, tuple[Expression, dict[str, str], dict[str, str]]] = {
    # podSelector, labels that it selects, labels that it does not
    "labels": ({"matchLabels": {"s1": "a"}}, {"s1": "a", "x": "y"}, {"s1": "b"}),
    "in": (expression("s2", "In", "a", "b"), {"s2": "b"}, {"s2": "c"}),
    "notin": (expression("s3", "NotIn", "no") | {"matchLabels": {"t3": "t"}}, {"t3": "t"}, {"t3": "t", "s3": "no"}),
    "exists": (expression("s4", "Exists"), {"s4": ""}, {"s": "4"}),
    "doesnotexist": (
        expression("s5", "DoesNotExist") | {"matchLabels": {"t5": "t"}},
        {"t5": "t"},
        {"t5": "t", "s5": ""},
    ),
    "namespace": ({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "sel-ns"}}, {}, {"none": ""}),
}
POLICIES = (
    lseek_policy("kill", namespace="kill"),
    lseek_policy("term", actions=signals(signal.SIGTERM), namespace="term"),
    lseek_policy("usr1", actions=signals(signal.SIGUSR1), namespace="usr1"),
    lseek_policy("realtime", actions=signals(64), namespace="realtime"),
    lseek_policy("harmless", actions=signals(signal.SIGCHLD), namespace="harmless"),
    lseek_policy("both", actions=BOTH, namespace="both"),
    lseek_policy("post", actions=POST, namespace="post"),
    lseek_policy("no-post", actions=NO_POST, namespace="post"),
    lseek_policy("quiet-kill", actions=QUIET_KILL, namespace="quiet-kill"),
    policy("no-selectors", {"call": "lseek", "args": [{"index": 0, "type": "int"}]}, namespace="no-selectors"),
    policy(
        "first-wins",
        kprobe(
            "lseek",
            {0: "int"},
            selector(match(0, "Equal", -1), actions=POST),
            selector(match(0, "LT", 0), actions=signals(signal.SIGUSR2)),
            selector(match(0, "Equal", -1), actions=signals(signal.SIGTERM)),
        ),
        namespace="first-wins",
    ),
    policy(
        "and",
        kprobe(
            "lseek",
            {0: "int", 1: "long", 2: "uint"},
            selector(match(0, "Equal", -1), match(1, "GT", 10), match(1, "LT", 20), match(2, "Equal", 2)),
        ),
        namespace="and",
    ),
    policy(
        "two-hooks",
        kprobe("lseek", {0: "int"}, selector(match(0, "Equal", -1), actions=POST)),
        kprobe("access", {0: "string"}, selector(match(0, "Prefix", "/secret"))),
        namespace="two-hooks",
    ),
    policy(
        "arguments",
        kprobe(
            "pwrite64",
            {0: "fd", 1: "char_buf:2", 2: "size_t", 3: "long"},
            selector(match(2, "GT", 0), actions=POST),
        ),
        namespace="arguments",
    ),
    lseek_policy("one", actions=POST, namespace="twice"),
    lseek_policy("two", actions=signals(signal.SIGUSR1), namespace="twice"),
    *(lseek_policy(f"pods-{name}", pods=pods) for name, (pods, _, _) in SELECTORS.items()),
    lseek_policy("everyone", match(0, "Equal", -77), actions=signals(signal.SIGUSR1)),
    lseek_policy("every-pod", match(0, "Equal", -78), actions=signals(signal.SIGUSR1), pods={}),
)


@pytest.fixture(scope="module")
def scene(calls_program: Path) -> Iterator[Node]:
    with start_node(calls_program) as node:
        node.add(*POLICIES)
        yield node


@pytest.fixture
def heard(scene: Node) -> Iterator[EventReader]:
    with EventReader(scene.agent.run_dir) as reader:
        yield reader


def of_pid(pid: int, heard: EventReader) -> dict[str, Any]:
    return heard.find(lambda event: bool(event.get("process") and event["process"]["pid"] == pid))


def count_until(heard: EventReader, scene: Node, pid: int) -> list[dict[str, Any]]:
    """The events of a process that has ended: a later event of another one says that all of them have come."""
    marker = scene.host(step("lseek", -77, 0, 0)).pid
    of_pid(marker, heard)
    return [event for event in heard.all() if event["type"] == "policy" and event["process"]["pid"] == pid]


@pytest.mark.parametrize(
    ("namespace", "status"),
    [
        ("kill", -9),
        ("term", -15),
        ("usr1", -10),
        ("realtime", -64),
        ("harmless", 0),
        ("both", -9),
        ("post", 0),
        ("quiet-kill", -9),
    ],
)
def test_action_does_to_the_caller_what_it_says(scene: Node, namespace: str, status: int) -> None:
    with scene.container(namespace) as group:
        assert group.call("lseek", -1, 0, 0).status == status
        assert group.call("lseek", -3, 0, 0).status == 0


def test_event_tells_everything(scene: Node, heard: EventReader, calls_program: Path) -> None:
    with scene.container("kill", {"app": "web", "tier": "x"}, pod="web-0") as group:
        pid = group.call("lseek", -1, 0, 0).pid
        event = of_pid(pid, heard)
        assert event.pop("time").startswith("20")
        assert event["process"].pop("start").startswith("20")
        process = {"pid": pid, "tid": pid, "uid": 0, "binary": str(calls_program), "comm": "calls"}
        assert event == {
            "type": "policy",
            "policy": {"name": "kill", "namespace": "kill"},
            "hook": "syscall",
            "function": "__x64_sys_lseek",
            "call": "lseek",
            "selector": 0,
            "args": [{"index": 0, "type": "int", "value": -1}],
            "action": "SIGKILL",
            "actions": ["POST", "SIGKILL"],
            "enforced": True,
            "process": process,
            "pod": {"namespace": "kill", "name": "web-0", "uid": "", "labels": {"app": "web", "tier": "x"}},
            "container": {"id": group.path.name, "name": "main", "image": ""},
        }


def test_post_tells_and_no_post_does_not(scene: Node, heard: EventReader) -> None:
    with scene.container("post") as group:
        events = count_until(heard, scene, group.call("lseek", -1, 0, 0).pid)
    assert [(event["policy"]["name"], event["action"]) for event in events] == [("post", "POST")]
    assert "enforced" not in events[0]


def test_kill_without_post_is_silent(scene: Node, heard: EventReader) -> None:
    with scene.container("quiet-kill") as group:
        ended = group.call("lseek", -1, 0, 0)
        assert ended.killed
        assert count_until(heard, scene, ended.pid) == []


def test_policy_without_selectors_posts_every_call(scene: Node, heard: EventReader) -> None:
    with scene.container("no-selectors") as group:
        ended = group.run(steps(step("lseek", -1, 0, 0), step("lseek", -5, 0, 0)))
    values = [event["args"][0]["value"] for event in count_until(heard, scene, ended.pid)]
    assert (ended.status, values) == (0, [-1, -5])


def test_first_selector_that_matches_wins(scene: Node, heard: EventReader) -> None:
    with scene.container("first-wins") as group:
        first, second = group.call("lseek", -1, 0, 0), group.call("lseek", -2, 0, 0)
    assert (first.status, second.status) == (0, -signal.SIGUSR2)
    assert of_pid(first.pid, heard)["selector"] == 0
    event = of_pid(second.pid, heard)
    assert (event["selector"], event["action"]) == (1, "SIGNAL SIGUSR2")


def test_all_matches_of_a_selector_must_hold(scene: Node) -> None:
    with scene.container("and") as group:
        assert group.call("lseek", -1, 15, 2).killed
        for arguments in ((-2, 15, 2), (-1, 10, 2), (-1, 20, 2), (-1, 15, 1)):
            assert group.call("lseek", *arguments).status == 0


def test_one_policy_on_two_calls(scene: Node) -> None:
    with scene.container("two-hooks") as group:
        assert group.call("lseek", -1, 0, 0).status == 0
        assert group.call("access", "/secret/key", 0).killed
        assert group.call("access", "/public", 0).status == 0


def test_event_has_arguments_that_no_selector_compares(scene: Node, heard: EventReader, tmp_path: Path) -> None:
    target = tmp_path / "file"
    with scene.container("arguments") as group:
        opened = step("open", str(target), 0o102, 0o600)
        ended = group.run(steps(opened, step("pwrite64", 3, b"a\0\xff", 3, 5)))
    assert ended.results == (3, 3)
    assert of_pid(ended.pid, heard)["args"] == [
        {"index": 0, "type": "fd", "value": 3, "path": str(target), "file_type": "regular", "mode": "0600"},
        {"index": 1, "type": "char_buf", "base64": base64.b64encode(b"a\0\xff").decode()},
        {"index": 2, "type": "size_t", "value": 3},
        {"index": 3, "type": "long", "value": 5},
    ]


def test_two_policies_on_one_call_both_act(scene: Node, heard: EventReader) -> None:
    with scene.container("twice") as group:
        ended = group.call("lseek", -1, 0, 0)
        events = count_until(heard, scene, ended.pid)
    assert ended.status == -signal.SIGUSR1
    assert [event["policy"]["name"] for event in events] == ["one", "two"]


@pytest.mark.parametrize("name", SELECTORS)
def test_pod_selector_selects_by_labels(scene: Node, name: str) -> None:
    _, selected, other = SELECTORS[name]
    namespaces = ("sel-ns", "any") if name == "namespace" else ("any", "any")
    with (
        scene.container(namespaces[0], selected) as inside,
        scene.container(namespaces[1], other, pod="other") as outside,
    ):
        assert inside.call("lseek", -1, 0, 0).killed
        assert outside.call("lseek", -1, 0, 0).status == 0


def test_namespaced_policy_leaves_other_namespaces_alone(scene: Node) -> None:
    with scene.container("killed") as group:
        assert group.call("lseek", -1, 0, 0).status == 0


def test_host_processes_have_only_the_policies_that_select_everything(scene: Node, heard: EventReader) -> None:
    ended = scene.host(step("lseek", -77, 0, 0))
    assert ended.status == -signal.SIGUSR1
    event = of_pid(ended.pid, heard)
    assert (event["pod"], event["container"], event["policy"]) == (None, None, {"name": "everyone", "namespace": None})
    assert scene.host(step("lseek", -78, 0, 0)).status == 0
    assert scene.host(step("lseek", -1, 0, 0)).status == 0


def test_policy_that_selects_everything_is_in_containers_too(scene: Node) -> None:
    with scene.container("any") as group:
        assert group.call("lseek", -77, 0, 0).status == -signal.SIGUSR1
        assert group.call("lseek", -78, 0, 0).status == -signal.SIGUSR1


def test_cgroup_that_nobody_announced_is_the_hosts(scene: Node) -> None:
    with scene.cgroup() as group:
        assert group.call("lseek", -78, 0, 0).status == 0
        assert group.call("lseek", -77, 0, 0).status == -signal.SIGUSR1


def killed_by(group: Cgroup, descriptor: int) -> bool:
    return group.call("lseek", descriptor, 0, 0).killed


def test_policy_of_the_same_name_replaces_and_deletion_ends_it(node: Node) -> None:
    with node.container("default") as group:
        node.add(lseek_policy("p", match(0, "Equal", -1)))
        assert (killed_by(group, -1), killed_by(group, -2)) == (True, False)
        node.add(lseek_policy("p", match(0, "Equal", -2)))
        assert (killed_by(group, -1), killed_by(group, -2)) == (False, True)
        node.agent.control.delete("p", "")
        assert (killed_by(group, -1), killed_by(group, -2)) == (False, False)
    assert node.agent.control.status().hooks == []


def test_deleting_one_of_two_policies_leaves_the_other(node: Node) -> None:
    node.add(lseek_policy("keep", namespace="default"), lseek_policy("go", match(0, "Equal", -2), namespace="default"))
    with node.container() as group:
        node.agent.control.delete("go", "default")
        assert (killed_by(group, -1), killed_by(group, -2)) == (True, False)


def test_running_process_gets_a_new_policy_until_its_container_goes(node: Node) -> None:
    with node.container("default", {"app": "old"}) as group:
        storm = group.start(steps(["wait"], step("lseek", -1, 0, 0)))
        storm.await_waiting()
        node.add(lseek_policy("late", pods={"matchLabels": {"app": "old"}}))
        storm.go()
        assert storm.end().killed
        answer = node.agent.control.list().policies
    assert [status.containers for status in answer] == [1]
    wait_until(lambda: node.agent.control.list().policies[0].containers == 0, 10, "no container selected")


def test_int80_is_not_covered_and_the_policy_says_so(node: Node) -> None:
    node.add(lseek_policy("p", namespace="default"))
    with node.container() as group:
        ended = group.run(["int80", "19", "i:-1", "i:0", "i:0"])
        assert (ended.status, ended.results) == (0, (-9,))
        assert killed_by(group, -1)
    listed = node.agent.cli("policy", "list", "-o", "json")
    assert listed.returncode == 0
    assert "int 0x80" in listed.stdout
