# SPDX-License-Identifier: Apache-2.0
"""One guest at a time, whoever starts it: two of them on one machine would both miss their deadlines."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.vm.errors import VmError

GUESTS: Final = "guests"


@contextmanager
def hold(cache: Path, name: str) -> Iterator[None]:
    """Waits for whoever else holds the lock of this name in the cache, and says so. It goes with the process, too.
    Raises VmError.
    """
    path = cache / "vm" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise VmError(f"{path}: {error.strerror}") from error
    try:
        _take(descriptor)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        os.ftruncate(descriptor, len(str(os.getpid())) + 1)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"vm: waiting for {_describe(os.pread(descriptor, 32, 0))}", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _describe(written: bytes) -> str:
    """Of what the holder has written: nothing yet, when it has only just begun."""
    pid = written.decode(errors="replace").strip()
    try:
        words = Path(f"/proc/{int(pid)}/cmdline").read_text().replace("\0", " ").strip()
    except (OSError, ValueError):
        words = ""
    return f"process {pid}: {words}" if words else "another run"
