# SPDX-License-Identifier: Apache-2.0
"""Which cgroup a process is in, against a /proc and a cgroup hierarchy made of files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.cgroup import CgroupFinder, ProcessCgroup, cut_at, expected_component, parse_proc_cgroup
from agent.kernel.errors import CgroupError
from tests.support.wait import wait_until


class _Machine:
    """A node's /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.root.mkdir()
        self.proc.mkdir()
        self.finder = CgroupFinder(self.root, self.proc)

    def cgroup(self, path: str) -> int:
        directory = Path(f"{self.root}{path}")
        directory.mkdir(parents=True, exist_ok=True)
        return directory.stat().st_ino

    def process(self, pid: int, cgroup: str, state: str = "S", comm: str = "sh") -> None:
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "cgroup").write_text(f"12:cpu:/old\n0::{cgroup}\n")
        (folder / "stat").write_text(f"{pid} ({comm}) {state} 1 1")

    def works(self, pid: int, image: Path, voluntary: int, forced: int = 0) -> None:
        """How often the process was scheduled away, and what it executes."""
        folder = self.proc / str(pid)
        (folder / "exe").unlink(missing_ok=True)
        (folder / "exe").symlink_to(image)
        counts = f"voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{forced}\n"
        (folder / "status").write_text(f"Name:\tctxt_switches\nState:\tS (sleeping)\nThreads:\t7\n{counts}")


@pytest.fixture
def machine(tmp_path: Path) -> _Machine:
    return _Machine(tmp_path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/a/b\n", "/a/b"),
        ("13:memory:/x\n1:name=systemd:/y\n0::/z\n", "/z"),
        ("0::/\n", "/"),
        ("0::/with:colon", "/with:colon"),
        ("1:name=systemd:/y\n", None),
        ("10::/y\n", None),
        ("", None),
    ],
)
def test_the_unified_hierarchys_line_is_found(text: str, path: str | None) -> None:
    assert parse_proc_cgroup(text) == path


@pytest.mark.parametrize(
    ("cgroups_path", "component"),
    [
        ("", ""),
        ("/kubepods/burstable/pod1/c1", "c1"),
        ("kubepods/c1/", "c1"),
        ("kubepods-besteffort.slice:cri-containerd:abc", "cri-containerd-abc.scope"),
        ("system.slice:runc:c.slice", "c.slice"),
        ("/weird:path:with/slashes", "slashes"),
        ("only:two", "only:two"),
    ],
)
def test_a_runtimes_path_leads_to_one_directory(cgroups_path: str, component: str) -> None:
    assert expected_component(cgroups_path) == component


@pytest.mark.parametrize(
    ("path", "component", "cut"),
    [
        ("/a/b/c", "b", "/a/b"),
        ("/a/b/c", "c", "/a/b/c"),
        ("/a/b/a/x", "a", "/a"),
        ("/a/bb/c", "b", None),
        ("/a/b", "", "/a/b"),
    ],
)
def test_a_path_is_cut_at_whole_directories(path: str, component: str, cut: str | None) -> None:
    assert cut_at(path, component) == cut


@given(st.text(max_size=200))
def test_junk_is_a_path_or_none(text: str) -> None:
    path = parse_proc_cgroup(text)
    assert path is None or f"0::{path}" in text
    assert expected_component(text) is not None


def test_a_process_is_in_the_cgroup_that_the_kernel_says(machine: _Machine) -> None:
    inode = machine.cgroup("/pods/c1")
    machine.process(7, "/pods/c1")
    assert machine.finder.of_process(7) == ProcessCgroup(inode, "/pods/c1")  # type: ignore[arg-type]
    assert machine.finder.of_process(7, "/pods/c1").nested is False


def test_a_process_that_moved_below_its_container_is_its_containers(machine: _Machine) -> None:
    inode = machine.cgroup("/pods/c1")
    machine.cgroup("/pods/c1/init")
    machine.process(7, "/pods/c1/init")
    assert machine.finder.of_process(7, "/pods/c1") == ProcessCgroup(inode, "/pods/c1", nested=True)  # type: ignore[arg-type]


def test_a_process_in_another_cgroup_than_the_runtime_says_is_refused(machine: _Machine) -> None:
    machine.cgroup("/pods/other")
    machine.process(7, "/pods/other")
    with pytest.raises(CgroupError, match="process 7 is in cgroup /pods/other, not in the container's /pods/c1"):
        machine.finder.of_process(7, "/pods/c1")


@pytest.mark.parametrize(
    ("cgroup", "words"),
    [
        ("/", "root cgroup"),
        ("/../outside", "outside of the agent's cgroup namespace"),
        ("/gone (deleted)", "was removed"),
        ("/nowhere", "is not below"),
    ],
)
def test_a_cgroup_that_names_no_container_is_refused(machine: _Machine, cgroup: str, words: str) -> None:
    machine.process(7, cgroup)
    with pytest.raises(CgroupError, match=words):
        machine.finder.of_process(7)


