# SPDX-License-Identifier: Apache-2.0
"""Actions and options that this node's hooks cannot carry out: refused, since half an action enforces nothing."""

from __future__ import annotations

from agent.policy.access import PointHook
from agent.policy.errors import Problems, quote
from agent.policy.facts import Facts
from agent.policy.model import Action, ActionKind, Hook, Policy
from agent.policy.sockets import SOCKETS, TRACKING, actions_of, tracked_value

_NO_ERROR = "the enforcer's calls are watched through tracepoints, which cannot keep a call from happening"
_NO_HASH = "imaHash is not supported by this version: the kernel gives it only to programs that may sleep"


def check_actions(hook: Hook, problems: Problems) -> None:
    """Reports what a hook asks for and no node does."""
    for selector in hook.selectors:
        for action in (*selector.actions, *selector.return_actions):
            _check(hook, action, problems)


def _check(hook: Hook, action: Action, problems: Problems) -> None:
    source = action.source or hook.source
    if action.kind is ActionKind.NOTIFY_ENFORCER and action.error:
        advice = "use argSig alone, or Override of a hook on these calls"
        problems.report(source, f"NotifyEnforcer with argError is not possible here: {_NO_ERROR}", advice)
    if action.ima_hash:
        problems.report(source, _NO_HASH, "leave it out")


def check_sockets(hook: PointHook, problems: Problems) -> None:
    """Reports an action on a socket whose argument, as it was found on this node, is none."""
    for action in actions_of(hook):
        if action.kind not in TRACKING or tracked_value(hook, action):
            continue
        types = [arg.type.value for arg, _ in hook.args if arg.index == action.sock]
        if types:  # else the argument has a fault of its own
            what = f"{action.kind.value} needs a socket, and argSock {action.sock} is of type {', '.join(types)} here"
            advice = f"name an argument of type {' or '.join(sorted(kind.value for kind in SOCKETS))}"
            problems.report(action.source or hook.hook.source, what, advice)


def check_nodes(policy: Policy, problems: Problems) -> None:
    """Reports a selection of nodes: nobody tells this agent its node's labels, and in force everywhere is not what was
    meant.
    """
    if policy.nodes is not None and policy.nodes.requirements:
        advice = "leave it out, and add the policy on the nodes that are meant"
        problems.report(policy.source, "nodeSelector is not supported by this version", advice)


def check_enforcers(policy: Policy, facts: Facts, problems: Problems) -> None:
    """What NotifyEnforcer acts on must be watched: a name that is not would never be enforced."""
    for name in policy.enforcers:
        if facts.syscall(name) is None:
            what = f"the enforcer's call {quote(name)} is no system call of this kernel"
            problems.report(policy.source, what, "name system calls only")
