#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Unpack the containerd versions that the tests run against, from newer Debian suites, beside the system's packages.

Nothing is installed: apt runs with a private configuration (own lists, own cache, an empty status file), and `dpkg -x`
unpacks the one .deb per suite below CACHE/runtimes/SUITE. The mirror and the keyring are those the machine's own apt
uses for its release, so that a machine with a local mirror needs no further setting; release files are verified.

Runs with the system's python3, before the virtual environment exists: standard library only.
Exit codes: 0 done or nothing to do, 1 a step failed (the message says which), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CACHE = Path("/var/cache/podgate")
DEFAULT_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# forky carries containerd 2.x, trixie 1.7; both need no newer libc than bookworm's (GLIBC_2.34).
SUITES = ("forky", "trixie")
# The file that says a suite is complete, and which version it holds.
VERSION_FILE = "VERSION"


class FetchError(Exception):
    """A step of the download failed; the text says which one and what to look at."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where this machine's apt gets its Debian release from."""

    uri: str
    keyring: Path


def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command and return its standard output; FetchError with its last lines when it fails."""
    try:
        done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FetchError(f"{argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
        raise FetchError(f"{' '.join(argv)} failed with code {done.returncode}:\n{tail}")
    return done.stdout


def parse_mirror(targets: str, codename: str) -> Mirror:
    """Pick the machine's Debian archive from `apt-get indextargets` lines of `origin|codename|component|uri|keyring`.

    Raises FetchError when no target is Debian's own main component of that release.
    """
    for line in targets.splitlines():
        origin, release, component, uri, keyring = line.split("|")
        if (origin, release, component) == ("Debian", codename, "main"):
            # apt leaves the variable's name in place when the source has no Signed-By.
            signed_by = Path(keyring) if keyring.startswith("/") else DEFAULT_KEYRING
            return Mirror(uri.rstrip("/"), signed_by)
    raise FetchError(f"apt has no Debian source for {codename} main; run `apt-get update`, see /etc/apt/sources.list.d")


def read_codename(os_release: Path = Path("/etc/os-release")) -> str:
    """VERSION_CODENAME of os-release(5); FetchError when the system has none."""
    found = re.search(r'^VERSION_CODENAME="?(\w+)"?$', os_release.read_text(), re.MULTILINE)
    if found is None:
        raise FetchError(f"{os_release} has no VERSION_CODENAME: not a Debian release")
    return found.group(1)


def read_mirror() -> Mirror:
    """The mirror of the running system, as apt itself resolves .list and deb822 .sources files."""
    fields = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)"
    targets = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    return parse_mirror(targets, read_codename())


def apt_configuration(home: Path) -> str:
    """An apt.conf that keeps everything below `home` and leaves the machine's lists, cache and status alone."""
    return "".join(
        f'{key} "{value}";\n'
        for key, value in {
            "Dir::State": home / "state",
            "Dir::State::lists": home / "lists",
            "Dir::State::status": home / "status",
            "Dir::Cache": home / "cache",
            "Dir::Etc::sourcelist": home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }.items()
    )


def write_apt_home(home: Path, mirror: Mirror, suite: str) -> Mapping[str, str]:
    """Lay out a private apt state for one suite; the environment under which apt uses it."""
    for folder in ("lists/partial", "cache/archives/partial", "state"):
        (home / folder).mkdir(parents=True)
    (home / "status").touch()
    (home / "apt.conf").write_text(apt_configuration(home))
    (home / "sources.list").write_text(f"deb [signed-by={mirror.keyring}] {mirror.uri} {suite} main\n")
    return {**os.environ, "APT_CONFIG": str(home / "apt.conf"), "LC_ALL": "C"}


def unpack(suite: str, mirror: Mirror, target: Path) -> str:
    """Download containerd of `suite` and replace `target` with its files; the version that it has."""
    with tempfile.TemporaryDirectory(prefix="podgate-apt-") as scratch:
        home = Path(scratch)
        env = write_apt_home(home, mirror, suite)
        run(["apt-get", "-q", "update"], env=env)
        run(["apt-get", "-q", "download", "containerd"], env=env, cwd=home)
        package = next(home.glob("containerd_*.deb"), None)
        if package is None:
            raise FetchError(f"apt-get download left no containerd_*.deb for {suite}")
        version = run(["dpkg-deb", "--field", str(package), "Version"]).strip()
        replace(package, target, version)
    return version


def replace(package: Path, target: Path, version: str) -> None:
    """Unpack beside `target`, try the binary, and only then put it in place: a broken download never looks complete."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    run(["dpkg", "-x", str(package), str(fresh)])
    run([str(fresh / "usr/bin/containerd"), "--version"])
    (fresh / VERSION_FILE).write_text(version + "\n")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def fetch(cache: Path, *, force: bool) -> None:
    """Make every suite of SUITES present below `cache`/runtimes; one line of progress each."""
    mirror: Mirror | None = None
    for suite in SUITES:
        target = cache / "runtimes" / suite
        if (target / VERSION_FILE).is_file() and not force:
            print(f"runtimes: {suite}: containerd {(target / VERSION_FILE).read_text().strip()} (cached)", flush=True)
            continue
        mirror = mirror or read_mirror()
        print(f"runtimes: {suite}: downloading containerd", flush=True)
        print(f"runtimes: {suite}: containerd {unpack(suite, mirror, target)}", flush=True)


def main() -> int:
    """Parse the command line; 0 when every runtime is in place."""
    parser = argparse.ArgumentParser(description="download the container runtimes that the tests use")
    default = Path(os.environ.get("PODGATE_CACHE", DEFAULT_CACHE))
    parser.add_argument("--cache", type=Path, default=default, help="default: $PODGATE_CACHE or /var/cache/podgate")
    parser.add_argument("--force", action="store_true", help="download again what is already there")
    options = parser.parse_args()
    try:
        fetch(options.cache.resolve(), force=options.force)
    except (FetchError, OSError) as error:
        print(f"fetch_runtimes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
