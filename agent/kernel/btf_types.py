# SPDX-License-Identifier: Apache-2.0
"""The kernel's types as `resolve` asks for them, from BTF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Final

from agent.kernel.btf import ALIASES, ENUMS, MAX_DEPTH, Btf, BtfError, Kind
from agent.policy.facts import CMember, CType, FactsError, Prototype, RawTracepoint, Shape

# include/trace/bpf_probe.h: typedef void (*btf_trace_<name>)(void *__data, <the tracepoint's arguments>)
RAW_PREFIX: Final = "btf_trace_"
_SHAPES: Final = {
    Kind.VOID: Shape.VOID,
    Kind.INT: Shape.INTEGER,
    Kind.ENUM: Shape.ENUM,
    Kind.ENUM64: Shape.ENUM,
    Kind.FLOAT: Shape.FLOAT,
    Kind.PTR: Shape.POINTER,
    Kind.ARRAY: Shape.ARRAY,
    Kind.STRUCT: Shape.STRUCT,
    Kind.UNION: Shape.UNION,
    Kind.FWD: Shape.FORWARD,
    Kind.FUNC_PROTO: Shape.FUNCTION,
}
_KEYWORDS: Final = {"struct": (Kind.STRUCT,), "union": (Kind.UNION,), "typedef": (Kind.TYPEDEF,)}
_NAMED: Final = (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF)


class BtfTypes:
    """Answers of one BTF; each is made once."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._described: dict[int, CType] = {}
        self._members: dict[int, tuple[CMember, ...]] = {}

    def find(self, name: str) -> int | None:
        """See `Types.find`."""
        keyword, _, rest = name.rpartition(" ")
        kinds = _KEYWORDS.get(keyword, ()) if keyword else _NAMED
        if not rest.isascii():
            return None
        with _reading():
            return next((found for kind in kinds if (found := self._btf.find(kind, rest)) is not None), None)

    @cached_property
    def _names(self) -> frozenset[str]:
        with _reading():
            return frozenset(name for kind in (Kind.STRUCT, Kind.UNION) for name in self._btf.names(kind))

    def names(self) -> Iterable[str]:
        """See `Types.names`."""
        return self._names

    def describe(self, type_id: int) -> CType:
        """See `Types.describe`."""
        if type_id not in self._described:
            with _reading():
                self._described[type_id] = self._describe(type_id)
        return self._described[type_id]

    def members(self, type_id: int) -> tuple[CMember, ...]:
        """See `Types.members`."""
        if type_id not in self._members:
            with _reading():
                found = self._btf.members(self._btf.resolve(type_id))
            self._members[type_id] = tuple(CMember(m.name, m.type_id, m.bit_offset, m.bits) for m in found)
        return self._members[type_id]

    def raw_tracepoint(self, event: str) -> RawTracepoint | None:
        """The function type that the kernel declares for a tracepoint, without its first parameter, `__data`."""
        typedef = self.find(f"typedef {RAW_PREFIX}{event}")
        if typedef is None:
            return None
        with _reading():
            pointer = self._btf.resolve(typedef)
            parameters = self._btf.parameters(self._btf.resolve(self._btf.target(pointer)))
        return RawTracepoint(self, tuple(CMember(each.name, each.type_id) for each in parameters[1:]))

    def function_id(self, name: str) -> int | None:
        """The id of a function, by which the kernel attaches programs to it."""
        with _reading():
            return self._btf.find(Kind.FUNC, name)

    def function(self, name: str) -> Prototype | None:
        """What a function takes and returns; None when BTF does not have it."""
        found = self.function_id(name)
        if found is None:
            return None
        with _reading():
            prototype = self._btf.target(found)
            parameters = self._btf.parameters(prototype)
            result = self._btf.result(prototype)
        return Prototype(self, tuple(CMember(each.name, each.type_id) for each in parameters), result)

    def raw_tracepoint_names(self) -> Iterable[str]:
        """All that BTF has."""
        with _reading():
            names = self._btf.names(Kind.TYPEDEF)
            return [name.removeprefix(RAW_PREFIX) for name in names if name.startswith(RAW_PREFIX)]

    def _describe(self, type_id: int) -> CType:
        btf, names = self._btf, []
        is_user = False
        for _ in range(MAX_DEPTH):
            kind = btf.kind(type_id)
            if kind not in ALIASES:
                break
            if kind is Kind.TYPEDEF:
                names.append(btf.name(type_id))
            type_id = btf.target(type_id)
        if kind not in (Kind.PTR, Kind.ARRAY) and (name := btf.name(type_id)):
            names.append(name)
        if kind not in _SHAPES:
            raise BtfError(f"a {kind.name} is no type of a value", type_id)
        target = count = 0
        if kind is Kind.PTR:
            target = btf.target(type_id)
            is_user = btf.kind(target) is Kind.TYPE_TAG and btf.name(target) == "user"
        elif kind is Kind.ARRAY:
            array = btf.array(type_id)
            target, count = array.element, array.count
        return CType(
            _SHAPES[kind], tuple(names), self._size(type_id, kind), self._is_signed(type_id), target, count, is_user
        )

    def _size(self, type_id: int, kind: Kind) -> int:
        return 0 if kind in (Kind.VOID, Kind.FWD, Kind.FUNC_PROTO) else self._btf.size(type_id)

    def _is_signed(self, type_id: int) -> bool:
        kind = self._btf.kind(type_id)
        if kind is Kind.INT:
            return self._btf.integer(type_id).signed
        return kind in ENUMS and self._btf.is_signed_enum(type_id)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except BtfError as error:
        raise FactsError(f"the type information cannot be read: {error}", "report the kernel's version") from error
