# SPDX-License-Identifier: Apache-2.0
"""The words for actions in events: the kind in capitals, then what it is done with. Pure."""

from __future__ import annotations

import errno
import signal

from agent.policy.model import SIGKILL, Action, ActionKind, posts

SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}

POST = "POST"
NO_POST = "NOPOST"
_WORDS = {
    ActionKind.CLEANUP_ENFORCER: "CLEANUPENFORCERNOTIFICATION",
    ActionKind.TRACK_SOCK: "TRACKSOCK",
    ActionKind.UNTRACK_SOCK: "UNTRACKSOCK",
    ActionKind.GET_URL: "GETURL",
    ActionKind.DNS_LOOKUP: "DNSLOOKUP",
}
_ENFORCING = frozenset({"SIGKILL", "SIGNAL", "OVERRIDE", "NOTIFYENFORCER", "SET"})
_UNSAID = frozenset({ActionKind.POST, ActionKind.NO_POST})


def action_names(actions: tuple[Action, ...]) -> tuple[str, ...]:
    """POST or NOPOST, then the others in the order written: `SIGNAL SIGTERM`, `NOTIFYENFORCER EPERM SIGKILL`."""
    first = POST if posts(actions) else NO_POST
    return (first, *(_name(action) for action in actions if action.kind not in _UNSAID))


def is_enforcing(name: str) -> bool:
    """Whether monitor mode leaves it out. name: one that `action_names` gave."""
    return name.partition(" ")[0] in _ENFORCING


def error_name(number: int) -> str:
    """number: a positive errno."""
    return errno.errorcode.get(number, str(number))


def signal_name(number: int) -> str:
    return SIGNAL_NAMES.get(number, str(number))


def _name(action: Action) -> str:
    match action.kind:
        case ActionKind.SIGKILL:
            return "SIGKILL"
        case ActionKind.SIGNAL:
            return "SIGKILL" if action.signal == SIGKILL else f"SIGNAL {signal_name(action.signal)}"
        case ActionKind.OVERRIDE:
            return _parts("OVERRIDE", action)
        case ActionKind.NOTIFY_ENFORCER:
            return _parts("NOTIFYENFORCER", action)
        case ActionKind.SET:
            return f"SET {action.value}"
    return _WORDS[action.kind]


def _parts(word: str, action: Action) -> str:
    parts = [word]
    parts += [error_name(action.error)] if action.error else []
    parts += [signal_name(action.signal)] if action.signal else []
    return " ".join(parts)
