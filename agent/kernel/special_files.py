# SPDX-License-Identifier: Apache-2.0
"""Files of debugfs and securityfs, which few nodes have mounted where a container could see them.

Each of these file systems is one and the same wherever it is mounted. Where there is no mount to be seen, one is made
that is nowhere in the tree of directories, with fsmount(2) of Linux 5.2, and goes with its descriptor.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from agent.kernel.errors import KernelError
from agent.kernel.mounts import read_mounts

MAX_SPECIAL_BYTES = 4 << 20  # the list of functions that take no probes, some 1,000 lines, is the longest of them
SYS_FSOPEN = 430  # arch/x86/entry/syscalls/syscall_64.tbl
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
FSCONFIG_CMD_CREATE = 6  # enum fsconfig_command
CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long

ReadSpecial = Callable[[str, str], bytes]


def read_special(kind: str, name: str) -> bytes:
    """The file `name` of the file system `kind`. Raises KernelError when the kernel has no such file, or lets nobody
    read it.
    """
    root = _open_root(kind)
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
        with open(file, "rb") as content:
            return content.read(MAX_SPECIAL_BYTES)
    except OSError as error:
        raise KernelError(
            f"{kind} {name}", error.errno or 0, "the kernel has no such file, or is locked down"
        ) from error
    finally:
        os.close(root)


def _open_root(kind: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    for mount in read_mounts():
        if mount.kind == kind and mount.root == "/":
            return os.open(mount.point, flags)
    return _mount_nowhere(kind)


def _mount_nowhere(kind: str) -> int:
    """A descriptor of the root directory of a mount that nobody else sees."""
    none = ctypes.c_void_p()
    context = _call(f"fsopen({kind})", SYS_FSOPEN, ctypes.c_char_p(kind.encode()), ctypes.c_uint(CLOEXEC))
    try:
        command = ctypes.c_uint(FSCONFIG_CMD_CREATE)
        _call(f"fsconfig({kind})", SYS_FSCONFIG, ctypes.c_int(context), command, none, none, ctypes.c_int(0))
        return _call(f"fsmount({kind})", SYS_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(CLOEXEC), ctypes.c_uint(0))
    finally:
        os.close(context)


def _call(operation: str, number: int, *args: object) -> int:
    result = int(_syscall(ctypes.c_long(number), *args))
    if result < 0:
        raise KernelError(operation, ctypes.get_errno(), "the kernel does not have this file system")
    return result
