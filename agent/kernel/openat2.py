# SPDX-License-Identifier: Apache-2.0
"""openat2(2): a path is looked up as if a directory were the root, symbolic links and `..` included."""

from __future__ import annotations

import ctypes
import errno
import os

SYS_OPENAT2 = 437  # the same on every architecture
RESOLVE_IN_ROOT = 0x10  # include/uapi/linux/openat2.h


class _OpenHow(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def open_in_root(root: int, path: str, flags: int) -> int:
    """A descriptor, close-on-exec. root: an open directory. Raises OSError."""
    name = os.fsencode(path)
    if b"\0" in name:  # C would see a shorter path
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
    fd = int(_libc.syscall(SYS_OPENAT2, root, ctypes.c_char_p(name), ctypes.byref(how), ctypes.sizeof(how)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd
