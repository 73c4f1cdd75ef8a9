# SPDX-License-Identifier: Apache-2.0
"""YAML (and with it JSON) to trees of nodes that know their place in the file.

Theory of operation. The tree is built from the parser's event stream with a stack of our own, so no depth of
nesting reaches Python's recursion limit, and every limit is checked before the node exists. What YAML can do
beyond JSON is refused, because in a policy it hides more than it helps: aliases (a file of a hundred bytes can
expand to gigabytes), tags other than the core ones, merge keys, keys that are not strings, and duplicate keys,
of which readers disagree which one wins.
"""

import re
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, NoReturn

import yaml

from agent.policy.errors import Problems, quote
from agent.policy.model import Source

# The API server's own bound for an object is 1.5 MiB on the wire (etcd's request limit); real policies have some KiB.
MAX_FILE_BYTES = 1 << 20
# The deepest field that a policy can have is nested 12 deep; managedFields mirror that once more.
MAX_DEPTH = 32
# A node takes some 250 bytes, so a file of nothing but brackets would take 130 MB; the 65,536 values that a policy may
# have, and the fields around them, need fewer.
MAX_NODES = 131_072

# The C parser is some 20 times faster, and it alone takes tabs inside JSON.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CORE = "tag:yaml.org,2002:"
# YAML 1.1, production c-printable, and no surrogates.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@unique
class ScalarKind(Enum):
    """The core types of YAML."""

    STRING = "str"
    INTEGER = "int"
    FLOAT = "float"
    BOOLEAN = "bool"
    NULL = "null"


