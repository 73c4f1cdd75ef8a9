# SPDX-License-Identifier: Apache-2.0
"""What is known of each policy of this node, and what a change of it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.policy.errors import PolicyErrors
from agent.policy.gaps import Gap
from agent.policy.model import Policy, PolicyKey
from agent.policy.placed import PlacedPolicy
from agent.probed_files import Files


class PolicyState(Enum):
    ENABLED = "enabled"
    PARTIAL = "partial"
    """In force but for its gaps, or on earlier files."""
    NOT_HOOKED = "not_hooked"
    """Nothing of it is in force: all that it hooks is in its gaps."""
    LOAD_ERROR = "load_error"


class Change(Enum):
    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    DELETED = "deleted"
    MODE = "mode"


class PolicyRejected(Exception):  # noqa: N818 - named as the outcome that it is
    """The kernel's side refused: nothing has changed. The text is the compiler's or the verifier's last lines."""


class FaultyPolicies(PolicyErrors):
    """What this node cannot do of some policies, all faults of all of them: nothing has changed."""

    def __init__(self, by_policy: Mapping[PolicyKey, PolicyErrors]) -> None:
        super().__init__([error for faults in by_policy.values() for error in faults.errors])
        self.by_policy = dict(by_policy)


class NoSuchPolicy(Exception):  # noqa: N818 - as above
    def __init__(self, key: PolicyKey, known: Iterable[PolicyKey]) -> None:
        super().__init__(key)
        self.key = key
        self.known = tuple(known)

    def __str__(self) -> str:
        names = ", ".join(map(str, self.known)) or "none"
        return f"no policy {self.key} here; there are: {names}"


@dataclass(frozen=True, slots=True)
class Entry:
    """placed is None when its rules never were in force. error: of the last attempt. gaps: what is left out here.
    files: those that its probes are on; is_behind: others are there now, and programs that are started from them run
    without.
    """

    policy: Policy
    placed: PlacedPolicy | None
    error: str = ""
    gaps: tuple[Gap, ...] = ()
    files: Files = field(default_factory=dict)
    is_behind: bool = False

    @property
    def state(self) -> PolicyState:
        if self.placed is None:
            return PolicyState.LOAD_ERROR
        if not self.placed.hooks:
            return PolicyState.NOT_HOOKED
        return PolicyState.PARTIAL if self.gaps or self.is_behind else PolicyState.ENABLED


@dataclass(frozen=True, slots=True)
class Outcome:
    entry: Entry
    change: Change
    milliseconds: int


def refuse_twins(policies: Iterable[Policy]) -> None:
    """Raises PolicyRejected for policies of one name among those that are given together."""
    places: dict[PolicyKey, list[str]] = {}
    for policy in policies:
        places.setdefault(policy.key, []).append(str(policy.source))
    twins = sorted(f"{key} ({', '.join(found)})" for key, found in places.items() if len(found) > 1)
    if twins:
        raise PolicyRejected(f"given more than once: {', '.join(twins)}")
