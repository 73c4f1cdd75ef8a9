# SPDX-License-Identifier: Apache-2.0
"""What an agent does about one that crashed: it takes over the containers that a hook put into quarantine since, and
keeps the earlier programs from treating those that are announced to the new one as nobody's.

They are bound in the maps of the earlier generations only. The pinned program of ours is there before this is read, so
one that is put into quarantine at this moment is in our maps, or is found here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.doors import Treatment
from agent.kernel.errors import KernelError
from agent.kernel.layout import BINDING, CGROUP_KEY, DOORS, FLAG_POD, QUARANTINE, BindingRecord
from agent.kernel.maps import ZERO, Bindings
from agent.workload.identity import CgroupId
from rthook.bpf import BpfError, read_shape


def calm_doors(previous: Path) -> tuple[str, ...]:
    """From now on earlier programs only look on: what is announced, is announced to us. Their deadline and fallback
    stay, for what is held still. What failed, in words.
    """
    faults = []
    for generation in generations(previous):
        try:
            with _open(generation / "maps" / "doors", len(ZERO), DOORS.size) as doors:
                _, *rest = DOORS.unpack(bpf.lookup(doors.fileno(), ZERO, DOORS.size) or bytes(DOORS.size))
                bpf.update(doors.fileno(), ZERO, DOORS.pack(Treatment.REPORT, *rest))
        except KernelError as error:
            faults.append(f"{generation}: {error}")
    return tuple(faults)


def find_left(previous: Path, bindings: Bindings) -> tuple[CgroupId, ...]:
    """The cgroups of containers that only earlier agents' rules guard. What cannot be read guards nobody."""
    found: set[CgroupId] = set()
    for generation in generations(previous):
        with suppress(KernelError), _open(generation / "maps" / "bindings", CGROUP_KEY.size, BINDING.size) as old:
            for cgroup, record in _records(old):
                if record.owner == cgroup and not record.flags & FLAG_POD and bindings.read(cgroup) is None:
                    found.add(cgroup)
    return tuple(sorted(found))


def _records(bindings: bpf.Fd) -> Iterator[tuple[CgroupId, BindingRecord]]:
    """Of cgroups; the quarantine's own is of none."""
    for key in bpf.keys(bindings.fileno(), CGROUP_KEY.size):
        cgroup = CgroupId(CGROUP_KEY.unpack(key)[0])
        data = bpf.lookup(bindings.fileno(), key, BINDING.size)
        if data and cgroup != QUARANTINE:
            yield cgroup, BindingRecord.unpack(data)


def generations(previous: Path) -> list[Path]:
    """The directories of earlier agents' pins, in the order of their names."""
    return [previous / name for name in sorted(os.listdir(previous))] if previous.exists() else []


def iterate_quarantined(generation: Path) -> Iterator[tuple[CgroupId, int]]:
    """Cgroups, and the pid of the init process that has not called execve, else 0. KernelError for maps that are not
    ours.
    """
    maps = generation / "maps"
    with _open(maps / "bindings", CGROUP_KEY.size, BINDING.size) as bindings, _open(maps / "arming", 8, 4) as arming:
        for cgroup, record in _records(bindings):
            if record.quarantined:
                pending = bpf.lookup(arming.fileno(), CGROUP_KEY.pack(cgroup), 4)
                yield cgroup, int.from_bytes(pending, "little") if pending else 0


def _open(pin: Path, key: int, value: int) -> bpf.Fd:
    """A map whose keys and values have that size: the kernel writes whole values, whatever room there is for them."""
    opened = bpf.open_pinned(pin)
    try:
        shape = read_shape(opened.fileno())
    except BpfError as error:
        raise KernelError(f"map {pin}", error.errno) from error
    if (shape.key_size, shape.value_size) != (key, value):
        raise KernelError(f"map {pin} has keys of {shape.key_size} and values of {shape.value_size} bytes", 0)
    return opened


def take_over(previous: Path, bindings: Bindings) -> tuple[int, tuple[str, ...]]:
    """How many quarantined cgroups were bound anew, and what could not be read, in words."""
    taken, faults = 0, []
    for generation in generations(previous):
        try:
            for cgroup, init_pid in iterate_quarantined(generation):
                taken += bindings.put_in_quarantine(cgroup, init_pid)
        except KernelError as error:
            faults.append(f"{generation}: {error}")
    return taken, tuple(faults)
