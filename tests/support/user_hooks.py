# SPDX-License-Identifier: Apache-2.0
"""Hooks on the program of `tests.support.probed`, and what they are resolved to on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from agent.kernel.btf import Btf
from agent.kernel.btf_types import BtfTypes
from agent.kernel.user_files import UserFiles
from agent.policy.access import PointHook
from agent.policy.errors import PolicyErrors, Problems
from agent.policy.facts import RawTracepoint, RecordField, Types
from agent.policy.model import Action, Arg, Hook, HookKind, Selector, Source, UprobeTarget
from agent.policy.resolve_user import resolve_user_hook
from tests.support.kernel_facts import NoFunctions

SOURCE = Source("p.yaml", 7, 3)
PROVIDER = "podgate_test"


class UserFacts(NoFunctions, UserFiles):
    """The node's files, and of its kernel the types only. refusal: why no program may write to processes."""

    refusal = ""

    def types(self, module: str = "") -> Types:
        assert not module
        return _kernel_types()

    def syscall(self, name: str) -> tuple[RecordField, ...] | None:
        raise NotImplementedError(name)

    def tracepoint(self, name: str) -> tuple[RecordField, ...] | None:
        raise NotImplementedError(name)

    def tracepoint_names(self) -> Iterable[str]:
        raise NotImplementedError

    def raw_tracepoint(self, event: str) -> RawTracepoint | None:
        raise NotImplementedError(event)

    def raw_tracepoint_names(self) -> Iterable[str]:
        raise NotImplementedError

    def write_refusal(self) -> str:
        return self.refusal


@cache
def _kernel_types() -> Types:
    return BtfTypes(Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes()))


def uprobe(
    target: UprobeTarget | Path,
    *symbols: str,
    args: tuple[Arg, ...] = (),
    data: tuple[Arg, ...] = (),
    actions: tuple[Action, ...] = (),
    return_arg: Arg | None = None,
) -> Hook:
    """A uprobe of functions of a file, or of any target; with a return_arg it looks at returns too."""
    where = target if isinstance(target, UprobeTarget) else UprobeTarget(str(target), symbols)
    selectors = (Selector(actions=actions),)
    returns = return_arg is not None
    kind = HookKind.UPROBE
    return Hook(
        kind, (), "", args, selectors, SOURCE, "uprobes[0]", data, returns=returns, return_arg=return_arg, target=where
    )


def usdt(path: Path, name: str, args: tuple[Arg, ...] = (), actions: tuple[Action, ...] = ()) -> Hook:
    """A USDT probe of the test program's own provider, or of the one that `name` gives."""
    call = name if "/" in name else f"{PROVIDER}/{name}"
    selectors = (Selector(actions=actions),)
    return Hook(HookKind.USDT, (call,), call, args, selectors, SOURCE, "usdts[0]", target=UprobeTarget(str(path)))


def resolve(hook: Hook, facts: UserFacts | None = None) -> tuple[PointHook, ...]:
    """Numbered from 3 on. Raises PolicyErrors."""
    problems = Problems()
    found = resolve_user_hook(hook, 3, facts or UserFacts(), problems)
    problems.check()
    return found


def refused(hook: Hook, *reasons: str, facts: UserFacts | None = None) -> None:
    """Each reason is in one fault of its own, and there are no others."""
    with pytest.raises(PolicyErrors) as caught:
        resolve(hook, facts)
    faults = [str(error) for error in caught.value.errors]
    assert len(faults) == len(reasons), faults
    for reason in reasons:
        assert any(reason in fault for fault in faults), faults
