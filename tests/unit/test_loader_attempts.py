# SPDX-License-Identifier: Apache-2.0
"""How often the loader compiles, and with which passes."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agent.kernel import bpf, loader_main
from agent.kernel.errors import KernelError
from agent.kernel.instructions import JUMP, JUMP_LESS, MOVE_CONSTANT, RETURN, RETURN_0, encode
from agent.kernel.loader_main import MAX_INSTRUCTIONS, ONE_PIPELINE, PATIENCE_S, compile_and_load, load
from agent.kernel.loops import close_by_jumps

QUICK, ALL = ONE_PIPELINE, ()
LOADED: dict[str, object] = {"programs": ["a"]}
REFUSED: dict[str, object] = {"stage": "load", "error": "back-edge"}
LOOP = encode(JUMP, offset=1) + encode(MOVE_CONSTANT) + encode(JUMP_LESS, 1, offset=-2) + RETURN_0
# As long as a program may be: loops that are entered at their conditions, under a jump from the beginning to the end.
LOOPS = LOOP[:24] * 3
FAR = (
    encode(JUMP_LESS, offset=MAX_INSTRUCTIONS - 2)
    + encode(MOVE_CONSTANT) * (MAX_INSTRUCTIONS - 2 - len(LOOPS) // 8)
    + LOOPS
    + RETURN
)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, ...]]]:
    def run(*answers: dict[str, object], thorough: bool = False, seconds: float = 0.0) -> list[tuple[str, ...]]:
        """The passes of each compilation. seconds: what one takes."""
        made: list[tuple[str, ...]] = []
        now = [0.0]

        def attempt(_: dict[str, Any], passes: tuple[str, ...]) -> tuple[dict[str, object], list[object]]:
            made.append(passes)
            now[0] += seconds
            answer = answers[len(made) - 1]
            return answer, [object()] if answer is LOADED else []

        monkeypatch.setattr(loader_main, "_compile_and_load", attempt)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        assert compile_and_load({"thorough": thorough})[0] is answers[-1]
        return made

    return run


def test_a_quick_compilation_that_is_taken_is_the_only_one(attempts: Callable[..., list[tuple[str, ...]]]) -> None:
    assert attempts(LOADED) == [QUICK]


def test_what_is_refused_of_a_quick_one_is_compiled_with_all_passes(
    attempts: Callable[..., list[tuple[str, ...]]],
) -> None:
    assert attempts(REFUSED, LOADED) == [QUICK, ALL]
    assert attempts(REFUSED, REFUSED, seconds=PATIENCE_S) == [QUICK, ALL]
    assert attempts(REFUSED, seconds=PATIENCE_S + 1) == [QUICK]
    assert attempts({"stage": "compile", "error": "no such name"}) == [QUICK]


def test_a_thorough_compilation_is_the_only_one(attempts: Callable[..., list[tuple[str, ...]]]) -> None:
    assert attempts(LOADED, thorough=True) == [ALL]


class Module:
    """What is used of bcc.BPF and bcc.lib, of a program that is compiled already."""

    module = None

    def __init__(self, **_: object) -> None: ...

    def dump_func(self, name: str) -> bytes:
        return {"loop": LOOP, "plain": RETURN_0, "far": FAR}[name]

    def bpf_function_size(self, _: object, name: bytes) -> int:
        return len(self.dump_func(name.decode()))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, object], list[bytes]]]:
    def run(*names: str, loops: bool) -> tuple[dict[str, object], list[bytes]]:
        """loops: whether the kernel takes them. Gives the answer and what was loaded."""
        given: list[bytes] = []

        def load_program(_: object, code: bytes, *__: object) -> None:
            if not loops and code in (LOOP, FAR):
                raise KernelError("bpf(PROG_LOAD a)", errno.EINVAL, "back-edge from insn 1 to 2 | processed 0 insns")
            given.append(code)

        monkeypatch.setitem(sys.modules, "bcc", SimpleNamespace(BPF=Module, lib=Module()))
        monkeypatch.setattr(bpf, "load_program", load_program)
        forms = dict.fromkeys(names, (bpf.ProgType.RAW_TRACEPOINT, 0, 0, 0))
        return compile_and_load({"thorough": True, "text": "", "flags": [], "programs": forms})[0], sorted(given)

    return run


def test_a_kernel_that_refuses_a_loop_is_given_another(
    loaded: Callable[..., tuple[dict[str, object], list[bytes]]],
) -> None:
    assert loaded("loop", "plain", loops=True) == ({"programs": ["loop", "plain"]}, sorted([LOOP, RETURN_0]))
    assert loaded("loop", "plain", loops=False) == (
        {"programs": ["loop", "plain"]},
        sorted([close_by_jumps(LOOP), RETURN_0]),
    )
    assert close_by_jumps(LOOP) != LOOP


def test_programs_are_verified_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=20.0)

    def load_program(kind: object, code: bytes, name: str, *target: object) -> str:
        together.wait()
        return f"{kind} {code!r} {name} {target}"

    monkeypatch.setattr(bpf, "load_program", load_program)
    names = ("a", "b", "c", "d")
    kind = bpf.ProgType.RAW_TRACEPOINT
    forms = {name: (int(kind), 0, 0, 0) for name in names}
    answer, fds = load(dict.fromkeys(names, RETURN_0), forms, lambda: pytest.fail("nothing is refused"))
    assert answer == {"programs": list(names)}
    assert [str(fd) for fd in fds] == [f"{kind} {RETURN_0!r} {name} (0, 0, 0)" for name in names]


def test_a_program_with_a_jump_that_becomes_too_far_is_too_large(
    loaded: Callable[..., tuple[dict[str, object], list[bytes]]],
) -> None:
    answer, _ = loaded("plain", "far", loops=False)
    assert (answer["stage"], answer["too_large"], answer["programs"]) == ("load", True, ["far"])
    assert loaded("far", loops=True) == ({"programs": ["far"]}, [FAR])
