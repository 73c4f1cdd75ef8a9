# SPDX-License-Identifier: Apache-2.0
"""Nodes to the filters on a process: its id, programs, namespaces and capabilities."""

from collections.abc import Callable
from typing import TypeVar

from agent.policy import schemas
from agent.policy.context import Context
from agent.policy.document import Scalar
from agent.policy.errors import quote
from agent.policy.fields import Fields, Schema, open_fields, read_word
from agent.policy.model import (
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    Operator,
    PidFilter,
)
from agent.policy.read_values import ValueReader
from agent.policy.spec_types import MAX_U32
from agent.policy.values import MAX_VALUE_BYTES, parse_number

HOST_NAMESPACE = "host_ns"

_T = TypeVar("_T")
_MEMBERSHIP = {operator.value: operator for operator in (Operator.IN, Operator.NOT_IN)}
_BINARY = _MEMBERSHIP | {
    operator.value: operator
    for operator in (Operator.PREFIX, Operator.NOT_PREFIX, Operator.POSTFIX, Operator.NOT_POSTFIX)
}
_NAMESPACES = {namespace.value: namespace for namespace in NamespaceType}
_CAPABILITY_TYPES = {each.value: each for each in CapabilityType}


class FilterReader:
    """Reads the filters of selectors that ask about the process and not about the call."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems = context.problems
        self._values = ValueReader(context)

    def pids(self, selector: Fields) -> tuple[PidFilter, ...]:
        """`matchPIDs`."""
        return self._each(selector, "matchPIDs", schemas.MATCH_PID, self._pid)

    def binaries(self, selector: Fields) -> tuple[BinaryFilter, ...]:
        """`matchBinaries`."""
        return self._each(selector, "matchBinaries", schemas.MATCH_BINARY, self._binary)

    def parent_binaries(self, selector: Fields) -> tuple[BinaryFilter, ...]:
        """`matchParentBinaries`."""
        return self._each(selector, "matchParentBinaries", schemas.MATCH_PARENT_BINARY, self._binary)

    def namespaces(self, selector: Fields) -> tuple[NamespaceFilter, ...]:
        """`matchNamespaces`."""
        return self._each(selector, "matchNamespaces", schemas.MATCH_NAMESPACE, self._namespace)

    def namespace_changes(self, selector: Fields) -> tuple[NamespaceChangeFilter, ...]:
        """`matchNamespaceChanges`."""
        schema = schemas.MATCH_NAMESPACE_CHANGE
        return self._each(selector, "matchNamespaceChanges", schema, self._namespace_change)

    def capabilities(self, selector: Fields) -> tuple[CapabilityFilter, ...]:
        """`matchCapabilities`."""
        return self._each(selector, "matchCapabilities", schemas.MATCH_CAPABILITY, self._capability)

    def capability_changes(self, selector: Fields) -> tuple[CapabilityChangeFilter, ...]:
        """`matchCapabilityChanges`."""
        schema = schemas.MATCH_CAPABILITY_CHANGE
        return self._each(selector, "matchCapabilityChanges", schema, self._capability_change)

    def _each(self, selector: Fields, name: str, schema: Schema, read: Callable[[Fields], _T | None]) -> tuple[_T, ...]:
        opened = [open_fields(node, schema, self._problems) for node in selector.items(name)]
        found = [read(fields) for fields in opened if fields is not None]
        return tuple(each for each in found if each is not None)

    def _scalars(self, fields: Fields) -> list[Scalar]:
        scalars = fields.some_strings("values", "a value")
        self._context.budget.spend(fields.source, 1 + len(scalars))
        return scalars

    def _pid(self, fields: Fields) -> PidFilter | None:
        operator = fields.word("operator", "operator", _MEMBERSHIP)
        if fields.required("values") is not None and fields.is_list("values") and not fields.items("values"):
            fields.report("values", "values is empty", "give at least one value")
        values = fields.integers("values", 0, MAX_U32)
        self._context.budget.spend(fields.source, 1 + len(values))
        namespace, follow = fields.flag("isNamespacePID"), fields.flag("followForks")
        return None if operator is None else PidFilter(operator, tuple(values), namespace, follow)

    def _binary(self, fields: Fields) -> BinaryFilter | None:
        operator = fields.word("operator", "operator", _BINARY)
        values = [self._path(scalar) for scalar in self._scalars(fields)]
        follow = fields.flag("followChildren")
        if operator is None:
            return None
        return BinaryFilter(operator, tuple(value for value in values if value), follow)

    def _path(self, scalar: Scalar) -> bytes | None:
        value = scalar.text.encode("utf-8")
        if not value or b"\0" in value:
            self._problems.report(scalar.source, f"{quote(scalar.text)} is not a path", "write a path or a part of one")
        elif len(value) > MAX_VALUE_BYTES:
            what = f"a value has {len(value)} bytes and the limit is {MAX_VALUE_BYTES}"
            self._problems.report(scalar.source, what, "shorten it")
        else:
            return value
        return None

    def _namespace(self, fields: Fields) -> NamespaceFilter | None:
        namespace = fields.word("namespace", "namespace", _NAMESPACES)
        operator = fields.word("operator", "operator", _MEMBERSHIP)
        scalars = self._scalars(fields)
        numbers = [self._inode(scalar) for scalar in scalars if scalar.text != HOST_NAMESPACE]
        host = any(scalar.text == HOST_NAMESPACE for scalar in scalars)
        if namespace is None or operator is None:
            return None
        return NamespaceFilter(namespace, operator, tuple(number for number in numbers if number is not None), host)

    def _inode(self, scalar: Scalar) -> int | None:
        try:
            number = parse_number(scalar.text)
        except ValueError:
            number = -1
        if 0 <= number <= MAX_U32:
            return number
        what = f"{quote(scalar.text)} is not the number of a namespace"
        advice = f"write an inode number as /proc/PID/ns shows it, or {HOST_NAMESPACE}"
        self._problems.report(scalar.source, what, advice)
        return None

    def _namespace_change(self, fields: Fields) -> NamespaceChangeFilter | None:
        operator = fields.word("operator", "operator", _MEMBERSHIP)
        found = [read_word(scalar, "namespace", _NAMESPACES, self._problems) for scalar in self._scalars(fields)]
        if operator is None:
            return None
        return NamespaceChangeFilter(operator, tuple(dict.fromkeys(each for each in found if each)))

    def _capability(self, fields: Fields) -> CapabilityFilter | None:
        parts = self._capability_parts(fields)
        return None if parts is None else CapabilityFilter(*parts)

    def _capability_change(self, fields: Fields) -> CapabilityChangeFilter | None:
        parts = self._capability_parts(fields)
        return None if parts is None else CapabilityChangeFilter(*parts)

    def _capability_parts(self, fields: Fields) -> tuple[CapabilityType, Operator, int, bool] | None:
        capability_type = CapabilityType.EFFECTIVE
        scalar = fields.string("type")
        if scalar is not None and scalar.text:
            known = read_word(scalar, "type of capabilities", _CAPABILITY_TYPES, self._problems)
            capability_type = known or capability_type
        operator = fields.word("operator", "operator", _MEMBERSHIP)
        mask = self._values.capabilities(self._scalars(fields))
        namespaced = fields.flag("isNamespaceCapability")
        return None if operator is None else (capability_type, operator, mask, namespaced)
