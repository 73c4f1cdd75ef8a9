# SPDX-License-Identifier: Apache-2.0
"""How the values that a hook names are read, in words: by their types, and on a node by what `resolve` found."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.access import MAX_DATA, MAX_TEXT, Memory, PointHook, Read, Value
from agent.policy.explain_selectors import describe_arg
from agent.policy.explain_words import count
from agent.policy.model import Arg, ArgType, Hook, HookKind
from agent.policy.resolve_types import STRUCTS

_WHOSE = {Memory.KERNEL: "the kernel's", Memory.USER: "the process's", Memory.ANY: "the kernel's or the process's"}
_CONNECTIONS = frozenset({ArgType.SOCK, ArgType.SOCKET, ArgType.SKB})
_FROM_PROCESS = frozenset({HookKind.SYSCALL, HookKind.UPROBE, HookKind.USDT})
_MEANINGS = {
    ArgType.AUTO: "of the type that the node has for it",
    ArgType.NOP: "is not read",
    ArgType.STRING: "text up to its NUL",
    ArgType.CONST_BUF: "all bytes of an array",
    ArgType.CHAR_IOVEC: "the bytes of a list of buffers",
    ArgType.DATA_LOC: "text in the tracepoint's record",
    ArgType.FD: "a descriptor: its number, and the path of the open file as the process sees it",
    ArgType.FILENAME: "the path that the kernel copied from the process",
    ArgType.SOCKADDR: "an address: family, and of IPv4 and IPv6 host and port",
    ArgType.SOCKADDR_UN: "the path or name of a unix socket",
    ArgType.SYSCALL64: "the number of a system call, and its name",
}


def describe_values(hook: Hook, found: PointHook | None) -> tuple[str, ...]:
    """One entry for each of `args`, `data` and the return value. found: the hook at one of its places on this node."""
    return tuple(_lines(hook, found))


def _lines(hook: Hook, found: PointHook | None) -> Iterator[str]:
    for declared, resolved in ((hook.args, found.args if found else ()), (hook.data, found.data if found else ())):
        here = dict(enumerate(resolved))
        for place, arg in enumerate(declared):
            yield _line(describe_arg(arg, hook.kind), arg, here.get(place, (arg, None))[1], hook)
    if hook.returns and hook.return_arg:
        value = found.return_value if found else None
        yield _line(f"what is returned ({hook.return_arg.type.value})", hook.return_arg, value, hook)


def _line(name: str, arg: Arg, value: Value | None, hook: Hook) -> str:
    kind = value.type if value else arg.type
    parts = [_meaning(kind, arg, hook)]
    if kind is not arg.type:
        parts.append(f"here of type {kind.value}")
    if arg.return_copy:
        parts.append("read at the return")
    if value:
        parts.append(_way(value))
    return f"{name}: {'; '.join(parts)}"


def _meaning(kind: ArgType, arg: Arg, hook: Hook) -> str:
    if kind is ArgType.CHAR_BUF:
        return _buffer(arg)
    if kind.is_capability_set:
        return "a set of capabilities"
    if kind.is_number and kind is not ArgType.SYSCALL64:
        return f"a number of {kind.bits} bits, {'signed' if kind.signed else 'unsigned'}"
    if kind in _CONNECTIONS:
        return "a connection: family, protocol, state, addresses and ports"
    if kind.is_path:
        return _MEANINGS.get(kind, "the path of a file as the process sees it, and what kind of file it is")
    if kind is ArgType.STRING:
        owner = " in the process's memory" if hook.kind in _FROM_PROCESS and not arg.resolve else ""
        return f"{_MEANINGS[kind]}{owner}, at most {MAX_TEXT:,} bytes"
    return _MEANINGS.get(kind, f"the kernel's {STRUCTS[kind][0]}" if kind in STRUCTS else kind.value)


def _buffer(arg: Arg) -> str:
    length = "" if arg.size_arg is None else f", as many as argument {arg.size_arg} says"
    return f"bytes{length}, at most {MAX_DATA if arg.max_data else MAX_TEXT:,}"


def _way(value: Value) -> str:
    """Where it comes from on this node."""
    reads = [value.read, *([value.length] if value.length else [])]
    steps = sum(map(_steps, reads))
    if not steps and value.type.is_number:
        return "here without reading memory"
    memories = {read.memory for read in reads if _steps(read)} | ({value.memory} if not value.type.is_number else set())
    whose = " and ".join(_WHOSE[memory] for memory in sorted(memories, key=lambda memory: memory.value))
    followed = f"here {count(steps, 'step')} through" if steps else "here in"
    return f"{followed} {whose} memory"


def _steps(read: Read) -> int:
    """How many times memory is read to get there."""
    return 0 if read.is_direct else len(read.offsets) - read.in_place
