# SPDX-License-Identifier: Apache-2.0
"""A small disk of its own, which can be filled to the last page."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import system

SIZE = 16 << 20  # for logs and a spool of 1 MiB
FILLER = "filler"


class DiskError(Exception):
    """The disk cannot be mounted."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A tmpfs at `point`."""

    point: Path

    def fill(self) -> None:
        """Until nothing more goes in. Another file's last page may have room left."""
        file = os.open(self.point / FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 20, 4096, 1):
                _write_until_full(file, bytes(size))
        finally:
            os.close(file)

    def free(self) -> None:
        """It may be free already."""
        (self.point / FILLER).unlink(missing_ok=True)


def _write_until_full(file: int, block: bytes) -> None:
    while True:
        try:
            os.write(file, block)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise


@contextmanager
def mounted_disk(point: Path) -> Iterator[Disk]:
    """At `point`, which is made; what is mounted there or below it is unmounted at the end."""
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "tmpfs", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DiskError(f"a tmpfs on {point}: {done.stderr.strip()}")
    try:
        yield Disk(point)
    finally:
        system.unmount_below(point)
