# SPDX-License-Identifier: Apache-2.0
"""Kernel errors carry the operation, the errno and what to do about it; the text is made when it is shown."""

from __future__ import annotations

import errno
import os


class KernelError(Exception):
    """A kernel facility refused or is missing.

    operation: what was tried, in the kernel's words. code: errno, 0 when there is none. hint: what the operator can do.
    """

    def __init__(self, operation: str, code: int = 0, hint: str = "") -> None:
        super().__init__(operation, code, hint)
        self.operation = operation
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        name = f": {errno.errorcode.get(self.code, self.code)} ({os.strerror(self.code)})" if self.code else ""
        return f"{self.operation}{name}" + (f"; {self.hint}" if self.hint else "")


class LoaderError(KernelError):
    """The loader process could not compile or load. stage: start, compile, load, deadline or memory. log: its last
    lines. too_large: less of it may do. programs: which ones it was, where that is known.
    """

    def __init__(self, stage: str, log: str, too_large: bool = False, programs: tuple[str, ...] = ()) -> None:
        super().__init__(f"loader, {stage}")
        self.stage = stage
        self.log = log
        self.too_large = too_large
        self.programs = programs

    def __str__(self) -> str:
        return f"{self.operation}: {self.log}" if self.log else self.operation


class CgroupError(KernelError):
    """A process's cgroup cannot be told: the process is gone, or it is in no cgroup of its own."""
