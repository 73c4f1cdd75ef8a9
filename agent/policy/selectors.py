# SPDX-License-Identifier: Apache-2.0
"""Nodes to the selectors of a hook: argument matches and actions."""

from collections.abc import Iterable
from collections.abc import Mapping as ReadOnly

from agent.policy import schemas
from agent.policy.document import Node, Scalar
from agent.policy.errors import Problems, quote
from agent.policy.fields import Fields, check_string, one_of, open_fields, read_word
from agent.policy.model import (
    Action,
    ActionKind,
    ArgMatch,
    ArgType,
    Operator,
    Selector,
)
from agent.policy.values import number_range, parse_number

# PATH_MAX without its NUL: nothing that a system call reads as a path is longer.
MAX_VALUE_BYTES = 4095
# _NSIG of x86_64, include/uapi/asm-generic/signal.h.
MAX_SIGNAL = 64
MAX_ARG_INDEX = 5

_NUMBER_OPERATORS = (Operator.EQUAL, Operator.NOT_EQUAL, Operator.GT, Operator.LT, Operator.MASK)
_TEXT_OPERATORS = (Operator.EQUAL, Operator.NOT_EQUAL, Operator.PREFIX, Operator.POSTFIX)
_OPERATORS = {operator.value: operator for operator in Operator} | {
    "GreaterThan": Operator.GT,
    "LessThan": Operator.LT,
}
_ACTIONS = {kind.value: kind for kind in ActionKind}


class SelectorReader:
    """Reads the selectors of one hook; `types` has the declared arguments, None for those with a faulty type."""

    def __init__(self, types: ReadOnly[int, ArgType | None], problems: Problems) -> None:
        self._types = types
        self._problems = problems

    def read(self, node: Node) -> Selector | None:
        """One selector."""
        fields = open_fields(node, schemas.SELECTOR, self._problems)
        if fields is None:
            return None
        matches = [self._match(item) for item in fields.items("matchArgs")]
        actions = self._actions(fields.items("matchActions"))
        return Selector(tuple(match for match in matches if match), actions)

    def _match(self, node: Node) -> ArgMatch | None:
        fields = open_fields(node, schemas.MATCH_ARG, self._problems)
        if fields is None:
            return None
        index = fields.integer("index", 0, MAX_ARG_INDEX, required=True)
        arg_type = None if index is None else self._declared(index, fields)
        operator = self._operator(fields, arg_type)
        nodes = self._value_nodes(fields)
        if index is None or arg_type is None or operator is None:
            return None
        if arg_type.is_number:
            numbers = [self._number(value, arg_type) for value in nodes]
            return ArgMatch(index, operator, tuple(number for number in numbers if number is not None))
        texts = [self._text(value, operator) for value in nodes]
        return ArgMatch(index, operator, tuple(text for text in texts if text is not None))

    def _declared(self, index: int, fields: Fields) -> ArgType | None:
        if index not in self._types:
            what = f"matchArgs names argument {index}, which the kprobe does not declare"
            self._problems.report(fields.key_source("index"), what, f"add index {index} with its type to args")
        return self._types.get(index)

    def _operator(self, fields: Fields, arg_type: ArgType | None) -> Operator | None:
        scalar = fields.string("operator", required=True)
        if scalar is None:
            return None
        operator = read_word(scalar, "operator", _OPERATORS, schemas.UNSUPPORTED_OPERATORS, self._problems)
        if operator is None or arg_type is None:
            return operator
        fitting = _NUMBER_OPERATORS if arg_type.is_number else _TEXT_OPERATORS
        if operator in fitting:
            return operator
        what = f"operator {scalar.text} does not fit an argument of type {arg_type.value}"
        self._problems.report(scalar.source, what, f"use {one_of(fit.value for fit in fitting)}")
        return None

    def _value_nodes(self, fields: Fields) -> list[Scalar]:
        if fields.required("values") is None:
            return []
        items = fields.items("values")
        if fields.is_list("values") and not items:
            self._problems.report(fields.key_source("values"), "values is empty", "give at least one value")
        scalars = [check_string(item, "a value", self._problems) for item in items]
        return [scalar for scalar in scalars if scalar]

    def _number(self, scalar: Scalar, arg_type: ArgType) -> int | None:
        try:
            number = parse_number(scalar.text)
        except ValueError:
            what = f"{quote(scalar.text)} is not a number, and the argument has type {arg_type.value}"
            self._problems.report(scalar.source, what, "write it in decimal or with 0x, 0o or 0b")
            return None
        least, greatest = number_range(arg_type.bits, arg_type.signed)
        if least <= number <= greatest:
            return number
        what = f"{quote(scalar.text)} does not fit type {arg_type.value}"
        self._problems.report(scalar.source, what, f"write a number from {least} to {greatest}")
        return None

    def _text(self, scalar: Scalar, operator: Operator) -> bytes | None:
        value = scalar.text.encode("utf-8")
        if len(value) > MAX_VALUE_BYTES:
            what = f"a value has {len(value)} bytes and the limit is {MAX_VALUE_BYTES}"
            self._problems.report(scalar.source, what, "shorten it")
        elif b"\0" in value:
            what = "a value has a NUL byte, which ends the argument's text"
            self._problems.report(scalar.source, what, "leave it out")
        elif not value and operator in (Operator.PREFIX, Operator.POSTFIX):
            what = f"an empty value for {operator.value} matches everything"
            self._problems.report(scalar.source, what, "leave the match out or write a value")
        else:
            return value
        return None

    def _actions(self, nodes: tuple[Node, ...]) -> tuple[Action, ...]:
        actions: list[Action] = []
        for node in nodes:
            action = self._action(node)
            if action is None:
                continue
            if action in actions:
                self._problems.report(node.source, f"{_spell(action)} is given twice", "keep one of them")
            elif _contradicts(action, actions):
                what = "Post and NoPost contradict each other in one selector"
                self._problems.report(node.source, what, "keep one of them")
            actions.append(action)
        return tuple(actions)

    def _action(self, node: Node) -> Action | None:
        fields = open_fields(node, schemas.ACTION, self._problems)
        scalar = None if fields is None else fields.string("action", required=True)
        if fields is None or scalar is None:
            return None
        kind = read_word(scalar, "action", _ACTIONS, schemas.UNSUPPORTED_ACTIONS, self._problems)
        if kind is ActionKind.SIGNAL:
            signal = fields.integer("argSig", 1, MAX_SIGNAL, required=True)
            return None if signal is None else Action(kind, signal)
        if kind is not None and fields.integer("argSig", 0, MAX_SIGNAL):
            what = f"argSig has no meaning for {kind.value}"
            self._problems.report(fields.key_source("argSig"), what, "leave it out or use Signal")
        return None if kind is None else Action(kind)


def _spell(action: Action) -> str:
    return f"action {action.kind.value}" + ("" if action.signal is None else f" {action.signal}")


def _contradicts(action: Action, others: Iterable[Action]) -> bool:
    pair = {ActionKind.POST, ActionKind.NO_POST}
    return any({action.kind, other.kind} == pair for other in others)
