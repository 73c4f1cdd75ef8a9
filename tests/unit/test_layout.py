# SPDX-License-Identifier: Apache-2.0
"""The structures that bpf/ and user space share: what gcc makes of the C is what the Python says."""

from __future__ import annotations

import json
import re
import struct
import subprocess

import pytest

from agent.events import layout as events
from agent.kernel import doors, layout
from agent.kernel.attach import SLOT_MAPS
from agent.kernel.layout import BindingRecord, map_specs
from agent.kernel.tracepoint import ARGS_OFFSET
from agent.placing import FIRST_VALUE
from agent.policy import automaton, sets
from agent.policy.access import MAX_DATA, MAX_TEXT
from agent.policy.lineage import MAX_PREDICATES
from agent.policy.model import ActionKind, CapabilityType, NamespaceType
from agent.policy.plan import MAX_CHUNKS, MAX_INPUTS, MAX_NUMBERS, MAX_RULES, MAX_TEXTS
from agent.workload.identity import MAX_POLICIES, MAX_WORKLOAD_ID, WORKLOAD_QUARANTINED
from rthook import held
from tests.support.names import project_dir

# What the headers of bpf/ need of the kernel and of bcc to be read by gcc; nothing of it is ever called.
SHIM = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#define PG_LIB_KERNEL_H
#define PG_INLINE static inline
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;
typedef int32_t __s32; typedef int64_t __s64;
#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_FUNC_tail_call NULL
static inline void *pg_none(const void *key) { (void)key; return NULL; }
#define pg_lookup(map, key) pg_none(key)
#define pg_update(map, key, value, flags) ((void)(key), (void)(value), 0L)
#define pg_delete(map, key) ((void)(key))
#define pg_map(map) NULL
#define pg_once(lvalue) (*(volatile __typeof__(lvalue) *)&(lvalue))
#define pg_opaque(var) (void)(var)
#define pg_read(dst, address) bpf_probe_read_kernel(&(dst), sizeof(dst), address)
struct task_struct { struct task_struct *group_leader; __u64 start_boottime; };
long bpf_probe_read_user_str(void *, __u32, const void *);
long bpf_probe_read_user(void *, __u32, const void *);
long bpf_probe_read_kernel(void *, __u32, const void *);
long bpf_ringbuf_output(void *, void *, __u64, __u64);
void *bpf_ringbuf_reserve(void *, __u64, __u64);
void bpf_ringbuf_submit(void *, __u64), bpf_ringbuf_discard(void *, __u64);
__u64 bpf_ringbuf_query(void *, __u64);
__u32 bpf_get_smp_processor_id(void);
#define BPF_RB_AVAIL_DATA 0
#define BPF_RB_RING_SIZE 1
long bpf_get_stack(void *, void *, __u32, __u64);
__u64 bpf_get_current_pid_tgid(void), bpf_get_current_uid_gid(void), bpf_get_current_cgroup_id(void);
__u64 bpf_get_current_ancestor_cgroup_id(int), bpf_ktime_get_boot_ns(void), bpf_ktime_get_ns(void);
__u64 bpf_get_current_task(void);
long bpf_get_current_comm(void *, __u32);
"""
HEADERS = (*("bindings", "call", "counters", "deferred", "doors", "events", "process", "socks", "stats", "strings"),)
EVENT_FIELDS = (
    *("size", "kind", "flags", "time", "cgroup", "pid", "tid", "uid", "workload", "policy", "rule", "selector"),
    *("error", "return_selector", "items", "comm", "start"),
)
PART_FIELDS = ("size", "kind", "reserved", "len", "offset", "serial")
REST_FIELDS = ("serial", "size", "reserved")
ITEM_FIELDS = ("id", "len", "mode", "flags", "kind", "reserved")
BINDING_FIELDS = ("self", "owner", "policies", "workload", "state", "init_pid", "flags")
DOOR_STRUCTS: dict[str, tuple[str, ...]] = {
    "pg_doors": ("treatment", "fallback", "heartbeat", "stale", "deadline", "apart"),
    "pg_stranger": ("seen", "execs", "reserved"),
    "pg_held": ("cgroup", "since", "start"),
    "pg_hook": ("inode", "device", "reserved"),
    "pg_notice": (
        *("kind", "treatment", "cgroup", "above", "time", "pid", "parent", "ns_pid", "level", "comm", "name"),
    ),
}
LINEAGE_FIELDS = (
    *("start", "written", "scanned", "bits", "parent_bits", "before", "parent_before", "caps", "ns"),
    *("snapshot", "unknown", "slack", "reserved"),
)
OWNER_FIELDS = (
    *("sock", "inode", "tuple", "record", "cgroup", "process", "start", "pid", "tid", "uid", "reserved", "comm"),
)
RETURN_KEY_FIELDS = ("pid_tgid", "frame", "attachment", "chunk")


def _words(name: str) -> str:
    """PidForChildren: PID_FOR_CHILDREN."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).upper()


