# SPDX-License-Identifier: Apache-2.0
"""What /proc/self/mountinfo says, and what is mounted because of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import mounts
from agent.kernel.errors import KernelError
from agent.kernel.mounts import (
    Mount,
    cgroup2_root,
    ensure_bpffs,
    ensure_tracefs,
    parse_mountinfo,
    read_mounts,
    release_bpffs,
)

_INFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
31 22 0:27 /kube /mnt/part rw master:3 shared:4 - cgroup2 cgroup2 rw
32 22 0:28 / /mnt/with\040space\011and\134x rw - bpf bpf rw
33 22 0:29 / /mnt/caf\303\251 rw - tracefs tracefs rw
"""


def test_mounts_have_their_place_kind_and_root() -> None:
    assert parse_mountinfo(_INFO) == (
        Mount("/", "ext4", "/"),
        Mount("/sys/fs/cgroup", "cgroup2", "/"),
        Mount("/mnt/part", "cgroup2", "/kube"),
        Mount("/mnt/with space\tand\\x", "bpf", "/"),
        Mount("/mnt/café", "tracefs", "/"),
    )


@pytest.mark.parametrize("line", ["", "1 2 3", "22 1 8:1 / / rw ext4 /dev/sda1 rw", "22 1 8:1 / / rw - "])
def test_a_line_that_is_no_mount_is_left_out(line: str) -> None:
    assert parse_mountinfo(line) == ()


# What the kernel's mangle() escapes, seq_escape of fs/proc_namespace.c.
_escaped = st.text(st.characters(exclude_characters="\n\t \\", exclude_categories=("Cs", "Cc", "Z")), min_size=1)
_pieces = st.lists(_escaped | st.sampled_from((r"\040", r"\011", r"\012", r"\134")), min_size=1).map("".join)


@given(_pieces)
def test_any_name_that_the_kernel_writes_is_read(name: str) -> None:
    found = parse_mountinfo(f"30 22 0:26 / /{name} rw - bpf bpf rw")
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        name = name.replace(escape, character)
    assert found == (Mount(f"/{name}", "bpf", "/"),)


def test_this_machine_has_a_root() -> None:
    assert "/" in {mount.point for mount in read_mounts()}


class _Machine:
    """What is mounted, and what the code mounts and takes down."""

    def __init__(self) -> None:
        self.mounts: list[Mount] = []

    def mount(self, kind: str, point: Path, hint: str) -> None:
        assert hint
        self.mounts.append(Mount(str(point), kind, "/"))

    def unmount(self, point: Path) -> None:
        self.mounts = [mount for mount in self.mounts if mount.point != str(point)]

    def kinds(self) -> list[tuple[str, str]]:
        return [(mount.kind, mount.point) for mount in self.mounts]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Machine:
    made = _Machine()
    monkeypatch.setattr(mounts, "read_mounts", lambda: tuple(made.mounts))
    monkeypatch.setattr(mounts, "mount_filesystem", made.mount)
    monkeypatch.setattr(mounts, "unmount", made.unmount)
    monkeypatch.setattr(mounts, "BPFFS", tmp_path / "bpf")
    (tmp_path / "bpf").mkdir()
    return made


def test_bpffs_is_mounted_once(machine: _Machine, tmp_path: Path) -> None:
    assert ensure_bpffs()
    assert not ensure_bpffs()
    assert machine.kinds() == [("bpf", str(tmp_path / "bpf"))]


def test_without_its_directory_bpffs_is_an_error_with_a_hint(machine: _Machine, tmp_path: Path) -> None:
    (tmp_path / "bpf").rmdir()
    with pytest.raises(KernelError, match="CONFIG_BPF_SYSCALL"):
        ensure_bpffs()
    assert machine.mounts == []


def test_bpffs_stays_while_somebody_has_pins(machine: _Machine, tmp_path: Path) -> None:
    ensure_bpffs()
    (tmp_path / "bpf/other").mkdir()
    assert not release_bpffs()
    assert len(machine.mounts) == 1
    (tmp_path / "bpf/other").rmdir()
    (tmp_path / "bpf/maps.debug").touch()  # the kernel's own
    assert release_bpffs()
    assert machine.mounts == []


@pytest.mark.parametrize("place", ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"])
def test_tracefs_is_taken_where_it_is(machine: _Machine, tmp_path: Path, place: str) -> None:
    machine.mounts.append(Mount(place, "tracefs", "/"))
    assert ensure_tracefs(tmp_path / "t") == (Path(place), False)
    assert not (tmp_path / "t").exists()


def test_a_private_tracefs_is_mounted_once_and_the_callers(machine: _Machine, tmp_path: Path) -> None:
    private = tmp_path / "run/tracing"
    assert ensure_tracefs(private) == (private, True)
    assert ensure_tracefs(private) == (private, True)
    assert machine.kinds() == [("tracefs", str(private))]
    assert private.stat().st_mode & 0o777 == 0o700


def test_another_kind_at_the_place_is_not_tracefs(machine: _Machine, tmp_path: Path) -> None:
    machine.mounts.append(Mount("/sys/kernel/tracing", "tmpfs", "/"))
    assert ensure_tracefs(tmp_path / "t") == (tmp_path / "t", True)


def test_the_whole_unified_hierarchy_is_the_root_not_a_part_of_it(machine: _Machine, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "whole").mkdir()
    machine.mounts += [
        Mount(str(tmp_path / "part"), "cgroup2", "/kube"),
        Mount(str(tmp_path / "absent"), "cgroup2", "/"),
        Mount(str(tmp_path / "whole"), "cgroup2", "/"),
    ]
    assert cgroup2_root() == tmp_path / "whole"


def test_no_unified_hierarchy_is_an_error_with_a_hint(machine: _Machine) -> None:
    machine.mounts.append(Mount("/sys/fs/cgroup", "cgroup", "/"))
    with pytest.raises(KernelError, match="boot with a unified or hybrid layout"):
        cgroup2_root()
