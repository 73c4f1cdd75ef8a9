# SPDX-License-Identifier: Apache-2.0
"""Values as C: expressions for the numbers that a program has at hand, statements that read what is in memory."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.access import MAX_TEXT, Input, InputKind, Memory, Read, Value
from agent.policy.model import ArgType
from agent.policy.plan import BPF_COMMAND, Chunk, can_fault, input_place, is_stored_number

_CASTS = {1: "8", 2: "16", 4: "32"}
# Readers of kernel structures: long f(struct pg_string *out, __u64 address).
_READERS = {
    ArgType.FILE: "pg_read_file",
    ArgType.PATH: "pg_read_path_struct",
    ArgType.DENTRY: "pg_read_dentry",
    ArgType.KIOCB: "pg_read_kiocb",
    ArgType.FILENAME: "pg_read_filename",
    ArgType.LINUX_BINPRM: "pg_read_binprm",
    ArgType.IOV_ITER: "pg_read_iov_iter",
    ArgType.SOCK: "pg_read_sock",
    ArgType.SOCKET: "pg_read_socket",
    ArgType.SKB: "pg_read_skb",
    ArgType.NET_DEVICE: "pg_read_net_device",
    ArgType.CRED: "pg_read_cred",
    ArgType.USER_NAMESPACE: "pg_read_user_namespace",
    ArgType.BPF_MAP: "pg_read_bpf_map",
    ArgType.BPF_PROG: "pg_read_bpf_prog",
    ArgType.PERF_EVENT: "pg_read_perf_event",
    ArgType.LOAD_INFO: "pg_read_load_info",
    ArgType.MODULE: "pg_read_module",
}
# Readers of buffers, by whose memory it is: long f(struct pg_string *out, __u64 address, __u64 length).
_BUFFERS = {
    ArgType.CHAR_BUF: "pg_read_{}_bytes",
    ArgType.CONST_BUF: "pg_read_{}_bytes",
    ArgType.CHAR_IOVEC: "pg_read_{}_iovec",
    ArgType.SOCKADDR: "pg_read_{}_sockaddr",
    ArgType.SOCKADDR_UN: "pg_read_{}_sockaddr_un",
    ArgType.BPF_ATTR: "pg_read_{}_bpf_attr",
}
# What stands right behind the text of a type: bpf/lib/buffers.h.
_FACTS = {
    ArgType.BPF_ATTR: "sizeof(struct pg_bpf_facts)",
    ArgType.BPF_MAP: "sizeof(struct pg_bpf_facts)",
    ArgType.BPF_PROG: "sizeof(struct pg_bpf_facts)",
    ArgType.PERF_EVENT: "sizeof(struct pg_perf_facts)",
    ArgType.MODULE: "sizeof(struct pg_module_facts)",
    ArgType.LOAD_INFO: "sizeof(struct pg_module_facts)",
}
_WHOLE_SOCKADDR = 128  # sizeof(struct sockaddr_storage), include/uapi/linux/socket.h


def cast(text: str, size: int, signed: bool) -> str:
    """`size` bytes of a 64-bit expression, extended."""
    sign = "s" if signed else "u"
    return f"(__{sign}64)(__{sign}{_CASTS[size]}){text}" if size in _CASTS else f"(__{sign}64){text}"


def raw(chunk: Chunk, read: Read) -> str:
    """Where a read begins, extended to 64 bits."""
    if read.index is None:
        return _input(chunk, read.input)
    return f"({_input(chunk, read.input)} + {_input(chunk, read.index)} * {read.scale})"


def _input(chunk: Chunk, wanted: Input) -> str:
    if wanted.kind is InputKind.CONSTANT:
        return constant(wanted.number, signed=wanted.number < 0)
    if wanted.kind is InputKind.RETURN:
        return cast("call->ret", wanted.size, wanted.signed)
    return cast(f"call->in[{input_place(chunk, wanted)}]", wanted.size, wanted.signed)


def constant(value: int, *, signed: bool) -> str:
    """A C constant; the smallest signed one cannot be written as the negation of a positive one."""
    if not signed:
        return f"{value}ULL"
    return "(-9223372036854775807LL - 1)" if value == -(1 << 63) else f"{value}LL"


def number(chunk: Chunk, value: Value) -> str:
    """The expression of a number, which was read when it has to be."""
    sign = "s" if value.type.signed else "u"
    if is_stored_number(value):
        text = f"(__{sign}64)call->number[{chunk.numbers[value]}]"
    else:
        text = f"(__{sign}64)({_direct(chunk, value.read)})"
    return f"pg_syscall_of({text})" if value.type is ArgType.SYSCALL64 else text


def _direct(chunk: Chunk, read: Read) -> str:
    text = raw(chunk, read)
    return f"{text} + ({constant(read.offsets[0], signed=True)})" if read.offsets else text


def follow(chunk: Chunk, read: Read, variable: str) -> Iterator[str]:
    """Statements that leave the read's number in `variable` and 0 or an errno in `error`."""
    yield f"{variable} = {raw(chunk, read)};"
    yield "error = 0;"
    if not read.offsets:
        return
    user = int(read.memory is Memory.USER)
    *inner, last = (constant(offset, signed=True) for offset in read.offsets)
    for offset in inner:
        yield f"error = error ?: pg_load(&{variable}, {variable} + {offset}, 8, 0, {user});"
    if read.in_place:
        yield f"{variable} += {last};"
        return
    size, signed = (read.size, int(read.signed)) if not read.bit_size else (read.size, 0)
    yield f"error = error ?: pg_load(&{variable}, {variable} + {last}, {size}, {signed}, {user});"
    if read.bit_size:
        yield from _bit_field(read, variable)


