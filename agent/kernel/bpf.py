# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) and perf_event_open(2) system calls, one thin function each.

Attribute layouts are those of union bpf_attr and struct perf_event_attr in include/uapi/linux. Every function raises
KernelError with the command's name; file descriptors are close-on-exec and owned by an Fd.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType

from agent.kernel.errors import KernelError

SYS_BPF = 321  # arch/x86/entry/syscalls/syscall_64.tbl
SYS_PERF_EVENT_OPEN = 298
ATTR_SIZE = 144
PERF_ATTR_SIZE = 128  # PERF_ATTR_SIZE_VER6
PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_FD_CLOEXEC = 8
PERF_EVENT_IOC_ENABLE = 0x2400
BPF_PERF_EVENT = 41  # enum bpf_attach_type
BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2
NO_PREALLOC = 1  # BPF_F_NO_PREALLOC
NAME_LEN = 16  # BPF_OBJ_NAME_LEN, its NUL included
VERIFIER_LOG = 1 << 20
LOG_WORDS = 4  # BPF_LOG_STATS: without each instruction's trace
INFO_SIZE = 256
# struct bpf_prog_info: id, jited_prog_len, xlated_prog_len, recursion_misses
PROGRAM_INFO = struct.Struct("<4xI8xII184xQ")
# struct bpf_link_info of a perf event that is a kprobe: type, its kind of perf event, missed
PERF_LINK_INFO = struct.Struct("<I12xI28xQ")
LINK_PERF_EVENT = 7  # enum bpf_link_type
PERF_EVENT_KPROBES = frozenset({3, 4})  # enum bpf_perf_event_type: at the entry, at the return
INSTRUCTION_BYTES = 8


