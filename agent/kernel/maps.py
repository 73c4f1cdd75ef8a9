# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of the bindings: typed access to the maps that bpf/maps describes, and their pins."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.layout import (
    BINDING,
    CALL_BYTES,
    CALL_CONTEXT_AT,
    CGROUP_KEY,
    CONTEXTS,
    COUNTERS,
    ERROR_SITE,
    FILES,
    FLAG_POD,
    NESTED_MAX,
    QUARANTINE,
    SELFCHECK,
    SLOTS,
    STATE_ARMED,
    STATE_PENDING,
    STRING_BYTES,
    STRING_CONTEXT_AT,
    BindingRecord,
    MapSpec,
)
from agent.workload.identity import WORKLOAD_QUARANTINED, CgroupId
from agent.workload.operations import Binding

ZERO = bytes(4)
SEARCH = struct.pack("<I", 1)
# Calls that wait for their exit: maps, with the size of their keys, which begin with the thread id.
WAITING = {"deferred": 8, "exec_text": 8, "enforcer": 8, "exec_awaited": 8, "awaited": 24, "returns": 24}


class MapFullError(Exception):
    """No room for one more record."""


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key: /sys/devices/system/cpu/possible, `0-N` with no holes on x86."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.rpartition("-")[2].rpartition(",")[2]) + 1


