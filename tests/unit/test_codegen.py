# SPDX-License-Identifier: Apache-2.0
"""The C text of plans: whole files of it to look at, and what must hold for any policy.

The files are tests/data/codegen/NAME.c. After a change that is meant, write them anew and read the difference:
`REWRITE_GOLDEN=1 .venv/bin/python -m pytest tests/unit/test_codegen.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.codegen import compile_hook, compile_module, enter_name, exit_name
from agent.policy.model import Arg, ArgMatch, ArgType, Operator, Policy, PolicyKind, Selector, Source, SyscallHook
from agent.policy.plan import HookPlan, PlacedPolicy, plan_hooks
from agent.policy.reader import parse_policies
from agent.workload.identity import PolicyId
from tests.support.names import project_dir
from tests.support.workload import KILL, POST, kprobe, match, policy, selector

_GOLDEN = project_dir() / "tests/data/codegen"
_REWRITE = "REWRITE_GOLDEN"
_Placed = tuple[dict[str, Any], int]

_MIN, _MAX = -(1 << 63), (1 << 63) - 1
_NUMBERS = policy(
    "numbers",
    kprobe(
        "prctl",
        {0: "int", 1: "uint", 2: "long", 3: "ulong", 4: "size_t"},
        selector(match(0, "Equal", -1, -(1 << 31), 7), match(1, "NotEqual", 0, (1 << 32) - 1)),
        selector(match(2, "Equal", _MIN, _MAX), match(3, "GT", 1 << 63), match(4, "Mask", 0xFF)),
        selector(match(2, "LT", -5), match(0, "Mask", -(1 << 31)), actions=POST),
    ),
)
_STRINGS = policy(
    "strings",
    kprobe(
        "rename",
        {0: "string", 1: "string"},
        selector(match(0, "Equal", "", "1234567", "12345678", "123456789", "7654321")),
        selector(match(0, "Prefix", "/etc/", "/usr/lib/x86_64/"), match(1, "NotEqual", "/a", "/bb")),
        selector(match(1, "Postfix", ".so", "passwd", "shadow"), actions=POST),
    ),
)
_BUFFER = policy(
    "buffer", kprobe("write", {0: "fd", 1: "char_buf:2"}, selector(match(1, "Prefix", "GET /"), match(0, "Postfix", ".log")))
)
_ACTIONS = policy(
    "actions",
    kprobe(
        "lseek",
        {0: "int"},
        selector(match(0, "Equal", 1), actions=({"action": "Signal", "argSig": 10}, {"action": "Sigkill"})),
        selector(match(0, "Equal", 2), actions=({"action": "NoPost"}, {"action": "Signal", "argSig": 34})),
        selector(match(0, "Equal", 3), actions=({"action": "NoPost"},)),
        selector(actions=()),
    ),
    kprobe("lseek", {1: "long"}, selector(match(1, "LT", 0), actions=POST)),
)
_EXEC = policy("exec", kprobe("execve", {0: "string"}, selector(match(0, "Postfix", "/sh"), actions=KILL)))
_REPORTED = policy("reported", kprobe("openat", {0: "fd", 1: "string", 2: "int"}, selector(match(2, "Mask", 3), actions=POST)))
_LSEEK = policy("other", kprobe("lseek", {0: "int"}, selector(match(0, "Equal", -9), actions=KILL)))

_CASES: dict[str, tuple[str, Sequence[_Placed]]] = {
    "numbers": ("prctl", [(_NUMBERS, 0)]),
    "strings": ("rename", [(_STRINGS, 3)]),
    "buffer": ("write", [(_BUFFER, 63)]),
    "actions": ("lseek", [(_ACTIONS, 1)]),
    "words": ("lseek", [(_LSEEK, 0), (_ACTIONS, 64), (_LSEEK, 65), (_LSEEK, 1023)]),
    "execve": ("execve", [(_EXEC, 2)]),
    "reported": ("openat", [(_REPORTED, 5)]),
}


def _plan(syscall: str, policies: Sequence[_Placed]) -> HookPlan:
    parsed = [(parse_policies(json.dumps(document).encode(), "p.yaml")[0], bit) for document, bit in policies]
    placed = [PlacedPolicy(each, PolicyId(bit), 100 + n) for n, (each, bit) in enumerate(parsed)]
    return plan_hooks(placed, [syscall])[syscall]


@pytest.mark.parametrize("name", _CASES)
def test_the_c_text_is_the_one_that_was_read_and_approved(name: str) -> None:
    text = compile_module([(_plan(*_CASES[name]), 42)])
    golden = _GOLDEN / f"{name}.c"
    if os.environ.get(_REWRITE):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.stem for path in _GOLDEN.iterdir()} == set(_CASES)


def test_a_module_has_the_programs_that_its_plans_name() -> None:
    plans = [_plan(*_CASES[name]) for name in ("strings", "actions", "execve")]
    text = compile_module([(plan, number) for number, plan in enumerate(plans)])
    programs = re.findall(r"^int (\w+)\(struct pg_sys_(?:enter|exit) ", text, re.MULTILINE)
    assert programs == [
        *(enter_name(plans[0]), exit_name(plans[0]), enter_name(plans[1]), enter_name(plans[2]), exit_name(plans[2])),
    ]
    assert text.count("#include") == 1


# What a policy's author writes. Letters that C here never has, so that a trace of them is one.
_foreign = st.text(st.characters(categories=("L", "N", "P", "S", "Z"), min_codepoint=0x100), min_size=3, max_size=40)
_tricky = st.sampled_from(['";}', "*/ bpf(", "\\\n#define", "??/", '%s"', "Zq0Zq"])
_text = st.one_of(_foreign, st.builds(lambda a, b: a + b, _tricky, _foreign))
_text_operators = st.sampled_from((Operator.EQUAL, Operator.NOT_EQUAL, Operator.PREFIX, Operator.POSTFIX))


def _policy(name: str, namespace: str, kind: ArgType, operator: Operator, values: Sequence[bytes]) -> Policy:
    """A policy whose every text is as given; not through the reader, which would refuse some."""
    arg = Arg(0, kind, 2 if kind is ArgType.CHAR_BUF else None)
    hook = SyscallHook("write", "sys_write", (arg,), (Selector((ArgMatch(0, operator, tuple(values)),)),), Source(name, 1, 1))
    return Policy(PolicyKind.NAMESPACED, name, namespace, (hook,), None, Source(name, 1, 1), name)


@given(_text, _text, st.sampled_from((ArgType.STRING, ArgType.CHAR_BUF, ArgType.FD)), _text_operators, st.lists(_text, min_size=1, max_size=4))
def test_no_text_of_a_policy_gets_into_the_c(name: str, namespace: str, kind: ArgType, operator: Operator, values: list[str]) -> None:
    placed = PlacedPolicy(_policy(name, namespace, kind, operator, [v.encode() for v in values]), PolicyId(0), 1)
    c = compile_hook(plan_hooks([placed], ["write"])["write"], 1)
    assert c.isascii()
    assert re.search(r'["\'\\#]', c) is None
    assert not [text for text in (name, namespace, *values) if text in c]


def _compared(c: str) -> set[bytes]:
    """The byte strings that the C compares whole words with: of each term, its value in its mask's bytes."""
    groups = re.findall(r"\((?:\(?pg_word\((?:s0|t), \d+\)[^|;]*?ULL(?:\) == 0x[0-9a-f]+ULL)?(?: && )?)+\)", c)
    return {b"".join(map(_word, re.findall(r"pg_word\(\w+, \d+\)(?: & (0x[0-9a-f]+)ULL\))? == (0x[0-9a-f]+)ULL", group))) for group in groups}


