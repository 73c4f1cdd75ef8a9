# SPDX-License-Identifier: Apache-2.0
"""Processes as /proc shows them, and what they met before a predicate was in force."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import layout
from agent.kernel.process_scan import (
    HOST_USER,
    OTHER_USER,
    TICK_NS,
    Before,
    Lookup,
    Process,
    Record,
    Snapshot,
    parse_stat,
    read_host_namespaces,
    read_namespace_pid,
    read_namespaces,
    read_process,
    read_processes,
    read_snapshot,
)
from agent.policy.lineage import BinaryPredicate, PidPredicate, Placed
from agent.policy.model import NamespaceType
from tests.support.names import project_dir

# What bpf/maps/process.h needs of the kernel and of bcc to be read by gcc; nothing of it is ever called.
SHIM = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#define PG_LIB_KERNEL_H
#define PG_MAPS_COUNTERS_H
#define PG_INLINE static inline
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64; typedef int32_t __s32;
#define BPF_FUNC_tail_call 12
#define PG_COUNT_LINEAGE_FULL 0
#define pg_lookup(map, key) ((void)(key), NULL)
#define pg_map(map) NULL
#define pg_once(lvalue) (*(volatile __typeof__(lvalue) *)&(lvalue))
#define pg_opaque(var) (void)(var)
#define pg_count(counter) (void)(counter)
"""
SHELL = Placed(BinaryPredicate("In", (b"/bin/sh",)), 0, 100)
TEN = Placed(PidPredicate((10,), False), 1, 100)
INNER = Placed(PidPredicate((3,), True), 65, 100)
STRUCTURES: dict[str, tuple[str, ...]] = {
    "pg_lineage": (
        *("start", "written", "scanned", "bits", "parent_bits", "before", "parent_before", "caps", "ns", "snapshot"),
        *("unknown", "slack", "reserved"),
    ),
    "pg_lineage_state": ("set", "scanning", "side", "reserved"),
    "pg_note": ("tgid", "kind", "error", "present", "record"),
}
OFFSETS = {
    "pg_lineage": [0, 8, 16, 24, 56, 88, 120, 152, 176, 216, 220, 224, 228],
    "pg_lineage_state": [0, 4, 8, 12],
    "pg_note": [0, 4, 8, 12, 16],
}


def process(pid: int, parent: int, image: bytes = b"/bin/other", start: int = 50) -> Process:
    return Process(pid, parent, start, image, Path("/nowhere"))


def before(
    *processes: Process, records: Mapping[int, Record] | None = None, new: tuple[Placed, ...] = (SHELL, TEN)
) -> dict[int, Before]:
    lookup = Lookup({each.pid: each for each in processes}, records or {}, new)
    return {each.pid: lookup.of(each) for each in processes}


def test_image_counts_for_all_below() -> None:
    found = before(process(1, 0), process(2, 1, b"/bin/sh"), process(3, 2), process(4, 3), process(5, 1))
    assert found == {1: Before(), 2: Before(1), 3: Before(1, 1), 4: Before(1, 1), 5: Before()}


def test_pid_counts_below_it() -> None:
    assert before(process(10, 1), process(11, 10), process(12, 11)) == {
        10: Before(),
        11: Before(2),
        12: Before(2, 2),
    }


def test_execve_that_the_kernel_saw_counts_only_for_what_was_forked_since() -> None:
    """Its children of before are not descendants of that image; those of after have their own records."""
    seen = {2: Record(50, written=200, bits=1)}
    assert before(process(2, 1, b"/bin/sh"), process(3, 2), records=seen)[3] == Before()
    stale = {2: Record(50, written=99, bits=1)}
    assert before(process(2, 1, b"/bin/sh"), process(3, 2), records=stale)[3] == Before(1, 1)


def test_parents_that_go_in_a_circle_end() -> None:
    """Pids were reused while /proc was read."""
    assert set(before(process(2, 3, b"/bin/sh"), process(3, 2))) == {2, 3}


def test_long_line_of_ancestors_is_no_recursion() -> None:
    line = [process(1, 0, b"/bin/sh"), *(process(pid, pid - 1) for pid in range(2, 5000))]
    assert before(*line)[4999] == Before(3, 3)  # by the image of 1, and the pid 10


