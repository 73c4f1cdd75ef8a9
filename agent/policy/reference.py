# SPDX-License-Identifier: Apache-2.0
"""The field table as a page for people."""

from __future__ import annotations

from collections.abc import Iterable

from agent.policy.model import PolicyKind
from agent.policy.spec import KIND_RULES, SPEC, STRUCTS
from agent.policy.spec_types import Field, FieldType, ListOf, MapOf, Ref, Rule, Struct

# More words than these stand below the table.
_MAX_WORDS_IN_CELL = 8

_INTRODUCTION = """\
# Reference of the policy language

Every field of the custom resources `TracingPolicy` and `TracingPolicyNamespaced` of `cilium.io/v1alpha1`. This page is
generated from the table that the reader, the definitions in `deploy/crds/` and `podgate policy schema` have in common,
`agent/policy/spec.py`. How it all works together is in [policy.md](policy.md).

A field that is absent, one that is null and one that holds the empty value of its type (`""`, `0`, `false`, `[]`) are
the same, except where the table has another default. A field that is not listed here is an error.
"""


def write_reference() -> str:
    """The page as Markdown."""
    structs = [SPEC, *(struct for struct in STRUCTS.values() if struct is not SPEC)]
    return "\n".join([_INTRODUCTION, *(_section(struct) for struct in structs), _kinds()])


def _section(struct: Struct) -> str:
    lines = [
        f"## {struct.name}",
        "",
        struct.description,
        "",
        "| Field | Type | Default | Meaning | In podgate |",
        "|---|---|---|---|---|",
        *(_row(field) for field in struct.fields),
        "",
    ]
    for field in struct.fields:
        if len(field.enum) > _MAX_WORDS_IN_CELL:
            lines += [f"`{field.name}` is one of {_words(field.enum)}.", ""]
    return "\n".join(lines + _rules("Refused as well:", struct.rules))


def _row(field: Field) -> str:
    cells = (f"`{field.name}`", _type(field), _default(field), field.description, _remark(field))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(field: Field) -> str:
    return ", ".join([_plain_type(field.type), *_limits(field)])


def _plain_type(of: FieldType) -> str:
    if isinstance(of, Ref):
        return f"[{of.name}](#{of.name.lower()})"
    if isinstance(of, ListOf):
        return f"list of {_plural(of.item)}"
    if isinstance(of, MapOf):
        return f"map of {_plural(of.value)}"
    return of.value


def _plural(of: FieldType) -> str:
    return _plain_type(of) if isinstance(of, Ref) else f"{_plain_type(of)}s"


def _limits(field: Field) -> Iterable[str]:
    if 0 < len(field.enum) <= _MAX_WORDS_IN_CELL:
        yield f"one of {_words(field.enum)}"
    elif field.enum:
        yield "see below"
    if field.minimum is not None and field.maximum is not None:
        yield f"{field.minimum} to {field.maximum}"
    if field.min_length is not None:
        yield "not empty" if field.min_length == 1 else f"at least {field.min_length} characters"
    if field.min_items is not None:
        yield f"at least {field.min_items}"
    if field.max_items is not None:
        yield f"at most {field.max_items}"
    if field.item_key:
        yield f"`{field.item_key}` is unique"
    if field.pattern:
        yield f"`{field.pattern}`"


def _default(field: Field) -> str:
    if field.required:
        return "required"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return "" if field.default is None else f"`{field.default}`"


def _remark(field: Field) -> str:
    return f"**Refused**: {field.refused}." if field.refused else field.note


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _rules(heading: str, rules: Iterable[Rule]) -> list[str]:
    items = [f"- {rule.message}" for rule in rules]
    return [heading, "", *items, ""] if items else []


def _kinds() -> str:
    lines = ["## Kinds", ""]
    for kind in PolicyKind:
        lines += _rules(f"Refused in a {kind.value}:", KIND_RULES[kind])
    return "\n".join(lines)
