# SPDX-License-Identifier: Apache-2.0
"""C text of hook plans, compared with tests/data/codegen/*.c.

When a change of the text is meant, run `UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/unit/test_codegen.py` and read
the difference.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.codegen import compile_hook, compile_module
from agent.policy.model import Arg, ArgMatch, ArgType, Operator, Policy, PolicyKind, Selector, Source, SyscallHook
from agent.policy.plan import HookPlan, PlacedPolicy, plan_hooks
from agent.policy.reader import parse_policies
from agent.workload.identity import PolicyId
from tests.support.names import project_dir
from tests.support.workload import POST, kprobe, lseek_policy, match, policy, selector

GOLDEN = project_dir() / "tests/data/codegen"
USR1 = ({"action": "Signal", "argSig": 10},)
LOUD = ({"action": "NoPost"}, {"action": "Sigkill"})


def plan_of(*documents: dict[str, Any], bits: tuple[int, ...] = ()) -> HookPlan:
    """The plan of the one call that the documents hook; bits: of each policy, 0, 1, ... when not given."""
    text = "\n---\n".join(map(json.dumps, documents)).encode()
    policies = parse_policies(text, "test")
    numbers = bits or range(len(policies))
    placed = [PlacedPolicy(p, PolicyId(bit), 100 + n) for n, (p, bit) in enumerate(zip(policies, numbers, strict=True))]
    calls = {hook.syscall for p in policies for hook in p.hooks}
    plans = plan_hooks(placed, calls)
    assert len(plans) == 1
    return next(iter(plans.values()))


CASES = {
    "lseek": plan_of(lseek_policy("p")),
    "numbers": plan_of(
        policy(
            "p",
            kprobe(
                "lseek",
                {0: "int", 1: "long", 2: "uint"},
                selector(match(0, "NotEqual", 1, 2), match(1, "GT", -(1 << 63)), actions=USR1),
                selector(match(2, "Mask", 6, 1), match(1, "LT", 5), actions=LOUD),
                selector(actions=POST),
            ),
        )
    ),
    "texts": plan_of(
        policy(
            "p",
            kprobe(
                "openat",
                {0: "fd", 1: "string", 2: "char_buf:3"},
                selector(match(0, "Prefix", "/etc/"), match(1, "Equal", "", "passwd", "12345678", "shadow")),
                selector(match(1, "NotEqual", "abc"), match(2, "Postfix", "xyz", "uvw", "123456789")),
            ),
        )
    ),
    "reported": plan_of(policy("p", kprobe("access", {0: "string", 1: "int"}, selector(match(1, "Equal", 4))))),
    "exec": plan_of(policy("p", kprobe("execve", {0: "string"}, selector(match(0, "Equal", "/bin/sh"))))),
    "several": plan_of(
        lseek_policy("a"), lseek_policy("b", match(0, "Equal", 7)), lseek_policy("c", actions=POST), bits=(0, 64, 1023)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text_is_the_golden_file(name: str) -> None:
    text = compile_hook(CASES[name], 7)
    file = GOLDEN / f"{name}.c"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_has_a_case() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


def test_module_includes_the_library_once() -> None:
    text = compile_module([(CASES["lseek"], 1), (CASES["exec"], 2)])
    assert text.count("#include") == 1
    assert re.findall(r"^int (\w+)\(", text, re.MULTILINE) == ["pg_enter_lseek", "pg_enter_execve", "pg_exit_execve"]


def test_exit_is_watched_only_where_memory_of_the_process_is_compared() -> None:
    watched = {name: plan.reads_text for name, plan in CASES.items()}
    assert watched == {
        "lseek": False,
        "numbers": False,
        "texts": True,
        "reported": False,
        "exec": True,
        "several": False,
    }
    assert not plan_of(policy("p", kprobe("lseek", {0: "fd"}, selector(match(0, "Equal", "/x"))))).reads_text


# Characters that would end a C string, a comment or a line.
hostile = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xD7FF, exclude_characters="\x7f"), min_size=1, max_size=40
)


@given(hostile, hostile)
def test_nothing_of_a_policys_text_is_in_the_c_text(first: str, second: str) -> None:
    marked = [f'zqj"{first}', f"*/zqj{second}\\\n"]
    text = compile_hook(plan_of(policy("p", kprobe("access", {0: "string"}, selector(match(0, "Equal", *marked))))), 1)
    assert "zqj" not in text
    assert text.isascii()
    assert set(re.findall(r'["\\]', text)) == set()


@pytest.mark.parametrize("value", [-(1 << 63), -(1 << 63) + 1, -1, 0, (1 << 63) - 1])
def test_long_is_written_as_a_constant_that_c_has(value: int) -> None:
    text = compile_hook(plan_of(policy("p", kprobe("lseek", {1: "long"}, selector(match(1, "Equal", value))))), 1)
    written = "(-9223372036854775807LL - 1)" if value == -(1 << 63) else f"{value}LL"
    assert f"(pg_arg_s64(call, 1) == {written})" in text


HERE = Source("", 1, 1)


def compile_match(kind: ArgType, operator: Operator, values: tuple[bytes, ...] | tuple[int, ...]) -> str:
    """The C of one match on argument 0; not through the reader, which refuses bytes that are no text."""
    hook = SyscallHook("lseek", "sys_lseek", (Arg(0, kind),), (Selector((ArgMatch(0, operator, values),)),), HERE)
    parsed = Policy(PolicyKind.CLUSTER, "p", None, (hook,), None, HERE, "")
    return compile_hook(plan_hooks([PlacedPolicy(parsed, PolicyId(0), 1)], ["lseek"])["lseek"], 1)


TERM = r"\(?pg_word\(\w+, \d+\)(?: & (0x[0-9a-f]+)ULL\))? == (0x[0-9a-f]+)ULL"
ANY_TERM = TERM.replace("(0x", "(?:0x")


def compared_bytes(c: str) -> set[bytes]:
    """What the C compares whole: of each term its value, as many bytes as its mask has."""
    groups = re.findall(rf"\(({ANY_TERM}(?: && {ANY_TERM})*)\)", c)
    return {b"".join(_word(*found) for found in re.findall(TERM, group)) for group in groups}


def _word(mask: str, value: str) -> bytes:
    return int(value, 16).to_bytes(8, "little")[: int(mask, 16).bit_length() // 8 if mask else 8]


text_operators = st.sampled_from((Operator.EQUAL, Operator.NOT_EQUAL, Operator.PREFIX, Operator.POSTFIX))


@given(text_operators, st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_every_byte_and_the_length_of_every_value_is_compared(operator: Operator, values: list[bytes]) -> None:
    c = compile_match(ArgType.STRING, operator, tuple(values))
    assert compared_bytes(c) == set(values)
    test = {Operator.PREFIX: "pg_has_head", Operator.POSTFIX: "pg_tail"}.get(operator, "pg_is_whole")
    lengths = re.findall(rf"{test}\(s0, (\d+)\)", c)
    assert sorted(map(int, lengths)) == sorted({len(value) for value in values})


@given(st.data())
def test_every_number_is_a_constant_of_its_own_value(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([kind for kind in ArgType if kind.is_number]))
    low = -(1 << (kind.bits - 1)) if kind.signed else 0
    values = data.draw(st.lists(st.integers(low, low + (1 << kind.bits) - 1), min_size=1, max_size=5))
    constants = re.findall(r"== (\(?-?\d+U?LL(?: - 1\))?)\)", compile_match(kind, Operator.EQUAL, tuple(values)))
    assert [value_of(text) for text in constants] == values
    assert ("ULL" in constants[0]) is not kind.signed


def value_of(constant: str) -> int:
    """Of a C constant; one without U must be in the range of long long before a minus is applied."""
    digits, minus_one = re.sub("[()UL ]", "", constant).removesuffix("-1"), " - 1" in constant
    assert "U" in constant or abs(int(digits)) < 1 << 63
    return int(digits) - minus_one
