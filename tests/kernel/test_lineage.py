# SPDX-License-Identifier: Apache-2.0
"""Lineage in the running kernel: who descends from what, however processes are made and replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.layout import LINEAGE_SLOTS, TGID
from agent.kernel.process_scan import Record
from agent.policy.codegen_process import lineage_condition, pid_condition
from agent.policy.lineage import LineageNeeds, binary_predicate, pid_predicate
from agent.policy.model import BinaryFilter, Operator, PidFilter
from tests.support.family import Kernel, Questions, Running, Tokens, build_family, start_kernel, steps, stop_chain
from tests.support.wait import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

SOON_S = 20.0


@dataclass(frozen=True)
class Binaries:
    """The same program under several names; policies follow `match`."""

    match: Path
    other: Path
    script: Path

    @property
    def followed(self) -> BinaryFilter:
        return BinaryFilter(Operator.IN, (str(self.match).encode(),), follow_children=True)

    @property
    def needs(self) -> LineageNeeds:
        return LineageNeeds(frozenset({binary_predicate(self.followed)}))


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Binaries:
    folder = tmp_path_factory.mktemp("family")
    family = build_family(folder)
    match, other, script = folder / "match", folder / "other", folder / "script"
    shutil.copy(family, match)
    shutil.copy(family, other)
    return Binaries(match, other, script)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with start_kernel() as started:
        yield started


@pytest.fixture
def clean(kernel: Kernel) -> Iterator[Kernel]:
    """Nothing is followed before and after."""
    kernel.lineage.change(LineageNeeds())
    yield kernel
    kernel.lineage.change(LineageNeeds())


def conditions(kernel: Kernel, followed: BinaryFilter) -> dict[str, str]:
    """What rules ask of a filter: both operators, of the process and of its parent."""
    table = kernel.lineage.table
    negative = BinaryFilter(Operator.NOT_IN, followed.values, True)
    return {
        "inside": lineage_condition(followed, table, of_parent=False),
        "outside": lineage_condition(negative, table, of_parent=False),
        "parent": lineage_condition(followed, table, of_parent=True),
        "no_parent": lineage_condition(negative, table, of_parent=True),
    }


@pytest.fixture(scope="module")
def followed(binaries: Binaries) -> Iterator[tuple[Kernel, Questions]]:
    """What is asked of descendants of `match`, of a kernel that always follows them."""
    with start_kernel() as kernel:
        kernel.lineage.change(binaries.needs)
        with kernel.asking(**conditions(kernel, binaries.followed)) as questions:
            yield kernel, questions


@pytest.fixture
def following(followed: tuple[Kernel, Questions]) -> Questions:
    followed[1].forget()
    return followed[1]


def run(program: Path, *each: list[str]) -> None:
    assert Running(program, steps(*each)).end() == 0


IN = {"inside": 1, "outside": 0}
OUT = {"inside": 0, "outside": 1}
PARENT_IN = {"parent": 1, "no_parent": 0}
PARENT_OUT = {"parent": 0, "no_parent": 1}


def test_process_is_in_by_its_own_binary(following: Questions, binaries: Binaries) -> None:
    run(binaries.match, following.ask())
    assert following.answer() == IN | PARENT_OUT


def test_process_of_another_binary_is_out(following: Questions, binaries: Binaries) -> None:
    run(binaries.other, following.ask("self"), ["fork"], following.ask("child"))
    assert following.answer("self") == following.answer("child") == OUT | PARENT_OUT


@pytest.mark.parametrize(
    "way",
    [
        ["fork"],
        ["fork", "--", "fork", "--", "fork"],
        ["orphan"],
        ["newpid"],
        ["thread", "--", "fork"],
        ["last", "--", "fork"],
    ],
    ids=" ".join,
)
def test_descendants_are_in_after_their_own_execve(following: Questions, binaries: Binaries, way: list[str]) -> None:
    run(binaries.match, way, following.ask("image"), ["exec", str(binaries.other)], following.ask("other"))
    assert following.answer("image") == following.answer("other") == IN | PARENT_IN


def test_child_of_vfork_is_in(following: Questions, binaries: Binaries) -> None:
    run(binaries.match, ["vfork", str(binaries.other)], following.ask())
    assert following.answer() == IN | PARENT_IN


def test_execve_of_something_else_does_not_lead_out(following: Questions, binaries: Binaries) -> None:
    run(binaries.match, ["exec", str(binaries.other)], following.ask("self"), ["fork"], following.ask("child"))
    assert following.answer("self") == IN | PARENT_OUT
    assert following.answer("child") == IN | PARENT_IN


@pytest.mark.parametrize("way", ["thread", "last"])
def test_thread_that_calls_execve_takes_its_process_along(following: Questions, binaries: Binaries, way: str) -> None:
    run(binaries.match, [way], ["exec", str(binaries.other)], following.ask("other"))
    run(binaries.other, [way], ["exec", str(binaries.match)], following.ask("match"))
    assert following.answer("other") == following.answer("match") == IN | PARENT_OUT


@pytest.mark.parametrize("way", ["thread", "last"])
def test_threads_are_of_their_process(following: Questions, binaries: Binaries, way: str) -> None:
    run(binaries.match, [way], following.ask())
    assert following.answer() == IN | PARENT_OUT


def test_child_is_the_creators_whoever_is_its_parent(following: Questions, binaries: Binaries) -> None:
    """CLONE_PARENT: its parent is this test, which is in nobody's lineage."""
    run(binaries.match, ["sibling"], following.ask())
    assert following.answer() == IN | PARENT_IN


