# SPDX-License-Identifier: Apache-2.0
"""From policies to plans on a small kernel, for tests of what comes after `resolve`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from agent.kernel.formats import parse_fields
from agent.placing import Placer, Resolved
from agent.policy.access import HookPoint, Input, InputKind, Memory, PointHook, PointKind, Read, Value
from agent.policy.facts import RecordField
from agent.policy.lineage import LineageTable, needs_of
from agent.policy.model import (
    Arg,
    ArgType,
    Hook,
    HookKind,
    NamespaceType,
    Policy,
    PolicyKind,
    Selector,
    Source,
    UprobeTarget,
    WorkloadSelector,
)
from agent.policy.placed import PlacedPolicy
from agent.policy.plan import PointPlan, hook_points, plan_hooks
from agent.policy.reader import parse_policies
from agent.policy.resolve import resolve_policy
from agent.workload.identity import PolicyId
from tests.support.kernel_facts import SmallKernel

HERE = Source("test", 1, 1)
HOST_NAMESPACES = {kind: 4026531800 + number for number, kind in enumerate(NamespaceType)}
FIRST_SERIAL = 100
_MORE_CALLS = {
    "access": ("const char * filename", "int mode"),
    "getpgid": ("pid_t pid",),
    "lseek": ("unsigned int fd", "off_t offset", "unsigned int whence"),
    "pwrite64": ("unsigned int fd", "const char * buf", "size_t count", "loff_t pos"),
    "fsync": ("unsigned int fd",),
}


class PlanKernel(SmallKernel):
    """With some more system calls."""

    def syscall(self, name: str) -> tuple[RecordField, ...] | None:
        if name not in _MORE_CALLS:
            return super().syscall(name)
        lines = (
            f"\tfield:{declaration};\toffset:{16 + 8 * place};\tsize:8;\tsigned:0;\n"
            for place, declaration in enumerate(_MORE_CALLS[name])
        )
        return parse_fields(f"name: sys_enter_{name}\nID: 1\nformat:\n{''.join(lines)}")


def read(*documents: dict[str, Any]) -> tuple[Policy, ...]:
    return parse_policies("\n---\n".join(map(json.dumps, documents)).encode(), "test")


def resolve(policies: Iterable[Policy]) -> list[Resolved]:
    kernel = PlanKernel()
    return [Resolved(policy, resolve_policy(policy, kernel)) for policy in policies]


def place_resolved(wanted: Sequence[Resolved], bits: Sequence[int] = ()) -> list[PlacedPolicy]:
    """Bits from 0 unless given, serial numbers from FIRST_SERIAL, lineage that has all that they need."""
    needs = needs_of(s for each in wanted for hook in each.policy.hooks for s in hook.selectors)
    table = LineageTable().change(needs, 77)
    placed = Placer(HOST_NAMESPACES).place(wanted, (), table)
    placed = [replace(each, serial=FIRST_SERIAL + number) for number, each in enumerate(placed)]
    if bits:
        placed = [replace(each, bit=PolicyId(bit)) for each, bit in zip(placed, bits, strict=True)]
    return placed


def place(*documents: dict[str, Any], bits: Sequence[int] = ()) -> list[PlacedPolicy]:
    return place_resolved(resolve(read(*documents)), bits)


def plans_of(placed: Sequence[PlacedPolicy]) -> dict[HookPoint, PointPlan]:
    """Of all their hook points."""
    return plan_hooks(placed, frozenset().union(*map(hook_points, placed)))


def plan(*documents: dict[str, Any], bits: Sequence[int] = ()) -> dict[str, PointPlan]:
    """By the hook points' names."""
    return {point.name: made for point, made in plans_of(place(*documents, bits=bits)).items()}


def plan_of(*documents: dict[str, Any], bits: Sequence[int] = ()) -> PointPlan:
    """The plan of the one hook point that the documents hook."""
    (made,) = plan(*documents, bits=bits).values()
    return made


def argument(number: int, kind: ArgType = ArgType.LONG, **fields: Any) -> Value:
    """An argument as a hand-made hook has it: of the process's memory, when it is no number."""
    memory = Memory.KERNEL if kind.is_number else Memory.USER
    return Value(kind, Read(Input(InputKind.ARGUMENT, number)), memory, **fields)


def hand_made(
    kind: HookKind,
    point: HookPoint,
    values: Sequence[Value],
    *selectors: Selector,
    returned: Value | None = None,
    name: str = "p",
) -> Resolved:
    """A policy with one hook at a place in a program, which the small kernel does not have."""
    args = tuple(Arg(number, value.type) for number, value in enumerate(values))
    return_arg = Arg(0, returned.type) if returned else None
    target = UprobeTarget(point.name, ("f",)) if point.kind is PointKind.UPROBE else UprobeTarget(point.name)
    chosen = selectors or (Selector(),)
    hook = Hook(
        kind, (), "", args, chosen, HERE, "hooks[0]", returns=bool(returned), return_arg=return_arg, target=target
    )
    policy = Policy(PolicyKind.CLUSTER, name, None, (hook,), WorkloadSelector(), HERE, "")
    return Resolved(policy, (PointHook(point, 0, hook, tuple(zip(args, values, strict=True)), (), returned),))
