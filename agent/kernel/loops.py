# SPDX-License-Identifier: Apache-2.0
"""The loops of compiled programs, for verifiers that follow an edge back only where it is a jump's.

Linux takes a loop when the edge that closes it is a jump's: check_cfg and push_insn of kernel/bpf/verifier.c. 6.1 still
sees that edge at whatever instruction stands before the condition of a loop that is entered there. A jump to the next
instruction, put in between, has the edge instead; opt_remove_nops takes it out again once the program is verified.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import Final, NamedTuple

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.instructions import ADD_CONSTANT, CALL, EXIT, JUMP, JUMP_LESS, MOVE_CONSTANT, RETURN_0, encode

# r1 = 0; goto 3; 2: r1 += 1; 3: if r1 < 3 goto 2; r0 = 0; exit
WHILE_LOOP: Final = b"".join(
    (
        encode(MOVE_CONSTANT, 1),
        encode(JUMP, offset=1),
        encode(ADD_CONSTANT, 1, immediate=1),
        encode(JUMP_LESS, 1, offset=-2, immediate=3),
        RETURN_0,
    )
)
_WORD: Final = struct.Struct("<BBhi")
_CLASS, _JUMPS = 0x07, (0x05, 0x06)  # BPF_JMP, BPF_JMP32
_FARTHEST: Final = (1 << 15) - 1  # an offset has 16 bits


class JumpError(Exception):
    """A jump would be too far."""


class Word(NamedTuple):
    """An instruction, or a half of one that takes two."""

    code: int
    registers: int
    offset: int
    immediate: int

    @property
    def jumps(self) -> bool:
        return self.code & _CLASS in _JUMPS and self.code not in (CALL, EXIT)


def takes_while_loops() -> bool:
    """Whether the verifier follows a loop that is entered at its condition."""
    try:
        bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, WHILE_LOOP, "pg_loop").close()
    except KernelError:
        return False
    return True


def close_by_jumps(program: bytes) -> bytes:
    """The same program with a jump before every condition at which a loop may be entered. Raises JumpError."""
    words = [Word(*fields) for fields in _WORD.iter_unpack(program)]
    jumps = {place: place + 1 + word.offset for place, word in enumerate(words) if word.jumps}
    entered = _entered(words, jumps)
    moved = [place + before for place, before in enumerate(accumulate(place in entered for place in range(len(words))))]
    made = []
    for place, word in enumerate(words):
        if place in entered:
            made.append(encode(JUMP))
        if place in jumps:
            word = word._replace(offset=moved[jumps[place]] - moved[place] - 1)
            if abs(word.offset) > _FARTHEST:
                raise JumpError(f"a jump over {abs(word.offset)} instructions, at most {_FARTHEST}")
        made.append(_WORD.pack(*word))
    return b"".join(made)


def _entered(words: list[Word], jumps: dict[int, int]) -> set[int]:
    """Where a jump leads into a loop, and the instruction before does as well without being one."""
    depth = [0] * (len(words) + 1)
    for place, target in jumps.items():
        if target <= place:
            depth[target + 1] += 1
            depth[place + 1] -= 1
    inside = [bool(loops) for loops in accumulate(depth)]
    return {
        target
        for target in jumps.values()
        if inside[target] and not words[target - 1].jumps and words[target - 1].code != EXIT
    }
