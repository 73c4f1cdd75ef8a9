# SPDX-License-Identifier: Apache-2.0
"""The failure rule: what becomes of a container that the agent did not bind.

Theory of operation
    A file of lines, with fields between blanks, and comments from a # to the line's end:

        default open                 for every namespace that no line names, and for containers without one
        namespace payments closed    one namespace
        pattern team-* quarantine    * and ?; the first pattern that matches counts
        exempt kube-system           always open

    exempt > namespace > pattern > default, and without a default: open. Without any exempt line that reads,
    kube-system is exempt. A line that does not read is a fault: it is ignored, and the default becomes closed; the
    others count, so that a torn file does not keep the system's own pods from starting. A file that is not there is
    a fault too, and everything is open.

    A namespace that is not known, because what should name it could not be read, gets the strictest treatment that
    the file has.

rthook/hook/rule.c reads the same grammar, with the same words for the faults: the hook has no Python at hand.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from rthook.errors import HookError

DEFAULT_PATH = "/etc/podgate/failure-rule"
# More than a thousand namespaces with lines of their own are a configuration gone wrong; the hook reads it in 1 ms.
MAX_BYTES = 64 << 10
MAX_LINES = 1024
# DNS-1123, a subdomain: what Kubernetes allows at most for any name.
MAX_NAME = 253
# Without its pods a node does not come back.
BUILT_IN_EXEMPT = ("kube-system",)

_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PATTERN = re.compile(r"[a-z0-9.*?-]+")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NO_FILE = "there is no such file"
TOO_LONG = "longer than 65,536 bytes: the rest is not read"
TOO_MANY = "more than 1,024 lines: the rest is not read"
BAD_WORD = "expected: default, namespace, pattern or exempt"
BAD_TREATMENT = "no treatment: open, closed or quarantine"
BAD_NAME = "no namespace's name (DNS-1123, at most 253 characters)"
BAD_PATTERN = "no pattern (a-z 0-9 - . * ?, at most 253 characters)"
SECOND_DEFAULT = "a second default"
SECOND_LINE = "a second line for this namespace"


class Treatment(Enum):
    """What happens to a container that the agent did not bind."""

    OPEN = "open"
    """It starts, unguarded."""
    QUARANTINE = "quarantine"
    """It starts bound to every filtered policy."""
    CLOSED = "closed"
    """It does not start."""

    @property
    def strictness(self) -> int:
        """The stricter, the larger."""
        return list(Treatment).index(self)


class RuleError(HookError):
    """A rule cannot be written as a file that says the same."""


@dataclass(frozen=True, slots=True)
class Fault:
    """line: from 1; 0 for the file as a whole."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what


@dataclass(frozen=True, slots=True)
class FailureRule:
    """What a file says. default: already closed when there are faults. Patterns are in the file's order."""

    default: Treatment = Treatment.OPEN
    namespaces: tuple[tuple[str, Treatment], ...] = ()
    patterns: tuple[tuple[str, Treatment], ...] = ()
    exempt: tuple[str, ...] = BUILT_IN_EXEMPT
    faults: tuple[Fault, ...] = ()

    @property
    def strictest(self) -> Treatment:
        """The treatment of a namespace that is not known."""
        named = [treatment for _, treatment in (*self.namespaces, *self.patterns)]
        return max([self.default, *named], key=lambda treatment: treatment.strictness)

    def treatment(self, namespace: str | None) -> Treatment:
        """None: not known, and so is what cannot be a namespace's name. Empty: the container has none."""
        if namespace == "":
            return self.default
        if namespace is None or not is_name(namespace):
            return self.strictest
        if namespace in self.exempt:
            return Treatment.OPEN
        exact = dict(self.namespaces).get(namespace)
        if exact is not None:
            return exact
        matching = (treatment for glob, treatment in self.patterns if fnmatchcase(namespace, glob))
        return next(matching, self.default)


def is_name(text: str) -> bool:
    """Whether it can be a namespace's name: DNS-1123, a subdomain."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Whether it can stand in a pattern line."""
    return len(text) <= MAX_NAME and _PATTERN.fullmatch(text) is not None


class _LineError(Exception):
    """What is wrong with the line at hand."""


