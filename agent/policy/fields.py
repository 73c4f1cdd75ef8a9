# SPDX-License-Identifier: Apache-2.0
"""Reading the fields of a mapping: types, required ones, and those that are refused by name."""

import difflib
from collections.abc import Iterable
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass
from enum import Enum, unique
from typing import TypeVar

from agent.policy.document import Mapping, Node, Scalar, ScalarKind, Sequence
from agent.policy.errors import Problems, quote
from agent.policy.model import Source
from agent.policy.values import parse_number

# Similarity costs the product of the lengths; no name that a policy can have is longer.
_MAX_COMPARED = 64

_E = TypeVar("_E", bound=Enum)


@unique
class Absent(Enum):
    """What a field that is not supported yet may hold, because it says the same as leaving the field out.

    The zero value of the field's type in the custom resource, and always null. NULL is for pointers to structures,
    where an empty one means something.
    """

    LIST = "an empty list"
    MAPPING = "an empty mapping"
    BOOLEAN = "false"
    STRING = "an empty string"
    NUMBER = "0"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of one kind of mapping: those read, those accepted without use, and those not supported yet.

    `what` names the mapping with its article, for messages.
    """

    what: str
    read: frozenset[str]
    unsupported: ReadOnly[str, Absent]
    unused: frozenset[str] = frozenset()


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
    folded = {candidate.lower(): candidate for candidate in sorted(candidates)}
    return [folded[found] for found in difflib.get_close_matches(name.lower(), folded, count)]


def suggest(name: str, candidates: Iterable[str], otherwise: str) -> str:
    """Advice for an unknown name: the nearest candidate, else `otherwise`."""
    found = nearest(name, candidates)
    return f"did you mean {found[0]}?" if found else otherwise


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def read_word(
    scalar: Scalar, what: str, known: ReadOnly[str, _E], unsupported: Iterable[str], problems: Problems
) -> _E | None:
    """The member that a word means; None with a report when it is not supported or unknown."""
    if scalar.text in known:
        return known[scalar.text]
    # Each member once, also when it has a synonym.
    all_known = f"use {one_of(dict.fromkeys(member.value for member in known.values()))}"
    if scalar.text in unsupported:
        problems.report(scalar.source, f"{what} {scalar.text} is not supported yet", all_known)
    else:
        advice = suggest(scalar.text, [*known, *unsupported], all_known)
        problems.report(scalar.source, f"unknown {what} {quote(scalar.text)}", advice)
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


def _says_nothing(node: Node, absent: Absent) -> bool:
    if isinstance(node, Sequence):
        return absent is Absent.LIST and not node.items
    if isinstance(node, Mapping):
        return absent is Absent.MAPPING and not node.entries
    if absent is Absent.BOOLEAN:
        return parse_boolean(node) is False
    if absent is Absent.NUMBER:
        return parse_integer(node) == 0
    return absent is Absent.STRING and node.kind is ScalarKind.STRING and not node.text


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

    def is_list(self, name: str) -> bool:
        """Whether the field is there and is a list."""
        return isinstance(self.node(name), Sequence)


def open_fields(node: Node, schema: Schema, problems: Problems) -> Fields | None:
    """The fields of a node; reports unknown and unsupported ones. None with a report when it is not a mapping."""
    if not isinstance(node, Mapping):
        problems.report(node.source, f"{schema.what} must be a mapping and is {describe(node)}", "write key: value")
        return None
    for name, entry in node.entries.items():
        if name in schema.read or name in schema.unused:
            continue
        if name not in schema.unsupported:
            _report_unknown(name, entry.key_source, schema, problems)
        elif not (is_null(entry.value) or _says_nothing(entry.value, schema.unsupported[name])):
            problems.report(entry.key_source, f"{name} is not supported yet", f"leave it out of {schema.what}")
    return Fields(node, schema, problems)


def _report_unknown(name: str, source: Source, schema: Schema, problems: Problems) -> None:
    known = [*schema.read, *schema.unsupported, *schema.unused]
    problems.report(source, f"unknown field {quote(name)} in {schema.what}", suggest(name, known, "leave it out"))
