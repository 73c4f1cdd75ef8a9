# SPDX-License-Identifier: Apache-2.0
"""A host's paths below another root, and carrying out steps in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rthook.install.errors import BusyError, InstallError, NotRootError
from rthook.install.files import apply_step, apply_steps, check_writable, locked
from rthook.install.host import Host
from rthook.install.plan import MakeDirectory, PutFile, RemoveDirectory, RemoveFile, Step

NOBODY = 65534


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_links_lead_where_they_lead_on_the_host(host: Host) -> None:
    (host.root / "run/nri").mkdir(parents=True)
    (host.root / "var").mkdir()
    (host.root / "var/run").symlink_to("/run")
    (host.root / "run/up").symlink_to("../../../run/nri")
    assert host.at("/var/run/nri/nri.sock") == host.root / "run/nri/nri.sock"
    assert host.at("/var/run/up/x") == host.root / "run/nri/x"
    assert host.at("/run/../..") == host.root


def test_links_in_a_circle_are_an_error(host: Host) -> None:
    (host.root / "a").symlink_to("/b")
    (host.root / "b").symlink_to("/a")
    with pytest.raises(InstallError, match="symbolic links"):
        host.at("/a/x")


def test_patterns_find_files_and_directories(host: Host) -> None:
    for name in ("etc/a.d/1.toml", "etc/b.d/2.toml", "etc/b.d/2.txt"):
        (host.root / name).parent.mkdir(parents=True, exist_ok=True)
        (host.root / name).touch()
    assert host.glob("/etc/*.d/*.toml") == ["/etc/a.d/1.toml", "/etc/b.d/2.toml"]
    assert host.glob("/etc/none/*.toml") == []


def test_missing_directories_come_outermost_first(host: Host) -> None:
    (host.root / "etc").mkdir()
    assert host.missing_directories("/etc/a/b") == ["/etc/a", "/etc/a/b"]


def test_a_new_file_has_its_mode_whatever_the_umask(host: Host) -> None:
    before = os.umask(0o077)
    try:
        apply_steps(host, [MakeDirectory("/a"), PutFile("/a/f", b"x", "", mode=0o755)])
    finally:
        os.umask(before)
    assert stat.S_IMODE((host.root / "a/f").stat().st_mode) == 0o755
    assert stat.S_IMODE((host.root / "a").stat().st_mode) == 0o755


def test_a_users_file_keeps_mode_and_owner(host: Host) -> None:
    file = host.root / "f"
    file.write_text("old")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)
    owner = file.stat().st_uid
    apply_step(host, PutFile("/f", b"new", "", like="/f"))
    apply_step(host, PutFile("/backup", b"new", "", like="/f"))
    for path in (file, host.root / "backup"):
        assert path.read_bytes() == b"new"
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o640, owner)


def test_a_file_that_is_a_link_is_written_where_it_leads(host: Host) -> None:
    (host.root / "real").write_text("old")
    (host.root / "f").symlink_to("/real")
    apply_step(host, PutFile("/f", b"new", ""))
    assert (host.root / "real").read_bytes() == b"new"
    assert (host.root / "f").is_symlink()


def test_what_a_killed_try_left_is_written_over(host: Host) -> None:
    (host.root / ".f.podgate-new").write_text("half")
    apply_step(host, PutFile("/f", b"whole", ""))
    assert os.listdir(host.root) == ["f"]


def test_a_name_beside_is_none_that_hooks_d_is_read_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rename = os.rename

    def watch(new: Path, path: Path) -> None:
        seen.append(new.name)
        rename(new, path)

    monkeypatch.setattr(os, "rename", watch)
    apply_step(host, PutFile("/podgate-create.json", b"{}", ""))
    assert [name.endswith(".json") for name in seen] == [False]


@pytest.mark.parametrize("step", [RemoveFile("/no/f"), RemoveDirectory("/no"), RemoveFile("/f")])
def test_removing_what_is_gone_is_done_already(host: Host, step: Step) -> None:
    apply_step(host, step)
    apply_step(host, step)
    assert os.listdir(host.root) == []


def test_a_directory_with_files_stays(host: Host) -> None:
    (host.root / "d").mkdir()
    (host.root / "d/theirs").touch()
    apply_step(host, RemoveDirectory("/d"))
    assert (host.root / "d/theirs").exists()


def test_only_one_at_a_time(host: Host) -> None:
    with locked(host), pytest.raises(BusyError), locked(host):
        pytest.fail("locked twice")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
def test_who_is_not_root_is_told_so_before_anything_changes(host: Host, tmp_path: Path) -> None:
    for directory in (*tmp_path.parents[:-2], tmp_path):
        if directory.stat().st_uid == 0 and directory != Path("/tmp"):
            directory.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(NotRootError, match=f"this is uid {NOBODY}"):
            check_writable(host, [PutFile("/f", b"", "")])
        with pytest.raises(NotRootError):
            apply_steps(host, [PutFile("/f", b"", "")])
    finally:
        os.seteuid(0)
    assert os.listdir(host.root) == []
