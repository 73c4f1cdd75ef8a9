# SPDX-License-Identifier: Apache-2.0
"""What a call knows of its process: pids, namespaces, capabilities, and what of them changed since its execve."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.process_scan import read_host_namespaces, read_namespaces
from agent.policy.codegen_process import (
    capability_change_condition,
    capability_condition,
    namespace_change_condition,
    namespace_condition,
    pid_condition,
)
from agent.policy.lineage import LineageNeeds, LineageTable
from agent.policy.model import (
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    Operator,
    PidFilter,
)
from tests.support.family import Kernel, Questions, Running, Tokens, build_family, start_kernel, steps
from tests.support.names import unique_name

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

NEWNS, NEWUTS, NEWNET, NEWUSER, NEWTIME = 0x20000, 0x4000000, 0x40000000, 0x10000000, 0x80
SYS_ADMIN = 1 << 21
NOBODY = 65534
NAMESPACES = tuple(NamespaceType)
CHANGES = LineageNeeds(changes=True)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with start_kernel() as started:
        yield started


@pytest.fixture(scope="module")
def numbers(kernel: Kernel) -> Iterator[Questions]:
    names = {f"ns{number}": f"pg_ns_inum({number})" for number in range(len(NAMESPACES))}
    caps = {f"cap{kind}": f"pg_caps({kind}, 1)" for kind in range(len(CapabilityType))}
    with kernel.asking(tgid="pg_tgid()", ns_tgid="pg_ns_tgid()", host_caps="pg_caps(0, 0)", **names, **caps) as asked:
        yield asked


@pytest.fixture
def asked(numbers: Questions) -> Questions:
    numbers.forget()
    return numbers


def test_pids_are_those_of_the_process_whatever_thread_calls(asked: Questions, family: Path) -> None:
    running = Running(family, steps(["thread"], asked.ask()))
    assert running.end() == 0
    answer = asked.answer()
    assert (answer["tgid"], answer["ns_tgid"]) == (running.pid, running.pid)


def test_pid_of_the_own_namespace(asked: Questions, family: Path) -> None:
    assert Running(family, steps(["newpid"], asked.ask("first"), ["fork"], ["thread"], asked.ask("second"))).end() == 0
    assert asked.answer("first")["ns_tgid"] == 1
    assert asked.answer("second")["ns_tgid"] == 2
    assert asked.answer("second")["tgid"] > 2


def inums(answer: dict[str, int]) -> dict[NamespaceType, int]:
    return {kind: answer[f"ns{number}"] for number, kind in enumerate(NAMESPACES) if answer[f"ns{number}"]}


@pytest.mark.parametrize("flags", [0, NEWNS | NEWUTS | NEWNET, NEWUSER, NEWTIME])
def test_namespaces_are_those_that_proc_shows(asked: Questions, family: Path, flags: int) -> None:
    way = [["unshare", hex(flags)]] if flags else []
    running = Running(family, steps(*way, asked.ask(), ["wait"]))
    try:
        running.await_waiting()
        assert inums(asked.answer()) == read_namespaces(Path(f"/proc/{running.pid}"))
        assert inums(asked.answer())[NamespaceType.USER] != read_host_namespaces()[NamespaceType.USER] or not (
            flags & NEWUSER
        )
    finally:
        running.close()


def test_pid_namespace_for_children_is_not_the_own_one(asked: Questions, family: Path) -> None:
    assert Running(family, steps(["unshare", "0x20000000"], asked.ask())).end() == 0
    found = inums(asked.answer())
    assert found[NamespaceType.PID] == read_host_namespaces()[NamespaceType.PID]
    assert found[NamespaceType.PID_FOR_CHILDREN] not in (0, found[NamespaceType.PID])


def capability_sets(pid: int) -> list[int]:
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(lines[name], 16) for name in ("CapEff", "CapInh", "CapPrm")]


@pytest.mark.parametrize("way", [[], [["setuid", str(NOBODY)]], [["unshare", hex(NEWUSER)]]])
def test_capabilities_are_those_that_proc_shows(asked: Questions, family: Path, way: list[list[str]]) -> None:
    running = Running(family, steps(*way, asked.ask(), ["wait"]))
    try:
        running.await_waiting()
        answer = asked.answer()
        sets = capability_sets(running.pid)
        assert [answer[f"cap{kind}"] for kind in range(3)] == sets
        assert answer["host_caps"] == (0 if way and way[0][0] == "unshare" else sets[0])
    finally:
        running.close()


def test_conditions_without_history(kernel: Kernel, family: Path) -> None:
    host = read_host_namespaces()
    uts = NamespaceType.UTS
    admin = CapabilityType.EFFECTIVE
    first = PidFilter(Operator.IN, (1,), namespace_pid=True)
    expressions = {
        "first": pid_condition(first, LineageTable()),
        "not_first": pid_condition(PidFilter(Operator.NOT_IN, (1,), namespace_pid=True), LineageTable()),
        "host_uts": namespace_condition(NamespaceFilter(uts, Operator.IN, (), host=True), host),
        "other_uts": namespace_condition(NamespaceFilter(uts, Operator.NOT_IN, (5,), host=True), host),
        "admin": capability_condition(CapabilityFilter(admin, Operator.IN, SYS_ADMIN)),
        "no_admin": capability_condition(CapabilityFilter(admin, Operator.NOT_IN, SYS_ADMIN)),
        "any_admin": capability_condition(CapabilityFilter(admin, Operator.IN, SYS_ADMIN, namespaced=True)),
    }
    with kernel.asking(**expressions) as asked:
        way = steps(asked.ask("host"), ["unshare", hex(NEWUTS | NEWUSER)], ["newpid"], asked.ask("inside"))
        assert Running(family, way).end() == 0
        assert list(asked.answer("host").values()) == [0, 1, 1, 0, 1, 0, 1]
        assert list(asked.answer("inside").values()) == [1, 0, 0, 1, 0, 1, 1]


CHANGED = {
    "uts": namespace_change_condition(NamespaceChangeFilter(Operator.IN, (NamespaceType.UTS,))),
    "uts_same": namespace_change_condition(NamespaceChangeFilter(Operator.NOT_IN, (NamespaceType.UTS,))),
    "some": namespace_change_condition(
        NamespaceChangeFilter(Operator.IN, (NamespaceType.NET, NamespaceType.USER, NamespaceType.UTS))
    ),
    "admin": capability_change_condition(CapabilityChangeFilter(CapabilityType.EFFECTIVE, Operator.IN, SYS_ADMIN)),
    "admin_same": capability_change_condition(
        CapabilityChangeFilter(CapabilityType.EFFECTIVE, Operator.NOT_IN, SYS_ADMIN)
    ),
    "inside": capability_change_condition(
        CapabilityChangeFilter(CapabilityType.EFFECTIVE, Operator.IN, SYS_ADMIN, namespaced=True)
    ),
}
NOTHING = {"uts": 0, "uts_same": 1, "some": 0, "admin": 0, "admin_same": 1, "inside": 0}
UTS_CHANGED = NOTHING | {"uts": 1, "uts_same": 0, "some": 1}


@pytest.fixture(scope="module")
def watched() -> Iterator[Questions]:
    with start_kernel() as kernel:
        kernel.lineage.change(CHANGES)
        with kernel.asking(**CHANGED) as questions:
            yield questions


@pytest.fixture
def changes(watched: Questions) -> Questions:
    watched.forget()
    return watched


def test_nothing_has_changed_at_first(changes: Questions, family: Path) -> None:
    assert Running(family, steps(changes.ask("self"), ["fork"], changes.ask("child"))).end() == 0
    assert changes.answer("self") == changes.answer("child") == NOTHING


def test_unshare_is_a_change_until_the_next_execve(changes: Questions, family: Path) -> None:
    way = steps(["unshare", hex(NEWUTS)], changes.ask("now"), ["exec", str(family)], changes.ask("later"))
    assert Running(family, way).end() == 0
    assert changes.answer("now") == UTS_CHANGED
    assert changes.answer("later") == NOTHING


def test_change_is_not_undone_by_a_fork(changes: Questions, family: Path) -> None:
    assert Running(family, steps(["unshare", hex(NEWUTS)], ["fork"], changes.ask())).end() == 0
    assert changes.answer() == UTS_CHANGED


def test_way_back_is_no_change(changes: Questions, family: Path) -> None:
    running = Running(family, steps(["unshare", hex(NEWUTS)], ["setns", f"/proc/{os.getpid()}/ns/uts"], changes.ask()))
    assert running.end() == 0
    assert changes.answer() == NOTHING


def test_setuid_loses_capabilities(changes: Questions, family: Path) -> None:
    assert Running(family, steps(["setuid", str(NOBODY)], changes.ask())).end() == 0
    assert changes.answer() == NOTHING | {"admin": 1, "admin_same": 0, "inside": 1}


def test_program_with_setuid_gains_them_at_its_execve(changes: Questions, family: Path) -> None:
    """The snapshot is of the new image's credentials: what it begins with is no change."""
    with tempfile.TemporaryDirectory(prefix=unique_name("setuid")) as folder:
        Path(folder).chmod(0o711)
        program = Path(shutil.copy(family, folder))
        program.chmod(0o4755)
        way = steps(["setuid", str(NOBODY)], ["exec", str(program)], changes.ask("gained"))
        assert Running(family, way).end() == 0
    assert changes.answer("gained") == NOTHING


