# SPDX-License-Identifier: Apache-2.0
"""Uprobes and USDT probes: from what a policy says to places in a file and reads of registers and memory.

A uprobe's arguments are those of the System V calling convention for x86-64: the first six integers and addresses are
in registers. A USDT probe's are what the compiler noted at each of its locations, so one hook becomes a PointHook for
each location, with its own reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointHook, PointKind, Read, Value
from agent.policy.errors import Problems, quote
from agent.policy.facts import FactsError
from agent.policy.leaf import Leaf, LeafKind, narrow
from agent.policy.model import ActionKind, Arg, ArgType, Hook, HookKind, UprobeTarget
from agent.policy.operands import Operand, OperandError, fold, parse_operand, read_operand, split_operands
from agent.policy.resolve_btf import Place, cast, leaf_at, walk
from agent.policy.resolve_data import resolve_data
from agent.policy.resolve_faults import ResolveError, resolve_each
from agent.policy.resolve_types import resolve_value
from agent.policy.user_facts import HookFacts, UsdtProbe, UserFile
from agent.policy.user_places import UserPlace, symbol_address, uprobe_places, usdt_places

MAX_REGISTER_ARGUMENTS = 6  # rdi, rsi, rdx, rcx, r8, r9; further ones are on the stack, where it depends on all types
_WORD = 8
# Lengths that are no size_t: the int of writev, socklen_t, the unsigned int of bpf.
_LENGTHS = {ArgType.CHAR_IOVEC: 4, ArgType.SOCKADDR: 4, ArgType.SOCKADDR_UN: 4, ArgType.BPF_ATTR: 4}
_SET_SIZE = 4  # what the action Set writes
_NO_OVERRIDE = "would change the process's registers, which this kernel's verifier lets no probe do"

_T = TypeVar("_T")
Resolved = tuple[Arg, Value | None]


def resolve_user_hook(hook: Hook, number: int, facts: HookFacts, problems: Problems) -> tuple[PointHook, ...]:
    """One PointHook for each place of a UPROBE or USDT hook, with the numbers from `number` on.

    None when faults were reported, and when the file has none of the hook's digests and the policy ignores that.
    """
    target = _target(hook)
    try:
        _check_actions(hook, facts, problems)
        with facts.open_file(target.path) as file:
            if _is_rejected(target, file):
                return ()
            return _resolve_places(hook, target, number, file, facts, problems)
    except (ResolveError, FactsError) as fault:
        what = fault.what if fault.what.startswith(target.path) else f"{target.path}: {fault.what}"
        problems.report(hook.source, what, fault.advice)
        return ()


def _target(hook: Hook) -> UprobeTarget:
    if hook.target is None:
        raise ValueError(f"{hook.section} has no file")
    return hook.target


def _resolve_places(
    hook: Hook, target: UprobeTarget, number: int, file: UserFile, facts: HookFacts, problems: Problems
) -> tuple[PointHook, ...]:
    is_usdt = hook.kind is HookKind.USDT
    places = usdt_places(hook.calls[0], file) if is_usdt else uprobe_places(target, file)
    data = resolve_each(hook.data, lambda entry: resolve_data(entry, facts), hook, problems)
    returned = resolve_each(_returned(hook), lambda arg: _return_value(arg, hook, facts), hook, problems)
    found: list[PointHook] = []
    for place in places:
        source = _UsdtArguments(place.probe, file) if place.probe else _CallArguments(hook)
        read = partial(_argument, source, hook, facts)
        args = resolve_each(hook.args, read, hook, problems)
        if len(args) < len(hook.args) or not _check_set(hook, args, problems):
            break  # the other places would repeat the faults
        value = returned[0][1] if returned else None
        found.append(PointHook(_point(place, target, file), number + len(found), hook, args, data, value, place.symbol))
    return tuple(found)


def _point(place: UserPlace, target: UprobeTarget, file: UserFile) -> HookPoint:
    kind = PointKind.USDT if place.probe else PointKind.UPROBE
    return HookPoint(kind, target.path, place.offset, place.ref_counter, file.identity)


def _is_rejected(target: UprobeTarget, file: UserFile) -> bool:
    """Whether the file has none of the digests and the policy leaves the hook out then."""
    if not target.digests or any(_has_digest(digest, file) for digest in target.digests):
        return False
    if target.ignore_digest:
        return True
    advice = "check where the file comes from; ignore.digestVerificationFailure leaves the hook out on such nodes"
    raise ResolveError("the file has none of binaryDigests", advice)


def _has_digest(digest: str, file: UserFile) -> bool:
    algorithm, _, expected = digest.partition(":")
    found = file.build_id if algorithm == "build-id" else file.digest(algorithm)
    return bool(expected) and found == expected.lower()


class _CallArguments:
    """Those of a function at its entry."""

    def __init__(self, hook: Hook) -> None:
        self._declared = {arg.index: arg.type.bits // 8 for arg in hook.args if arg.type.is_number}

    def leaf(self, arg: Arg) -> Leaf:
        """The argument in its register."""
        if arg.type is ArgType.AUTO and not arg.resolve:
            raise ResolveError("the file does not say which type the argument has", "add `type`")
        return Leaf(LeafKind.REGISTER, self._read(arg.index), f"argument {arg.index}", memory=Memory.USER)

    def length(self, arg: Arg, index: int) -> Read:
        """As wide as it is declared, else as C has it: what is above is left undefined in the register."""
        size = self._declared.get(index, _LENGTHS.get(arg.type, _WORD))
        return narrow(self._read(index), size, signed=False)

    def _read(self, index: int) -> Read:
        if index >= MAX_REGISTER_ARGUMENTS:
            what = f"argument {index} of a function is on the stack, and nothing says where"
            raise ResolveError(what, f"only the arguments 0 to {MAX_REGISTER_ARGUMENTS - 1}, in registers, can be read")
        return Read(Input(InputKind.ARGUMENT, index))


class _UsdtArguments:
    """Those of one location of a USDT probe."""

    def __init__(self, probe: UsdtProbe, file: UserFile) -> None:
        self._probe = probe
        self._file = file

    def leaf(self, arg: Arg) -> Leaf:
        """A number is as wide as its operand; eight bytes may also be an address."""
        text = self._text(arg.index)
        operand = self._operand(arg.index)
        is_number = operand.size < _WORD or ((arg.type.is_number or arg.type is ArgType.AUTO) and not arg.resolve)
        kind = LeafKind.NUMBER if is_number else LeafKind.REGISTER
        read = self._read(arg.index, operand)
        name = f"argument {arg.index} ({text})"
        return Leaf(kind, read, name, operand.size, operand.signed, memory=Memory.USER)

    def length(self, _arg: Arg, index: int) -> Read:
        """As wide as its operand."""
        return self._read(index, self._operand(index))

    def _text(self, index: int) -> str:
        probe = self._probe
        operands = self._explained(index, lambda: split_operands(probe.arguments))
        if index < len(operands):
            return operands[index]
        what = f"{probe.provider}/{probe.name} at {probe.address:#x} has {len(operands)} arguments, and none {index}"
        raise ResolveError(what, f"use 0 to {len(operands) - 1}" if operands else "leave the argument out")

    def _operand(self, index: int) -> Operand:
        text = self._text(index)
        return self._explained(index, lambda: parse_operand(text))

    def _read(self, index: int, operand: Operand) -> Read:
        return self._explained(index, lambda: read_operand(operand, operand.size, operand.signed, self._distance))

    def _distance(self, symbol: str) -> int:
        return symbol_address(symbol, self._file) - self._probe.address

    def _explained(self, index: int, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except OperandError as error:
            probe = self._probe
            where = f"argument {index} of {probe.provider}/{probe.name} at {probe.address:#x}"
            raise ResolveError(f"{where}, {quote(probe.arguments)}: {error}", "leave the argument out") from error


Arguments = _CallArguments | _UsdtArguments


def _argument(source: Arguments, hook: Hook, facts: HookFacts, arg: Arg) -> Resolved:
    if arg.type is ArgType.NOP:
        return arg, None
    if arg.return_copy and not hook.returns:
        raise ResolveError(
            "returnCopy without a return", "set return: true" if hook.kind is HookKind.UPROBE else "leave it out"
        )
    leaf = _resolved(arg, source.leaf(arg), hook, facts)
    length = None if arg.size_arg is None else source.length(arg, arg.size_arg)
    resolved, value = resolve_value(arg, leaf, length)
    return resolved, value and replace(value, read=fold(value.read))


def _resolved(arg: Arg, leaf: Leaf, hook: Hook, facts: HookFacts) -> Leaf:
    """What `resolve` leads to from a pointer of type `btfType`; without it the value itself."""
    if not arg.resolve:
        if arg.btf_type:
            raise ResolveError("btfType without resolve", "name a member with `resolve`, or leave btfType out")
        return leaf
    if leaf.kind is not LeafKind.REGISTER:
        raise ResolveError(f"{leaf.text} is no address", "leave `resolve` out")
    if not arg.btf_type:
        raise ResolveError("resolve without the type that the argument points to", "add btfType")
    if arg.btf_module:
        raise ResolveError("btfTypeModule belongs to the kernel's types", "leave it out: btfPath says where types are")
    target = _target(hook)
    types = facts.file_types(target.btf_path or target.path)
    start = cast(types, Place(0, leaf.read, leaf.text, Memory.USER), arg.btf_type)
    return leaf_at(types, walk(types, start, arg.resolve))


def _returned(hook: Hook) -> tuple[Arg, ...]:
    return (hook.return_arg,) if hook.returns and hook.return_arg else ()


def _return_value(arg: Arg, hook: Hook, facts: HookFacts) -> Resolved:
    if arg.type is ArgType.AUTO and not arg.resolve:
        raise ResolveError("the file does not say which type the function returns", "add `type`")
    if arg.size_arg is not None:
        raise ResolveError("sizeArgIndex of a return value", "leave it out")
    if hook.return_arg_action is not None:
        what = f"returnArgAction {hook.return_arg_action.value} needs a sock, which only the kernel has"
        raise ResolveError(what, "leave it out")
    leaf = Leaf(LeafKind.REGISTER, Read(Input(InputKind.RETURN)), "the return value", memory=Memory.USER)
    resolved, value = resolve_value(arg, _resolved(arg, leaf, hook, facts))
    return resolved, value and replace(value, at_return=True)


def _check_actions(hook: Hook, facts: HookFacts, problems: Problems) -> None:
    for action in (action for each in hook.selectors for action in (*each.actions, *each.return_actions)):
        source = action.source or hook.source
        if action.kind is ActionKind.OVERRIDE:
            problems.report(source, f"Override of a {hook.kind.value} {_NO_OVERRIDE}", "use Sigkill or Signal")
        elif action.kind is ActionKind.SET and hook.kind is not HookKind.USDT:
            problems.report(source, "Set writes arguments of USDT probes only", "leave it out")
        elif action.kind is ActionKind.SET and (refusal := facts.write_refusal()):
            advice = "leave it out, or add the policy on nodes whose kernel is not locked down"
            problems.report(source, f"Set is not possible on this node: {refusal}", advice)


def _check_set(hook: Hook, args: tuple[Resolved, ...], problems: Problems) -> bool:
    """Set writes four bytes where the probe reads its argument."""
    for action in (action for each in hook.selectors for action in each.actions if action.kind is ActionKind.SET):
        arg, value = args[action.position]
        if hook.kind is HookKind.USDT and (value is None or arg.resolve or not _is_settable(value)):
            what = f"Set needs an argument of four bytes in memory, and argument {arg.index} is none"
            problems.report(action.source or hook.source, what, "name another argument, or leave Set out")
            return False
    return True


def _is_settable(value: Value) -> bool:
    read = value.read
    return value.type.is_number and bool(read.offsets) and not read.in_place and read.size == _SET_SIZE
