# SPDX-License-Identifier: Apache-2.0
"""The structures that bpf/ and user space share: what gcc makes of the C is what the Python says."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path

import pytest

from agent.events import layout as events
from agent.kernel import doors, hookpoints, layout
from agent.kernel.attach import SLOT_MAPS
from agent.kernel.layout import BindingRecord, map_specs
from agent.kernel.tracepoint import ARGS_OFFSET
from agent.policy.codegen import PRELUDE
from agent.policy.plan import MAX_RULES, MAX_SLOTS
from agent.workload.identity import MAX_POLICIES, MAX_WORKLOAD_ID, WORKLOAD_QUARANTINED
from rthook import held
from tests.support.names import project_dir

# What the headers of bpf/ need of the kernel and of bcc to be read by gcc; nothing of it is ever called.
SHIM = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#define PG_LIB_KERNEL_H
#define PG_LIB_PATH_H
#define PG_INLINE static inline
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;
typedef int32_t __s32; typedef int64_t __s64;
#define BPF_ANY 0
#define BPF_NOEXIST 1
static inline void *pg_none(const void *key) { (void)key; return NULL; }
#define pg_lookup(map, key) pg_none(key)
#define pg_update(map, key, value, flags) ((void)(key), (void)(value), 0L)
#define pg_delete(map, key) ((void)(key))
#define pg_map(map) NULL
#define pg_once(lvalue) (*(volatile __typeof__(lvalue) *)&(lvalue))
#define pg_opaque(var) (void)(var)
long bpf_probe_read_user_str(void *, __u32, const void *);
long bpf_probe_read_user(void *, __u32, const void *);
long bpf_probe_read_kernel(void *, __u32, const void *);
long bpf_ringbuf_output(void *, void *, __u64, __u64);
__u64 bpf_get_current_pid_tgid(void), bpf_get_current_uid_gid(void), bpf_get_current_cgroup_id(void);
__u64 bpf_get_current_ancestor_cgroup_id(int), bpf_ktime_get_boot_ns(void);
long bpf_get_current_comm(void *, __u32);
struct pg_string;
static inline void pg_read_binary(struct pg_string *out) { (void)out; }
long bpf_send_signal(__u32), bpf_probe_read_kernel_str(void *, __u32, const void *);
"""
EVENT_FIELDS = (
    *("size", "kind", "flags", "time", "cgroup", "args", "pid", "tid", "uid", "workload", "policy", "rule", "selector"),
    *("error", "reserved", "comm", "len", "slot_flags", "slot_id"),
)
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
STRUCTS = (
    "pg_binding",
    "pg_string",
    "pg_call",
    "pg_event",
    "pg_deferred",
    "pg_exec_text",
    "pg_error_site",
    "pg_hit",
    "pg_selfcheck",
    *DOOR_STRUCTS,
)
NUMBERS = (
    *(
        "PG_STATE_PENDING",
        "PG_STATE_ARMED",
        "PG_POLICY_WORDS",
        "PG_SLOTS",
        "PG_COUNTERS",
        "PG_EVENT_SLOTS",
        "PG_SLOT_ABSENT",
    ),
    *("PG_EVENT_POLICY", "PG_EVENT_DEFERRED", "PG_STRING_CUT_TAIL", "PG_STRING_CUT_HEAD", "PG_STRING_UNREADABLE"),
    *("PG_TEXT_STRING", "PG_TEXT_BYTES", "PG_TEXT_FD", "PG_TEXT_BINARY", "PG_SLOT_BINARY"),
    *("PG_FILE", "PG_MAX_HITS"),
    *("PG_QUARANTINE", "PG_WORKLOAD_QUARANTINED", "PG_FLAG_POD", "PG_NESTED_MAX", "PG_NAME_MAX"),
    *(f"PG_TREAT_{kind.name}" for kind in doors.Treatment),
    *(f"PG_FALL_{kind.name}" for kind in doors.Fallback),
    *(f"PG_NOTICE_{kind.name}" for kind in doors.NoticeKind),
    *(f"PG_COUNT_{name.upper()}" for name in layout.COUNTERS),
)


