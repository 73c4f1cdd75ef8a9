# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process, from files as the kernel writes them, and of processes that are really there."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rthook.process import (
    ProcessError,
    cut_at,
    expected_component,
    find_cgroup_id,
    find_cgroup_root,
    is_alive,
    parse_stat,
    read_cgroup_path,
)
from tests.support.wait import wait_until

PID = 321
ID = "0123456789abcdef" * 4


def stat_line(state: str = "S", name: str = "sh", start: int = 5000) -> str:
    """52 fields as proc(5) has them; field 22 is the start."""
    rest = ["0"] * 49
    rest[18] = str(start)
    return f"{PID} ({name}) {state} " + " ".join(rest) + "\n"


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / str(PID)).mkdir(parents=True)
    (folder / str(PID) / "stat").write_text(stat_line())
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cgroup"
    (folder / "kubepods" / ID / "inner").mkdir(parents=True)
    (folder / "system.slice" / f"cri-containerd-{ID}.scope").mkdir(parents=True)
    return folder


def place(procfs: Path, text: str) -> None:
    (procfs / str(PID) / "cgroup").write_text(text)


@pytest.mark.parametrize("name", ["sh", "a b", "x) R 1 (y", "((", ") "])
def test_a_name_with_any_character_does_not_hide_the_state(name: str) -> None:
    stat = parse_stat(stat_line("T", name, 777).encode())
    assert (stat.state, stat.start, stat.is_dead) == ("T", 777, False)


@pytest.mark.parametrize("state", ["Z", "X", "x"])
def test_a_zombie_is_dead(state: str) -> None:
    assert parse_stat(stat_line(state).encode()).is_dead


@given(st.binary(max_size=300))
def test_junk_is_a_stat_or_a_value_error(data: bytes) -> None:
    try:
        parse_stat(data)
    except ValueError:
        return
    assert data.count(b" ") >= 19


def test_a_process_of_our_own_lives_until_it_has_ended() -> None:
    with subprocess.Popen(["sleep", "infinity"]) as process:
        assert is_alive(process.pid)
        process.kill()
        wait_until(lambda: not is_alive(process.pid), 5.0, "the zombie")
    assert not is_alive(process.pid)


@pytest.mark.parametrize(
    ("cgroups_path", "path"),
    [
        (f"/kubepods/{ID}", f"/kubepods/{ID}"),
        (f"/kubepods/{ID}", f"/kubepods/{ID}/inner"),
        (f"system.slice:cri-containerd:{ID}", f"/system.slice/cri-containerd-{ID}.scope"),
        ("", f"/kubepods/{ID}"),
    ],
)
def test_the_containers_cgroup_is_found(procfs: Path, root: Path, cgroups_path: str, path: str) -> None:
    place(procfs, f"12:pids:/elsewhere\n0::{path}\n")
    expected = Path(f"{root}{path}") if "inner" not in path else Path(f"{root}{path}").parent
    assert find_cgroup_id(PID, cgroups_path, procfs, root) == expected.stat().st_ino


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0::/\n", "is in the root cgroup"),
        ("12:pids:/x\n", "is in no cgroup v2"),
        ("0::/kubepods/x (deleted)\n", "is in a cgroup that was removed"),
        ("0::/../x\n", "is outside of our cgroup namespace"),
        ("0::/kubepods/other\n", "not in the container's"),
        (f"0::/gone/{ID}\n", "which is not below"),
        ("", "is in no cgroup v2"),
    ],
)
def test_a_process_that_is_not_the_containers_is_refused(procfs: Path, root: Path, text: str, reason: str) -> None:
    place(procfs, text)
    with pytest.raises(ProcessError, match=f"process {PID} .*{reason}"):
        find_cgroup_id(PID, f"/kubepods/{ID}", procfs, root)


def test_a_zombie_and_what_is_gone_have_no_cgroup(procfs: Path, root: Path) -> None:
    place(procfs, f"0::/kubepods/{ID}\n")
    (procfs / str(PID) / "stat").write_text(stat_line("Z"))
    with pytest.raises(ProcessError, match="has exited"):
        find_cgroup_id(PID, "", procfs, root)
    with pytest.raises(ProcessError, match="is gone"):
        find_cgroup_id(PID + 1, "", procfs, root)
    with pytest.raises(ProcessError, match="is no process"):
        read_cgroup_path(0, procfs)


def test_the_unified_hierarchy_is_found_where_it_is_mounted() -> None:
    mounted = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    known = [path for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if path in mounted]
    assert find_cgroup_root() == next(iter(known), None)


def test_our_own_cgroup_is_where_the_file_says() -> None:
    if find_cgroup_root() is None:
        pytest.skip("no cgroup2 hierarchy is mounted")
    line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    if line == "0::/":
        with pytest.raises(ProcessError, match="root cgroup"):
            find_cgroup_id(os.getpid())
        return
    assert find_cgroup_id(os.getpid()) == os.stat(f"{find_cgroup_root()}{line[3:]}").st_ino


@pytest.mark.parametrize(
    ("cgroups_path", "component"),
    [
        ("/kubepods/pod1/abc", "abc"),
        ("/kubepods/pod1/abc/", "abc"),
        ("system.slice:cri-containerd:abc", "cri-containerd-abc.scope"),
        ("machine.slice:crio:abc.slice", "abc.slice"),
        ("", ""),
    ],
)
def test_a_runtimes_path_leads_to_a_directory(cgroups_path: str, component: str) -> None:
    assert expected_component(cgroups_path) == component


def test_a_path_is_cut_at_the_first_directory_of_the_name() -> None:
    assert cut_at("/a/b/c/b", "b") == "/a/b"
    assert cut_at("/a/b", "x") is None
    assert cut_at("/a/b", "") == "/a/b"
