# SPDX-License-Identifier: Apache-2.0
"""YAML to nodes: positions, types and limits."""

import pytest

from agent.policy.document import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    MAX_NODES,
    Mapping,
    Node,
    Scalar,
    ScalarKind,
    Sequence,
    parse_documents,
)
from agent.policy.errors import PolicyErrors, Problems


def _parse(text: bytes) -> tuple[Node, ...]:
    problems = Problems()
    nodes = parse_documents(text, "f", problems)
    problems.check()
    return nodes


def _refusal(text: bytes) -> str:
    with pytest.raises(PolicyErrors) as caught:
        _parse(text)
    return str(caught.value)


def _kind(text: str) -> tuple[str, ScalarKind]:
    (node,) = _parse(f"- {text}\n".encode())
    assert isinstance(node, Sequence)
    (scalar,) = node.items
    assert isinstance(scalar, Scalar)
    return scalar.text, scalar.kind


def test_positions_count_characters_from_one() -> None:
    (node,) = _parse("# é\na:\n  'é': [x, y]\n".encode())
    assert isinstance(node, Mapping)
    inner = node.entries["a"].value
    assert isinstance(inner, Mapping)
    entry = inner.entries["é"]
    assert isinstance(entry.value, Sequence)
    places = [node.source, node.entries["a"].key_source, entry.key_source, entry.value.items[1].source]
    assert [(place.line, place.column) for place in places] == [(2, 1), (2, 1), (3, 3), (3, 12)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", ("5", ScalarKind.INTEGER)),
        ("'5'", ("5", ScalarKind.STRING)),
        ("!!str 5", ("5", ScalarKind.STRING)),
        ("!!int 5", ("5", ScalarKind.INTEGER)),
        ("1.5", ("1.5", ScalarKind.FLOAT)),
        ("yes", ("yes", ScalarKind.BOOLEAN)),
        ("~", ("~", ScalarKind.NULL)),
        ("", ("", ScalarKind.NULL)),
        ("2024-05-07", ("2024-05-07", ScalarKind.STRING)),
        ("=", ("=", ScalarKind.STRING)),
    ],
)
def test_scalars_have_the_types_of_yaml(text: str, expected: tuple[str, ScalarKind]) -> None:
    assert _kind(text) == expected


def test_nesting_is_limited_and_never_reaches_pythons_recursion() -> None:
    assert len(_parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)) == 1
    one_more = MAX_DEPTH + 1
    for deep in (b"[" * one_more + b"]" * one_more, b"[" * 500_000, b"{a: " * 200_000, b"- " * 500_000):
        assert f"nested more than {MAX_DEPTH} deep" in _refusal(deep)


def test_file_size_is_limited() -> None:
    assert _parse(b"#" * MAX_FILE_BYTES) == ()
    text = b"#" * (MAX_FILE_BYTES + 1)
    assert _refusal(text) == "f:1:1: the file has 1048577 bytes and the limit is 1048576, split it"


def test_number_of_nodes_is_limited_over_all_documents() -> None:
    assert len(_parse(b"[" + b"1," * (MAX_NODES - 1) + b"]")) == 1
    for much in (b"[" + b"1," * MAX_NODES + b"]", b"--- 1\n" * (MAX_NODES + 1)):
        assert f"the file has more than {MAX_NODES} keys and values, split it" in _refusal(much)


def test_alias_is_refused_before_it_expands() -> None:
    bomb = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(20))
    assert _refusal(bomb) == "f:2:8: YAML aliases are not supported, write the value again"


def test_anchor_without_alias_is_accepted() -> None:
    assert _kind("&here 5") == ("5", ScalarKind.INTEGER)


@pytest.mark.parametrize("text", ["\ufeff", "\ufeffa: 1"])
def test_byte_order_mark_at_the_start_is_ignored(text: str) -> None:
    assert _parse(text.encode()) == _parse(text.removeprefix("\ufeff").encode())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("é: é\n\0".encode(), "f:2:1: the character U+0000"),
        ("a: é\ufeff".encode(), "f:1:5: the character U+FEFF"),
        ("a: é\n\u2028é".encode() + b"\xc3", "f:3:2: byte 0xc3 is not valid UTF-8"),
        ("a: 1".encode("utf-16"), "f:1:1: byte 0xff is not valid UTF-8"),
        (b"a: \xed\xa0\x80", "f:1:4: byte 0xed is not valid UTF-8"),
        (b'a: "\\ud800"', "f:1:"),
        (b"a: b: c", "f:1:5: not valid YAML: mapping values are not allowed"),
        (b"%YAML 2.0\n---\na", "f:1:1: not valid YAML: found incompatible YAML document"),
        (b"a: %b", "f:1:4: not valid YAML: found character that cannot start any token"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_place(text: bytes, place: str) -> None:
    assert _refusal(text).startswith(place)


def test_duplicate_keys_are_all_reported_and_the_first_value_stays() -> None:
    problems = Problems()
    (node,) = parse_documents(b"a: 1\na: 2\nb: {c: 1, c: 2}\n", "f", problems)
    assert isinstance(node, Mapping)
    first = node.entries["a"].value
    assert isinstance(first, Scalar)
    assert first.text == "1"
    with pytest.raises(PolicyErrors) as caught:
        problems.check()
    assert [(error.line, error.column) for error in caught.value.errors] == [(2, 1), (3, 11)]
