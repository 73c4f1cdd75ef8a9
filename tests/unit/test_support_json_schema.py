# SPDX-License-Identifier: Apache-2.0
"""The validator that tests use."""

from typing import Any

import pytest

from tests.support.json_schema import Validator

OBJECT = {
    "type": "object",
    "required": ["a"],
    "properties": {"a": {"$ref": "#/$defs/A"}, "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "additionalProperties": False,
    "allOf": [{"if": {"properties": {"n": {"const": 1}}, "required": ["n"]}, "then": {"maxProperties": 1}}],
    "$defs": {"A": {"type": "array", "items": {"enum": ["x", 1]}, "minItems": 1, "maxItems": 2}},
}


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ({"a": ["x"]}, []),
        ({"a": ["x"], "n": None}, []),
        ({"a": ["x"], "n": 2}, []),
        ({"a": ["x"], "n": 1}, ["maxProperties"]),
        ({"a": ["x"], "n": True}, ["n/type integer"]),
        ({"a": [True]}, ["a/0/enum"]),
        ({"a": []}, ["a/minItems"]),
        ({"a": ["x", 1, "y"]}, ["a/2/enum", "a/maxItems"]),
        ({"a": "x"}, ["a/type array"]),
        ({"b": 1}, ["a: required", "b: unknown"]),
        ([], ["type object"]),
    ],
)
def test_faults_have_their_place(value: Any, faults: list[str]) -> None:
    assert Validator(OBJECT).find_faults(value) == faults


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"minimum": 0, "maximum": 2}, [0, 2, "no number"], [-1, 3]),
        ({"minLength": 2, "pattern": "^a"}, ["ab", 7], ["a", "ba"]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, [{}, {"k": "v"}], [{"k": 1}]),
        ({"type": "boolean"}, [True], [1, None]),
        ({"type": "integer"}, [1], [True, "1", 1.5]),
    ],
)
def test_keywords(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    validator = Validator(schema)
    assert [validator.find_faults(value) for value in good] == [[] for _ in good]
    assert all(validator.find_faults(value) for value in bad)


def test_an_unknown_keyword_is_no_silent_pass() -> None:
    with pytest.raises(NotImplementedError, match="uniqueItems"):
        Validator({"uniqueItems": True}).find_faults([])
