# SPDX-License-Identifier: Apache-2.0
"""Hooks on tracepoints.

A plain tracepoint's arguments are the fields of its format file, counted from 0 with the four common ones, as the
CRD's users do: the first field of its own is 4; of `syscalls/sys_enter_…` 4 is the call's number and 5 its first
argument. A raw tracepoint's are the parameters of its function, counted from 0, with the types that BTF has for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointHook, PointKind, Read, Value
from agent.policy.errors import Problems, quote
from agent.policy.facts import Facts, RawTracepoint, RecordField, Types
from agent.policy.fields import suggest
from agent.policy.leaf import Leaf, LeafKind
from agent.policy.model import Arg, Hook
from agent.policy.resolve_btf import Place, leaf_at, walk
from agent.policy.resolve_call import Call, resolve_argument
from agent.policy.resolve_data import check_cast, resolve_cast, resolve_data
from agent.policy.resolve_faults import ResolveError, resolve_each
from agent.policy.resolve_fields import check_place, field_leaf, register_leaf, structure_name
from agent.policy.resolve_types import resolve_value
from agent.policy.syscalls import parse_call

MAX_RAW_ARGS = 12  # bpf_trace_run12: the kernel has no raw tracepoint with more
_NAME = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+", re.ASCII)
_ENTER = "syscalls/sys_enter_"
_NUMBER_FIELD = "__syscall_nr"

_Resolved = tuple[Arg, Value | None]


def resolve_tracepoint(hook: Hook, number: int, facts: Facts, problems: Problems) -> tuple[PointHook, ...]:
    """One for each tracepoint of the hook."""
    hooks: list[PointHook] = []
    for name in hook.calls:
        fields = facts.tracepoint(name) if _NAME.fullmatch(name) else None
        if fields is None:
            advice = suggest(name, facts.tracepoint_names(), "see `events` of this node's tracefs")
            problems.report(hook.source, f"this kernel has no tracepoint {quote(name)}", advice)
            continue
        record = _Record(name, fields, hook, facts)
        point = HookPoint(PointKind.TRACEPOINT, name)
        hooks.append(_point_hook(point, number + len(hooks), hook, record, facts, problems))
    return tuple(hooks)


def resolve_raw_tracepoint(hook: Hook, number: int, facts: Facts, problems: Problems) -> tuple[PointHook, ...]:
    """One for each raw tracepoint of the hook."""
    hooks: list[PointHook] = []
    for name in hook.calls:
        subsystem, _, event = name.partition("/")
        found = facts.raw_tracepoint(event) if _NAME.fullmatch(name) else None
        if found is None or not _is_of(subsystem, event, facts):
            problems.report(hook.source, f"this kernel has no raw tracepoint {quote(name)}", _raw_advice(name, facts))
            continue
        point = HookPoint(PointKind.RAW_TRACEPOINT, event)
        function = _Function(event, found, facts)
        hooks.append(_point_hook(point, number + len(hooks), hook, function, facts, problems))
    return tuple(hooks)


def _is_of(subsystem: str, event: str, facts: Facts) -> bool:
    """Whether an event is of a subsystem. One that tracefs has nowhere, a bare tracepoint, is of any."""
    subsystems = {name.partition("/")[0] for name in facts.tracepoint_names() if name.partition("/")[2] == event}
    return not subsystems or subsystem in subsystems


def _raw_advice(name: str, facts: Facts) -> str:
    if name.startswith("syscalls/"):
        return "leave `raw` out, or use raw_syscalls/sys_enter and sys_exit, which have one"
    raw = set(facts.raw_tracepoint_names())
    names = [each for each in facts.tracepoint_names() if each.partition("/")[2] in raw]
    return suggest(name, names, "see `events` of this node's tracefs")


def _point_hook(
    point: HookPoint, number: int, hook: Hook, source: _Record | _Function, facts: Facts, problems: Problems
) -> PointHook:
    args = resolve_each(hook.args, source.resolve, hook, problems)
    data = resolve_each(hook.data, lambda entry: resolve_data(entry, facts), hook, problems)
    return PointHook(point, number, hook, args, data)


def _refuse_return(arg: Arg) -> None:
    if arg.return_copy:
        raise ResolveError("returnCopy on a tracepoint, which has no return", "leave it out, or hook the system call")


@dataclass(frozen=True, slots=True)
class _Record:
    """A tracepoint's record."""

    name: str
    fields: tuple[RecordField, ...]
    hook: Hook
    facts: Facts

    def resolve(self, arg: Arg) -> _Resolved:
        """Raises ResolveError and FactsError."""
        field = self._field(arg.index)
        _refuse_return(arg)
        check_cast(arg)
        check_place(field)
        call = self._call()
        if call is not None and arg.index >= call.first:
            return resolve_argument(arg, call, self.hook, self.facts)
        leaf = self._leaf(field, arg)
        if arg.resolve or arg.btf_type:
            leaf = self._cast(arg, field, leaf)
        return resolve_value(arg, leaf, self._length(arg))

    def _leaf(self, field: RecordField, arg: Arg) -> Leaf:
        text = f"field {arg.index} of {self.name} ({field.text})"
        if self.name.startswith("syscalls/") and field.size == 8:
            return register_leaf(field, Input(InputKind.FIELD, field.offset), text)
        return field_leaf(field, text)

    def _cast(self, arg: Arg, field: RecordField, leaf: Leaf) -> Leaf:
        if leaf.kind is not LeafKind.POINTER and not (leaf.kind is LeafKind.NUMBER and leaf.size == 8):
            raise ResolveError(f"{leaf.text} is no address", "leave `resolve` and btfType out")
        return resolve_cast(arg, leaf.read, Memory.KERNEL, leaf.text, self.facts, structure_name(field) or "")

    def _length(self, arg: Arg) -> Read | None:
        if arg.size_arg is None:
            return None
        field = self._field(arg.size_arg)
        check_place(field)
        leaf = field_leaf(field, field.text)
        if leaf.kind is not LeafKind.NUMBER:
            raise ResolveError(
                f"field {arg.size_arg} of {self.name} ({field.text}) is no length", "name a field that is one"
            )
        return Read(Input(InputKind.FIELD, field.offset, field.size))

    def _field(self, index: int) -> RecordField:
        if index < len(self.fields):
            return self.fields[index]
        last = len(self.fields) - 1
        names = ", ".join(f"{n} {field.name}" for n, field in enumerate(self.fields) if n > 3)
        raise ResolveError(f"{self.name} has no field {index}, the last is {last}", f"it has {names}")

    def _call(self) -> Call | None:
        """The system call whose entry this is."""
        call = parse_call(self.name.removeprefix(_ENTER)) if self.name.startswith(_ENTER) else None
        names = [field.name for field in self.fields]
        if call is None or _NUMBER_FIELD not in names:
            return None
        first = names.index(_NUMBER_FIELD) + 1
        # Later kernels add copies of texts (`__data_loc`), which programs do not see.
        fields = tuple(field for field in self.fields[first:] if not field.is_dynamic)
        return Call(call, fields, lambda index: Input(InputKind.FIELD, fields[index].offset), first)