def test_new_user_namespace_takes_the_hosts_capabilities(changes: Questions, family: Path) -> None:
    """In its own it has them all, as before: only who counts those sees no change."""
    assert Running(family, steps(["unshare", hex(NEWUSER)], changes.ask())).end() == 0
    assert changes.answer() == NOTHING | {"some": 1, "admin": 1, "admin_same": 0}


def test_what_ran_before_is_compared_with_the_time_of_the_policy(kernel: Kernel, family: Path) -> None:
    tokens = Tokens()
    kernel.lineage.change(LineageNeeds())
    way = (["unshare", hex(NEWUTS)], ["wait"], tokens.ask("then"), ["unshare", hex(NEWUTS)], tokens.ask("now"))
    running = Running(family, steps(*way))
    try:
        running.await_waiting()
        kernel.lineage.change(CHANGES)
        with kernel.asking(tokens, **CHANGED) as questions:
            running.go()
            assert running.end() == 0
            assert questions.answer("then") == NOTHING
            assert questions.answer("now") == UTS_CHANGED
    finally:
        kernel.lineage.change(LineageNeeds())


def test_process_without_a_snapshot_meets_both(family: Path) -> None:
    with start_kernel({"lineage": 1}) as kernel:
        kernel.lineage.change(CHANGES)
        assert kernel.counter("lineage_full") > 0
        with kernel.asking(**CHANGED) as questions:
            assert Running(family, questions.ask()).end() == 0
            assert questions.answer() == dict.fromkeys(CHANGED, 1)
