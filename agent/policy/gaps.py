# SPDX-License-Identifier: Apache-2.0
"""What a policy names and a node does not have, where the policy says that it may be left out: nothing of that is
enforced, so somebody has to be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, unique

from agent.policy.access import PointHook
from agent.policy.errors import quote
from agent.policy.function_points import hooked_function
from agent.policy.model import Hook, HookKind, Policy, Source


@unique
class GapReason(Enum):
    """Why something is left out, and by which field."""

    CALL_NOT_FOUND = "call_not_found"
    """`ignore.callNotFound`"""
    DIGEST_REJECTED = "digest_rejected"
    """`ignore.digestVerificationFailure`"""


_WORDS = {
    GapReason.CALL_NOT_FOUND: "this kernel has no such system call or function",
    GapReason.DIGEST_REJECTED: "the file has none of binaryDigests",
}

_CALLS = frozenset({HookKind.SYSCALL, HookKind.KPROBE, HookKind.FENTRY})


@dataclass(frozen=True, slots=True)
class Gap:
    """section: of the hook, `kprobes[0]`. name: a system call, a function, or a file's path. source: of the hook."""

    section: str
    name: str
    reason: GapReason
    source: Source

    def __str__(self) -> str:
        return f"{self.source}: {self.section}, {quote(self.name)}: {_WORDS[self.reason]}"


def find_gaps(policy: Policy, hooks: Iterable[PointHook]) -> tuple[Gap, ...]:
    """hooks: what the policy was resolved to, without faults. What a generated list names is no gap: it means the
    calls that there are.
    """
    found: dict[str, set[str]] = {}
    for each in hooks:
        found.setdefault(each.hook.section, set()).add(hooked_function(each))
    return tuple(gap for hook in policy.hooks for gap in _gaps(hook, found.get(hook.section, set())))


def _gaps(hook: Hook, found: set[str]) -> Iterator[Gap]:
    if hook.target is not None and not found:
        yield Gap(hook.section, hook.target.path, GapReason.DIGEST_REJECTED, hook.source)
    if hook.kind in _CALLS and not hook.generated:
        missing = (name for name in hook.calls if name not in found)
        yield from (Gap(hook.section, name, GapReason.CALL_NOT_FOUND, hook.source) for name in missing)
