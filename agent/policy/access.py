# SPDX-License-Identifier: Apache-2.0
"""Where programs are attached on this node, and how they get at the values that policies name.

A policy says `resolve: mm.owner.pid`; these values say "follow byte 1,096, then byte 1,120, then read four bytes".
They come from `resolve`, which asks the node, and all that `plan` and `codegen` know of kernels and files is in them:
numbers, never text.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from enum import Enum, unique

from agent.policy.model import Arg, ArgType, Hook
from agent.policy.syscalls import kernel_name
from agent.policy.user_facts import FileIdentity

MAX_TEXT = 4096  # bytes of one text: a slot of bpf/maps/strings.h
MAX_DATA = 327_360  # bytes of a buffer with maxData


@unique
class PointKind(Enum):
    """What a program is attached to."""

    SYSCALL = "syscall"
    """The two tracepoints of a system call."""
    SYSCALL_FENTRY = "syscall_fentry"
    """fentry of the function of a system call, `__x64_sys_openat`. Where a system call ends is always its tracepoint:
    fexit passes by calls that sleep while programs of the same function change, and a kretprobe those that come when
    some others have not returned.
    """
    SYSCALL_KPROBE = "syscall_kprobe"
    """A kprobe of the function of a system call."""
    SYSCALL_OVERRIDE = "syscall_override"
    """The same of one that can return an error instead of running."""
    TRACEPOINT = "tracepoint"
    RAW_TRACEPOINT = "raw_tracepoint"
    UPROBE = "uprobe"
    USDT = "usdt"
    KPROBE = "kprobe"
    """kprobe and kretprobe of a kernel function."""
    OVERRIDE = "override"
    """The same of one that can return an error instead of running: bpf_override_return."""
    FENTRY = "fentry"
    """fentry and fexit of a kernel function."""
    FMOD_RET = "fmod_ret"
    """fmod_ret, whose result takes the place of the function's when it is not 0, and fexit."""
    LSM = "lsm"
    """A hook of the security module `bpf`: the result is its verdict. It has no return."""


SYSCALLS = frozenset(
    {PointKind.SYSCALL, PointKind.SYSCALL_FENTRY, PointKind.SYSCALL_KPROBE, PointKind.SYSCALL_OVERRIDE}
)
FUNCTIONS = frozenset({PointKind.KPROBE, PointKind.OVERRIDE, PointKind.FENTRY, PointKind.FMOD_RET, PointKind.LSM})
# Programs on these are loaded for one function of BTF, and the slots of each are in arrays of its own.
TRAMPOLINES = frozenset({PointKind.SYSCALL_FENTRY, PointKind.FENTRY, PointKind.FMOD_RET, PointKind.LSM})
# Where the action Override keeps a call from happening.
OVERRIDING = frozenset({PointKind.SYSCALL_OVERRIDE, PointKind.OVERRIDE, PointKind.FMOD_RET, PointKind.LSM})
# The program's result is that of the function.
VERDICTS = frozenset({PointKind.FMOD_RET, PointKind.LSM})
# What has a return that programs can be attached to.
TWO_SIDED = SYSCALLS | (FUNCTIONS - {PointKind.LSM}) | {PointKind.UPROBE}


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One place that programs are attached to, entry and return alike.

    name: the kernel's name of a system call (`openat`); `subsystem/event`; a raw tracepoint's name; a kernel function's
    (`tcp_connect`); an LSM hook's (`file_open`); for UPROBE and USDT the path of a file. offset, ref_counter: bytes
    from that file's begin; ref_counter 0: none. file: the one that was looked at under the path, to which the offsets
    belong; None: whichever is there. module: of a function, "" for one of the kernel itself.
    """

    kind: PointKind
    name: str
    offset: int = 0
    ref_counter: int = 0
    file: FileIdentity | None = None
    module: str = ""

    @property
    def sort_key(self) -> tuple[str, str, int, int, tuple[int, ...], str]:
        """For a stable order."""
        file = astuple(self.file) if self.file else ()
        return (self.kind.value, self.name, self.offset, self.ref_counter, file, self.module)

    @property
    def is_syscall(self) -> bool:
        """Whether it is a system call, whatever programs are attached to."""
        return self.kind in SYSCALLS

    @property
    def function(self) -> str:
        """The kernel function that programs are attached to. Of a kind that has none: ""."""
        if self.kind in SYSCALLS - {PointKind.SYSCALL}:
            return syscall_function(self.name)
        if self.kind is PointKind.LSM:
            return f"bpf_lsm_{self.name}"
        return self.name if self.kind in FUNCTIONS else ""


def syscall_function(name: str) -> str:
    """The function of a system call of the kernel's table (SYSCALL_DEFINE of arch/x86)."""
    return f"__x64_sys_{kernel_name(name)}"


