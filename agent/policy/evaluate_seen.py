# SPDX-License-Identifier: Apache-2.0
"""A call as the kernel's side sees it: what `evaluate` is asked about.

None stands for a value that nobody could read, and for a `nop`, which has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.policy.lineage import Predicate
from agent.policy.model import CapabilityType, NamespaceType, WorkloadSelector

MAX_KEPT = 4096  # bytes of a text or a buffer that the kernel's side keeps: MAX_TEXT of `access`


@dataclass(frozen=True, slots=True)
class Text:
    """A text, bytes, or the path of a file, of which one end may be missing.

    mode: i_mode of a path's inode, 0 when it is not known. family: of a sockaddr_un. A deleted file has the path that
    it had; a path that does not lead to the process's root is cut at its head.
    """

    data: bytes
    cut_tail: bool = False
    cut_head: bool = False
    mode: int = 0
    family: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether both ends are there."""
        return not (self.cut_head or self.cut_tail)


def buffer_seen(data: bytes) -> Text:
    """What is seen of a buffer."""
    return Text(data[:MAX_KEPT], cut_tail=len(data) > MAX_KEPT)


def string_seen(data: bytes) -> Text:
    """What is seen of memory that begins with a string. A string that fills the room has no NUL in it, so nobody knows
    that it ends there.
    """
    text = data.partition(b"\0")[0]
    return Text(text[:MAX_KEPT], cut_tail=len(text) >= MAX_KEPT)


@dataclass(frozen=True, slots=True)
class Net:
    """A socket, a packet, or a socket address, which is the source of one; None where nothing is known.

    Addresses: 4 or 16 bytes. protocol and state: the kernel's numbers.
    """

    family: int | None = None
    saddr: bytes | None = None
    daddr: bytes | None = None
    sport: int | None = None
    dport: int | None = None
    protocol: int | None = None
    state: int | None = None


Seen = int | Text | Net | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Namespaces, by their inode numbers, and capabilities of a process at one moment. in_host_user: whether its user
    namespace is the host's.
    """

    namespaces: Mapping[NamespaceType, int] = field(default_factory=lambda: MappingProxyType({}))
    capabilities: Mapping[CapabilityType, int] = field(default_factory=lambda: MappingProxyType({}))
    in_host_user: bool = True

    def capability_set(self, kind: CapabilityType, *, namespaced: bool) -> int:
        """namespaced: those in a user namespace other than the host's count as well."""
        return self.capabilities.get(kind, 0) if namespaced or self.in_host_user else 0


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a process or who forked it has met. known: False when the kernel's side has lost track of it, so that there
    may be more.
    """

    met: frozenset[Predicate] = frozenset()
    known: bool = True


@dataclass(frozen=True, slots=True)
class Process:
    """Who makes a call. pid: of the process, not of a thread; namespace_pid: the same in its own pid namespace.

    at_execve: what it was when its program began, None when nobody knows. parent_lineage: of the parent there is now
    and of who forked it.
    """

    pid: int = 0
    namespace_pid: int = 0
    binary: Text | None = None
    parent_binary: Text | None = None
    now: Snapshot = Snapshot()
    at_execve: Snapshot | None = None
    lineage: Lineage = Lineage()
    parent_lineage: Lineage = Lineage()


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a hook. args, data: one for each entry of the hook's; numbers as registers have them, of any width, or
    as their types say.

    runs: the process is the one that runs; it is not when the call is that of a tracked socket's owner, in the middle
    of another one's. ends: it returns, with `returned`. workloads: those of the selectors' matchWorkloads that the
    process belongs to. host_namespaces: what `host_ns` means.
    """

    args: tuple[Seen, ...] = ()
    data: tuple[Seen, ...] = ()
    process: Process = Process()
    runs: bool = True
    ends: bool = True
    returned: Seen = None
    workloads: frozenset[WorkloadSelector] = frozenset()
    host_namespaces: Mapping[NamespaceType, int] = field(default_factory=lambda: MappingProxyType({}))
