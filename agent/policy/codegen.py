# SPDX-License-Identifier: Apache-2.0
"""From the plan of a hook point to C text that calls the small functions of bpf/lib.

Nothing of a policy's text enters the C as text: values become numbers, bytes become 64-bit words, names become serial
numbers. A hook point has up to two programs for each chunk of its plan, one for the entry and one for the return:

    entry, chunk 0     who is selected? nobody: done. Else a context is claimed (bpf/maps/call.h), the inputs are kept
    every chunk        what its rules compare is read, stage by stage; their selectors are tried; what the hits ask for
                       is done; what they report is read and sent; rules that wait for the return are noted
    last chunk         the context is given back

    return, chunk 0    is anything left of this call? no: done
    every chunk        a call that could not be checked at its entry is checked now; rules that wait are asked again
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agent.policy import codegen_sock as sock
from agent.policy.codegen_programs import enter_program, exit_program
from agent.policy.codegen_record import late_function, record_function
from agent.policy.codegen_return import returns_function
from agent.policy.codegen_rules import rules_function
from agent.policy.codegen_unit import Placement, ProgramName, Side, Unit
from agent.policy.model import ArgType
from agent.policy.plan import PointPlan

PRELUDE = '#include "lib/syscall.h"\n'
LOAD_INFO = '#include "lib/load_info.h"\n'  # its structure is not on every kernel
FUNCTIONS = '#include "lib/function.h"\n'
LARGE_DATA = '#include "lib/data.h"\n'


def programs(plan: PointPlan, place: Placement) -> tuple[ProgramName, ...]:
    """The programs that `compile_module` writes for a hook point."""
    units = [Unit(plan, place, number) for number in range(len(plan.chunks))]
    names = [ProgramName(unit.name("enter"), Side.ENTER, unit.number) for unit in units]
    if place.exit_slots:
        names += [ProgramName(unit.name("exit"), Side.EXIT, unit.number) for unit in units]
    return tuple(names)


def compile_module(plans: Iterable[tuple[PointPlan, Placement]], chunks: Collection[int] | None = None) -> str:
    """C text of several hook points. chunks: the numbers of those that are wanted; without, all."""
    chosen = list(plans)
    values = {value for plan, _ in chosen for chunk in plan.chunks for value in chunk.values}
    prelude = PRELUDE + (LOAD_INFO if any(value.type is ArgType.LOAD_INFO for value in values) else "")
    prelude += FUNCTIONS if any(plan.point.function for plan, _ in chosen) else ""
    prelude += LARGE_DATA if any(value.is_large for value in values) else ""
    prelude += sock.INCLUDE if any(plan.deals_with_sockets for plan, _ in chosen) else ""
    return prelude + "".join("\n" + compile_point(plan, place, chunks) for plan, place in chosen)


def compile_point(plan: PointPlan, place: Placement, chunks: Collection[int] | None = None) -> str:
    """The rules of one hook point and the programs that run them."""
    lines: list[str] = []
    for number_ in range(len(plan.chunks)) if chunks is None else sorted(chunks):
        unit = Unit(plan, place, number_)
        lines += [*record_function(unit), "", *rules_function(unit), ""]
        if unit.returning:
            lines += [*late_function(unit), "", *returns_function(unit), ""]
        lines += [*enter_program(unit), ""]
        if place.exit_slots:
            lines += [*exit_program(unit), ""]
    return "\n".join(lines)
