# SPDX-License-Identifier: Apache-2.0
"""Nodes to actions and their parameters."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.policy import schemas
from agent.policy.context import Context, HookShape, places_by_index
from agent.policy.document import Node
from agent.policy.errors import quote
from agent.policy.fields import Fields, check_string, open_fields, read_word
from agent.policy.hook_actions import Refusal, refuse_action, refuse_ima_hash, refuse_stack
from agent.policy.model import Action, ActionKind, ArgType, HookKind, RateScope
from agent.policy.spec_actions import MAX_ERRNO, MAX_SIGNAL
from agent.policy.spec_types import MAX_I64, MAX_U32
from agent.policy.values import is_dns_subdomain, is_symbol, parse_rate

# Longer ones are refused by servers and cut by their logs.
MAX_URL = 2048
# `rax=11`, `rip=(%rsp)`, `rsp=8%rsp`: a number, a register with an offset, or the memory at one.
_REGISTERS = "|".join(
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", *(f"r{number}" for number in range(8, 16))]
)
_REGISTER = re.compile(
    rf"(?:{_REGISTERS})=(?:-?(?:0x[0-9a-fA-F]{{1,16}}|[0-9]{{1,20}})|(?:-?(?:0x[0-9a-fA-F]{{1,8}}|[0-9]{{1,10}}))?"
    rf"(?:%(?:{_REGISTERS})|\(%(?:{_REGISTERS})\)))"
)
_URL = re.compile(r"https?://[^\s\x00-\x20]+")

_ACTIONS = {kind.value: kind for kind in ActionKind}
_SCOPES = {scope.value: scope for scope in RateScope}
_SOCKETS = frozenset({ArgType.SOCK, ArgType.SOCKET, ArgType.AUTO})  # what `auto` is, the node says
_NEW_PLACES = ("argNewSymbol", "argNewAddr", "argNewOffset")

# To which actions each parameter belongs.
_BELONGS: Mapping[str, tuple[ActionKind, ...]] = {
    "rateLimit": (ActionKind.POST,),
    "rateLimitScope": (ActionKind.POST,),
    "kernelStackTrace": (ActionKind.POST,),
    "userStackTrace": (ActionKind.POST,),
    "imaHash": (ActionKind.POST,),
    "argError": (ActionKind.OVERRIDE, ActionKind.NOTIFY_ENFORCER),
    "argSig": (ActionKind.SIGNAL, ActionKind.NOTIFY_ENFORCER),
    "argSock": (ActionKind.TRACK_SOCK, ActionKind.UNTRACK_SOCK),
    "argUrl": (ActionKind.GET_URL,),
    "argFqdn": (ActionKind.DNS_LOOKUP,),
    "argIndex": (ActionKind.SET,),
    "argValue": (ActionKind.SET,),
    "argRegs": (ActionKind.OVERRIDE,),
    **dict.fromkeys(_NEW_PLACES, (ActionKind.OVERRIDE,)),
}
# Those that may be there several times, with other parameters each.
_REPEATED = frozenset({ActionKind.SIGNAL, ActionKind.GET_URL, ActionKind.DNS_LOOKUP})
_CONTRADICTIONS = {ActionKind.POST: ActionKind.NO_POST, ActionKind.NO_POST: ActionKind.POST}


class ActionReader:
    """Reads the actions of the selectors of one hook."""

    def __init__(self, context: Context, shape: HookShape) -> None:
        self._context = context
        self._problems = context.problems
        self._shape = shape
        self._places_by_index = places_by_index(shape.args)
        self._readers: Mapping[ActionKind, Callable[[Fields], Action | None]] = {
            ActionKind.POST: self._post,
            ActionKind.SIGNAL: self._signal,
            ActionKind.OVERRIDE: self._override,
            ActionKind.NOTIFY_ENFORCER: self._notify,
            ActionKind.TRACK_SOCK: lambda fields: self._sock(fields, ActionKind.TRACK_SOCK),
            ActionKind.UNTRACK_SOCK: lambda fields: self._sock(fields, ActionKind.UNTRACK_SOCK),
            ActionKind.GET_URL: self._url,
            ActionKind.DNS_LOOKUP: self._name,
            ActionKind.SET: self._set,
        }

    def read(self, selector: Fields, name: str, at_return: bool) -> tuple[Action, ...]:
        """`matchActions` or `matchReturnActions`."""
        actions: list[Action] = []
        seen: set[Action | ActionKind] = set()
        for node in selector.items(name):
            action = self._action(node, at_return)
            if action is None:
                continue
            key = action if action.kind in _REPEATED else action.kind
            if key in seen:
                self._problems.report(node.source, f"{_spell(action)} is given twice", "keep one of them")
            elif _CONTRADICTIONS.get(action.kind) in seen:
                what = "Post and NoPost contradict each other in one selector"
                self._problems.report(node.source, what, "keep one of them")
            seen.add(key)
            actions.append(action)
        return tuple(actions)

    def _action(self, node: Node, at_return: bool) -> Action | None:
        fields = open_fields(node, schemas.ACTION, self._problems)
        scalar = None if fields is None else fields.string("action", required=True)
        if fields is None or scalar is None:
            return None
        self._context.budget.spend(node.source, 1)
        kind = read_word(scalar, "action", _ACTIONS, self._problems)
        if kind is None:
            return None
        if refusal := refuse_action(kind, self._shape, at_return, self._context.has_enforcers):
            self._problems.report(scalar.source, *refusal)
            return None
        self._check_parameters(fields, kind)
        read = self._readers.get(kind)
        action = Action(kind) if read is None else read(fields)
        return None if action is None else replace(action, source=node.source)

    def _check_parameters(self, fields: Fields, kind: ActionKind) -> None:
        for name, kinds in _BELONGS.items():
            if kind not in kinds and self._is_given(fields, name):
                advice = f"leave it out or use {' or '.join(each.value for each in kinds)}"
                fields.report(name, f"{name} has no meaning for {kind.value}", advice)

    def _is_given(self, fields: Fields, name: str) -> bool:
        """Whether a parameter of another action says anything. What its type does not allow is reported."""
        if fields.node(name) is None:
            return False
        if name in ("kernelStackTrace", "userStackTrace", "imaHash"):
            return fields.flag(name)
        if name == "argRegs":
            return bool(fields.items(name))
        if name in ("rateLimit", "rateLimitScope", "argUrl", "argFqdn", "argNewSymbol"):
            scalar = fields.string(name)
            default = RateScope.THREAD.value if name == "rateLimitScope" else ""
            return scalar is not None and scalar.text not in ("", default)
        return bool(fields.integer(name, -MAX_ERRNO if name == "argError" else 0, MAX_I64))

    def _post(self, fields: Fields) -> Action:
        scope = fields.word("rateLimitScope", "scope", _SCOPES, required=False) or RateScope.THREAD
        limit = fields.string("rateLimit")
        if scope is not RateScope.THREAD and (limit is None or not limit.text):
            fields.report("rateLimitScope", "rateLimitScope has no meaning without rateLimit", "leave it out")
        return Action(
            ActionKind.POST,
            rate_ms=self._rate(fields),
            rate_scope=scope,
            kernel_stack=self._allowed(fields, "kernelStackTrace", refuse_stack("kernelStackTrace", self._shape)),
            user_stack=self._allowed(fields, "userStackTrace", refuse_stack("userStackTrace", self._shape)),
            ima_hash=self._allowed(fields, "imaHash", refuse_ima_hash(self._shape)),
        )

    def _allowed(self, fields: Fields, name: str, refusal: Refusal | None) -> bool:
        """A flag, reported when it is set and refused."""
        if fields.flag(name) and refusal:
            fields.report(name, *refusal)
        return fields.flag(name) and not refusal

    def _rate(self, fields: Fields) -> int:
        scalar = fields.string("rateLimit")
        if scalar is None or not scalar.text:
            return 0
        try:
            return parse_rate(scalar.text)
        except ValueError:
            what = f"{quote(scalar.text)} is not a rate limit"
            advice = "write a number of seconds, or one with s, m or h, up to 49 days"
            self._problems.report(scalar.source, what, advice)
            return 0

    def _signal(self, fields: Fields) -> Action | None:
        signal = fields.integer("argSig", 1, MAX_SIGNAL, required=True)
        return None if signal is None else Action(ActionKind.SIGNAL, signal=signal)

    def _override(self, fields: Fields) -> Action | None:
        if self._shape.kind is HookKind.UPROBE:
            return self._jump(fields)
        for name in ("argRegs", *_NEW_PLACES):
            if self._is_given(fields, name):
                fields.report(name, f"{name} has no meaning for {self._shape.noun}", "leave it out or hook a uprobe")
        if fields.required("argError") is None:
            return None
        error = self._error(fields)
        if error == 0:
            what = "argError 0 would let the call succeed without having done anything"
            fields.report("argError", what, "write an error number, as -1 for EPERM")
        return None if error is None else Action(ActionKind.OVERRIDE, error=error)

    def _error(self, fields: Fields) -> int | None:
        """The positive error number; both signs are understood, and absent is 0."""
        if fields.node("argError") is None:
            return 0
        error = fields.integer("argError", -MAX_ERRNO, MAX_ERRNO)
        return None if error is None else abs(error)

    def _jump(self, fields: Fields) -> Action | None:
        """Override of a uprobe: other registers, or another place to go on at."""
        given = [name for name in ("argRegs", *_NEW_PLACES) if self._is_given(fields, name)]
        if self._is_given(fields, "argError"):
            fields.report("argError", "a uprobe's function has no error to return", "use argRegs, as rax=-1")
        if len(given) != 1:
            what = f"Override of a uprobe takes one of argRegs, {', '.join(_NEW_PLACES)}, and has {len(given)}"
            fields.report(given[1] if given else "action", what, "give it one of them")
            return None
        registers = [self._register(fields, number) for number in range(len(fields.items("argRegs")))]
        symbol = fields.string("argNewSymbol")
        if symbol is not None and symbol.text and not is_symbol(symbol.text):
            self._problems.report(symbol.source, f"{quote(symbol.text)} is not a symbol", "write a function's name")
        return Action(
            ActionKind.OVERRIDE,
            registers=tuple(register for register in registers if register),
            new_symbol="" if symbol is None else symbol.text,
            new_address=fields.integer("argNewAddr", 0, MAX_I64) or 0,
            new_offset=fields.integer("argNewOffset", 0, MAX_I64) or 0,
        )

    def _register(self, fields: Fields, number: int) -> str | None:
        scalar = check_string(fields.items("argRegs")[number], "a register", self._problems)
        text = "" if scalar is None else scalar.text.replace(" ", "")
        if scalar is not None and not _REGISTER.fullmatch(text):
            what = f"{quote(scalar.text)} does not set a register"
            self._problems.report(scalar.source, what, "write rax=11, rax=%rbx, rsp=8%rsp or rip=(%rsp)")
        return text or None

    def _notify(self, fields: Fields) -> Action | None:
        error = self._error(fields)
        signal = fields.integer("argSig", 0, MAX_SIGNAL) or 0
        if error is None:
            return None
        if not error and not signal:
            what = "NotifyEnforcer has neither argError nor argSig, so that nothing would happen"
            fields.report("action", what, "give it argError, argSig or both")
        return Action(ActionKind.NOTIFY_ENFORCER, signal=signal, error=error)

    def _sock(self, fields: Fields, kind: ActionKind) -> Action | None:
        place = self._argument(fields, "argSock", lambda arg_type: arg_type in _SOCKETS, "a sock or socket")
        return None if place is None else Action(kind, sock=fields.integer("argSock", 0, MAX_U32) or 0)

    def _set(self, fields: Fields) -> Action | None:
        place = self._argument(fields, "argIndex", lambda arg_type: arg_type.is_number, "a number")
        value = fields.integer("argValue", 0, MAX_U32)
        if fields.node("argValue") is None:
            value = 0
        return None if place is None or value is None else Action(ActionKind.SET, position=place, value=value)

    def _argument(self, fields: Fields, name: str, fits: Callable[[ArgType], bool], wanted: str) -> int | None:
        """The place in `args` of the argument that a parameter names; None with a report."""
        index = 0 if fields.node(name) is None else fields.integer(name, 0, MAX_U32)
        if index is None:
            return None
        for place in self._places_by_index.get(index, []):
            arg = self._shape.args[place].arg
            if arg is None or fits(arg.type):
                return place
        what = f"{name} names argument {index}, which is not declared as {wanted}"
        fields.report(name, what, f"add index {index} with its type to args")
        return None

    def _url(self, fields: Fields) -> Action | None:
        scalar = fields.string("argUrl", required=True)
        if scalar is None:
            return None
        if len(scalar.text) > MAX_URL or not _URL.fullmatch(scalar.text):
            advice = f"write http:// or https:// and at most {MAX_URL} characters without spaces"
            self._problems.report(scalar.source, f"{quote(scalar.text)} is not a URL", advice)
        return Action(ActionKind.GET_URL, text=scalar.text)

    def _name(self, fields: Fields) -> Action | None:
        scalar = fields.string("argFqdn", required=True)
        if scalar is None:
            return None
        if not is_dns_subdomain(scalar.text.lower().removesuffix(".")):
            what = f"{quote(scalar.text)} is not a name of the DNS"
            self._problems.report(scalar.source, what, "write at most 253 letters, digits, '-' and '.'")
        return Action(ActionKind.DNS_LOOKUP, text=scalar.text)


def _spell(action: Action) -> str:
    return f"action {action.kind.value}" + (f" {action.signal}" if action.kind is ActionKind.SIGNAL else "")
