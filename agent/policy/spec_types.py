# SPDX-License-Identifier: Apache-2.0
"""What the field table of the custom resources (`spec`) is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique


@unique
class ScalarType(Enum):
    """The type of a single value, by its name in JSON Schema."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"


STRING, INTEGER, BOOLEAN = ScalarType.STRING, ScalarType.INTEGER, ScalarType.BOOLEAN

MAX_U32 = (1 << 32) - 1
# What a custom resource can hold at all.
MAX_I64 = (1 << 63) - 1
# Of offsets and addresses in files: the greatest integer that a double holds, as many readers of JSON have them. The
# API server rounds a greater bound and then refuses every value. Addresses in user space are far below.
MAX_ADDRESS = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class Ref:
    """A mapping with the fields of the structure of this name in `spec.STRUCTS`."""

    name: str


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    item: ScalarType | Ref


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping whose keys are the author's own."""

    value: ScalarType | Ref


FieldType = ScalarType | Ref | ListOf | MapOf


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a structure.

    enum, minimum, maximum, min_length, pattern: of the value, or of each value of a list or a map; numbers both
    included, lengths in characters, patterns in the syntax that RE2 and ECMA 262 share, not anchored by themselves.
    min_items, max_items: of a list. item_key: the field by which the structures of a list are told apart, so that
    none is there twice. default: what an absent field means, None: that there is none. note: what podgate does
    otherwise than the field's origin, or leaves to the node. refused: why nothing but the empty value of the type is
    taken; such a field is never read.
    """

    name: str
    type: FieldType
    description: str
    required: bool = False
    default: str | int | bool | None = None
    enum: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    min_length: int | None = None
    pattern: str = ""
    min_items: int | None = None
    max_items: int | None = None
    item_key: str = ""
    note: str = ""
    refused: str = ""

    @property
    def scalar(self) -> ScalarType | None:
        """The type of the value, or of the values of a list or a map; None where those are structures."""
        inner = self.inner
        return inner if isinstance(inner, ScalarType) else None

    @property
    def inner(self) -> ScalarType | Ref:
        """The type of the value, or of the values of a list or a map."""
        if isinstance(self.type, ListOf):
            return self.type.item
        return self.type.value if isinstance(self.type, MapOf) else self.type

    @property
    def help(self) -> str:
        """All that there is to say, in one paragraph."""
        refused = f"Refused: {self.refused}." if self.refused else ""
        return " ".join(text for text in (self.description, self.note, refused) if text)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition in the Common Expression Language, as the API server evaluates it: `self` is the structure.

    A field whose name is a reserved word of that language is written `__name__`. message: what is wrong and what to
    write.
    """

    expression: str
    message: str


@dataclass(frozen=True, slots=True)
class Struct:
    """A mapping with a fixed set of fields. title: with its article, for messages. max_fields: how many of them may be
    there at a time, None: all.
    """

    name: str
    title: str
    description: str
    fields: tuple[Field, ...]
    rules: tuple[Rule, ...] = ()
    max_fields: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields."""
        return frozenset(field.name for field in self.fields)

    def field(self, name: str) -> Field:
        """The field of this name. Raises KeyError when there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)
