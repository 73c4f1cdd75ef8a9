# SPDX-License-Identifier: Apache-2.0
"""Probes are on the file that was looked at, and follow when another one is put in its place."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.user_files import UserFiles
from agent.policy.access import HookPoint, PointKind
from tests.support.agent import run_cli
from tests.support.language import Document, act, arg, build_subject, condition, document, status_of, subject
from tests.support.names import project_dir
from tests.support.points import Bench, HandPlan, Target, build_target, open_bench, open_tracefs, passing
from tests.support.wait import wait_until
from tests.support.workload import Node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

MARK = 11


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return build_target(tmp_path_factory.mktemp("points"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_tracefs(tmp_path / "tracing") as tracefs, open_bench(tracefs) as bench:
        yield bench


def copy(target: Target, path: Path) -> HookPoint:
    """The function `probe` of a copy of the target, as it was looked at."""
    shutil.copy(target.path, path)
    return HookPoint(PointKind.UPROBE, str(path), target.offsets["probe"], 0, UserFiles().identity(str(path)))


def passes(bench: Bench, target: Target, path: Path) -> int:
    """How many of ten calls in that file the probe has seen."""
    before = bench.seen(MARK)
    with passing(Target(path, target.offsets), 10) as passer:
        bench.apply(HandPlan(next(iter(bench.points.points())), MARK, passer.pid))
        passer.come()
    return bench.seen(MARK) - before


def test_probe_is_in_the_file_that_was_looked_at(bench: Bench, target: Target, tmp_path: Path) -> None:
    """Whatever the path leads to when the kernel comes to look."""
    seen, other, link = tmp_path / "seen", tmp_path / "other", tmp_path / "link"
    point = replace(copy(target, seen), name=str(link))
    shutil.copy(target.path, other)
    link.symlink_to(seen)
    opened = bpf.open_uprobe_event

    def swap(pmu: int, config: int, path: str, offset: int) -> bpf.Fd:
        link.unlink()
        link.symlink_to(other)
        return opened(pmu, config, path, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpf, "open_uprobe_event", swap)
        bench.apply(HandPlan(point, MARK, 1))
    assert (passes(bench, target, seen), passes(bench, target, other)) == (10, 0)


@pytest.mark.parametrize("happens", ["replaced", "written to"])
def test_file_that_is_not_the_one_that_was_looked_at_gets_no_probe(
    bench: Bench, target: Target, tmp_path: Path, happens: str
) -> None:
    path = tmp_path / "file"
    point = copy(target, path)
    if happens == "replaced":
        copy(target, tmp_path / "new")
        (tmp_path / "new").rename(path)
    else:
        with path.open("ab") as file:
            file.write(b"more")
    with pytest.raises(KernelError, match=rf"uprobe {path}.*another file is there than the one that was looked at"):
        bench.apply(HandPlan(point, MARK, 1))
    assert (bench.points.points(), list(bench.links.iterdir())) == ((), [])


# With an agent: `grade` is where a policy kills.


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The program, and a later version of it, in which everything is at another place."""
    folder = tmp_path_factory.mktemp("subject")
    later, source = folder / "later", project_dir() / "tests/support/programs/subject.c"
    subprocess.run(["gcc", "-O0", "-g", "-Wall", "-o", later, source], check=True)
    return build_subject(folder), later


@pytest.fixture
def path(programs: tuple[Path, Path], tmp_path: Path) -> Path:
    path = tmp_path / "subject"
    shutil.copy(programs[0], path)
    return path


def upgrade(path: Path, to: Path) -> None:
    """As package managers do it."""
    shutil.copy(to, path.with_name("new"))
    path.with_name("new").rename(path)


def killing(path: Path, **fields: object) -> Document:
    selector = {"matchArgs": [condition(0, "Equal", 13)], "matchActions": [act("Sigkill")]}
    hook = {"path": str(path), "symbols": ["grade"], "args": [arg(0, "long")], "selectors": [selector]}
    return document("graded", uprobes=[hook | fields])


def grade(path: Path, number: int) -> str:
    """What a process that is started now prints; nothing when it is killed."""
    with subject(path) as process:
        return process.do(f"grade {number} x")


def test_probe_follows_an_upgrade_and_stays_where_programs_run_on(
    node: Node, programs: tuple[Path, Path], path: Path
) -> None:
    node.add(killing(path))
    first = status_of(node, "graded").id
    with subject(path) as running:
        upgrade(path, programs[1])
        wait_until(lambda: status_of(node, "graded").id > first, 30.0, "the policy to follow the file")
        status = status_of(node, "graded")
        assert (status.state, status.error, len(status.hooks)) == ("enabled", "", 2)
        assert (grade(path, 12), grade(path, 13)) == ("24", "")
        assert running.do("grade 12 x") == "24"
        assert running.do("grade 13 x") == ""
    assert "the file of a policy's probes is another one" in node.agent.background.log.read_text()


def test_mode_stays_when_the_file_is_another_one(node: Node, programs: tuple[Path, Path], path: Path) -> None:
    node.add(killing(path))
    node.agent.control.set_mode("graded", "", "monitor")
    first = status_of(node, "graded").id
    upgrade(path, programs[1])
    wait_until(lambda: status_of(node, "graded").id > first, 30.0, "the policy to follow the file")
    assert status_of(node, "graded").mode == "monitor"
    assert grade(path, 13) == "26"
    assert status_of(node, "graded").actions["monitor_sigkill"] == 1


def test_file_without_the_function_is_told_and_what_runs_stays_watched(node: Node, path: Path) -> None:
    node.add(killing(path))
    with subject(path) as running:
        upgrade(path, Path("/bin/true"))
        wait_until(lambda: status_of(node, "graded").error, 30.0, "the change to be told")
        told = run_cli(node.agent.run_dir, "policy", "list").stdout
        assert f"{path} was replaced or changed, and probes are on what was there before" in told
        assert 'it has no symbol "grade"' in told
        assert running.do("grade 13 x") == ""


def test_file_that_is_not_in_the_digests_any_more_is_told(node: Node, programs: tuple[Path, Path], path: Path) -> None:
    with UserFiles().open_file(str(path)) as file:
        digest = f"sha256:{file.digest('sha256')}"
    node.add(killing(path, binaryDigests=[digest]))
    upgrade(path, programs[1])
    wait_until(lambda: status_of(node, "graded").error, 30.0, "the change to be told")
    assert "the file has none of binaryDigests" in status_of(node, "graded").error
    assert grade(path, 13) == "26", "what the policy does not mean is left alone"


def test_programs_of_another_build_stay_watched_when_each_has_a_hook_of_its_own(
    node: Node, programs: tuple[Path, Path], path: Path
) -> None:
    """One hook for each build that is known: after the upgrade the first one's digests are those of no file."""
    builds = [path, programs[1]]
    hooks = []
    for build in builds:
        with UserFiles().open_file(str(build)) as file:
            digest = f"sha256:{file.digest('sha256')}"
        skips = {"digestVerificationFailure": True}
        hooks += killing(path, binaryDigests=[digest], ignore=skips)["spec"]["uprobes"]
    node.add(document("graded", uprobes=hooks))
    before = status_of(node, "graded")
    with subject(path) as running:
        upgrade(path, programs[1])
        wait_until(lambda: status_of(node, "graded").id > before.id, 30.0, "the policy to follow the file")
        after = status_of(node, "graded")
        assert (before.state, len(before.not_enforced), after.state, len(after.not_enforced)) == (
            "partial",
            1,
            "partial",
            1,
        )
        assert grade(path, 13) == ""
        assert running.do("grade 13 x") == ""
