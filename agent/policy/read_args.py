# SPDX-License-Identifier: Apache-2.0
"""Nodes to arguments, entries of `data` and returned values."""

import re
from dataclasses import dataclass, replace

from agent.policy import schemas
from agent.policy.context import Context, Declared
from agent.policy.document import Node, Scalar
from agent.policy.errors import quote
from agent.policy.fields import Fields, Schema, open_fields, read_word
from agent.policy.hook_types import HookTypes, types_of
from agent.policy.model import Arg, ArgType, DataSource, HookKind, Source
from agent.policy.selectors import read_label
from agent.policy.spec_types import MAX_U32
from agent.policy.values import is_identifier

# Members and indexes of a path. Each is a read of memory in the program; the deepest paths of the kernel have 12.
MAX_RESOLVE = 32
# An element of an array: its index is a step of its own.
_ELEMENT = re.compile(r"\[([0-9]{1,9})\]")

_TYPES = {arg_type.value: arg_type for arg_type in ArgType}
_SOURCES = {source.value: source for source in DataSource}
# Buffers whose length another argument has; without it of the first nobody knows how much there is to read.
_SIZED = frozenset({ArgType.CHAR_BUF, ArgType.CHAR_IOVEC, ArgType.SOCKADDR, ArgType.SOCKADDR_UN, ArgType.CONST_BUF})
_NEEDS_SIZE = frozenset({ArgType.CHAR_BUF, ArgType.CHAR_IOVEC})
# What a call may fill in.
_COPIED = _SIZED | {ArgType.STRING}
# Where a field's length is known from the tracepoint's format.
_FORMATTED = frozenset({HookKind.TRACEPOINT, HookKind.RAW_TRACEPOINT})


@dataclass(frozen=True, slots=True)
class _Names:
    """How a value is found in BTF."""

    resolve: tuple[str, ...]
    btf_type: str
    btf_module: str


