# SPDX-License-Identifier: Apache-2.0
"""The downloader of container runtimes, as far as it works without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.containerd_config import Runc, Runtime
from tests.support.names import project_dir
from tools.fetch_runtimes import (
    BUNDLES,
    FetchError,
    Mirror,
    apt_configuration,
    fetch,
    find_package,
    parse_mirror,
    read_codename,
    run,
    use_own_libraries,
)

TARGETS = """Debian|bookworm-security|main|http://mirror.test/debian-security/|/keys/debian.gpg
Other|bookworm|main|http://other.test/|/keys/other.gpg
Debian|bookworm|main|http://mirror.test/debian/|/keys/debian.gpg
"""


def test_mirror_is_the_one_of_the_running_release() -> None:
    assert parse_mirror(TARGETS, "bookworm") == Mirror("http://mirror.test/debian", Path("/keys/debian.gpg"))


def test_source_without_signed_by_gets_the_archive_keyring() -> None:
    mirror = parse_mirror("Debian|bookworm|main|http://m.test/debian/|$(SIGNED_BY)", "bookworm")
    assert mirror.keyring == Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def test_machine_without_a_debian_source_is_told_what_to_do() -> None:
    with pytest.raises(FetchError, match="no Debian source for trixie main; run `apt-get update`"):
        parse_mirror(TARGETS, "trixie")


def test_codename_is_read_from_os_release(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    assert read_codename(release) == "bookworm"
    release.write_text("ID=other\n")
    with pytest.raises(FetchError, match="VERSION_CODENAME"):
        read_codename(release)


def test_apt_keeps_its_state_below_its_own_home() -> None:
    text = apt_configuration(Path("/scratch"))
    assert 'Dir::State::lists "/scratch/lists";' in text
    assert 'Dir::Etc::sourceparts "/dev/null";' in text
    assert "/var/lib" not in text


def test_failing_command_is_reported_with_its_words() -> None:
    with pytest.raises(FetchError, match=r"(?s)failed with code 3.*the reason"):
        run(["sh", "-c", "echo the reason >&2; exit 3"])
    with pytest.raises(FetchError, match="No such file"):
        run(["/absent/program"])


def test_what_is_cached_is_not_downloaded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bundle in BUNDLES:
        (tmp_path / "runtimes" / bundle.name).mkdir(parents=True)
        (tmp_path / "runtimes" / bundle.name / "VERSION").write_text("9.9\n")
    fetch(tmp_path, force=False)
    assert capsys.readouterr().out.splitlines() == [
        "runtimes: forky: containerd 9.9 (cached)",
        "runtimes: trixie: containerd 9.9 (cached)",
        "runtimes: runc: runc 9.9 (cached)",
    ]


def test_setup_waits_for_every_bundle_and_tests_look_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODGATE_CACHE", "/cache")
    programs = {Path("/cache/runtimes") / bundle.name / bundle.program for bundle in BUNDLES}
    assert programs == {*(runtime.binaries / "containerd" for runtime in Runtime), Runc.NEW.path}
    listed = "for bundle in " + " ".join(bundle.name for bundle in BUNDLES)
    assert listed in (project_dir() / "tools/setup").read_text()


def test_package_is_found_by_its_whole_name(tmp_path: Path) -> None:
    for name in ("libc6_2.43-7_amd64.deb", "libc6-dev_2.43-7_amd64.deb"):
        (tmp_path / name).touch()
    assert find_package(tmp_path, "libc6").name == "libc6_2.43-7_amd64.deb"
    with pytest.raises(FetchError, match=r"left no runc_\*\.deb"):
        find_package(tmp_path, "runc")


def test_program_uses_the_libraries_beside_it(tmp_path: Path) -> None:
    """On a copy of a program of the system, with the system's own libraries beside it."""
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "usr/bin/true")
    with pytest.raises(FetchError, match=r"ld-linux-x86-64\.so\.2 is not in the packages"):
        use_own_libraries(tmp_path, "usr/bin/true")
    for name in ("ld-linux-x86-64.so.2", "libc.so.6"):
        shutil.copy(Path("/lib/x86_64-linux-gnu") / name, libraries / name)
    use_own_libraries(tmp_path, "usr/bin/true")
    assert run([str(tmp_path / "usr/bin/true")]) == ""
    loaded = run(["patchelf", "--print-rpath", str(tmp_path / "usr/bin/true")]).strip()
    assert loaded == str(libraries)
    assert run(["patchelf", "--print-interpreter", str(tmp_path / "usr/bin/true")]).startswith(str(libraries))
