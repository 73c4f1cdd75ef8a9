# SPDX-License-Identifier: Apache-2.0
"""The process that makes the calls of tests/support/calls.py: alone in its file, so that it is nothing but itself.

A line of JSON on standard input is an order, a line on standard output its answer:

    {"files": [...]}                    opens these, from FIRST_FD on; see _open
    {"unshare": flags}                  moves into new namespaces; "fork": goes on as a child
    {"drop": mask}                      gives up effective capabilities
    {"last": [number, [argument]]}      has a child make a system call and end
    {"calls": [[number, [argument]]]}   makes system calls, in one go; an argument is a number or what _memory knows

Standard signals from FIRST_SIGNAL on are blocked, so that those that a call brings can be told afterwards.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
from typing import Any

FIRST_FD = 100
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT)
MAX_ARGS = 6
ROOM = 16 * mmap.PAGESIZE  # of one argument in memory, and as much again behind it
PRESENT = 1 << 63  # of an entry of /proc/self/pagemap
CAPABILITIES_V3 = 0x20080522  # include/uapi/linux/capability.h
SYS_CAPGET, SYS_CAPSET, SYS_DUP = 125, 126, 32

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def call(number: int, *args: int) -> int:
    """The result of a system call, an errno below zero."""
    result = int(libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args)))
    return -ctypes.get_errno() if result == -1 else result


class Memory:
    """Memory of one call's arguments."""

    def __init__(self) -> None:
        self._mapped: list[int] = []
        self._cold: list[int] = []

    def argument(self, arg: Any) -> int:
        """A number; {"bytes": hexadecimal, "cold": not resident}; {"vector": [hexadecimal]}."""
        if isinstance(arg, int):
            return arg & (1 << 64) - 1
        if "vector" in arg:
            return self._vector([bytes.fromhex(part) for part in arg["vector"]])
        data = bytes.fromhex(arg["bytes"])
        return self._cold_bytes(data) if arg["cold"] else self._bytes(data)

    def _bytes(self, data: bytes) -> int:
        address = int(libc.mmap(None, ROOM, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000, -1, 0))
        ctypes.memmove(address, data, len(data))
        self._mapped.append(address)
        return address

    def _cold_bytes(self, data: bytes) -> int:
        """Of a file that is mapped and has not been touched."""
        fd = os.memfd_create("podgate-cold")
        os.ftruncate(fd, ROOM)
        os.write(fd, data)
        address = int(libc.mmap(None, ROOM, 3, mmap.MAP_PRIVATE, fd, 0))
        os.close(fd)
        self._mapped.append(address)
        self._cold.append(address)
        return address

    def _vector(self, parts: list[bytes]) -> int:
        segments = b"".join(struct.pack("<QQ", self._bytes(part), len(part)) for part in parts)
        return self._bytes(segments)

    def resident(self) -> list[bool]:
        """Of those that were cold: whether the kernel has brought them in."""
        found = []
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            for address in self._cold:
                entry = os.pread(pagemap.fileno(), 8, address // mmap.PAGESIZE * 8)
                found.append(bool(int.from_bytes(entry, "little") & PRESENT))
        return found

    def close(self) -> None:
        for address in self._mapped:
            libc.munmap(address, ROOM)


def taken_signals() -> list[int]:
    found = []
    while (info := signal.sigtimedwait(SIGNALS, 0)) is not None:
        found.append(info.si_signo)
    return sorted(found)


def make_calls(calls: list[Any]) -> dict[str, Any]:
    memory = Memory()
    ready = [(number, [*map(memory.argument, args), *[0] * MAX_ARGS][:MAX_ARGS]) for number, args in calls]
    results = [call(number, *args) for number, args in ready]
    answer = {"results": results, "signals": taken_signals(), "resident": memory.resident()}
    for (number, _), result in zip(ready, results, strict=True):
        if number == SYS_DUP and result >= 0:
            os.close(result)
    memory.close()
    return answer


def make_last(number: int, args: list[Any]) -> dict[str, Any]:
    memory = Memory()
    ready = [*map(memory.argument, args), *[0] * MAX_ARGS][:MAX_ARGS]
    child = os.fork()
    if not child:
        call(number, *ready)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    memory.close()
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}


def _open(kind: str, path: str) -> int:
    if kind == "pipe":
        return os.pipe()[0]
    if kind in ("unix", "udp", "udp6"):
        family = {"unix": socket.AF_UNIX, "udp": socket.AF_INET, "udp6": socket.AF_INET6}[kind]
        return socket.socket(family, socket.SOCK_DGRAM).detach()
    if kind == "deleted":
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.unlink(path)
        return fd
    return os.open(path, os.O_RDONLY if kind == "read" else os.O_RDWR | os.O_CREAT)


def open_files(files: list[tuple[str, str]]) -> dict[str, Any]:
    for number, (kind, path) in enumerate(files, FIRST_FD):
        fd = _open(kind, path)
        os.dup2(fd, number)
        os.close(fd)
    return {}


def unshare(flags: int, fork: bool) -> dict[str, Any]:
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    if fork:
        child = os.fork()
        if child:
            os.close(0)
            os.close(1)
            os._exit(os.waitpid(child, 0)[1] != 0)
    return {"pid": int(os.readlink("/proc/self"))}


def drop(mask: int) -> dict[str, Any]:
    header = ctypes.create_string_buffer(struct.pack("<II", CAPABILITIES_V3, 0))
    data = ctypes.create_string_buffer(24)
    if libc.syscall(SYS_CAPGET, header, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("<6I", data.raw[:24]))
    words[0] &= ~mask & 0xFFFFFFFF
    words[3] &= ~(mask >> 32) & 0xFFFFFFFF
    if libc.syscall(SYS_CAPSET, header, ctypes.create_string_buffer(struct.pack("<6I", *words))):
        raise OSError(ctypes.get_errno(), "capset")
    return {}


def obey(order: dict[str, Any]) -> dict[str, Any]:
    if "files" in order:
        return open_files(order["files"])
    if "unshare" in order:
        return unshare(order["unshare"], order["fork"])
    if "last" in order:
        return make_last(*order["last"])
    if "drop" in order:
        return drop(order["drop"])
    return make_calls(order["calls"])


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    while line := sys.stdin.readline():
        print(json.dumps(obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
