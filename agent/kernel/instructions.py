# SPDX-License-Identifier: Apache-2.0
"""Programs of a few instructions, which need no compiler: struct bpf_insn of include/uapi/linux/bpf.h."""

from __future__ import annotations

import struct
from typing import Final

INSTRUCTION: Final = struct.Struct("<BBhi")  # code, registers (the source above), offset, immediate
FARTHEST: Final = (1 << 15) - 1  # an offset has 16 bits
LOAD_MAP: Final = 0x18  # lddw with src BPF_PSEUDO_MAP_FD
LOAD_WORD, STORE_WORD, STORE_DOUBLE = 0x61, 0x62, 0x7A
MOVE, MOVE_CONSTANT, ADD_CONSTANT = 0xBF, 0xB7, 0x07
SHIFT_LEFT, SHIFT_SIGNED = 0x67, 0xC7
JUMP, JUMP_EQUAL, JUMP_UNEQUAL, JUMP_LESS = 0x05, 0x15, 0x55, 0xA5
CALL, EXIT = 0x85, 0x95
FRAME: Final = 10  # the register with the stack's end
# enum bpf_func_id.
LOOKUP_ELEM, TAIL_CALL, GET_CURRENT_PID_TGID, PROBE_WRITE_USER = 1, 12, 14, 36
OVERRIDE_RETURN, SEND_SIGNAL = 58, 109


def encode(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One instruction, or one of the two words of a lddw."""
    return INSTRUCTION.pack(code, dst | src << 4, offset, immediate)


def load_map(register: int, fd: int) -> bytes:
    return encode(LOAD_MAP, register, 1, immediate=fd) + encode(0)


RETURN: Final = encode(EXIT)
RETURN_0: Final = encode(MOVE_CONSTANT) + RETURN
