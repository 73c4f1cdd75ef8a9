# SPDX-License-Identifier: Apache-2.0
"""What the text of a hook point's programs depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from agent.policy.access import TRAMPOLINES, HookPoint, PointKind
from agent.policy.placed import Rule
from agent.policy.plan import Chunk, PointPlan

CONTEXTS = {
    PointKind.SYSCALL: "struct pg_sys_enter",
    PointKind.TRACEPOINT: "void",
    PointKind.RAW_TRACEPOINT: "struct bpf_raw_tracepoint_args",
    PointKind.UPROBE: "struct pt_regs",
    PointKind.USDT: "struct pt_regs",
    PointKind.KPROBE: "struct pt_regs",
    PointKind.OVERRIDE: "struct pt_regs",
    PointKind.SYSCALL_KPROBE: "struct pt_regs",
    PointKind.SYSCALL_OVERRIDE: "struct pt_regs",
    **dict.fromkeys(TRAMPOLINES, "struct pg_trampoline"),
}
_SLOTS = {
    PointKind.SYSCALL: "slots",
    PointKind.TRACEPOINT: "slots",
    PointKind.RAW_TRACEPOINT: "slots_raw",
    PointKind.UPROBE: "slots_probe",
    PointKind.USDT: "slots_probe",
    PointKind.KPROBE: "slots_probe",
    PointKind.OVERRIDE: "slots_probe",
    PointKind.SYSCALL_KPROBE: "slots_probe",
    PointKind.SYSCALL_OVERRIDE: "slots_probe",
}


class Side(Enum):
    """The two ends of a call."""

    ENTER = "enter"
    EXIT = "exit"


def form_kind(point: HookPoint, side: Side) -> PointKind:
    """The kind whose programs stand on a side: where a system call ends is its tracepoint, whatever it begins with."""
    return PointKind.SYSCALL if point.is_syscall and side is Side.EXIT else point.kind


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the programs of a hook point go. attachment: its serial number; generation: of its rules. The slots are
    indexes of the PROG_ARRAY of its program type, one for each chunk.
    """

    attachment: int
    generation: int
    enter_slots: tuple[int, ...]
    exit_slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProgramName:
    """A program in the text of a module: its C name, the end of the call that it is for, and its chunk."""

    name: str
    side: Side
    chunk: int


@dataclass(frozen=True, slots=True)
class Unit:
    """One chunk with all that its text depends on."""

    plan: PointPlan
    place: Placement
    number: int

    @property
    def chunk(self) -> Chunk:
        return self.plan.chunks[self.number]

    @property
    def returning(self) -> tuple[tuple[int, Rule], ...]:
        """The rules that are reported at the return, with their places."""
        return tuple((n, rule) for n, rule in enumerate(self.chunk.rules) if rule.returns)

    def slots(self, side: Side) -> str:
        """The PROG_ARRAY of a side: programs that are loaded for one function have one of their own."""
        kind = form_kind(self.plan.point, side)
        if kind in TRAMPOLINES:
            return f"slots_{self.place.attachment}_{side.value}"
        return _SLOTS[kind]

    def name(self, what: str) -> str:
        return f"pg_{what}_{self.place.attachment}_{self.number}"


def indent(lines: Iterable[str], depth: int) -> Iterator[str]:
    return ("\t" * depth + line for line in lines)


def policy_bit(rule: Rule) -> str:
    bit = rule.placed.bit
    return f"(call->policies[{bit // 64}] & {1 << bit % 64:#x}ULL)"
