# SPDX-License-Identifier: Apache-2.0
"""What would change, as values: steps in the order in which an interruption does the least harm. Pure.

What makes a runtime call us comes last and goes first: a hooks.d file or pre-installed plugin never names a program
that is not there.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

SHOWN_BYTES = 64 * 1024  # a diff of more than that is of no use to a reader


class Kind(Enum):
    """What a file of ours is, in the order of writing. CONFIG is for the user to edit, and kept when it was."""

    PROGRAM = "program"
    CONFIG = "config"
    TRIGGER = "trigger"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Mode 0755."""

    action: ClassVar[str] = "make-directory"

    path: str
    option: str = ""

    @property
    def text(self) -> str:
        return f"make directory {self.path}"


@dataclass(frozen=True, slots=True)
class PutFile:
    """Atomically, with `data` whole. `before` is what is there now, None for nothing.

    It gets `mode`, or mode and owner of the file `like`, which may be its own path: a user's file keeps what it had.
    `option` is the one that puts the file elsewhere. `shown`: whether its diff tells a reader something.
    """

    action: ClassVar[str] = "write"

    path: str
    data: bytes = field(repr=False)
    why: str
    before: bytes | None = field(default=None, repr=False)
    mode: int = 0o644
    like: str = ""
    option: str = ""
    shown: bool = True

    @property
    def text(self) -> str:
        return f"{'write' if self.before is None else 'change'} {self.path}: {self.why}"


@dataclass(frozen=True, slots=True)
class RemoveFile:
    action: ClassVar[str] = "remove"

    path: str
    why: str = ""

    @property
    def text(self) -> str:
        return f"remove {self.path}" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """Only when it is empty."""

    action: ClassVar[str] = "remove-directory"

    path: str

    @property
    def text(self) -> str:
        return f"remove directory {self.path} if it is empty"


Step = MakeDirectory | PutFile | RemoveFile | RemoveDirectory


@dataclass(frozen=True, slots=True)
class Plan:
    """`notes`: what the user should know; `commands`: what the user has to run afterwards."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def beside(path: str) -> str:
    """Where a file is written before it is renamed into its place: hooks.d is read for *.json alone."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.podgate-new"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def diff_of(step: Step) -> str:
    """A unified diff for text files that are to be shown, else empty."""
    if not isinstance(step, PutFile) or not step.shown or len(step.data) > SHOWN_BYTES or b"\0" in step.data:
        return ""
    before, after = ((data or b"").decode(errors="replace") for data in (step.before, step.data))
    old = "/dev/null" if step.before is None else step.path
    return "".join(_ended(difflib.unified_diff(before.splitlines(True), after.splitlines(True), old, step.path)))


def _ended(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
