# SPDX-License-Identifier: Apache-2.0
"""What targets have in common: words for what came of an input, without what varies in them."""

from __future__ import annotations

import re

_UNSTABLE = re.compile(r"\b0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")
MAX_WORD = 80


class MismatchError(Exception):
    """A parser contradicts itself."""


def generalise(text: str) -> str:
    """The end of a text, after its last colon, without what varies in it: numbers and quoted parts.

    What stands before the colon names the thing at fault, and may be the input's own words.
    """
    return _UNSTABLE.sub("#", text.rpartition(": ")[2])[:MAX_WORD]


def name_error(error: Exception) -> str:
    """Its class, and its text without what varies."""
    return f"{type(error).__name__}: {generalise(str(error))}"
