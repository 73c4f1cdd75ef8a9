# SPDX-License-Identifier: Apache-2.0
"""Debian packages of any suite, unpacked and never installed.

The mirrors and keyrings are those of this machine's own apt: the archive of its release, and the security archive if
apt has one. Release files are verified. See tools/fetch_runtimes.py, which has the private configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.fetch_runtimes import (
    FetchError,
    Mirror,
    find_package,
    parse_mirror,
    read_codename,
    run,
    write_apt_home,
)
from tools.vm.errors import VmError

_FIELDS = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)"
# What a kernel's metapackage and its image depend on by exact version: packages of the same source, in no other form.
_SAME_SOURCE = re.compile(r"(linux-[\w.+-]+) \(= ([\w.+:~-]+)\)")


@dataclass(frozen=True, slots=True)
class Package:
    """One package; version: the exact one, "" for apt's candidate."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.version}" if self.version else self.name


class Suites:
    """Package lists of some suites in a private apt, below a scratch folder."""

    def __init__(self, folder: Path, suites: Sequence[str], mirrors: Callable[[str], Mirror | None]) -> None:
        sources = [(suite, mirror) for suite in suites if (mirror := mirrors(suite))]
        if not sources:
            raise VmError(f"apt has no archive for {', '.join(suites)}: see /etc/apt/sources.list.d")
        self._folder = folder
        self._env: Mapping[str, str] = write_apt_home(folder, sources[0][1], sources[0][0])
        with (folder / "sources.list").open("a") as listed:
            for suite, mirror in sources[1:]:
                listed.write(f"deb [signed-by={mirror.keyring}] {mirror.uri} {suite} main\n")
        run(["apt-get", "-q", "update"], env=self._env)

    def depends(self, package: Package) -> str:
        """Its field Depends."""
        shown = run(["apt-cache", "show", "--no-all-versions", str(package)], env=self._env)
        return "".join(re.findall(r"^Depends: (.*)$", shown, re.MULTILINE))

    def download(self, packages: Iterable[Package]) -> list[Path]:
        """Their .deb files."""
        chosen = list(packages)
        run(["apt-get", "-q", "download", *map(str, chosen)], env=self._env, cwd=self._folder)
        return [find_package(self._folder, package.name) for package in chosen]


def mirror_of(suite: str) -> Mirror | None:
    """The archive that has a suite of any release; None for a security suite when apt has no security archive."""
    targets = run(["apt-get", "indextargets", "--format", _FIELDS, "Created-By: Packages"])
    own = read_codename()
    if not suite.endswith("-security"):
        return parse_mirror(targets, own)
    try:
        return parse_mirror(targets, f"{own}-security")
    except FetchError:
        return None


def same_source(package: Package, depends: Callable[[Package], str]) -> list[Package]:
    """A kernel's metapackage and everything of its source that it needs, each once."""
    found = {package.name: package}
    todo = [package]
    while todo:
        for name, version in _SAME_SOURCE.findall(depends(todo.pop())):
            if name not in found:
                found[name] = Package(name, version)
                todo.append(found[name])
    return list(found.values())


def unpack(files: Iterable[Path], target: Path) -> None:
    """Replace `target` by the content of some .deb files."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in files:
        run(["dpkg", "-x", str(file), str(target)])


def fetch(suites: Sequence[str], packages: Iterable[Package], target: Path) -> None:
    """Replace `target` by the content of packages of some suites. Raises VmError, FetchError."""
    with scratch() as private:
        unpack(Suites(Path(private), suites, mirror_of).download(packages), target)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for a private apt."""
    return tempfile.TemporaryDirectory(prefix=f"podgate-apt-{os.getpid()}-")
