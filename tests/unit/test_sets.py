# SPDX-License-Identifier: Apache-2.0
"""Sets of values: what a look-up as the kernel makes it finds is what Python's comparison finds."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.document import MAX_FILE_BYTES
from agent.policy.model import ArgFilter, FilterValue, Network, Operator, Range
from agent.policy.placed import PlacedPolicy
from agent.policy.sets import (
    MAX_LENGTHS,
    NUMBER_THRESHOLD,
    PARTS,
    POSTFIX_THRESHOLD,
    RANGE_THRESHOLD,
    ROOMS,
    TEXT_THRESHOLD,
    PrefixSet,
    TextSet,
    ValueSet,
    binary_set,
    intervals,
    look_ups,
    network_sets,
    number_set,
    rows_of,
    set_bytes,
    sets_of,
    sizes_of,
    text_set,
)
from agent.policy.values import MAX_VALUE_BYTES
from tests.support.planning import place
from tests.support.workload import kprobe, match, policy, selector

TOP = 1 << 64
MANY = tuple(b"%d" % n for n in range(TEXT_THRESHOLD + 1))


def rows(wanted: ValueSet, number: int = 7) -> dict[str, dict[bytes, bytes]]:
    return {name: dict(entries) for name, entries in rows_of(wanted, number).items()}


def in_trie(entries: Iterable[bytes], bits: int, data: bytes) -> bool:
    """Whether the bits begin with those of an entry: {u32 bits, data}."""

    def head(key: bytes, length: int) -> int:
        return int.from_bytes(key, "big") >> (8 * len(key) - length)

    def meets(entry: bytes) -> bool:
        (length,) = struct.unpack_from("<I", entry)
        return bool(length <= bits and head(entry[4:], length) == head(data, length))

    return any(map(meets, entries))


def finds(wanted: TextSet, text: bytes, number: int = 7) -> bool:
    """As bpf/lib/sets.h does it."""
    found = rows(wanted, number)
    turned = text[::-1] if wanted.operator is Operator.POSTFIX else text
    for size in wanted.parts():
        data = struct.pack("<I", number) + turned[:size].ljust(size, b"?")
        if in_trie(found[f"parts_{size}"], 32 + 8 * min(len(text), size), data):
            return True
    table = struct.unpack(f"<{MAX_LENGTHS}H", found["lengths"][struct.pack("<I", number)]) if "lengths" in found else ()
    first = 0
    for room, lengths in wanted.lengths().items():
        asked = [len(text)] if wanted.operator is Operator.EQUAL else table[first : first + len(lengths)]
        first += len(lengths)
        for length in (n for n in asked if n <= len(text) and n < room):
            part = text[len(text) - length :] if wanted.operator is Operator.POSTFIX else text[:length]
            if struct.pack("<II", number, length) + part.ljust(room, b"\0") in found[f"texts_{room}"]:
                return True
    return False


def holds(wanted: TextSet, text: bytes) -> bool:
    match wanted.operator:
        case Operator.PREFIX:
            return text.startswith(wanted.values)
        case Operator.POSTFIX:
            return text.endswith(wanted.values)
    return text in wanted.values


# Lengths around those of keys; few letters, so that values are parts of each other.
LENGTHS = (0, 1, 7, 8, 55, 56, 57, 63, 64, 247, 248, 249, 255, 256, 1023, 1024, 4095)
texts = st.builds(
    lambda length, letters: (letters * length)[:length],
    st.sampled_from(LENGTHS),
    st.sampled_from((b"a", b"b", b"ab", b"aab")),
)
operators = st.sampled_from((Operator.EQUAL, Operator.PREFIX, Operator.POSTFIX))


@given(operators, st.lists(texts, min_size=1, max_size=6), texts, st.sampled_from((b"", b"a", b"c")))
def test_a_look_up_finds_what_python_finds(operator: Operator, values: list[bytes], text: bytes, more: bytes) -> None:
    wanted = TextSet(operator, tuple(sorted(set(values))))
    for asked in (text, text + more, more + text, text[1:], text[:-1]):
        assert finds(wanted, asked) is holds(wanted, asked)


def test_the_number_of_a_set_is_in_every_key() -> None:
    both: tuple[ValueSet, ...] = (
        *(TextSet(op, (b"a" * 300, b"b")) for op in (Operator.EQUAL, Operator.PREFIX)),
        numbers((1, 2)),
    )
    for wanted in both:
        first, second = rows(wanted, 1), rows(wanted, 2)
        assert first.keys() == second.keys()
        assert all(not first[name].keys() & second[name].keys() for name in first)


def test_few_texts_stay_in_the_program() -> None:
    assert text_set(Operator.EQUAL, MANY[1:]) is None
    assert text_set(Operator.EQUAL, (*MANY[1:], *MANY[1:])) is None
    assert text_set(Operator.SUBSTRING, MANY) is None
    found = {operator: text_set(operator, MANY) for operator in (Operator.IN, Operator.NOT_EQUAL, Operator.NOT_POSTFIX)}
    assert [each.operator for each in found.values() if each] == [Operator.EQUAL, Operator.EQUAL, Operator.POSTFIX]
    assert all(each and each.values == tuple(sorted(MANY)) for each in found.values())


def test_every_value_of_a_policy_has_a_key() -> None:
    assert ROOMS[-1] == MAX_VALUE_BYTES + 1
    assert PARTS[-1] < ROOMS[-1]
    assert 4 + PARTS[-1] <= 256, "LPM_DATA_SIZE_MAX"
    lengths = range(PARTS[-1] + 1, PARTS[-1] + 1 + MAX_LENGTHS)
    assert sum(lengths) > MAX_FILE_BYTES, "no file has as many different lengths"


def numbers(values: Iterable[int | Range]) -> PrefixSet:
    found = number_set(
        ArgFilter((0,), Operator.IN_RANGE, (*values, *(Range(n * 1000, n * 1000 + 1) for n in range(100, 165))))
    )
    assert found
    return found


def in_set(wanted: PrefixSet, number: int) -> bool:
    key = struct.pack("<I", 7) + (number % TOP).to_bytes(8, "big") + bytes(8)
    return in_trie(rows(wanted)["ranges"], 96, key)


EDGES = (0, 1, 5, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 63) - 1)
signed = st.sampled_from((*EDGES, *(-n - 1 for n in EDGES)))
unsigned = st.sampled_from((*EDGES, TOP - 1, TOP - 256, 1 << 63))


@given(st.sampled_from((signed, unsigned)).flatmap(lambda kind: st.tuples(st.lists(st.tuples(kind, kind)), kind)))
def test_numbers_are_in_ranges_as_python_says(drawn: tuple[list[tuple[int, int]], int]) -> None:
    pairs, number = drawn
    ranges = [Range(min(pair), max(pair)) for pair in pairs]
    wanted = numbers(ranges)
    for asked in (number, *(edge for each in ranges for edge in (each.first, each.last))):
        assert in_set(wanted, asked) is any(
            each.first <= asked <= each.last
            for each in (*ranges, *(Range(n * 1000, n * 1000 + 1) for n in range(100, 165)))
        )


@given(st.lists(st.tuples(unsigned, unsigned), max_size=6))
def test_intervals_are_apart_and_ascend(pairs: list[tuple[int, int]]) -> None:
    found = intervals([Range(min(pair), max(pair)) for pair in pairs])
    edges = [edge for pair in found for edge in pair]
    assert edges == sorted(edges)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found))


@pytest.mark.parametrize(
    ("operator", "few", "many"),
    [
        (Operator.EQUAL, range(NUMBER_THRESHOLD), range(NUMBER_THRESHOLD + 1)),
        (Operator.NOT_IN_MAP, range(-1, 1), range(0, 100_000, 3)),
        (Operator.GT, range(0, 10_000, 2), None),
    ],
)
def test_few_numbers_stay_in_the_program(operator: Operator, few: range, many: range | None) -> None:
    assert number_set(ArgFilter((0,), operator, tuple(few))) is None
    assert many is None or number_set(ArgFilter((0,), operator, tuple(many)))


def test_ports_are_numbers() -> None:
    ports: tuple[FilterValue, ...] = tuple(Range(n, n + n % 2) for n in range(0, 65536, 5))
    found = number_set(ArgFilter((0,), Operator.NOT_DPORT, ports))
    assert found
    assert [in_set(found, port) for port in (0, 1, 5, 6, 7, 65535)] == [True, False, True, True, False, True]


def network(*address: int, bits: int) -> Network:
    return Network(bytes(address), bits)


def test_networks_are_by_their_family() -> None:
    v4 = [network(10, n, 0, 0, bits=16) for n in range(RANGE_THRESHOLD)]
    v6 = network(*([0x20, 1] + [0] * 14), bits=16)
    assert network_sets(ArgFilter((0,), Operator.SADDR, tuple(v4))) == {}
    found = network_sets(ArgFilter((0,), Operator.NOT_SADDR, (*v4, v6)))
    assert list(found) == [4, 16]
    assert len(found[4].prefixes) == RANGE_THRESHOLD
    (key,) = rows(found[16])["ranges"]
    assert key == struct.pack("<II", 32 + 16, 7) + v6.address
    address = struct.pack("<I", 7) + bytes((10, 5, 9, 9)) + bytes(12)
    assert in_trie(rows(found[4])["ranges"], 64, address)
    assert not in_trie(rows(found[4])["ranges"], 64, address.replace(b"\x0a", b"\x0b"))


@given(operators, st.lists(texts, min_size=1, max_size=9))
def test_sizes_are_those_of_the_rows(operator: Operator, values: list[bytes]) -> None:
    wanted = TextSet(operator, tuple(sorted(set(values))))
    found = {name: (len(each), *map(len, next(iter(each.items())))) for name, each in rows(wanted).items()}
    assert dict(sizes_of(wanted)) == found
    assert set_bytes(wanted) > sum(map(len, wanted.values))


def test_look_ups_do_not_grow_with_the_values() -> None:
    assert look_ups(TextSet(Operator.EQUAL, tuple(b"%d" % n for n in range(5000)))) == 1
    assert look_ups(TextSet(Operator.PREFIX, tuple(b"x" * n for n in range(1, 249)))) == len(PARTS)
    assert look_ups(TextSet(Operator.POSTFIX, (b"x" * 300, b"y" * 300, b"x" * 1500))) == 2
    assert look_ups(numbers(())) == 1


def several(*texts_: str) -> dict[str, Any]:
    return {"operator": "NotPostfix", "values": list(texts_)}


def many_sets() -> PlacedPolicy:
    """Of an argument, what is returned, and binaries: of equal values one."""
    values = [value.decode() for value in MANY]
    first = selector(match(0, "Equal", *values), match(1, "NotEqual", *range(0, 2000, 2)))
    second = {"matchBinaries": [several(*values)], "matchParentBinaries": [several(*values)]}
    late = {"matchReturnArgs": [match(0, "InMap", *range(1, 2000, 2))]}
    hook = kprobe("access", {0: "string", 1: "int"}, first, second | late) | {
        "return": True,
        "returnArg": {"index": 0, "type": "long"},
    }
    return place(policy("p", hook))[0]


def test_sets_of_a_policy_are_told_apart_by_what_is_looked_for() -> None:
    found = sets_of(many_sets().policy)
    assert [each.operator if isinstance(each, TextSet) else None for each in found] == [
        *(Operator.EQUAL, None, None, Operator.POSTFIX)
    ]


def test_followed_binaries_are_asked_themselves_too() -> None:
    values = [value.decode() for value in MANY]
    each = {"matchBinaries": [{"operator": "In", "values": values, "followChildren": True}]}
    (placed,) = place(policy("p", kprobe("access", {0: "string"}, each)))
    (binaries,) = placed.policy.hooks[0].selectors[0].binaries
    assert sets_of(placed.policy) == (binary_set(binaries),)


def test_ends_are_looked_up_earlier() -> None:
    """Each length of them costs a copy of the text's end in the program."""
    texts = [b"%d" % n for n in range(POSTFIX_THRESHOLD + 1)]
    assert text_set(Operator.NOT_POSTFIX, texts) is not None
    assert text_set(Operator.POSTFIX, texts[1:]) is None
    assert text_set(Operator.PREFIX, texts) is None
