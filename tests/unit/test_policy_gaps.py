# SPDX-License-Identifier: Apache-2.0
"""What a node leaves out of a policy, as the policy lets it, is found and told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.policy.access import HookPoint, PointKind
from agent.policy.gaps import Gap, GapReason, find_gaps
from agent.policy.model import HookKind, Policy, UprobeTarget
from agent.policy.reader import parse_policies
from tests.support.planning import hand_made, read, resolve
from tests.support.workload import kprobe, lseek_policy, policy

IGNORED = {"ignore": {"callNotFound": True}}


def gaps_of(policies: tuple[Policy, ...]) -> list[Gap]:
    return [gap for each in resolve(policies) for gap in find_gaps(each.policy, each.hooks)]


def test_a_policy_that_is_there_whole_has_none() -> None:
    assert gaps_of(read(lseek_policy("p"))) == []


def test_each_call_that_a_kernel_does_not_have_is_one() -> None:
    """Those of one list, some of which are there, too."""
    calls: dict[str, Any] = {"lists": [{"name": "l", "type": "syscalls", "values": ["sys_lseek", "sys_fork"]}]}
    document = policy("p", kprobe("list:l", {}) | IGNORED, kprobe("vfork", {}) | IGNORED)
    document["spec"] |= calls
    gaps = gaps_of(read(document))
    assert [(gap.section, gap.name, gap.reason) for gap in gaps] == [
        ("kprobes[0]", "fork", GapReason.CALL_NOT_FOUND),
        ("kprobes[1]", "vfork", GapReason.CALL_NOT_FOUND),
    ]
    assert str(gaps[0]).endswith('kprobes[0], "fork": this kernel has no such system call or function')
    assert str(gaps[0]).startswith("test:1:")


def test_what_a_generated_list_names_is_none() -> None:
    """It means the calls that there are."""
    text = b"""
apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: p}
spec:
  lists: [{name: l, type: generated_syscalls, pattern: "^(lseek|fork)$"}]
  kprobes: [{call: "list:l"}]
"""
    policies = parse_policies(text, "p.yaml")
    assert policies[0].hooks[0].calls == ("lseek", "fork")
    assert gaps_of(policies) == []


def test_a_file_with_another_digest_is_one() -> None:
    made = hand_made(HookKind.UPROBE, HookPoint(PointKind.UPROBE, "/bin/x", 16), [])
    (hook,) = made.policy.hooks
    target = UprobeTarget("/bin/x", ("f",), digests=("sha256:00",), ignore_digest=True)
    rejected = replace(made.policy, hooks=(replace(hook, target=target),))
    (gap,) = find_gaps(rejected, ())
    assert (gap.name, gap.reason) == ("/bin/x", GapReason.DIGEST_REJECTED)
    assert find_gaps(rejected, made.hooks) == ()