def _word(term: tuple[str, str]) -> bytes:
    mask, value = term
    return int(value, 16).to_bytes(8, "little")[: int(mask, 16).bit_length() // 8 if mask else 8]


@given(_text_operators, st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_every_byte_of_every_value_is_compared(operator: Operator, values: list[bytes]) -> None:
    plan = plan_hooks([PlacedPolicy(_policy("a", "b", ArgType.STRING, operator, values), PolicyId(0), 1)], ["write"])
    assert _compared(compile_hook(plan["write"], 1)) == set(values)


@given(_text_operators, st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_every_length_is_tested(operator: Operator, values: list[bytes]) -> None:
    plan = plan_hooks([PlacedPolicy(_policy("a", "b", ArgType.STRING, operator, values), PolicyId(0), 1)], ["write"])
    test = {Operator.PREFIX: "pg_has_head", Operator.POSTFIX: "pg_tail"}.get(operator, "pg_is_whole")
    lengths = re.findall(rf"{test}\(s0, (\d+)\)", compile_hook(plan["write"], 1))
    assert sorted(map(int, lengths)) == sorted({len(value) for value in values})


_numbers = [kind for kind in ArgType if kind.is_number]


@given(st.data())
def test_every_number_is_a_constant_of_its_own_value(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(_numbers))
    low = -(1 << (kind.bits - 1)) if kind.signed else 0
    values = data.draw(st.lists(st.integers(low, low + (1 << kind.bits) - 1), min_size=1, max_size=5))
    hook = SyscallHook("lseek", "sys_lseek", (Arg(0, kind),), (Selector((ArgMatch(0, Operator.EQUAL, tuple(values)),)),), Source("", 1, 1))
    placed = PlacedPolicy(Policy(PolicyKind.CLUSTER, "a", None, (hook,), None, Source("", 1, 1), ""), PolicyId(0), 1)
    c = compile_hook(plan_hooks([placed], ["lseek"])["lseek"], 1)
    constants = re.findall(r"== (\(?-?\d+U?LL(?: - 1\))?)\)", c)
    assert [_value(text) for text in constants] == values
    assert ("ULL" in constants[0]) is not kind.signed


def _value(constant: str) -> int:
    """Of a C constant; those without U must be in the range of long long before a minus is applied."""
    digits, minus_one = re.sub("[()UL ]", "", constant).removesuffix("-1"), " - 1" in constant
    assert "U" in constant or abs(int(digits)) < 1 << 63
    return int(digits) - minus_one
