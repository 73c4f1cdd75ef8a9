# SPDX-License-Identifier: Apache-2.0
"""Words for numbers that arguments have. Pure.

Source: the enum bpf_cmd of include/uapi/linux/bpf.h, up to Linux 7.3, which is the kernel's stable interface.
"""

from __future__ import annotations

import stat

from agent.policy.kernel_names import CAPABILITIES
from agent.policy.syscalls import NUMBERS


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_CAPABILITIES = {number: name for name, number in CAPABILITIES.items()}
_BPF_COMMANDS: tuple[str, ...] = _words(
    """
    MAP_CREATE MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM MAP_GET_NEXT_KEY PROG_LOAD OBJ_PIN OBJ_GET PROG_ATTACH
    PROG_DETACH PROG_TEST_RUN PROG_GET_NEXT_ID MAP_GET_NEXT_ID PROG_GET_FD_BY_ID MAP_GET_FD_BY_ID
    OBJ_GET_INFO_BY_FD PROG_QUERY RAW_TRACEPOINT_OPEN BTF_LOAD BTF_GET_FD_BY_ID TASK_FD_QUERY
    MAP_LOOKUP_AND_DELETE_ELEM MAP_FREEZE BTF_GET_NEXT_ID MAP_LOOKUP_BATCH MAP_LOOKUP_AND_DELETE_BATCH
    MAP_UPDATE_BATCH MAP_DELETE_BATCH LINK_CREATE LINK_UPDATE LINK_GET_FD_BY_ID LINK_GET_NEXT_ID ENABLE_STATS
    ITER_CREATE LINK_DETACH PROG_BIND_MAP TOKEN_CREATE PROG_STREAM_READ_BY_FD
    PROG_ASSOC_STRUCT_OPS
    """
)
_CALLS = {number: name for name, number in NUMBERS.items()}
_COMPAT = 1 << 31  # marks the number of a 32-bit call; no table of those is here
_X32 = 1 << 30  # __X32_SYSCALL_BIT
_FILE_TYPES = {
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "link",
    stat.S_IFREG: "regular",
    stat.S_IFBLK: "block",
    stat.S_IFDIR: "dir",
    stat.S_IFCHR: "char",
    stat.S_IFIFO: "fifo",
}


def capability_name(number: int) -> str | None:
    return _CAPABILITIES.get(number)


def capability_names(mask: int) -> list[str]:
    """mask: 64 bits; a bit without a name is called by its number."""
    return [capability_name(bit) or f"CAP_{bit}" for bit in range(64) if mask >> bit & 1]


def bpf_command_name(number: int) -> str | None:
    return f"BPF_{_BPF_COMMANDS[number]}" if 0 <= number < len(_BPF_COMMANDS) else None


def system_call(number: int) -> dict[str, int | str | None]:
    """id, name and abi of a syscall64."""
    if number & _COMPAT:
        return {"id": number & ~_COMPAT, "name": None, "abi": "i386"}
    if number & _X32:
        return {"id": number & ~_X32, "name": _CALLS.get(number & ~_X32), "abi": "x32"}
    return {"id": number, "name": _CALLS.get(number), "abi": "x64"}


def file_type(mode: int) -> str | None:
    """The word that policies have for it. mode: an inode's."""
    return _FILE_TYPES.get(stat.S_IFMT(mode))
