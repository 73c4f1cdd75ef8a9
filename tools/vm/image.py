# SPDX-License-Identifier: Apache-2.0
"""The ELF file inside a bzImage: qemu boots it without the decompressor, which takes most of a boot's time there.

Offsets are those of the x86 boot protocol (Documentation/arch/x86/boot.rst, protocol 2.08 and later).
"""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess

from tools.vm.errors import VmError

_SECTOR = 512
_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_PAYLOAD = 0x248  # two u32: offset from the protected-mode code, length
_SIZE = 4  # bytes behind a payload that is not gzip: the unpacked size (scripts/Makefile.lib, size_append)
_ELF = b"\x7fELF"


def unpack_image(data: bytes) -> bytes:
    """The vmlinux of a bzImage. Raises VmError."""
    if data[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise VmError("the kernel's image is no bzImage: it has no HdrS")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    start = (data[_SETUP_SECTORS] + 1) * _SECTOR + offset
    unpacked = _decompress(data[start : start + length])
    if not unpacked.startswith(_ELF):
        raise VmError("what the kernel's image holds is no ELF file")
    return unpacked


def _decompress(payload: bytes) -> bytes:
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload[:-_SIZE])
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _unzstd(payload[:-_SIZE])
    raise VmError(f"the kernel's image is compressed in a way not known here: it begins with {payload[:4].hex()}")


def _unzstd(payload: bytes) -> bytes:
    done = subprocess.run(["zstd", "-dc"], input=payload, capture_output=True, check=False)
    if done.returncode:
        raise VmError(f"zstd refuses the kernel's image: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
