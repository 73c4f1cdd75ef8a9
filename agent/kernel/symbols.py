# SPDX-License-Identifier: Apache-2.0
"""A short list in place of the kernel's symbols, for the loader process alone.

bcc reads all of /proc/kallsyms at each compilation, 120,000 lines and more, to see whether the kernel has one helper:
a sixth of its time. Linux has had that helper since 5.5, so a list with it says the same. The list lies over the file
in a mount namespace of the process's own.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SYMBOLS = Path("/proc/kallsyms")
CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 0x80000  # include/uapi/linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


def shorten_symbols(short: Path) -> str:
    """Why it could not be done, "" when it was: compiling takes longer then. What is unmounted elsewhere is unmounted
    here too; nothing that is mounted here is seen elsewhere.
    """
    try:
        _call(_libc.unshare(CLONE_NEWNS))
        _call(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None))
        _call(_libc.mount(bytes(short), bytes(SYMBOLS), None, ctypes.c_ulong(MS_BIND), None))
    except OSError as error:
        return f"the list of symbols stays long: {error.strerror}"
    return ""


def _call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