class Command(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    RAW_TRACEPOINT_OPEN = 17
    BTF_GET_FD_BY_ID = 19
    BTF_GET_NEXT_ID = 23
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31


class MapType(IntEnum):
    """enum bpf_map_type, the ones in use."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    RINGBUF = 27


class ProgType(IntEnum):
    """enum bpf_prog_type, the ones in use."""

    KPROBE = 2
    TRACEPOINT = 5
    RAW_TRACEPOINT = 17
    TRACING = 26
    LSM = 29


class Fd:
    """Owns one file descriptor; closing twice is harmless."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError("descriptor is closed")
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Fd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _call(number: int, operation: str, *args: object) -> int:
    result = int(_syscall(ctypes.c_long(number), *args))
    if result < 0:
        raise KernelError(operation, ctypes.get_errno())
    return result


def _bpf(command: Command, attributes: bytes, operation: str = "") -> int:
    attr = ctypes.create_string_buffer(attributes, ATTR_SIZE)
    name = operation or f"bpf({command.name})"
    return _call(SYS_BPF, name, ctypes.c_int(command), attr, ctypes.c_uint(ATTR_SIZE))


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def object_name(name: str) -> bytes:
    return name.encode()[: NAME_LEN - 1].ljust(NAME_LEN, b"\0")


def create_map(kind: MapType, key: int, value: int, entries: int, name: str, flags: int = 0, inner: int = 0) -> Fd:
    """key and value in bytes; for a ring buffer both are 0 and entries is its size in bytes, a power of two pages.
    inner: of an ARRAY_OF_MAPS, a map like those that it will have.
    """
    attr = struct.pack("<6I", kind, key, value, entries, flags, inner) + struct.pack("<I", 0) + object_name(name)
    return Fd(_bpf(Command.MAP_CREATE, attr, f"bpf(MAP_CREATE {name})"))


def lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """size: of the value in bytes; for a per-CPU map, 8-byte rounded value times possible CPUs. None when there is no
    such key.
    """
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    attr = struct.pack("<IIQQQ", fd, 0, _address(key_buffer), _address(value), 0)
    try:
        _bpf(Command.MAP_LOOKUP_ELEM, attr)
    except KernelError as error:
        if error.code == 2:
            return None
        raise
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    key_buffer, buffer = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(Command.MAP_UPDATE_ELEM, struct.pack("<IIQQQ", fd, 0, _address(key_buffer), _address(buffer), flags))


def delete(fd: int, key: bytes) -> bool:
    """True when there was such a key."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(Command.MAP_DELETE_ELEM, struct.pack("<IIQ", fd, 0, _address(key_buffer)))
    except KernelError as error:
        if error.code == 2:
            return False
        raise
    return True


def update_many(fd: int, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Keys and values of one size each. Some may be written when it raises."""
    _batch(Command.MAP_UPDATE_BATCH, fd, [key for key, _ in rows], b"".join(value for _, value in rows))


def delete_many(fd: int, wanted: Sequence[bytes]) -> None:
    """Keys of one size; those that are not there do not matter."""
    try:
        _batch(Command.MAP_DELETE_BATCH, fd, wanted)
    except KernelError as error:
        if error.code != errno.ENOENT:  # it ends at the first that is not there
            raise
        for key in wanted:
            delete(fd, key)


def _batch(command: Command, fd: int, wanted: Sequence[bytes], values: bytes = b"") -> None:
    """union bpf_attr, batch: in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags."""
    data = b"".join(wanted)
    key_buffer, value_buffer = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(values)
    places = (_address(key_buffer), _address(value_buffer) if values else 0)
    _bpf(command, struct.pack("<QQQQIIQQ", 0, 0, *places, len(wanted), fd, 0, 0))


def keys(fd: int, size: int) -> list[bytes]:
    """Every key of a hash map; one that changes meanwhile can miss or repeat keys, as the kernel says."""
    found: list[bytes] = []
    key, following = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    address = 0
    while True:
        try:
            _bpf(Command.MAP_GET_NEXT_KEY, struct.pack("<IIQQ", fd, 0, address, _address(following)))
        except KernelError as error:
            if error.code == 2:
                return found
            raise
        found.append(following.raw)
        key.raw, address = following.raw, _address(key)


def pin(fd: int, path: str) -> None:
    name = ctypes.create_string_buffer(path.encode())
    _bpf(Command.OBJ_PIN, struct.pack("<QII", _address(name), fd, 0), f"bpf(OBJ_PIN {path})")


def open_pinned(path: os.PathLike[str]) -> Fd:
    """A map or program by its pin."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return Fd(_bpf(Command.OBJ_GET, struct.pack("<QII", _address(name), 0, 0), f"bpf(OBJ_GET {os.fspath(path)})"))


def load_program(
    kind: ProgType, instructions: bytes, name: str, attach_type: int = 0, btf_id: int = 0, btf_fd: int = 0
) -> Fd:
    """Loads ready-made instructions. btf_id: of the function that it is for, in the kernel's BTF or in the one that
    btf_fd is. A refusal's hint is the verifier's last words; with code E2BIG it has none: the verifier went through as
    many instructions as it has patience for, and would do so again.
    """
    code, gpl = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(VERIFIER_LOG)

    def attributes(level: int) -> bytes:
        where, size = (_address(log), VERIFIER_LOG) if level else (0, 0)
        head = struct.pack(
            "<IIQQIIQII", kind, len(instructions) // 8, _address(code), _address(gpl), level, size, where, 0, 0
        )
        tail = struct.pack("<IIIIQIIQIII", 0, attach_type, 0, 0, 0, 0, 0, 0, 0, btf_id, btf_fd)
        return head + object_name(name) + tail

    try:
        return Fd(_bpf(Command.PROG_LOAD, attributes(0), f"bpf(PROG_LOAD {name})"))
    except KernelError as refused:
        if refused.code == errno.E2BIG:
            raise
        try:
            return Fd(_bpf(Command.PROG_LOAD, attributes(LOG_WORDS), f"bpf(PROG_LOAD {name})"))
        except KernelError:
            tail = log.value.decode(errors="replace").strip().splitlines()[-5:]
            raise KernelError(refused.operation, refused.code, " | ".join(tail)) from refused


def run_raw_tracepoint(fd: int) -> int:
    """BPF_PROG_TEST_RUN of a raw tracepoint program, in the context of the calling thread; what it returned, signed."""
    attr = ctypes.create_string_buffer(struct.pack("<II", fd, 0), ATTR_SIZE)
    _call(SYS_BPF, "bpf(PROG_TEST_RUN)", ctypes.c_int(Command.PROG_TEST_RUN), attr, ctypes.c_uint(ATTR_SIZE))
    return int(struct.unpack_from("<i", attr.raw, 4)[0])


def open_raw_tracepoint(name: str, program: int) -> Fd:
    """Attaches; the descriptor is a link, which can be pinned. name: "" of a program that was loaded for a function."""
    text = ctypes.create_string_buffer(name.encode()) if name else None
    address = _address(text) if text else 0
    return Fd(_bpf(Command.RAW_TRACEPOINT_OPEN, struct.pack("<QII", address, program, 0), f"raw tracepoint {name}"))


def open_tracepoint_event(identifier: int) -> Fd:
    """A perf event of the tracepoint with that id, for every process. It is opened on one CPU: a program attached to
    it runs on all.
    """
    return _open_perf_event(struct.pack("<IIQQQQQI", PERF_TYPE_TRACEPOINT, PERF_ATTR_SIZE, identifier, 1, 0, 0, 0, 1))


def open_uprobe_event(pmu: int, config: int, path: str, offset: int) -> Fd:
    """A perf event at an offset of a file, in every process that maps it. pmu: the number in
    /sys/bus/event_source/devices/uprobe/type. config: as that device's `format` says. The path is looked up now; the
    event holds the file itself.
    """
    if "\0" in path:
        raise KernelError(f"uprobe {path!r}", errno.EINVAL, "a path has no NUL")
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = struct.pack("<IIQQQQQIIQQ", pmu, PERF_ATTR_SIZE, config, 0, 0, 0, 0, 0, 0, _address(name), offset)
    return _open_perf_event(attr)


def open_kprobe_event(pmu: int, function: str, config: int = 0) -> Fd:
    """A perf event at a kernel function's entry. pmu: the number in /sys/bus/event_source/devices/kprobe/type. config:
    as that device's `format` says, for its return.
    """
    name = ctypes.create_string_buffer(function.encode())
    attr = struct.pack("<IIQQQQQIIQQ", pmu, PERF_ATTR_SIZE, config, 0, 0, 0, 0, 0, 0, _address(name), 0)
    return _open_perf_event(attr)


def _open_perf_event(attr: bytes) -> Fd:
    buffer = ctypes.create_string_buffer(attr, PERF_ATTR_SIZE)
    args = (ctypes.c_int(-1), ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_ulong(PERF_FLAG_FD_CLOEXEC))
    return Fd(_call(SYS_PERF_EVENT_OPEN, "perf_event_open", buffer, *args))


def link_perf_event(program: int, event: Fd) -> Fd:
    """Attaches a program to a perf event; the link keeps the event, and can be pinned (Linux 5.15)."""
    link = Fd(_bpf(Command.LINK_CREATE, struct.pack("<IIIII", program, event.fileno(), BPF_PERF_EVENT, 0, 0)))
    try:
        fcntl.ioctl(event.fileno(), PERF_EVENT_IOC_ENABLE, 0)
    except OSError as error:
        link.close()
        raise KernelError("ioctl(PERF_EVENT_IOC_ENABLE)", error.errno or 0) from error
    return link


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """Part of struct bpf_prog_info. machine_code: bytes of it. instructions: as the kernel runs them. misses: how often
    the program was not run, since its processor was in another one; of perf tracepoints counted since Linux 6.7.
    """

    id: int
    machine_code: int
    instructions: int
    misses: int


def program_info(fd: int) -> ProgramInfo:
    info = ctypes.create_string_buffer(INFO_SIZE)
    fill_info(fd, info)
    identifier, machine_code, size, misses = PROGRAM_INFO.unpack_from(info.raw)
    return ProgramInfo(identifier, machine_code, size // INSTRUCTION_BYTES, misses)


def program_memory(fd: int) -> int:
    """Bytes of kernel memory that a program takes: the pages with its instructions, and its machine code."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value) + program_info(fd).machine_code
    raise KernelError(f"no memlock in the fdinfo of program {program_info(fd).id}", 0)


def probe_misses(link: int) -> int:
    """How often the kernel passed the probe of a link by, so that its program was not even asked for: another probe was
    being handled on that processor, or as many calls were on their way to the return as it keeps. Counted since
    Linux 6.7; 0 of other links.
    """
    info = ctypes.create_string_buffer(INFO_SIZE)
    fill_info(link, info)
    kind, event, missed = PERF_LINK_INFO.unpack_from(info.raw)
    return int(missed) if kind == LINK_PERF_EVENT and event in PERF_EVENT_KPROBES else 0


def program_by_id(identifier: int) -> Fd | None:
    """None when there is no such program any more."""
    return object_by_id(Command.PROG_GET_FD_BY_ID, identifier)


def object_by_id(command: Command, identifier: int) -> Fd | None:
    """None when it is there no more."""
    try:
        return Fd(_bpf(command, struct.pack("<III", identifier, 0, 0), f"bpf({command.name} {identifier})"))
    except KernelError as error:
        if error.code == errno.ENOENT:
            return None
        raise


def following_id(command: Command, identifier: int) -> int:
    """The next one that there is; 0 after the last."""
    attr = ctypes.create_string_buffer(struct.pack("<II", identifier, 0), ATTR_SIZE)
    try:
        _call(SYS_BPF, f"bpf({command.name})", ctypes.c_int(command), attr, ctypes.c_uint(ATTR_SIZE))
    except KernelError as error:
        if error.code == errno.ENOENT:
            return 0
        raise
    return int(struct.unpack_from("<I", attr.raw, 4)[0])


def fill_info(fd: int, info: ctypes.Array[ctypes.c_char]) -> None:
    """What the kernel tells of an object, in the structure of its type."""
    _bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), _address(info)))
