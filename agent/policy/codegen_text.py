# SPDX-License-Identifier: Apache-2.0
"""Conditions on texts as C expressions: bytes become 64-bit words, compared eight at a time.

An unreadable or cut text meets no positive condition on the part that is not known; so the negative ones hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from agent.policy.model import Operator

_WORD = (1 << 64) - 1


def text_condition(name: str, operator: Operator, values: Iterable[bytes]) -> str:
    """Whether the text in the slot `name` (a C variable) meets the operator with any of the values, or for a negative
    one with none.
    """
    found = _any(name, operator.positive, sorted(set(values)))
    return f"!({found})" if operator.negative else found


def _any(name: str, operator: Operator, values: list[bytes]) -> str:
    groups: dict[int, list[bytes]] = defaultdict(list)
    for value in values:
        groups[len(value)].append(value)
    return " || ".join(_group(name, operator, length, group) for length, group in sorted(groups.items())) or "0"


def _group(name: str, operator: Operator, length: int, values: list[bytes]) -> str:
    """Values of one length: one length test, and for a suffix one copy, for all."""
    if operator is Operator.POSTFIX:
        either = " || ".join(_words("t", value) for value in values)
        return f"({{ const struct pg_string *t = pg_tail({name}, {length}); t && ({either}); }})"
    either = " || ".join(_words(name, value) for value in values)
    if operator is Operator.PREFIX:
        return f"(pg_has_head({name}, {length}) && ({either}))"
    return f"(pg_is_whole({name}, {length}) && ({either}))"


def _words(name: str, value: bytes) -> str:
    """The last word is masked to what the value has of it."""
    terms = []
    for index in range(0, len(value), 8):
        part = value[index : index + 8]
        number, mask = int.from_bytes(part, "little"), _WORD >> (64 - 8 * len(part))
        word = f"pg_word({name}, {index // 8})"
        terms.append(f"{word} == {number:#x}ULL" if mask == _WORD else f"({word} & {mask:#x}ULL) == {number:#x}ULL")
    return "(" + (" && ".join(terms) or "1") + ")"
