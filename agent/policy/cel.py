# SPDX-License-Identifier: Apache-2.0
"""Expressions over the arguments of a hook: the operator `CelExpr`.

The language is the part of the Common Expression Language that such expressions use: `arg0` is the first entry of the
hook's `args`; numbers; `+` and `-`; the comparisons; `&&`, `||` and `!` on what comparisons give; `int32(x)` and
`uint32(x)`, the low 32 bits; `and(x, y)`, `or(x, y)`, `xor(x, y)` and `not(x)` on bits. The whole must be a condition.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from agent.policy.model import Cel
from agent.policy.values import parse_number

# What an author can still read; the tree has fewer nodes than this.
MAX_EXPRESSION = 2048
# Of parentheses, calls and signs within each other: keeps the recursion of every reader of the tree bounded.
MAX_DEPTH = 32
# An operator puts its left side one deeper, so a chain of them is as deep as it is long.
MAX_OPERATORS = 128

_TOKEN = re.compile(
    r"[ \t\r\n]*(?:"
    r"(?P<number>[0-9][0-9A-Za-z_]*)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[-+<>!(),]))"
)
_SPACE = " \t\r\n"
_ARGUMENT = re.compile(r"arg(0|[1-9][0-9]{0,4})")
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_CONDITIONS = _RELATIONS | {"&&", "||", "!"}
_CALLS = {"int32": 1, "uint32": 1, "and": 2, "or": 2, "xor": 2, "not": 1}
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1


class CelError(ValueError):
    """What is wrong with an expression, at which character of it (from 1), and what to write."""

    def __init__(self, position: int, what: str, advice: str) -> None:
        super().__init__(position, what, advice)
        self.position = position
        self.what = what
        self.advice = advice


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    position: int
    """From 1."""
    kind: str


def parse_cel(text: str, is_number: Callable[[int], bool | None]) -> Cel:
    """The tree of an expression. `is_number` says whether the n-th entry of `args` is a number, None when there is no
    such entry. Raises CelError.
    """
    if len(text) > MAX_EXPRESSION:
        what = f"an expression has at most {MAX_EXPRESSION} characters"
        raise CelError(MAX_EXPRESSION + 1, what, "write several matchArgs items, all of which must hold")
    return _Parser(_tokens(text), is_number).parse()


def arguments(cel: Cel) -> tuple[int, ...]:
    """The places that an expression names, each once, in order."""
    return tuple(sorted({node.value for node in _nodes(cel) if node.op == "arg"}))


def count_nodes(cel: Cel) -> int:
    """How many operators, numbers and arguments a tree has."""
    return sum(1 for _ in _nodes(cel))


def _nodes(cel: Cel) -> Iterator[Cel]:
    waiting = [cel]
    while waiting:
        node = waiting.pop()
        waiting += node.operands
        yield node


def _tokens(text: str) -> list[_Token]:
    tokens, place = [], 0
    end = len(text.rstrip(_SPACE))
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            place += len(text[place:]) - len(text[place:].lstrip(_SPACE))
            advice = "use argN, numbers, + - == != < <= > >= && || ! ( ) and the named functions"
            raise CelError(place + 1, f"{text[place]!r} has no meaning in an expression", advice)
        kind = found.lastgroup or ""
        tokens.append(_Token(found[kind], found.start(kind) + 1, kind))
        place = found.end()
    return [*tokens, _Token("", end + 1, "end")]


class _Parser:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, tokens: list[_Token], is_number: Callable[[int], bool | None]) -> None:
        self._tokens = tokens
        self._at = 0
        self._is_number = is_number
        self._depth = 0
        self._operators = 0

    def parse(self) -> Cel:
        node = self._either()
        if self._token.kind != "end":
            self._fail(f'"{self._token.text}" cannot stand here', "put && or || between conditions")
        if not _is_condition(node):
            raise CelError(1, "the expression is a number and not a condition", "compare it, as in arg0 == 1")
        return node

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _fail(self, what: str, advice: str, token: _Token | None = None) -> NoReturn:
        raise CelError((token or self._token).position, what, advice)

    def _take(self, *texts: str) -> _Token | None:
        """The next token when it is one of these signs."""
        token = self._token
        if token.kind != "sign" or token.text not in texts:
            return None
        self._at += 1
        return token

    def _expect(self, text: str) -> None:
        if not self._take(text):
            found = f'"{self._token.text}"' if self._token.text else "the end"
            self._fail(f"{found} where {text} is needed", "check the parentheses")

    def _either(self) -> Cel:
        node = self._both()
        while token := self._take("||"):
            node = self._condition(token, node, self._both())
        return node

    def _both(self) -> Cel:
        node = self._relation()
        while token := self._take("&&"):
            node = self._condition(token, node, self._relation())
        return node

    def _relation(self) -> Cel:
        node = self._sum()
        if token := self._take(*_RELATIONS):
            node = self._numbers(token, token.text, node, self._sum())
            if again := self._take(*_RELATIONS):
                self._fail("comparisons cannot be chained", "join two of them with &&", again)
        return node

    def _sum(self) -> Cel:
        node = self._signed()
        while token := self._take("+", "-"):
            node = self._numbers(token, token.text, node, self._signed())
        return node

    def _signed(self) -> Cel:
        self._enter()
        try:
            if token := self._take("!"):
                return self._condition(token, self._signed())
            if token := self._take("-"):
                if self._token.kind == "number":
                    return Cel("const", value=self._number(negative=True))
                return self._numbers(token, "-", Cel("const"), self._signed())
            return self._primary()
        finally:
            self._depth -= 1

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"the expression is nested more than {MAX_DEPTH} deep", "write several matchArgs items")

    def _primary(self) -> Cel:
        if self._take("("):
            node = self._either()
            self._expect(")")
            return node
        if self._token.kind == "number":
            return Cel("const", value=self._number(negative=False))
        if self._token.kind != "name":
            found = f'"{self._token.text}"' if self._token.text else "the end"
            self._fail(f"{found} where a value is needed", "write argN, a number or a function")
        return self._name()

    def _number(self, negative: bool) -> int:
        token = self._token
        self._at += 1
        try:
            # CEL writes unsigned numbers with a u; here all have 64 bits.
            value = parse_number(token.text[:-1] if token.text[-1] in "uU" else token.text)
        except ValueError:
            self._fail(f'"{token.text}" is not a number', "write it in decimal or with 0x", token)
        value = -value if negative else value
        if not _LEAST <= value <= _GREATEST:
            self._fail(f"{token.text} does not fit 64 bits", f"write a number from {_LEAST} to {_GREATEST}", token)
        return value

    def _name(self) -> Cel:
        token = self._token
        self._at += 1
        if token.text in _CALLS:
            return self._call(token)
        found = _ARGUMENT.fullmatch(token.text)
        if found is None:
            known = ", ".join(_CALLS)
            self._fail(f'unknown name "{token.text}"', f"use arg0, arg1, … or the functions {known}", token)
        is_number = self._is_number(int(found[1]))
        if is_number is None:
            advice = "arg0 is the first entry of args, arg1 the second"
            self._fail(f"args has no entry for {token.text}", advice, token)
        if not is_number:
            self._fail(f"{token.text} is not a number", "use an argument of a number type", token)
        return Cel("arg", value=int(found[1]))

    def _call(self, token: _Token) -> Cel:
        self._expect("(")
        operands = [self._sum()]
        while self._take(","):
            operands.append(self._sum())
        self._expect(")")
        if len(operands) != _CALLS[token.text]:
            what = f"{token.text} takes {_CALLS[token.text]} and not {len(operands)} values"
            self._fail(what, "separate them with commas", token)
        return self._numbers(token, token.text, *operands)

    def _condition(self, token: _Token, *operands: Cel) -> Cel:
        self._count(token)
        if not all(map(_is_condition, operands)):
            self._fail(f"{token.text} needs conditions and has a number", "compare it, as in arg0 != 0", token)
        return Cel(token.text, operands)

    def _numbers(self, token: _Token, op: str, *operands: Cel) -> Cel:
        self._count(token)
        if any(map(_is_condition, operands)):
            self._fail(f"{token.text} needs numbers and has a condition", "join conditions with && and ||", token)
        return Cel(op, operands)

    def _count(self, token: _Token) -> None:
        self._operators += 1
        if self._operators > MAX_OPERATORS:
            what = f"the expression has more than {MAX_OPERATORS} operators"
            self._fail(what, "write several matchArgs items, all of which must hold", token)


def _is_condition(node: Cel) -> bool:
    return node.op in _CONDITIONS
