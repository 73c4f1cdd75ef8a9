# SPDX-License-Identifier: Apache-2.0
"""A policy as it was understood, as values for JSON: macros expanded, lists and numbers by what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from agent.policy.explain_words import expression, network
from agent.policy.model import Action, Cel, Network, Policy, Source


def policy_document(policy: Policy) -> dict[str, Any]:
    """Fields by their names in the model; what is empty is left out, and of an action what does not belong to its
    kind.
    """
    return _fields(policy)


def _plain(value: Any) -> Any:
    if isinstance(value, Source):
        return str(value)
    if isinstance(value, Network):
        return network(value)
    if isinstance(value, Cel):
        return expression(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _fields(value: Any) -> dict[str, Any]:
    kept = ((each, getattr(value, each.name)) for each in dataclasses.fields(value))
    return {each.name: _plain(given) for each, given in kept if not _is_empty(value, each, given)}


def _is_empty(owner: object, field: dataclasses.Field[Any], given: object) -> bool:
    if given is None or (isinstance(given, str | bytes | tuple | Mapping) and not given):
        return True
    return isinstance(owner, Action) and field.name != "kind" and given == field.default