def test_ancestor_that_calls_execve_later_does_not_take_its_children_along(
    following: Questions, binaries: Binaries
) -> None:
    """The parent is in from then on, the child that it had made before is not."""
    child = steps(["fork"], ["wait"], following.ask("child"))
    running = Running(binaries.other, child)
    running.await_waiting()
    running.go()
    assert running.end() == 0
    assert following.answer("child") == OUT | PARENT_OUT


def test_script_is_its_interpreter(following: Questions, binaries: Binaries) -> None:
    """mm->exe_file: its own path is an argument only."""
    binaries.script.write_text(f"#!{binaries.match} {following.ask()[0]}\n")
    binaries.script.chmod(0o755)
    subprocess.run([binaries.script], check=True)
    assert following.answer() == IN | PARENT_OUT


def test_records_go_with_their_processes(
    followed: tuple[Kernel, Questions], following: Questions, binaries: Binaries
) -> None:
    kernel, _ = followed
    running = Running(binaries.match, steps(["bomb", "5"], ["wait"], following.ask()))
    running.await_waiting()
    family = [running.pid, *running.children()]
    assert len(family) == 6
    assert all(kernel.has_record(pid) for pid in family)
    running.go()
    assert running.end() == 0
    wait_until(lambda: not any(kernel.has_record(pid) for pid in family), SOON_S, "the records to go")


def early(kernel: Kernel, binaries: Binaries, program: Path, *way: list[str]) -> dict[str, int]:
    """What is known of a process that had come so far when the policy came."""
    tokens = Tokens()
    running = Running(program, steps(*way, ["wait"], tokens.ask()))
    try:
        running.await_waiting()
        kernel.lineage.change(binaries.needs)
        with kernel.asking(tokens, **conditions(kernel, binaries.followed)) as questions:
            running.go()
            return questions.answer()
    finally:
        running.end()


@pytest.mark.parametrize("way", [[], [["thread"]], [["last"]]], ids=["itself", "thread", "last"])
def test_process_that_ran_before_is_in_by_its_image(clean: Kernel, binaries: Binaries, way: list[list[str]]) -> None:
    assert early(clean, binaries, binaries.match, *way) == IN | PARENT_OUT


def test_process_that_ran_before_is_in_by_its_living_ancestors(clean: Kernel, binaries: Binaries) -> None:
    way = (["fork"], ["exec", str(binaries.other)], ["fork"])
    assert early(clean, binaries, binaries.match, *way) == IN | PARENT_IN


def test_process_that_ran_before_with_nothing_to_do_with_it_is_out(clean: Kernel, binaries: Binaries) -> None:
    assert early(clean, binaries, binaries.other, ["fork"]) == OUT | PARENT_OUT


