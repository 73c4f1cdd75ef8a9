# SPDX-License-Identifier: Apache-2.0
"""Conditions on values and on the calling process."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, unique

from agent.policy.model.operators import Operator
from agent.policy.model.source import Source


@unique
class NamespaceType(Enum):
    """The namespaces of a process, by their names in a policy."""

    UTS = "Uts"
    IPC = "Ipc"
    MNT = "Mnt"
    PID = "Pid"
    PID_FOR_CHILDREN = "PidForChildren"
    NET = "Net"
    TIME = "Time"
    TIME_FOR_CHILDREN = "TimeForChildren"
    CGROUP = "Cgroup"
    USER = "User"


@unique
class CapabilityType(Enum):
    """Which of a process's capability sets."""

    EFFECTIVE = "Effective"
    INHERITABLE = "Inheritable"
    PERMITTED = "Permitted"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Network:
    """A CIDR: `address` has 4 or 16 bytes, its first `bits` bits count and the others are zero."""

    address: bytes
    bits: int


@dataclass(frozen=True, slots=True)
class Cel:
    """A node of an expression over arguments, all in 64-bit arithmetic.

    op: `const` (value), `arg` (value: a place in the hook's `args` list), `int32` and `uint32` (one operand: its low
    32 bits, extended), `+ - == != < <= > >= && || !`, and the bit operations `and or xor not`.
    """

    op: str
    operands: tuple[Cel, ...] = ()
    value: int = 0


FilterValue = int | bytes | Range | Network | Cel


@dataclass(frozen=True, slots=True)
class ArgFilter:
    """One condition on declared values.

    positions: places in the hook's `args` (or `data`) tuple; one, two for CapabilitiesGained, those that are named for
    CelExpr; none in a filter on the return value. values, by operator: integers in the range of the type (also
    FileType: S_IFMT bits; Protocol, Family, State: the kernel's numbers), bytes without NUL, Range (InRange, ports: a
    single port is a Range of one), Network, one Cel; none for the Priv operators and CapabilitiesGained (there:
    one integer, the mask of capabilities that count, when the policy names some).
    """

    positions: tuple[int, ...]
    operator: Operator
    values: tuple[FilterValue, ...]
    source: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PidFilter:
    """operator: IN or NOT_IN."""

    operator: Operator
    values: tuple[int, ...]
    namespace_pid: bool = False
    follow_forks: bool = False


@dataclass(frozen=True, slots=True)
class BinaryFilter:
    """operator: IN, NOT_IN, PREFIX, NOT_PREFIX, POSTFIX, NOT_POSTFIX. Paths as the process sees them."""

    operator: Operator
    values: tuple[bytes, ...]
    follow_children: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceFilter:
    """operator: IN or NOT_IN. values: inode numbers; host: `host_ns` is among the values."""

    namespace: NamespaceType
    operator: Operator
    values: tuple[int, ...]
    host: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceChangeFilter:
    """operator: IN: one of these namespaces is another than at the process's execve; NOT_IN: none is."""

    operator: Operator
    namespaces: tuple[NamespaceType, ...]


@dataclass(frozen=True, slots=True)
class CapabilityFilter:
    """operator: IN: the set has one of `mask`; NOT_IN: it has none. namespaced: capabilities in a user namespace other
    than the host's count as well.
    """

    type: CapabilityType
    operator: Operator
    mask: int
    namespaced: bool = False


@dataclass(frozen=True, slots=True)
class CapabilityChangeFilter:
    """operator: IN: one of `mask` was gained or lost since the process's execve; NOT_IN: none was."""

    type: CapabilityType
    operator: Operator
    mask: int
    namespaced: bool = False
