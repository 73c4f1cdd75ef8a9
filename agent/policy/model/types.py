# SPDX-License-Identifier: Apache-2.0
"""What can be declared of an argument: its type, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, unique

from agent.policy.model.source import Source


@unique
class ArgType(Enum):
    """The type of an argument, by its name in a policy."""

    AUTO = "auto"
    NOP = "nop"
    INT = "int"
    UINT = "uint"
    LONG = "long"
    ULONG = "ulong"
    SIZE_T = "size_t"
    SINT8 = "sint8"
    INT8 = "int8"
    UINT8 = "uint8"
    SINT16 = "sint16"
    INT16 = "int16"
    UINT16 = "uint16"
    SINT32 = "sint32"
    INT32 = "int32"
    UINT32 = "uint32"
    SINT64 = "sint64"
    INT64 = "int64"
    UINT64 = "uint64"
    SYSCALL64 = "syscall64"
    CAPABILITY = "capability"
    BPF_CMD = "bpf_cmd"
    STRING = "string"
    CHAR_BUF = "char_buf"
    CONST_BUF = "const_buf"
    CHAR_IOVEC = "char_iovec"
    DATA_LOC = "data_loc"
    FD = "fd"
    FILE = "file"
    FILENAME = "filename"
    PATH = "path"
    DENTRY = "dentry"
    KIOCB = "kiocb"
    IOV_ITER = "iov_iter"
    LINUX_BINPRM = "linux_binprm"
    SOCK = "sock"
    SOCKET = "socket"
    SKB = "skb"
    SOCKADDR = "sockaddr"
    SOCKADDR_UN = "sockaddr_un"
    NET_DEVICE = "net_device"
    CRED = "cred"
    USER_NAMESPACE = "user_namespace"
    KERNEL_CAP_T = "kernel_cap_t"
    CAP_INHERITABLE = "cap_inheritable"
    CAP_PERMITTED = "cap_permitted"
    CAP_EFFECTIVE = "cap_effective"
    BPF_ATTR = "bpf_attr"
    BPF_MAP = "bpf_map"
    BPF_PROG = "bpf_prog"
    PERF_EVENT = "perf_event"
    LOAD_INFO = "load_info"
    MODULE = "module"

    @property
    def is_number(self) -> bool:
        """Whether values are integers of at most 64 bits."""
        return self in _NUMBERS

    @property
    def is_text(self) -> bool:
        """Whether string operators apply: text, bytes, or the path of a file."""
        return self in _TEXTS

    @property
    def is_path(self) -> bool:
        """Whether the text is the path of a file, whose type is known as well."""
        return self in _PATHS

    @property
    def is_capability_set(self) -> bool:
        """Whether the value is a mask of capabilities."""
        return self in _CAPABILITY_SETS

    @property
    def bits(self) -> int:
        """Width in bits of a number type. Raises KeyError for the other types."""
        return _NUMBERS[self][0]

    @property
    def signed(self) -> bool:
        """Whether a number type is signed. Raises KeyError for the other types."""
        return _NUMBERS[self][1]


_NUMBERS = {
    ArgType.INT: (32, True),
    ArgType.UINT: (32, False),
    ArgType.LONG: (64, True),
    ArgType.ULONG: (64, False),
    ArgType.SIZE_T: (64, False),
    ArgType.SINT8: (8, True),
    ArgType.INT8: (8, True),
    ArgType.UINT8: (8, False),
    ArgType.SINT16: (16, True),
    ArgType.INT16: (16, True),
    ArgType.UINT16: (16, False),
    ArgType.SINT32: (32, True),
    ArgType.INT32: (32, True),
    ArgType.UINT32: (32, False),
    ArgType.SINT64: (64, True),
    ArgType.INT64: (64, True),
    ArgType.UINT64: (64, False),
    ArgType.SYSCALL64: (64, False),
    ArgType.CAPABILITY: (32, True),
    ArgType.BPF_CMD: (32, True),
    ArgType.KERNEL_CAP_T: (64, False),
    ArgType.CAP_INHERITABLE: (64, False),
    ArgType.CAP_PERMITTED: (64, False),
    ArgType.CAP_EFFECTIVE: (64, False),
}


_CAPABILITY_SETS = frozenset(
    {ArgType.KERNEL_CAP_T, ArgType.CAP_INHERITABLE, ArgType.CAP_PERMITTED, ArgType.CAP_EFFECTIVE}
)


_PATHS = frozenset({ArgType.FD, ArgType.FILE, ArgType.PATH, ArgType.DENTRY, ArgType.KIOCB, ArgType.LINUX_BINPRM})


_TEXTS = _PATHS | {
    ArgType.STRING,
    ArgType.CHAR_BUF,
    ArgType.CONST_BUF,
    ArgType.CHAR_IOVEC,
    ArgType.DATA_LOC,
    ArgType.FILENAME,
    ArgType.NET_DEVICE,
    ArgType.LOAD_INFO,
    ArgType.MODULE,
    ArgType.SOCKADDR_UN,
    ArgType.BPF_ATTR,
    ArgType.BPF_MAP,
    ArgType.BPF_PROG,
    ArgType.PERF_EVENT,
}


@unique
class DataSource(Enum):
    """Where an entry of `data` begins."""

    CURRENT_TASK = "current_task"
    PT_REGS = "pt_regs"


@dataclass(frozen=True, slots=True)
class Arg:
    """One entry of `args`, of `data`, or `returnArg`.

    index: the argument's place in the call, from 0; of a tracepoint the field's place in its format, of an entry of
    `data` 0. size_arg: the argument with a buffer's length in bytes, its place in the call from 0. resolve: member
    names from the argument's type on, empty for the argument itself. source: only in `data`.
    """

    index: int
    type: ArgType
    size_arg: int | None = None
    resolve: tuple[str, ...] = ()
    label: str = ""
    max_data: bool = False
    return_copy: bool = False
    btf_type: str = ""
    btf_module: str = ""
    data_source: DataSource | None = None
    source: Source | None = field(default=None, compare=False)
