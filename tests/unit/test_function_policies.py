# SPDX-License-Identifier: Apache-2.0
"""The policies of tests/support/policies: they can be in force together, and nobody else's processes are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.policy.model import HookKind, PolicyKind
from agent.policy.reader import parse_policies
from tests.support.function_hooks import POLICIES, read_policies

SCRATCH = Path("/scratch")
FILES = sorted(path.stem for path in POLICIES.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_policies_are_read_and_say_what_they_are_for(name: str) -> None:
    text = read_policies(name, SCRATCH)
    assert "{scratch}" not in text
    assert text.splitlines()[1].startswith("# ")
    for policy in parse_policies(text.encode(), name):
        assert policy.kind is PolicyKind.NAMESPACED
        assert {hook.kind for hook in policy.hooks} <= {HookKind.SYSCALL, HookKind.KPROBE}


def test_each_policy_has_a_namespace_of_its_own() -> None:
    found = [policy for name in FILES for policy in parse_policies(read_policies(name, SCRATCH).encode(), name)]
    assert len({policy.namespace for policy in found}) == len({policy.name for policy in found}) == len(found)
