# SPDX-License-Identifier: Apache-2.0
"""The agent's log: one JSON object a line, in the plugin's format."""

from __future__ import annotations

import logging

from nri_plugin.logfmt import make_handler


def fields(**values: object) -> dict[str, object]:
    """For logging's extra: what a line says beside its event."""
    return {"fields": values}


def configure(log_file: str | None, level: str) -> None:
    """Raises OSError when the file cannot be opened."""
    root = logging.getLogger("podgate")
    root.addHandler(make_handler(log_file))
    root.setLevel(level.upper())
    root.propagate = False