def test_binary_that_was_replaced_before_is_known_by_its_name(clean: Kernel, binaries: Binaries) -> None:
    """As an update of its package leaves it."""
    updated = binaries.match.with_name("updated")
    shutil.copy(binaries.match, updated)
    tokens = Tokens()
    running = Running(binaries.match, steps(["wait"], tokens.ask()))
    try:
        running.await_waiting()
        os.rename(updated, binaries.match)
        clean.lineage.change(binaries.needs)
        with clean.asking(tokens, **conditions(clean, binaries.followed)) as questions:
            running.go()
            assert questions.answer() == IN | PARENT_OUT
    finally:
        running.end()


def test_fast_chain_of_forks_does_not_outrun_the_scan(clean: Kernel, binaries: Binaries) -> None:
    """Each lives as long as it takes to fork the next; only the image of its living ancestor is followed."""
    tokens = Tokens()
    endless = steps(["reap"], ["exec", str(binaries.other)], ["wait"], ["hop", tokens.ask()[0]])
    running = Running(binaries.match, endless)
    try:
        running.await_waiting()
        running.go()
        clean.lineage.change(binaries.needs)
        with clean.asking(tokens, **conditions(clean, binaries.followed)) as questions:
            assert questions.answer() == IN | PARENT_IN
    finally:
        running.close()
        stop_chain(binaries.other)


@pytest.mark.parametrize("by", ["scan", "execve"])
def test_freed_bit_means_nothing_of_what_it_meant(clean: Kernel, binaries: Binaries, by: str) -> None:
    """All bits are given out before one is given out again; its old owner's processes still run."""
    tokens = Tokens()
    if by == "execve":
        clean.lineage.change(binaries.needs)
    running = Running(binaries.match, steps(["wait"], tokens.ask("self"), ["fork"], tokens.ask("child")))
    running.await_waiting()
    try:
        first = clean.lineage.change(binaries.needs).placed[0]
        assert bool(clean.record(running.pid).bits) is (by == "execve")
        assert clean.has_record(running.pid)
        others = frozenset(pid_predicate(PidFilter(Operator.IN, (n,))) for n in range(1 << 22, (1 << 22) + 255))
        clean.lineage.change(LineageNeeds(others))
        replacement = BinaryFilter(Operator.IN, (b"/nowhere",), follow_children=True)
        table = clean.lineage.change(LineageNeeds(others | {binary_predicate(replacement)}))
        assert table.find(binary_predicate(replacement)).bit == first.bit
        with clean.asking(tokens, **conditions(clean, replacement)) as questions:
            running.go()
            assert running.end() == 0
            assert questions.answer("self") == questions.answer("child") == OUT | PARENT_OUT
    finally:
        running.close()


def pid_questions(kernel: Kernel, condition: PidFilter) -> dict[str, str]:
    negative = replace(condition, operator=Operator.NOT_IN)
    table = kernel.lineage.change(LineageNeeds(frozenset({pid_predicate(condition)})))
    return {"inside": pid_condition(condition, table), "outside": pid_condition(negative, table)}


@pytest.mark.parametrize("early_child", [False, True])
def test_pid_is_followed_to_forks(clean: Kernel, binaries: Binaries, early_child: bool) -> None:
    tokens = Tokens()
    rest = (["fork"], ["exec", str(binaries.other)], tokens.ask("child"))
    forked = [*rest[:2], ["wait"], rest[2]] if early_child else [["wait"], tokens.ask("self"), *rest]
    running = Running(binaries.match, steps(*forked))
    try:
        running.await_waiting()
        condition = PidFilter(Operator.IN, (running.pid,), follow_forks=True)
        with clean.asking(tokens, **pid_questions(clean, condition)) as questions:
            running.go()
            assert running.end() == 0
            assert questions.answer("child") == IN
            assert early_child or questions.answer("self") == IN
    finally:
        running.close()


def test_pid_of_a_namespace_is_followed(clean: Kernel, binaries: Binaries) -> None:
    """2 in its own namespace; in the host's it has another number, and 2 is the kernel's. Its descendants in a further
    namespace have pids of their own.
    """
    tokens = Tokens()
    condition = PidFilter(Operator.IN, (2,), namespace_pid=True, follow_forks=True)
    forks = (["fork"], tokens.ask("second"), ["fork"], tokens.ask("third"), ["newpid"], tokens.ask("apart"))
    way = steps(tokens.ask("out"), ["newpid"], tokens.ask("first"), *forks)
    with clean.asking(tokens, **pid_questions(clean, condition)) as questions:
        assert Running(binaries.match, way).end() == 0
        assert questions.answer("out") == questions.answer("first") == questions.answer("apart") == OUT
        assert questions.answer("second") == questions.answer("third") == IN


