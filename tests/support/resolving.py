# SPDX-License-Identifier: Apache-2.0
"""Hooks for tests of `resolve`, and what becomes of them on the small kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.policy.access import PointHook, Value
from agent.policy.errors import PolicyErrors
from agent.policy.model import (
    Arg,
    ArgType,
    DataSource,
    Hook,
    HookKind,
    Policy,
    PolicyKind,
    Selector,
    Source,
    WorkloadSelector,
)
from agent.policy.resolve import resolve_policy
from tests.support.kernel_facts import SmallKernel

PLACE = Source("policy.yaml", 7, 3)


def make_hook(kind: HookKind, call: str, *args: Arg) -> Hook:
    """A hook on one thing, at line 7; its arguments are in the lines from 10 on."""
    placed = tuple(replace(arg, source=Source("policy.yaml", 10 + n, 5)) for n, arg in enumerate(args))
    return Hook(kind, (call,), call, placed, (Selector(),), PLACE)


def task(path: str, kind: ArgType = ArgType.AUTO) -> Arg:
    """An entry of data that begins at the calling task."""
    return Arg(0, kind, resolve=tuple(path.split(".")), data_source=DataSource.CURRENT_TASK)


def register(path: str, kind: ArgType = ArgType.AUTO, btf_type: str = "") -> Arg:
    """An entry of data that begins at a register."""
    return Arg(0, kind, resolve=tuple(path.split(".")), data_source=DataSource.PT_REGS, btf_type=btf_type)


def resolve(*hooks: Hook, facts: SmallKernel | None = None) -> tuple[PointHook, ...]:
    """What the hooks of a policy become."""
    policy = Policy(PolicyKind.CLUSTER, "p", None, hooks, WorkloadSelector(), PLACE, "")
    return resolve_policy(policy, facts or SmallKernel())


def value_of(kind: HookKind, call: str, arg: Arg) -> Value:
    """The value of the only argument of a hook."""
    (found,) = resolve(make_hook(kind, call, arg))
    ((_, value),) = found.args
    assert value is not None
    return value


def data_of(entry: Arg) -> Value:
    """The value of an entry of data, of a hook on getpid."""
    (found,) = resolve(replace(make_hook(HookKind.SYSCALL, "getpid"), data=(entry,)))
    ((_, value),) = found.data
    assert value is not None
    return value


def faults(*hooks: Hook, facts: SmallKernel | None = None) -> str:
    """The messages of a policy that is refused."""
    with pytest.raises(PolicyErrors) as caught:
        resolve(*hooks, facts=facts)
    return str(caught.value)