def write_process(
    procfs: Path, pid: int, stat: str, status: str = "", links: Mapping[str, str] | None = None, task: int = 0
) -> Path:
    folder = procfs / str(pid) / "task" / str(task) if task else procfs / str(pid)
    (folder / "ns").mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(stat)
    (folder / "status").write_text(status)
    for name, target in (links or {}).items():
        (folder / name).symlink_to(target)
    return folder


def stat_line(pid: int, state: str = "S", parent: int = 1, threads: int = 1, start: int = 1234) -> str:
    return f"{pid} (a) 1 R (b) {state} {parent} " + "0 " * 15 + f"{threads} 0 {start} 0 0"


def test_stat_is_read_behind_the_name() -> None:
    assert parse_stat(stat_line(7, "Z", 3, 2, 99).encode()) == ("Z", 3, 2, 99)


def test_process_is_read(tmp_path: Path) -> None:
    write_process(tmp_path, 7, stat_line(7, parent=3), links={"exe": "/bin/sh", "root": "/"})
    assert read_processes(tmp_path) == {7: Process(7, 3, 1234 * TICK_NS, b"/bin/sh", tmp_path / "7")}


@pytest.mark.parametrize(
    ("exe", "root", "image"),
    [
        ("/bin/sh", "/", b"/bin/sh"),
        ("/jail/bin/sh", "/jail", b"/bin/sh"),
        ("/jailed/sh", "/jail", b"/jailed/sh"),
        ("/bin/sh (deleted)", "/", b"/bin/sh"),
    ],
)
def test_image_is_what_the_process_sees(tmp_path: Path, exe: str, root: str, image: bytes) -> None:
    write_process(tmp_path, 7, stat_line(7), links={"exe": exe, "root": root})
    found = read_process(tmp_path, 7)
    assert found
    assert found.image == image


def test_name_that_ends_like_a_deleted_one_is_a_name(tmp_path: Path) -> None:
    program = tmp_path / "sh (deleted)"
    program.touch()
    write_process(tmp_path, 7, stat_line(7), links={"exe": str(program), "root": "/"})
    found = read_process(tmp_path, 7)
    assert found
    assert found.image == str(program).encode()


def test_kernel_thread_has_no_image(tmp_path: Path) -> None:
    write_process(tmp_path, 7, stat_line(7))
    found = read_process(tmp_path, 7)
    assert found
    assert found.image == b""


def test_image_that_is_not_told_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> bytes:
        raise PermissionError

    write_process(tmp_path, 7, stat_line(7))
    monkeypatch.setattr("agent.kernel.process_scan.os.readlink", refuse)
    found = read_process(tmp_path, 7)
    assert found
    assert found.image is None
    assert read_namespaces(found.task) == {}


def test_process_lives_as_long_as_one_of_its_threads(tmp_path: Path) -> None:
    write_process(tmp_path, 7, stat_line(7, "Z", threads=2))
    write_process(tmp_path, 7, stat_line(7, "Z"), task=7)
    alive = write_process(tmp_path, 7, stat_line(8), links={"exe": "/bin/sh", "root": "/"}, task=8)
    found = read_process(tmp_path, 7)
    assert found
    assert (found.image, found.task) == (b"/bin/sh", alive)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_process_that_has_ended_is_gone(tmp_path: Path, state: str) -> None:
    write_process(tmp_path, 7, stat_line(7, state))
    assert read_process(tmp_path, 7) is None
    assert read_process(tmp_path, 8) is None


def test_snapshot_has_the_order_of_the_enums(tmp_path: Path) -> None:
    status = "Name:\ta\nNStgid:\t7\t3\nCapInh:\t2\nCapPrm:\tff\nCapEff:\t1f\n"
    folder = write_process(tmp_path, 7, stat_line(7), status, {"exe": "/bin/sh", "root": "/"})
    for name, number in (("uts", 1), ("net", 6), ("user", 10)):
        (folder / "ns" / name).symlink_to(f"{name}:[{number}]")
    found = read_process(tmp_path, 7)
    assert found
    assert read_snapshot(found, 10) == Snapshot((1, 0, 0, 0, 0, 6, 0, 0, 0, 10), (0x1F, 2, 0xFF), HOST_USER)
    assert read_snapshot(found, 11) == Snapshot((1, 0, 0, 0, 0, 6, 0, 0, 0, 10), (0x1F, 2, 0xFF), OTHER_USER)
    assert read_namespace_pid(found) == 3


