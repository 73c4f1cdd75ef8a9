# SPDX-License-Identifier: Apache-2.0
"""Many values of a filter as entries of maps, so that their number costs no instructions.

A text is looked up whole: the key of bpf/lib/sets.h is the set's number, the text's length and the text, padded with
zeros to the least of a few sizes. The kernel's hash map compares keys byte for byte, so a set holds what it was given
and nothing else. That is `Equal`. The kernel's trie of prefixes (BPF_MAP_TYPE_LPM_TRIE) says with one look-up whether a
text begins with any of many; for `Postfix` texts are turned round. Its keys are short, so longer values are looked up
whole, once for each different length of them.

Numbers, ports and networks are prefixes in a trie, too: a network is one, a range of numbers is cut into some.

Few values stay in the program's text, where they cost less: the THRESHOLDs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.policy.model import ArgFilter, BinaryFilter, FilterValue, Network, Operator, Policy, Range

# Measured: a text of 45 bytes in the program takes 3 ms to compile and a few ns a call; a set takes a look-up of some
# 100 ns, whatever there is in it.
TEXT_THRESHOLD = 32  # different texts
POSTFIX_THRESHOLD = 8  # of ends, which are copied once for each of their lengths before they are compared
NUMBER_THRESHOLD = 256  # different numbers: the compiler makes a tree of them
RANGE_THRESHOLD = 64  # ranges and networks, of 1 to 2 ms each

ROOMS = (64, 256, 1024, 4096)  # a key's room for text, in bytes; the text is shorter: PG_SET_ROOM of bpf/lib/sets.h
PARTS = (56, 248)  # bytes of text in a key of a trie, which can have 256 with the set's number: PG_PART_KEY
MAX_LENGTHS = 2048  # different ones of a set: PG_SET_LENGTHS. A file of 1 MiB has room for 1,447
PRESENT = struct.pack("<I", 1)
NUMBER_BITS = 64
V4_BITS = 32
_KEY = struct.Struct("<II")
_RANGE_KEY = struct.Struct("<I4s16s")  # how many bits count, the set's number in the order of the C, the bits
_SET_BITS = 32
_BYTE_BITS = 8
_ENTRY_HEAD = 56  # struct htab_elem and the allocator's link; a trie's node is about as large
_TOP = 1 << NUMBER_BITS
_TEXT_OPERATORS = {
    Operator.EQUAL: Operator.EQUAL,
    Operator.IN: Operator.EQUAL,
    Operator.PREFIX: Operator.PREFIX,
    Operator.POSTFIX: Operator.POSTFIX,
}
_NUMBER_OPERATORS = frozenset({Operator.EQUAL, Operator.IN_MAP, Operator.IN_RANGE, Operator.SPORT, Operator.DPORT})
_NETWORK_OPERATORS = frozenset({Operator.SADDR, Operator.DADDR})


@dataclass(frozen=True, slots=True)
class TextSet:
    """Texts, sorted, each once, and how they are looked for: EQUAL, PREFIX or POSTFIX."""

    operator: Operator
    values: tuple[bytes, ...]

    def parts(self) -> Mapping[int, tuple[bytes, ...]]:
        """The values in tries, by the bytes of their keys, ascending."""
        if self.operator is Operator.EQUAL:
            return {}
        return _grouped((value for value in self.values if len(value) <= PARTS[-1]), part_of)

    def wholes(self) -> Mapping[int, tuple[bytes, ...]]:
        """The others, by the room of their keys, ascending."""
        shortest = 0 if self.operator is Operator.EQUAL else PARTS[-1] + 1
        return _grouped((value for value in self.values if len(value) >= shortest), room_of)

    def lengths(self) -> Mapping[int, tuple[int, ...]]:
        """The different lengths of the latter, ascending, by the same."""
        return {room: tuple(sorted(set(map(len, values)))) for room, values in self.wholes().items()}


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Bits, sorted, each once: bytes in the order of a packet, and how many of their bits count."""

    prefixes: tuple[tuple[bytes, int], ...]


ValueSet = TextSet | PrefixSet


def _grouped(values: Iterable[bytes], size: Callable[[int], int]) -> Mapping[int, tuple[bytes, ...]]:
    groups: dict[int, list[bytes]] = {}
    for value in values:
        groups.setdefault(size(len(value)), []).append(value)
    return {key: tuple(groups[key]) for key in sorted(groups)}


def room_of(length: int) -> int:
    """The room of a key for a whole text of so many bytes, at most 4,095."""
    return next(room for room in ROOMS if length < room)


def part_of(length: int) -> int:
    """The bytes of a trie's key for a text of so many, at most 248."""
    return next(size for size in PARTS if length <= size)


def text_set(operator: Operator, values: Iterable[bytes]) -> TextSet | None:
    """None when they are few."""
    different = set(values)
    way = _TEXT_OPERATORS.get(operator.positive)
    few = POSTFIX_THRESHOLD if way is Operator.POSTFIX else TEXT_THRESHOLD
    return TextSet(way, tuple(sorted(different))) if way and len(different) > few else None


def number_set(each: ArgFilter) -> PrefixSet | None:
    """Of numbers and ports; None when there are few, or other values."""
    if each.operator.positive not in _NUMBER_OPERATORS:
        return None
    different = {value for value in each.values if isinstance(value, (int, Range))}
    if len(different) <= (
        RANGE_THRESHOLD if any(isinstance(value, Range) for value in different) else NUMBER_THRESHOLD
    ):
        return None
    return PrefixSet(tuple(prefix for first, last in intervals(different) for prefix in _cut(first, last)))


