# SPDX-License-Identifier: Apache-2.0
"""The kernel header tree that BPF programs are compiled against: made from the kernel's BTF, and kept on disk.

Nodes rarely have their kernel's headers, headers of another kernel compile and then read wrong offsets, and no package
of headers has what is private to the kernel, such as `struct mount`. So the tree is made from the kernel's BTF
(kernel_btf.py), and without BTF there is none.

A tree's directory is named by a hash of all that it is made from, so it is valid as long as it is intact. Building
happens beside it and ends with a rename: whoever looks sees a whole tree or none, and of two builders the second finds
the first one's work. The compiler runs as root and believes what it finds there, hence the care about who may write.
"""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from agent.kernel.btf import BtfError
from agent.kernel.btf_c import declare
from agent.kernel.header_roots import KERNEL_ROOTS
from agent.kernel.header_text import KernelFacts, tree_files
from agent.kernel.kernel_btf import KernelBtf, NoBtfError

DEFAULT_CACHE: Final = Path("/var/cache/podgate/headers")
# To be raised with every change of what is generated but the roots, so that trees of older versions are not used.
GENERATOR_VERSION: Final = 2
# The running kernel's tree, and those to go back to: a node boots its previous kernel after a bad upgrade.
KEEP_TREES: Final = 3

_MANIFEST: Final = "MANIFEST"
_UNFINISHED: Final = ".new-"
_REJECTED: Final = ".old-"
# No builder takes longer than seconds, nor does a compiler that still reads a rejected tree.
_ABANDONED_SECONDS: Final = 3600
_INSTALL_ATTEMPTS: Final = 3
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class HeaderError(Exception):
    """There is no header tree to compile against: which path, what is wrong with it, and what to do."""

    def __init__(self, path: Path, problem: str, advice: str) -> None:
        super().__init__(path, problem, advice)
        self.path = path
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.problem}; {self.advice}"


def ensure_tree(cache_dir: Path = DEFAULT_CACHE, btf: KernelBtf | None = None) -> Path:
    """The directory for BCC_KERNEL_SOURCE, built if the cache does not hold it (about 0.3 s; else about 10 ms).

    Raises HeaderError.
    """
    kernel = _running_kernel()
    source = btf or KernelBtf()
    try:
        return _cached_tree(_open_cache(cache_dir), source, kernel)
    except NoBtfError as error:
        raise HeaderError(cache_dir, str(NoBtfError(error.operation, error.code)), error.hint) from error
    except OSError as error:
        problem = f"the header cache {cache_dir} cannot be used: {error}"
        raise HeaderError(cache_dir, problem, "make it a writable directory of root's") from error
    except (BtfError, ValueError) as error:
        problem = f"no headers can be made from the kernel's BTF: {error}"
        raise HeaderError(cache_dir, problem, "use a kernel that podgate supports, and report this one") from error


def _running_kernel() -> KernelFacts:
    uname = os.uname()
    return KernelFacts(uname.release, uname.machine, os.sysconf("SC_PAGE_SIZE"))


def _cached_tree(cache: Path, source: KernelBtf, kernel: KernelFacts) -> Path:
    tree = cache / _tree_name(source.read(), kernel)
    if _is_intact(tree):
        # Pruning goes by age: a tree in use is young.
        os.utime(tree)
        return tree
    files = tree_files(declare(source.kernel(), KERNEL_ROOTS), kernel)
    _install(cache, tree, files)
    _prune(cache, tree)
    return tree


def _tree_name(data: bytes, kernel: KernelFacts) -> str:
    digest = hashlib.sha256(data)
    digest.update(repr((GENERATOR_VERSION, KERNEL_ROOTS, kernel)).encode())
    return digest.hexdigest()


