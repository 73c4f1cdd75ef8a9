# SPDX-License-Identifier: Apache-2.0
"""The structures that bpf/ and user space share, from the side of user space. tests/unit/test_layout.py compares them
with the C.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agent.kernel.bpf import NO_PREALLOC, MapType

POLICY_WORDS = 16
STATE_PENDING = 1
STATE_ARMED = 2
QUARANTINE = (1 << 64) - 1  # the owner of quarantined cgroups' records: PG_QUARANTINE
FLAG_POD = 1
NESTED_MAX = 1024  # records of cgroups below one container: PG_NESTED_MAX
BINDING = struct.Struct("<QQ16QIIII")
CGROUP_KEY = struct.Struct("<Q")
ERROR_SITE = struct.Struct("<Ii")
SELFCHECK = struct.Struct("<QQ")

# enum pg_counter of bpf/maps/counters.h, in its order
COUNTERS = (
    "events_lost",
    "deferred",
    "unreadable",
    "path_too_deep",
    "inherit_failed",
    "stale_binding",
    "orphan",
    "signal_failed",
    "armed",
    "unannounced",
    "unwatched",
    "held",
    "notice_lost",
)
FILES = {1: "bpf/lib/syscall.h", 2: "bpf/base/base.c", 3: "bpf/base/doors.c"}  # PG_FILE

DOORS = struct.Struct("<IIQQQQ")
HELD = struct.Struct("<QQQ")
STRANGER = struct.Struct("<QII")
HOOK = struct.Struct("<QII")
NOTICE = struct.Struct("<IIQQQIIII16s128s")
TGID = struct.Struct("<I")
NOTICE_RING = 256 << 10  # some 1,200 notices: a burst of starts as large as a node's pods, several times
MAX_STRANGERS = 8192  # containers' cgroups, announced ones until they are bound
MAX_HELD = 4096
MAX_ENTERING = 16384  # processes of exec helpers at once

MAX_DEFERRED = 16384  # calls that wait for their exit, one a thread
MAX_EXEC_TEXTS = 1024  # of them those of an execve, until it has returned

_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map of bpf/maps: sizes in bytes, entries as the kernel counts them."""

    name: str
    kind: MapType
    key: int
    value: int
    entries: int
    flags: int = 0


def map_specs(ring_bytes: int, bindings: int) -> tuple[MapSpec, ...]:
    """ring_bytes: a power of two. bindings: how many cgroups, nested ones included, can have a record."""
    return (
        MapSpec("bindings", MapType.HASH, 8, BINDING.size, bindings + 1, NO_PREALLOC),  # and the quarantine's
        MapSpec("arming", MapType.HASH, 8, 4, 4096, NO_PREALLOC),
        MapSpec("host", MapType.ARRAY, 4, BINDING.size, 1),
        MapSpec("nested", MapType.HASH, 8, 8, bindings, NO_PREALLOC),
        MapSpec("search", MapType.ARRAY, 4, 4, 1),
        MapSpec("counters", MapType.PERCPU_ARRAY, 4, 8, len(COUNTERS)),
        MapSpec("errors", MapType.HASH, ERROR_SITE.size, 8, 256, NO_PREALLOC),
        MapSpec("strings", MapType.PERCPU_ARRAY, 4, 4360, 10),
        MapSpec("call", MapType.PERCPU_ARRAY, 4, 72 + 8 * 1024, 1),
        MapSpec("record", MapType.PERCPU_ARRAY, 4, 152 + 16384 + 4352, 1),
        MapSpec("events", MapType.RINGBUF, 0, 0, ring_bytes),
        MapSpec("deferred", MapType.HASH, 8, 56, MAX_DEFERRED, NO_PREALLOC),
        MapSpec("exec_text", MapType.HASH, 8, 4096, MAX_EXEC_TEXTS, NO_PREALLOC),
        MapSpec("exec_scratch", MapType.PERCPU_ARRAY, 4, 4096, 1),
        MapSpec("selfcheck", MapType.ARRAY, 4, SELFCHECK.size, 1),
        MapSpec("entering", MapType.HASH, 4, 8, MAX_ENTERING, NO_PREALLOC),
        MapSpec("entered", MapType.ARRAY, 4, 4, 1),
        MapSpec("strangers", MapType.HASH, 8, STRANGER.size, MAX_STRANGERS, NO_PREALLOC),
        MapSpec("doors", MapType.ARRAY, 4, DOORS.size, 1),
        MapSpec("held", MapType.HASH, 4, HELD.size, MAX_HELD, NO_PREALLOC),
        MapSpec("hook", MapType.ARRAY, 4, HOOK.size, 1),
        MapSpec("notices", MapType.RINGBUF, 0, 0, NOTICE_RING),
        MapSpec("slots", MapType.PROG_ARRAY, 4, 4, 1024),
    )


@dataclass(frozen=True, slots=True)
class BindingRecord:
    """struct pg_binding. policies: bit n set when policy n selects the workload."""

    policies: int
    key: int
    owner: int
    workload: int
    state: int
    init_pid: int
    flags: int = 0

    @property
    def quarantined(self) -> bool:
        return self.owner == QUARANTINE

    def pack(self) -> bytes:
        words = [(self.policies >> (64 * n)) & _WORD for n in range(POLICY_WORDS)]
        return BINDING.pack(self.key, self.owner, *words, self.workload, self.state, self.init_pid, self.flags)

    @classmethod
    def unpack(cls, data: bytes) -> BindingRecord:
        key, owner, *words, workload, state, init_pid, flags = BINDING.unpack(data)
        policies = sum(word << (64 * n) for n, word in enumerate(words))
        return cls(policies, key, owner, workload, state, init_pid, flags)
