# SPDX-License-Identifier: Apache-2.0
"""Changes that keep an input's form: streams of frames, protobuf's fields, JSON's values, lines of text.

A splice takes what it cannot read as it is: inputs are broken more often than not.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz.mutate import MAX_INPUT, Splice

# protobuf's wire types (Encoding, "Message Structure"); groups are not used by anyone here.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10
# JSON documents are changed at one place, found on a walk of at most so many steps.
MAX_STEPS = 12
ODD_TEXTS = (b"", b"\0", b"a" * 254, b"a" * 1025, b"../" * 20, "é".encode() * 130, b"\xff", b"kube-system", b"/", b" ")
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 63, 1 << 64, 1.5, 1e308, float("nan"), "", "\0", "\ud800", "a" * 5000,
    [], {}, [[]], "1", "-1", "../../x", "/", "\u202e", "é" * 300,
)  # fmt: skip


def splice_pieces(split: Callable[[bytes], Sequence[bytes]]) -> Splice:
    """A splice of what `split` cuts an input into; joined, the pieces are the input."""

    def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
        return b"".join(shuffle_pieces(rng, list(split(data)), split(other)))

    return splice


def shuffle_pieces(rng: random.Random, mine: list[bytes], theirs: Sequence[bytes]) -> list[bytes]:
    """One piece dropped, doubled, moved, or put in from the other input."""
    kind = rng.randrange(4)
    at = rng.randrange(len(mine)) if mine else 0
    if kind == 0 and mine:
        del mine[at]
    elif kind == 1 and mine:
        mine[at:at] = [mine[at]] * min(rng.choice((1, 1, 2, 100)), MAX_INPUT // max(1, len(mine[at])))
    elif kind == 2 and mine:
        mine.insert(rng.randrange(len(mine)), mine.pop(at))
    elif theirs:
        mine.insert(at, rng.choice(theirs))
    return mine


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their ends."""
    return data.splitlines(keepends=True)


def split_words(data: bytes) -> list[bytes]:
    """What stands between slashes, colons and dashes, and these."""
    return re.split(rb"([/:-])", data)


def split_frames(header: int, read_length: Callable[[bytes], int]) -> Callable[[bytes], list[bytes]]:
    """A cutter of frames: `header` bytes, of which `read_length` gives the length of what follows."""

    def split(data: bytes) -> list[bytes]:
        frames = []
        while data:
            end = header + read_length(data[:header]) if len(data) >= header else len(data)
            frames.append(data[:end])
            data = data[end:]
        return frames

    return split


def splice_after(length: int, splice: Splice) -> Splice:
    """A splice that leaves the first bytes of an input alone, or takes those of the other."""

    def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
        head = other[:length] if rng.random() < 0.1 else data[:length]
        return head + splice(rng, data[length:], other[length:])

    return spliced


def splice_inside(split: Callable[[bytes], list[bytes]], header: int, width: int, at: int, inner: Splice) -> Splice:
    """A splice of one frame's payload, whose length, `width` bytes big endian from `at` on, is set right again."""

    def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
        mine, theirs = split(data), split(other)
        if not mine or not theirs:
            return data
        number = rng.randrange(len(mine))
        frame, source = mine[number], rng.choice(theirs)
        payload = inner(rng, frame[header:], source[header:])
        length = min(len(payload), (1 << 8 * width) - 1).to_bytes(width, "big")
        mine[number] = frame[:at] + length + frame[at + width : header] + payload
        return b"".join(mine)

    return spliced


def one_of(*splices: Splice) -> Splice:
    """Now the one, now the other."""

    def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
        return rng.choice(splices)(rng, data, other)

    return splice


def splice_protobuf(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Fields of a message dropped, doubled, moved, taken from another; or the same within a field that has bytes."""
    mine, theirs = split_protobuf(data), split_protobuf(other)
    deep = [number for number, field in enumerate(mine) if len(field) > 2 and field[0] & 7 == BYTES]
    if not deep or rng.random() < 0.5:
        return b"".join(shuffle_pieces(rng, mine, theirs))
    number = rng.choice(deep)
    key, value = _cut_bytes(mine[number])
    if rng.random() < 0.2:
        inner = rng.choice(ODD_TEXTS)
    elif value[:1] == b"{":
        inner = splice_json(rng, value, value)
    else:
        inner = splice_protobuf(rng, value, _cut_bytes(rng.choice(theirs))[1] if theirs else b"")
    mine[number] = key + write_varint(len(inner)) + inner
    return b"".join(mine)


def split_protobuf(data: bytes) -> list[bytes]:
    """The fields of a message, key included; what is no field is one piece at the end."""
    fields: list[bytes] = []
    at = 0
    while at < len(data):
        end = _field_end(data, at)
        if end is None:
            return [*fields, data[at:]]
        fields.append(data[at:end])
        at = end
    return fields


def _field_end(data: bytes, at: int) -> int | None:
    """Where the field that begins at `at` ends; None when there is none."""
    key, value = _read_varint(data, at)
    if value < 0:
        return None
    number, after = _read_varint(data, value)
    ends = {VARINT: after, FIXED64: value + 8, FIXED32: value + 4, BYTES: after + number if after >= 0 else -1}
    end = ends.get(key & 7, -1)
    return end if at < end <= len(data) else None


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; (0, -1) when there is none."""
    number = 0
    for index in range(at, min(at + MAX_VARINT, len(data)) if at >= 0 else 0):
        number |= (data[index] & 0x7F) << 7 * (index - at)
        if data[index] < 0x80:
            return number, index + 1
    return 0, -1


def write_varint(number: int) -> bytes:
    """protobuf's variable-length form of a number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _cut_bytes(field: bytes) -> tuple[bytes, bytes]:
    """Key and value of a field with bytes; (all of it, nothing) for another."""
    _, value = _read_varint(field, 0)
    length, start = _read_varint(field, value)
    if start < 0 or start + length != len(field):
        return field, b""
    return field[:value], field[start:]


def splice_json(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One value of a document replaced by an odd one or by one of the other, dropped, or put one level deeper."""
    try:
        document, source = json.loads(data), json.loads(other)
        _change_json(rng, document, _pick_value(rng, source))
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        return data


def _pick_value(rng: random.Random, document: Any) -> Any:
    return rng.choice(ODD_VALUES) if rng.random() < 0.6 else _walk(rng, document)


def _walk(rng: random.Random, value: Any) -> Any:
    """Some value of the document, the deeper the rarer."""
    for _ in range(rng.randrange(MAX_STEPS)):
        inner = _values(value)
        if not inner:
            break
        value = rng.choice(inner)
    return value


def _values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _change_json(rng: random.Random, document: Any, new: Any) -> None:
    """Change one entry of one container of the document in place; the document itself stays what it is."""
    holder = document
    for _ in range(rng.randrange(MAX_STEPS)):
        inner = [value for value in _values(holder) if value and isinstance(value, dict | list)]
        if not inner:
            break
        holder = rng.choice(inner)
    if not holder or not isinstance(holder, dict | list):
        return
    key: Any = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]]
    elif kind == 2 and isinstance(holder, dict):
        holder[str(key) + rng.choice(("", " ", "\0", "é"))] = new
    else:
        holder[key] = new
