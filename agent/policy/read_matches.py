# SPDX-License-Identifier: Apache-2.0
"""Nodes to conditions on arguments: matchArgs, matchData and matchReturnArgs."""

from collections.abc import Callable

from agent.policy import schemas
from agent.policy.cel import CelError, arguments, count_nodes, parse_cel
from agent.policy.context import Context, Declared, HookShape, places_by_index
from agent.policy.document import Node, Scalar
from agent.policy.fields import Fields, one_of, open_fields
from agent.policy.model import ArgFilter, ArgType, Cel, FilterValue, Operator
from agent.policy.operators import PRIVILEGED, fitting
from agent.policy.read_values import ValueReader
from agent.policy.spec_types import MAX_U32
from agent.policy.spec_words import OPERATOR_SYNONYMS

# In and NotIn compare processes; their names are kept for the advice.
_OF_PROCESSES = {Operator.IN.value: Operator.EQUAL, Operator.NOT_IN.value: Operator.NOT_EQUAL}
_OPERATORS = {each.value: each for each in Operator if each.value not in _OF_PROCESSES} | dict(OPERATOR_SYNONYMS)

ARGS, DATA, RETURN_ARGS = "matchArgs", "matchData", "matchReturnArgs"


class MatchReader:
    """Reads the conditions of the selectors of one hook."""

    def __init__(self, context: Context, shape: HookShape) -> None:
        self._context = context
        self._problems = context.problems
        self._shape = shape
        self._places_by_index = places_by_index(shape.args)
        self._values = ValueReader(context)

    def args(self, selector: Fields) -> tuple[ArgFilter, ...]:
        """`matchArgs`: on the hook's `args`."""
        return self._each(selector, ARGS, lambda fields: self._match(fields, ARGS, self._shape.args))

    def data(self, selector: Fields) -> tuple[ArgFilter, ...]:
        """`matchData`: on the hook's `data`."""
        return self._each(selector, DATA, lambda fields: self._match(fields, DATA, self._shape.data))

    def return_args(self, selector: Fields) -> tuple[ArgFilter, ...]:
        """`matchReturnArgs`: on what the call returns."""
        return self._each(selector, RETURN_ARGS, self._return_match)

    def _each(self, selector: Fields, name: str, read: Callable[[Fields], ArgFilter | None]) -> tuple[ArgFilter, ...]:
        opened = [self._open(node) for node in selector.items(name)]
        found = [read(fields) for fields in opened if fields is not None]
        return tuple(each for each in found if each is not None)

    def _open(self, node: Node) -> Fields | None:
        fields = open_fields(node, schemas.MATCH_ARG, self._problems)
        if fields is not None:
            self._context.budget.spend(fields.source, 1 + len(fields.items("values")))
        return fields

    def _match(self, fields: Fields, section: str, declared: tuple[Declared, ...]) -> ArgFilter | None:
        operator = self._operator(fields)
        if operator is Operator.CEL_EXPR and section == ARGS:
            return self._expression(fields)
        positions = self._positions(fields, section, declared)
        if operator is None or positions is None:
            return None
        if operator is Operator.CAPABILITIES_GAINED:
            return self._gained(fields, positions, declared)
        if len(positions) != 1:
            advice = "name one, and write a matchArgs item for each"
            fields.report("args", f"operator {operator.value} compares one argument and not {len(positions)}", advice)
            return None
        arg = declared[positions[0]].arg
        if arg is not None and arg.return_copy:
            what = "the argument is read when the call returns (returnCopy), and conditions are asked before"
            fields.report("index" if fields.node("index") else "args", what, "leave the match or returnCopy out")
            return None
        arg_type = None if arg is None else arg.type
        if arg_type is None or not self._fits(fields, operator, arg_type, in_args=section == ARGS):
            return None
        return ArgFilter(positions, operator, self._compared(fields, operator, arg_type), fields.source)

    def _return_match(self, fields: Fields) -> ArgFilter | None:
        operator = self._operator(fields)
        arg = self._shape.return_arg
        if fields.items("args"):
            fields.report("args", "matchReturnArgs compares the returned value alone", "leave args out")
        index = fields.integer("index", 0, MAX_U32)
        if arg is None or operator is None:
            return None
        if index not in (None, 0, arg.index):
            advice = f"leave index out, or write that of returnArg, {arg.index}"
            fields.report("index", "matchReturnArgs compares the returned value alone", advice)
        if not self._fits(fields, operator, arg.type, in_args=False):
            return None
        return ArgFilter((), operator, self._compared(fields, operator, arg.type), fields.source)

    def _operator(self, fields: Fields) -> Operator | None:
        scalar = fields.string("operator", required=True)
        if scalar is not None and scalar.text in _OF_PROCESSES:
            instead = _OF_PROCESSES[scalar.text].value
            what = f"operator {scalar.text} does not compare arguments"
            self._problems.report(scalar.source, what, f"use {instead}, which takes any number of values")
            return None
        return fields.word("operator", "operator", _OPERATORS) if scalar is not None else None

    def _fits(self, fields: Fields, operator: Operator, arg_type: ArgType, in_args: bool) -> bool:
        """Whether an operator fits a type; what takes several arguments fits none here."""
        several = (Operator.CEL_EXPR, Operator.CAPABILITIES_GAINED)
        known = [each for each in fitting(arg_type) if in_args or each not in several]
        if operator in known and operator not in several:
            return True
        scalar = fields.string("operator")
        spelled = operator.value if scalar is None else scalar.text
        advice = f"use {one_of(each.value for each in known)}" if known else "leave the match out"
        what = f"operator {spelled} does not fit an argument of type {arg_type.value}"
        self._problems.report(fields.source if scalar is None else scalar.source, what, advice)
        return False

    def _positions(self, fields: Fields, section: str, declared: tuple[Declared, ...]) -> tuple[int, ...] | None:
        """The places of the compared entries; None with a report."""
        if fields.node("args") is not None and (not fields.is_list("args") or fields.items("args")):
            if fields.node("index") is not None and fields.integer("index", 0, MAX_U32):
                fields.report("index", "index and args name the same thing in two ways", "keep one of them")
            return self._places(fields, section, declared)
        index = 0 if fields.node("index") is None else fields.integer("index", 0, MAX_U32)
        if index is None:
            return None
        if section == DATA:
            return self._place(fields, "index", index, section, declared)
        found = self._places_by_index.get(index, [])
        if not found:
            what = f"{section} names argument {index}, which the hook does not declare"
            fields.report("index", what, f"add index {index} with its type to args")
            return None
        if len(found) > 1:
            what = f"argument {index} is declared {len(found)} times"
            fields.report("index", what, f"name one by its place in args, as args: [{found[0]}]")
            return None
        return tuple(found)

    def _places(self, fields: Fields, section: str, declared: tuple[Declared, ...]) -> tuple[int, ...] | None:
        numbers = fields.integers("args", 0, MAX_U32)
        if len(numbers) != len(fields.items("args")) or not numbers:
            return None
        found = [self._place(fields, "args", number, section, declared) for number in numbers]
        places = tuple(place for each in found if each for place in each)
        if len(set(numbers)) != len(numbers):
            fields.report("args", "args names a place twice", "name each once")
            return None
        return places if len(places) == len(numbers) else None

    def _place(
        self, fields: Fields, name: str, number: int, section: str, declared: tuple[Declared, ...]
    ) -> tuple[int, ...] | None:
        if number < len(declared):
            return (number,)
        what = f"{section} names place {number}, and {'data' if section == DATA else 'args'} has {len(declared)}"
        fields.report(name, what, "places count from 0")
        return None

    def _compared(self, fields: Fields, operator: Operator, arg_type: ArgType) -> tuple[FilterValue, ...]:
        if operator in PRIVILEGED:
            if fields.items("values"):
                what = f"{operator.value} takes no values: it asks for a port below 1024"
                fields.report("values", what, "leave them out")
            return ()
        return self._values.read(operator, arg_type, fields.some_strings("values", "a value"))

    def _gained(self, fields: Fields, positions: tuple[int, ...], declared: tuple[Declared, ...]) -> ArgFilter | None:
        if len(positions) != 2:
            what = "CapabilitiesGained compares two sets of capabilities"
            fields.report("args", what, "write args with the places of the old set and the new one, as args: [0, 1]")
            return None
        types = [_type(declared[position]) for position in positions]
        if any(arg_type is not None and not arg_type.is_capability_set for arg_type in types):
            advice = "use kernel_cap_t, cap_effective, cap_permitted or cap_inheritable"
            fields.report("args", "CapabilitiesGained needs two arguments that are sets of capabilities", advice)
            return None
        scalars = fields.strings("values", "a capability")
        mask = (self._values.capabilities(scalars),) if scalars else ()
        return ArgFilter(positions, Operator.CAPABILITIES_GAINED, mask, fields.source)

    def _expression(self, fields: Fields) -> ArgFilter | None:
        # An index of 0 is what the API server writes where there is none.
        for name, given in (("index", fields.integer("index", 0, MAX_U32)), ("args", fields.items("args"))):
            if given:
                advice = "leave it out: arg0 in the expression is the first entry of args"
                fields.report(name, f"{name} has no meaning for CelExpr", advice)
        scalars = fields.some_strings("values", "an expression")
        if len(scalars) > 1:
            self._problems.report(scalars[1].source, "CelExpr takes one expression", "join them with && or ||")
        tree = self._tree(scalars[0]) if scalars else None
        if tree is None:
            return None
        positions = arguments(tree)
        if not positions:
            what = "the expression names no argument, so that it always or never holds"
            self._problems.report(scalars[0].source, what, "compare arg0, the first entry of args")
        return ArgFilter(positions, Operator.CEL_EXPR, (tree,), fields.source)

    def _tree(self, scalar: Scalar) -> Cel | None:
        try:
            tree = parse_cel(scalar.text, self._is_number)
        except CelError as error:
            what = f"expression, character {error.position}: {error.what}"
            self._problems.report(scalar.source, what, error.advice)
            return None
        self._context.budget.spend(scalar.source, count_nodes(tree))
        return tree

    def _is_number(self, place: int) -> bool | None:
        """Whether the entry of args is a number, None when there is none; of a faulty one it is believed."""
        if place >= len(self._shape.args):
            return None
        arg_type = _type(self._shape.args[place])
        return arg_type is None or arg_type is ArgType.AUTO or arg_type.is_number


def _type(declared: Declared) -> ArgType | None:
    return None if declared.arg is None else declared.arg.type
