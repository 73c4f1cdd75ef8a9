# SPDX-License-Identifier: Apache-2.0
"""The loops of compiled programs, for verifiers that follow an edge back only where it is a jump's.

Linux walks a program depth first, the next instruction before the one that is jumped to, and takes an edge to an
instruction that it has not done with only from a jump: check_cfg, visit_insn and push_insn of kernel/bpf/verifier.c,
up to 6.1 at least. Of a loop that is entered at its condition the edge can be any instruction's that stands before it.
A jump to the next instruction, put in between, has the edge instead; opt_remove_nops takes it out again once the
program is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from agent.kernel.instructions import CALL, EXIT, FARTHEST, INSTRUCTION, JUMP, LOAD_MAP, encode

REFUSED: Final = "back-edge from insn"  # the verifier's words
_CLASS, _JUMPS = 0x07, (0x05, 0x06)  # BPF_JMP, BPF_JMP32


class JumpError(Exception):
    """A jump would be too far."""


class Word(NamedTuple):
    """struct bpf_insn; the second of the two that lddw takes has the code 0."""

    code: int
    registers: int
    offset: int
    immediate: int

    @property
    def jumps(self) -> bool:
        return self.code & _CLASS in _JUMPS and self.code not in (CALL, EXIT)


def close_by_jumps(program: bytes) -> bytes:
    """The same program, with a jump at each edge that is refused. Raises JumpError."""
    words = [Word(*fields) for fields in INSTRUCTION.iter_unpack(program)]
    entered = set(_entered(words))
    places = range(len(words) + 1)  # one more: where the last instruction leads
    moved = [place + before for place, before in enumerate(accumulate(place in entered for place in places))]
    made = []
    for place, word in enumerate(words):
        if place in entered:
            made.append(encode(JUMP))
        if word.jumps:
            word = word._replace(offset=moved[place + 1 + word.offset] - moved[place] - 1)
            if abs(word.offset) > FARTHEST:
                raise JumpError(f"a jump over {abs(word.offset)} instructions, at most {FARTHEST}")
        made.append(INSTRUCTION.pack(*word))
    return b"".join(made)


def _entered(words: list[Word]) -> Iterator[int]:
    """Where the edges lead that are refused."""
    done: set[int] = set()
    path = {0: _next(words, 0)}  # in order, and what is left to follow from each
    while path:
        place = next(reversed(path))
        to = next(path[place], None)
        if to is None:
            done.add(place)
            del path[place]
        elif to in path and not words[place].jumps:
            yield to
        elif to not in path and to not in done and to < len(words):
            path[to] = _next(words, to)


def _next(words: list[Word], place: int) -> Iterator[int]:
    word = words[place]
    if word.code not in (EXIT, JUMP):
        yield place + 1 + (word.code == LOAD_MAP)
    if word.jumps:
        yield place + 1 + word.offset
