# SPDX-License-Identifier: Apache-2.0
"""What keeps an installation from being planned or carried out. Each says what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class InstallError(Exception):
    """Base of this package's errors."""


class ConfigSyntaxError(InstallError):
    """A configuration file cannot be read. `line` and `column` count from 1."""

    def __init__(self, path: str, line: int, column: int, reason: str) -> None:
        super().__init__(path, line, column, reason)
        self.path = path
        self.line = line
        self.column = column
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.reason}"


class ConfigEditError(InstallError):
    """A configuration file reads well, and cannot be changed as wanted without changing more."""

    def __init__(self, path: str, reason: str, instead: str) -> None:
        super().__init__(path, reason, instead)
        self.path = path
        self.reason = reason
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.instead}"


class RecordError(InstallError):
    """The record of what was installed cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; move it away, and what lies at the usual places is found by its name"


class NotWritableError(InstallError):
    """`option` names the option that puts the file elsewhere; empty when there is none."""

    def __init__(self, path: Path, reason: str, option: str) -> None:
        super().__init__(path, reason, option)
        self.path = path
        self.reason = reason
        self.option = option

    def __str__(self) -> str:
        advice = f"; name another directory with {self.option}" if self.option else ""
        return f"{self.path}: {self.reason}{advice}"


class NotRootError(InstallError):
    """This process may not do what root does."""

    def __init__(self, path: Path, uid: int) -> None:
        super().__init__(path, uid)
        self.path = path
        self.uid = uid

    def __str__(self) -> str:
        return f"{self.path}: this takes root, and this is uid {self.uid}"


class BinaryMissingError(InstallError):
    """There is no podgate-hook to install."""

    def __init__(self, tried: Sequence[Path]) -> None:
        super().__init__(tried)
        self.tried = tuple(tried)

    def __str__(self) -> str:
        places = ", ".join(map(str, self.tried))
        return f"no podgate-hook at {places}: build it with `make hook`, or name it with --binary"


class NoRuntimeError(InstallError):
    """No container runtime was found."""

    def __init__(self, tried: Sequence[str]) -> None:
        super().__init__(tried)
        self.tried = tuple(tried)

    def __str__(self) -> str:
        return f"no container runtime is here; looked for {', '.join(self.tried)}; name it with --runtime"


class UnsupportedError(InstallError):
    """The runtime cannot do what is wanted."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what, instead)
        self.what = what
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what}; {self.instead}"


class BusyError(InstallError):
    """Another installation is under way."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory

    def __str__(self) -> str:
        return f"{self.directory} is locked: another podgate hooks command is at work"
