# SPDX-License-Identifier: Apache-2.0
"""What the kernel has of one agent: its programs, their maps and their links, whoever else on the machine has some."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator

from agent.kernel import bpf
from agent.kernel.bpf import Command
from tests.support.workload import Node

# How to get the next one's identifier, and a descriptor of it.
_PROGRAMS = (Command.PROG_GET_NEXT_ID, Command.PROG_GET_FD_BY_ID)
_LINKS = (Command.LINK_GET_NEXT_ID, Command.LINK_GET_FD_BY_ID)
_INFO_BYTES = 256
_MAX_MAPS = 256
_ID_OF_INFO = struct.Struct("<II")  # type, id: of maps
_LINK_INFO = struct.Struct("<III")  # type, id, prog_id
# struct bpf_prog_info, include/uapi/linux/bpf.h
_MAP_COUNT_AT, _MAP_IDS_AT = 52, 56


def bpf_objects(node: Node) -> dict[str, int]:
    """How many programs, maps and links there are of a node's agent: what has to do with its pinned maps."""
    pinned = set(_pinned_maps(node))
    programs = {number: maps for number, maps in _programs() if maps & pinned}
    links = sum(program in programs for program in _links())
    return {"programs": len(programs), "maps": len(pinned.union(*programs.values())), "links": links}


def any_program() -> int:
    """The identifier of one that the kernel has, anybody's."""
    return next(number for number, _ in _objects(*_PROGRAMS))


def _pinned_maps(node: Node) -> Iterator[int]:
    for path in (node.agent.pin_dir / "maps").iterdir():
        with bpf.open_pinned(path) as fd:
            yield _ID_OF_INFO.unpack_from(_info(fd.fileno()))[1]


def _programs() -> Iterator[tuple[int, set[int]]]:
    """Of the whole kernel: identifier, and those of the maps that it uses."""
    for number, fd in _objects(*_PROGRAMS):
        buffer = (ctypes.c_uint32 * _MAX_MAPS)()
        request = bytearray(_INFO_BYTES)
        struct.pack_into("<I", request, _MAP_COUNT_AT, _MAX_MAPS)
        struct.pack_into("<Q", request, _MAP_IDS_AT, ctypes.addressof(buffer))
        count = struct.unpack_from("<I", _info(fd, bytes(request)), _MAP_COUNT_AT)[0]
        yield number, set(buffer[:count])


def _links() -> Iterator[int]:
    """Of the whole kernel: which program each is of."""
    for _, fd in _objects(*_LINKS):
        yield _LINK_INFO.unpack_from(_info(fd))[2]


def _objects(next_id: Command, by_id: Command) -> Iterator[tuple[int, int]]:
    """(identifier, descriptor) of each that is still there."""
    at = 0
    while at := bpf.following_id(next_id, at):
        found = bpf.object_by_id(by_id, at)
        if found:
            with found as fd:
                yield at, fd.fileno()


def _info(fd: int, request: bytes = b"") -> bytes:
    info = ctypes.create_string_buffer(request, _INFO_BYTES)
    bpf.fill_info(fd, info)
    return info.raw