@unique
class InputKind(Enum):
    """A raw number that a program is entered with."""

    ARGUMENT = "argument"
    """The n-th argument, from 0: system calls, RAW_TRACEPOINT (up to 12), UPROBE and functions (up to 6)."""
    RETURN = "return"
    """What the call returned; only at the return."""
    FIELD = "field"
    """`size` bytes at offset `number` of a tracepoint's record."""
    DATA_LOC = "data_loc"
    """The address of the variable part that the four bytes at offset `number` of a tracepoint's record point to."""
    DATA_LOC_SIZE = "data_loc_size"
    """Its size in bytes."""
    RECORD = "record"
    """The address of offset `number` of a tracepoint's record: fixed arrays."""
    TASK = "task"
    """The address of the current task_struct."""
    REGISTER = "register"
    """The register at offset `number` of the process's struct pt_regs, of which `size` bytes count."""
    CONSTANT = "constant"
    """`number` itself."""


@unique
class Memory(Enum):
    """Whose memory an address is in."""

    KERNEL = "kernel"
    USER = "user"
    ANY = "any"
    """As the address itself says: a kernel that gcc has built does not tell which of its pointers are a process's."""


@dataclass(frozen=True, slots=True)
class Input:
    """A raw number. size: the bytes of it that count, 1, 2, 4 or 8; signed: how it is extended to 64 bits."""

    kind: InputKind
    number: int = 0
    size: int = 8
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """From a raw number to another one: v = input; for each offset but the last v = *(u64 *)(v + offset); then the
    `size` bytes at v + last offset, extended as `signed` says. Without offsets: the input itself.

    index, scale: v begins as input + index * scale (an operand `(%rdi,%rsi,8)` of a USDT probe). Offsets may be
    negative, and sums wrap at 64 bits. in_place: the last offset is added and not followed: the result is the address
    of a structure or an array. bit_offset, bit_size: of a bit field in what was read; bit_size 0: none. memory: of all
    that is followed.
    """

    input: Input
    offsets: tuple[int, ...] = ()
    in_place: bool = False
    memory: Memory = Memory.KERNEL
    size: int = 8
    signed: bool = False
    bit_offset: int = 0
    bit_size: int = 0
    index: Input | None = None
    scale: int = 1

    @property
    def is_direct(self) -> bool:
        """Whether no memory is read."""
        return not self.offsets or (self.in_place and len(self.offsets) == 1)

    @property
    def address(self) -> Read:
        """Where the number is read from: what the action Set writes to. Raises ValueError when it is in no memory."""
        if not self.offsets or self.in_place or self.bit_size:
            raise ValueError("the number has no address")
        return replace(self, in_place=True, size=8, signed=False)


@dataclass(frozen=True, slots=True)
class Value:
    """What a rule compares or reports. Two rules with equal values share one reading of it.

    read: the number, or the address of what `type` reads. memory: where that address points. length: of a buffer in
    bytes, of a char_iovec in elements, of a sockaddr in bytes; None: the type knows. limit: the most bytes that are
    kept of it. exec_path: the path of an execve, of which the kernel keeps a copy. is_string: a char_buf that ends at
    its NUL (a `char name[16]`). at_return: read at the return (`returnCopy`, and the return value itself).
    """

    type: ArgType
    read: Read
    memory: Memory = Memory.KERNEL
    length: Read | None = None
    limit: int = MAX_TEXT
    exec_path: bool = False
    is_string: bool = False
    at_return: bool = False

    @property
    def is_large(self) -> bool:
        """Whether events may have more of it than is compared (`maxData`)."""
        return self.limit > MAX_TEXT


@dataclass(frozen=True, slots=True)
class PointHook:
    """One hook of a policy at one of its hook points. number: of the hook in its policy. args, data: as in `hook`, in
    its order, each with its value here (an `auto` type has become another one; None: a `nop`). symbol: of a uprobe, as
    the policy writes it, "" when it gives an offset or an address.
    """

    point: HookPoint
    number: int
    hook: Hook
    args: tuple[tuple[Arg, Value | None], ...]
    data: tuple[tuple[Arg, Value | None], ...] = ()
    return_value: Value | None = None
    symbol: str = ""
