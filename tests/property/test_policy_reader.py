# SPDX-License-Identifier: Apache-2.0
"""Whatever is fed to the reader gives policies or PolicyErrors with places inside the file."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.policy.errors import MAX_ERRORS, PolicyErrors
from agent.policy.model import Policy
from agent.policy.reader import parse_policies

_GOOD = Path(__file__).parent.parent / "data" / "policies" / "good"
_TEXTS = [path.read_bytes() for path in sorted(_GOOD.glob("*.yaml"))]
_DOCUMENTS: list[Any] = [
    each for text in _TEXTS for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each is not None
]
_WORDS = sorted(set(re.findall(r"[A-Za-z_:]+", b"\n".join(_TEXTS).decode())))
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(_WORDS),
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4),
    max_leaves=12,
)


def _check(text: bytes) -> tuple[Policy, ...]:
    """Parse; every error must be in the file `f`, at a place that the text has."""
    try:
        return parse_policies(text, "f")
    except PolicyErrors as caught:
        _check_errors(text, caught)
        return ()


def _check_errors(text: bytes, caught: PolicyErrors) -> None:
    lines = _BREAK.split(text.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))
    assert 1 <= len(caught.errors) <= MAX_ERRORS
    for error in caught.errors:
        assert 1 <= error.line <= len(lines), error
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1, error
        assert error.what
        assert error.advice
        assert "\n" not in str(error)


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values below `node`."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in ((*path, key), *_places(value, (*path, key)))]


def _mutate(document: Any, path: tuple[Any, ...], change: str, value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    last = path[-1]
    if change == "drop":
        del document[last]
    elif change == "replace" or isinstance(document, list):
        document[last] = value
    elif change == "nest":
        document[last] = [document[last]]
    else:
        document[str(value)] = document.pop(last)


@settings(max_examples=300, deadline=1000)
@given(st.data())
def test_mutated_policy_gives_policies_or_errors_with_places(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(_DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            break
        change = data.draw(st.sampled_from(["drop", "replace", "nest", "rename"]))
        _mutate(document, data.draw(st.sampled_from(places)), change, data.draw(_VALUES))
    flow = data.draw(st.sampled_from([None, True, False]))
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True)
    for policy in _check(text.encode()):
        assert policy.hooks
        assert all(hook.selectors for hook in policy.hooks)


@settings(max_examples=300, deadline=1000)
@given(st.sampled_from(_TEXTS), st.data())
def test_damaged_text_gives_policies_or_errors_with_places(text: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    junk = data.draw(st.binary(max_size=6) | st.sampled_from([b"\t", b"&a ", b"*a", b"!!x ", b"- ", b": ", b"'", b"{"]))
    _check(text[:start] + junk + text[end:])


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=200) | st.text("ab:-[]{}#&*!|>'\"%@`,? \n\t0~\x85é\u2028", max_size=200).map(str.encode))
def test_junk_gives_policies_or_errors_with_places(text: bytes) -> None:
    _check(text)


@given(st.sampled_from(_DOCUMENTS))
def test_yaml_and_json_of_a_document_mean_the_same(document: Any) -> None:
    as_json = json.dumps(document, default=str).encode()
    as_yaml = yaml.safe_dump(document, default_flow_style=False).encode()
    assert parse_policies(as_json, "f") == parse_policies(as_yaml, "f") != ()


@given(st.lists(st.binary(max_size=40).map(lambda raw: raw.decode("latin-1").replace("\0", "")), min_size=1))
def test_text_values_keep_every_byte(values: list[str]) -> None:
    match = {"index": 0, "operator": "Equal", "values": values}
    kprobe = {
        "call": "openat",
        "args": [{"index": 0, "type": "string"}],
        "selectors": [{"matchArgs": [match]}],
    }
    document = {
        "apiVersion": "cilium.io/v1alpha1",
        "kind": "TracingPolicy",
        "metadata": {"name": "x"},
        "spec": {"kprobes": [kprobe]},
    }
    text = yaml.safe_dump(document)
    (policy,) = parse_policies(text.encode(), "f")
    read = policy.hooks[0].selectors[0].args[0].values
    assert read == tuple(value.encode() for value in values)
