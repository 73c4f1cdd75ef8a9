# SPDX-License-Identifier: Apache-2.0
"""What a running agent tells of its policies: what of them is not enforced here, their memory, and their C."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.kernel import bpf
from agent.kernel.layout import entry_bytes
from nri_plugin.ttrpc import RemoteError
from tests.support.agent import run_cli
from tests.support.language import arg, document, status_of
from tests.support.workload import Node, lseek_policy, start_node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

MISSING = {"call": "sys_nosuchcall", "ignore": {"callNotFound": True}}
REJECTED = {
    "path": sys.executable,
    "offsets": [0],
    "binaryDigests": ["sha256:" + "0" * 64],
    "ignore": {"digestVerificationFailure": True},
}


@pytest.fixture(scope="module")
def module_node(calls_program: Path) -> Iterator[Node]:
    with start_node(calls_program) as made:
        yield made


@pytest.fixture
def node(module_node: Node) -> Iterator[Node]:
    yield module_node
    module_node.clear()


def cli(node: Node, *words: str) -> Any:
    done = run_cli(node.agent.run_dir, *words)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_what_is_left_out_is_told_wherever_a_policy_is(node: Node) -> None:
    node.add(
        document("some", kprobes=[{"call": "lseek"}, MISSING], uprobes=[REJECTED]), document("none", kprobes=[MISSING])
    )
    some = status_of(node, "some")
    assert (some.state, list(some.hooks)) == ("partial", ["lseek"])
    assert [(gap.section, gap.name, gap.reason) for gap in some.not_enforced] == [
        ("kprobes[1]", "nosuchcall", "call_not_found"),
        ("uprobes[0]", sys.executable, "digest_rejected"),
    ]
    assert (status_of(node, "none").state, list(status_of(node, "none").hooks)) == ("not_hooked", [])
    listed = run_cli(node.agent.run_dir, "policy", "list")
    assert listed.returncode == 1, "nothing of one is in force"
    assert [line.split()[-1] for line in listed.stdout.splitlines()[-3:]] == [
        "call_not_found",
        "call_not_found",
        "digest_rejected",
    ]
    assert cli(node, "status", "-o", "json")["policy_states"] == {"partial": 1, "not_hooked": 1}
    told = [line for line in node.agent.background.lines() if line["event"] == "not all of a policy is enforced here"]
    assert [(line["policy"], line["state"], line["count"]) for line in told] == [
        ("some", "partial", 2),
        ("none", "not_hooked", 1),
    ]


def test_the_faults_of_all_policies_are_told_and_nothing_is_added(node: Node) -> None:
    faulty = [document(name, kprobes=[{"call": "lseek", "args": [arg(5, "int")]}]) for name in ("a", "b")]
    with pytest.raises(RemoteError) as caught:
        node.add(faulty[0], lseek_policy("good"), faulty[1])
    lines = caught.value.message.splitlines()
    assert len(lines) == 2
    assert all("lseek has no argument 5" in line for line in lines)
    states = {each.name: each.state for each in node.agent.control.list().policies}
    assert states == dict.fromkeys(("a", "b", "good"), "load_error")


def test_a_policy_of_the_directory_that_this_node_cannot_carry_out_keeps_out_no_other(
    calls_program: Path, tmp_path: Path
) -> None:
    faulty = document("faulty", kprobes=[{"call": "lseek", "args": [arg(5, "int")]}])
    for made in (faulty, lseek_policy("good")):
        (tmp_path / f"{made['metadata']['name']}.json").write_text(json.dumps(made))
    with start_node(calls_program, "--policy-dir", str(tmp_path)) as node:
        assert (status_of(node, "faulty").state, status_of(node, "good").state) == ("load_error", "enabled")
        (told,) = [line for line in node.agent.background.lines() if "left out" in line["event"]]
    assert told["error"].startswith(f"{tmp_path}/faulty.json:1:")


def test_a_policy_is_shown_with_what_it_says_and_its_c(node: Node) -> None:
    node.add(lseek_policy("one"), lseek_policy("two"))
    shown = cli(node, "policy", "show", "two")
    assert (shown["state"], shown["policy"]["hooks"][0]["calls"]) == ("enabled", ["lseek"])
    done = run_cli(node.agent.run_dir, "policy", "show", "--c", "two")
    assert set(re.findall(r"pg_hit\(call, (\d+),", done.stdout)) == {str(shown["id"])}
    assert re.findall(r"^int (pg_enter\w+)\(", done.stdout, re.MULTILINE) == ["pg_enter_1_0"]


def test_kernel_memory_is_shared_by_those_who_share_programs(node: Node) -> None:
    node.add(lseek_policy("one"))
    alone = status_of(node, "one").kernel_memory_bytes
    assert alone > 4096, "two programs at least: dispatcher and rules"
    node.add(lseek_policy("two"))
    shared = [status_of(node, name).kernel_memory_bytes for name in ("one", "two")]
    assert abs(shared[0] - shared[1]) <= 1
    assert shared[0] < alone < sum(shared)
    assert cli(node, "policy", "show", "one")["kernel_memory_bytes"] == str(shared[0])
    node.agent.control.delete("two", "")
    assert status_of(node, "one").kernel_memory_bytes == alone


@pytest.mark.parametrize(("key", "value"), [(8, 128), (4, 4096), (5, 9)])
def test_an_entry_takes_what_the_kernel_says(key: int, value: int) -> None:
    """Linux before 6.4 tells what there is room for, whatever is in it."""
    with bpf.create_map(bpf.MapType.HASH, key, value, 512, "pg_test", bpf.NO_PREALLOC) as made:
        before = _memlock(made)
        for number in range(100):
            bpf.update(made.fileno(), number.to_bytes(key, "little"), bytes(value))
        assert _memlock(made) - before in (0, 100 * entry_bytes(key, value))


def _memlock(fd: bpf.Fd) -> int:
    text = Path(f"/proc/self/fdinfo/{fd.fileno()}").read_text()
    (found,) = re.findall(r"^memlock:\s+(\d+)$", text, re.MULTILINE)
    return int(found)
