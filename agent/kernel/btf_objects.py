# SPDX-License-Identifier: Apache-2.0
"""The BTF that the kernel holds, its own and that of modules, as bpf(2) gives it. Programs for a module's functions are
loaded with that of the module.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator

from agent.kernel import bpf
from agent.kernel.bpf import Command, Fd, ProgType
from agent.kernel.btf_format import MAX_BTF_BYTES
from agent.kernel.errors import KernelError
from agent.kernel.instructions import RETURN_0

KERNEL = "vmlinux"
_INFO = struct.Struct("<QIIQII")  # struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf
_NAME = 64  # MODULE_NAME_LEN of include/linux/moduleparam.h is 56


def module_btf(name: str) -> Fd | None:
    """None when the kernel has none of that module: it is not loaded, or its BTF was refused. Raises KernelError."""
    for found, owner in _objects():
        if owner == name:
            return found
        found.close()
    return None


def held_names() -> tuple[str, ...]:
    """Of the modules whose BTF the kernel has, in order. Raises KernelError."""
    names = set()
    for found, owner in _objects():
        names.add(owner)
        found.close()
    return tuple(sorted(names - {KERNEL}))


def held_btf(name: str) -> bytes | None:
    """The bytes of the kernel's own or a module's; None when it has none. Raises KernelError."""
    found = module_btf(name)
    if found is None and name == KERNEL:
        # The kernel reads its own for the first program that is loaded (bpf_check of kernel/bpf/verifier.c).
        bpf.load_program(ProgType.RAW_TRACEPOINT, RETURN_0, "pg_probe").close()
        found = module_btf(name)
    if found is None:
        return None
    with found:
        return _read(found, name)


def _objects() -> Iterator[tuple[Fd, str]]:
    """What the kernel holds for itself; descriptors are the caller's."""
    number = 0
    while number := bpf.following_id(Command.BTF_GET_NEXT_ID, number):
        found = bpf.object_by_id(Command.BTF_GET_FD_BY_ID, number)
        if found is None:
            continue
        if owner := _kernel_name(found):
            yield found, owner
        else:
            found.close()


def _kernel_name(fd: Fd) -> str:
    """`vmlinux`, or the module's; "" of one that a program brought."""
    name = ctypes.create_string_buffer(_NAME)
    info = ctypes.create_string_buffer(_INFO.pack(0, 0, 0, ctypes.addressof(name), _NAME, 0), _INFO.size)
    bpf.fill_info(fd.fileno(), info)
    return name.value.decode() if _INFO.unpack(info.raw)[-1] else ""


def _read(fd: Fd, name: str) -> bytes:
    """Asked for the size first, for the bytes then; neither changes while the descriptor is open."""
    info = ctypes.create_string_buffer(_INFO.size)
    bpf.fill_info(fd.fileno(), info)
    size = _INFO.unpack(info.raw)[1]
    if size > MAX_BTF_BYTES:
        raise KernelError(f"the BTF of {name} has more than {MAX_BTF_BYTES:,} bytes", 0, "report the kernel's version")
    data = ctypes.create_string_buffer(size)
    info = ctypes.create_string_buffer(_INFO.pack(ctypes.addressof(data), size, 0, 0, 0, 0), _INFO.size)
    bpf.fill_info(fd.fileno(), info)
    return data.raw
