# SPDX-License-Identifier: Apache-2.0
"""Conditions on texts: every byte and the length of every value is compared, and negation is of the whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.codegen_text import text_condition
from agent.policy.model import Operator

TERM = r"\(?pg_word\(\w+, \d+\)(?: & (0x[0-9a-f]+)ULL\))? == (0x[0-9a-f]+)ULL"
ANY_TERM = TERM.replace("(0x", "(?:0x")
OPERATORS = (
    *(Operator.EQUAL, Operator.NOT_EQUAL, Operator.PREFIX, Operator.NOT_PREFIX),
    *(Operator.POSTFIX, Operator.NOT_POSTFIX),
)
TESTS = {Operator.EQUAL: "pg_is_whole", Operator.PREFIX: "pg_has_head", Operator.POSTFIX: "pg_tail"}


def compared_bytes(c: str) -> set[bytes]:
    """What the C compares whole: of each term its value, as many bytes as its mask has."""
    groups = re.findall(rf"\(({ANY_TERM}(?: && {ANY_TERM})*)\)", c)
    return {b"".join(_word(*found) for found in re.findall(TERM, group)) for group in groups}


def _word(mask: str, value: str) -> bytes:
    return int(value, 16).to_bytes(8, "little")[: int(mask, 16).bit_length() // 8 if mask else 8]


@given(st.sampled_from(OPERATORS), st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_every_byte_and_the_length_of_every_value_is_compared(operator: Operator, values: list[bytes]) -> None:
    c = text_condition("s0", operator, values)
    assert compared_bytes(c) == set(values)
    lengths = re.findall(rf"{TESTS[operator.positive]}\(s0, (\d+)\)", c)
    assert sorted(map(int, lengths)) == sorted({len(value) for value in values})
    assert c.startswith("!(") is operator.negative


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_negative_is_the_positive_negated(operator: Operator) -> None:
    values = [b"ab", b"c" * 9, b""]
    positive = text_condition("t", operator.positive, values)
    assert text_condition("t", operator, values) == (f"!({positive})" if operator.negative else positive)


def test_no_value_matches_nothing() -> None:
    assert text_condition("s", Operator.EQUAL, []) == "0"
    assert text_condition("s", Operator.NOT_EQUAL, []) == "!(0)"


def test_an_empty_value_is_the_empty_text() -> None:
    assert text_condition("s", Operator.EQUAL, [b""]) == "(pg_is_whole(s, 0) && ((1)))"


def test_order_and_repetition_of_values_is_of_no_meaning() -> None:
    one, two = ([b"b", b"a", b"longer"], [b"longer", b"a", b"b", b"a"])
    assert text_condition("s", Operator.PREFIX, one) == text_condition("s", Operator.PREFIX, two)


def test_values_of_one_length_have_one_length_test_and_one_copy() -> None:
    assert text_condition("s", Operator.POSTFIX, [b"abc", b"xyz"]).count("pg_tail(s, 3)") == 1
    assert text_condition("s", Operator.EQUAL, [b"abc", b"xyz"]).count("pg_is_whole(s, 3)") == 1