@pytest.mark.parametrize(("pid", "words"), [(0, "no init process is named"), (-1, "no init process"), (99, "is gone")])
def test_a_process_that_is_not_there_is_refused(machine: _Machine, pid: int, words: str) -> None:
    with pytest.raises(CgroupError, match=words):
        machine.finder.of_process(pid)


@pytest.mark.parametrize("state", ["Z", "X", "x"])
def test_a_dead_process_is_refused_whatever_its_name(machine: _Machine, state: str) -> None:
    machine.cgroup("/c1")
    machine.process(7, "/c1", state, comm="a) S (b")
    with pytest.raises(CgroupError, match="has exited"):
        machine.finder.of_process(7)


def test_a_living_process_may_call_itself_a_zombie(machine: _Machine) -> None:
    machine.cgroup("/c1")
    machine.process(7, "/c1", comm="x) Z ")
    assert machine.finder.of_process(7).path == "/c1"


def test_a_version_1_node_has_no_cgroup_to_tell(machine: _Machine) -> None:
    machine.process(7, "/c1")
    (machine.proc / "7/cgroup").write_text("3:memory:/c1\n")
    with pytest.raises(CgroupError, match="unified hierarchy mounted"):
        machine.finder.of_process(7)


def test_a_path_that_is_no_utf8_is_found(machine: _Machine) -> None:
    machine.cgroup("/c\udcff")
    machine.process(7, "/x")
    (machine.proc / "7/cgroup").write_bytes(b"0::/c\xff\n")
    assert machine.finder.of_process(7).path == "/c\udcff"


def test_a_held_process_is_still_there(machine: _Machine) -> None:
    machine.cgroup("/c1")
    machine.process(7, "/c1")
    found = machine.finder.of_process(7)
    assert machine.finder.still_there(7, found)
    machine.cgroup("/c1/below")
    machine.process(7, "/c1/below")
    assert machine.finder.still_there(7, found)


@pytest.mark.parametrize("change", ["dead", "gone", "moved", "neighbour", "recreated"])
def test_a_process_that_changed_is_not_still_there(machine: _Machine, change: str) -> None:
    machine.cgroup("/c1")
    machine.process(7, "/c1")
    found = machine.finder.of_process(7)
    if change == "dead":
        machine.process(7, "/c1", "Z")
    elif change == "gone":
        (machine.proc / "7/cgroup").unlink()
    elif change == "recreated":
        (machine.root / "c1").rename(machine.root / "c0")
        machine.cgroup("/c1")
    else:
        other = {"moved": "/c2", "neighbour": "/c11"}[change]
        machine.cgroup(other)
        machine.process(7, other)
    assert not machine.finder.still_there(7, found)


def test_any_process_has_a_cgroup_the_hosts_too(machine: _Machine) -> None:
    inode = machine.cgroup("/system.slice")
    machine.process(7, "/system.slice")
    machine.process(8, "/")
    machine.process(9, "/system.slice", "Z")
    found = [machine.finder.of_any(pid) for pid in (7, 8, 9)]
    assert [(cgroup.id, cgroup.path) for cgroup in found] == [
        (inode, "/system.slice"),
        (machine.root.stat().st_ino, "/"),
        (inode, "/system.slice"),
    ]
    with pytest.raises(CgroupError, match="is gone"):
        machine.finder.of_any(99)


def test_a_path_has_an_id(machine: _Machine) -> None:
    inode = machine.cgroup("/a/b")
    assert machine.finder.id_of("/a/b") == inode
    with pytest.raises(CgroupError, match="cgroup /a/c is not below"):
        machine.finder.id_of("/a/c")


def test_a_process_that_does_nothing_makes_no_progress(machine: _Machine, tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("runc", "sh")]
    for image in images:
        image.touch()
    machine.process(7, "/c1")
    seen = []
    for number, voluntary, forced in ((0, 5, 1), (0, 5, 1), (0, 6, 1), (0, 6, 2), (1, 6, 2)):
        machine.works(7, images[number], voluntary, forced)
        seen.append(machine.finder.progress(7))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4
    assert seen[0] == (images[0].stat().st_dev, images[0].stat().st_ino, 5, 1)


def test_a_process_that_is_gone_has_no_progress(machine: _Machine) -> None:
    assert machine.finder.progress(7) is None
    machine.process(7, "/c1")
    assert machine.finder.progress(7) is None


def test_a_process_that_waits_makes_no_progress_until_it_goes_on() -> None:
    finder = CgroupFinder(Path("/sys/fs/cgroup"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stat = Path(f"/proc/{process.pid}/stat")

        def write() -> None:
            process.stdin.write(b"x\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            process.stdout.readline()  # type: ignore[union-attr]
            wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("S"), 10.0, "cat to wait")

        write()
        before = finder.progress(process.pid)
        assert before is not None
        assert finder.progress(process.pid) == before
        write()
        assert finder.progress(process.pid) not in (None, before)
        process.kill()
    assert finder.progress(process.pid) is None