@dataclass(slots=True)
class _Lines:
    """What the lines have said so far."""

    default: Treatment | None = None
    namespaces: dict[str, Treatment] = field(default_factory=dict)
    patterns: list[tuple[str, Treatment]] = field(default_factory=list)
    exempt: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def read(self, number: int, fields: list[str]) -> None:
        readers = {
            "default": self._read_default,
            "namespace": self._read_namespace,
            "pattern": self._read_pattern,
            "exempt": self._read_exempt,
        }
        try:
            if fields[0] not in readers:
                raise _LineError(BAD_WORD)
            readers[fields[0]](fields[1:])
        except _LineError as error:
            self.faults.append(Fault(number, str(error)))

    def _read_default(self, values: list[str]) -> None:
        _check_count(values, 1, "default TREATMENT")
        treatment = _parse_treatment(values[0])
        if self.default is not None:
            raise _LineError(SECOND_DEFAULT)
        self.default = treatment

    def _read_namespace(self, values: list[str]) -> None:
        _check_count(values, 2, "namespace NAME TREATMENT")
        name = _parse_name(values[0])
        treatment = _parse_treatment(values[1])
        if name in self.namespaces:
            raise _LineError(SECOND_LINE)
        self.namespaces[name] = treatment

    def _read_pattern(self, values: list[str]) -> None:
        _check_count(values, 2, "pattern GLOB TREATMENT")
        if not is_pattern(values[0]):
            raise _LineError(BAD_PATTERN)
        self.patterns.append((values[0], _parse_treatment(values[1])))

    def _read_exempt(self, values: list[str]) -> None:
        _check_count(values, 1, "exempt NAME")
        self.exempt.append(_parse_name(values[0]))

    def conclude(self) -> FailureRule:
        default = Treatment.CLOSED if self.faults else self.default or Treatment.OPEN
        exempt = tuple(dict.fromkeys(self.exempt)) or BUILT_IN_EXEMPT
        return FailureRule(default, tuple(self.namespaces.items()), tuple(self.patterns), exempt, tuple(self.faults))


def _check_count(values: list[str], count: int, form: str) -> None:
    if len(values) != count:
        raise _LineError(f"expected: {form}")


def _parse_treatment(text: str) -> Treatment:
    try:
        return Treatment(text)
    except ValueError:
        raise _LineError(BAD_TREATMENT) from None


def _parse_name(text: str) -> str:
    if not is_name(text):
        raise _LineError(BAD_NAME)
    return text


def _split_fields(line: bytes) -> list[str]:
    """The fields before a comment; bytes that are not ASCII can be in no field that reads, and stay what they are."""
    content, comment, _ = line.partition(b"#")
    if not comment:
        content = content.removesuffix(b"\r")
    return [word for word in re.split("[ \t]+", content.decode("latin-1")) if word]


def _whole_lines(text: bytes, lines: _Lines) -> bytes:
    if len(text) > MAX_BYTES:
        lines.faults.append(Fault(0, TOO_LONG))
        text = text[: text.rfind(b"\n", 0, MAX_BYTES) + 1]
    return text.removeprefix(_BYTE_ORDER_MARK)


def _read_lines(text: bytes, lines: _Lines) -> FailureRule:
    split = _whole_lines(text, lines).split(b"\n")
    for number, line in enumerate(split if split[-1] else split[:-1], 1):
        if number > MAX_LINES:
            lines.faults.append(Fault(number, TOO_MANY))
            break
        if fields := _split_fields(line):
            lines.read(number, fields)
    return lines.conclude()


def parse_rule(text: bytes) -> FailureRule:
    """Whatever the bytes are: faults are in the result, and it says what holds in spite of them."""
    return _read_lines(text, _Lines())


def read_rule(path: str | os.PathLike[str]) -> FailureRule:
    """The file's rule. Without the file everything is open; one that cannot be read has a fault."""
    try:
        return parse_rule(_read_file(path))
    except FileNotFoundError:
        return FailureRule(faults=(Fault(0, NO_FILE),))
    except OSError as error:
        return _read_lines(b"", _Lines(faults=[Fault(0, f"cannot be read: {error.strerror}")]))


def _read_file(path: str | os.PathLike[str]) -> bytes:
    """At most one byte more than counts. Non-blocking for the case that it is a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "not a regular file")
        return file.read(MAX_BYTES + 1)


def render_rule(rule: FailureRule, comments: Iterable[str] = ()) -> str:
    """The text of a file that says this, with comments at its head. RuleError for what no file without faults says."""
    lines = [
        *(f"# {comment}".rstrip() for comment in comments),
        f"default {rule.default.value}",
        *(f"namespace {name} {treatment.value}" for name, treatment in rule.namespaces),
        *(f"pattern {glob} {treatment.value}" for glob, treatment in rule.patterns),
        *(f"exempt {name}" for name in rule.exempt),
    ]
    text = "".join(f"{line}\n" for line in lines)
    if parse_rule(text.encode()) != rule:
        raise RuleError(f"no file says this: {rule}")
    return text
