# SPDX-License-Identifier: Apache-2.0
"""Reading the fields of a mapping: types, required ones, and those that are refused by name."""

import dataclasses
import difflib
from collections.abc import Iterable
from collections.abc import Mapping as ReadOnly
from typing import TypeVar

from agent.policy.document import Mapping, Node, Scalar, ScalarKind, Sequence
from agent.policy.errors import Problems, quote
from agent.policy.model import Source
from agent.policy.spec_types import Field, ListOf, MapOf, ScalarType, Struct
from agent.policy.values import parse_number

# Similarity costs the product of the lengths; no name of the kernel's or of the resource's is longer.
_MAX_COMPARED = 40
# Of the names that a policy itself may define, lists and macros; all others are fewer.
_MAX_CANDIDATES = 512
# More names than these do not fit a line.
_MAX_LISTED = 16

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """The fields of one kind of mapping.

    `what` names the mapping with its article, for messages. names: all fields, read or not. refused: those that take
    nothing but the empty value of their type, which says the same as leaving them out.
    """

    what: str
    names: frozenset[str]
    refused: ReadOnly[str, Field] = dataclasses.field(default_factory=dict)


def schema_of(struct: Struct) -> Schema:
    """The schema of a structure of the field table."""
    refused = {each.name: each for each in struct.fields if each.refused}
    return Schema(struct.title, struct.names, refused)


_SCALARS = {
    ScalarKind.STRING: "a string",
    ScalarKind.INTEGER: "an integer",
    ScalarKind.FLOAT: "a number with a fraction",
    ScalarKind.BOOLEAN: "a boolean",
    ScalarKind.NULL: "null",
}


def describe(node: Node) -> str:
    """The type of a node, with its article."""
    if isinstance(node, Scalar):
        return _SCALARS[node.kind]
    return "a list" if isinstance(node, Sequence) else "a mapping"


def is_null(node: Node) -> bool:
    """Whether the node is null, which Kubernetes reads as a field that is not there."""
    return isinstance(node, Scalar) and node.kind is ScalarKind.NULL


def nearest(name: str, candidates: Iterable[str], count: int = 1) -> list[str]:
    """The up to `count` candidates most like `name`, the most similar first."""
    if len(name) > _MAX_COMPARED:
        return []
    wanted = name.lower()
    known = {candidate.lower(): candidate for candidate in sorted(candidates) if len(candidate) <= _MAX_COMPARED}
    likely = sorted(known, key=lambda candidate: -_common_beginning(wanted, candidate))[:_MAX_CANDIDATES]
    return [known[found] for found in difflib.get_close_matches(wanted, likely, count)]


