# SPDX-License-Identifier: Apache-2.0
"""A kernel whose BTF is hidden from the agent, without headers: its types come from bpf(2), and policies enforce."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.btf_objects import held_btf, held_names
from agent.kernel.kernel_btf import BTF_DIR
from tests.support.agent import AgentProcess
from tests.support.function_hooks import KILLED, function, openat, policies, select
from tests.support.language import act, arg, condition, document
from tests.support.workload import Node, lseek_policy, step, steps

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.timeout(120)]

HIDDEN = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /sys/kernel/btf && exec "$@"', "sh")


@pytest.fixture(scope="module")
def node(calls_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Its agent sees an empty directory, and has no header tree yet."""
    cache = tmp_path_factory.mktemp("cache") / "headers"
    with AgentProcess("--cache-dir", str(cache), wrapper=HIDDEN) as agent:
        assert list(Path(f"/proc/{agent.pid}/root{BTF_DIR}").iterdir()) == []
        running = Node(agent, calls_program)
        try:
            yield running
        finally:
            running.close()


def test_what_the_kernel_gives_is_what_it_shows() -> None:
    shown = {path.name: path.read_bytes() for path in BTF_DIR.iterdir()}
    assert {"vmlinux", *held_names()} == set(shown)
    for name, data in shown.items():
        assert held_btf(name) == data
    assert held_btf("no_module_of_this_name") is None


def test_policies_enforce(node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("")
    by_types = function(
        "security_file_open",
        arg(0, "file"),
        selectors=[select(condition(0, "Equal", str(secret)), then=[act("Sigkill")])],
    )
    texts = json.dumps(lseek_policy("calls")), json.dumps(document("files", kprobes=[by_types]))
    with policies(node, *texts), node.container() as cgroup:
        assert cgroup.run(steps(step("lseek", 5, 0, 0), openat(tmp_path))).status == 0
        assert cgroup.run(step("lseek", -1, 0, 0)).status == KILLED
        assert cgroup.run(openat(secret)).status == KILLED
