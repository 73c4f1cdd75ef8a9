# SPDX-License-Identifier: Apache-2.0
"""Hook points with programs that count who comes by, written by hand in the place of compiled policies."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.attach import SLOT_MAPS, Attacher
from agent.kernel.headers import ensure_tree
from agent.kernel.hookpoints import HookPoints, PointParts
from agent.kernel.layout import MAX_PROGRAM_SLOTS, MapSpec, map_specs
from agent.kernel.loader import Loader, LoaderLimits
from agent.kernel.maps import Maps
from agent.kernel.mounts import ensure_bpffs, ensure_tracefs, unmount
from agent.kernel.pins import Pins
from agent.kernel.point_arrays import PointArrays
from agent.kernel.point_loader import PointLoader
from agent.kernel.slots import Grace, SlotArray
from agent.kernel.targets import Targets
from agent.kernel.waiting import waiting_attachments
from agent.policy.access import OVERRIDING, TRAMPOLINES, VERDICTS, HookPoint, PointKind
from agent.policy.codegen_unit import Placement, ProgramName, Side
from agent.policy.plan import PlanError
from tests.support.names import project_dir, unique_name

SEEN = struct.Struct("<IHH")  # struct seen
PROG_GET_NEXT_ID = 11  # enum bpf_cmd
INFO_NAME = 64  # offset of struct bpf_prog_info.name
_libc = ctypes.CDLL(None, use_errno=True)
_U64 = struct.Struct("<Q")
MIXED = 0xFFFF  # the chunk of a count: a program ran after another plan's first one
_NEEDED = ("deferred", "awaited", "slots", "slots_raw", "slots_probe", "overrides")
_HEAD = """
#include "lib/kernel.h"
struct seen { __u32 mark; __u16 exit; __u16 chunk; };
struct mark { __u64 mark; __u64 slot; };
struct verdict { __s32 error; __u32 attachment; };
struct waits { __u64 in[12]; __u32 attachment; __u32 rest[3]; };
PG_INLINE void t_count(__u32 mark, __u16 exit, __u16 chunk)
{
	struct seen key = {.mark = mark, .exit = exit, .chunk = chunk};
	__u64 zero = 0, *count;

	pg_update(seen, &key, &zero, BPF_NOEXIST);
	count = pg_lookup(seen, &key);
	if (count)
		__sync_fetch_and_add(count, 1);
}
"""
_PROGRAM = """
long %(name)s(void *ctx)
{
	struct mark mark = {.mark = %(mark)d}, *kept;
	__u64 me = bpf_get_current_pid_tgid();
	__u32 i;

	if (me >> 32 != %(pid)d)
		return 0;
	for (i = 0; i < %(work)s; i++)
		if (bpf_get_prandom_u32() == me)
			break;
	t_count(%(mark)d, %(exit)d, %(chunk)d);
	%(defer)s
	%(first)s
	kept = pg_lookup(marks, &me);
	if (!kept || kept->mark != %(mark)d)
		t_count(0, 0, 0xffff);
	%(call)s
	return %(result)s;
}
"""
_FIRST = "pg_update(marks, &me, &mark, BPF_ANY);"
_OVERRIDE = """{
		struct verdict *verdict = pg_lookup(overrides, &(__u32){0});
		if (verdict) {
			verdict->error = %d;
			verdict->attachment = %d;
		}
	}"""
_DEFER = "{ struct waits w = {.attachment = %d}; pg_update(deferred, &me, &w, BPF_ANY); }"
# A slot that the verifier does not know: the kernel makes a jump of one that it does, and changes the jump, which takes
# a grace period, when the slot is emptied.
_CALL = """if (kept) {
		kept->slot = %d;
		((void (*)(void *, void *, __u64))BPF_FUNC_tail_call)(ctx, pg_map(%s), pg_once(kept->slot));
	}"""


@dataclass(frozen=True)
class HandPlan:
    """Counts under `mark` the calls that process `pid` makes, in every chunk. chunks: how much work each does, in
    branches that the verifier follows. defers: its entry notes that the call waits. verdict: what its last chunk at the
    entry has the function return instead of running; 0: nothing.
    """

    point: HookPoint
    mark: int
    pid: int
    chunks: tuple[int, ...] = (0,)
    has_return: bool = False
    defers: bool = False
    verdict: int = 0

    def halve(self) -> HandPlan:
        if max(self.chunks) < 2:
            raise PlanError(self.point.name, "nothing is left to halve")
        return replace(self, chunks=tuple(n for work in self.chunks for n in (work // 2, work - work // 2)))


class HandCompiler:
    """In the place of agent/policy/codegen.py."""

    def programs(self, plan: HandPlan, placement: Placement, /) -> tuple[ProgramName, ...]:
        sides = (Side.ENTER, Side.EXIT) if plan.has_return else (Side.ENTER,)
        return tuple(
            ProgramName(f"t{os.getpid()}_{placement.attachment}_{side.value}_{number}", side, number)
            for side in sides
            for number in range(len(plan.chunks))
        )

    def compile_module(self, plans: list[tuple[HandPlan, Placement]], chunks: Collection[int] | None = None, /) -> str:
        return _HEAD + "".join(
            _program(plan, placement, program)
            for plan, placement in plans
            for program in self.programs(plan, placement)
            if chunks is None or program.chunk in chunks
        )


def _program(plan: HandPlan, placement: Placement, program: ProgramName) -> str:
    slots = placement.enter_slots if program.side is Side.ENTER else placement.exit_slots
    following = program.chunk + 1
    goes_on = following < len(plan.chunks)
    decides = not goes_on and program.side is Side.ENTER and plan.verdict
    overrides = decides and plan.point.kind in OVERRIDING - VERDICTS
    return _PROGRAM % {
        "name": program.name,
        "mark": plan.mark,
        "pid": plan.pid,
        "exit": program.side is Side.EXIT,
        "chunk": program.chunk,
        "work": plan.chunks[program.chunk],
        "defer": _DEFER % placement.attachment if plan.defers and program.side is Side.ENTER else "",
        "first": _FIRST if program.chunk == 0 else "",
        "call": _CALL % (slots[following], _array(plan.point, placement, program.side))
        if goes_on
        else _OVERRIDE % (plan.verdict, placement.attachment)
        if overrides
        else "",
        "result": plan.verdict if decides and plan.point.kind in VERDICTS else 0,
    }


def _array(point: HookPoint, placement: Placement, side: Side) -> str:
    if point.is_syscall and side is Side.EXIT:
        return _SLOTS[PointKind.SYSCALL]
    if point.kind in TRAMPOLINES:
        return f"slots_{placement.attachment}_{side.value}"
    return _SLOTS.get(point.kind, "slots_probe")


_SLOTS = {
    PointKind.SYSCALL: "slots",
    PointKind.TRACEPOINT: "slots",
    PointKind.RAW_TRACEPOINT: "slots_raw",
}


class Bench:
    """Hook points of hand-made plans, and what their programs counted."""

    def __init__(self, maps: Maps, tracefs: Path, pins: Pins) -> None:
        self.maps = maps
        self.links = pins.links
        self.arrays = {kind: SlotArray(name, maps.fileno(name), MAX_PROGRAM_SLOTS) for kind, name in SLOT_MAPS.items()}
        loader = Loader(ensure_tree(), maps.descriptors(), LoaderLimits())
        arrays, targets = PointArrays(self.arrays, pins.maps), Targets()
        self.points: HookPoints[HandPlan] = HookPoints(
            PointParts(
                PointLoader(loader, HandCompiler(), arrays, targets),
                Attacher(tracefs, targets, maps.fileno("overrides")),
                arrays,
                targets,
                Grace(),
                lambda: waiting_attachments(maps),
                pins.links,
            )
        )

    def apply(self, *plans: HandPlan) -> None:
        self.points.apply({plan.point: plan for plan in plans})

    def remove(self, *points: HookPoint) -> None:
        self.points.apply(dict.fromkeys(points))

    def seen(self, mark: int, side: Side = Side.ENTER, chunk: int = 0) -> int:
        return read_seen(self.maps, mark, side, chunk)

    @property
    def mixed(self) -> int:
        return self.seen(0, Side.ENTER, MIXED)

    @property
    def free(self) -> list[int]:
        return [array.free for array in self.arrays.values()]


def read_seen(maps: Maps, mark: int, side: Side = Side.ENTER, chunk: int = 0) -> int:
    data = bpf.lookup(maps.fileno("seen"), SEEN.pack(mark, side is Side.EXIT, chunk), _U64.size)
    return _U64.unpack(data)[0] if data else 0


def create_maps(pins: Path) -> Maps:
    """The maps of hook points, and those of the hand-made programs."""
    own = (MapSpec("seen", bpf.MapType.HASH, 8, 8, 8192), MapSpec("marks", bpf.MapType.HASH, 8, 16, 1024))
    fds = {}
    for spec in (*(spec for spec in map_specs(4096, 1) if spec.name in _NEEDED), *own):
        fds[spec.name] = bpf.create_map(spec.kind, spec.key, spec.value, spec.entries, f"t_{spec.name}", spec.flags)
        bpf.pin(fds[spec.name].fileno(), str(pins / spec.name))
    return Maps(fds)


@contextmanager
def open_tracefs(private: Path) -> Iterator[Path]:
    tracefs, mounted = ensure_tracefs(private)
    try:
        yield tracefs
    finally:
        if mounted:
            unmount(tracefs)


@contextmanager
def prepare_pins() -> Iterator[Pins]:
    """A directory of pins, removed with all in it."""
    ensure_bpffs()
    pins = Pins(Path("/sys/fs/bpf") / unique_name("points"))
    pins.prepare()
    try:
        yield pins
    finally:
        pins.release()


@contextmanager
def open_bench(tracefs: Path) -> Iterator[Bench]:
    with prepare_pins() as pins:
        maps = create_maps(pins.maps)
        try:
            bench = Bench(maps, tracefs, pins)
            try:
                yield bench
            finally:
                bench.points.close()
        finally:
            maps.close()


@dataclass(frozen=True)
class Target:
    """programs/points.c, compiled. offsets: in the file, by the symbol's name."""

    path: Path
    offsets: dict[str, int] = field(default_factory=dict)


