# SPDX-License-Identifier: Apache-2.0
"""What events need to know of a policy's rules, and the form in which the feed brings it. Pure.

A rule is one hook of a policy at one of its hook points; an event names it by its place in the policy's list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.events.actions import NO_POST, is_enforcing
from agent.events.arguments import Argument, make_argument
from agent.policy.model import ArgType, HookKind

_TRACEPOINTS = frozenset({HookKind.TRACEPOINT, HookKind.RAW_TRACEPOINT})


@dataclass(frozen=True, slots=True)
class ActionsName:
    """What a selector does at one time. names: those of `actions.action_names`; without: those that are left in
    monitor mode, would: those that are not. urls, hosts: to be asked afterwards.
    """

    names: tuple[str, ...]
    without: tuple[str, ...]
    would: tuple[str, ...]
    urls: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    kernel_stack: bool = False
    user_stack: bool = False

    @property
    def posts(self) -> bool:
        return NO_POST not in self.names

    @property
    def looks_up(self) -> bool:
        return bool(self.urls or self.hosts)


NO_ACTIONS = ActionsName((), (), ())


@dataclass(frozen=True, slots=True)
class SelectorName:
    label: str
    entry: ActionsName
    at_return: ActionsName


@dataclass(frozen=True, slots=True)
class RuleName:
    """what: the fields of an event that say what was hooked, by the kind of hook, and what the policy says of it."""

    what: Mapping[str, Any]
    args: tuple[Argument, ...] = ()
    data: tuple[Argument, ...] = ()
    returns: Argument | None = None
    selectors: tuple[SelectorName, ...] = ()

    def actions(self, selector: int, return_selector: int) -> tuple[ActionsName, ActionsName]:
        """Those of a selector, and those of one at the return; no actions for numbers that there are not."""
        known = self.selectors
        return (
            known[selector].entry if selector < len(known) else NO_ACTIONS,
            known[return_selector].at_return if return_selector < len(known) else NO_ACTIONS,
        )

    def label(self, selector: int) -> str:
        """Of a selector, "" when it has none."""
        return self.selectors[selector].label if selector < len(self.selectors) else ""

    @property
    def looks_up(self) -> bool:
        return any(selector.entry.looks_up or selector.at_return.looks_up for selector in self.selectors)


def parse_rule(fields: Mapping[str, Any]) -> RuleName:
    """fields: one of `rules` in a message. Raises ValueError, KeyError, TypeError, AttributeError."""
    return RuleName(
        _what(fields),
        tuple(_arg(arg) for arg in fields["args"]),
        tuple(_arg(arg) for arg in fields["data"]),
        None if fields["return"] is None else _arg(fields["return"], True),
        tuple(_selector(selector) for selector in fields["selectors"]),
    )


def _what(fields: Mapping[str, Any]) -> dict[str, Any]:
    kind, function, call = HookKind(fields["kind"]), str(fields["function"]), str(fields["call"])
    what = {"hook": kind.value} | _place(kind, function, fields)
    if call not in ("", function, fields["path"]):
        what["call"] = call
    if fields["message"]:
        what["message"] = str(fields["message"])
    if fields["tags"]:
        what["tags"] = [str(tag) for tag in fields["tags"]]
    return what


def _place(kind: HookKind, function: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    if kind in _TRACEPOINTS:
        subsystem, _, event = function.rpartition("/")
        return {"subsystem": subsystem or None, "event": event}
    if kind is HookKind.UPROBE:
        symbol = str(fields["symbol"]) if fields["symbol"] else None
        return {"path": str(fields["path"]), "symbol": symbol, "offset": int(fields["offset"])}
    if kind is HookKind.USDT:
        provider, _, name = function.partition("/")
        return {"path": str(fields["path"]), "provider": provider, "name": name, "offset": int(fields["offset"])}
    return {"function": function}


def _arg(fields: list[Any], is_return: bool = False) -> Argument:
    value_id, kind, label, index, number_id = fields
    head: dict[str, Any] = {} if is_return else {"index": int(index)}
    if label:
        head["label"] = str(label)
    return make_argument(ArgType(kind), head, _id(value_id), _id(number_id))


def _id(number: Any) -> int | None:
    return None if number is None else int(number)


def _selector(fields: Mapping[str, Any]) -> SelectorName:
    at_return = fields["return"]
    return SelectorName(
        str(fields["label"]), _actions(fields["entry"]), NO_ACTIONS if at_return is None else _actions(at_return)
    )


def _actions(fields: Mapping[str, Any]) -> ActionsName:
    names = tuple(str(name) for name in fields["actions"])
    return ActionsName(
        names,
        tuple(name for name in names if not is_enforcing(name)),
        tuple(name for name in names if is_enforcing(name)),
        tuple(str(url) for url in fields["get_url"]),
        tuple(str(host) for host in fields["dns"]),
        bool(fields["kernel_stack"]),
        bool(fields["user_stack"]),
    )
