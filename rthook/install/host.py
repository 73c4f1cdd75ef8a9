# SPDX-License-Identifier: Apache-2.0
"""A host's file system that may be mounted somewhere else: paths as the host's own processes name them.

Symbolic links are resolved as a process with that root directory would: /var/run -> /run stays below the root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rthook.install.errors import InstallError

# What the kernel follows before it gives ELOOP (path_resolution(7)).
MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Host:
    """`root` is where the host's / is mounted. Methods take absolute paths of the host, and may raise OSError."""

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        """Where the host's `path` is here; it need not exist. InstallError when links go in circles."""
        pending, done, links = list(Path(path).parts[1:]), Path(), 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                done = done.parent
                continue
            here = self.root / done / part
            if not here.is_symlink():
                done /= part
                continue
            links += 1
            if links > MAX_LINKS:
                raise InstallError(f"{path}: more than {MAX_LINKS} symbolic links")
            target = Path(os.readlink(here))
            pending[:0] = target.parts[1:] if target.is_absolute() else target.parts
            done = Path() if target.is_absolute() else done
        return self.root / done

    def read(self, path: str) -> bytes | None:
        """None when there is no such file."""
        try:
            return self.at(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: str) -> bool:
        return self.at(path).exists()

    def names(self, directory: str) -> list[str]:
        """Sorted; empty for a directory that does not exist."""
        try:
            return sorted(os.listdir(self.at(directory)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def glob(self, pattern: str) -> list[str]:
        """The host's paths that match, sorted; wildcards are those of a shell, also in directories."""
        found = ["/"]
        for part in Path(pattern).parts[1:]:
            below = ((top, [n for n in self.names(top) if fnmatchcase(n, part)]) for top in found)
            plain = "*" not in part and "?" not in part and "[" not in part
            found = [join(top, part) for top in found] if plain else [join(t, n) for t, names in below for n in names]
        return [path for path in found if self.exists(path)]

    def missing_directories(self, directory: str) -> list[str]:
        """`directory` and those above it that do not exist, outermost first."""
        chain = [str(path) for path in (Path(directory), *Path(directory).parents)]
        return [path for path in reversed(chain) if not self.exists(path)]


def join(directory: str, name: str) -> str:
    """A path of the host."""
    return f"{directory.rstrip('/')}/{name}"