def test_full_map_makes_every_condition_hold_for_those_without_a_record(binaries: Binaries) -> None:
    with start_kernel({"lineage": 64}) as kernel:
        kernel.lineage.change(binaries.needs)
        bomb = Running(binaries.match, steps(["bomb", "100"], ["wait"]))
        bomb.await_waiting()
        try:
            assert kernel.counter("lineage_full") >= 36
            lost = [pid for pid in bomb.children() if not kernel.has_record(pid)]
            assert len(lost) >= 36
            _check_lost(kernel, binaries, bomb)
        finally:
            bomb.close()


def _check_lost(kernel: Kernel, binaries: Binaries, bomb: Running) -> None:
    """Of a process that belongs to the lineage, one of another, and after there is room again."""
    tokens = Tokens()
    late = Running(binaries.match, steps(tokens.ask("match"), ["wait"], ["fork"], tokens.ask("later")))
    late.await_waiting()
    try:
        with kernel.asking(tokens, **conditions(kernel, binaries.followed)) as questions:
            run(binaries.match, questions.ask("lost"), ["fork"], questions.ask("child of lost"))
            run(binaries.other, questions.ask("other"))
            both = {"inside": 1, "outside": 1}
            assert {key: questions.answer("lost")[key] for key in both} == both
            assert {key: questions.answer("child of lost")[key] for key in both} == both
            assert questions.answer("other") == OUT | PARENT_OUT
            bomb.close()
            wait_until(lambda: kernel.lineage.settle() >= 0 and kernel.has_record(late.pid), SOON_S, "a record")
            assert kernel.record(late.pid).unknown
            late.go()
            assert late.end() == 0
            assert {key: questions.answer("later")[key] for key in both} == both
            run(binaries.other, questions.ask("innocent"))
            assert questions.answer("innocent") == OUT | PARENT_OUT
    finally:
        late.close()


def test_reused_pid_is_a_new_process(followed: tuple[Kernel, Questions], binaries: Binaries) -> None:
    """A record whose process is gone says nothing of the one that has its pid now."""
    kernel, questions = followed
    questions.forget()
    running = Running(binaries.other, steps(["wait"], questions.ask()))
    try:
        running.await_waiting()
        record = Record(1, written=1 << 62, bits=(1 << 256) - 1)
        bpf.update(kernel.maps.fileno("lineage"), TGID.pack(running.pid), record.pack())
        running.go()
        assert questions.answer() == OUT | PARENT_OUT
    finally:
        running.close()


def test_nothing_is_kept_when_nobody_asks(clean: Kernel, binaries: Binaries) -> None:
    clean.lineage.change(binaries.needs)
    clean.lineage.change(LineageNeeds())
    running = Running(binaries.match, steps(["fork"], ["wait"]))
    running.await_waiting()
    try:
        assert not bpf.keys(clean.maps.fileno("lineage"), TGID.size)
        assert not any(bpf.lookup(clean.maps.fileno("lineage_slots"), TGID.pack(n), 4) for n in range(LINEAGE_SLOTS))
    finally:
        running.close()


def test_change_of_predicates_keeps_what_is_known(clean: Kernel, binaries: Binaries) -> None:
    """Descendants whose ancestor is gone by then."""
    tokens = Tokens()
    clean.lineage.change(binaries.needs)
    running = Running(binaries.match, steps(["orphan"], ["exec", str(binaries.other)], ["wait"], tokens.ask()))
    running.await_waiting()
    more = BinaryFilter(Operator.PREFIX, (b"/nowhere/",), follow_children=True)
    try:
        clean.lineage.change(binaries.needs | LineageNeeds(frozenset({binary_predicate(more)})))
        with clean.asking(tokens, **conditions(clean, binaries.followed)) as questions:
            running.go()
            assert questions.answer() == IN | PARENT_IN
    finally:
        running.close()
