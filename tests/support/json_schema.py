# SPDX-License-Identifier: Apache-2.0
"""Validation against the part of JSON Schema (draft 2020-12) that our schemas use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]
_Check = Callable[["Validator", Any, Any, Schema], Iterator[str]]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
}
# What is bounded, what is measured of it, whether from below.
_BOUNDS: dict[str, tuple[type, Callable[[Any], int], bool]] = {
    "minimum": (int, int, True),
    "maximum": (int, int, False),
    "minLength": (str, len, True),
    "minItems": (list, len, True),
    "maxItems": (list, len, False),
    "maxProperties": (dict, len, False),
}
# Words that say nothing about what is valid.
_NOTES = frozenset({"$schema", "$defs", "title", "description", "default", "deprecated", "then"})


class Validator:
    """Checks values against one schema document. Raises NotImplementedError for a keyword that it does not know."""

    def __init__(self, document: Schema) -> None:
        self.document = document

    def find_faults(self, value: Any) -> list[str]:
        """What is wrong with a value, `path: keyword`; nothing when it is valid."""
        return list(self.walk(value, self.document))

    def walk(self, value: Any, schema: Schema) -> Iterator[str]:
        """The faults of a value in one schema of the document."""
        for keyword, wanted in schema.items():
            if keyword in _NOTES:
                continue
            if keyword not in _CHECKS:
                raise NotImplementedError(keyword)
            yield from _CHECKS[keyword](self, value, wanted, schema)

    def is_valid(self, value: Any, schema: Schema) -> bool:
        """Whether a value is valid in one schema of the document."""
        return not list(self.walk(value, schema))

    def resolve(self, reference: str) -> Schema:
        """The definition that a `#/$defs/NAME` names."""
        found: Schema = self.document["$defs"][reference.removeprefix("#/$defs/")]
        return found


def _fault(holds: bool, keyword: str) -> Iterator[str]:
    if not holds:
        yield keyword


def _below(name: str | int, faults: Iterator[str]) -> Iterator[str]:
    return (f"{name}/{fault}" for fault in faults)


def _is_same(value: Any, wanted: Any) -> bool:
    """Equality of JSON values: 1 is not true."""
    return type(value) is type(wanted) and bool(value == wanted)


def _check_type(_: Validator, value: Any, wanted: str, _schema: Schema) -> Iterator[str]:
    fits = isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
    return _fault(fits, f"type {wanted}")


def _check_enum(_: Validator, value: Any, wanted: list[Any], _schema: Schema) -> Iterator[str]:
    return _fault(any(_is_same(value, each) for each in wanted), "enum")


def _check_const(_: Validator, value: Any, wanted: Any, _schema: Schema) -> Iterator[str]:
    return _fault(_is_same(value, wanted), "const")


def _check_bound(keyword: str) -> _Check:
    kind, measure, is_lower = _BOUNDS[keyword]

    def check(_: Validator, value: Any, wanted: int, _schema: Schema) -> Iterator[str]:
        if isinstance(value, kind):
            size = measure(value)
            yield from _fault(size >= wanted if is_lower else size <= wanted, keyword)

    return check


def _check_pattern(_: Validator, value: Any, wanted: str, _schema: Schema) -> Iterator[str]:
    return _fault(not isinstance(value, str) or re.search(wanted, value) is not None, "pattern")


def _check_required(_: Validator, value: Any, wanted: list[str], _schema: Schema) -> Iterator[str]:
    for name in wanted:
        yield from _fault(not isinstance(value, dict) or name in value, f"{name}: required")


def _check_properties(validator: Validator, value: Any, wanted: Schema, _schema: Schema) -> Iterator[str]:
    for name in wanted.keys() & (value.keys() if isinstance(value, dict) else ()):
        yield from _below(name, validator.walk(value[name], wanted[name]))


def _check_additional(validator: Validator, value: Any, wanted: bool | Schema, schema: Schema) -> Iterator[str]:
    for name in value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ():
        if isinstance(wanted, bool):
            yield from _fault(wanted, f"{name}: unknown")
        else:
            yield from _below(name, validator.walk(value[name], wanted))


def _check_items(validator: Validator, value: Any, wanted: Schema, _schema: Schema) -> Iterator[str]:
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield from _below(number, validator.walk(item, wanted))


def _check_ref(validator: Validator, value: Any, wanted: str, _schema: Schema) -> Iterator[str]:
    return validator.walk(value, validator.resolve(wanted))


def _check_any(validator: Validator, value: Any, wanted: list[Schema], _schema: Schema) -> Iterator[str]:
    if not any(validator.is_valid(value, each) for each in wanted):
        yield from validator.walk(value, wanted[0])


def _check_all(validator: Validator, value: Any, wanted: list[Schema], _schema: Schema) -> Iterator[str]:
    for each in wanted:
        yield from validator.walk(value, each)


def _check_if(validator: Validator, value: Any, wanted: Schema, schema: Schema) -> Iterator[str]:
    if validator.is_valid(value, wanted):
        yield from validator.walk(value, schema["then"])


_CHECKS: dict[str, _Check] = {
    **{keyword: _check_bound(keyword) for keyword in _BOUNDS},
    "type": _check_type,
    "enum": _check_enum,
    "const": _check_const,
    "pattern": _check_pattern,
    "required": _check_required,
    "properties": _check_properties,
    "additionalProperties": _check_additional,
    "items": _check_items,
    "$ref": _check_ref,
    "anyOf": _check_any,
    "allOf": _check_all,
    "if": _check_if,
}
