# SPDX-License-Identifier: Apache-2.0
"""The few bpf(2) commands that a hook needs of objects which the agent has pinned, one thin function each.

Attribute layouts are those of union bpf_attr in include/uapi/linux/bpf.h. Descriptors are close-on-exec and belong to
the caller. Every function raises BpfError.
"""

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from rthook.errors import HookError

SYS_BPF = 321  # arch/x86/entry/syscalls/syscall_64.tbl
ATTR_SIZE = 144
# enum bpf_cmd
MAP_LOOKUP_ELEM = 1
MAP_DELETE_ELEM = 3
MAP_GET_NEXT_KEY = 4
OBJ_GET = 7
PROG_TEST_RUN = 10
OBJ_GET_INFO_BY_FD = 15
INFO_SIZE = 256
# struct bpf_attr.test: prog_fd, retval, data_size_in, data_size_out, data_in, data_out, repeat, duration, ctx_size_in,
# ctx_size_out, ctx_in, ctx_out
TEST_RUN = struct.Struct("<4IQQ4IQQ")
RETVAL_OFFSET = 4
ENOENT = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class BpfError(HookError):
    """The kernel refused: the operation and the errno."""

    def __init__(self, operation: str, errno: int) -> None:
        super().__init__(operation, errno)
        self.operation = operation
        self.errno = errno

    def __str__(self) -> str:
        return f"{self.operation}: {os.strerror(self.errno)}"


@dataclass(frozen=True, slots=True)
class MapShape:
    """Bytes of one key and one value, and how many there can be."""

    key_size: int
    value_size: int
    max_entries: int


def _bpf(command: int, attributes: bytes, operation: str) -> tuple[int, bytes]:
    """The result, and the attributes as the kernel left them."""
    attr = ctypes.create_string_buffer(attributes, ATTR_SIZE)
    result = int(_libc.syscall(ctypes.c_long(SYS_BPF), ctypes.c_int(command), attr, ctypes.c_uint(ATTR_SIZE)))
    if result < 0:
        raise BpfError(operation, ctypes.get_errno())
    return result, attr.raw


def open_object(path: Path) -> int:
    """A descriptor of the pinned map or program."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack("<QII", ctypes.addressof(name), 0, 0)
    fd, _ = _bpf(OBJ_GET, attributes, f"bpf(OBJ_GET {path})")
    return fd


def read_shape(fd: int) -> MapShape:
    """Of a map: whoever reads a value must have room for all of it."""
    info = ctypes.create_string_buffer(INFO_SIZE)
    _bpf(OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, INFO_SIZE, ctypes.addressof(info)), "bpf(OBJ_GET_INFO_BY_FD)")
    # struct bpf_map_info: type, id, key_size, value_size, max_entries.
    return MapShape(*struct.unpack_from("<8x3I", info.raw))


def run_program(fd: int, context: bytes) -> int:
    """BPF_PROG_TEST_RUN of a raw tracepoint program in the calling thread; what it returned, as a signed 32-bit number.

    context: the program's arguments, eight bytes each, at most 12 of them.
    """
    buffer = ctypes.create_string_buffer(context, len(context))
    attributes = TEST_RUN.pack(fd, 0, 0, 0, 0, 0, 0, 0, len(context), 0, ctypes.addressof(buffer), 0)
    _, left = _bpf(PROG_TEST_RUN, attributes, "bpf(PROG_TEST_RUN)")
    return int(struct.unpack_from("<i", left, RETVAL_OFFSET)[0])


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value; None when there is no such key. value_size must be the map's own."""
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    attributes = struct.pack("<IIQQQ", fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
    try:
        _bpf(MAP_LOOKUP_ELEM, attributes, "bpf(MAP_LOOKUP_ELEM)")
    except BpfError as error:
        if error.errno == ENOENT:
            return None
        raise
    return value.raw


def delete(fd: int, key: bytes) -> bool:
    """True when there was such a key."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(MAP_DELETE_ELEM, struct.pack("<IIQ", fd, 0, ctypes.addressof(key_buffer)), "bpf(MAP_DELETE_ELEM)")
    except BpfError as error:
        if error.errno == ENOENT:
            return False
        raise
    return True


def read_keys(fd: int, shape: MapShape) -> list[bytes]:
    """The keys of a hash map, max_entries at most: one that changes meanwhile can miss or repeat keys."""
    found: list[bytes] = []
    key, following = ctypes.create_string_buffer(shape.key_size), ctypes.create_string_buffer(shape.key_size)
    address = 0
    while len(found) < shape.max_entries:
        attributes = struct.pack("<IIQQ", fd, 0, address, ctypes.addressof(following))
        try:
            _bpf(MAP_GET_NEXT_KEY, attributes, "bpf(MAP_GET_NEXT_KEY)")
        except BpfError as error:
            if error.errno == ENOENT:
                break
            raise
        found.append(following.raw)
        key.raw, address = following.raw, ctypes.addressof(key)
    return found
