# SPDX-License-Identifier: Apache-2.0
"""Hooks on kernel functions and LSM hooks: where they are attached, and their arguments, by BTF where it has them.

Arguments are counted from 0 as in the function's definition. The first six words are in registers (System V ABI for
x86-64): an integer or an address takes one, a structure by value of up to 16 bytes one or two, a larger one none.
Without BTF an argument is a register, and what is in it the policy's to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointHook, PointKind, Read, Value
from agent.policy.errors import Problems, quote
from agent.policy.facts import Facts, FactsError, KernelFunction, NoFunctionError, Prototype, Shape, Types
from agent.policy.function_points import (
    LSM_FUNCTION,
    MAX_ARGUMENTS,
    NEVER_RETURN,
    OverrideError,
    choose_point,
    override_of,
)
from agent.policy.leaf import Leaf, LeafKind, narrow
from agent.policy.model import Arg, ArgType, Hook, HookKind
from agent.policy.resolve_btf import MAX_DEPTH, Place, leaf_at, spell, walk
from agent.policy.resolve_data import check_cast, resolve_cast, resolve_data
from agent.policy.resolve_faults import ResolveError, resolve_each
from agent.policy.resolve_types import resolve_value
from agent.policy.sockets import SOCKETS

_INT = 4
_WORD = 8
_IN_REGISTERS = 16  # bytes of a structure by value; larger ones are on the stack
# The functions that are given a command of bpf(2), its attributes and their size, as the call itself: which argument is
# the size of which. Other functions have the attributes of programs.
_ATTR_LENGTHS = {("security_bpf", 1): 2, ("bpf_lsm_bpf", 1): 2}
_COMPOSITES = frozenset({Shape.STRUCT, Shape.UNION})
_TEXTS = frozenset({ArgType.STRING, ArgType.CHAR_BUF})

_Resolved = tuple[Arg, Value | None]


def resolve_functions(
    hook: Hook, number: int, facts: Facts, problems: Problems, method: str = ""
) -> tuple[PointHook, ...]:
    """One for each function of a KPROBE, FENTRY or LSM hook that this kernel has; with `ignore_missing` that may be
    none. method: the policy's option `override-method`, "" without.
    """
    names = facts.functions_like(hook.call_pattern) if hook.call_pattern else hook.calls
    if hook.call_pattern and not names:
        what = f"this kernel has no function that can be hooked and matches {quote(hook.call_pattern)}"
        problems.report(hook.source, what, "correct the pattern")
    functions = [found for name in names if (found := _find(name, hook, facts, problems)) is not None]
    data = resolve_each(hook.data, lambda entry: resolve_data(entry, facts), hook, problems) if functions else ()
    return tuple(_resolve(hook, number + n, each, data, facts, problems, method) for n, each in enumerate(functions))


def _find(name: str, hook: Hook, facts: Facts, problems: Problems) -> KernelFunction | None:
    try:
        return facts.lsm_hook(name) if hook.kind is HookKind.LSM else facts.function(name)
    except FactsError as error:
        if not (isinstance(error, NoFunctionError) and hook.ignore_missing):
            problems.report(hook.source, error.what, error.advice)
        return None


def _resolve(
    hook: Hook,
    number: int,
    function: KernelFunction,
    data: tuple[_Resolved, ...],
    facts: Facts,
    problems: Problems,
    method: str,
) -> PointHook:
    point = _point(hook, function, facts, problems, method)
    arguments = _Arguments(function, hook, facts)
    args = resolve_each(hook.args, arguments.resolve, hook, problems)
    wanted = (hook.return_arg,) if hook.returns and hook.return_arg is not None else ()
    returned = resolve_each(wanted, arguments.resolve_return, hook, problems)
    return PointHook(point, number, hook, args, data, returned[0] if returned else None)


def _point(hook: Hook, function: KernelFunction, facts: Facts, problems: Problems, method: str) -> HookPoint:
    """With a fault that is reported any: it is not used."""
    if hook.returns and function.name in NEVER_RETURN:
        problems.report(hook.source, f"{quote(function.name)} never returns", "leave `return` and returnArg out")
    try:
        return choose_point(hook, function, facts, method)
    except (ResolveError, FactsError) as fault:
        override = override_of(hook) if isinstance(fault, OverrideError) else None
        source = (override.source if override else None) or hook.source
        problems.report(source, fault.what, fault.advice)
        return HookPoint(PointKind.KPROBE, function.name)


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Those of a function, and its result."""

    function: KernelFunction
    hook: Hook
    facts: Facts

    def resolve(self, arg: Arg) -> _Resolved:
        """Raises ResolveError and FactsError."""
        check_cast(arg)
        if arg.type is ArgType.NOP:
            return arg, None
        if arg.return_copy and not self.hook.returns:
            raise ResolveError("returnCopy without a return", "add `return: true` and `returnArg`")
        prototype = self.function.prototype
        if prototype is None:
            read = Read(Input(InputKind.ARGUMENT, self._register(arg.index)))
            leaf = _as_declared(arg, self._bare(arg, read, f"argument {arg.index}"))
        else:
            leaf = self._typed(arg, prototype.types, self._place(prototype, arg.index))
        return resolve_value(arg, leaf, self._length(arg))

    def resolve_return(self, arg: Arg) -> Value | None:
        """What the function returns. Raises ResolveError and FactsError."""
        check_cast(arg)
        read, prototype = Read(Input(InputKind.RETURN)), self.function.prototype
        if prototype is None:
            leaf = self._bare(arg, read, "the returned value")
        elif prototype.types.describe(prototype.result).shape is Shape.VOID:
            raise ResolveError(f"{quote(self._name)} returns nothing", "leave `return` and returnArg out")
        else:
            place = Place(prototype.result, read, f"what {self._name} returns")
            leaf = self._typed(arg, prototype.types, place)
        arg, value = resolve_value(arg, leaf)
        action = self.hook.return_arg_action
        if action is not None and arg.type not in SOCKETS:
            what = f"returnArgAction {action.value} needs a socket, and {leaf.text} is read as type {arg.type.value}"
            raise ResolveError(what, "leave it out")
        return None if value is None else replace(value, at_return=True)

    @property
    def _name(self) -> str:
        """As policies have it."""
        name = self.function.name
        return name.removeprefix(LSM_FUNCTION) if self.hook.kind is HookKind.LSM else name

    def _typed(self, arg: Arg, types: Types, place: Place) -> Leaf:
        if arg.btf_type:
            return resolve_cast(arg, place.read, Memory.KERNEL, place.text, self.facts)
        if not arg.resolve:
            place = replace(place, type_id=_unwrapped(types, place.type_id))
        return _as_declared(arg, leaf_at(types, walk(types, place, arg.resolve)))

    def _bare(self, arg: Arg, read: Read, text: str) -> Leaf:
        """A register of which BTF says nothing."""
        text = f"{text} of {self._name}"
        if arg.btf_type:
            return resolve_cast(arg, read, Memory.KERNEL, text, self.facts)
        if arg.resolve or arg.type is ArgType.AUTO:
            advice = "add btfType, the name of its structure" if arg.resolve else "add `type`"
            raise ResolveError(f"BTF does not have this function, so that nothing is known of {text}", advice)
        if arg.type is ArgType.FD or (arg.type.is_number and not arg.type.is_capability_set):
            size = 4 if arg.type is ArgType.FD else arg.type.bits // 8
            return Leaf(LeafKind.NUMBER, read, text, size)
        return Leaf(LeafKind.POINTER, read, text, is_void=True)

    def _length(self, arg: Arg) -> Read | None:
        size_arg = arg.size_arg
        if arg.type is ArgType.BPF_ATTR:
            size_arg = _ATTR_LENGTHS.get((self.function.name, arg.index))
        if size_arg is None:
            return None
        prototype = self.function.prototype
        if prototype is None:
            bits = (each.type.bits for each in self.hook.args if each.index == size_arg and each.type.is_number)
            read = Read(Input(InputKind.ARGUMENT, self._register(size_arg)))
            return narrow(read, min(bits, default=64) // 8, signed=False)
        leaf = leaf_at(prototype.types, self._place(prototype, size_arg))
        if leaf.kind is not LeafKind.NUMBER:
            raise ResolveError(f"{leaf.text} is no length", "name an argument that is one")
        return leaf.read

    def _place(self, prototype: Prototype, index: int) -> Place:
        parameters = [each for each in prototype.parameters if each.type_id]  # `...` is of type void
        if index >= len(parameters):
            names = ", ".join(f"{n} {each.name}" for n, each in enumerate(parameters))
            advice = f"it has {names}" if names else "leave `args` out"
            raise ResolveError(f"{self._name} has no argument {index}", advice)
        register = list(_registers(prototype))[index]
        if register is None:
            declared = spell(prototype.types, parameters[index].type_id)
            what = f"argument {index} of {self._name}, {declared} {parameters[index].name}, is on the stack"
            raise ResolveError(what, f"only those in the first {MAX_ARGUMENTS} registers can be read")
        text = f"argument {index} of {self._name}, {parameters[index].name}"
        return Place(parameters[index].type_id, Read(Input(InputKind.ARGUMENT, register)), text)

    def _register(self, index: int) -> int:
        if index >= MAX_ARGUMENTS:
            what = f"argument {index} of {self._name} is on the stack"
            raise ResolveError(what, f"only those in the first {MAX_ARGUMENTS} registers can be read")
        return index


def _registers(prototype: Prototype) -> Iterator[int | None]:
    """The register that each argument is in, or begins in; None: it is on the stack."""
    taken = 0
    for parameter in prototype.parameters:
        described = prototype.types.describe(parameter.type_id)
        words = max(1, -(-described.size // _WORD))
        on_stack = described.shape in _COMPOSITES and described.size > _IN_REGISTERS
        if on_stack or taken + words > MAX_ARGUMENTS:
            yield None
        else:
            yield taken
            taken += words


def _unwrapped(types: Types, type_id: int) -> int:
    """The number inside a structure that is made of nothing else, as kuid_t is: in a register it is the same."""
    for _ in range(MAX_DEPTH):
        described = types.describe(type_id)
        members = types.members(type_id) if described.shape is Shape.STRUCT and described.size <= _WORD else ()
        if len(members) != 1 or members[0].bits:
            break
        type_id = members[0].type_id
    return type_id


def _as_declared(arg: Arg, leaf: Leaf) -> Leaf:
    """A `size_t` or `long` in a register that the policy declares as int, as many do: its lower four bytes. A text that
    is an argument itself may be a process's.
    """
    is_text = arg.type in _TEXTS or (arg.type is ArgType.AUTO and leaf.is_char)
    if leaf.kind is LeafKind.POINTER and is_text and not arg.resolve and not arg.max_data:
        return replace(leaf, memory=Memory.ANY) if leaf.memory is Memory.KERNEL else leaf
    is_plain = arg.type.is_number and not arg.type.is_capability_set and arg.type.bits == 8 * _INT
    is_word = leaf.kind is LeafKind.NUMBER and leaf.size == _WORD and not leaf.read.offsets
    return replace(leaf, size=_INT) if is_plain and is_word else leaf
