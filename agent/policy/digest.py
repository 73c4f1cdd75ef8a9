# SPDX-License-Identifier: Apache-2.0
"""The digest of what a policy says: the same for two texts that differ in comments, order of keys or spelling."""

import hashlib
import json
from typing import Any

from agent.policy.model import ArgMatch, LabelSelector, PolicyKind, Selector, SyscallHook


def digest_content(
    kind: PolicyKind,
    name: str,
    namespace: str | None,
    hooks: tuple[SyscallHook, ...],
    pod_selector: LabelSelector | None,
) -> str:
    """SHA-256, 64 hexadecimal digits, of a canonical JSON text of the arguments."""
    content = [kind.value, name, namespace, [_hook(hook) for hook in hooks], _pods(pod_selector)]
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _hook(hook: SyscallHook) -> list[Any]:
    args = [[arg.index, arg.type.value, arg.size_arg] for arg in hook.args]
    return [hook.syscall, hook.call, args, [_selector(selector) for selector in hook.selectors]]


def _selector(selector: Selector) -> list[Any]:
    actions = [[action.kind.value, action.signal] for action in selector.actions]
    return [[_match(match) for match in selector.match_args], actions]


def _match(match: ArgMatch) -> list[Any]:
    values = [value.hex() if isinstance(value, bytes) else value for value in match.values]
    return [match.index, match.operator.value, values]


def _pods(selector: LabelSelector | None) -> list[Any] | None:
    if selector is None:
        return None
    return [[requirement.key, requirement.operator.value, requirement.values] for requirement in selector.requirements]