STRUCTS = (
    *("pg_binding", "pg_entering", "pg_string", "pg_call", "pg_event", "pg_item", "pg_part", "pg_rest", "pg_hit"),
    *("pg_deferred", "pg_exec_awaited", "pg_exec_text", "pg_return_key", "pg_awaited", "pg_return"),
    *("pg_stat", "pg_modes", "pg_rate_key", "pg_error_site", "pg_selfcheck"),
    *("pg_lineage", "pg_lineage_state", "pg_lost", "pg_note", "pg_override", "pg_owner"),
    *DOOR_STRUCTS,
)
# Constants of the C, and what the Python has for them.
CONSTANTS = {
    "PG_STATE_PENDING": layout.STATE_PENDING,
    "PG_STATE_ARMED": layout.STATE_ARMED,
    "PG_POLICY_WORDS": layout.POLICY_WORDS,
    "PG_POLICY_WORDS * 64": MAX_POLICIES,
    "PG_COUNTERS": len(layout.COUNTERS),
    "PG_STATS": len(layout.STATS),
    "PG_STAT_RETURN": layout.STAT_RETURN,
    "PG_CONTEXTS": layout.CONTEXTS,
    "PG_SLOTS": layout.SLOTS,
    "PG_TEXTS": MAX_TEXTS,
    "PG_NUMBERS": MAX_NUMBERS,
    "PG_INPUTS": MAX_INPUTS,
    "PG_MAX_HITS": MAX_RULES,
    "PG_STRING_MAX": MAX_TEXT,
    "PG_DATA_MAX": MAX_DATA,
    "PG_EVENT_POLICY": events.KIND_POLICY,
    "PG_EVENT_PART": events.KIND_PART,
    "PG_ITEM_NUMBER": events.ITEM_NUMBER,
    "PG_ITEM_BYTES": events.ITEM_BLOB,
    "PG_ITEM_REST": events.ITEM_REST,
    "PG_EVENT_DEFERRED": events.FLAG_DEFERRED,
    "PG_EVENT_RETURN": events.FLAG_RETURN,
    "PG_EVENT_MONITOR": events.FLAG_MONITOR,
    "PG_EVENT_CUT": events.FLAG_CUT,
    "PG_EVENT_PARTED": events.FLAG_PARTED,
    "offsetof(struct pg_event, kind)": events.KIND_AT,
    "offsetof(struct pg_part, kind)": events.KIND_AT,
    "offsetof(struct pg_block, data)": events.PART.size,
    "offsetof(struct pg_page, data)": events.PART.size,
    "PG_EVENT_SOCKET": events.FLAG_SOCKET,
    "PG_NO_SELECTOR": events.NO_SELECTOR,
    "PG_STRING_CUT_TAIL": events.CUT_TAIL,
    "PG_STRING_CUT_HEAD": events.CUT_HEAD,
    "PG_STRING_UNREADABLE": events.UNREADABLE,
    "PG_STRING_DELETED": events.DELETED,
    "PG_STRING_OUTSIDE": events.OUTSIDE,
    "PG_ID_BINARY": events.BINARY_ID,
    "PG_ID_PARENT": events.PARENT_BINARY_ID,
    "PG_ID_KERNEL_STACK": events.KERNEL_STACK_ID,
    "PG_ID_USER_STACK": events.USER_STACK_ID,
    "PG_QUARANTINE": layout.QUARANTINE,
    "PG_WORKLOAD_QUARANTINED": WORKLOAD_QUARANTINED,
    "PG_FLAG_POD": layout.FLAG_POD,
    "PG_NESTED_MAX": layout.NESTED_MAX,
    "PG_LINEAGE_WORDS": layout.LINEAGE_WORDS,
    "PG_LINEAGE_WORDS * 64": MAX_PREDICATES,
    "PG_LOST_MARKS": layout.LOST_MARKS,
    "PG_LINEAGE_EVENTS": layout.LINEAGE_EVENTS,
    "PG_AUTOMATON_BYTES": automaton.TABLE_BYTES,
    "PG_AUTOMATON_FOUND": automaton.FOUND,
    "2 * PG_AUTOMATON_FIRST": automaton.HEADER.size + automaton.CLASSES,
    "sizeof(union pg_automaton)": automaton.TABLE_BYTES,
    "PG_SET_LENGTHS": sets.MAX_LENGTHS,
    "sizeof(struct pg_set_key)": 8 + sets.ROOMS[-1],
    "sizeof(struct pg_part_key)": 8 + sets.PARTS[-1],
    "offsetof(struct pg_part_key, text)": 8,
    "offsetof(struct pg_range_key, second)": 16,
    "offsetof(union pg_automaton, of_byte)": automaton.HEADER.size,
    "offsetof(struct pg_string, context)": layout.STRING_CONTEXT_AT,
    "offsetof(struct pg_call, context)": layout.CALL_CONTEXT_AT,
    "offsetof(struct pg_sys_enter, args)": ARGS_OFFSET,
    "offsetof(struct pg_sys_exit, ret)": ARGS_OFFSET,
    "offsetof(struct pg_sys_enter, nr)": 8,
    "offsetof(struct pg_sys_exit, nr)": 8,
    **{f"PG_COUNT_{name.upper()}": number for number, name in enumerate(layout.COUNTERS)},
    **{f"PG_STAT_{name.upper()}": number for number, name in enumerate(layout.STATS)},
    **{f"PG_NS_{_words(kind.value)}": number for number, kind in enumerate(NamespaceType)},
    **{f"PG_CAP_{kind.name}": number for number, kind in enumerate(CapabilityType)},
    **{f"PG_TREAT_{kind.name}": kind.value for kind in doors.Treatment},
    **{f"PG_FALL_{kind.name}": kind.value for kind in doors.Fallback},
    **{f"PG_NOTICE_{kind.name}": kind.value for kind in doors.NoticeKind},
}


