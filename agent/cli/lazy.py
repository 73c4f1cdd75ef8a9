# SPDX-License-Identifier: Apache-2.0
"""Commands that are imported when they are asked for: most calls are of one, and all together take a third of a second
to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """later: commands by name, as `module:attribute`."""

    def __init__(self, *args: Any, later: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._later = dict(later)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, in order."""
        return sorted({*super().list_commands(ctx), *self._later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports it, the first time."""
        if cmd_name in self._later:
            module, _, attribute = self._later.pop(cmd_name).partition(":")
            self.add_command(getattr(import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)
