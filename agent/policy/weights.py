# SPDX-License-Identifier: Apache-2.0
"""How much of a program conditions take, about: in the unit of one comparison of eight bytes."""

from __future__ import annotations

from agent.policy.automaton import SUBSTRING_OPERATORS, substrings
from agent.policy.model import ArgFilter, BinaryFilter, Selector
from agent.policy.sets import TextSet, ValueSet, binary_set, filter_sets, look_ups

_WORD_BYTES = 8
_LOOK_WEIGHT = 15  # one look-up in a set


def selector_weight(selector: Selector) -> int:
    """Of all its filters."""
    filters = (*selector.args, *selector.data, *selector.return_args)
    paths = sum(_binary_weight(each) for each in (*selector.binaries, *selector.parent_binaries))
    numbers = sum(len(pid.values) for pid in selector.pids) + sum(len(n.values) for n in selector.namespaces)
    return 10 + sum(_filter_weight(each) for each in filters) + paths + numbers


def _filter_weight(each: ArgFilter) -> int:
    if each.operator in SUBSTRING_OPERATORS:
        return 1500 * len(substrings(each))
    if sets := filter_sets(each):
        return sum(map(_set_weight, sets))
    return sum(_text_weight(value) if isinstance(value, bytes) else 1 for value in each.values) or 1


def _binary_weight(each: BinaryFilter) -> int:
    found = binary_set(each)
    return _set_weight(found) if found else sum(map(_text_weight, each.values))


def _set_weight(wanted: ValueSet) -> int:
    turned = sum(wanted.parts()) // _WORD_BYTES if isinstance(wanted, TextSet) else 0
    return _LOOK_WEIGHT * look_ups(wanted) + turned


def _text_weight(value: bytes) -> int:
    return 2 + len(value) // _WORD_BYTES