def _open_cache(cache_dir: Path) -> Path:
    """The cache's real path, created if need be, once nobody but root or this user can write to it or replace it."""
    cache_dir.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    cache_dir.mkdir(mode=0o700, exist_ok=True)
    real = cache_dir.resolve(strict=True)
    if not _is_private(real):
        _refuse(real, "it is not a directory of root's that only root can write to")
    for parent in real.parents:
        if not _is_private(parent, sticky_allowed=True):
            _refuse(real, f"another user can replace it, by way of {parent}")
    return real


def _refuse(cache: Path, reason: str) -> None:
    problem = f"the header cache {cache} is not safe: {reason}"
    raise HeaderError(cache, problem, "remove it, and give root a directory that no other user can write to")


def _is_private(directory: Path, sticky_allowed: bool = False) -> bool:
    """Whether only root and this user can put files there, or with a sticky bit replace theirs."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        return False
    return not status.st_mode & _OTHERS_MAY_WRITE or (sticky_allowed and bool(status.st_mode & stat.S_ISVTX))


def _is_intact(tree: Path) -> bool:
    """Whether the tree holds exactly the files of its manifest, each with its hash."""
    try:
        if not _is_private(tree):
            return False
        expected = _parse_manifest((tree / _MANIFEST).read_text())
        found = {path: _file_hash(path) for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()}
    except (OSError, UnicodeDecodeError):
        return False
    found.pop(tree / _MANIFEST, None)
    return expected is not None and {str(p.relative_to(tree)): h for p, h in found.items()} == expected


def _file_hash(path: Path) -> str:
    """The hash of a regular file; of anything else one that no manifest has."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _format_manifest(files: dict[str, str]) -> str:
    """The lines of sha256sum(1), and their number: a cut-off manifest has no such last line."""
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in sorted(files.items())]
    return "".join(lines) + f"# {len(lines)} files\n"


def _parse_manifest(text: str) -> dict[str, str] | None:
    """Path to hash; None for a manifest that is not complete."""
    *lines, last = text.splitlines() or [""]
    if last != f"# {len(lines)} files":
        return None
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def _install(cache: Path, tree: Path, files: dict[str, str]) -> None:
    """Write the tree beside its place and rename it there, in place of a damaged one."""
    staging = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=cache))
    try:
        _write_tree(staging, files)
        _move_into_place(staging, tree)
    finally:
        # After the rename there is nothing of this name.
        shutil.rmtree(staging, ignore_errors=True)


def _write_tree(directory: Path, files: dict[str, str]) -> None:
    for name, text in [*files.items(), (_MANIFEST, _format_manifest(files))]:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _move_into_place(staging: Path, tree: Path) -> None:
    for attempt in range(_INSTALL_ATTEMPTS):
        try:
            staging.rename(tree)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _is_intact(tree):
            return
        _set_aside(tree, f"{_REJECTED}{staging.name}-{attempt}")
    raise OSError(errno.EBUSY, "damaged again each time that it was replaced", str(tree))


def _set_aside(tree: Path, name: str) -> None:
    """Rename a damaged tree rather than remove it: a compiler may be at work in it."""
    try:
        tree.rename(tree.parent / name)
    except FileNotFoundError:
        # Another builder set it aside.
        return


def _prune(cache: Path, current: Path) -> None:
    """Remove the oldest trees beyond KEEP_TREES, and what was abandoned. Other builders may be doing the same."""
    trees, expired = [], []
    for entry in cache.iterdir():
        try:
            status = entry.lstat()
        except FileNotFoundError:
            continue
        if entry.name.startswith((_UNFINISHED, _REJECTED)):
            if time.time() - status.st_ctime > _ABANDONED_SECONDS:
                expired.append(entry)
        elif stat.S_ISDIR(status.st_mode) and entry != current and len(entry.name) == len(current.name):
            trees.append((status.st_mtime_ns, entry))
    kept_beside_current = KEEP_TREES - 1
    expired += [entry for _, entry in sorted(trees, reverse=True)[kept_beside_current:]]
    for entry in expired:
        shutil.rmtree(entry, ignore_errors=True)