def test_namespaces_of_the_host_are_those_of_its_first_process_or_of_the_kernel(tmp_path: Path) -> None:
    assert read_host_namespaces(tmp_path) == {}
    kernel = write_process(tmp_path, 2, stat_line(2))
    (kernel / "ns/user").symlink_to("user:[5]")
    assert read_host_namespaces(tmp_path) == {NamespaceType.USER: 5}
    first = write_process(tmp_path, 1, stat_line(1))
    (first / "ns/user").symlink_to("user:[6]")
    assert read_host_namespaces(tmp_path) == {NamespaceType.USER: 6}


sets = st.integers(0, 2**256 - 1)
words = st.integers(0, 2**64 - 1)
snapshots = st.builds(
    Snapshot,
    st.tuples(*[st.integers(0, 2**32 - 1)] * 10),
    st.tuples(*[words] * 3),
    st.sampled_from([HOST_USER, OTHER_USER]),
)


@given(
    st.builds(
        Record, words, words, words, sets, sets, sets, sets, st.none() | snapshots, st.booleans(), st.integers(0, 9)
    )
)
def test_record_survives_packing(record: Record) -> None:
    assert Record.unpack(record.pack()) == record


def test_start_is_known_to_the_tick() -> None:
    known = process(7, 1, start=5 * TICK_NS)
    assert Record(5 * TICK_NS).is_of(known)
    assert Record(6 * TICK_NS - 1).is_of(known)
    assert not Record(6 * TICK_NS).is_of(known)
    assert not Record(5 * TICK_NS - 1).is_of(known)


def test_older_bits_do_not_count() -> None:
    record = Record(1, written=100, bits=3, scanned=99, before=1 | 1 << 65)
    assert record.met((SHELL, INNER)) == 1
    assert record.met_before((SHELL, INNER)) == 0


def test_structures_are_those_of_the_header(tmp_path: Path) -> None:
    """What gcc makes of bpf/maps/process.h."""
    wanted = [f"offsetof(struct {name}, {each})" for name, fields in STRUCTURES.items() for each in fields]
    wanted += [f"sizeof(struct {name})" for name in (*STRUCTURES, "pg_lost")]
    wanted += ["PG_LINEAGE_WORDS", "PG_LINEAGE_EVENTS", "PG_NS_TYPES", "PG_CAP_TYPES", "PG_SNAPSHOT_HOST_USER"]
    prints = "\n".join(f'printf("%s\\"{text}\\": %zu", n++ ? ", " : "", (size_t)({text}));' for text in wanted)
    head = f'{SHIM}#include "maps/process.h"\n'
    source = f'{head}int main(void) {{ int n = 0; printf("{{"); {prints} printf("}}"); return 0; }}\n'
    (tmp_path / "layout.c").write_text(source)
    flags = ["-std=gnu11", "-O2", "-w", f"-I{project_dir() / 'bpf'}", "-Wl,--unresolved-symbols=ignore-all", "-no-pie"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "layout", tmp_path / "layout.c"], check=True)
    found = json.loads(subprocess.run([tmp_path / "layout"], capture_output=True, check=True).stdout)
    for name, fields in STRUCTURES.items():
        assert [found[f"offsetof(struct {name}, {each})"] for each in fields] == OFFSETS[name]
    assert found["sizeof(struct pg_lineage)"] == layout.LINEAGE.size
    assert found["sizeof(struct pg_lineage_state)"] == layout.LINEAGE_STATE.size
    assert found["sizeof(struct pg_note)"] == layout.NOTE.size
    assert found["sizeof(struct pg_lost)"] == layout.LOST_MARKS
    assert (found["PG_LINEAGE_WORDS"], found["PG_LINEAGE_EVENTS"]) == (layout.LINEAGE_WORDS, layout.LINEAGE_EVENTS)
    assert (found["PG_NS_TYPES"], found["PG_CAP_TYPES"], found["PG_SNAPSHOT_HOST_USER"]) == (10, 3, HOST_USER)