def network_sets(each: ArgFilter) -> Mapping[int, PrefixSet]:
    """By the bytes of an address, 4 and 16; none when there are few, or other values."""
    networks = {value for value in each.values if isinstance(value, Network)}
    if each.operator.positive not in _NETWORK_OPERATORS or len(networks) <= RANGE_THRESHOLD:
        return {}
    sizes = sorted({len(network.address) for network in networks})
    return {size: _network_set(network for network in networks if len(network.address) == size) for size in sizes}


def _network_set(networks: Iterable[Network]) -> PrefixSet:
    return PrefixSet(tuple(sorted((network.address, network.bits) for network in networks)))


def filter_sets(each: ArgFilter) -> tuple[ValueSet, ...]:
    """What a filter on values needs in maps."""
    texts = text_set(each.operator, texts_of(each.values))
    found = (texts, number_set(each), *network_sets(each).values())
    return tuple(one for one in found if one)


def binary_set(each: BinaryFilter) -> TextSet | None:
    """What a filter on binaries needs there; nothing when its values are few."""
    return text_set(each.operator, each.values)


def sets_of(policy: Policy) -> tuple[ValueSet, ...]:
    """What a policy's filters need, each once; those of followed binaries' descendants are the lineage's."""
    return tuple(dict.fromkeys(_sets_of(policy)))


def _sets_of(policy: Policy) -> Iterator[ValueSet]:
    for hook in policy.hooks:
        for selector in hook.selectors:
            for each in (*selector.args, *selector.data, *selector.return_args):
                yield from filter_sets(each)
            for binaries in (*selector.binaries, *selector.parent_binaries):
                if found := binary_set(binaries):
                    yield found


def texts_of(values: Iterable[FilterValue]) -> list[bytes]:
    return [value for value in values if isinstance(value, bytes)]


def intervals(values: Iterable[FilterValue]) -> list[tuple[int, int]]:
    """Numbers and ranges as disjoint ranges of numbers without sign, ascending; negative ones are modulo 2^64."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(part for value in values for part in _unsigned(value)):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _unsigned(value: FilterValue) -> Iterator[tuple[int, int]]:
    if isinstance(value, int):
        yield value % _TOP, value % _TOP
    elif isinstance(value, Range):
        if value.first < 0 <= value.last:
            yield value.first % _TOP, _TOP - 1
            yield 0, value.last
        else:
            yield value.first % _TOP, value.last % _TOP


def _cut(first: int, last: int) -> Iterator[tuple[bytes, int]]:
    """A range as prefixes, the largest that fit: at most 126."""
    while first <= last:
        size = min(first & -first or _TOP, 1 << (last - first + 1).bit_length() - 1)
        yield first.to_bytes(NUMBER_BITS // 8, "big"), NUMBER_BITS - size.bit_length() + 1
        first += size


Rows = Mapping[str, list[tuple[bytes, bytes]]]


def rows_of(wanted: ValueSet, number: int) -> Rows:
    """Keys and values by the name of the map that they belong to. number: the set's."""
    if isinstance(wanted, PrefixSet):
        head = struct.pack("<I", number)
        keys = (_RANGE_KEY.pack(_SET_BITS + bits, head, data) for data, bits in wanted.prefixes)
        return {"ranges": [(key, PRESENT) for key in keys]}
    rows = {
        f"parts_{size}": [(_part_key(wanted, number, value, size), PRESENT) for value in values]
        for size, values in wanted.parts().items()
    }
    for room, values in wanted.wholes().items():
        keys = (_KEY.pack(number, len(value)) + value.ljust(room, b"\0") for value in values)
        rows[f"texts_{room}"] = [(key, PRESENT) for key in keys]
    if _has_lengths(wanted):
        rows["lengths"] = [(struct.pack("<I", number), _length_table(wanted))]
    return rows


def _part_key(wanted: TextSet, number: int, value: bytes, size: int) -> bytes:
    text = value[::-1] if wanted.operator is Operator.POSTFIX else value
    return _KEY.pack(_SET_BITS + _BYTE_BITS * len(value), number) + text.ljust(size, b"\0")


def _has_lengths(wanted: TextSet) -> bool:
    return wanted.operator is not Operator.EQUAL and bool(wanted.wholes())


def sizes_of(wanted: ValueSet) -> Mapping[str, tuple[int, int, int]]:
    """By the name of the map: how many entries it has there, and the bytes of a key and of a value."""
    if isinstance(wanted, PrefixSet):
        return {"ranges": (len(wanted.prefixes), _RANGE_KEY.size, len(PRESENT))}
    kinds = (("parts", wanted.parts()), ("texts", wanted.wholes()))
    sizes = {
        f"{kind}_{size}": (len(values), _KEY.size + size, len(PRESENT))
        for kind, groups in kinds
        for size, values in groups.items()
    }
    return sizes | ({"lengths": (1, 4, 2 * MAX_LENGTHS)} if _has_lengths(wanted) else {})


def look_ups(wanted: ValueSet) -> int:
    """How many there are in its maps, when none of its values is met."""
    if isinstance(wanted, PrefixSet) or wanted.operator is Operator.EQUAL:
        return 1
    return len(wanted.parts()) + sum(map(len, wanted.lengths().values()))


def set_bytes(wanted: ValueSet) -> int:
    """Bytes of kernel memory that its entries take, about."""
    return sum(count * (_ENTRY_HEAD + key + value) for count, key, value in sizes_of(wanted).values())


def _length_table(wanted: TextSet) -> bytes:
    """u16 lengths, those of the least room first."""
    lengths = [length for found in wanted.lengths().values() for length in found]
    return struct.pack(f"<{MAX_LENGTHS}H", *lengths, *[0] * (MAX_LENGTHS - len(lengths)))
