# SPDX-License-Identifier: Apache-2.0
"""Which argument type can be read from which C value, and how.

A number must be as wide as the integer it is read from; its sign is the policy's to choose. A register (a system
call's argument) has no width of its own: what the call makes of it is the policy's to know. Texts are read from what
points to bytes or is made of them, structures from their address or a pointer to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.policy.access import MAX_DATA, MAX_TEXT, Input, InputKind, Memory, Read, Value
from agent.policy.leaf import Leaf, LeafKind, follow, narrow
from agent.policy.model import Arg, ArgType
from agent.policy.resolve_faults import ResolveError

# The structures that a type is read from. What `auto` becomes is the first type that has the name.
STRUCTS: dict[ArgType, tuple[str, ...]] = {
    ArgType.FILE: ("file",),
    ArgType.PATH: ("path",),
    ArgType.DENTRY: ("dentry",),
    ArgType.FILENAME: ("filename",),
    ArgType.KIOCB: ("kiocb",),
    ArgType.IOV_ITER: ("iov_iter",),
    ArgType.LINUX_BINPRM: ("linux_binprm",),
    ArgType.SOCK: ("sock",),
    ArgType.SOCKET: ("socket",),
    ArgType.SKB: ("sk_buff",),
    ArgType.SOCKADDR: ("sockaddr", "sockaddr_in", "sockaddr_in6", "sockaddr_storage", "__kernel_sockaddr_storage"),
    ArgType.SOCKADDR_UN: ("sockaddr_un", "sockaddr", "sockaddr_storage", "__kernel_sockaddr_storage"),
    ArgType.NET_DEVICE: ("net_device",),
    ArgType.CRED: ("cred",),
    ArgType.USER_NAMESPACE: ("user_namespace",),
    ArgType.BPF_ATTR: ("bpf_attr",),
    ArgType.BPF_MAP: ("bpf_map",),
    ArgType.BPF_PROG: ("bpf_prog",),
    ArgType.PERF_EVENT: ("perf_event",),
    ArgType.LOAD_INFO: ("load_info",),
    ArgType.MODULE: ("module",),
}
# The structures that a process has in its own memory and gives to system calls.
USER_STRUCTS = frozenset({ArgType.SOCKADDR, ArgType.SOCKADDR_UN, ArgType.BPF_ATTR})
_CAPABILITIES = ("kernel_cap_t", "kernel_cap_struct")
_SIZED = frozenset({ArgType.CHAR_BUF, ArgType.CHAR_IOVEC, ArgType.SOCKADDR, ArgType.SOCKADDR_UN, ArgType.BPF_ATTR})
_COPIED = _SIZED | {ArgType.STRING, ArgType.CONST_BUF}
_INTEGERS = {
    (1, True): ArgType.INT8,
    (1, False): ArgType.UINT8,
    (2, True): ArgType.INT16,
    (2, False): ArgType.UINT16,
    (4, True): ArgType.INT32,
    (4, False): ArgType.UINT32,
    (8, True): ArgType.INT64,
    (8, False): ArgType.UINT64,
}
_DESCRIPTORS = "use type: fd for a descriptor, type: string for a path"
_INSTEAD = {
    ArgType.FILE: _DESCRIPTORS,
    ArgType.PATH: _DESCRIPTORS,
    ArgType.DENTRY: _DESCRIPTORS,
    ArgType.FILENAME: "use type: string, which is the text that the process gives",
    ArgType.SOCK: "use type: fd for the descriptor, type: sockaddr for an address",
    ArgType.SOCKET: "use type: fd for the descriptor, type: sockaddr for an address",
    ArgType.CONST_BUF: "use type: char_buf with sizeArgIndex",
    ArgType.IOV_ITER: "use type: char_iovec with sizeArgIndex",
    ArgType.DATA_LOC: "use type: string",
}
_ONLY_KERNEL = "hook a tracepoint with `raw: true` that has one"


def resolve_value(arg: Arg, leaf: Leaf, length: Read | None = None) -> tuple[Arg, Value | None]:
    """The argument with its type (an `auto` is decided) and its value, None of a `nop`.

    length: of a buffer in bytes, of an iovec in elements. Raises ResolveError.
    """
    if arg.type is ArgType.NOP:
        return arg, None
    if arg.type is ArgType.AUTO:
        arg = replace(arg, type=infer(leaf))
    _check_options(arg)
    value = _fit(arg, leaf, length)
    return arg, replace(value, at_return=True) if arg.return_copy else value


def infer(leaf: Leaf) -> ArgType:
    """The type that the C type stands for. Raises ResolveError when there is none."""
    if leaf.is_char:
        return ArgType.STRING
    if leaf.kind is LeafKind.ARRAY:
        return ArgType.CONST_BUF
    if leaf.memory is Memory.KERNEL and any(name in _CAPABILITIES for name in leaf.names):
        return ArgType.KERNEL_CAP_T
    for kind, names in STRUCTS.items():
        if any(name in names for name in leaf.names) and _is_within_reach(kind, leaf):
            return kind
    if leaf.kind is LeafKind.POINTER:
        return ArgType.UINT64
    if leaf.kind in (LeafKind.NUMBER, LeafKind.REGISTER):
        return _INTEGERS[leaf.size, leaf.signed]
    advice = "name a member with `resolve`, or use type: const_buf for its bytes"
    raise ResolveError(f"no type is known for {leaf.text}", advice if leaf.kind is LeafKind.STRUCT else "leave it out")


def _is_within_reach(kind: ArgType, leaf: Leaf) -> bool:
    return leaf.memory is Memory.KERNEL or kind in USER_STRUCTS


def _check_options(arg: Arg) -> None:
    if arg.max_data and arg.type is not ArgType.CHAR_BUF:
        raise ResolveError(f"maxData does not belong to type {arg.type.value}", "leave it out, or use type: char_buf")
    if arg.size_arg is not None and arg.type not in _SIZED:
        raise ResolveError(
            f"sizeArgIndex does not belong to type {arg.type.value}", "leave it out, or use type: char_buf"
        )
    if arg.return_copy and arg.type not in _COPIED and not arg.resolve:
        raise ResolveError(
            f"returnCopy does not belong to type {arg.type.value}, which a call does not fill", "leave it out"
        )


def _fit(arg: Arg, leaf: Leaf, length: Read | None) -> Value:
    if arg.type.is_capability_set:
        return _capabilities(arg.type, leaf)
    if arg.type.is_number:
        return _number(arg.type, leaf)
    if arg.type in STRUCTS:
        return _structure(arg.type, leaf, length)
    return _READERS[arg.type](arg, leaf, length)


def _number(kind: ArgType, leaf: Leaf) -> Value:
    size, signed = kind.bits // 8, kind.signed
    if leaf.kind is LeafKind.REGISTER:
        return Value(kind, narrow(leaf.read, size, signed))
    if leaf.kind is LeafKind.NUMBER and leaf.read.bit_size and leaf.read.bit_size <= kind.bits:
        return Value(kind, replace(leaf.read, signed=signed))
    if leaf.kind is LeafKind.NUMBER and leaf.size == size:
        return Value(kind, narrow(leaf.read, size, signed))
    if leaf.kind is LeafKind.POINTER and leaf.number and leaf.element == size and leaf.read.offsets:
        return Value(kind, narrow(follow(leaf.read, leaf.memory), size, signed))
    if leaf.kind is LeafKind.POINTER and kind.bits == 64:
        return Value(kind, leaf.read)
    raise _mismatch(kind, leaf)


def _capabilities(kind: ArgType, leaf: Leaf) -> Value:
    """kernel_cap_t is a structure of 64 bits, whatever its members."""
    named = any(name in _CAPABILITIES for name in leaf.names)
    if leaf.kind is LeafKind.STRUCT and named and leaf.size == 8:
        return Value(kind, replace(leaf.read, in_place=False, size=8))
    if leaf.kind is LeafKind.POINTER and (named or leaf.is_void):
        return Value(kind, follow(leaf.read, leaf.memory))
    if leaf.kind is LeafKind.NUMBER and leaf.size == 8 and not leaf.read.bit_size:
        return Value(kind, leaf.read)
    raise _mismatch(kind, leaf)


def _structure(kind: ArgType, leaf: Leaf, length: Read | None) -> Value:
    if leaf.kind is LeafKind.REGISTER and kind not in USER_STRUCTS:
        raise _no_object(kind, leaf)
    named = any(name in STRUCTS[kind] for name in (*leaf.names, *leaf.begins))
    is_pointer = leaf.kind is LeafKind.REGISTER or (leaf.kind is LeafKind.POINTER and (named or leaf.is_void))
    if not is_pointer and not (leaf.kind is LeafKind.STRUCT and named):
        raise _mismatch(kind, leaf)
    if not _is_within_reach(kind, leaf):
        raise _no_object(kind, leaf)
    return Value(kind, leaf.read, leaf.memory, length)


def _string(arg: Arg, leaf: Leaf, _length: Read | None) -> Value:
    if leaf.kind is LeafKind.REGISTER or (leaf.kind is LeafKind.POINTER and leaf.is_bytes):
        return Value(ArgType.STRING, leaf.read, leaf.memory)
    if leaf.kind is not LeafKind.ARRAY or not leaf.is_bytes:
        raise _mismatch(arg.type, leaf)
    size = _array_size(leaf)
    if size is None:
        return Value(ArgType.STRING, leaf.read, leaf.memory)
    return Value(ArgType.CHAR_BUF, leaf.read, leaf.memory, size, is_string=True)


def _buffer(arg: Arg, leaf: Leaf, length: Read | None) -> Value:
    is_array = leaf.kind is LeafKind.ARRAY
    is_pointer = leaf.kind is LeafKind.REGISTER or (leaf.kind is LeafKind.POINTER and leaf.is_bytes)
    if not is_array and not is_pointer:
        raise _mismatch(arg.type, leaf)
    size = length or (_array_size(leaf) if is_array else None)
    if size is None:
        raise ResolveError(
            "a char_buf of unknown length",
            "add sizeArgIndex, the index of the argument with the length plus one, or use type: string",
        )
    return Value(ArgType.CHAR_BUF, leaf.read, leaf.memory, size, MAX_DATA if arg.max_data else MAX_TEXT)


def _constant_buffer(arg: Arg, leaf: Leaf, _length: Read | None) -> Value:
    if leaf.kind is LeafKind.REGISTER:
        raise _no_object(arg.type, leaf)
    size = _array_size(leaf) if leaf.kind in (LeafKind.ARRAY, LeafKind.STRUCT) else None
    if size is None:
        raise _mismatch(arg.type, leaf)
    return Value(ArgType.CONST_BUF, leaf.read, leaf.memory, size)


def _data_loc(arg: Arg, leaf: Leaf, _length: Read | None) -> Value:
    if leaf.kind is LeafKind.REGISTER:
        raise _no_object(arg.type, leaf)
    if leaf.length is None:
        raise _mismatch(arg.type, leaf)
    return Value(ArgType.CHAR_BUF, leaf.read, leaf.memory, leaf.length, is_string=leaf.is_char)


def _iovec(arg: Arg, leaf: Leaf, length: Read | None) -> Value:
    is_pointer = leaf.kind is LeafKind.POINTER and ("iovec" in leaf.names or leaf.is_void)
    if leaf.kind is not LeafKind.REGISTER and not is_pointer:
        raise _mismatch(arg.type, leaf)
    if length is None:
        raise ResolveError(
            "a char_iovec of unknown length",
            "add sizeArgIndex, the index of the argument with the number of elements plus one",
        )
    return Value(ArgType.CHAR_IOVEC, leaf.read, leaf.memory, length)


def _descriptor(arg: Arg, leaf: Leaf, _length: Read | None) -> Value:
    is_int = leaf.kind is LeafKind.NUMBER and leaf.size == 4 and not leaf.read.bit_size
    if leaf.kind is not LeafKind.REGISTER and not is_int:
        raise _mismatch(arg.type, leaf)
    return Value(ArgType.FD, narrow(leaf.read, 4, signed=True))


_READERS: dict[ArgType, Callable[[Arg, Leaf, Read | None], Value]] = {
    ArgType.STRING: _string,
    ArgType.CHAR_BUF: _buffer,
    ArgType.CONST_BUF: _constant_buffer,
    ArgType.DATA_LOC: _data_loc,
    ArgType.CHAR_IOVEC: _iovec,
    ArgType.FD: _descriptor,
}


def _array_size(leaf: Leaf) -> Read | None:
    """Of an array or a structure in bytes; None when nothing says it."""
    if leaf.length is not None or not leaf.size:
        return leaf.length
    return Read(Input(InputKind.CONSTANT, leaf.size))


def _mismatch(kind: ArgType, leaf: Leaf) -> ResolveError:
    try:
        advice = f"write type: {infer(leaf).value}"
    except ResolveError as fault:
        advice = fault.advice
    return ResolveError(f"{leaf.text} cannot be read as type {kind.value}", advice)


def _no_object(kind: ArgType, leaf: Leaf) -> ResolveError:
    what = f"type {kind.value} is an object of the kernel, and {leaf.text} is a process's own number or address"
    return ResolveError(what, _INSTEAD.get(kind, _ONLY_KERNEL))
