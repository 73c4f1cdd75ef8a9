# SPDX-License-Identifier: Apache-2.0
"""Nodes to what a policy says beside its hooks: options and enforcers."""

from collections.abc import Mapping
from types import MappingProxyType

from agent.policy import schemas
from agent.policy.context import Context
from agent.policy.document import Node, Scalar
from agent.policy.errors import Problems, quote
from agent.policy.fields import one_of, open_fields, suggest
from agent.policy.model import PolicyMode
from agent.policy.read_calls import CallReader
from agent.policy.spec_types import MAX_U32
from agent.policy.values import parse_number

MODE = "policy-mode"
# The values of each option; none: a number above 0.
_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        MODE: tuple(mode.value for mode in PolicyMode),
        "disable-kprobe-multi": ("true", "false", "1", "0"),
        "disable-uprobe-multi": ("true", "false", "1", "0"),
        "override-method": ("fmod-ret", "override-return"),
        "sleepable-preload-size": (),
    }
)


def read_options(nodes: tuple[Node, ...], problems: Problems) -> dict[str, str]:
    """The options by name, each once and with a value that it can have."""
    options: dict[str, str] = {}
    for node in nodes:
        fields = open_fields(node, schemas.OPTION, problems)
        if fields is None:
            continue
        name, value = fields.string("name", required=True), fields.string("value", required=True)
        if name is None:
            continue
        if name.text not in _OPTIONS:
            advice = suggest(name.text, _OPTIONS, f"use {one_of(_OPTIONS)}")
            problems.report(name.source, f"unknown option {quote(name.text)}", advice)
        elif name.text in options:
            problems.report(name.source, f"the option {name.text} is given twice", "keep one of them")
        elif value is not None and _check_value(name.text, value, problems):
            options[name.text] = value.text
    return options


def _check_value(name: str, value: Scalar, problems: Problems) -> bool:
    words = _OPTIONS[name]
    if words and value.text in words:
        return True
    if not words and _is_positive(value.text):
        return True
    advice = suggest(value.text, words, f"use {one_of(words)}" if words else "write a number above 0")
    problems.report(value.source, f"the option {name} cannot be {quote(value.text)}", advice)
    return False


def _is_positive(text: str) -> bool:
    try:
        return 0 < parse_number(text) <= MAX_U32
    except ValueError:
        return False


def read_enforcers(nodes: tuple[Node, ...], context: Context) -> tuple[str, ...]:
    """The system calls (names in the kernel's table) and `security_` functions of all enforcers, each once."""
    reader = CallReader(context)
    names: list[str] = []
    for node in nodes:
        fields = open_fields(node, schemas.ENFORCER, context.problems)
        if fields is None:
            continue
        if fields.required("calls") is not None and fields.is_list("calls") and not fields.items("calls"):
            fields.report("calls", "an enforcer has no calls", "list at least one")
        for scalar in fields.strings("calls", "a call"):
            calls = reader.enforced(scalar)
            names += () if calls is None else calls.names
    return tuple(dict.fromkeys(names))
