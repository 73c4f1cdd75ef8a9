# SPDX-License-Identifier: Apache-2.0
"""State JSON and config.json: what is used must be right, and whatever comes is a value or a SpecError."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.errors import Reason, SpecError
from agent.hooks.limits import MAX_CONFIG, MAX_ID, MAX_LABELS_BYTES, MAX_LABELS_TEXT, MAX_PATH, MAX_PID, MAX_STATE
from agent.hooks.spec import Spec, State, fault_of, parse_config, parse_labels, parse_state

_STATE = {"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 7, "bundle": "/b", "annotations": {"k": "v"}}


def _refused(call: Callable[[], object]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        call()
    return caught.value


def _state(**members: object) -> bytes:
    return json.dumps(_STATE | members).encode()


def test_a_state_is_read() -> None:
    assert parse_state(_state(root="/r", unknown=[1, {"deep": None}])) == State("c1", 7, "/b", {"k": "v"})


def test_what_a_stage_does_not_have_may_be_absent() -> None:
    assert parse_state(b'{"id": "c1"}') == State("c1", 0, "", {})
    assert parse_state(b'{"id": "c1", "annotations": null}').annotations == {}


@pytest.mark.parametrize(
    ("members", "pointer", "problem"),
    [
        ({"id": ""}, "/id", "no container is named"),
        ({"id": 5}, "/id", "is a number, not text"),
        ({"id": None}, "/id", "is null, not text"),
        ({"id": "x" * (MAX_ID + 1)}, "/id", "is longer than 256 characters"),
        ({"id": "c\n1"}, "/id", "has an unprintable character"),
        ({"id": "c\ud800"}, "/id", "has an unprintable character"),
        ({"pid": "7"}, "/pid", "is text, not a whole number"),
        ({"pid": 7.0}, "/pid", "is a number, not a whole number"),
        ({"pid": True}, "/pid", "is true or false, not a whole number"),
        ({"pid": -1}, "/pid", "is not between 0 and 4194304"),
        ({"pid": MAX_PID + 1}, "/pid", "is not between 0 and 4194304"),
        ({"bundle": ["/b"]}, "/bundle", "is a list, not text"),
        ({"bundle": "/b\0"}, "/bundle", "has an unprintable character"),
        ({"bundle": "/" * MAX_PATH}, "/bundle", "is longer than 4095 characters"),
        ({"annotations": "k=v"}, "/annotations", "is text, not an object"),
        ({"annotations": {"a/b~c": 5}}, "/annotations/a~1b~0c", "is a number, not text"),
        ({"annotations": {"k": {"deep": "v"}}}, "/annotations/k", "is an object, not text"),
        ({"annotations": {"\ud800": 1}}, "/annotations/\\ud800", "is a number, not text"),
    ],
)
def test_what_is_used_must_be_right(members: dict[str, object], pointer: str, problem: str) -> None:
    error = _refused(lambda: parse_state(_state(**members)))
    assert (error.reason, error.pointer, error.problem) == (Reason.INVALID, pointer, problem)
    assert str(error) == f"state at {pointer}: {problem}"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "is not JSON: Expecting value"),
        (b"{", "is not JSON: Expecting property name"),
        (b'{"id": "c1"} x', "is not JSON: Extra data"),
        (b'{"id": "\xff"}', "is not UTF-8 at byte 8"),
        ('{"id": "c1"}'.encode("utf-16"), "is not UTF-8 at byte 0"),
        (b'\xef\xbb\xbf{"id": "c1"}', "is not JSON: Unexpected UTF-8 BOM"),
        (b'{"id": "c1", "pid": NaN}', "is not JSON: NaN is no number"),
        (b'{"id": "c1", "x": [-Infinity]}', "is not JSON: -Infinity is no number"),
        (b'{"id": "c1", "pid": ' + b"9" * 5000 + b"}", "is not JSON: Exceeds the limit"),
        (b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested too deeply"),
        (b"[]", "is a list, not an object"),
        (b"null", "is null, not an object"),
        (b'{"id": "c1", "id": "c2"}', "the key 'id' stands twice"),
        (b" " * (MAX_STATE + 1), "is larger than 4194304 bytes"),
    ],
)
def test_a_document_that_is_none_is_told(raw: bytes, problem: str) -> None:
    error = _refused(lambda: parse_state(raw))
    assert (error.reason, error.pointer) == (Reason.INVALID, "")
    assert error.problem.startswith(problem)


def test_a_key_that_stands_twice_counts_where_it_is_used() -> None:
    error = _refused(lambda: parse_state(b'{"id": "c1", "annotations": {"k": "1", "k": "2"}}'))
    assert (error.pointer, error.problem) == ("/annotations", "the key 'k' stands twice")
    assert parse_state(b'{"id": "c1", "hooks": {"k": 1, "k": 2}}').id == "c1"


def test_a_pod_that_is_annotated_to_the_limit_is_read() -> None:
    """256 KiB of what JSON escapes, as encoders in Go do, once by itself and once as JSON within JSON."""
    value = "<" * (256 << 10)
    escaped = json.dumps(value).replace("<", "\\u003c")
    nested = json.dumps(f'{{"k":{escaped}}}')
    raw = f'{{"id": "c1", "annotations": {{"k": {escaped}, "all": {nested}}}}}'.encode()
    assert 3 << 20 < len(raw) < MAX_STATE
    assert parse_state(raw).annotations["k"] == value


def test_a_config_is_read() -> None:
    raw = json.dumps({"linux": {"cgroupsPath": "/c/1", "seccomp": {}}, "annotations": {"k": "v"}, "process": {}})
    assert parse_config(raw.encode()) == Spec("/c/1", {"k": "v"})
    assert parse_config(b"{}") == Spec("", {})


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b'{"linux": []}', "/linux"),
        (b'{"linux": {"cgroupsPath": 1}}', "/linux/cgroupsPath"),
        (b'{"linux": {"cgroupsPath": "/a\\u0000"}}', "/linux/cgroupsPath"),
        (b'{"annotations": {"k": null}}', "/annotations/k"),
        (b"{}" + b" " * MAX_CONFIG, ""),
    ],
)
def test_a_config_that_is_wrong_is_no_spec(raw: bytes, pointer: str) -> None:
    error = _refused(lambda: parse_config(raw))
    assert (error.reason, error.document, error.pointer) == (Reason.NO_SPEC, "config.json", pointer)


def test_labels_in_an_annotation_are_read() -> None:
    assert parse_labels('{"b": "2", "a": ""}', "annotation L") == {"a": "", "b": "2"}
    assert parse_labels("null", "annotation L") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"a": 1}',
        '{"a": "1", "a": "2"}',
        '{"a": "\\ud800"}',
        '{"\\ud800": "a"}',
        '{"\\n": "a"}',
        "[" * 100_000,
        json.dumps({"a": "x" * MAX_LABELS_BYTES}),
        " " * (MAX_LABELS_TEXT + 1),
    ],
)
def test_labels_that_cannot_be_read_are_told(text: str) -> None:
    error = _refused(lambda: parse_labels(text, "annotation L"))
    assert (error.reason, error.document) == (Reason.INVALID, "annotation L")


@pytest.mark.parametrize("text", ["", "web-0", "/a b/ü", "x" * 9])
def test_a_text_without_fault_can_be_sent(text: str) -> None:
    assert fault_of(text, 9) == ""
    assert text.encode().decode() == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=None), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("id", "pid", "bundle", "annotations", "linux", "cgroupsPath", "k")), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def _survive(parse: Callable[[bytes], object], raw: bytes) -> None:
    try:
        value = parse(raw)
    except SpecError as error:
        str(error).encode()
    else:
        assert isinstance(value, State | Spec)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(junk: bytes) -> None:
    _survive(parse_state, junk)
    _survive(parse_config, junk)


@given(_JSON)
def test_any_json_is_a_value_or_an_error(junk: object) -> None:
    raw = json.dumps(junk).encode()
    for parse in (parse_state, parse_config):
        _survive(parse, raw)
        _survive(parse, raw[: len(raw) // 2])


@given(st.text(st.characters(categories=None), max_size=60) | _JSON.map(json.dumps))
def test_any_text_is_labels_or_an_error(junk: str) -> None:
    try:
        labels = parse_labels(junk, "annotation L")
    except SpecError as error:
        str(error).encode()
    else:
        assert all(f"{key}{value}".isprintable() for key, value in labels.items())
