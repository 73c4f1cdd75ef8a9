# SPDX-License-Identifier: Apache-2.0
"""What `resolve` asks about the kernel of this node: system calls, tracepoints, and the types of the kernel's own BTF.

The node's answers come from `agent.kernel.facts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from agent.policy.errors import PolicyBaseError


class FactsError(PolicyBaseError):
    """The node cannot say: what is missing, and what to do about it."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, advice)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what}, {self.advice}"


@dataclass(frozen=True, slots=True)
class RecordField:
    """One field of a tracepoint's record, as its format file describes it.

    type: the C type's text, `char[16]` and `__data_loc char[]` of arrays. offset, size: bytes in the record; of a
    `__data_loc` field those of the word that says where the data are.
    """

    name: str
    type: str
    offset: int
    size: int
    signed: bool

    @property
    def is_array(self) -> bool:
        """Whether it is an array of fixed size in the record itself."""
        return self.type.endswith("]") and not self.is_dynamic

    @property
    def is_dynamic(self) -> bool:
        """Whether the record says where the data are."""
        return self.type.startswith(("__data_loc ", "__rel_loc "))

    @property
    def is_pointer(self) -> bool:
        """Whether it is an address."""
        return self.type.endswith("*")

    @property
    def text(self) -> str:
        """The declaration, for people."""
        return f"{self.type} {self.name}"


@unique
class Shape(Enum):
    """What a C type is, behind its names and qualifiers."""

    VOID = "void"
    INTEGER = "an integer"
    ENUM = "an enumeration"
    FLOAT = "a floating-point number"
    POINTER = "a pointer"
    ARRAY = "an array"
    STRUCT = "a struct"
    UNION = "a union"
    FUNCTION = "a function"
    FORWARD = "a structure that is only declared"


@dataclass(frozen=True, slots=True)
class CType:
    """One type. names: the typedefs that stand for it, outermost first, then its own, without `struct`; empty for
    anonymous ones. size: bytes, 0 of what has none. signed: of INTEGER and ENUM. target: what a POINTER points to, an
    ARRAY's element. count: an ARRAY's elements, 0 when it has as many as there is room for. is_user: a POINTER that the
    kernel marks as one to a process's memory.
    """

    shape: Shape
    names: tuple[str, ...] = ()
    size: int = 0
    signed: bool = False
    target: int = 0
    count: int = 0
    is_user: bool = False


@dataclass(frozen=True, slots=True)
class CMember:
    """A member of a struct or union, or a parameter of a function. bit_offset: from the begin; bits: the width of a
    bit field, 0 of any other member.
    """

    name: str
    type_id: int
    bit_offset: int = 0
    bits: int = 0


class Types(Protocol):
    """The types of the kernel, or of it and one module. Type ids mean nothing elsewhere. Methods raise FactsError."""

    def find(self, name: str) -> int | None:
        """The struct, union or typedef of this name, in this order; `struct x` and `union x` only such."""

    def names(self) -> Iterable[str]:
        """The names of all structs and unions."""

    def describe(self, type_id: int) -> CType:
        """A type behind its names and qualifiers."""

    def members(self, type_id: int) -> tuple[CMember, ...]:
        """Those of a struct or union, in order; a name may be empty."""


@dataclass(frozen=True, slots=True)
class RawTracepoint:
    """A tracepoint's function. parameters: those that a program gets, in order, types as in `types`."""

    types: Types
    parameters: tuple[CMember, ...]


@dataclass(frozen=True, slots=True)
class Prototype:
    """What BTF says of a function. result: its type, of shape VOID when there is none; types in `types`."""

    types: Types
    parameters: tuple[CMember, ...]
    result: int


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A function of the running kernel that can be hooked: there is one of this name, and the kernel lets it be probed.

    module: whose it is, "" for the kernel's own. prototype: None when BTF does not have it, or there is no BTF.
    traceable: it begins with a place for ftrace, so fentry can be attached there.
    """

    name: str
    module: str = ""
    prototype: Prototype | None = None
    traceable: bool = True


class NoFunctionError(FactsError):
    """The kernel has no function of this name, or only parts and copies of it that the compiler has made."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What programs can be attached to on this node: each "" when it was tried and works, else the reason and what to
    do about it. preemptible: a program of fentry or fmod_ret can be interrupted by another process in the same
    function, whose call the kernel then lets pass by (recursion protection of __bpf_prog_enter_recur,
    kernel/bpf/trampoline.c).
    """

    kprobe: str = ""
    fentry: str = ""
    fmod_ret: str = ""
    lsm: str = ""
    preemptible: bool = False


class Facts(Protocol):
    """The kernel of this node. Methods raise FactsError when it cannot be asked."""

    def syscall(self, name: str) -> tuple[RecordField, ...] | None:
        """The arguments of a system call of the kernel's table; None when this kernel has no such call."""

    def tracepoint(self, name: str) -> tuple[RecordField, ...] | None:
        """All fields of the record of `subsystem/event`, the common ones first; None when there is none."""

    def tracepoint_names(self) -> Iterable[str]:
        """`subsystem/event` of all tracepoints."""

    def raw_tracepoint(self, event: str) -> RawTracepoint | None:
        """The function behind a tracepoint; None when BTF has none."""

    def raw_tracepoint_names(self) -> Iterable[str]:
        """The names of all raw tracepoints of the kernel itself."""

    def types(self, module: str = "") -> Types:
        """Those of the kernel; with a module's name that module's as well."""

    def function(self, name: str) -> KernelFunction:
        """A function of the kernel or of a loaded module. Raises NoFunctionError, with the nearest name; FactsError for
        one that cannot be hooked: there are several of that name, or the kernel does not let it be probed.
        """

    def functions_like(self, pattern: str) -> tuple[str, ...]:
        """The names of functions that can be hooked and that a regular expression (`patterns`) matches anywhere, in
        order.
        """

    def lsm_hook(self, name: str) -> KernelFunction:
        """The function behind a hook of the security module `bpf` (`file_open`: bpf_lsm_file_open). Raises
        NoFunctionError.
        """

    def abilities(self) -> Abilities:
        """What this kernel lets be attached. Tried once."""

    def override_refusal(self, function: str) -> str:
        """Why bpf_override_return is not possible on a function; "" when it was tried and is."""
