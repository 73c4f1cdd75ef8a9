# SPDX-License-Identifier: Apache-2.0
"""bcc's symbol caches: one of the kernel and one of each process that was asked for lately.

A cache reads files and maps of a process when it is first asked, and keeps them. It belongs to one process: a pid and
a start time, both looked at before and after, and the path of the executable, since execve changes neither.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.events.stacks import MAX_NAME, Frame, Frames, Trace

MAX_CACHES = 32  # some MB each for a process with large libraries
IDLE_S = 60.0
KERNEL_S = 60.0  # modules and BPF programs come and go; reading all symbols anew takes some 100 ms
# No function is that long: an address that far behind a symbol belongs to something that has none.
MAX_OFFSET = 1 << 24
KERNEL = -1
STT_FUNC, STT_GNU_IFUNC = 2, 10  # elf.h
_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = "ZX"


class ProcessGoneError(Exception):
    """The process whose addresses they are is not there any more, or is another program."""


@dataclass(slots=True)
class _Cached:
    """since: when it was last asked, of the kernel's when it was made."""

    handle: int
    since: float


class Caches:
    """clock: monotonic seconds. proc: where procfs is mounted, of the host's pid namespace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, proc: Path = Path("/proc")) -> None:
        from bcc import libbcc

        self._bcc: Any = libbcc
        self._clock = clock
        self._proc = proc
        self._kernel: _Cached | None = None
        self._processes: OrderedDict[tuple[int, int], _Cached] = OrderedDict()

    def __len__(self) -> int:
        """How many processes' are kept."""
        return len(self._processes)

    def kernel(self, addresses: tuple[int, ...]) -> Frames | None:
        """None when the kernel tells no symbols."""
        if not addresses:
            return None
        if self._kernel is None or self._kernel.since + KERNEL_S <= self._clock():
            if self._kernel:
                self._bcc.lib.bcc_free_symcache(self._kernel.handle, KERNEL)
            self._kernel = _Cached(self._open(KERNEL), self._clock())
        handle = self._kernel.handle
        frames = tuple(self._kernel_frame(handle, address) for address in addresses)
        return frames if any(frames) else None

    def _kernel_frame(self, cache: int, address: int) -> Frame | None:
        frame = self._resolve(cache, address)
        return frame if frame and frame.symbol else None

    def user(self, trace: Trace) -> Frames:
        """Raises ProcessGoneError."""
        self._check(trace)
        cache = self._cache(trace)
        frames = tuple(self._resolve(cache, address) for address in trace.user)
        self._check(trace)
        return frames

    def expire(self) -> None:
        """Forgets processes that nobody asked for in the last IDLE_S."""
        while self._processes and next(iter(self._processes.values())).since + IDLE_S <= self._clock():
            self._forget()

    def _cache(self, trace: Trace) -> int:
        self.expire()
        key = (trace.pid, trace.start)
        if key not in self._processes:
            if len(self._processes) >= MAX_CACHES:
                self._forget()
            self._processes[key] = _Cached(self._open(trace.pid), 0.0)
        self._processes[key].since = self._clock()
        self._processes.move_to_end(key)
        return self._processes[key].handle

    def _forget(self) -> None:
        (pid, _), cached = self._processes.popitem(last=False)
        self._bcc.lib.bcc_free_symcache(cached.handle, pid)

    def _open(self, pid: int) -> int:
        option = self._bcc.bcc_symbol_option(0, 0, 1, 1 << STT_FUNC | 1 << STT_GNU_IFUNC)
        return int(self._bcc.lib.bcc_symcache_new(pid, ctypes.byref(option)))

    def _resolve(self, cache: int, address: int) -> Frame | None:
        found = self._bcc.bcc_symbol()
        status = self._bcc.lib.bcc_symcache_resolve_no_demangle(cache, address, ctypes.byref(found))
        module = _text(ctypes.cast(found.module, ctypes.c_char_p).value) if found.module else None
        if status == 0 and found.offset < MAX_OFFSET:
            return Frame(_text(found.name), int(found.offset), module)
        return Frame(None, int(found.offset), module) if status < 0 and module else None

    def _check(self, trace: Trace) -> None:
        """Raises ProcessGoneError."""
        try:
            state, start = _parse_stat((self._proc / str(trace.pid) / "stat").read_bytes())
            program = os.readlink(os.fsencode(self._proc / str(trace.pid) / "exe"))
        except OSError as error:
            raise ProcessGoneError("the process has ended") from error
        if state in _GONE or start != trace.start * _TICKS // 1_000_000_000:
            raise ProcessGoneError("the process has ended")
        if trace.binary is not None and not _is_same_program(trace.binary, program):
            raise ProcessGoneError("the process is another program by now")


def _parse_stat(stat: bytes) -> tuple[str, int]:
    """The state and the start time in ticks (proc(5)); the name before them can have anything in it."""
    fields = stat.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])


def _is_same_program(seen: bytes, link: bytes) -> bool:
    """seen: the path as the process saw it, perhaps without its begin; link: as its mount namespace has it."""
    return link.removesuffix(b" (deleted)").endswith(seen.removesuffix(b" (deleted)"))


def _text(data: bytes | None) -> str | None:
    return None if data is None else data[:MAX_NAME].decode(errors="surrogateescape")
