# SPDX-License-Identifier: Apache-2.0
"""Carrying out steps. A file is there whole or not at all: written beside its place, synced, renamed in.

The name beside it is the same at each try: what a killed try left is found by the next.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rthook.install.errors import BusyError, InstallError, NotRootError, NotWritableError
from rthook.install.host import Host
from rthook.install.plan import MakeDirectory, PutFile, RemoveDirectory, RemoveFile, Step, beside
from rthook.install.record import RECORD_DIR

DIRECTORY_MODE = 0o755


def check_writable(host: Host, steps: Iterable[Step]) -> None:
    """Before the first change: NotWritableError or NotRootError for a directory that cannot be written to."""
    for step in steps:
        directory = Path(step.path).parent
        existing = next(path for path in (directory, *directory.parents) if host.exists(str(path)))
        here = host.at(str(existing))
        if not os.access(here, os.W_OK | os.X_OK, effective_ids=True):
            raise _not_writable(here, getattr(step, "option", ""), "the directory cannot be written to")


def _not_writable(path: Path, option: str, reason: str) -> InstallError:
    uid = os.geteuid()
    read_only = bool(os.statvfs(path if path.exists() else path.parent).f_flag & os.ST_RDONLY)
    if uid != 0 and not read_only:
        return NotRootError(path, uid)
    return NotWritableError(path, "the file system is read-only" if read_only else reason, option)


def apply_steps(host: Host, steps: Iterable[Step]) -> None:
    """One after the other; NotWritableError, NotRootError, or InstallError with what failed."""
    for step in steps:
        try:
            apply_step(host, step)
        except OSError as error:
            path = host.at(step.path)
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise _not_writable(path.parent, getattr(step, "option", ""), os.strerror(error.errno)) from error
            raise InstallError(f"{step.text}: {error.strerror}") from error


def apply_step(host: Host, step: Step) -> None:
    """Doing it twice is the same as doing it once. OSError."""
    path = host.at(step.path)
    match step:
        case MakeDirectory():
            path.mkdir(DIRECTORY_MODE, exist_ok=True)
            path.chmod(DIRECTORY_MODE)  # whatever the umask
        case PutFile():
            _put(path, host.at(step.like) if step.like else None, step)
        case RemoveFile():
            path.unlink(missing_ok=True)
        case RemoveDirectory():
            _remove_if_empty(path)
            return
    _sync(path.parent)


def _put(path: Path, like: Path | None, step: PutFile) -> None:
    new = Path(beside(str(path)))
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(step.data)
        _give_mode(descriptor, like, step.mode)  # an open file's, whatever the umask
        file.flush()
        os.fsync(descriptor)
    os.rename(new, path)


def _give_mode(descriptor: int, like: Path | None, mode: int) -> None:
    """Mode and owner of `like`; the owner is changed only where it differs, which takes root."""
    if like is None or not like.exists():
        os.fchmod(descriptor, mode)
        return
    old, now = os.stat(like), os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o7777)


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            raise
        return
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """What was renamed or removed in a directory is on the disk when the directory is."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removing a file of a directory that is gone
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(host: Host) -> Iterator[None]:
    """One installation at a time: the record's directory may go, so the one above it is locked. BusyError."""
    directory = next(path for path in Path(RECORD_DIR).parents if host.exists(str(path)))
    descriptor = os.open(host.at(str(directory)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(host.at(str(directory))) from error
    finally:
        os.close(descriptor)
