# SPDX-License-Identifier: Apache-2.0
"""Reads a bundle's config.json where the hook's process sees it: the agent may itself run in a container."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.hooks.errors import Reason, SpecError
from agent.hooks.limits import MAX_CONFIG
from agent.kernel.openat2 import open_in_root

NAME = "config.json"
# A FIFO or a device without a medium would block the open, a terminal would become the agent's.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def read_config(bundle: str, pid: int, procfs: Path = Path("/proc")) -> bytes:
    """Of the bundle directory, as the process sees it; MAX_CONFIG bytes at most. Raises SpecError, reason NO_SPEC."""
    if not bundle.startswith("/"):
        raise _error(f"the state's bundle is {bundle!r}, not an absolute path")
    path = f"{bundle.rstrip('/')}/{NAME}"
    try:
        file = _open(path, pid, procfs)
        try:
            return _read(file, path)
        finally:
            os.close(file)
    except OSError as error:
        raise _error(f"{path}: {error.strerror}") from error


def _open(path: str, pid: int, procfs: Path) -> int:
    root = os.open(procfs / str(pid) / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(root, path, _FLAGS)
    finally:
        os.close(root)


def _read(file: int, path: str) -> bytes:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise _error(f"{path} is not a regular file")
    if status.st_size > MAX_CONFIG:
        raise _error(f"{path} has {status.st_size} bytes, at most {MAX_CONFIG}")
    parts: list[bytes] = []
    left = MAX_CONFIG + 1  # one more than parse_config takes: a file that grows is refused there
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _error(problem: str) -> SpecError:
    return SpecError(Reason.NO_SPEC, NAME, "", problem)