def build_target(folder: Path) -> Target:
    path = folder / "points"
    source = project_dir() / "tests/support/programs/points.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-static", "-no-pie", "-o", path, source], check=True)
    return Target(path, {name: _file_offset(path, name) for name in ("probe", "gated", "gate")})


def _file_offset(path: Path, symbol: str) -> int:
    """By the symbol table and the program headers that readelf(1) prints."""
    text = subprocess.run(["readelf", "-sWl", path], check=True, capture_output=True, text=True).stdout
    found = re.search(rf"^ *\d+: ([0-9a-f]+) .* {symbol}$", text, re.MULTILINE)
    assert found, f"no symbol {symbol}"
    address = int(found[1], 16)
    for line in re.findall(r"^ *LOAD +(.*)$", text, re.MULTILINE):
        offset, start, _, size = (int(word, 16) for word in line.split()[:4])
        if start <= address < start + size:
            return address - start + offset
    raise AssertionError(f"{symbol} is in no segment")


def list_programs(prefix: str = "") -> frozenset[int]:
    """Ids of this kernel's programs whose names begin so."""
    found: list[int] = []
    while number := _next_program(found[-1] if found else 0):
        found.append(number)
    return frozenset(number for number in found if _name_of(number).startswith(prefix))


def _next_program(identifier: int) -> int:
    """0 after the last one."""
    attr = ctypes.create_string_buffer(struct.pack("<II", identifier, 0), bpf.ATTR_SIZE)
    if _libc.syscall(bpf.SYS_BPF, PROG_GET_NEXT_ID, attr, bpf.ATTR_SIZE) < 0:
        return 0
    return int.from_bytes(attr.raw[4:8], "little")


