# SPDX-License-Identifier: Apache-2.0
"""The programs that stay attached, instruction by instruction: linux/bpf.h, struct bpf_insn."""

from __future__ import annotations

import struct

LOAD_MAP = 0x18  # lddw with src BPF_PSEUDO_MAP_FD
CALL, EXIT = 0x85, 0x95
LOOKUP_ELEM, TAIL_CALL, OVERRIDE_RETURN = 1, 12, 58  # enum bpf_func_id
_MOVE, _MOVE_CONSTANT, _ADD_CONSTANT = 0xBF, 0xB7, 0x07
_LOAD_WORD, _STORE_WORD, _STORE_DOUBLE = 0x61, 0x62, 0x7A
_JUMP_EQUAL, _JUMP_UNEQUAL = 0x15, 0x55
_SHIFT_LEFT, _SHIFT_SIGNED = 0x67, 0xC7
_FRAME = 10  # the register with the stack's end


def dispatcher(array: int, slot: int) -> bytes:
    """bpf_tail_call(ctx, array, slot); return 0. array: the map's descriptor. Whatever the type of the program and its
    function: 0 lets a call go on.
    """
    return b"".join(
        (
            _load_map(2, array),
            _instruction(_MOVE_CONSTANT, dst=3, immediate=slot),
            _instruction(CALL, immediate=TAIL_CALL),
            *_return_0(),
        )
    )


def overrider(overrides: int, attachment: int) -> bytes:
    """Takes what the rules of that attachment have left in the map `overrides`, and has the function return it. The
    kernel lets no program that overrides use tail calls, or be one's target: bpf_prog_map_compatible of
    kernel/bpf/core.c.

        value = bpf_map_lookup_elem(overrides, &zero);
        if (value && value->attachment == attachment) {
                error = value->error; *value = 0; bpf_override_return(ctx, error);
        }
        return 0;
    """
    taken = b"".join(
        (
            _instruction(_LOAD_WORD, dst=2, src=0),  # error
            _instruction(_STORE_DOUBLE, dst=0),
            _instruction(_SHIFT_LEFT, dst=2, immediate=32),  # 32 bits, signed
            _instruction(_SHIFT_SIGNED, dst=2, immediate=32),
            _instruction(_MOVE, dst=1, src=6),
            _instruction(CALL, immediate=OVERRIDE_RETURN),
        )
    )
    steps = len(taken) // 8
    return b"".join(
        (
            _instruction(_MOVE, dst=6, src=1),  # ctx
            _instruction(_STORE_WORD, dst=_FRAME, offset=-4),
            _instruction(_MOVE, dst=2, src=_FRAME),
            _instruction(_ADD_CONSTANT, dst=2, immediate=-4),
            _load_map(1, overrides),
            _instruction(CALL, immediate=LOOKUP_ELEM),
            _instruction(_JUMP_EQUAL, dst=0, offset=steps + 2),
            _instruction(_LOAD_WORD, dst=1, src=0, offset=4),  # attachment
            _instruction(_JUMP_UNEQUAL, dst=1, offset=steps, immediate=attachment),
            taken,
            *_return_0(),
        )
    )


def _load_map(register: int, fd: int) -> bytes:
    return _instruction(LOAD_MAP, dst=register, src=1, immediate=fd) + _instruction(0)


def _return_0() -> tuple[bytes, bytes]:
    return _instruction(_MOVE_CONSTANT), _instruction(EXIT)


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)
