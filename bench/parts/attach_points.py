# SPDX-License-Identifier: Apache-2.0
"""Empty programs on each kind of attach point: what attaching costs a call by itself.

A program is two instructions. A call is measured with it, before it and after it, in turns: what slows a machine down
often lasts longer than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.btf import Btf, Kind
from agent.kernel.errors import KernelError
from agent.kernel.instructions import RETURN_0
from agent.kernel.tracepoint import Side, Tracepoints
from bench._common import Say
from bench.parts.attach_figures import Batches, Turn
from bench.parts.cells import Call, Cell

KPROBE = Path("/sys/bus/event_source/devices/kprobe")
# enum bpf_attach_type
FENTRY, FEXIT, MODIFY_RETURN, LSM_MAC = 24, 25, 26, 27
LSEEK, SECURITY, HOOK = "__x64_sys_lseek", "security_file_fcntl", "bpf_lsm_file_fcntl"

TRACED = {"fentry": FENTRY, "syscall_fentry": FENTRY, "fexit": FEXIT, "fmod_ret": MODIFY_RETURN}


@dataclass(frozen=True, slots=True)
class EmptyPoint:
    """name: in the result. call: the one that reaches it. The rest: see Points.attach."""

    name: str
    call: Call
    kind: str
    function: str


EMPTY_POINTS = (
    *(EmptyPoint(kind, Call.HOOKED, kind, LSEEK) for kind in ("kprobe", "kretprobe", "fentry", "fexit")),
    *(EmptyPoint(kind, Call.HOOKED, kind, LSEEK) for kind in ("tracepoint", "raw_tracepoint")),
    *(EmptyPoint(f"security_{kind}", Call.CONTROL, kind, SECURITY) for kind in ("kprobe", "fentry")),
    EmptyPoint("fmod_ret", Call.CONTROL, "fmod_ret", SECURITY),
    EmptyPoint("lsm", Call.CONTROL, "lsm", HOOK),
)


def retprobe_config(text: str) -> int:
    """perf_event_attr.config for a function's return. text: the device's format/retprobe, `config:0`: the first bit."""
    return 1 << int(text.strip().removeprefix("config:"))


@contextmanager
def _kprobe(function: str, returning: bool) -> Iterator[None]:
    pmu = int((KPROBE / "type").read_text())
    config = retprobe_config((KPROBE / "format/retprobe").read_text()) if returning else 0
    with (
        bpf.load_program(bpf.ProgType.KPROBE, RETURN_0, "pg_bench") as program,
        bpf.open_kprobe_event(pmu, function, config) as event,
        bpf.link_perf_event(program.fileno(), event),
    ):
        yield


@contextmanager
def _tracepoint(identifier: int) -> Iterator[None]:
    with (
        bpf.load_program(bpf.ProgType.TRACEPOINT, RETURN_0, "pg_bench") as program,
        bpf.open_tracepoint_event(identifier) as event,
        bpf.link_perf_event(program.fileno(), event),
    ):
        yield


@contextmanager
def _raw_tracepoint() -> Iterator[None]:
    with (
        bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, RETURN_0, "pg_bench") as program,
        bpf.open_raw_tracepoint("sys_enter", program.fileno()),
    ):
        yield


@contextmanager
def _trampoline(kind: bpf.ProgType, attach_type: int, function: int) -> Iterator[None]:
    with (
        bpf.load_program(kind, RETURN_0, "pg_bench", attach_type, function) as program,
        bpf.open_raw_tracepoint("", program.fileno()),
    ):
        yield


class Points:
    """What an empty program can be attached to."""

    def __init__(self, btf: Btf, tracefs: Path) -> None:
        self._btf = btf
        self._tracepoints = Tracepoints(tracefs)

    def attach(self, kind: str, function: str) -> AbstractContextManager[None]:
        """kind: one of the agent's (PointKind), or kretprobe or fexit, which it has no programs on alone. function: the
        kernel's; of tracepoints it does not count. Raises KernelError.
        """
        match kind:
            case "kprobe" | "kretprobe" | "override" | "syscall_override":
                return _kprobe(function, returning=kind == "kretprobe")
            case "syscall" | "tracepoint":
                return _tracepoint(self._tracepoints.event_id("lseek", Side.ENTER))
            case "raw_tracepoint":
                return _raw_tracepoint()
            case "lsm":
                return _trampoline(bpf.ProgType.LSM, LSM_MAC, self._find(function))
        return _trampoline(bpf.ProgType.TRACING, TRACED[kind], self._find(function))

    def _find(self, function: str) -> int:
        found = self._btf.find(Kind.FUNC, function)
        if found is None:
            raise KernelError(f"no function {function} in BTF")
        return found


def measure_both(cell: Cell, call: Call, calls: int, batches: int) -> Batches:
    """The call and one that nothing is attached to, in turns."""
    found = Batches([], [])
    for _ in range(batches):
        found.hooked.extend(cell.measure(call, calls, 1))
        found.unhooked.extend(cell.measure(Call.UNRELATED, calls, 1))
    return found


def measure_point(cell: Cell, points: Points, point: EmptyPoint, calls: int, batches: int) -> Turn:
    """As many batches without the program as with it. Raises KernelError where the kernel refuses to attach it."""
    before = measure_both(cell, point.call, calls, batches // 2)
    with points.attach(point.kind, point.function):
        attached = measure_both(cell, point.call, calls, batches)
    return Turn(before + measure_both(cell, point.call, calls, batches // 2), attached)


@dataclass(frozen=True, slots=True)
class Empties:
    """By the point's name: one turn a round. refused: why a kernel did not attach one."""

    turns: dict[str, list[Turn]]
    refused: dict[str, str]


def measure_empties(cell: Cell, points: Points, calls: int, batches: int, rounds: int, tell: Say) -> Empties:
    """Each round goes through all points."""
    found = Empties({}, {})
    for number in range(rounds):
        tell(f"  round {number + 1} of {rounds}")
        for point in EMPTY_POINTS:
            if point.name in found.refused:
                continue
            try:
                turn = measure_point(cell, points, point, calls, batches)
            except KernelError as error:
                found.refused[point.name] = str(error)
            else:
                found.turns.setdefault(point.name, []).append(turn)
    return found
