# SPDX-License-Identifier: Apache-2.0
"""Every argument type with every operator that it allows, at its boundaries: what matches is killed, the rest runs on.

Each case has a namespace of its own; all cases of this module are one compilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.workload import Node, kprobe, match, policy, selector, start_node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
UINT_MAX, ULONG_MAX = (1 << 32) - 1, (1 << 64) - 1
HIGH = 1 << 32  # sets bits above those that a 32-bit type has

Value = int | str | bytes


@dataclass(frozen=True, slots=True)
class Case:
    """A match on one argument, values that it must catch and values that it must not."""

    type: str
    operator: str
    values: tuple[int | str, ...]
    caught: tuple[Value, ...]
    passed: tuple[Value, ...]

    @property
    def name(self) -> str:
        return f"{self.type}-{self.operator}-{len(self.values)}-{str(self.values[0])[:20]}"


NUMBERS = (
    Case("int", "Equal", (-1,), (-1, UINT_MAX, HIGH - 1), (0, 1, -2, INT_MIN, INT_MAX)),
    Case("int", "Equal", (INT_MIN,), (INT_MIN, 1 << 31, LONG_MIN | (1 << 31)), (INT_MAX, 0, -1, LONG_MIN)),
    Case("int", "Equal", (INT_MAX,), (INT_MAX, HIGH | INT_MAX), (INT_MIN, -1)),
    Case("int", "Equal", (7, 11, 13), (7, 11, 13), (8, 12, 0, -7)),
    Case("int", "NotEqual", (0, 1), (-1, 2, INT_MIN), (0, 1, HIGH)),
    Case("int", "GT", (-2,), (-1, 0, INT_MAX), (-2, -3, INT_MIN)),
    Case("int", "LT", (0,), (-1, INT_MIN, 1 << 31), (0, 1, INT_MAX, HIGH)),
    Case("int", "GT", (INT_MAX - 1,), (INT_MAX,), (INT_MAX - 1, -1, 1 << 31)),
    Case("int", "Mask", (6,), (2, 4, 7, -1), (1, 8, 0, HIGH * 6)),
    Case("int", "Mask", (INT_MIN,), (-1, INT_MIN), (INT_MAX, 0)),
    Case("uint", "Equal", (UINT_MAX,), (-1, UINT_MAX, LONG_MAX), (0, INT_MAX, UINT_MAX - 1)),
    Case("uint", "NotEqual", (UINT_MAX,), (0, 1), (-1, UINT_MAX)),
    Case("uint", "GT", (INT_MAX,), (-1, 1 << 31), (INT_MAX, 0, HIGH)),
    Case("uint", "LT", (1 << 31,), (0, INT_MAX, HIGH), (-1, 1 << 31)),
    Case("uint", "Mask", (1 << 31,), (-1, 1 << 31), (INT_MAX, HIGH)),
    Case("long", "Equal", (-1,), (-1,), (UINT_MAX, 0, LONG_MAX)),
    Case("long", "Equal", (LONG_MIN,), (LONG_MIN,), (LONG_MAX, 0, INT_MIN)),
    Case("long", "NotEqual", (LONG_MAX,), (-1, 0), (LONG_MAX,)),
    Case("long", "GT", (LONG_MAX - 1,), (LONG_MAX,), (LONG_MAX - 1, -1, LONG_MIN)),
    Case("long", "LT", (INT_MIN,), (INT_MIN - 1, LONG_MIN), (INT_MIN, -1, UINT_MAX, 1 << 31)),
    Case("long", "Mask", (HIGH,), (HIGH, -1), (UINT_MAX, 0)),
    Case("ulong", "Equal", (ULONG_MAX,), (-1, ULONG_MAX), (UINT_MAX, LONG_MAX)),
    Case("ulong", "GT", (LONG_MAX,), (-1, LONG_MIN), (LONG_MAX, 0)),
    Case("ulong", "LT", (HIGH,), (UINT_MAX, 0), (HIGH, -1)),
    Case("ulong", "Mask", (1 << 63,), (-1, LONG_MIN), (LONG_MAX,)),
    Case("ulong", "NotEqual", (0,), (1, -1), (0,)),
    Case("size_t", "Equal", (4096,), (4096,), (4095, HIGH | 4096)),
    Case("size_t", "GT", (1 << 62,), (-1, LONG_MAX), (1 << 62, 0)),
    Case("size_t", "LT", (1,), (0,), (1, -1)),
    Case("size_t", "NotEqual", (1, 2), (0, 3), (1, 2)),
    Case("size_t", "Mask", (5,), (1, 4), (2, 8)),
    Case("int", "Equal", tuple(range(0, 3000, 3)), (0, 1500, 2997), (1, 2998, 3000, -3)),
)
MANY = tuple(f"{'d' * (n % 40)}/{n}" for n in range(300))
LENGTHS = (7, 8, 9, 15, 16, 17)  # around the 8 bytes that are compared at a time
TEXTS = (
    *(Case("string", "Equal", (e,), (e,), (e[1:], e + "e", e[1:] + "f")) for e in ("e" * n for n in LENGTHS)),
    *(Case("string", "Prefix", (p,), (p, p + "x"), (p[1:], "x" + p)) for p in ("p" * n for n in LENGTHS)),
    *(Case("string", "Postfix", (q,), (q, "x" + q), (q[1:], q + "x")) for q in ("q" * n for n in LENGTHS)),
    Case("string", "Equal", ("",), ("",), ("a",)),
    Case("string", "NotEqual", ("",), ("a",), ("",)),
    Case("string", "NotEqual", ("/a", "/bc"), ("/b", "/a/", ""), ("/a", "/bc")),
    Case("string", "Equal", ("L" * 4095,), ("L" * 4095,), ("L" * 4094, "L" * 4096, "L" * 4094 + "M")),
    Case("string", "Prefix", ("L" * 4095,), ("L" * 4095, "L" * 4096, "L" * 5000), ("L" * 4094, "M" + "L" * 4095)),
    Case("string", "Postfix", ("L" * 4095,), ("L" * 4095,), ("L" * 4094, "L" * 5000)),
    Case("string", "Postfix", (".so",), ("lib.so", ".so"), (".so.1", "so", "")),
    Case("string", "Equal", ("/naïve/✓",), ("/naïve/✓",), ("/naive/✓", "/naïve/")),
    Case("string", "Equal", MANY, (MANY[0], MANY[150], MANY[299]), ("/300", "d/0", MANY[1] + "0")),
    Case("string", "Prefix", MANY[40:], (MANY[299] + "/x",), ("e", "/")),
    Case("char_buf", "Equal", ("seven77",), (b"seven77",), (b"seven7", b"seven777", b"seven77\0")),
    Case("char_buf", "Prefix", ("GET /a",), (b"GET /a", b"GET /a?x\0\xff", b"GET /a" + bytes(9000)), (b"GET /", b"")),
    Case("char_buf", "Postfix", ("end",), (b"the end", b"\0\0end"), (b"end.", b"nd", bytes(9000) + b"end")),
    Case("char_buf", "NotEqual", ("ok",), (b"", b"ko", b"ok\0"), (b"ok",)),
)  # fmt: skip
CASES = (*NUMBERS, *TEXTS)
CALLS = {"string": "access", "char_buf": "pwrite64"}  # neither does anything with the arguments that are tried here
DECLARED = {"char_buf": "char_buf:2"}


@pytest.fixture(scope="module")
def operators(calls_program: Path) -> Iterator[Node]:
    """An agent of its own: deleting so many policies one by one would take longer than all tests of this module."""
    with start_node(calls_program, "--loader-deadline", "85") as node:
        node.add(*(_policy(number, case) for number, case in enumerate(CASES)))
        yield node


def _policy(number: int, case: Case) -> dict[str, object]:
    index = 1 if case.type == "char_buf" else 0
    declared = {index: DECLARED.get(case.type, case.type)}
    hook = kprobe(CALLS.get(case.type, "lseek"), declared, selector(match(index, case.operator, *case.values)))
    return policy(f"case-{number}", hook, namespace=f"case-{number}")


def _arguments(value: Value) -> tuple[Value, ...]:
    if isinstance(value, bytes):
        return (-1, value, len(value), 0)
    return (value, 0, 0)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_operator_catches_exactly_what_it_says(operators: Node, number: int) -> None:
    case = CASES[number]
    call = CALLS.get(case.type, "lseek")
    with operators.container(f"case-{number}") as group:
        caught = {value: group.call(call, *_arguments(value)).killed for value in (*case.caught, *case.passed)}
    assert [_short(value) for value in case.caught if not caught[value]] == []
    assert [_short(value) for value in case.passed if caught[value]] == []


def _short(value: Value) -> str:
    return f"{value!r:.40} of {len(value) if isinstance(value, str | bytes) else value}"
