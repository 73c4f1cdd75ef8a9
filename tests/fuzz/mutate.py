# SPDX-License-Identifier: Apache-2.0
"""Inputs from inputs: stacked changes of bytes, tokens and structure. Deterministic for a given generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# Two inputs, or one and a token, rarely need more to show what is wrong; long ones only take time.
MAX_INPUT = 64 << 10
STACKED = (1, 1, 1, 2, 2, 3, 6)
# How often an input is changed within its form alone.
WELL_FORMED = 0.4
MAX_CHUNK = 64
# Lengths, counts and signs that parsers compare with.
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 1 << 22, 1 << 26, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

# One input and another, to one that has the form of both.
Splice = Callable[[random.Random, bytes, bytes], bytes]


class Mutator:
    """Makes inputs; `tokens` are what means something to the parser, `splice` knows the form of its input."""

    def __init__(self, rng: random.Random, tokens: Sequence[bytes], splice: Splice) -> None:
        self._rng = rng
        self._tokens = tokens
        self._splice = splice
        self._changes = (
            self._flip_bit,
            self._set_byte,
            self._set_edge,
            self._delete,
            self._repeat,
            self._insert_noise,
            self._insert_token,
            self._cross,
        )

    def mutate(self, seeds: Sequence[bytes]) -> bytes:
        """A new input from one or two of `seeds`, of at most MAX_INPUT bytes."""
        rng = self._rng
        data, other = rng.choice(seeds), rng.choice(seeds)
        in_form = rng.random() < WELL_FORMED
        for _ in range(rng.choice(STACKED)):
            change = self._spliced if in_form or rng.random() < 0.5 else rng.choice(self._changes)
            data = change(data, other)[:MAX_INPUT]
        return data

    def _spliced(self, data: bytes, other: bytes) -> bytes:
        return self._splice(self._rng, data, other)

    def _place(self, data: bytes) -> int:
        return self._rng.randrange(len(data)) if data else 0

    def _range(self, data: bytes) -> tuple[int, int]:
        start = self._place(data)
        return start, min(len(data), start + self._rng.randint(1, MAX_CHUNK))

    def _replace(self, data: bytes, start: int, end: int, new: bytes) -> bytes:
        return data[:start] + new + data[end:]

    def _flip_bit(self, data: bytes, _other: bytes) -> bytes:
        at = self._place(data)
        return self._replace(data, at, at + 1, bytes((data[at] ^ 1 << self._rng.randrange(8),))) if data else data

    def _set_byte(self, data: bytes, _other: bytes) -> bytes:
        at = self._place(data)
        return self._replace(data, at, at + 1, self._rng.randbytes(1))

    def _set_edge(self, data: bytes, _other: bytes) -> bytes:
        """A number that limits are made of, in one of the widths and orders that formats use."""
        width, order = self._rng.choice((1, 2, 4, 8)), self._rng.choice(("big", "little"))
        number = self._rng.choice(EDGES) % (1 << 8 * width)
        at = self._place(data)
        return self._replace(data, at, at + width, number.to_bytes(width, "big" if order == "big" else "little"))

    def _delete(self, data: bytes, _other: bytes) -> bytes:
        return self._replace(data, *self._range(data), b"")

    def _repeat(self, data: bytes, _other: bytes) -> bytes:
        """A piece, several times: rarely so often that what is not bounded shows."""
        start, end = self._range(data)
        times = self._rng.choice((2, 2, 3, 5, 20, 1000))
        return self._replace(data, start, end, data[start:end] * times)

    def _insert_noise(self, data: bytes, _other: bytes) -> bytes:
        at = self._place(data)
        return self._replace(data, at, at, self._rng.randbytes(self._rng.randint(1, 16)))

    def _insert_token(self, data: bytes, _other: bytes) -> bytes:
        at = self._place(data)
        return self._replace(data, at, at, self._rng.choice(self._tokens)) if self._tokens else data

    def _cross(self, data: bytes, other: bytes) -> bytes:
        return data[: self._place(data)] + other[self._place(other) :]
