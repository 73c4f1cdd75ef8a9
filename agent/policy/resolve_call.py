# SPDX-License-Identifier: Apache-2.0
"""The arguments of system calls, of a hook on the call as of its tracepoint: what they are, and how long.

A buffer's length is another argument: the one that the policy names, or the one that the call's own definition says.
How many of its bits count is what the C type says, for the rest of the register is the caller's to fill with anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.policy.access import Input, InputKind, Memory, Read, Value
from agent.policy.facts import Facts, RecordField
from agent.policy.leaf import Leaf
from agent.policy.model import Arg, ArgType, Hook
from agent.policy.resolve_data import check_cast, resolve_cast
from agent.policy.resolve_faults import ResolveError
from agent.policy.resolve_fields import register_leaf, register_width, structure_name
from agent.policy.resolve_types import resolve_value

# Which argument says the length of another: bytes of a sockaddr and of a bpf_attr, elements of an iovec.
LENGTHS: dict[tuple[str, int], int] = {
    ("accept", 1): 2,
    ("accept4", 1): 2,
    ("bind", 1): 2,
    ("bpf", 1): 2,
    ("connect", 1): 2,
    ("getpeername", 1): 2,
    ("getsockname", 1): 2,
    ("preadv", 1): 2,
    ("preadv2", 1): 2,
    ("process_madvise", 1): 2,
    ("process_vm_readv", 1): 2,
    ("process_vm_readv", 3): 4,
    ("process_vm_writev", 1): 2,
    ("process_vm_writev", 3): 4,
    ("pwritev", 1): 2,
    ("pwritev2", 1): 2,
    ("readv", 1): 2,
    ("recvfrom", 4): 5,
    ("sendto", 4): 5,
    ("vmsplice", 1): 2,
    ("writev", 1): 2,
}
_LENGTH_TYPES = frozenset({ArgType.SOCKADDR, ArgType.SOCKADDR_UN, ArgType.BPF_ATTR, ArgType.CHAR_IOVEC})
# The kernel keeps 32 bits of the number of elements (`nr_segs` of import_iovec), except of the other process's.
_WIDE_COUNTS = frozenset({("process_vm_readv", 3), ("process_vm_writev", 3)})
# Addresses that the call itself writes, so that there is nothing in them before it returns.
FILLED = frozenset({("accept", 1), ("accept4", 1), ("getpeername", 1), ("getsockname", 1), ("recvfrom", 4)})
# Calls that return how many bytes of their buffer they have filled.
_RETURNING = """
    fgetxattr flistxattr getcwd getdents getdents64 getrandom getxattr lgetxattr listxattr llistxattr
    mq_timedreceive pread64 read readlink readlinkat recvfrom sched_getaffinity syslog
"""
EXEC_PATHS = {"execve": 0, "execveat": 1}


@dataclass(frozen=True, slots=True)
class Call:
    """A system call. source: how a program gets at its n-th argument. first: the number by which a policy calls the
    argument 0. returns: whether there is a return at which values can be read.
    """

    name: str
    fields: tuple[RecordField, ...]
    source: Callable[[int], Input]
    first: int = 0
    returns: bool = False


def resolve_argument(arg: Arg, call: Call, hook: Hook, facts: Facts) -> tuple[Arg, Value | None]:
    """Raises ResolveError and FactsError."""
    index = _place(call, arg.index)
    check_cast(arg)
    if arg.type is ArgType.SYSCALL64:
        raise ResolveError(
            "syscall64 is the number of a call, which is no argument", "use the tracepoint raw_syscalls/sys_enter"
        )
    if arg.return_copy and not call.returns:
        raise ResolveError("returnCopy without a return", "add `return: true` and `returnArg`")
    field = call.fields[index]
    text = f"argument {arg.index} of {call.name} ({field.text})"
    leaf = register_leaf(field, call.source(index), text)
    if arg.resolve or arg.btf_type:
        structure = structure_name(field) or ""
        leaf = resolve_cast(arg, leaf.read, Memory.USER, text, facts, structure)
        return resolve_value(arg, leaf, _declared_length(arg, call, hook))
    return _resolve_plain(arg, index, leaf, call, hook)


def _resolve_plain(arg: Arg, index: int, leaf: Leaf, call: Call, hook: Hook) -> tuple[Arg, Value | None]:
    arg, value = resolve_value(arg, leaf, _length(arg, index, call, hook))
    if value is None:
        return arg, None
    if value.type in _LENGTH_TYPES and not arg.return_copy and (call.name, index) in FILLED:
        advice = "add `returnCopy: true`, `return: true` and `returnArg`"
        raise ResolveError(
            f"{leaf.text} is written by the call", f"hook the system call and {advice}" if call.first else advice
        )
    is_path = value.type is ArgType.STRING and EXEC_PATHS.get(call.name) == index and not arg.return_copy
    return arg, replace(value, exec_path=is_path)


def _length(arg: Arg, index: int, call: Call, hook: Hook) -> Read | None:
    if arg.return_copy and arg.type is ArgType.CHAR_BUF and call.name in _RETURNING.split():
        return Read(Input(InputKind.RETURN, size=8, signed=True))
    declared = _declared_length(arg, call, hook)
    known = LENGTHS.get((call.name, index))
    if declared is not None or known is None or arg.type not in (*_LENGTH_TYPES, ArgType.AUTO):
        return declared
    return _read_length(call, known, _count_size(arg, call, index))


def _declared_length(arg: Arg, call: Call, hook: Hook) -> Read | None:
    """What sizeArgIndex names. An argument that the policy itself declares as 32 bits has no more."""
    if arg.size_arg is None:
        return None
    bits = min((each.type.bits for each in hook.args if each.index == arg.size_arg and each.type.is_number), default=64)
    size = min(bits // 8, _count_size(arg, call, arg.index - call.first))
    return _read_length(call, _place(call, arg.size_arg), size)


def _count_size(arg: Arg, call: Call, index: int) -> int:
    narrow = arg.type is ArgType.CHAR_IOVEC and (call.name, index) not in _WIDE_COUNTS
    return 4 if narrow else 8


def _read_length(call: Call, place: int, size: int) -> Read:
    field = call.fields[place]
    source = call.source(place)
    if field.is_pointer:
        # `int *optlen`: the process's room before the call, what was filled of it afterwards.
        return Read(source, offsets=(0,), memory=Memory.USER, size=4)
    return Read(replace(source, size=min(size, register_width(field)[0])))


def _place(call: Call, index: int) -> int:
    place = index - call.first
    if 0 <= place < len(call.fields):
        return place
    count = len(call.fields)
    if not count:
        raise ResolveError(f"{call.name} has no arguments", "leave `args` out")
    names = ", ".join(f"{call.first + n} {field.name}" for n, field in enumerate(call.fields))
    raise ResolveError(f"{call.name} has no argument {index}", f"it has {names}")
