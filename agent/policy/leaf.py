# SPDX-License-Identifier: Apache-2.0
"""A C value that an argument can be read from, whether a register, a tracepoint's format or BTF tells of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, unique

from agent.policy.access import Memory, Read
from agent.policy.resolve_faults import ResolveError


@unique
class LeafKind(Enum):
    """What there is to read."""

    NUMBER = "number"
    """An integer or an enumeration of 1, 2, 4 or 8 bytes."""
    POINTER = "pointer"
    """An address of something whose type is known."""
    REGISTER = "register"
    """8 bytes of a system call's argument or of a process: a number of any width, or an address in its memory."""
    ARRAY = "array"
    """Elements one after the other; `read` gives their address."""
    STRUCT = "struct"
    """A struct or union; `read` gives its address."""
    OTHER = "other"
    """Nothing that can be read: a function, a floating-point number, a struct of which only the name is known."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """text: the C type, for people. size, signed: of a NUMBER; of a REGISTER those that its C type says; size also of
    an ARRAY or a STRUCT in bytes, 0 of an array that has as many elements as there is room for.

    names: those of a STRUCT, or of what a POINTER or REGISTER points to; begins: of the structures that begin it (a
    `tcp_sock` begins with a `sock`). element: bytes of one element, or of what is pointed to, 0 unknown; number:
    whether that is an integer, is_char: a `char`, is_void: anything. length: of an ARRAY whose size is only known at
    run time. memory: where an address points.
    """

    kind: LeafKind
    read: Read
    text: str
    size: int = 8
    signed: bool = False
    names: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    element: int = 0
    number: bool = False
    is_char: bool = False
    is_void: bool = False
    length: Read | None = None
    memory: Memory = Memory.KERNEL

    @property
    def is_bytes(self) -> bool:
        """Whether it is made of, or points to, single bytes or what has no type."""
        return self.is_void or (self.number and self.element == 1)


def narrow(read: Read, size: int, signed: bool) -> Read:
    """The same place, of which `size` bytes count."""
    if read.offsets:
        return replace(read, size=size, signed=signed)
    return replace(read, input=replace(read.input, size=size, signed=signed))


def follow(read: Read, memory: Memory) -> Read:
    """The first 8 bytes of what a pointer points to. Raises ResolveError where a process's memory comes after the
    kernel's.
    """
    if read.offsets and read.memory is not memory:
        raise ResolveError(
            "a pointer in the kernel's memory points into the process's, which cannot be followed further",
            "end `resolve` at that pointer",
        )
    return replace(read, offsets=(*read.offsets, 0), memory=memory, size=8, signed=False)
