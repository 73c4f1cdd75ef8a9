# SPDX-License-Identifier: Apache-2.0
"""Values behind `resolve`: an argument's members, and the entries of `data`, which begin at the calling task or at its
registers.
"""

from __future__ import annotations

from dataclasses import replace

from agent.policy.access import Input, InputKind, Memory, Read, Value
from agent.policy.errors import quote
from agent.policy.facts import Facts
from agent.policy.fields import suggest
from agent.policy.leaf import Leaf, LeafKind
from agent.policy.model import Arg, DataSource
from agent.policy.registers import REGISTERS
from agent.policy.resolve_btf import Place, cast, leaf_at, named_type, walk
from agent.policy.resolve_faults import ResolveError
from agent.policy.resolve_types import resolve_value

TASK = "task_struct"


def resolve_cast(arg: Arg, read: Read, memory: Memory, text: str, facts: Facts, structure: str = "") -> Leaf:
    """Where `btfType` (or `structure`, what the kernel says) and `resolve` lead from an address. Raises ResolveError.

    text: what the address is, for people. memory: where it points.
    """
    name = arg.btf_type or structure
    if not name:
        raise ResolveError(
            f"{text} is of no structure that could be resolved", "add btfType, the name of its structure"
        )
    types = facts.types(arg.btf_module)
    return leaf_at(types, walk(types, cast(types, Place(0, read, text, memory), name), arg.resolve))


def check_cast(arg: Arg) -> None:
    """Refuses a module without a type."""
    if arg.btf_module and not arg.btf_type:
        raise ResolveError("btfTypeModule without btfType", "add btfType, the name of a structure of that module")


def resolve_data(entry: Arg, facts: Facts) -> tuple[Arg, Value | None]:
    """One entry of `data`. Raises ResolveError and FactsError."""
    check_cast(entry)
    if not entry.resolve:
        raise ResolveError("an entry of data without resolve", "say what to read, `mm.owner.pid` or `rdi`")
    leaf = _register(entry, facts) if entry.data_source is DataSource.PT_REGS else _task(entry, facts)
    return resolve_value(entry, leaf)


def _task(entry: Arg, facts: Facts) -> Leaf:
    types = facts.types(entry.btf_module)
    read = Read(Input(InputKind.TASK), offsets=(0,))
    start = Place(named_type(types, entry.btf_type or TASK), read, DataSource.CURRENT_TASK.value)
    return leaf_at(types, walk(types, start, entry.resolve))


def _register(entry: Arg, facts: Facts) -> Leaf:
    name, *path = entry.resolve
    register = REGISTERS.get(name)
    if register is None:
        advice = suggest(
            name, REGISTERS, "use a name of the 64-bit registers, rdi or rax, or of a part of one, edi or al"
        )
        raise ResolveError(f"no register {quote(name)}", advice)
    read = Read(register.input(register.size, signed=False))
    if path or entry.btf_type:
        if register.size != 8:
            raise ResolveError(f"{name} holds no address", "use the whole register")
        return resolve_cast(replace(entry, resolve=tuple(path)), read, Memory.USER, name, facts)
    kind = LeafKind.REGISTER if register.size == 8 else LeafKind.NUMBER
    return Leaf(kind, read, f"the register {name}", register.size, memory=Memory.USER)
