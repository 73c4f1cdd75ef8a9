# SPDX-License-Identifier: Apache-2.0
"""What a policy's hook does with a call, worked out from the model alone, in plain Python.

The kernel's side is compiled C; this says what it has to do. A test compares the two over random policies and calls,
and whoever wants to know what a policy would do without loading it asks here. Nothing is remembered between calls:
rate limits are not applied, an event that one may take away says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.policy.evaluate_process import (
    meets_binaries,
    meets_capabilities,
    meets_capability_change,
    meets_namespace,
    meets_namespace_change,
    meets_parent_binaries,
    meets_pids,
)
from agent.policy.evaluate_seen import Call
from agent.policy.evaluate_values import meets, meets_value, typed
from agent.policy.model import SIGKILL, Action, ActionKind, Hook, PolicyMode, Selector, posts, signals

# What is done to the thread that runs, and to no other.
_ON_WHO_RUNS = frozenset(
    {ActionKind.SIGKILL, ActionKind.SIGNAL, ActionKind.NOTIFY_ENFORCER, ActionKind.CLEANUP_ENFORCER}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows at one end of a call. selector: its place in the hook's. done: the actions that are carried out;
    withheld: those that monitor mode only counts; failed: those that would hit another process, which runs.
    """

    selector: int
    done: tuple[Action, ...] = ()
    withheld: tuple[Action, ...] = ()
    failed: tuple[Action, ...] = ()

    @property
    def signals(self) -> tuple[int, ...]:
        """Those that are sent to the calling process, as the actions are written."""
        return signals(self.done)


@dataclass(frozen=True, slots=True)
class Event:
    """What is posted. selector: the one that matched at the entry; return_selector: that of the return, or None.

    limited: a rate limit may take it away.
    """

    selector: int
    return_selector: int | None = None
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a hook does with one call. None: no selector matches there."""

    at_entry: Outcome | None = None
    at_return: Outcome | None = None
    event: Event | None = None


NOTHING = Verdict()


def evaluate(hook: Hook, call: Call, mode: PolicyMode = PolicyMode.ENFORCE) -> Verdict:
    """A call that the policy applies to."""
    number = match_entry(hook, call)
    if number is None:
        return NOTHING
    selector = hook.selectors[number]
    at_entry = _outcome(number, selector.actions, mode, call)
    if not hook.returns:
        return Verdict(at_entry, event=_event(selector.actions, number, None))
    if not call.ends:
        return Verdict(at_entry)
    if not hook.return_selectors:
        return Verdict(at_entry, event=_event(selector.actions, number, None))
    late = match_return(hook, call)
    if late is None:
        return Verdict(at_entry)
    actions = hook.selectors[late].return_actions
    return Verdict(at_entry, _outcome(late, actions, mode, call), _event(actions, number, late))


def match_entry(hook: Hook, call: Call) -> int | None:
    """The first selector whose filters hold when the call begins."""
    return next((n for n, selector in enumerate(hook.selectors) if holds_at_entry(selector, hook, call)), None)


def match_return(hook: Hook, call: Call) -> int | None:
    """The first selector with a part for the return whose conditions on what was returned hold."""
    return next((n for n, selector in hook.return_selectors if holds_at_return(selector, hook, call)), None)


def holds_at_entry(selector: Selector, hook: Hook, call: Call) -> bool:
    """Whether all filters of a selector hold but those of the return."""
    return all(_entry_filters(selector, hook, call))


def _entry_filters(selector: Selector, hook: Hook, call: Call) -> Iterator[bool]:
    process = call.process
    yield not selector.workloads or any(workload in call.workloads for workload in selector.workloads)
    yield from (meets(each, hook.args, call.args) for each in selector.args)
    yield from (meets(each, hook.data, call.data) for each in selector.data)
    yield from (meets_pids(each, process) for each in selector.pids)
    yield from (meets_binaries(each, process) for each in selector.binaries)
    yield from (meets_parent_binaries(each, process) for each in selector.parent_binaries)
    yield from (meets_namespace(each, process, call.host_namespaces) for each in selector.namespaces)
    yield from (meets_namespace_change(each, process) for each in selector.namespace_changes)
    yield from (meets_capabilities(each, process) for each in selector.capabilities)
    yield from (meets_capability_change(each, process) for each in selector.capability_changes)


def holds_at_return(selector: Selector, hook: Hook, call: Call) -> bool:
    """Whether all conditions of a selector on what was returned hold."""
    returned = call.returned if hook.return_arg is None else typed(call.returned, hook.return_arg.type)
    return all(meets_value(each, returned) for each in selector.return_args)


def _outcome(number: int, actions: tuple[Action, ...], mode: PolicyMode, call: Call) -> Outcome:
    withheld = tuple(each for each in actions if mode is PolicyMode.MONITOR and each.kind.enforces)
    failed = tuple(each for each in actions if not call.runs and each.kind in _ON_WHO_RUNS and each not in withheld)
    left_out = (*withheld, *failed)
    return Outcome(number, tuple(each for each in actions if each not in left_out), withheld, failed)


def _event(actions: tuple[Action, ...], number: int, late: int | None) -> Event | None:
    if not posts(actions):
        return None
    return Event(number, late, limited=any(action.rate_ms for action in actions))


def sent_together(outcomes: Iterable[Outcome | None]) -> tuple[int, ...]:
    """The signals that one end of a call sends, of all rules that it meets: each once, and SIGKILL alone."""
    wanted = {signal for outcome in outcomes if outcome for signal in outcome.signals}
    return (SIGKILL,) if SIGKILL in wanted else tuple(sorted(wanted))
