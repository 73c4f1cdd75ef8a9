# SPDX-License-Identifier: Apache-2.0
"""The slots of a PROG_ARRAY: which are free, what is in them, and when one may be used again.

A slot that is empty ends a chain of programs without a word, and one that holds another program leads it astray. So a
slot that some program still tail-calls is emptied only after a grace period, when every program has ended that may
have been on its way to it.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable

from agent.kernel import bpf
from agent.kernel.errors import KernelError

_U32 = struct.Struct("<I")


class SlotArray:
    """One PROG_ARRAY, for programs of one type. fd: the map's descriptor, its owner's. Lowest free slots first."""

    def __init__(self, name: str, fd: int, entries: int) -> None:
        self.name = name
        self.fd = fd
        self._entries = entries
        self._free = list(range(entries))

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    @property
    def is_unused(self) -> bool:
        """Whether all slots are free."""
        return len(self._free) == self._entries

    def take(self, count: int) -> tuple[int, ...]:
        """Slots that nobody else has until they are given back; they are empty."""
        if count > len(self._free):
            hint = "fewer hook points, or fewer rules on them, leave room"
            raise KernelError(f"{self.name} has {self.free} of {self._entries} slots left, {count} needed", 0, hint)
        return tuple(heapq.heappop(self._free) for _ in range(count))

    def give_back(self, slots: Iterable[int]) -> None:
        """They must be empty, and no program on its way to them."""
        for slot in slots:
            heapq.heappush(self._free, slot)

    def put(self, slot: int, program: bpf.Fd) -> None:
        """At once for whoever tail-calls it from now on."""
        bpf.update(self.fd, _U32.pack(slot), _U32.pack(program.fileno()))

    def empty(self, slot: int) -> None:
        """One that is empty stays so."""
        bpf.delete(self.fd, _U32.pack(slot))

    def instructions(self, slot: int) -> int:
        """Of the program in a slot."""
        program = self.get(slot)
        if program is None:
            return 0
        with program:
            return bpf.program_info(program.fileno()).instructions

    def memory(self, slot: int) -> int:
        """Bytes of kernel memory that the program in a slot takes."""
        program = self.get(slot)
        if program is None:
            return 0
        with program:
            return bpf.program_memory(program.fileno())

    def get(self, slot: int) -> bpf.Fd | None:
        """The program in a slot."""
        data = bpf.lookup(self.fd, _U32.pack(slot), _U32.size)
        return None if data is None else bpf.program_by_id(_U32.unpack(data)[0])


class Grace:
    """Waits for BPF programs that are running, by a map operation that does: the kernel answers an update of an array
    of maps when no program runs any more that could have seen its old value (maybe_wait_bpf_programs of
    kernel/bpf/syscall.c: synchronize_rcu). membarrier(2) would do the same, but neither on one processor nor on
    kernels with nohz_full. Programs of trampolines, which may be preempted, run under rcu_read_lock
    (__bpf_prog_enter_recur of kernel/bpf/trampoline.c) and are waited for as others are. Those that may sleep are not;
    there are none of ours.
    """

    def __init__(self) -> None:
        self._inner = bpf.create_map(bpf.MapType.ARRAY, 4, 4, 1, "pg_grace_inner")
        self._outer = bpf.create_map(bpf.MapType.ARRAY_OF_MAPS, 4, 4, 1, "pg_grace", 0, self._inner.fileno())

    def wait(self) -> None:
        """Returns when every program has ended that was running at the call."""
        bpf.update(self._outer.fileno(), _U32.pack(0), _U32.pack(self._inner.fileno()))

    def close(self) -> None:
        self._outer.close()
        self._inner.close()