class Maps:
    """Owns the descriptors of every map, by name."""

    def __init__(self, fds: Mapping[str, bpf.Fd]) -> None:
        self._fds = dict(fds)

    @classmethod
    def create(cls, specs: tuple[MapSpec, ...], pins: Path) -> Maps:
        """Creates and pins; pins must be an empty directory of a bpffs."""
        fds = {}
        for spec in specs:
            fd = bpf.create_map(spec.kind, spec.key, spec.value, spec.entries, f"pg_{spec.name}", spec.flags)
            bpf.pin(fd.fileno(), str(pins / spec.name))
            fds[spec.name] = fd
        maps = cls(fds)
        maps._number_contexts()
        return maps

    def _number_contexts(self) -> None:
        """Each element of a call's scratch memory knows which set it belongs to: bpf/maps/call.h."""
        cpus = possible_cpus()
        for name, elements, size, at, each in (
            ("strings", CONTEXTS * SLOTS, STRING_BYTES, STRING_CONTEXT_AT, SLOTS),
            ("calls", CONTEXTS, CALL_BYTES, CALL_CONTEXT_AT, 1),
        ):
            for index in range(elements):
                value = bytearray(size)
                struct.pack_into("<I", value, at, index // each)
                bpf.update(self.fileno(name), struct.pack("<I", index), bytes(value) * cpus)

    def fileno(self, name: str) -> int:
        return self._fds[name].fileno()

    def descriptors(self) -> dict[str, int]:
        return {name: fd.fileno() for name, fd in self._fds.items()}

    def close(self) -> None:
        for fd in self._fds.values():
            fd.close()


class Bindings:
    """The maps bindings, arming, host and strangers. One writer at a time: the caller holds its lock."""

    def __init__(self, maps: Maps) -> None:
        self._bindings = maps.fileno("bindings")
        self._arming = maps.fileno("arming")
        self._host = maps.fileno("host")
        self._nested = maps.fileno("nested")
        self._search = maps.fileno("search")
        self._strangers = maps.fileno("strangers")

    def bind(self, cgroup: CgroupId, binding: Binding) -> None:
        """Writes a container's record and reads it back.

        A pending one is entered into arming first, so it is never armed too early; one that is pending already is not,
        so it is never disarmed.
        """
        key = CGROUP_KEY.pack(cgroup)
        known = self.read(cgroup)
        if binding.armed:
            bpf.delete(self._arming, key)
        elif _begins_pending(known, binding):
            bpf.update(self._arming, key, struct.pack("<I", binding.init_pid))
        bpf.update(self._bindings, key, _record(cgroup, binding).pack())
        self._verify(cgroup, binding)
        bpf.delete(self._strangers, key)

    def pending_pid(self, cgroup: CgroupId) -> int:
        """Whose execve arms the cgroup's container; 0 when it is armed, or not bound."""
        data = bpf.lookup(self._arming, CGROUP_KEY.pack(cgroup), 4)
        return int.from_bytes(data, "little") if data else 0

    def _verify(self, cgroup: CgroupId, binding: Binding) -> None:
        """The kernel may turn pending into armed at any moment; all else must be what was written."""
        found = self.read(cgroup)
        if found is None or (found.policies, found.workload, found.owner) != (
            binding.policies,
            binding.workload,
            cgroup,
        ):
            raise KernelError(
                f"the binding of cgroup {cgroup} is not what was written", 0, "its cgroup was removed meanwhile"
            )

    def rewrite(self, cgroup: CgroupId, binding: Binding) -> bool:
        """Other policies for a container that is bound; False when the kernel has removed it meanwhile."""
        try:
            bpf.update(self._bindings, CGROUP_KEY.pack(cgroup), _record(cgroup, binding).pack(), bpf.BPF_EXIST)
        except KernelError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    def arm(self, cgroup: CgroupId) -> bool:
        """True when the container was still pending."""
        return bpf.delete(self._arming, CGROUP_KEY.pack(cgroup))

    def is_pending(self, cgroup: CgroupId) -> bool:
        return self.pending_pid(cgroup) != 0

    def delete(self, cgroup: CgroupId) -> None:
        key = CGROUP_KEY.pack(cgroup)
        bpf.delete(self._bindings, key)
        bpf.delete(self._arming, key)
        bpf.delete(self._nested, key)

    def read(self, cgroup: CgroupId) -> BindingRecord | None:
        data = bpf.lookup(self._bindings, CGROUP_KEY.pack(cgroup), BINDING.size)
        return BindingRecord.unpack(data) if data else None

    def set_host(self, policies: int) -> None:
        bpf.update(self._host, ZERO, BindingRecord(policies, 0, 0, 0, 0, 0).pack())

    def set_quarantine(self, policies: int) -> None:
        """The policies of all quarantined containers."""
        record = BindingRecord(policies, QUARANTINE, QUARANTINE, WORKLOAD_QUARANTINED, STATE_ARMED, 0)
        bpf.update(self._bindings, CGROUP_KEY.pack(QUARANTINE), record.pack())

    def put_in_quarantine(self, cgroup: CgroupId, init_pid: int = 0) -> bool:
        """Binds a cgroup to every policy; False when it is bound already. init_pid: whose execve ends the setup, 0 when
        it has ended.
        """
        state = STATE_PENDING if init_pid else STATE_ARMED
        record = BindingRecord(0, cgroup, QUARANTINE, WORKLOAD_QUARANTINED, state, init_pid)
        try:
            if init_pid and self.read(cgroup) is None:
                bpf.update(self._arming, CGROUP_KEY.pack(cgroup), struct.pack("<I", init_pid))
            bpf.update(self._bindings, CGROUP_KEY.pack(cgroup), record.pack(), bpf.BPF_NOEXIST)
        except KernelError as error:
            if error.code == errno.EEXIST:
                return False
            raise
        return True

    def release_quarantined(self, cgroup: CgroupId, directory: Path | None = None) -> bool:
        """Unbinds a cgroup that nobody could identify; False when it is not quarantined. directory: the cgroup's, below
        which cgroups of the quarantine are unbound too.
        """
        known = self.read(cgroup)
        if known is None or not known.quarantined:
            return False
        for path in islice(_below(directory), NESTED_MAX) if directory else ():
            with contextlib.suppress(FileNotFoundError):
                child = CgroupId(os.stat(path).st_ino)
                if (record := self.read(child)) and record.quarantined:
                    self.delete(child)
        self.delete(cgroup)
        return True

    def quarantined(self) -> list[CgroupId]:
        """The cgroups that are bound to every policy, and wait for their identity."""
        return [cgroup for cgroup in self.cgroups() if (record := self.read(cgroup)) and record.quarantined]

    def inherit(self, cgroup: CgroupId, workload: int, directory: Path) -> int:
        """Links the cgroups that exist below a container bound while it runs; gives how many were new.

        A container has NESTED_MAX records of such at most. Where there are more, or the map has no room, processes are
        found by their ancestors from then on, as where the kernel side could not link one.
        """
        added = 0
        known = self._nested_count(cgroup)
        try:
            for seen, path in enumerate(_below(directory)):
                if seen >= NESTED_MAX or known + added >= NESTED_MAX:
                    raise MapFullError
                added += self._link(path, cgroup, workload)
        except MapFullError:
            bpf.update(self._search, ZERO, SEARCH)
        self._count_nested(cgroup, added)
        return added

    def _count_nested(self, owner: CgroupId, added: int) -> None:
        """Beside what the kernel counts at the same moment: the limit is one of order, not of exactness."""
        if not added:
            return
        count = max(self._nested_count(owner) + added, 0)
        bpf.update(self._nested, CGROUP_KEY.pack(owner), struct.pack("<Q", count))

    def _nested_count(self, owner: CgroupId) -> int:
        known = bpf.lookup(self._nested, CGROUP_KEY.pack(owner), 8)
        return int.from_bytes(known, "little") if known else 0

    def _link(self, path: str, owner: CgroupId, workload: int) -> int:
        try:
            child = os.stat(path).st_ino
            record = BindingRecord(0, child, owner, workload, STATE_ARMED, 0)
            known = self.read(CgroupId(child))
            flags = bpf.BPF_ANY if known and known.quarantined else bpf.BPF_NOEXIST
            bpf.update(self._bindings, CGROUP_KEY.pack(child), record.pack(), flags)
            if flags == bpf.BPF_ANY:
                self._count_nested(CgroupId(QUARANTINE), -1)
            bpf.delete(self._strangers, CGROUP_KEY.pack(child))
        except FileNotFoundError:
            return 0  # removed meanwhile
        except KernelError as error:
            if error.code == errno.EEXIST:
                return 0  # linked by the kernel
            if error.code in (errno.E2BIG, errno.ENOMEM):
                raise MapFullError from error
            raise
        return 1

    def cgroups(self) -> list[CgroupId]:
        """Every cgroup with a record, nested ones included."""
        found = (CGROUP_KEY.unpack(key)[0] for key in bpf.keys(self._bindings, 8))
        return [CgroupId(cgroup) for cgroup in found if cgroup != QUARANTINE]


def _record(cgroup: CgroupId, binding: Binding) -> BindingRecord:
    state = STATE_ARMED if binding.armed else STATE_PENDING
    flags = FLAG_POD if binding.pod_level else 0
    return BindingRecord(binding.policies, cgroup, cgroup, binding.workload, state, binding.init_pid, flags)


def _begins_pending(known: BindingRecord | None, binding: Binding) -> bool:
    """Whether a container that is held has to be entered into arming: not one that is known, and not one that a hook
    has put into quarantine before its execve. The entry of either may be gone at any moment, for good.
    """
    if known is None:
        return True
    if known.quarantined:
        return known.state == STATE_ARMED
    return known.workload != binding.workload


def _below(directory: Path) -> Iterator[str]:
    """Directories below; those that vanish are left out."""
    waiting = [str(directory)]
    while waiting:
        try:
            children = [entry.path for entry in os.scandir(waiting.pop()) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
        yield from children
        waiting += children


def read_counters(maps: Maps, cpus: int) -> dict[str, int]:
    """The counters of bpf/maps/counters.h, summed over CPUs."""
    totals = {}
    for index, name in enumerate(COUNTERS):
        data = bpf.lookup(maps.fileno("counters"), struct.pack("<I", index), 8 * cpus)
        totals[name] = sum(struct.unpack(f"<{cpus}Q", data)) if data else 0
    return totals


def read_errors(maps: Maps) -> list[tuple[str, int, int]]:
    """Failed helpers: (file:line, errno, how often)."""
    rows = []
    for key in bpf.keys(maps.fileno("errors"), ERROR_SITE.size):
        site, code = ERROR_SITE.unpack(key)
        value = bpf.lookup(maps.fileno("errors"), key, 8)
        if value:
            rows.append(
                (f"{FILES.get(site >> 16, site >> 16)}:{site & 0xFFFF}", -code, int.from_bytes(value, "little"))
            )
    return sorted(rows)


def drop_dead_calls(maps: Maps, lives: Callable[[int], bool]) -> int:
    """Takes out calls that wait for an exit which does not come: their threads died. lives: by thread id."""
    dropped = 0
    for name, size in WAITING.items():
        for key in bpf.keys(maps.fileno(name), size):
            if not lives(int.from_bytes(key[:4], "little")):
                dropped += bpf.delete(maps.fileno(name), key)
    return dropped


def read_selfcheck(maps: Maps) -> tuple[int, int]:
    """(cgroup id, tgid) that the program pg_self saw."""
    data = bpf.lookup(maps.fileno("selfcheck"), ZERO, SELFCHECK.size) or bytes(SELFCHECK.size)
    cgroup, pid_tgid = SELFCHECK.unpack(data)
    return cgroup, pid_tgid >> 32
