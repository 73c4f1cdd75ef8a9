# SPDX-License-Identifier: Apache-2.0
"""Conditions on values that are in maps (agent/policy/sets.py), as C expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.policy.model import Operator
from agent.policy.sets import PrefixSet, TextSet, ValueSet

Numbers = Mapping[ValueSet, int]
"""Of each set its number."""

_V4_BYTES = 4


def set_condition(name: str, wanted: TextSet, number: int) -> str:
    """Whether the text in the slot `name` (a C variable) meets the set's operator with any of its values."""
    return " || ".join((_wholes if wanted.operator is Operator.EQUAL else _parts)(name, wanted, number))


def _parts(name: str, wanted: TextSet, number: int) -> Iterator[str]:
    side = "PG_SET_HEAD" if wanted.operator is Operator.PREFIX else "PG_SET_TAIL"
    for size in wanted.parts():
        yield f"pg_set_begins({name}, {size}, {number}, {side})"
    first = 0
    for room, lengths in wanted.lengths().items():
        yield f"pg_set_finds({name}, {room}, {number}, {side}, {first}, {len(lengths)})"
        first += len(lengths)


def _wholes(name: str, wanted: TextSet, number: int) -> Iterator[str]:
    for room, lengths in wanted.lengths().items():
        yield f"pg_set_has({name}, {room}, {number}, {lengths[0]}, {lengths[-1]})"


def number_condition(name: str, number: int) -> str:
    """Whether a number is in a set."""
    return f"pg_in_range_set({number}, {name})"


def port_condition(name: str, side: str, number: int) -> str:
    """Whether the port of a connection is in a set."""
    return f"pg_net_port_in_set({name}, {side}, {number})"


def network_condition(name: str, side: str, sets: Mapping[int, PrefixSet], numbers: Numbers) -> str:
    """Whether the address of a connection is in a network of one of the sets, which are by the bytes of an address."""
    families = {size: "PG_AF_INET" if size == _V4_BYTES else "PG_AF_INET6" for size in sets}
    terms = (f"pg_net_addr_in_set({name}, {side}, {families[size]}, {numbers[each]})" for size, each in sets.items())
    return " || ".join(terms)
