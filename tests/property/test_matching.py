# SPDX-License-Identifier: Apache-2.0
"""Random selectors: the kernel's answer is that of a plain evaluator of the model, for every value tried."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.policy.model import ArgMatch, ArgType, Operator, Selector
from agent.policy.reader import parse_policies
from tests.support.agent import EventReader
from tests.support.workload import (
    POST,
    Node,
    build_calls,
    kprobe,
    lseek_policy,
    match,
    policy,
    selector,
    start_node,
    step,
    steps,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

POLICIES = 30  # in one compilation
EDGES = (0, 1, -1, 2, 7, 255, (1 << 31) - 1, -(1 << 31), (1 << 32) - 1, 1 << 32, (1 << 63) - 1, -(1 << 63))
PROBES = (*EDGES, 3, 5, -2, 8, 256, 1 << 40)
TYPES = ("int", "uint", "long", "ulong", "size_t")
ATOMS = ("", "a", "/", "ab", "abcdefg", "abcdefgh", "abcdefghi", "/etc/passwd", "ä")
TEXTS = (*ATOMS, "abcdefgha", "aabcdefgh", "/etc/passwd/a", "x" * 17, "ab" * 9, "b", "ba")


def numbers(kind: str) -> st.SearchStrategy[int]:
    bits = ArgType(kind).bits
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if ArgType(kind).signed else (0, (1 << bits) - 1)
    return st.sampled_from([value for value in EDGES if low <= value <= high]) | st.integers(low, high)


@st.composite
def number_policies(draw: st.DrawFn) -> dict[str, Any]:
    """Selectors on the first two arguments of lseek."""
    kinds = [draw(st.sampled_from(TYPES)) for _ in range(2)]

    def one_match() -> dict[str, Any]:
        index = draw(st.integers(0, 1))
        operator = draw(st.sampled_from(("Equal", "NotEqual", "GT", "LT", "Mask")))
        return match(index, operator, *draw(st.lists(numbers(kinds[index]), min_size=1, max_size=4)))

    selectors = [
        selector(*(one_match() for _ in range(draw(st.integers(0, 3)))), actions=POST)
        for _ in range(draw(st.integers(1, 3)))
    ]
    return kprobe("lseek", dict(enumerate(kinds)), *selectors)


@st.composite
def text_policies(draw: st.DrawFn) -> dict[str, Any]:
    """Selectors on the path of access."""

    def one_match() -> dict[str, Any]:
        operator = draw(st.sampled_from(("Equal", "NotEqual", "Prefix", "Postfix")))
        texts = ATOMS[1:] if operator in ("Prefix", "Postfix") else ATOMS
        return match(0, operator, *draw(st.lists(st.sampled_from(texts), min_size=1, max_size=4)))

    selectors = [
        selector(*(one_match() for _ in range(draw(st.integers(1, 2)))), actions=POST)
        for _ in range(draw(st.integers(1, 3)))
    ]
    return kprobe("access", {0: "string"}, *selectors)


def holds(condition: ArgMatch, kind: ArgType, raw: int | bytes) -> bool:
    """What the model says of one match; raw: the register, or the text."""
    value: Any = raw
    if isinstance(raw, int):
        value = raw & ((1 << kind.bits) - 1)
        value -= (1 << kind.bits) if kind.signed and value >> (kind.bits - 1) else 0
    found = any(compare(condition.operator, value, wanted, kind) for wanted in condition.values)
    return found != (condition.operator is Operator.NOT_EQUAL)


def compare(operator: Operator, value: Any, wanted: Any, kind: ArgType) -> bool:
    """One value of a match, NotEqual as Equal."""
    match operator:
        case Operator.EQUAL | Operator.NOT_EQUAL:
            return bool(value == wanted)
        case Operator.GT:
            return bool(value > wanted)
        case Operator.LT:
            return bool(value < wanted)
        case Operator.MASK:
            return bool(value & wanted & ((1 << kind.bits) - 1))
        case Operator.PREFIX:
            return bool(value.startswith(wanted))
        case Operator.POSTFIX:
            return bool(value.endswith(wanted))


def first_match(selectors: Sequence[Selector], types: dict[int, ArgType], call: Sequence[int | bytes]) -> int | None:
    for number, candidate in enumerate(selectors):
        if all(holds(condition, types[condition.index], call[condition.index]) for condition in candidate.match_args):
            return number
    return None


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    program = build_calls(tmp_path_factory.mktemp("programs"))
    with start_node(program, "--loader-deadline", "85") as node:
        yield node


def kernel_answers(node: Node, documents: list[dict[str, Any]], calls: list[list[str]]) -> dict[int, list[int]]:
    """For each policy the selectors that were hit, in the order of the calls; a call that hit nothing is not in it."""
    node.add(*documents, lseek_policy("end", namespace="end", actions=POST))
    pids: dict[int, int] = {}
    hits: dict[int, list[int]] = defaultdict(list)
    with EventReader(node.agent.run_dir) as heard:
        for number in range(len(documents)):
            with node.container(f"n{number}", pod=f"pod-{number}") as group:
                pids[group.run(steps(*calls)).pid] = number
        with node.container("end") as group:
            last = group.call("lseek", -1, 0, 0).pid
        heard.find(lambda event: bool(event.get("process") and event["process"]["pid"] == last), 30)
        for event in heard.all():
            if event["process"]["pid"] in pids:
                hits[pids[event["process"]["pid"]]].append(event["selector"])
    return hits


def check(
    node: Node, kprobes: list[dict[str, Any]], calls: list[tuple[int | bytes, ...]], words: list[list[str]]
) -> None:
    documents = [policy(f"p{number}", hook, namespace=f"n{number}") for number, hook in enumerate(kprobes)]
    found = kernel_answers(node, documents, words)
    for number, document in enumerate(documents):
        hook = parse_policies(json.dumps(document).encode(), "drawn")[0].hooks[0]
        types = {arg.index: arg.type for arg in hook.args}
        expected = [first_match(hook.selectors, types, call) for call in calls]
        assert found[number] == [hit for hit in expected if hit is not None], json.dumps(document)


# Each example is a compilation, and a smaller one would take as long: no shrinking.
once = settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@once
@given(kprobes=st.lists(number_policies(), min_size=POLICIES, max_size=POLICIES))
def test_numbers_match_as_the_model_says(machine: Node, kprobes: list[dict[str, Any]]) -> None:
    calls: list[tuple[int | bytes, ...]] = [(first, second) for first in PROBES for second in (0, -1, 1 << 31)]
    words = [step("lseek", *call, 99) for call in calls]
    check(machine, kprobes, calls, words)


@once
@given(kprobes=st.lists(text_policies(), min_size=POLICIES, max_size=POLICIES))
def test_texts_match_as_the_model_says(machine: Node, kprobes: list[dict[str, Any]]) -> None:
    calls: list[tuple[int | bytes, ...]] = [(text.encode(),) for text in TEXTS]
    check(machine, kprobes, calls, [step("access", text, 0) for text in TEXTS])
