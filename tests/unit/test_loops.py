# SPDX-License-Identifier: Apache-2.0
"""Programs whose loops are closed by jumps: the same instructions, and every jump leads where it led."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kernel.instructions import (
    ADD_CONSTANT,
    CALL,
    EXIT,
    INSTRUCTION,
    JUMP,
    JUMP_LESS,
    LOAD_MAP,
    MOVE_CONSTANT,
    RETURN_0,
    encode,
)
from agent.kernel.loops import JumpError, close_by_jumps
from tests.support.names import project_dir

NEXT = encode(JUMP)
FARTHEST = (1 << 15) - 1
# r1 = 0; goto 3; 2: r1 += 1; 3: if r1 < 3 goto 2; r0 = 0; exit
WHILE_LOOP = b"".join(
    (
        encode(MOVE_CONSTANT, 1),
        encode(JUMP, offset=1),
        encode(ADD_CONSTANT, 1, immediate=1),
        encode(JUMP_LESS, 1, offset=-2, immediate=3),
        RETURN_0,
    )
)
# t_skb_at of tests/support/programs/readers.c without clang's passes, of which Linux 6.1 said "back-edge from insn 323
# to 324".
REFUSED = (project_dir() / "tests/data/loops/skb_6.1.bin").read_bytes()


def words(program: bytes) -> list[tuple[int, ...]]:
    return list(INSTRUCTION.iter_unpack(program))


def target(place: int, word: tuple[int, ...]) -> int | None:
    """Where an instruction jumps to."""
    code, _, offset, _ = word
    return place + 1 + offset if code & 7 in (5, 6) and code not in (CALL, EXIT) else None


def loops_closed_by_others(program: bytes) -> list[int]:
    """The instructions at which Linux 6.1 refuses a program: check_cfg, which walks depth first."""
    found, code = [], words(program)
    state: dict[int, str] = {}
    stack = [(0, iter(edges(code, 0)))]
    state[0] = "open"
    while stack:
        place, left = stack[-1]
        following = next(left, None)
        if following is None:
            state[place] = "done"
            stack.pop()
        elif state.get(following) == "open":
            found += [] if target(place, code[place]) is not None else [place]
        elif following not in state:
            state[following] = "open"
            stack.append((following, iter(edges(code, following))))
    return found


def edges(code: list[tuple[int, ...]], place: int) -> list[int]:
    if code[place][0] == EXIT:
        return []
    to = target(place, code[place])
    if to is None:
        return [place + 2 if code[place][0] == LOAD_MAP else place + 1]
    return [to] if code[place][0] == JUMP else [place + 1, to]


def test_a_loop_that_is_entered_at_its_condition_is_closed_by_a_jump() -> None:
    assert loops_closed_by_others(WHILE_LOOP) == [2]
    made = close_by_jumps(WHILE_LOOP)
    assert words(made) == words(
        encode(MOVE_CONSTANT, 1)
        + encode(JUMP, offset=2)
        + WHILE_LOOP[16:24]
        + NEXT
        + encode(JUMP_LESS, 1, offset=-3, immediate=3)
        + RETURN_0
    )
    assert loops_closed_by_others(made) == []


def test_what_a_kernel_refused_is_closed_where_it_said() -> None:
    assert loops_closed_by_others(REFUSED) == [323]
    made = close_by_jumps(REFUSED)
    assert (len(made) - len(REFUSED), made[324 * 8 : 325 * 8]) == (8, NEXT)
    assert loops_closed_by_others(made) == []


def test_a_call_and_an_instruction_of_two_words_are_no_jumps() -> None:
    for body in (encode(CALL, immediate=5), encode(LOAD_MAP, 1) + encode(0)):
        size = len(body) // 8
        program = encode(JUMP, offset=size) + body + encode(JUMP_LESS, 1, offset=-size - 1) + RETURN_0
        assert loops_closed_by_others(program)
        assert close_by_jumps(program).count(NEXT) == 1
        assert loops_closed_by_others(close_by_jumps(program)) == []


@pytest.mark.parametrize(
    "program",
    [
        RETURN_0,
        encode(JUMP, offset=1) + encode(MOVE_CONSTANT) + RETURN_0,
        encode(MOVE_CONSTANT) + encode(JUMP_LESS, 1, offset=-2) + RETURN_0,
        encode(JUMP, offset=1) + encode(JUMP_LESS, 2, offset=1) + encode(JUMP_LESS, 1, offset=-2) + RETURN_0,
        encode(JUMP_LESS, 2, offset=1) + encode(MOVE_CONSTANT) + encode(JUMP_LESS, 1, offset=-3) + RETURN_0,
    ],
    ids=["straight", "forward", "entered at its top", "closed by a jump", "branches within"],
)
def test_what_the_verifier_takes_stays_as_it_is(program: bytes) -> None:
    assert close_by_jumps(program) == program


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Of any jumps, forwards and back; the last instruction is the exit."""
    size = draw(st.integers(1, 40))
    code = b""
    for place in range(size):
        to = draw(st.integers(0, size))
        kind = draw(st.sampled_from((MOVE_CONSTANT, MOVE_CONSTANT, CALL, JUMP, JUMP_LESS, 0xA6, EXIT)))
        code += encode(kind, 1, 0, to - place - 1 if kind & 7 in (5, 6) and kind not in (CALL, EXIT) else 0, place)
    return code + encode(EXIT)


@settings(max_examples=400)
@given(programs())
def test_any_program_stays_the_same_but_for_jumps_to_the_next_instruction(program: bytes) -> None:
    """Each instruction carries its place as its immediate, and so is found again."""
    old, new = words(program), words(close_by_jumps(program))
    at = {old_place: place for place, old_place in _kept(old, new)}
    assert sorted(at) == list(range(len(old)))
    added = set(range(len(new))) - set(at.values())
    assert {new[place] for place in added} <= set(words(NEXT))
    for place, word in enumerate(old):
        moved, to = new[at[place]], target(place, word)
        assert (moved[0], moved[1], moved[3]) == (word[0], word[1], word[3])
        if to is None:
            assert moved[2] == word[2]
        else:
            assert target(at[place], moved) == at[to]


def _kept(old: list[tuple[int, ...]], new: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Places in `new` and in `old`: what was added stands between."""
    kept, place = [], 0
    for index, word in enumerate(new):
        if place < len(old) and (word[0], word[1], word[3]) == (old[place][0], old[place][1], old[place][3]):
            kept.append((index, place))
            place += 1
    return kept


@settings(max_examples=400)
@given(programs())
def test_any_program_is_closed_by_jumps_alone(program: bytes) -> None:
    assert loops_closed_by_others(close_by_jumps(program)) == []


def test_a_jump_that_becomes_too_far_is_refused() -> None:
    body, loop = encode(MOVE_CONSTANT) * (FARTHEST - 3), WHILE_LOOP[8:32]
    program = encode(JUMP_LESS, offset=FARTHEST) + body + loop + RETURN_0
    with pytest.raises(JumpError, match="a jump over 32768 instructions, at most 32767"):
        close_by_jumps(program)