@dataclass(frozen=True, slots=True)
class _Function:
    """A raw tracepoint's function."""

    event: str
    found: RawTracepoint
    facts: Facts

    def resolve(self, arg: Arg) -> _Resolved:
        """Raises ResolveError and FactsError."""
        _refuse_return(arg)
        check_cast(arg)
        place = self._place(arg.index)
        types: Types = self.found.types
        if arg.btf_type:
            leaf = resolve_cast(arg, place.read, Memory.KERNEL, place.text, self.facts)
        else:
            leaf = leaf_at(types, walk(types, place, arg.resolve))
        return resolve_value(arg, leaf, self._length(arg))

    def _length(self, arg: Arg) -> Read | None:
        if arg.size_arg is None:
            return None
        leaf = leaf_at(self.found.types, self._place(arg.size_arg))
        if leaf.kind is not LeafKind.NUMBER:
            raise ResolveError(f"{leaf.text} is no length", "name an argument that is one")
        return leaf.read

    def _place(self, index: int) -> Place:
        parameters = self.found.parameters[:MAX_RAW_ARGS]
        if index >= len(parameters):
            names = ", ".join(f"{n} {each.name}" for n, each in enumerate(parameters))
            advice = f"it has {names}" if names else "leave `args` out"
            raise ResolveError(f"{self.event} has no argument {index}", advice)
        parameter = parameters[index]
        text = f"argument {index} of {self.event}" + (f", {parameter.name}" if parameter.name else "")
        return Place(parameter.type_id, Read(Input(InputKind.ARGUMENT, index)), text)