def structures(file: str, *names: str) -> str:
    """Structures of a file of which the rest needs the kernel's own types."""
    text = (project_dir() / "bpf" / file).read_text()
    found = (re.search(rf"struct {name} \{{.*?\}};", text, re.DOTALL) for name in names)
    return "\n".join(each[0] for each in found if each)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes of structures, offsets of fields and values of constants, by their C text."""
    folder = tmp_path_factory.mktemp("layout")
    fields = {
        "pg_event": (*EVENT_FIELDS, "data"),
        "pg_item": ITEM_FIELDS,
        "pg_part": PART_FIELDS,
        "pg_rest": REST_FIELDS,
        "pg_binding": BINDING_FIELDS,
        "pg_lineage": LINEAGE_FIELDS,
        "pg_return_key": RETURN_KEY_FIELDS,
        "pg_owner": OWNER_FIELDS,
        **DOOR_STRUCTS,
    }
    wanted = [f"sizeof(struct {name})" for name in STRUCTS]
    wanted += [f"offsetof(struct {name}, {field})" for name, known in fields.items() for field in known]
    wanted += [*CONSTANTS, "PG_STAT_MONITOR", "PG_SLOT_BINARY", "PG_EVENT_DATA", "PG_STRING_ROOM", "PG_CONTEXT_BASE"]
    prints = "\n".join(f'printf("%s\\"{text}\\": %zu", n++ ? ", " : "", (size_t)({text}));' for text in wanted)
    includes = "".join(f'#include "maps/{name}.h"\n' for name in HEADERS)
    includes += "".join(f'#include "lib/{name}.h"\n' for name in ("sets", "automaton", "data"))
    shared = structures("base/base.c", "pg_selfcheck") + structures("lib/syscall.h", "pg_sys_enter", "pg_sys_exit")
    shared += structures("lib/function.h", "pg_override")
    source = f'{SHIM}{includes}{shared}\nint main(void) {{ int n = 0; printf("{{"); {prints} '
    (folder / "layout.c").write_text(f'{source}printf("}}"); return 0; }}\n')
    flags = ["-std=gnu11", "-O2", "-w", f"-I{project_dir() / 'bpf'}", "-Wl,--unresolved-symbols=ignore-all", "-no-pie"]
    subprocess.run(["gcc", *flags, "-o", folder / "layout", folder / "layout.c"], check=True)
    values: dict[str, int] = json.loads(subprocess.run([folder / "layout"], capture_output=True, check=True).stdout)
    return values


def offsets(form: struct.Struct, groups: tuple[int, ...]) -> list[int]:
    """Where each field begins in a packed struct; groups: how many values each field has."""
    codes = _codes(form.format[1:])
    found, at, position = [], 0, 0
    for count in groups:
        found.append(at)
        at += struct.calcsize("<" + "".join(codes[position : position + count]))
        position += count
    return found


def _codes(text: str) -> list[str]:
    """One code for each value of a format."""
    codes, number = [], ""
    for character in text:
        if character.isdigit():
            number += character
            continue
        codes += [f"{number}s"] if character == "s" else [character] * int(number or 1)
        number = ""
    return codes


def offsets_in(compiled: dict[str, int], name: str, fields: tuple[str, ...]) -> list[int]:
    return [compiled[f"offsetof(struct {name}, {field})"] for field in fields]


def test_events_are_the_c_structures(compiled: dict[str, int]) -> None:
    assert offsets(events.HEADER, (1,) * len(EVENT_FIELDS)) == offsets_in(compiled, "pg_event", EVENT_FIELDS)
    assert events.HEADER.size == compiled["offsetof(struct pg_event, data)"]
    assert offsets(events.ITEM, (1,) * len(ITEM_FIELDS)) == offsets_in(compiled, "pg_item", ITEM_FIELDS)
    assert events.ITEM.size == compiled["sizeof(struct pg_item)"]
    assert offsets(events.PART, (1,) * len(PART_FIELDS)) == offsets_in(compiled, "pg_part", PART_FIELDS)
    assert events.PART.size == compiled["sizeof(struct pg_part)"]
    assert offsets(events.REST, (1,) * len(REST_FIELDS)) == offsets_in(compiled, "pg_rest", REST_FIELDS)
    assert events.REST.size == compiled["sizeof(struct pg_rest)"]
    assert events.MAX_BLOB == MAX_DATA


def test_lineage_is_the_c_structure(compiled: dict[str, int]) -> None:
    groups = (1, 1, 1, 4, 4, 4, 4, 3, 10, 1, 1, 1, 1)
    assert offsets(layout.LINEAGE, groups) == offsets_in(compiled, "pg_lineage", LINEAGE_FIELDS)
    assert offsets(layout.RETURN_KEY, (1,) * 4) == offsets_in(compiled, "pg_return_key", RETURN_KEY_FIELDS)


def test_owner_is_the_c_structure(compiled: dict[str, int]) -> None:
    assert offsets(layout.OWNER, (1,) * len(OWNER_FIELDS)) == offsets_in(compiled, "pg_owner", OWNER_FIELDS)


def test_binding_is_the_c_structure(compiled: dict[str, int]) -> None:
    wanted = [compiled[f"offsetof(struct pg_binding, {name})"] for name in BINDING_FIELDS]
    assert offsets(layout.BINDING, (1, 1, layout.POLICY_WORDS, 1, 1, 1, 1)) == wanted
    assert layout.BINDING.size == compiled["sizeof(struct pg_binding)"]
    assert compiled["PG_POLICY_WORDS"] == layout.POLICY_WORDS


@pytest.mark.parametrize(
    ("name", "form", "groups"),
    [
        ("pg_doors", layout.DOORS, (1,) * 6),
        ("pg_stranger", layout.STRANGER, (1,) * 3),
        ("pg_held", layout.HELD, (1,) * 3),
        ("pg_hook", layout.HOOK, (1,) * 3),
        ("pg_notice", layout.NOTICE, (1,) * 11),
        ("pg_doors", held.DOORS, (1,) * 6),
        ("pg_held", held.HELD, (1,) * 3),
    ],
)
def test_doors_are_the_c_structures(
    compiled: dict[str, int], name: str, form: struct.Struct, groups: tuple[int, ...]
) -> None:
    assert offsets(form, groups) == [compiled[f"offsetof(struct {name}, {field})"] for field in DOOR_STRUCTS[name]]
    assert form.size == compiled[f"sizeof(struct {name})"]


# Key and value of every map: a C structure, or bytes.
MAPS: dict[str, tuple[str | int, str | int]] = {
    "bindings": (8, "pg_binding"),
    "arming": (8, 4),
    "host": (4, "pg_binding"),
    "nested": (8, 8),
    "search": (4, 4),
    "counters": (4, 8),
    "errors": ("pg_error_site", 8),
    "strings": (4, "pg_string"),
    "calls": (4, "pg_call"),
    "records": (4, "pg_event"),
    "events": (0, 0),
    "deferred": (8, "pg_deferred"),
    "awaited": ("pg_return_key", "pg_awaited"),
    "returns": ("pg_return_key", "pg_return"),
    "return_scratch": (4, "pg_return"),
    "stats": (8, "pg_stat"),
    "modes": (4, "pg_modes"),
    "rates": ("pg_rate_key", 8),
    "automata": (4, automaton.TABLE_BYTES),
    **{f"texts_{room}": (8 + room, 4) for room in sets.ROOMS},
    **{f"parts_{size}": (8 + size, 4) for size in sets.PARTS},
    "lengths": (4, 2 * sets.MAX_LENGTHS),
    "ranges": (24, 4),
    "enforcer": (8, 4),
    "socks": (8, "pg_owner"),
    "owners": (4, "pg_owner"),
    "exec_text": (8, "pg_exec_text"),
    "exec_awaited": (8, "pg_exec_awaited"),
    "exec_scratch": (4, "pg_exec_text"),
    "selfcheck": (4, "pg_selfcheck"),
    "entering": (4, "pg_entering"),
    "entered": (4, 4),
    "strangers": (8, "pg_stranger"),
    "doors": (4, "pg_doors"),
    "held": (4, "pg_held"),
    "hook": (4, "pg_hook"),
    "notices": (0, 0),
    "lineage": (4, "pg_lineage"),
    "lineage_lost": (4, "pg_lost"),
    "lineage_state": (4, "pg_lineage_state"),
    "lineage_slots": (4, 4),
    "lineage_draft": (4, "pg_lineage"),
    "lineage_note": (4, "pg_note"),
    "overrides": (4, "pg_override"),
    **dict.fromkeys(SLOT_MAPS.values(), (4, 4)),
}
FAMILIES = {"texts": sets.ROOMS, "parts": sets.PARTS}  # named by a size that the C is given
FORMS = {
    "pg_binding": layout.BINDING,
    "pg_entering": layout.ENTERING,
    "pg_stat": layout.STAT,
    "pg_modes": layout.MODES,
    "pg_error_site": layout.ERROR_SITE,
    "pg_selfcheck": layout.SELFCHECK,
    "pg_return_key": layout.RETURN_KEY,
    "pg_lineage": layout.LINEAGE,
    "pg_lineage_state": layout.LINEAGE_STATE,
    "pg_note": layout.NOTE,
    "pg_owner": layout.OWNER,
    "pg_override": layout.OVERRIDE,
}


def test_maps_have_the_sizes_of_the_c_structures(compiled: dict[str, int]) -> None:
    def size(of: str | int) -> int:
        return of if isinstance(of, int) else compiled[f"sizeof(struct {of})"]

    wanted = {name: (size(key), size(value)) for name, (key, value) in MAPS.items()}
    assert {spec.name: (spec.key, spec.value) for spec in map_specs(4096, 77)} == wanted
    assert {name: compiled[f"sizeof(struct {name})"] for name in FORMS} == {n: form.size for n, form in FORMS.items()}


def test_every_map_of_the_c_text_is_made() -> None:
    """And no other."""
    texts = [path.read_text() for path in (project_dir() / "bpf").rglob("*.[ch]")]
    used = {name for text in texts for name in re.findall(r"\bpg_(?:lookup|update|delete|map)\((\w+)[,)]", text)}
    families = {f"{name}_{size}" for name, sizes in FAMILIES.items() for size in sizes}
    assert used - {"name"} | set(SLOT_MAPS.values()) | families == set(MAPS)
    assert all(any(f"pg_map({name}_##" in text for text in texts) for name in FAMILIES)


def test_maps_have_as_many_entries_as_their_indexes(compiled: dict[str, int]) -> None:
    entries = {spec.name: spec.entries for spec in map_specs(4096, 77)}
    assert entries["bindings"] == 77 + 1
    assert entries["events"] == 4096
    assert entries["counters"] == compiled["PG_COUNTERS"]
    assert entries["strings"] == compiled["PG_CONTEXTS"] * compiled["PG_SLOTS"]
    assert {entries[name] for name in ("calls", "records", "return_scratch")} == {compiled["PG_CONTEXTS"]}
    assert {entries[name] for name in SLOT_MAPS.values()} == {layout.MAX_PROGRAM_SLOTS}
    assert entries["owners"] == 2 * compiled["PG_CONTEXTS"]
    assert entries["lineage_slots"] == 1 + 2 * compiled["PG_LINEAGE_EVENTS"]
    assert entries["notices"] == layout.NOTICE_RING


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_those_of_the_headers(compiled: dict[str, int], name: str) -> None:
    assert compiled[name] == CONSTANTS[name]


def test_slots_of_rules_are_below_those_of_binaries(compiled: dict[str, int]) -> None:
    assert compiled["PG_SLOT_BINARY"] == MAX_TEXTS
    assert compiled["PG_CONTEXT_BASE"] == layout.CONTEXTS - 1
    assert FIRST_VALUE == events.FIRST_VALUE > max(events.KERNEL_STACK_ID, events.USER_STACK_ID)


def test_what_monitor_mode_leaves_out_is_counted_beside_what_is_done(compiled: dict[str, int]) -> None:
    twins = {name for name in layout.STATS if f"monitor_{name}" in layout.STATS}
    assert twins == {_counter(kind) for kind in ActionKind if kind.enforces}
    places = {name: layout.STATS.index(f"monitor_{name}") - layout.STATS.index(name) for name in twins}
    assert places == dict.fromkeys(twins, compiled["PG_STAT_MONITOR"])


def _counter(kind: ActionKind) -> str:
    return _words(kind.value).lower()


def test_programs_of_a_chain_are_fewer_than_the_kernel_lets_follow_each_other() -> None:
    """MAX_TAIL_CALL_CNT of include/linux/bpf.h is 33; one is the dispatcher's."""
    assert MAX_CHUNKS < 33


def test_the_hook_and_the_agent_say_the_same() -> None:
    assert {kind.name: kind.value for kind in held.Fallback} == {kind.name: kind.value for kind in doors.Fallback}
    assert WORKLOAD_QUARANTINED == MAX_WORKLOAD_ID + 1


def test_binding_record_survives_packing() -> None:
    record = BindingRecord(1 << 2047 | 1 << 64 | 1, 2**64 - 1, 5, 2**32 - 1, layout.STATE_PENDING, 7, layout.FLAG_POD)
    assert BindingRecord.unpack(record.pack()) == record
    assert len(record.pack()) == 288


def test_every_file_counts_its_failures_under_its_own_number() -> None:
    """By PG_FILE, or by the number itself."""
    bpf = project_dir() / "bpf"
    counting = {}
    for path in [*bpf.rglob("*.c"), *bpf.rglob("*.h")]:
        text = path.read_text()
        own = re.search(r"#define PG_FILE (\d+)\n", text)
        direct = re.search(r"pg_error_at\(\((\d+) << 16\)", text)
        if re.search(r"\bpg_failed\((?!result\))", text) or direct:
            number = direct or own
            assert number, path
            counting[int(number[1])] = str(path.relative_to(bpf.parent))
    assert counting == layout.FILES
