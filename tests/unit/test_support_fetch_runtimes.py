# SPDX-License-Identifier: Apache-2.0
"""The downloader of container runtimes, as far as it works without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.fetch_runtimes import FetchError, Mirror, apt_configuration, fetch, parse_mirror, read_codename, run

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
    for suite in ("forky", "trixie"):
        (tmp_path / "runtimes" / suite).mkdir(parents=True)
        (tmp_path / "runtimes" / suite / "VERSION").write_text("9.9\n")
    fetch(tmp_path, force=False)
    assert capsys.readouterr().out.splitlines() == [
        "runtimes: forky: containerd 9.9 (cached)",
        "runtimes: trixie: containerd 9.9 (cached)",
    ]
