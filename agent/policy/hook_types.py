# SPDX-License-Identifier: Apache-2.0
"""Which types the arguments of a hook can have, by its kind alone.

A system call and a program's function are given numbers and addresses of the process's own memory: what is there is
never one of the kernel's objects, and must not be followed as if it were.
"""

from dataclasses import dataclass

from agent.policy.model import ArgType, HookKind

# Addresses of structures in the kernel's memory.
_OBJECTS = frozenset(
    {
        ArgType.FILE,
        ArgType.FILENAME,
        ArgType.PATH,
        ArgType.DENTRY,
        ArgType.KIOCB,
        ArgType.IOV_ITER,
        ArgType.LINUX_BINPRM,
        ArgType.SOCK,
        ArgType.SOCKET,
        ArgType.SKB,
        ArgType.NET_DEVICE,
        ArgType.CRED,
        ArgType.USER_NAMESPACE,
        ArgType.KERNEL_CAP_T,
        ArgType.CAP_INHERITABLE,
        ArgType.CAP_PERMITTED,
        ArgType.CAP_EFFECTIVE,
        ArgType.BPF_MAP,
        ArgType.BPF_PROG,
        ArgType.PERF_EVENT,
        ArgType.LOAD_INFO,
        ArgType.MODULE,
    }
)
_TRACEPOINT_ONLY = frozenset({ArgType.AUTO, ArgType.SYSCALL64, ArgType.DATA_LOC})
_ALL = frozenset(ArgType)
_OF_KERNEL = _ALL - _TRACEPOINT_ONLY
_OF_PROCESS = _OF_KERNEL - _OBJECTS
_OF_FUNCTION = _OF_KERNEL | {ArgType.AUTO}  # what it is, BTF says
_NUMBERS = frozenset(arg_type for arg_type in _OF_PROCESS if arg_type.is_number)
# A returned value has no length beside it, and a `nop` would report nothing.
_RETURNED = _OF_FUNCTION - {
    ArgType.NOP,
    ArgType.CHAR_BUF,
    ArgType.CHAR_IOVEC,
    ArgType.CONST_BUF,
    ArgType.SOCKADDR,
    ArgType.SOCKADDR_UN,
    ArgType.BPF_ATTR,
}
# Registers that carry arguments, System V ABI of x86_64 (system calls have as many).
_REGISTERS = 6
# MAX_BPF_FUNC_ARGS of include/linux/bpf.h.
_BPF_ARGUMENTS = 12
# STAP_PROBE12 is the one with the most arguments, <sys/sdt.h>.
_USDT_ARGUMENTS = 12
# The kernel's tracepoints have some 40 fields at most; a format file of 64 KiB has no more than this.
_FIELDS = 1024


@dataclass(frozen=True, slots=True)
class HookTypes:
    """What the arguments of one kind of hook can be. returned is empty where a hook has no return.

    greatest_index: of an argument, both included.
    """

    noun: str
    greatest_index: int
    args: frozenset[ArgType]
    data: frozenset[ArgType] = frozenset()
    returned: frozenset[ArgType] = frozenset()

    def reason(self, arg_type: ArgType) -> str:
        """What to write instead of a type that is not among them."""
        if arg_type is ArgType.DATA_LOC:
            return "it is a field of a tracepoint's format: use string or char_buf"
        if arg_type is ArgType.SYSCALL64:
            return "it is the number of a call in a tracepoint: use uint64"
        if arg_type in _OBJECTS:
            return "it is an object of the kernel: use a number, string, char_buf or fd"
        return "use a number type"


_FUNCTION = HookTypes("a kprobe", _REGISTERS - 1, _OF_FUNCTION, _OF_FUNCTION, _RETURNED)
_BY_KIND = {
    HookKind.SYSCALL: HookTypes("a system call", _REGISTERS - 1, _OF_PROCESS, _OF_KERNEL, _NUMBERS | {ArgType.FD}),
    HookKind.KPROBE: _FUNCTION,
    HookKind.FENTRY: HookTypes("a fentry", _BPF_ARGUMENTS - 1, _OF_FUNCTION, _OF_FUNCTION, _RETURNED),
    HookKind.LSM: HookTypes("an lsmhook", _BPF_ARGUMENTS - 1, _OF_FUNCTION),
    HookKind.TRACEPOINT: HookTypes("a tracepoint", _FIELDS - 1, _ALL),
    HookKind.RAW_TRACEPOINT: HookTypes("a raw tracepoint", _BPF_ARGUMENTS - 1, _ALL - {ArgType.DATA_LOC}),
    HookKind.UPROBE: HookTypes(
        "a uprobe", _REGISTERS - 1, _OF_PROCESS, _OF_KERNEL, _NUMBERS | {ArgType.STRING, ArgType.FD}
    ),
    HookKind.USDT: HookTypes("a usdt", _USDT_ARGUMENTS - 1, _OF_PROCESS),
}


def types_of(kind: HookKind) -> HookTypes:
    """What the arguments of a kind of hook can be."""
    return _BY_KIND[kind]