class ArgReader:
    """Reads the arguments of one hook."""

    def __init__(self, context: Context, kind: HookKind, returns: bool) -> None:
        self._context = context
        self._problems = context.problems
        self._kind = kind
        self._returns = returns
        self._types: HookTypes = types_of(kind)

    def args(self, nodes: tuple[Node, ...]) -> tuple[Declared, ...]:
        """The entries of `args`."""
        found: list[Declared] = []
        readings: set[Arg] = set()
        for node in nodes:
            self._context.budget.spend(node.source, 1)
            declared = self._declared(node)
            found.append(declared)
            if declared.arg is None:
                continue
            reading = replace(declared.arg, label="", max_data=False)
            if reading in readings:
                what = f"argument {declared.arg.index} is declared twice"
                self._problems.report(declared.arg.source or node.source, what, "keep one of them")
            readings.add(reading)
        return tuple(found)

    def data(self, nodes: tuple[Node, ...]) -> tuple[Declared, ...]:
        """The entries of `data`: values that begin at the task or its registers."""
        for node in nodes:
            self._context.budget.spend(node.source, 1)
        return tuple(self._data_entry(node) for node in nodes)

    def return_arg(self, node: Node) -> Arg | None:
        """`returnArg`."""
        fields = open_fields(node, schemas.RETURN_ARG, self._problems)
        if fields is None:
            return None
        index = fields.integer("index", 0, MAX_U32) or 0
        arg_type = self._type(fields, self._types.returned, "a returned value")
        names = self._names(fields)
        for name in ("sizeArgIndex", "maxData", "returnCopy"):
            given = fields.integer(name, 0, MAX_U32) if name == "sizeArgIndex" else fields.flag(name)
            if given:
                fields.report(name, f"{name} has no meaning for returnArg", "leave it out")
        label = read_label(fields, self._problems)
        if arg_type is None or names is None:
            return None
        return Arg(index, arg_type, None, names.resolve, label, False, False, *_btf(names), None, fields.source)

    def _declared(self, node: Node) -> Declared:
        fields = open_fields(node, schemas.ARG, self._problems)
        if fields is None:
            return Declared(None, None)
        index = fields.integer("index", 0, self._types.greatest_index, required=True)
        return Declared(index, self._arg(fields, index, self._types.args, schemas.ARG))

    def _data_entry(self, node: Node) -> Declared:
        fields = open_fields(node, schemas.DATA, self._problems)
        if fields is None:
            return Declared(0, None)
        fields.integer("index", 0, MAX_U32)
        source = fields.word("source", "source", _SOURCES)
        scalar = fields.string("resolve", required=True)
        if scalar is not None and not scalar.text:
            self._problems.report(scalar.source, "resolve is empty", "name a member, as mm.owner.pid")
        arg = self._arg(fields, 0, self._types.data, schemas.DATA)
        if arg is None or source is None or not arg.resolve:
            return Declared(0, None)
        return Declared(0, replace(arg, data_source=source))

    def _arg(self, fields: Fields, index: int | None, known: frozenset[ArgType], schema: Schema) -> Arg | None:
        arg_type = self._type(fields, known, schema.what)
        names = self._names(fields)
        size_arg = self._size_arg(fields, index, arg_type, names is not None and bool(names.resolve))
        max_data = self._only(fields, "maxData", frozenset({ArgType.CHAR_BUF}), arg_type)
        return_copy = self._return_copy(fields, arg_type)
        label = read_label(fields, self._problems)
        if index is None or arg_type is None or names is None:
            return None
        place = fields.key_source("index")
        return Arg(index, arg_type, size_arg, names.resolve, label, max_data, return_copy, *_btf(names), None, place)

    def _type(self, fields: Fields, known: frozenset[ArgType], what: str) -> ArgType | None:
        scalar = fields.string("type")
        if fields.node("type") is None or (scalar is not None and not scalar.text):
            return self._default_type(fields, known)
        arg_type = None if scalar is None else read_word(scalar, "argument type", _TYPES, self._problems)
        if scalar is None or arg_type is None or arg_type in known:
            return arg_type
        if arg_type is ArgType.AUTO:
            return self._default_type(fields, known)
        reason = self._types.reason(arg_type)
        self._problems.report(scalar.source, f"{what} of {self._types.noun} cannot have type {scalar.text}", reason)
        return None

    def _default_type(self, fields: Fields, known: frozenset[ArgType]) -> ArgType | None:
        if ArgType.AUTO in known:
            return ArgType.AUTO
        what = "the type cannot be found out here" if fields.node("type") else f"{fields.what} has no type"
        fields.report("type", what, "give it the field type, as int or string")
        return None

    def _names(self, fields: Fields) -> _Names | None:
        scalar = fields.string("resolve")
        resolve: tuple[str, ...] | None = ()
        if scalar is not None and scalar.text:
            resolve = self._resolve(scalar)
        btf_type = self._btf_name(fields, "btfType")
        module = self._btf_name(fields, "btfTypeModule")
        if btf_type and resolve == ():
            fields.report("btfType", "btfType has no meaning without resolve", "leave it out or write resolve")
        if module and not btf_type:
            fields.report("btfTypeModule", "btfTypeModule has no meaning without btfType", "leave it out")
        return None if resolve is None else _Names(resolve, btf_type, module)

    def _resolve(self, scalar: Scalar) -> tuple[str, ...] | None:
        steps = _ELEMENT.sub(r".\1", scalar.text).removeprefix("." if scalar.text.startswith("[") else "").split(".")
        if len(steps) > MAX_RESOLVE:
            what = f"resolve has {len(steps)} members and the limit is {MAX_RESOLVE}"
            self._problems.report(scalar.source, what, "name a member that is nearer")
            return None
        for step in steps:
            if not is_identifier(step) and not (step.isascii() and step.isdigit() and len(step) < 10):
                what = f"resolve: {quote(step)} is neither a member's name nor an index"
                self._problems.report(scalar.source, what, "write members with dots between, as mm.owner.pid or a[3].b")
                return None
        return tuple(steps)

    def _btf_name(self, fields: Fields, name: str) -> str:
        scalar = fields.string(name)
        text = "" if scalar is None else scalar.text.removeprefix("struct ").removeprefix("union ")
        if (
            scalar is not None
            and text
            and not is_identifier(text.replace("-", "_") if name == "btfTypeModule" else text)
        ):
            self._problems.report(scalar.source, f"{quote(scalar.text)} is not a name in BTF", "write a C name")
        return text

    def _only(self, fields: Fields, name: str, types: frozenset[ArgType], arg_type: ArgType | None) -> bool:
        """A flag that has a meaning for some types only."""
        given = fields.flag(name)
        if given and arg_type is not None and arg_type not in types:
            fields.report(name, f"{name} has no meaning for type {arg_type.value}", "leave it out")
        return given

    def _return_copy(self, fields: Fields, arg_type: ArgType | None) -> bool:
        given = self._only(fields, "returnCopy", _COPIED, arg_type)
        if given and not self._returns:
            what = "returnCopy reads the argument when the call returns"
            advice = "give the hook return: true" if self._types.returned else "leave it out"
            fields.report("returnCopy", what, advice)
        return given

    def _size_arg(self, fields: Fields, index: int | None, arg_type: ArgType | None, resolved: bool) -> int | None:
        """The 0-based argument that holds the length; in the policy it counts from 1, and 0 means none."""
        number = fields.integer("sizeArgIndex", 0, self._types.greatest_index + 1)
        source = fields.key_source("sizeArgIndex")
        if arg_type is None:
            return None
        if arg_type not in _SIZED:
            if number:
                self._problems.report(source, f"sizeArgIndex has no meaning for type {arg_type.value}", "leave it out")
            return None
        if not number:
            if arg_type in _NEEDS_SIZE and not resolved and self._kind not in _FORMATTED:
                self._report_no_size(fields, source, arg_type)
            return None
        if number - 1 == index and not resolved:
            what = "sizeArgIndex names the buffer itself"
            self._problems.report(source, what, "it counts from 1: write the length's index plus one")
        return number - 1

    def _report_no_size(self, fields: Fields, source: Source, arg_type: ArgType) -> None:
        if fields.node("sizeArgIndex") is None or fields.integer("sizeArgIndex", 0, MAX_U32) == 0:
            what = f"a {arg_type.value} needs sizeArgIndex, the argument with its length"
            self._problems.report(source, what, "it counts from 1: write the length's index plus one")


def _btf(names: _Names) -> tuple[str, str]:
    return names.btf_type, names.btf_module
