# SPDX-License-Identifier: Apache-2.0
"""Policies that were made to be expensive are read or refused in bounded time and memory."""

import contextlib
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from agent.policy.errors import PolicyErrors
from agent.policy.reader import parse_policies
from tests.support.policy_text import errors_of, kprobe_text, policy_text

# Some three times what the slowest of them takes on a machine of 2 cores.
_MAX_SECONDS = 4
_MAX_BYTES = 96 << 20

_INT = [{"index": 0, "type": "int"}]
_EQUAL = {"index": 0, "operator": "Equal", "values": ["1"]}


def _matches(matches: list[dict[str, Any]], args: list[dict[str, Any]] = _INT) -> bytes:
    return kprobe_text(args=args, selectors=[{"matchArgs": matches}])


def _macro(macro: dict[str, Any], count: int) -> bytes:
    hook = {"subsystem": "a", "event": "b", "args": [{"index": 0, "type": "sock"}], "selectors": [{"macros": ["m"]}]}
    return policy_text(selectorsMacros={"m": macro}, tracepoints=[{**hook, "selectors": [{"macros": ["m"]}] * count}])


def _patterns() -> bytes:
    pattern = "(a|[a-z_])*" * 90 + "!"
    lists = [{"name": f"l{number}", "type": "generated_syscalls", "pattern": pattern} for number in range(300)]
    return policy_text(lists=lists, kprobes=[{"call": "list:l1"}])


def _resolved(count: int) -> list[dict[str, Any]]:
    return [{"index": 0, "type": "int", "resolve": f"a{number}"} for number in range(count)]


_EXPENSIVE: dict[str, Callable[[], bytes]] = {
    "values": lambda: _matches([{"index": 0, "operator": "InMap", "values": list(map(str, range(65_000)))}]),
    "too many values": lambda: _matches([{"index": 0, "operator": "InMap", "values": list(map(str, range(66_000)))}]),
    "ten megabytes": lambda: b"a: 1\n" * 2_000_000,
    "a megabyte of nodes": lambda: b"[" + b"1," * 500_000 + b"]",
    "deep": lambda: b"[" * 1_000_000,
    "deep JSON": lambda: b'{"a":' * 200_000,
    "an open quote": lambda: b"'" + b"a" * 1_000_000,
    "long keys": lambda: b"? " + b"a" * 1_000_000,
    "documents": lambda: b"--- {}\n" * 140_000,
    "calls": lambda: policy_text(
        lists=[{"name": "a", "type": "generated_syscalls"}], kprobes=[{"call": "list:a"}] * 3000
    ),
    "macro of values": lambda: _macro({"matchPIDs": [{"operator": "In", "values": list(range(1000))}]}, 1000),
    "macro without values": lambda: _macro({"matchArgs": [{"index": 0, "operator": "DPortPriv"}] * 5000}, 5000),
    "macro of labels": lambda: _macro(
        {"matchWorkloads": {"podSelector": {"matchLabels": {f"a{number}": "b" for number in range(1000)}}}}, 1000
    ),
    "macros": lambda: policy_text(
        selectorsMacros={f"m{number}": {"label": "x"} for number in range(10_000)},
        kprobes=[{"call": "openat", "selectors": [{"macros": [f"m{number}" for number in range(10_000)]}]}],
    ),
    "patterns": _patterns,
    "arguments and matches": lambda: _matches([{**_EQUAL, "args": [4999]}] * 5000, _resolved(5000)),
    "arguments by index": lambda: _matches([_EQUAL] * 5000, _resolved(5000)),
    "equal arguments": lambda: kprobe_text(args=_INT * 15_000),
    "actions": lambda: kprobe_text(
        selectors=[{"matchActions": [{"action": "GetUrl", "argUrl": f"http://{n}"} for n in range(15_000)]}]
    ),
    "expressions": lambda: _matches([{"operator": "CelExpr", "values": ["arg0 " + "+ arg0 " * 120 + "== 1"]}] * 1000),
    "labels": lambda: policy_text(
        podSelector={"matchLabels": {f"a{number}": "b" for number in range(30_000)}}, kprobes=[{"call": "openat"}]
    ),
    "names like others": lambda: policy_text(
        lists=[{"name": "a" * 34 + str(number), "values": ["x"]} for number in range(12_000)],
        kprobes=[{"call": f"list:{'a' * 33}{number}"} for number in range(19)],
    ),
    "a long text": lambda: kprobe_text(message="a" * 1_000_000),
    "a long number": lambda: _matches([{**_EQUAL, "values": ["1" * 1_000_000]}]),
    "a long unquoted number": lambda: b"a: " + b"1_" * 500_000,
    "a long pattern": lambda: policy_text(
        lists=[{"name": "a", "type": "generated_syscalls", "pattern": "a" * 1_000_000}], kprobes=[{"call": "openat"}]
    ),
    "a long resolve": lambda: kprobe_text(args=[{"index": 0, "type": "int", "resolve": "a." * 450_000}]),
    "brackets": lambda: kprobe_text(args=[{"index": 0, "type": "int", "resolve": "[" * 900_000}]),
    "a long expression": lambda: _matches([{"operator": "CelExpr", "values": ["(" * 900_000]}]),
    "a long register": lambda: policy_text(
        uprobes=[
            {
                "path": "/a",
                "symbols": ["f"],
                "selectors": [{"matchActions": [{"action": "Override", "argRegs": ["rax=" + "1" * 900_000]}]}],
            }
        ]
    ),
    "networks": lambda: json.dumps(
        json.loads(_macro({"matchArgs": [{"index": 0, "operator": "SAddr", "values": ["1.1.1.1/8"] * 50_000}]}, 1))
    ).encode(),
}


@pytest.mark.parametrize("name", _EXPENSIVE)
def test_expensive_policy_takes_bounded_time(name: str) -> None:
    text = _EXPENSIVE[name]()
    start = time.process_time()
    _read(text)
    assert time.process_time() - start < _MAX_SECONDS


def test_patterns_of_a_policy_are_limited_together() -> None:
    # 16 steps a pattern that matches all calls.
    lists = [{"name": f"l{number}", "type": "generated_syscalls", "pattern": "a?" * 8} for number in range(1100)]
    assert parse_policies(policy_text(lists=lists[:1000], kprobes=[{"call": "openat"}]), "f")
    (error,) = errors_of(policy_text(lists=lists, kprobes=[{"call": "openat"}]))
    assert error.what == "the patterns of the policy have more than 16384 steps together"


@pytest.mark.parametrize("name", ["values", "a megabyte of nodes"])
def test_expensive_policy_takes_bounded_memory(name: str) -> None:
    text = _EXPENSIVE[name]()
    tracemalloc.start()
    try:
        _read(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _MAX_BYTES


def _read(text: bytes) -> None:
    """Policies or their faults; anything else fails the test."""
    with contextlib.suppress(PolicyErrors):
        assert parse_policies(text, "f")