# Kubernetes hands an unquoted date on as the text that it is.
_PLAIN_KINDS = {_CORE + kind.value: kind for kind in ScalarKind} | {_CORE + "timestamp": ScalarKind.STRING}
_TAG_KINDS = {_CORE + kind.value: kind for kind in ScalarKind}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar: its text without quotes, and the type that the text or the quotes give it."""

    text: str
    kind: ScalarKind
    source: Source


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple["Node", ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a mapping, and the place of its key."""

    value: "Node"
    key_source: Source


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping with string keys; never changed after building."""

    entries: dict[str, Entry]
    source: Source


Node = Scalar | Sequence | Mapping


class _Frame:
    """A collection that is being built; `key` is the key that waits for its value."""

    __slots__ = ("entries", "items", "key", "source")

    def __init__(self, source: Source, is_mapping: bool) -> None:
        self.source = source
        self.items: list[Node] = []
        self.entries: dict[str, Entry] | None = {} if is_mapping else None
        self.key: Scalar | None = None

    def node(self) -> Node:
        if self.entries is None:
            return Sequence(tuple(self.items), self.source)
        return Mapping(self.entries, self.source)


def parse_documents(text: bytes, file: str, problems: Problems) -> tuple[Node, ...]:
    """The non-empty documents of a file, in order.

    Reports what is wrong to `problems`; duplicate keys let the reading go on (the first value stays), all else
    ends it. Raises PolicyErrors.
    """
    content = _decode(text, file, problems)
    builder = _Builder(file, problems)
    loader = _LOADER(content)
    try:
        builder.run(loader)
    except yaml.YAMLError as error:
        problems.stop(*_syntax_error(error, content, file))
    finally:
        loader.dispose()
    return tuple(builder.documents)


def _decode(text: bytes, file: str, problems: Problems) -> str:
    if len(text) > MAX_FILE_BYTES:
        what = f"the file has {len(text)} bytes and the limit is {MAX_FILE_BYTES}"
        problems.stop(Source(file, 1, 1), what, "split it")
    try:
        content = text.decode("utf-8")
    except UnicodeDecodeError as error:
        source = _position(text[: error.start].decode("utf-8"), file)
        problems.stop(source, f"byte {text[error.start]:#04x} is not valid UTF-8", "save the file as UTF-8")
    content = content.removeprefix("\ufeff")
    if found := _UNPRINTABLE.search(content):
        what = f"the character U+{ord(found[0]):04X} is not allowed in YAML"
        problems.stop(_position(content[: found.start()], file), what, "write it as an escape in double quotes")
    return content


def _position(before: str, file: str) -> Source:
    """Where the character after `before` is."""
    lines = _BREAK.split(before)
    return Source(file, len(lines), len(lines[-1]) + 1)


def _syntax_error(error: yaml.YAMLError, content: str, file: str) -> tuple[Source, str, str]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    source = Source(file, mark.line + 1, mark.column + 1) if mark else Source(file, 1, 1)
    # libyaml puts the end of a text without a last line break into the line after it.
    source = min(source, _position(content, file), key=lambda place: (place.line, place.column))
    problem = getattr(error, "problem", None) or "the text cannot be read"
    context = getattr(error, "context", None)
    what = f"not valid YAML: {problem}" + (f" {context}" if context else "")
    advice = "check the indentation, the quotes and the colons"
    if "tab character" in what or "cannot start any token" in what:
        advice = "indent with spaces, not tabs, and quote text that starts with a special character"
    return source, what, advice


class _Builder:
    """Turns the events of a loader into nodes."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.documents: list[Node] = []
        self._file = file
        self._problems = problems
        self._stack: list[_Frame] = []
        self._nodes = 0

    def run(self, loader: Any) -> None:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.ScalarEvent):
                self._add(self._scalar(event, loader))
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._add(self._stack.pop().node())
            elif isinstance(event, yaml.AliasEvent):
                self._problems.stop(self._source(event), "YAML aliases are not supported", "write the value again")

    def _source(self, event: Any) -> Source:
        return Source(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _count(self, source: Source) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._problems.stop(source, f"the file has more than {MAX_NODES} keys and values", "split it")

    def _open(self, event: Any) -> None:
        source = self._source(event)
        self._count(source)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _CORE + ("map" if is_mapping else "seq")):
            self._refuse_tag(source)
        if len(self._stack) == MAX_DEPTH:
            self._problems.stop(source, f"nested more than {MAX_DEPTH} deep", "no policy needs that")
        self._stack.append(_Frame(source, is_mapping))

    def _refuse_tag(self, source: Source) -> NoReturn:
        self._problems.stop(source, "YAML tags other than the core ones are not supported", "leave the tag out")

    def _scalar(self, event: Any, loader: Any) -> Scalar:
        source = self._source(event)
        self._count(source)
        kind = self._kind(event, loader, source)
        text: str = event.value
        if not text.isascii() and _SURROGATE.search(text):
            self._problems.stop(source, "half of a surrogate pair is not text", "write the character itself")
        return Scalar(text, kind, source)

    def _kind(self, event: Any, loader: Any, source: Source) -> ScalarKind:
        if event.tag in (None, "!"):
            tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
            # `<<` and `=` resolve to types of their own; the former is refused as a key.
            return _PLAIN_KINDS.get(tag, ScalarKind.STRING)
        kind = _TAG_KINDS.get(event.tag)
        plain = loader.resolve(yaml.ScalarNode, event.value, (True, False))
        if kind is None:
            self._refuse_tag(source)
        if kind is not ScalarKind.STRING and plain != event.tag:
            what = f"{quote(event.value)} is not of the type that its YAML tag says"
            self._problems.stop(source, what, "leave the tag out")
        return kind

    def _add(self, node: Node) -> None:
        if not self._stack:
            if not (isinstance(node, Scalar) and node.kind is ScalarKind.NULL):
                self.documents.append(node)
            return
        frame = self._stack[-1]
        if frame.entries is None:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node)
        else:
            self._set(frame.entries, frame.key, node)
            frame.key = None

    def _key(self, node: Node) -> Scalar:
        if not isinstance(node, Scalar) or node.kind is not ScalarKind.STRING:
            self._problems.stop(node.source, "a key must be a string", "quote it")
        if node.text == "<<":
            self._problems.stop(node.source, "YAML merge keys are not supported", "write the fields out")
        return node

    def _set(self, entries: dict[str, Entry], key: Scalar, value: Node) -> None:
        if key.text in entries:
            first = entries[key.text].key_source
            what = f"the key {quote(key.text)} is given twice (first in line {first.line})"
            self._problems.report(key.source, what, "keep one of them")
        else:
            entries[key.text] = Entry(value, key.source)