def _bit_field(read: Read, variable: str) -> Iterator[str]:
    top = 64 - read.bit_offset - read.bit_size
    shifted = f"({variable} << {top})"
    if read.signed:
        yield f"{variable} = (__u64)((__s64){shifted} >> {64 - read.bit_size});"
    else:
        yield f"{variable} = {shifted} >> {64 - read.bit_size};"


def read_value(chunk: Chunk, value: Value, waits: str) -> Iterator[str]:
    """Statements that read a value from memory into its place.

    waits: a C condition under which the call is checked once more later, so that an unreadable text is not counted.
    What is left in `later` is whether the call has to wait.
    """
    if value.type.is_number:
        yield from _read_number(chunk, value, waits)
    else:
        yield from _read_text(chunk, value, waits)


def _read_number(chunk: Chunk, value: Value, waits: str) -> Iterator[str]:
    place = chunk.numbers[value]
    yield from follow(chunk, value.read, "n")
    yield f"pg_keep_number(call, {place}, n, error);"
    if can_fault(value):
        yield f"later |= pg_unreadable(error, {raw(chunk, value.read)}, {waits});"


def _read_text(chunk: Chunk, value: Value, waits: str) -> Iterator[str]:
    slot = chunk.texts[value]
    yield from follow(chunk, value.read, "n")
    if value.length:
        yield from follow_length(chunk, value.length)
    yield "if (error)"
    yield f"\tpg_unknown(s{slot});"
    yield "else"
    yield f"\terror = {_reader(chunk, value, f's{slot}')};"
    if value.is_large:
        yield f"pg_note_source(s{slot}, n, size);"
    yield f"pg_fill(call, {slot});"
    if can_fault(value):
        yield f"later |= pg_unreadable(error, n, {waits});"


def follow_length(chunk: Chunk, length: Read) -> Iterator[str]:
    """The length in `size`; one that cannot be read is an error of the whole value."""
    if length.is_direct:
        yield f"size = {_direct(chunk, length)};"
        if length.input.signed:
            yield "if ((__s64)size < 0)"
            yield "\tsize = 0;"
        return
    yield "before = error;"
    yield from follow(chunk, length, "size")
    yield "error = error ?: before;"


def report_text(chunk: Chunk, value: Value, identity: int) -> Iterator[str]:
    """Statements that put a text that was read into the record. identity: the value's id."""
    slot = chunk.texts[value]
    yield f"pg_item_text(event, {identity}, s{slot}, {_facts_size(value)});"
    if value.is_large:
        yield f"pg_item_rest(event, {identity}, s{slot}, {int(value.memory is Memory.USER)});"


def _facts_size(value: Value) -> str:
    """The bytes of facts behind a text, in C."""
    return _FACTS.get(value.type, "0")


def _reader(chunk: Chunk, value: Value, slot: str) -> str:
    if value.type in _READERS:
        return f"{_READERS[value.type]}({slot}, n)"
    if value.type is ArgType.FD:
        return f"(pg_read_fd_path({slot}, (__s32)n), 0)"
    whose = value.memory.value
    if value.exec_path:
        return f"when == PG_AT_EXEC ? pg_read_exec_string({slot}) : pg_read_user_string({slot}, n)"
    if value.type is ArgType.BPF_ATTR and value.length and BPF_COMMAND in chunk.inputs:
        command = f"(__u32)call->in[{input_place(chunk, BPF_COMMAND)}]"
        return f"pg_read_{whose}_bpf_attr_of({slot}, n, size, {command})"
    if value.is_string:
        return f"pg_read_{whose}_array({slot}, n, {min(value.limit, MAX_TEXT)})"
    if value.type in _BUFFERS:
        length = "size" if value.length else str(_WHOLE_SOCKADDR)
        return f"{_BUFFERS[value.type].format(whose)}({slot}, n, {length})"
    if value.type is ArgType.DATA_LOC and value.length:
        return f"pg_read_{whose}_bytes({slot}, n, size)"
    return f"pg_read_{whose}_string({slot}, n)"


def load_input(wanted: Input, context: str) -> str:
    """The C expression of an input in a program's context: `tracepoint`; `raw`, words one after the other; `registers`
    of a process, or `kprobe`, of the kernel; `function`, of its trampoline.
    """
    if wanted.kind is InputKind.TASK:
        return "bpf_get_current_task()"
    if wanted.kind is InputKind.ARGUMENT:
        return _argument(wanted.number, context)
    if wanted.kind is InputKind.REGISTER:
        if context == "registers":
            return cast(f"pg_context_u64(ctx, {wanted.number})", wanted.size, wanted.signed)
        return cast(f"pg_user_register({wanted.number})", wanted.size, wanted.signed)
    return _record_input(wanted)


_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")  # System V ABI for x86_64, 3.2.3
SYSCALL_REGISTERS = ("di", "si", "dx", "r10", "r8", "r9")  # of a process's call: the same, A.2.1


def _argument(number_: int, context: str) -> str:
    if context in ("registers", "kprobe"):
        return f"ctx->{_REGISTERS[number_]}"
    if context == "function":
        return f"pg_argument(ctx, {number_})"
    return f"ctx->args[{number_}]"


def _record_input(wanted: Input) -> str:
    if wanted.kind is InputKind.FIELD:
        kind = f"__{'s' if wanted.signed else 'u'}{8 * wanted.size}"
        return f"(__u64)*(const {kind} *)((const char *)ctx + {wanted.number})"
    if wanted.kind is InputKind.RECORD:
        return f"(__u64)ctx + {wanted.number}"
    location = f"*(const __u32 *)((const char *)ctx + {wanted.number})"
    if wanted.kind is InputKind.DATA_LOC_SIZE:
        return f"{location} >> 16"
    return f"(__u64)ctx + ({location} & 0xffff)"
