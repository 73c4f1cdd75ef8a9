# SPDX-License-Identifier: Apache-2.0
"""The files that a policy's uprobes and USDT probes stand in, and what they were when they were looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agent.policy.access import PointHook
from agent.policy.model import Policy
from agent.policy.user_facts import FileIdentity, UserFileError

Files = Mapping[str, FileIdentity | None]
"""By path; None: there was none that could be looked at."""


def probed_paths(policy: Policy) -> frozenset[str]:
    """Of the files that are probed, and of those with their types."""
    targets = [hook.target for hook in policy.hooks if hook.target]
    return frozenset(path for target in targets for path in (target.path, target.btf_path) if path)


def find_files(policy: Policy, identity: Callable[[str], FileIdentity]) -> Files:
    """What stands under the paths now. identity: raises UserFileError."""
    return {path: _find(path, identity) for path in probed_paths(policy)}


def with_left_behind(
    new: Sequence[PointHook], old: Sequence[PointHook], before: Files, now: Files
) -> tuple[PointHook, ...]:
    """The new hooks, and behind them those of the old ones that are on the file before this one.

    Programs that were started from a file that was replaced run on, and their probes stay, also where the file that is
    there now is another hook's. One that was written to is another matter: what was found in it is not true any more.
    Of files before that one the hooks go. before: the files that the old hooks' policy was on; now: those of the new.
    """
    left: list[PointHook] = []
    for hook in old:
        file, other = hook.point.file, now.get(hook.point.name)
        is_latest = file is not None and file == before.get(hook.point.name)
        if is_latest and file and other and (file.device, file.inode) != (other.device, other.inode):
            left.append(replace(hook, number=len(new) + len(left)))
    return (*new, *left)


def _find(path: str, identity: Callable[[str], FileIdentity]) -> FileIdentity | None:
    try:
        return identity(path)
    except UserFileError:
        return None
