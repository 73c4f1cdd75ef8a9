# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a policy, and where."""

from collections.abc import Sequence
from typing import NoReturn

from agent.policy.model import Source

# Enough for one look at a file; more would only repeat one misunderstanding.
MAX_ERRORS = 20
MAX_LINES = 1000  # of the text for many policies: as much as an answer of the agent has room for, several times


class PolicyBaseError(Exception):
    """Base of what this package raises."""


class PolicyError(PolicyBaseError):
    """One fault: where it is (line and column from 1), what is wrong, and what to write instead."""

    def __init__(self, file: str, line: int, column: int, what: str, advice: str) -> None:
        super().__init__(file, line, column, what, advice)
        self.file = file
        self.line = line
        self.column = column
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.what}, {self.advice}"


class PolicyErrors(PolicyBaseError):  # noqa: N818 - it is many errors
    """The faults of a file, one to MAX_ERRORS, or of several policies, as many of each; in the order of their places.
    The text has one line for each.
    """

    def __init__(self, errors: Sequence[PolicyError]) -> None:
        super().__init__(errors)
        self.errors = tuple(sorted(errors, key=lambda error: (error.file, error.line, error.column)))

    def __str__(self) -> str:
        lines = [str(error) for error in self.errors[:MAX_LINES]]
        more = len(self.errors) - MAX_LINES
        return "\n".join([*lines, *([f"and {more} more faults"] if more > 0 else [])])


class Problems:
    """Collects the faults of one file while it is read."""

    def __init__(self) -> None:
        self._errors: list[PolicyError] = []

    def report(self, source: Source, what: str, advice: str) -> None:
        """Note a fault, once. Raises PolicyErrors with all of them when there are MAX_ERRORS."""
        error = PolicyError(source.file, source.line, source.column, what, advice)
        # What is used in several places, a macro or a list, is read as often.
        if any(error.args == each.args for each in self._errors):
            return
        self._errors.append(error)
        if len(self._errors) == MAX_ERRORS:
            self.check()

    def stop(self, source: Source, what: str, advice: str) -> NoReturn:
        """Note a fault after which nothing more can be read. Raises PolicyErrors."""
        self.report(source, what, advice)
        raise PolicyErrors(self._errors)

    def check(self) -> None:
        """Raises PolicyErrors when any fault was noted."""
        if self._errors:
            raise PolicyErrors(self._errors)


# Longer text is cut in messages; the position tells where the whole is.
_MAX_QUOTED = 60


def quote(text: str) -> str:
    """Text of a policy for a message: on one line, printable and short, in double quotes."""
    shown = text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 1] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + '"'
