# SPDX-License-Identifier: Apache-2.0
"""How often the loader compiles, and with which passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from agent.kernel import bpf, loader_main
from agent.kernel.errors import KernelError
from agent.kernel.loader_main import ONE_PIPELINE, PATIENCE_S, compile_and_load, takes_while_loops

QUICK, ALL = ONE_PIPELINE, ()
LOADED: dict[str, object] = {"programs": ["a"]}
REFUSED: dict[str, object] = {"stage": "load", "error": "back-edge"}


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, ...]]]:
    def run(
        *answers: dict[str, object], loops: bool = True, thorough: bool = False, seconds: float = 0.0
    ) -> list[tuple[str, ...]]:
        """The passes of each compilation. seconds: what one takes."""
        made: list[tuple[str, ...]] = []
        now = [0.0]

        def attempt(_: dict[str, Any], passes: tuple[str, ...]) -> tuple[dict[str, object], list[object]]:
            made.append(passes)
            now[0] += seconds
            answer = answers[len(made) - 1]
            return answer, [object()] if answer is LOADED else []

        monkeypatch.setattr(loader_main, "_compile_and_load", attempt)
        monkeypatch.setattr(loader_main, "takes_while_loops", lambda: loops)
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


def test_a_kernel_that_refuses_its_loops_gets_no_quick_one(attempts: Callable[..., list[tuple[str, ...]]]) -> None:
    assert attempts(LOADED, loops=False) == [ALL]
    assert attempts(LOADED, thorough=True) == [ALL]


@pytest.mark.parametrize("refused", [False, True])
def test_loops_are_tried_with_a_program(monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    closed = []

    class Program:
        def close(self) -> None:
            closed.append(self)

    def load(*_: object) -> Program:
        if refused:
            raise KernelError("bpf(PROG_LOAD pg_loop)", 22)
        return Program()

    monkeypatch.setattr(bpf, "load_program", load)
    assert (takes_while_loops(), len(closed)) == (not refused, not refused)
