# SPDX-License-Identifier: Apache-2.0
"""What a match does."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, unique

from agent.policy.model.source import Source

SIGKILL = 9


@unique
class ActionKind(Enum):
    """What a matching selector does."""

    POST = "Post"
    NO_POST = "NoPost"
    SIGKILL = "Sigkill"
    SIGNAL = "Signal"
    OVERRIDE = "Override"
    NOTIFY_ENFORCER = "NotifyEnforcer"
    CLEANUP_ENFORCER = "CleanupEnforcerNotification"
    TRACK_SOCK = "TrackSock"
    UNTRACK_SOCK = "UntrackSock"
    GET_URL = "GetUrl"
    DNS_LOOKUP = "DnsLookup"
    SET = "Set"

    @property
    def enforces(self) -> bool:
        """Whether it changes what the process does; monitor mode leaves these out."""
        return self in _ENFORCING


_ENFORCING = frozenset(
    {ActionKind.SIGKILL, ActionKind.SIGNAL, ActionKind.OVERRIDE, ActionKind.NOTIFY_ENFORCER, ActionKind.SET}
)


@unique
class RateScope(Enum):
    """Among what two events count as equal."""

    THREAD = "thread"
    PROCESS = "process"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Action:
    """One action and its parameters; those that do not belong to its kind have their defaults.

    signal: 1..64, SIGNAL. error: a positive errno, OVERRIDE and NOTIFY_ENFORCER (0: none); there `signal` may be 0.
    rate_ms: least time between two equal events, POST. position: place in `args`, SET. value: 32 bits, SET.
    sock: index of the argument, TRACK_SOCK and UNTRACK_SOCK. text: URL or name, GET_URL and DNS_LOOKUP.
    registers, new_symbol, new_address, new_offset: OVERRIDE of a uprobe.
    """

    kind: ActionKind
    signal: int = 0
    error: int = 0
    rate_ms: int = 0
    rate_scope: RateScope = RateScope.THREAD
    kernel_stack: bool = False
    user_stack: bool = False
    ima_hash: bool = False
    position: int = 0
    value: int = 0
    sock: int = 0
    text: str = ""
    registers: tuple[str, ...] = ()
    new_symbol: str = ""
    new_address: int = 0
    new_offset: int = 0
    source: Source | None = field(default=None, compare=False)


def posts(actions: tuple[Action, ...]) -> bool:
    """Whether actions leave the event in place."""
    return all(action.kind is not ActionKind.NO_POST for action in actions)


def signals(actions: tuple[Action, ...]) -> tuple[int, ...]:
    """The signals that actions send to the calling process."""
    numbers = (SIGKILL if a.kind is ActionKind.SIGKILL else a.signal for a in actions if a.kind in _SIGNALLING)
    return tuple(number for number in numbers if number)


_SIGNALLING = frozenset({ActionKind.SIGKILL, ActionKind.SIGNAL})
