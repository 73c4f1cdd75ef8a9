# SPDX-License-Identifier: Apache-2.0
"""Values of the model for people: what is not given is left out, and long texts are cut."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

from agent.policy.model import Cel

MAX_SHOWN = 40  # bytes of a text

_LEFT_OUT = frozenset({"source", "process", "host_namespaces"})


def brief(value: Any) -> str:
    if isinstance(value, Cel):
        return _expression(value)
    if is_dataclass(value) and not isinstance(value, type):
        given = (f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if _is_given(f, value))
        return f"{type(value).__name__}({', '.join(given)})"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bytes) and len(value) > MAX_SHOWN:
        return f"{value[:MAX_SHOWN]!r}… of {len(value)}"
    if isinstance(value, tuple | frozenset):
        return f"({', '.join(map(brief, value))})"
    return repr(value)


def _is_given(field: Field[Any], value: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return field.name not in _LEFT_OUT and getattr(value, field.name) != default


def _expression(tree: Cel) -> str:
    if tree.op in ("const", "arg"):
        return f"{'arg' if tree.op == 'arg' else ''}{tree.value}"
    parts = [_expression(operand) for operand in tree.operands]
    if len(parts) == 1 or tree.op.isalpha():
        return f"{tree.op}({', '.join(parts)})"
    return f"({f' {tree.op} '.join(parts)})"
