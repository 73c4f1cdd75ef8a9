# SPDX-License-Identifier: Apache-2.0
"""The structures that bpf/ and user space share, from the side of user space. tests/unit/test_layout.py compares them
with the C.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agent.kernel.bpf import NO_PREALLOC, MapType
from agent.policy.automaton import TABLE_BYTES
from agent.policy.sets import MAX_LENGTHS, PARTS, ROOMS

POLICY_WORDS = 32
STATE_PENDING = 1
STATE_ARMED = 2
QUARANTINE = (1 << 64) - 1  # the owner of quarantined cgroups' records: PG_QUARANTINE
FLAG_POD = 1
NESTED_MAX = 1024  # records of cgroups below one container: PG_NESTED_MAX
BINDING = struct.Struct(f"<QQ{POLICY_WORDS}QIIII")
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
    "lineage_full",
    "no_context",
    "return_lost",
    "data_lost",
)
FILES = {  # PG_FILE
    1: "bpf/lib/syscall.h",
    2: "bpf/base/base.c",
    3: "bpf/base/doors.c",
    4: "bpf/lib/rules.h",
    5: "bpf/lib/socks.h",
}

DOORS = struct.Struct("<IIQQQQ")
HELD = struct.Struct("<QQQ")
STRANGER = struct.Struct("<QII")
HOOK = struct.Struct("<QII")
NOTICE = struct.Struct("<IIQQQIIII16s128s")
TGID = struct.Struct("<I")
ENTERING = struct.Struct("<QQ")
NOTICE_RING = 256 << 10  # some 1,200 notices: a burst of starts as large as a node's pods, several times
MAX_STRANGERS = 8192  # containers' cgroups, announced ones until they are bound
MAX_HELD = 4096
MAX_ENTERING = 16384  # processes of exec helpers at once

CONTEXTS = 4  # PG_CONTEXTS
SLOTS = 16  # PG_SLOTS
STRING_BYTES = 4368
CALL_BYTES = 3984
RECORD_BYTES = 80 + 16384 + 4352 + 8
RETURN_BYTES = 8848
RETURN_KEY = struct.Struct("<QQII")
STRING_CONTEXT_AT = 12  # struct pg_string.context
CALL_CONTEXT_AT = 4  # struct pg_call.context

# enum pg_stat_index of bpf/maps/stats.h, in its order
STATS = (
    *("post", "nopost", "sigkill", "signal", "override", "notify_enforcer", "set", "rate_limited"),
    *("monitor_sigkill", "monitor_signal", "monitor_override", "monitor_notify_enforcer", "monitor_set"),
    *("failed", "track_sock", "reserved"),
)
STAT = struct.Struct(f"<{len(STATS)}Q")
STAT_RETURN = 0x8000
MODES = struct.Struct(f"<{POLICY_WORDS}Q")
MAX_STATS = 65536  # selectors of all policies, those of the return counted twice
MAX_RATES = 16384  # equal events in all rate-limited selectors; the least used go first
MAX_AUTOMATA = 4096  # SubString filters whose values differ
# Texts in sets, by the room of their keys. Of the shortest as many as a file can have values; of the others about four
# times as many as fit into a file of 1 MiB. While a set is changed the new one is there beside the old.
MAX_SET_TEXTS = {64: 65_536, 256: 65_536, 1024: 16_384, 4096: 4096}
MAX_SET_PARTS = {56: 131_072, 248: 65_536}  # the same of heads and tails
MAX_LENGTH_TABLES = 1024  # sets with heads or tails that are longer, 4 KiB each
# Networks, and the parts of ranges in sets: what two files can have of them when each is in four parts.
MAX_SET_RANGES = 524_288
RANGE_KEY_BYTES = 24
# Tracked sockets: 1.3 MiB, there from the beginning as LRU maps are; the least used go first.
MAX_SOCKS = 8192
# struct pg_owner: sock, inode, tuple, record, cgroup, process, start, pid, tid, uid, reserved, comm
OWNER = struct.Struct("<7QIIII16s")
MAX_ENFORCER = 4096  # threads between a NotifyEnforcer and the call that it means
MAX_RETURNS = 4096  # calls whose return a rule waits for, one for each program of the hook point

MAX_DEFERRED = 16384  # calls that wait for their exit, one a thread
MAX_EXEC_TEXTS = 1024  # of them those of an execve, until it has returned

# bpf/maps/process.h: struct pg_lineage: start, written, scanned, four times PG_LINEAGE_WORDS, capability sets,
# namespaces, snapshot, unknown, slack, reserved
LINEAGE_WORDS = 4
LINEAGE = struct.Struct("<QQQ16Q3Q10IIIII")
LINEAGE_STATE = struct.Struct("<IIII")
NOTE = struct.Struct(f"<IIiI{LINEAGE.size}s")
MAX_LINEAGE = 65536  # processes that descend from what policies follow; with conditions on changes every process
LOST_MARKS = 65536  # PG_LOST_MARKS
LINEAGE_EVENTS = 3  # enum pg_lineage_event: programs in a set
LINEAGE_SLOTS = 1 + 2 * LINEAGE_EVENTS  # slot 0 is nobody's: a set of 0 says that there is none

OVERRIDE = struct.Struct("<iI")  # what a call gives instead of being made, attachment: dispatcher.overrider

# In each PROG_ARRAY that hook points share: two heads for each of hookpoints.MAX_HOOK_POINTS, and three times as many
# for the further programs of their chains, the new beside the old. A slot is 8 bytes of memory.
MAX_PROGRAM_SLOTS = 4096

_WORD = (1 << 64) - 1


# Around the key and value of one entry of a HASH with NO_PREALLOC: struct htab_elem, and the link of the allocator that
# it came from (LLIST_NODE_SZ): kernel/bpf/hashtab.c, kernel/bpf/memalloc.c.
ENTRY_HEAD = 48 + 8


def entry_bytes(key: int, value: int) -> int:
    """Bytes of kernel memory that one entry of such a map takes; sizes in bytes."""
    return ENTRY_HEAD + -(-key // 8) * 8 + -(-value // 8) * 8


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
        MapSpec("strings", MapType.PERCPU_ARRAY, 4, STRING_BYTES, CONTEXTS * SLOTS),
        MapSpec("calls", MapType.PERCPU_ARRAY, 4, CALL_BYTES, CONTEXTS),
        MapSpec("records", MapType.PERCPU_ARRAY, 4, RECORD_BYTES, CONTEXTS),
        MapSpec("events", MapType.RINGBUF, 0, 0, ring_bytes),
        MapSpec("deferred", MapType.HASH, 8, 112, MAX_DEFERRED, NO_PREALLOC),
        MapSpec("awaited", MapType.HASH, RETURN_KEY.size, 104, MAX_DEFERRED, NO_PREALLOC),
        MapSpec("returns", MapType.HASH, RETURN_KEY.size, RETURN_BYTES, MAX_RETURNS, NO_PREALLOC),
        MapSpec("exec_awaited", MapType.HASH, 8, 8, MAX_DEFERRED, NO_PREALLOC),
        MapSpec("return_scratch", MapType.PERCPU_ARRAY, 4, RETURN_BYTES, CONTEXTS),
        MapSpec("stats", MapType.HASH, 8, STAT.size, MAX_STATS, NO_PREALLOC),
        MapSpec("modes", MapType.ARRAY, 4, MODES.size, 1),
        MapSpec("rates", MapType.LRU_HASH, 24, 8, MAX_RATES),
        MapSpec("automata", MapType.HASH, 4, TABLE_BYTES, MAX_AUTOMATA, NO_PREALLOC),
        *(MapSpec(f"texts_{room}", MapType.HASH, 8 + room, 4, MAX_SET_TEXTS[room], NO_PREALLOC) for room in ROOMS),
        *(MapSpec(f"parts_{n}", MapType.LPM_TRIE, 8 + n, 4, MAX_SET_PARTS[n], NO_PREALLOC) for n in PARTS),
        MapSpec("lengths", MapType.HASH, 4, 2 * MAX_LENGTHS, MAX_LENGTH_TABLES, NO_PREALLOC),
        MapSpec("ranges", MapType.LPM_TRIE, RANGE_KEY_BYTES, 4, MAX_SET_RANGES, NO_PREALLOC),
        MapSpec("enforcer", MapType.HASH, 8, 4, MAX_ENFORCER, NO_PREALLOC),
        MapSpec("socks", MapType.LRU_HASH, 8, OWNER.size, MAX_SOCKS),
        MapSpec("owners", MapType.PERCPU_ARRAY, 4, OWNER.size, 2 * CONTEXTS),
        MapSpec("exec_text", MapType.HASH, 8, 4096, MAX_EXEC_TEXTS, NO_PREALLOC),
        MapSpec("exec_scratch", MapType.PERCPU_ARRAY, 4, 4096, 1),
        MapSpec("selfcheck", MapType.ARRAY, 4, SELFCHECK.size, 1),
        MapSpec("entering", MapType.HASH, 4, ENTERING.size, MAX_ENTERING, NO_PREALLOC),
        MapSpec("entered", MapType.ARRAY, 4, 4, 1),
        MapSpec("strangers", MapType.HASH, 8, STRANGER.size, MAX_STRANGERS, NO_PREALLOC),
        MapSpec("doors", MapType.ARRAY, 4, DOORS.size, 1),
        MapSpec("held", MapType.HASH, 4, HELD.size, MAX_HELD, NO_PREALLOC),
        MapSpec("hook", MapType.ARRAY, 4, HOOK.size, 1),
        MapSpec("notices", MapType.RINGBUF, 0, 0, NOTICE_RING),
        MapSpec("lineage", MapType.HASH, 4, LINEAGE.size, MAX_LINEAGE, NO_PREALLOC),
        MapSpec("lineage_lost", MapType.ARRAY, 4, LOST_MARKS, 2),
        MapSpec("lineage_state", MapType.ARRAY, 4, LINEAGE_STATE.size, 1),
        MapSpec("lineage_slots", MapType.PROG_ARRAY, 4, 4, LINEAGE_SLOTS),
        MapSpec("lineage_draft", MapType.PERCPU_ARRAY, 4, LINEAGE.size, 1),
        MapSpec("lineage_note", MapType.ARRAY, 4, NOTE.size, 1),
        MapSpec("slots", MapType.PROG_ARRAY, 4, 4, MAX_PROGRAM_SLOTS),
        MapSpec("slots_raw", MapType.PROG_ARRAY, 4, 4, MAX_PROGRAM_SLOTS),
        MapSpec("slots_probe", MapType.PROG_ARRAY, 4, 4, MAX_PROGRAM_SLOTS),
        MapSpec("overrides", MapType.PERCPU_ARRAY, 4, OVERRIDE.size, 1),
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
