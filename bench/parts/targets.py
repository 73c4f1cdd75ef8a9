# SPDX-License-Identifier: Apache-2.0
"""Figures against what they should be at most. A miss is told and is no fault: the machine may be slow. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """path: keys from the result down to the figure, with dots between them."""

    path: str
    at_most: float


def find_figure(result: Mapping[str, Any], path: str) -> float | None:
    """None where the result has no such figure, because nothing was measured."""
    value: Any = result
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value if isinstance(value, int | float) else None


def judge(result: Mapping[str, Any], targets: tuple[Target, ...]) -> dict[str, dict[str, Any]]:
    """By path. What was not measured meets nothing."""
    judged = {}
    for target in targets:
        value = find_figure(result, target.path)
        judged[target.path] = {
            "value": value,
            "at_most": target.at_most,
            "met": value is not None and value <= target.at_most,
        }
    return judged