def _name_of(identifier: int) -> str:
    program = bpf.program_by_id(identifier)
    if program is None:
        return ""
    with program:
        info = ctypes.create_string_buffer(256)
        attr = ctypes.create_string_buffer(
            struct.pack("<IIQ", program.fileno(), len(info), ctypes.addressof(info)), bpf.ATTR_SIZE
        )
        assert _libc.syscall(bpf.SYS_BPF, bpf.Command.OBJ_GET_INFO_BY_FD, attr, bpf.ATTR_SIZE) == 0
    return info.raw[INFO_NAME : INFO_NAME + bpf.NAME_LEN].partition(b"\0")[0].decode()


class Passer:
    """A process of the target. rounds: how many for each `come`; 0: as many as there is time for between `go` and
    `stop`.
    """

    def __init__(self, target: Target, rounds: int = 0) -> None:
        words: Sequence[str | Path] = [target.path, *([str(rounds)] if rounds else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def go(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def stop(self) -> tuple[int, int]:
        """(rounds, how often it called `gated`)."""
        self.go()
        return self._read()

    def come(self) -> tuple[int, int]:
        self.go()
        return self._read()

    def _read(self) -> tuple[int, int]:
        assert self._process.stdout
        rounds, gated = self._process.stdout.readline().split()
        return int(rounds), int(gated)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def passing(target: Target, rounds: int = 0) -> Iterator[Passer]:
    passer = Passer(target, rounds)
    try:
        yield passer
    finally:
        passer.close()