def _common_beginning(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def suggest(name: str, candidates: Iterable[str], otherwise: str) -> str:
    """Advice for an unknown name: the nearest candidate, else `otherwise`."""
    found = nearest(name, candidates)
    return f"did you mean {found[0]}?" if found else otherwise


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def read_word(scalar: Scalar, what: str, known: ReadOnly[str, _T], problems: Problems) -> _T | None:
    """What a word means; None with a report when it is unknown."""
    if scalar.text in known:
        return known[scalar.text]
    # Each meaning once, also when it has a synonym.
    words: dict[_T, str] = {}
    for word, meaning in known.items():
        words.setdefault(meaning, word)
    few = one_of(words.values()) if len(words) <= _MAX_LISTED else ""
    advice = f"use {few}" if few else f"see the policy reference for the {len(words)} there are"
    problems.report(scalar.source, f"unknown {what} {quote(scalar.text)}", suggest(scalar.text, known, advice))
    return None


def check_string(node: Node, name: str, problems: Problems) -> Scalar | None:
    """The node when it is a string, else None and a report."""
    if isinstance(node, Scalar) and node.kind is ScalarKind.STRING:
        return node
    advice = "put it in quotes" if isinstance(node, Scalar) and not is_null(node) else "write a string"
    problems.report(node.source, f"{name} must be a string and is {describe(node)}", advice)
    return None


def parse_boolean(node: Node) -> bool | None:
    """The boolean that a node holds, None when it holds none. YAML 1.1 has six words for it."""
    if isinstance(node, Scalar) and node.kind is ScalarKind.BOOLEAN:
        return node.text.lower() in ("true", "yes", "on")
    return None


def parse_integer(node: Node) -> int | None:
    """The integer that a node holds, None when it holds none."""
    if not isinstance(node, Scalar) or node.kind is not ScalarKind.INTEGER:
        return None
    try:
        return parse_number(node.text)
    except ValueError:
        return None


def _says_nothing(node: Node, field: Field) -> bool:
    """Whether a node is null or the empty value of a field's type; a pointer to a structure has none but null."""
    if is_null(node):
        return True
    if isinstance(node, Sequence):
        return isinstance(field.type, ListOf) and not node.items
    if isinstance(node, Mapping):
        return isinstance(field.type, MapOf) and not node.entries
    if field.type is ScalarType.BOOLEAN:
        return parse_boolean(node) is False
    if field.type is ScalarType.INTEGER:
        return parse_integer(node) == 0
    return field.type is ScalarType.STRING and node.kind is ScalarKind.STRING and not node.text


class Fields:
    """The fields of one mapping that were checked against its schema."""

    def __init__(self, node: Mapping, schema: Schema, problems: Problems) -> None:
        self.source = node.source
        self._node = node
        self._schema = schema
        self._problems = problems

    def node(self, name: str) -> Node | None:
        """The value of a field; None when it is absent or null."""
        entry = self._node.entries.get(name)
        return None if entry is None or is_null(entry.value) else entry.value

    @property
    def what(self) -> str:
        """The mapping with its article, for messages."""
        return self._schema.what

    def key_source(self, name: str) -> Source:
        """Where the field's name is, or the mapping when the field is absent."""
        entry = self._node.entries.get(name)
        return self.source if entry is None else entry.key_source

    def required(self, name: str) -> Node | None:
        """The value of a field that must be there; None and a report when it is not."""
        node = self.node(name)
        if node is None:
            what = f"{self._schema.what} has no {name}"
            self._problems.report(self.key_source(name), what, f"give it the field {name}")
        return node

    def string(self, name: str, required: bool = False) -> Scalar | None:
        """A string field; None when absent, or with a report when it is not a string."""
        node = self.required(name) if required else self.node(name)
        return None if node is None else check_string(node, name, self._problems)

    def boolean(self, name: str, default: bool) -> bool | None:
        """A boolean field, `default` when absent, None with a report when it is not a boolean."""
        node = self.node(name)
        if node is None:
            return default
        value = parse_boolean(node)
        if value is None:
            what = f"{name} must be a boolean and is {describe(node)}"
            self._problems.report(node.source, what, "write true or false without quotes")
        return value

    def integer(self, name: str, least: int, greatest: int, required: bool = False) -> int | None:
        """An integer field within bounds; None when absent, or with a report."""
        node = self.required(name) if required else self.node(name)
        if node is None:
            return None
        value = parse_integer(node)
        if value is None:
            what = f"{name} must be an integer and is {describe(node)}"
            self._problems.report(node.source, what, "write it in digits without quotes")
        elif not least <= value <= greatest:
            self._problems.report(node.source, f"{name} is out of range", f"write a number from {least} to {greatest}")
            return None
        return value

    def items(self, name: str) -> tuple[Node, ...]:
        """The items of a list field; none when it is absent, or with a report when it is not a list."""
        node = self.node(name)
        if node is None:
            return ()
        if not isinstance(node, Sequence):
            self._problems.report(node.source, f"{name} must be a list and is {describe(node)}", "start items with -")
            return ()
        return node.items

    def strings(self, name: str, what: str) -> list[Scalar]:
        """The strings of a list field, each with a report when it is none; `what` names one of them."""
        scalars = [check_string(item, what, self._problems) for item in self.items(name)]
        return [scalar for scalar in scalars if scalar]

    def some_strings(self, name: str, what: str) -> list[Scalar]:
        """The strings of a list field that must not be empty."""
        if self.required(name) is not None and self.is_list(name) and not self.items(name):
            self._problems.report(self.key_source(name), f"{name} is empty", "give at least one value")
        return self.strings(name, what)

    def integers(self, name: str, least: int, greatest: int) -> list[int]:
        """The integers of a list field, within bounds; what is not has a report."""
        found = []
        for node in self.items(name):
            value = parse_integer(node)
            if value is None:
                what = f"an item of {name} must be an integer and is {describe(node)}"
                self._problems.report(node.source, what, "write it in digits without quotes")
            elif not least <= value <= greatest:
                what = f"an item of {name} is out of range"
                self._problems.report(node.source, what, f"write a number from {least} to {greatest}")
            else:
                found.append(value)
        return found

    def word(self, name: str, what: str, known: ReadOnly[str, _T], required: bool = True) -> _T | None:
        """What the word of a string field means; None when it is absent, or with a report."""
        scalar = self.string(name, required)
        if scalar is None or not (scalar.text or required):
            return None
        return read_word(scalar, what, known, self._problems)

    def flag(self, name: str) -> bool:
        """A boolean field that is false when absent; also with a report when it is no boolean."""
        return bool(self.boolean(name, default=False))

    def report(self, name: str, what: str, advice: str) -> None:
        """Note a fault of a field, at its name; without such a field at the mapping."""
        self._problems.report(self.key_source(name), what, advice)

    def is_list(self, name: str) -> bool:
        """Whether the field is there and is a list."""
        return isinstance(self.node(name), Sequence)


def open_fields(node: Node, schema: Schema, problems: Problems) -> Fields | None:
    """The fields of a node; reports unknown and refused ones. None with a report when it is not a mapping."""
    if not isinstance(node, Mapping):
        problems.report(node.source, f"{schema.what} must be a mapping and is {describe(node)}", "write key: value")
        return None
    for name, entry in node.entries.items():
        if name not in schema.names:
            what = f"unknown field {quote(name)} in {schema.what}"
            problems.report(entry.key_source, what, suggest(name, schema.names, "leave it out"))
        elif (field := schema.refused.get(name)) and not _says_nothing(entry.value, field):
            problems.report(entry.key_source, f"{name} is not supported: {field.refused}", "leave it out")
    return Fields(node, schema, problems)
