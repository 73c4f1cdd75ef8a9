#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Unpack the container runtimes that the tests use, from newer Debian suites, beside the system's packages.

Nothing is installed: apt runs with a private configuration (own lists, own cache, an empty status file), and `dpkg -x`
unpacks the packages of each bundle below CACHE/runtimes/BUNDLE. The mirror and the keyring are those the machine's own
apt uses for its release, so that a machine with a local mirror needs no further setting; release files are verified.

containerd runs on bookworm's libc as it is. runc of forky does not: its bundle has forky's C library beside it, and
patchelf makes the program, in the cache alone, load that one.

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
# The file that says a bundle is complete, and which version of its first package it holds.
VERSION_FILE = "VERSION"
# Where Debian keeps the libraries of this architecture.
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"


class FetchError(Exception):
    """A step of the download failed; the text says which one and what to look at."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where this machine's apt gets its Debian release from."""

    uri: str
    keyring: Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """Packages of one suite that are unpacked together; the first is the one that is wanted, `program` its binary.

    With `own_libraries` the program loads the C library that is unpacked beside it, instead of the system's.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    program: str
    own_libraries: bool = False


BUNDLES = (
    Bundle("forky", "forky", ("containerd",), "usr/bin/containerd"),
    Bundle("trixie", "trixie", ("containerd",), "usr/bin/containerd"),
    Bundle("runc", "forky", ("runc", "libc6", "libseccomp2"), "usr/sbin/runc", own_libraries=True),
)


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


def download(bundle: Bundle, mirror: Mirror, folder: Path) -> list[Path]:
    """The bundle's .deb files, in its order, below `folder`; FetchError when apt left one out."""
    env = write_apt_home(folder, mirror, bundle.suite)
    run(["apt-get", "-q", "update"], env=env)
    run(["apt-get", "-q", "download", *bundle.packages], env=env, cwd=folder)
    return [find_package(folder, package) for package in bundle.packages]


def find_package(folder: Path, package: str) -> Path:
    """The downloaded .deb of `package`; FetchError when there is none."""
    found = next(folder.glob(f"{package}_*.deb"), None)
    if found is None:
        raise FetchError(f"apt-get download left no {package}_*.deb")
    return found


def unpack(bundle: Bundle, mirror: Mirror, target: Path) -> str:
    """Download the bundle and replace `target` with its files; the version of its first package."""
    with tempfile.TemporaryDirectory(prefix="podgate-apt-") as scratch:
        packages = download(bundle, mirror, Path(scratch))
        version = run(["dpkg-deb", "--field", str(packages[0]), "Version"]).strip()
        replace(bundle, packages, target)
    (target / VERSION_FILE).write_text(version + "\n")
    return version


def replace(bundle: Bundle, packages: Sequence[Path], target: Path) -> None:
    """Unpack beside `target`, put it in place and try the program there.

    The version file is the caller's last step: a bundle whose program does not run never looks complete.
    """
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for package in packages:
        run(["dpkg", "-x", str(package), str(fresh)])
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    if bundle.own_libraries:
        use_own_libraries(target, bundle.program)
    run([str(target / bundle.program), "--version"])


def use_own_libraries(root: Path, program: str) -> None:
    """Make a program load the libraries below `root`, its ELF interpreter included; both paths are absolute in it."""
    for needed in (root / program, root / LOADER):
        if not needed.is_file():
            raise FetchError(f"{needed} is not in the packages")
    libraries = str(root / LIBRARIES)
    run(["patchelf", "--set-interpreter", str(root / LOADER), "--set-rpath", libraries, str(root / program)])


def fetch(cache: Path, *, force: bool) -> None:
    """Make every one of BUNDLES present below `cache`/runtimes; one line of progress each."""
    mirror: Mirror | None = None
    for bundle in BUNDLES:
        target = cache / "runtimes" / bundle.name
        title = f"runtimes: {bundle.name}: {bundle.packages[0]}"
        if (target / VERSION_FILE).is_file() and not force:
            print(f"{title} {(target / VERSION_FILE).read_text().strip()} (cached)", flush=True)
            continue
        mirror = mirror or read_mirror()
        print(f"runtimes: {bundle.name}: downloading {' '.join(bundle.packages)} of {bundle.suite}", flush=True)
        print(f"{title} {unpack(bundle, mirror, target)}", flush=True)


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
