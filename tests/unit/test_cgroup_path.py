# SPDX-License-Identifier: Apache-2.0
"""From a cgroups path to cgroup and init process: the directories by table, processes in trees of files, and the real
thing."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.cgroup import CgroupFinder
from agent.kernel.cgroup_path import (
    MAX_PROCESSES,
    PATH_MAX,
    AnnouncedCgroup,
    candidates,
    container_id_of,
    expand_slice,
    find_announced,
)
from agent.kernel.errors import CgroupError
from agent.kernel.mounts import cgroup2_root
from tests.support.names import unique_name
from tests.support.wait import wait_until

POD_SLICE = "kubepods-besteffort-pod1a_2b.slice"
POD_DIRECTORY = f"kubepods.slice/kubepods-besteffort.slice/{POD_SLICE}"


@pytest.mark.parametrize(
    ("cgroups_path", "directories"),
    [
        ("/kubepods/besteffort/pod1/c1", ("kubepods/besteffort/pod1/c1",)),
        ("kubepods/pod1/c1", ("kubepods/pod1/c1",)),
        ("//kubepods/./pod1//c1/", ("kubepods/pod1/c1",)),
        ("/libpod_parent/libpod-c1", ("libpod_parent/libpod-c1",)),
        (f"/{POD_DIRECTORY}/cri-containerd-c1.scope", (f"{POD_DIRECTORY}/cri-containerd-c1.scope",)),
        (f"{POD_SLICE}:cri-containerd:c1", (f"{POD_DIRECTORY}/cri-containerd-c1.scope",)),
        ("kubepods.slice:crio:c1", ("kubepods.slice/crio-c1.scope",)),
        ("machine.slice:libpod:c1", ("machine.slice/libpod-c1.scope",)),
        ("user.slice::c1", ("user.slice/-c1.scope", "user.slice/c1.scope")),
        (":runc:c1", ("system.slice/runc-c1.scope",)),
        ("-.slice:runc:c1", ("runc-c1.scope",)),
        ("a-b-c.slice:runc:d-e", ("a.slice/a-b.slice/a-b-c.slice/runc-d-e.scope",)),
        ("a.slice:runc:inner.slice", ("a.slice/inner.slice",)),
        ("only:two", ("only:two",)),
        ("/with:two:colons", ("with:two:colons",)),
        ("four:of:them:here", ("four:of:them:here",)),
        (r"app-a\x2db.slice:runc:c1", (r"app.slice/app-a\x2db.slice/runc-c1.scope",)),
    ],
)
def test_a_cgroups_path_leads_to_directories(cgroups_path: str, directories: tuple[str, ...]) -> None:
    assert candidates(cgroups_path) == directories


@pytest.mark.parametrize(
    ("cgroups_path", "words"),
    [
        ("", "is empty"),
        ("/", "the root cgroup"),
        ("/./", "the root cgroup"),
        ("/a/../b", "leads upwards"),
        ("..", "leads upwards"),
        ("/a\0b", "has a NUL"),
        ("a.slice:run\0c:c1", "has a NUL"),
        ("/a\ud800", "is no UTF-8"),
        ("/" + "a" * (PATH_MAX - 1), f"of {PATH_MAX} bytes"),
        ("/" + "ä" * 2048, "of 4097 bytes"),
        ("a.slice:runc:", "names no scope"),
        ("kubepods:runc:c1", "'kubepods' is no slice"),
        ("a--b.slice:runc:c1", "is no slice"),
        ("-a.slice:runc:c1", "is no slice"),
        ("a-.slice:runc:c1", "is no slice"),
        (".slice:runc:c1", "is no slice"),
        ("..slice:runc:c1", "is no slice"),
        ("-:runc:c1", "is no slice"),
    ],
)
def test_a_cgroups_path_that_leads_nowhere_is_refused(cgroups_path: str, words: str) -> None:
    with pytest.raises(CgroupError, match=words):
        candidates(cgroups_path)


def test_the_longest_path_is_taken() -> None:
    assert candidates("/" + "a" * (PATH_MAX - 2)) == ("a" * (PATH_MAX - 2),)


@given(st.text(alphabet="a-:./\0.slice\ud800ä", max_size=40))
def test_junk_stays_below_the_root_or_is_refused(cgroups_path: str) -> None:
    try:
        directories = candidates(cgroups_path)
    except CgroupError:
        return
    assert directories
    for directory in directories:
        assert os.path.normpath(f"/root/{directory}") == f"/root/{directory}"
        assert directory


@given(st.lists(st.text("abc_", min_size=1, max_size=4), min_size=1, max_size=5))
def test_a_slice_is_below_each_of_its_beginnings(steps: list[str]) -> None:
    directory = expand_slice("-".join(steps) + ".slice").split("/")
    assert directory[-1] == "-".join(steps) + ".slice"
    assert len(directory) == len(steps)
    above = [expand_slice("-".join(steps[:-1]) + ".slice")] if len(steps) > 1 else []
    assert directory[:-1] == (above[0].split("/") if above else [])


@pytest.mark.parametrize(
    ("cgroups_path", "container_id"),
    [
        ("/kubepods/besteffort/pod1/0123ab", "0123ab"),
        ("/kubepods/pod1/0123ab/", "0123ab"),
        ("/kubepods/pod1/crio-0123ab", "0123ab"),
        (f"/{POD_DIRECTORY}/cri-containerd-0123ab.scope", "0123ab"),
        (f"{POD_SLICE}:cri-containerd:0123ab", "0123ab"),
        ("machine.slice:libpod:0123ab", "0123ab"),
        ("0123ab", "0123ab"),
        ("", ""),
        ("/", ""),
        ("/a/b-", ""),
    ],
)
def test_the_cgroups_name_has_the_containers_id(cgroups_path: str, container_id: str) -> None:
    assert container_id_of(cgroups_path) == container_id


class _Machine:
    """A node's /proc and unified hierarchy, made of files."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.root.mkdir()
        self.proc.mkdir()

    def cgroup(self, path: str, *pids: int) -> int:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return directory.stat().st_ino

    def process(self, pid: int, started: int = 1, nspid: str = "", state: str = "S", comm: str = "sh") -> None:
        """nspid: its pids in all its namespaces; one number where there is but one namespace."""
        folder = self.proc / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} ({comm}) {state} " + "0 " * 18 + f"{started} 0 0")
        (folder / "status").write_text(f"Name:\t{comm}\nNSpid:\t{nspid or pid}\nNSpgid:\t1\n")

    def find(self, cgroups_path: str) -> AnnouncedCgroup:
        return find_announced(self.root, cgroups_path, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> _Machine:
    return _Machine(tmp_path)


def test_the_one_process_of_the_cgroup_is_its_init(machine: _Machine) -> None:
    inode = machine.cgroup("kubepods/pod1/c1", 70)
    machine.process(70)
    assert machine.find("/kubepods/pod1/c1") == AnnouncedCgroup(inode, "/kubepods/pod1/c1", 70)  # type: ignore[arg-type]


def test_a_scope_is_found_by_systemds_way_of_writing(machine: _Machine) -> None:
    inode = machine.cgroup(f"{POD_DIRECTORY}/cri-containerd-c1.scope", 70)
    machine.process(70)
    found = machine.find(f"{POD_SLICE}:cri-containerd:c1")
    assert (found.id, found.path) == (inode, f"/{POD_DIRECTORY}/cri-containerd-c1.scope")


@pytest.mark.parametrize("unit", ["-c1.scope", "c1.scope"])
def test_without_a_prefix_either_name_is_found(machine: _Machine, unit: str) -> None:
    machine.cgroup(f"user.slice/{unit}", 70)
    machine.process(70)
    assert machine.find("user.slice::c1").path == f"/user.slice/{unit}"


def test_crun_keeps_its_processes_in_a_child(machine: _Machine) -> None:
    inode = machine.cgroup("a/c1")
    machine.cgroup("a/c1/container", 70)
    machine.cgroup("a/c1/other", 71)
    machine.process(70)
    assert machine.find("/a/c1") == AnnouncedCgroup(inode, "/a/c1", 70, nested=True)  # type: ignore[arg-type]


def test_of_several_the_init_is_pid_1_of_its_namespace(machine: _Machine) -> None:
    """A hook of the runtime in the container's cgroup and namespaces, and one in the host's, which is older."""
    machine.cgroup("c1", 69, 70, 71)
    machine.process(69, started=1)
    machine.process(71, started=2, nspid="71 2")
    machine.process(70, started=3, nspid="70 1")
    assert machine.find("/c1").init_pid == 70


def test_a_deeper_namespaces_pid_1_is_not_the_containers(machine: _Machine) -> None:
    machine.cgroup("c1", 80, 70)
    machine.process(80, started=1, nspid="80 9 1")
    machine.process(70, started=2, nspid="70 1")
    assert machine.find("/c1").init_pid == 70


def test_without_a_namespace_of_its_own_the_oldest_is_the_init(machine: _Machine) -> None:
    """Pids wrap around; the host's pid 1 is no sign of a container."""
    machine.cgroup("c1", 1, 20, 30_000)
    machine.process(1, started=9)
    machine.process(20, started=8, comm="a) S 1 (")
    machine.process(30_000, started=7)
    assert machine.find("/c1").init_pid == 30_000


def test_the_dead_and_the_gone_are_no_init(machine: _Machine) -> None:
    machine.cgroup("c1", 69, 70, 71)
    machine.process(70, started=1, state="Z")
    machine.process(71, started=2)
    assert machine.find("/c1").init_pid == 71


@pytest.mark.parametrize(
    ("pids", "words"),
    [((), "cgroup c1 has no process"), ((69, 70), "its processes have exited"), ((0, 71), "another pid namespace")],
)
def test_a_cgroup_without_a_living_process_is_refused(machine: _Machine, pids: tuple[int, ...], words: str) -> None:
    machine.cgroup("c1", *pids)
    machine.process(70, state="Z")
    machine.process(71)
    with pytest.raises(CgroupError, match=words):
        machine.find("/c1")


def test_a_cgroup_that_is_not_there_is_refused(machine: _Machine) -> None:
    with pytest.raises(CgroupError, match=r"no cgroup below .* is that of 'user\.slice::c1'"):
        machine.find("user.slice::c1")


def test_a_file_is_no_cgroup(machine: _Machine) -> None:
    (machine.root / "c1").touch()
    with pytest.raises(CgroupError, match="cgroup c1 cannot be read: ENOTDIR") as caught:
        machine.find("/c1")
    assert caught.value.code == errno.ENOTDIR


def test_a_crowd_is_no_container_that_is_being_made(machine: _Machine) -> None:
    machine.cgroup("c1", *range(4_000_000, 4_000_000 + MAX_PROCESSES))
    machine.process(4_000_001)
    assert machine.find("/c1").init_pid == 4_000_001
    machine.cgroup("c1", *range(4_000_000, 4_000_001 + MAX_PROCESSES))
    with pytest.raises(CgroupError, match=f"more than {MAX_PROCESSES} processes"):
        machine.find("/c1")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A real cgroup of ours."""
    directory = cgroup2_root() / unique_name("announced")
    directory.mkdir()
    yield directory
    for child in (*directory.glob("*/"), directory):
        wait_until(lambda child=child: not (child / "cgroup.procs").read_text(), 5.0, "the cgroup to empty")  # type: ignore[misc]
        child.rmdir()


def sleeper(directory: Path, *command: str) -> subprocess.Popen[bytes]:
    """A process that sleeps in that cgroup, started through `command`."""
    enter = f'echo 0 > {directory}/cgroup.procs && exec "$@"'
    return subprocess.Popen(["/bin/sh", "-c", enter, "sh", *command, "sleep", "1000"])


def end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Kill whatever is in the cgroup."""
    for pid in (directory / "cgroup.procs").read_text().split():
        os.kill(int(pid), 9)
    process.wait(5.0)


@pytest.mark.kernel
def test_a_real_cgroup_has_its_id_and_process(cgroup: Path) -> None:
    root = cgroup2_root()
    with pytest.raises(CgroupError, match="has no process"):
        find_announced(root, f"/{cgroup.name}")
    process = sleeper(cgroup)
    try:
        wait_until((cgroup / "cgroup.procs").read_text, 5.0, "the process to enter")
        found = find_announced(root, f"/{cgroup.name}")
        assert (found.init_pid, found.path, found.nested) == (process.pid, f"/{cgroup.name}", False)
        assert found.id == CgroupFinder(root).of_process(process.pid, f"/{cgroup.name}").id
    finally:
        end(process, cgroup)


@pytest.mark.kernel
def test_a_real_pid_namespaces_init_is_told_from_who_made_it(cgroup: Path) -> None:
    """unshare stays in the host's namespace and is the older one; its child is pid 1 of the new one, in a child cgroup
    as crun has it."""
    child = cgroup / "container"
    child.mkdir()
    process = sleeper(child, "unshare", "--pid", "--fork")
    try:
        wait_until(lambda: len((child / "cgroup.procs").read_text().split()) == 2, 5.0, "both to be there")
        inner = next(int(pid) for pid in (child / "cgroup.procs").read_text().split() if int(pid) != process.pid)
        found = find_announced(cgroup2_root(), f"/{cgroup.name}")
        assert (found.init_pid, found.nested) == (inner, True)
        assert found.id == cgroup.stat().st_ino
    finally:
        end(process, child)
