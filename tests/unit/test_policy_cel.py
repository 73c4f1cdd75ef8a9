# SPDX-License-Identifier: Apache-2.0
"""Expressions over arguments: their trees, and what they cannot be."""

import pytest

from agent.policy.cel import MAX_DEPTH, MAX_EXPRESSION, MAX_OPERATORS, CelError, arguments, count_nodes, parse_cel
from agent.policy.model import Cel


def _parse(text: str) -> Cel:
    return parse_cel(text, {0: True, 1: True, 2: False}.get)


def _spell(cel: Cel) -> str:
    """The tree with all parentheses."""
    if cel.op == "const":
        return str(cel.value)
    if cel.op == "arg":
        return f"a{cel.value}"
    return f"({' '.join([cel.op, *map(_spell, cel.operands)])})"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("arg0 == 1", "(== a0 1)"),
        ("  arg0==1\n", "(== a0 1)"),
        ("arg1 == int32(-1) && arg0 >= int32(1024)", "(&& (== a1 (int32 -1)) (>= a0 (int32 1024)))"),
        ("arg0 < 1 || arg0 > 5 && arg1 != 0x10", "(|| (< a0 1) (&& (> a0 5) (!= a1 16)))"),
        ("(arg0 < 1 || arg0 > 5) && arg1 <= 7u", "(&& (|| (< a0 1) (> a0 5)) (<= a1 7))"),
        ("arg0 - 1 - arg1 + 2 == 0", "(== (+ (- (- a0 1) a1) 2) 0)"),
        ("!(arg0 == 1)", "(! (== a0 1))"),
        ("!!(arg0 == 1)", "(! (! (== a0 1)))"),
        ("-arg0 == - 5", "(== (- 0 a0) -5)"),
        ("and(arg0, or(arg1, 3)) != xor(1, not(arg0))", "(!= (and a0 (or a1 3)) (xor 1 (not a0)))"),
        ("uint32(arg0 + 1) == 4294967295", "(== (uint32 (+ a0 1)) 4294967295)"),
        ("arg0 == -9223372036854775808", "(== a0 -9223372036854775808)"),
        ("arg0 == 1 && arg0 == 1 && arg0 == 1", "(&& (&& (== a0 1) (== a0 1)) (== a0 1))"),
    ],
)
def test_trees(text: str, tree: str) -> None:
    assert _spell(_parse(text)) == tree


def test_arguments_and_size() -> None:
    cel = _parse("arg1 == 1 || arg0 == arg1")
    assert (arguments(cel), count_nodes(cel)) == ((0, 1), 7)


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 1, "the end where a value is needed"),
        ("arg0", 1, "the expression is a number"),
        ("arg0 +", 7, "the end where a value"),
        ("arg0 == 1)", 10, '")" cannot stand here'),
        ("(arg0 == 1", 11, "the end where ) is needed"),
        ("arg0 < 1 < 2", 10, "comparisons cannot be chained"),
        ("arg2 == 1", 1, "arg2 is not a number"),
        ("1 == arg3", 6, "args has no entry for arg3"),
        ("arg01 == 1", 1, 'unknown name "arg01"'),
        ("ARG0 == 1", 1, 'unknown name "ARG0"'),
        ("arg0 == 'a'", 9, '"\'" has no meaning'),
        ("arg0 = 1", 6, "'=' has no meaning"),
        ("arg0 == 1.5", 10, "'.' has no meaning"),
        ("arg0 == 0b2", 9, '"0b2" is not a number'),
        ("arg0 == 9223372036854775808", 9, "9223372036854775808 does not fit"),
        ("arg0 && arg1 == 1", 6, "&& needs conditions"),
        ("!arg0", 1, "! needs conditions"),
        ("(arg0 == 1) + 1 == 2", 13, "+ needs numbers"),
        ("int32(arg0 == 1) == 1", 12, "== where ) is needed"),
        ("int32() == 1", 7, '")" where a value is needed'),
        ("int32(1, 2) == 1", 1, "int32 takes 1 and not 2"),
        ("and arg0 == 1", 5, '"arg0" where ( is needed'),
        ("é == 1", 1, "'é' has no meaning"),
    ],
)
def test_faults_have_their_place(text: str, position: int, what: str) -> None:
    with pytest.raises(CelError) as caught:
        _parse(text)
    assert (caught.value.position, caught.value.what.replace('"==" where', "== where")[: len(what)]) == (position, what)
    assert caught.value.advice


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_DEPTH + 1),
        "!" * (MAX_DEPTH + 1) + "(arg0 == 1)",
        "int32(" * MAX_DEPTH + "arg0",
        "arg0 " + "+ 1 " * (MAX_OPERATORS + 1) + "== 1",
        "arg0 == 1" + " " * MAX_EXPRESSION,
    ],
)
def test_size_is_limited(text: str) -> None:
    with pytest.raises(CelError, match=r"more than|at most"):
        _parse(text)


def test_long_chain_is_accepted_up_to_the_limit() -> None:
    assert count_nodes(_parse("arg0 " + "+ 1 " * (MAX_OPERATORS - 1) + "== 1")) == 2 * MAX_OPERATORS + 1
