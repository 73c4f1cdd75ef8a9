# SPDX-License-Identifier: Apache-2.0
"""The programs that stay attached, instruction by instruction."""

from __future__ import annotations

from agent.kernel.instructions import (
    ADD_CONSTANT,
    CALL,
    FRAME,
    JUMP_EQUAL,
    JUMP_UNEQUAL,
    LOAD_WORD,
    LOOKUP_ELEM,
    MOVE,
    MOVE_CONSTANT,
    OVERRIDE_RETURN,
    RETURN_0,
    SHIFT_LEFT,
    SHIFT_SIGNED,
    STORE_DOUBLE,
    STORE_WORD,
    TAIL_CALL,
    encode,
    load_map,
)


def dispatcher(array: int, slot: int) -> bytes:
    """bpf_tail_call(ctx, array, slot); return 0. array: the map's descriptor. Whatever the type of the program and its
    function: 0 lets a call go on.
    """
    return b"".join(
        (
            load_map(2, array),
            encode(MOVE_CONSTANT, dst=3, immediate=slot),
            encode(CALL, immediate=TAIL_CALL),
            RETURN_0,
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
            encode(LOAD_WORD, dst=2, src=0),  # error
            encode(STORE_DOUBLE, dst=0),
            encode(SHIFT_LEFT, dst=2, immediate=32),  # 32 bits, signed
            encode(SHIFT_SIGNED, dst=2, immediate=32),
            encode(MOVE, dst=1, src=6),
            encode(CALL, immediate=OVERRIDE_RETURN),
        )
    )
    steps = len(taken) // 8
    return b"".join(
        (
            encode(MOVE, dst=6, src=1),  # ctx
            encode(STORE_WORD, dst=FRAME, offset=-4),
            encode(MOVE, dst=2, src=FRAME),
            encode(ADD_CONSTANT, dst=2, immediate=-4),
            load_map(1, overrides),
            encode(CALL, immediate=LOOKUP_ELEM),
            encode(JUMP_EQUAL, dst=0, offset=steps + 2),
            encode(LOAD_WORD, dst=1, src=0, offset=4),  # attachment
            encode(JUMP_UNEQUAL, dst=1, offset=steps, immediate=attachment),
            taken,
            RETURN_0,
        )
    )
