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
