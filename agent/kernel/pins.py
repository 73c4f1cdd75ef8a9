# SPDX-License-Identifier: Apache-2.0
"""The agent's directory in bpffs: maps/ and links/ below it. What is pinned there works on whatever happens to the
agent.

A starting agent moves what an earlier one left to DIRECTORY-previous (bpffs keeps names with dots to itself), where
it stays in force until the new rules are.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.errors import KernelError

DEFAULT_DIRECTORY = Path("/sys/fs/bpf/podgate")


@dataclass(frozen=True, slots=True)
class Pins:
    directory: Path

    @property
    def maps(self) -> Path:
        return self.directory / "maps"

    @property
    def links(self) -> Path:
        return self.directory / "links"

    @property
    def previous(self) -> Path:
        return self.directory.with_name(self.directory.name + "-previous")

    def prepare(self) -> bool:
        """Makes the empty directories; True when an earlier agent's were there and are in force still."""
        try:
            found = self._set_aside()
            self.maps.mkdir(parents=True)
            self.links.mkdir()
            self.directory.chmod(0o700)
        except BlockingIOError as error:
            raise KernelError(f"{self.directory} is another running agent's", 0, "stop it, or use --pin-dir") from error
        except OSError as error:
            raise KernelError(
                f"{self.directory}", error.errno or 0, "the directory must be on a writable bpffs"
            ) from error
        return found

    def _set_aside(self) -> bool:
        """Beside what is there already: an agent that crashed early has not taken its predecessor's place yet."""
        if self.directory.exists():
            os.close(self.lock())
            self.previous.mkdir(mode=0o700, exist_ok=True)
            self.directory.rename(self.previous / str(1 + max(map(int, os.listdir(self.previous)), default=0)))
        return self.previous.exists()

    def lock(self) -> int:
        """A descriptor that holds the directory for its owner's life. Raises BlockingIOError when another holds it."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise
        return fd

    def release_previous(self) -> int:
        """Ends what earlier agents left; gives how many links that were."""
        count = sum(1 for _ in self.previous.glob("*/links/*"))
        remove_tree(self.previous)
        return count

    def release(self) -> None:
        remove_tree(self.directory)


def remove_tree(directory: Path) -> None:
    """Links go first: no program runs on with its maps half gone."""
    if not directory.exists():
        return
    for name in sorted(os.listdir(directory)):
        path = directory / name
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    directory.rmdir()
