# SPDX-License-Identifier: Apache-2.0
"""What a selector that holds asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.policy import codegen_sock as sock
from agent.policy.access import Value
from agent.policy.codegen_unit import Unit
from agent.policy.codegen_value import follow, number
from agent.policy.model import Action, ActionKind, RateScope, Selector, posts, signals
from agent.policy.placed import Rule
from agent.policy.sockets import TRACKING

_SCOPES = {
    RateScope.THREAD: "PG_RATE_THREAD",
    RateScope.PROCESS: "PG_RATE_PROCESS",
    RateScope.GLOBAL: "PG_RATE_GLOBAL",
}
_LOOKUPS = frozenset({ActionKind.GET_URL, ActionKind.DNS_LOOKUP})  # done by whoever reads the event
_WITH_PARAMETERS = frozenset({ActionKind.NOTIFY_ENFORCER, ActionKind.OVERRIDE, ActionKind.SET}) | TRACKING
_OF_EVENTS = ("PG_HIT_POST", "PG_HIT_KERNEL_STACK", "PG_HIT_USER_STACK")


def hit_lines(unit: Unit, n: int, rule: Rule, k: int, selector: Selector) -> Iterator[str]:
    arguments = f"{rule.placed.serial}, {rule.number}, {k}, {rule.placed.bit}"
    flags = hit_flags(selector.actions)
    if not rule.returns:
        yield from new_hit(
            arguments, flags, unit.chunk.mask(told_values(rule.reported, selector.actions)), selector.actions
        )
        yield from parameter_lines(unit, rule, selector.actions, _hash(unit, rule.reported))
        return
    limited = any(action.rate_ms for action in selector.actions)
    waits = ["PG_HIT_AWAITS"] if _waits_for_return(rule, selector) else []
    flags = [*waits, *(flag for flag in flags if flag not in _OF_EVENTS)]
    if limited or signals(selector.actions) or flags != ["PG_HIT_AWAITS"]:
        yield from new_hit(arguments, flags, 0, selector.actions)
        yield from parameter_lines(unit, rule, selector.actions, _hash(unit, rule.reported))
    yield from _await(unit, n, rule, k, selector)


def _waits_for_return(rule: Rule, selector: Selector) -> bool:
    """Whether anything is left to do at the return: without selectors of its own that is the event."""
    return bool(rule.hook.hook.return_selectors) or _makes_event(selector.actions)


def _makes_event(actions: tuple[Action, ...]) -> bool:
    """Whether there is a record: for readers, or for what the event process looks up."""
    return posts(actions) or any(action.kind in _LOOKUPS for action in actions)


def told_values(values: tuple[Value, ...], actions: tuple[Action, ...]) -> tuple[Value, ...]:
    """What a hit reports. The record of one that only looks something up is for nobody to read: large values are left
    out.
    """
    return values if posts(actions) else tuple(value for value in values if not value.is_large)


def _await(unit: Unit, n: int, rule: Rule, k: int, selector: Selector) -> Iterator[str]:
    """The selectors at the return are asked even when the entry posts nothing, or not so soon again."""
    late = rule.hook.hook.return_selectors
    limited = any(action.rate_ms for action in selector.actions)
    if not late:
        if _waits_for_return(rule, selector):
            if limited:
                yield "if (!(hit->flags & PG_HIT_LIMITED))"
            yield f"{chr(9) * limited}pg_await(call, {n}, {k});"
        return
    yield f"pg_await(call, {n}, {f'{k} | (hit->flags & PG_HIT_LIMITED ? PG_WAITING_LIMITED : 0)' if limited else k});"
    if _limits_late(rule):
        yield f"call->hash[{n}] = {_hash(unit, rule.reported)};"


def _limits_late(rule: Rule) -> bool:
    return any(action.rate_ms for selector in rule.selectors for action in selector.return_actions)


def new_hit(
    arguments: str, flags: list[str], values: int, actions: tuple[Action, ...], *, named: bool = False
) -> Iterator[str]:
    """named: at hand as `hit` whatever the actions are."""
    wanted = sum({1 << (signal - 1) for signal in signals(actions)})
    needed = "struct pg_hit *hit = " if named or _has_parameters(actions) else ""
    yield f"{needed}pg_hit(call, {arguments}, {' | '.join(flags) or '0'}, {values:#x}ULL, {wanted:#x}ULL);"


def _has_parameters(actions: tuple[Action, ...]) -> bool:
    return any(a.rate_ms or a.kind in _WITH_PARAMETERS for a in actions)


def hit_flags(actions: tuple[Action, ...]) -> list[str]:
    kinds = {action.kind for action in actions}
    found = {
        "PG_HIT_POST": _makes_event(actions),
        "PG_HIT_KERNEL_STACK": any(action.kernel_stack for action in actions),
        "PG_HIT_USER_STACK": any(action.user_stack for action in actions),
        "PG_HIT_NOTIFY": ActionKind.NOTIFY_ENFORCER in kinds,
        "PG_HIT_CLEANUP": ActionKind.CLEANUP_ENFORCER in kinds,
        "PG_HIT_SET": ActionKind.SET in kinds,
        "PG_HIT_OVERRIDE": ActionKind.OVERRIDE in kinds,
    }
    return [name for name, holds in found.items() if holds]


def may_ask(unit: Unit) -> str:
    """What the hits of a program may ask for beside an event: `may` of bpf/lib/rules.h. What is missing is not done."""
    actions = tuple(action for rule in unit.chunk.rules for action in rule.actions)
    asked = [flag for flag in hit_flags(actions) if flag not in _OF_EVENTS]
    asked += ["PG_HIT_SIGNALS"] * any(signals(actions)) + ["PG_HIT_LIMITED"] * any(each.rate_ms for each in actions)
    return " | ".join(asked) or "0"


def parameter_lines(unit: Unit, rule: Rule, actions: tuple[Action, ...], hashed: str) -> Iterator[str]:
    """What actions need beyond flags; the hit is at hand as `hit`. hashed: what makes two events equal."""
    for action in actions:
        if action.rate_ms:
            interval = f"{action.rate_ms * 1_000_000}ULL"
            yield sock.limit(unit.chunk, f"{_SCOPES[action.rate_scope]}, {hashed}, {interval}")
        yield from sock.track(unit.chunk, rule, action)
        if action.kind is ActionKind.NOTIFY_ENFORCER:
            yield f"hit->notify_signal = {action.signal};"
        if action.kind is ActionKind.OVERRIDE:
            yield f"hit->override = -{action.error};"
        if action.kind is ActionKind.SET:
            value = rule.hook.args[action.position][1]
            if value:
                yield from _set(unit, value, action.value)


def _set(unit: Unit, value: Value, new: int) -> Iterator[str]:
    yield from follow(unit.chunk, value.read.address, "n")
    yield f"if (!error) pg_set(hit, n, {new & 0xFFFFFFFF}U);"


def _hash(unit: Unit, values: tuple[Value, ...]) -> str:
    text = "PG_HASH_BEGIN"
    for value in values:
        if value in unit.chunk.texts:
            text = f"pg_hash_text({text}, s{unit.chunk.texts[value]})"
        else:
            text = f"pg_hash({text}, {number(unit.chunk, value)})"
    return text


def send_lines(actions: Iterable[Action]) -> Iterator[str]:
    return (f"\tpg_send_if(call, signals, {number_});" for number_ in sorted(set(signals(tuple(actions)))))


def send_hits(unit: Unit) -> str:
    return f"\tpg_send_hits(call, event, {len(unit.chunk.rules)}, {may_ask(unit)});"
