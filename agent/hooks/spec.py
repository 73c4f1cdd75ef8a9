# SPDX-License-Identifier: Apache-2.0
"""The two JSON documents of an OCI runtime: the state that a hook reads on its standard input, and the bundle's
config.json. Pure.

Strict on what is used, and on nothing else: a wrong type, a text that is too long and a key that stands twice are
errors where they are used. Annotations are strings; how long one may be is up to who uses it (annotations.py),
because whoever writes a pod's annotations must not make the rest unreadable.

Source: OCI runtime specification, runtime.md "State" and config.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from agent.hooks.errors import Reason, SpecError
from agent.hooks.limits import (
    MAX_CONFIG,
    MAX_ID,
    MAX_LABELS_BYTES,
    MAX_LABELS_TEXT,
    MAX_PATH,
    MAX_PID,
    MAX_STATE,
)

SHOWN = 100  # characters of a foreign key in an error's text


@dataclass(frozen=True, slots=True)
class State:
    """pid: 0 when there is none. At the stage createContainer it is a number of the container's own pid namespace, of
    no use outside. bundle: empty when there is none.
    """

    id: str
    pid: int
    bundle: str
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Spec:
    """cgroups_path: `linux.cgroupsPath`, empty when the runtime chooses one."""

    cgroups_path: str
    annotations: Mapping[str, str]


def parse_state(raw: bytes) -> State:
    """Raises SpecError, reason INVALID."""
    document = _Document("state", Reason.INVALID, MAX_STATE)
    top = _parse(raw, document)
    container = top.text("id", MAX_ID)
    if not container:
        raise document.error("/id", "no container is named")
    return State(
        container,
        top.number("pid", MAX_PID),
        top.text("bundle", MAX_PATH - 1),
        top.child("annotations").texts(),
    )


def parse_config(raw: bytes) -> Spec:
    """Raises SpecError, reason NO_SPEC."""
    top = _parse(raw, _Document("config.json", Reason.NO_SPEC, MAX_CONFIG))
    return Spec(top.child("linux").text("cgroupsPath", MAX_PATH - 1), top.child("annotations").texts())


def parse_labels(text: str, name: str) -> dict[str, str]:
    """Labels as an annotation's JSON text; `null` is none. name: what they are, for errors. Raises SpecError, reason
    INVALID.
    """
    document = _Document(name, Reason.INVALID, MAX_LABELS_TEXT)
    if len(text) > MAX_LABELS_TEXT:
        raise document.error("", f"is longer than {MAX_LABELS_TEXT} characters")
    if text.strip() == "null":
        return {}
    node = _load(text, document)
    labels = {key: node.checked(key, value, MAX_LABELS_BYTES) for key, value in node.texts().items()}
    if sum(len(key) + len(value) for key, value in labels.items()) > MAX_LABELS_BYTES:
        raise document.error("", f"labels are larger than {MAX_LABELS_BYTES} bytes")
    return labels


def fault_of(text: str, limit: int) -> str:
    """Why a text cannot be a name, an id or a path; empty when it can. A lone surrogate, which JSON can say and UTF-8
    cannot, counts as unprintable.
    """
    if len(text) > limit:
        return f"is longer than {limit} characters"
    if not text.isprintable():
        return "has an unprintable character"
    return ""


@dataclass(frozen=True, slots=True)
class _Repeated:
    """An object in which a key stands twice: readers differ in which one counts."""

    key: str


@dataclass(frozen=True, slots=True)
class _Document:
    name: str
    reason: Reason
    limit: int

    def error(self, pointer: str, problem: str) -> SpecError:
        return SpecError(self.reason, self.name, pointer, problem)


@dataclass(frozen=True, slots=True)
class _Node:
    """An object of a document and where it stands."""

    document: _Document
    members: Mapping[str, object]
    pointer: str = field(default="")

    def _at(self, key: str) -> str:
        return f"{self.pointer}/{key[:SHOWN].replace('~', '~0').replace('/', '~1')}"

    def child(self, key: str) -> _Node:
        """Empty when it is absent or null, as an encoder in Go writes a map that is not set."""
        value = self.members.get(key)
        return _Node(self.document, _members(self.document, value, self._at(key)), self._at(key))

    def text(self, key: str, limit: int) -> str:
        """Empty when it is absent."""
        return self.checked(key, self._string(key, self.members.get(key, "")), limit)

    def number(self, key: str, limit: int) -> int:
        """A whole number from 0 to limit; 0 when it is absent."""
        value = self.members.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.document.error(self._at(key), f"is {_kind(value)}, not a whole number")
        if not 0 <= value <= limit:
            raise self.document.error(self._at(key), f"is not between 0 and {limit}")
        return value

    def texts(self) -> dict[str, str]:
        """All members, which must be texts; of any length, and perhaps no UTF-8."""
        return {key: self._string(key, value) for key, value in self.members.items()}

    def checked(self, key: str, text: str, limit: int) -> str:
        if fault := fault_of(text, limit) or fault_of(key, MAX_LABELS_BYTES):
            raise self.document.error(self._at(ascii(key)[1:-1]), fault)
        return text

    def _string(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.document.error(self._at(ascii(key)[1:-1]), f"is {_kind(value)}, not text")
        return value


def _kind(value: object) -> str:
    if isinstance(value, dict | _Repeated):
        return "an object"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "null")


def _members(document: _Document, value: object, pointer: str) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    if isinstance(value, _Repeated):
        raise document.error(pointer, f"the key {value.key[:SHOWN]!a} stands twice")
    if value is None and pointer:
        return {}
    raise document.error(pointer, f"is {_kind(value)}, not an object")


def _parse(raw: bytes, document: _Document) -> _Node:
    if len(raw) > document.limit:
        raise document.error("", f"is larger than {document.limit} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise document.error("", f"is not UTF-8 at byte {error.start}") from error
    return _load(text, document)


def _load(text: str, document: _Document) -> _Node:
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise document.error("", "is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, or a number of more digits than int() takes
        raise document.error("", f"is not JSON: {error}") from error
    return _Node(document, _members(document, value, ""))


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | _Repeated:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    counts = Counter(key for key, _ in pairs)
    return _Repeated(counts.most_common(1)[0][0])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