def selfcheck() -> str:
    """The structure of bpf/base/base.c: the rest of that file needs the kernel's own types."""
    text = (project_dir() / "bpf/base/base.c").read_text()
    return next(re.finditer(r"struct pg_selfcheck \{.*?\};", text, re.DOTALL))[0]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes of structures, offsets of fields and values of constants, by their C text."""
    folder = tmp_path_factory.mktemp("layout")
    wanted = [f"sizeof(struct {name})" for name in STRUCTS]
    wanted += [f"offsetof(struct pg_event, {name})" for name in (*EVENT_FIELDS, "data")]
    wanted += [f"offsetof(struct pg_binding, {name})" for name in BINDING_FIELDS]
    for name, fields in DOOR_STRUCTS.items():
        wanted += [f"offsetof(struct {name}, {field})" for field in fields]
    wanted += [f"offsetof(struct pg_sys_{name})" for name in ("enter, nr", "enter, args", "exit, nr", "exit, ret")]
    wanted += NUMBERS
    prints = "\n".join(f'printf("%s\\"{text}\\": %zu", n++ ? ", " : "", (size_t)({text}));' for text in wanted)
    head = f'{SHIM}{PRELUDE}#include "maps/doors.h"\n{selfcheck()}'
    source = f'{head}\nint main(void) {{ int n = 0; printf("{{"); {prints} printf("}}"); return 0; }}\n'
    (folder / "layout.c").write_text(source)
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


def test_event_header_is_the_c_structure(compiled: dict[str, int]) -> None:
    groups = (1, 1, 1, 1, 1, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8, 8, 8)
    wanted = [compiled[f"offsetof(struct pg_event, {name})"] for name in EVENT_FIELDS]
    assert offsets(events.HEADER, groups) == wanted
    assert events.HEADER.size == compiled["offsetof(struct pg_event, data)"]


def test_binding_is_the_c_structure(compiled: dict[str, int]) -> None:
    wanted = [compiled[f"offsetof(struct pg_binding, {name})"] for name in BINDING_FIELDS]
    assert offsets(layout.BINDING, (1, 1, 16, 1, 1, 1, 1)) == wanted
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


def test_maps_have_the_sizes_of_the_c_structures(compiled: dict[str, int]) -> None:
    sizes = {spec.name: (spec.key, spec.value, spec.entries) for spec in map_specs(4096, 77)}
    size = {name: compiled[f"sizeof(struct {name})"] for name in STRUCTS}
    assert sizes["bindings"] == (8, size["pg_binding"], 77 + 1)
    assert sizes["host"] == (4, size["pg_binding"], 1)
    assert sizes["strings"] == (4, size["pg_string"], compiled["PG_SLOTS"])
    assert sizes["call"] == (4, size["pg_call"], 1)
    assert sizes["record"] == (4, size["pg_event"], 1)
    assert sizes["deferred"][:2] == (8, size["pg_deferred"])
    assert sizes["exec_text"][:2] == (8, size["pg_exec_text"])
    assert sizes["exec_scratch"] == (4, size["pg_exec_text"], 1)
    assert sizes["errors"][:2] == (size["pg_error_site"], 8)
    assert sizes["counters"] == (4, 8, compiled["PG_COUNTERS"])
    assert sizes["events"] == (0, 0, 4096)
    assert sizes["selfcheck"][1] == size["pg_selfcheck"] == layout.SELFCHECK.size
    assert sizes["entering"][:2] == (4, 8)
    assert sizes["entered"] == (4, 4, 1)
    assert sizes["strangers"][:2] == (8, size["pg_stranger"])
    assert sizes["doors"] == (4, size["pg_doors"], 1)
    assert sizes["held"][:2] == (4, size["pg_held"])
    assert sizes["hook"] == (4, size["pg_hook"], 1)
    assert sizes["notices"] == (0, 0, layout.NOTICE_RING)
    assert size["pg_error_site"] == layout.ERROR_SITE.size
    assert {sizes[name] for name in SLOT_MAPS.values()} == {(4, 4, layout.MAX_PROGRAM_SLOTS)}
    assert 8 * hookpoints.MAX_HOOK_POINTS == layout.MAX_PROGRAM_SLOTS


def test_counters_are_in_the_order_of_the_enum(compiled: dict[str, int]) -> None:
    assert [compiled[f"PG_COUNT_{name.upper()}"] for name in layout.COUNTERS] == list(range(compiled["PG_COUNTERS"]))


def test_constants_are_those_of_the_headers(compiled: dict[str, int]) -> None:
    assert (compiled["PG_STATE_PENDING"], compiled["PG_STATE_ARMED"]) == (layout.STATE_PENDING, layout.STATE_ARMED)
    assert (compiled["PG_EVENT_SLOTS"], compiled["PG_SLOT_ABSENT"]) == (events.SLOTS, events.ABSENT)
    assert (compiled["PG_EVENT_POLICY"], compiled["PG_EVENT_DEFERRED"]) == (events.KIND_POLICY, events.FLAG_DEFERRED)
    cuts = ("PG_STRING_CUT_TAIL", "PG_STRING_CUT_HEAD", "PG_STRING_UNREADABLE")
    assert tuple(compiled[name] for name in cuts) == (events.CUT_TAIL, events.CUT_HEAD, events.UNREADABLE)
    kinds = {"PG_TEXT_STRING": "string", "PG_TEXT_BYTES": "char_buf", "PG_TEXT_FD": "fd"}
    assert {compiled[name] >> 4: kind for name, kind in kinds.items()} == events.TEXT_KINDS
    assert compiled["PG_TEXT_BINARY"] == events.BINARY_ID


def test_doors_say_the_same_on_both_sides(compiled: dict[str, int]) -> None:
    assert {kind: compiled[f"PG_TREAT_{kind.name}"] for kind in doors.Treatment} == {
        kind: kind for kind in doors.Treatment
    }
    assert {kind: compiled[f"PG_FALL_{kind.name}"] for kind in doors.Fallback} == {
        kind: kind for kind in doors.Fallback
    }
    assert {kind: compiled[f"PG_FALL_{kind.name}"] for kind in held.Fallback} == {kind: kind for kind in held.Fallback}
    kinds = {kind: compiled[f"PG_NOTICE_{kind.name}"] for kind in doors.NoticeKind}
    assert kinds == {kind: kind.value for kind in doors.NoticeKind}


def test_quarantine_is_the_same_on_both_sides(compiled: dict[str, int]) -> None:
    assert compiled["PG_QUARANTINE"] == layout.QUARANTINE
    assert compiled["PG_WORKLOAD_QUARANTINED"] == WORKLOAD_QUARANTINED == MAX_WORKLOAD_ID + 1
    assert compiled["PG_FLAG_POD"] == layout.FLAG_POD
    assert compiled["PG_NESTED_MAX"] == layout.NESTED_MAX


def test_files_of_failure_sites_are_those_that_name_their_number() -> None:
    for number, name in layout.FILES.items():
        assert f"#define PG_FILE {number}\n" in (Path(project_dir()) / name).read_text()


def test_binding_record_survives_packing() -> None:
    record = BindingRecord(1 << 1023 | 1 << 64 | 1, 2**64 - 1, 5, 2**32 - 1, layout.STATE_PENDING, 7, layout.FLAG_POD)
    assert BindingRecord.unpack(record.pack()) == record
    assert len(record.pack()) == 160


def test_every_file_counts_its_failures_under_its_own_number(compiled: dict[str, int]) -> None:
    bpf = project_dir() / "bpf"
    counting = {
        str(path.relative_to(bpf.parent))
        for path in [*bpf.rglob("*.c"), *bpf.rglob("*.h")]
        if re.search(r"\bpg_failed\((?!result\))", path.read_text())
    }
    assert counting == set(layout.FILES.values())
    assert layout.FILES[compiled["PG_FILE"]] == "bpf/lib/syscall.h", "as compiled rules include it"


def test_limits_are_the_same_on_both_sides(compiled: dict[str, int]) -> None:
    assert compiled["PG_MAX_HITS"] == MAX_RULES
    assert compiled["PG_SLOT_BINARY"] == MAX_SLOTS
    assert compiled["PG_POLICY_WORDS"] * 64 == MAX_POLICIES


def test_record_of_a_system_call_is_where_attach_looks(compiled: dict[str, int]) -> None:
    assert [compiled[f"offsetof(struct pg_sys_{name}, nr)"] for name in ("enter", "exit")] == [8, 8]
    places = compiled["offsetof(struct pg_sys_enter, args)"], compiled["offsetof(struct pg_sys_exit, ret)"]
    assert places == (ARGS_OFFSET, ARGS_OFFSET)
