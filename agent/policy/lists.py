# SPDX-License-Identifier: Apache-2.0
"""The `lists` of a policy: system calls and functions under one name."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique

from agent.policy import schemas
from agent.policy.document import Node, Scalar
from agent.policy.errors import Problems, quote
from agent.policy.fields import Fields, open_fields, read_word, suggest
from agent.policy.model import Source
from agent.policy.patterns import Pattern, PatternError
from agent.policy.syscalls import NUMBERS
from agent.policy.values import is_symbol

LIST_PREFIX = "list:"
# The steps of all patterns in a policy. Each is tried on some 380 names of 15 characters; this is a second.
MAX_PATTERN_STEPS = 16_384


@unique
class ListType(Enum):
    """What the values of a list are, by its `type`."""

    SYSCALLS = "syscalls"
    GENERATED_SYSCALLS = "generated_syscalls"
    GENERATED_FTRACE = "generated_ftrace"
    FUNCTIONS = ""


_TYPES = {each.value: each for each in ListType if each.value}


@dataclass(frozen=True, slots=True)
class ValueList:
    """One list.

    values: as written, for SYSCALLS and FUNCTIONS; they are looked up where the list is used. generated: names in the
    table of system calls, for GENERATED_SYSCALLS. pattern: for GENERATED_FTRACE, compiled once.
    """

    name: str
    type: ListType
    source: Source
    values: tuple[Scalar, ...] = ()
    generated: tuple[str, ...] = ()
    pattern: str = ""

    @property
    def has_syscalls(self) -> bool:
        """Whether its values can only be system calls."""
        return self.type in (ListType.SYSCALLS, ListType.GENERATED_SYSCALLS)


def find_list(scalar: Scalar, lists: Mapping[str, ValueList], problems: Problems) -> ValueList | None:
    """The list that `list:NAME` means; None with a report when there is none."""
    name = scalar.text.removeprefix(LIST_PREFIX)
    if name not in lists:
        advice = suggest(name, lists, "define it under lists")
        problems.report(scalar.source, f"there is no list {quote(name)}", advice)
    return lists.get(name)


class ListsReader:
    """Reads the lists of one policy."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._steps = 0

    def read(self, nodes: tuple[Node, ...]) -> dict[str, ValueList]:
        """The lists by name."""
        found: dict[str, ValueList] = {}
        for node in nodes:
            each = self._list(node)
            if each is None:
                continue
            if each.name in found:
                first = found[each.name].source.line
                what = f"the list {quote(each.name)} is defined twice (first in line {first})"
                self._problems.report(each.source, what, "give it another name")
            found.setdefault(each.name, each)
        return found

    def _list(self, node: Node) -> ValueList | None:
        fields = open_fields(node, schemas.LIST, self._problems)
        if fields is None:
            return None
        name = fields.string("name", required=True)
        list_type = self._type(fields)
        values = tuple(fields.strings("values", "a list's value"))
        pattern = self._pattern(fields)
        # Of no effect: values are checked here, whoever has checked them before.
        fields.boolean("validated", default=False)
        if name is None or list_type is None:
            return None
        if not name.text:
            self._problems.report(name.source, "a list's name is empty", "give it a name")
        if list_type in (ListType.SYSCALLS, ListType.FUNCTIONS):
            self._check_values(fields, list_type, values, pattern)
            return ValueList(name.text, list_type, fields.source, values)
        return self._generated(fields, name.text, list_type, pattern)

    def _type(self, fields: Fields) -> ListType | None:
        scalar = fields.string("type")
        if scalar is None or not scalar.text:
            # A type that is no string was reported.
            return ListType.FUNCTIONS if fields.node("type") is None or scalar is not None else None
        return read_word(scalar, "list type", _TYPES, self._problems)

    def _pattern(self, fields: Fields) -> Pattern | None:
        scalar = fields.string("pattern")
        if scalar is None or not scalar.text:
            return None
        try:
            pattern = Pattern(scalar.text)
        except PatternError as error:
            advice = "write a regular expression of characters, classes, groups and repetitions"
            self._problems.report(scalar.source, f"pattern: {error}", advice)
            return None
        self._steps += pattern.size
        if self._steps > MAX_PATTERN_STEPS:
            what = f"the patterns of the policy have more than {MAX_PATTERN_STEPS} steps together"
            self._problems.stop(scalar.source, what, "use fewer or shorter patterns")
        return pattern

    def _check_values(
        self, fields: Fields, list_type: ListType, values: tuple[Scalar, ...], pattern: Pattern | None
    ) -> None:
        if pattern is not None:
            advice = f"leave it out, or use type {ListType.GENERATED_SYSCALLS.value}"
            fields.report("pattern", "a pattern belongs to the generated lists", advice)
        if not values and not fields.items("values"):
            fields.report("values", "a list has no values", "give at least one value")
        for value in values:
            if list_type is ListType.FUNCTIONS and not is_symbol(value.text):
                what = f"{quote(value.text)} is not the name of a function"
                self._problems.report(value.source, what, "write the name of a function or a system call")

    def _generated(self, fields: Fields, name: str, list_type: ListType, pattern: Pattern | None) -> ValueList:
        if fields.items("values"):
            what = f"a list of type {list_type.value} makes its own values"
            fields.report("values", what, "leave them out and use pattern")
        text = fields.string("pattern")
        if list_type is ListType.GENERATED_FTRACE:
            if text is None or not text.text:
                what = "a list of type generated_ftrace has no pattern"
                fields.report("pattern", what, "write which of the kernel's functions are meant")
            return ValueList(name, list_type, fields.source, pattern="" if text is None else text.text)
        generated = tuple(call for call in NUMBERS if pattern is None or _fits(pattern, call))
        if not generated:
            fields.report("pattern", "no system call matches the pattern", "they are called openat or sys_openat")
        return ValueList(name, list_type, fields.source, generated=generated)


def _fits(pattern: Pattern, call: str) -> bool:
    """Whether a pattern matches a system call in the usual spellings."""
    return pattern.search(call) or pattern.search(f"sys_{call}") or pattern.search(f"__x64_sys_{call}")
