# SPDX-License-Identifier: Apache-2.0
"""Sockets whose owner is known: which policies track them, which hooks are asked of the owner.

While a policy tracks sockets, rules of tracepoints and of the kernel's functions that look at a socket or a packet are
asked of the process that tracked it, whatever runs at that moment. System calls and functions of programs are always
the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.access import FUNCTIONS, HookPoint, PointHook, PointKind, Value
from agent.policy.model import Action, ActionKind, ArgType, Hook, Policy

TRACKING = frozenset({ActionKind.TRACK_SOCK, ActionKind.UNTRACK_SOCK})
SOCKETS = frozenset({ArgType.SOCK, ArgType.SOCKET})  # what can be tracked
# Where a TCP socket is closed for good: every change of its state comes by.
CLOSES = HookPoint(PointKind.RAW_TRACEPOINT, "inet_sock_set_state")
_OWNED = SOCKETS | {ArgType.SKB}
_OF_ANYBODY = frozenset({PointKind.TRACEPOINT, PointKind.RAW_TRACEPOINT}) | FUNCTIONS


def actions_of(hook: PointHook) -> Iterator[Action]:
    """All actions of a hook, those at the return included."""
    for selector in hook.hook.selectors:
        yield from selector.actions
        yield from selector.return_actions


def tracks(policy: Policy) -> bool:
    """Whether a policy has TrackSock."""
    return any(map(_tracks, policy.hooks))


def _tracks(hook: Hook) -> bool:
    actions = (action for selector in hook.selectors for action in (*selector.actions, *selector.return_actions))
    returned = hook.return_arg_action is ActionKind.TRACK_SOCK
    return returned or any(action.kind is ActionKind.TRACK_SOCK for action in actions)


def changes_owners(hook: PointHook) -> bool:
    """Whether a hook has TrackSock or UntrackSock."""
    return hook.hook.return_arg_action is not None or any(action.kind in TRACKING for action in actions_of(hook))


def tracked_value(hook: PointHook, action: Action) -> Value | None:
    """The socket that TrackSock or UntrackSock names; None when that argument is none."""
    named = (value for arg, value in hook.args if arg.index == action.sock and value)
    return next((value for value in named if value.type in SOCKETS), None)


def owned_values(hook: PointHook) -> tuple[Value, ...]:
    """Sockets and packets whose owner a hook is asked of: of the first of them that is tracked."""
    if hook.point.kind not in _OF_ANYBODY:
        return ()
    declared = (value for _, value in (*hook.args, *hook.data) if value and value.type in _OWNED)
    return tuple(dict.fromkeys(declared))
