# SPDX-License-Identifier: Apache-2.0
"""System calls by the names of the table, and the tracepoints that this kernel has for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.mounts import ensure_tracefs, unmount
from agent.kernel.tracepoint import Tracepoints
from agent.policy.syscalls import NUMBERS, kernel_name
from tests.support.agent import EventReader
from tests.support.wait import wait_until
from tests.support.workload import POST, Node, kprobe, policy, selector

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

# In the table, but no kernel has them any more, or only one with modules, kexec or a 32-bit table.
UNIMPLEMENTED = frozenset(
    [
        "_sysctl",
        "afs_syscall",
        "create_module",
        "epoll_ctl_old",
        "epoll_wait_old",
        "get_kernel_syms",
        "get_thread_area",
        "getpmsg",
        "lookup_dcookie",
        "nfsservctl",
        "putpmsg",
        "query_module",
        "security",
        "set_thread_area",
        "tuxcall",
        "uselib",
        "vserver",
    ]
)
OPTIONAL = frozenset(
    ["delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load", "map_shadow_stack"]
)


@pytest.fixture
def tracefs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="podgate-test-") as folder:
        point, mounted = ensure_tracefs(Path(folder) / "tracing")
        yield point
        if mounted:
            unmount(point)


def test_every_call_of_this_kernel_has_a_name_in_the_table(tracefs: Path) -> None:
    """And every name of the table that the kernel implements has a tracepoint under the kernel's own name for it."""
    there = {path.name.removeprefix("sys_enter_") for path in (tracefs / "events/syscalls").glob("sys_enter_*")}
    table = {kernel_name(name): name for name in NUMBERS}
    assert there - set(table) == set()
    tracepoints = Tracepoints(tracefs)
    oldest = {name for name, number in NUMBERS.items() if number <= NUMBERS["landlock_restrict_self"]}
    absent = {name for name in oldest if not tracepoints.exists(name)}
    assert absent - UNIMPLEMENTED - OPTIONAL == set()


def test_a_call_whose_function_has_another_name_is_hooked(node: Node, events: EventReader) -> None:
    """newfstat is what the kernel calls fstat."""
    watch = selector(actions=POST)
    node.add(policy("names", kprobe("fstat", {0: "int"}, watch), kprobe("uname", {}, watch), namespace="default"))
    with node.container() as group:
        ended = group.run(["5", "i:-7", "i:0"])

        def told() -> list[str]:
            mine = [event for event in events.all() if event.get("process", {}).get("pid") == ended.pid]
            return [event["function"] for event in mine if event["args"] == [{"index": 0, "type": "int", "value": -7}]]

        assert wait_until(told, 10, "the event") == ["__x64_sys_newfstat"]
