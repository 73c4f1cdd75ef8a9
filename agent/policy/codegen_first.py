# SPDX-License-Identifier: Apache-2.0
"""The first look at a call, before anybody asks whose it is: may any rule's comparisons of plain arguments hold?

Most calls of a hook point are nothing to its rules. Where every selector compares an argument that is in a register,
that alone says so, in a few instructions: nothing is looked up, and no context is taken. Comparisons that several
policies have in common are made once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.policy.access import Input, InputKind, PointKind, Value
from agent.policy.codegen_filter import argument_condition
from agent.policy.model import ArgFilter, ArgType, Selector
from agent.policy.placed import Rule, filtered
from agent.policy.plan import Chunk, PointPlan
from agent.policy.sets import number_set

# Of one look. Each is an instruction or two for calls of processes that no policy selects, too: asking who it is takes
# as long as some hundred.
MAX_TERMS = 256
_KEPT = re.compile(r"call->in\[(\d+)\]")
_AT_HAND = frozenset({InputKind.ARGUMENT, InputKind.FIELD})
_OF_PROGRAMS = _AT_HAND | {InputKind.REGISTER}


@dataclass(frozen=True, slots=True)
class Look:
    """terms: C conditions of which one must hold. inputs: the values of their variables a0, a1, …"""

    inputs: tuple[Input, ...]
    terms: tuple[str, ...]


def first_look(plan: PointPlan) -> Look | None:
    """None when every call may matter."""
    names: dict[Input, int] = {}
    terms: dict[str, None] = {}
    for chunk in plan.chunks:
        for rule in chunk.rules:
            for selector in rule.selectors or (Selector(),):
                found = [_renamed(text, chunk, names) for text in _conditions(plan, chunk, rule, selector)]
                if not found:
                    return None
                terms[" && ".join(f"({text})" for text in found)] = None
    return Look(tuple(names), tuple(terms)) if 0 < len(terms) <= MAX_TERMS else None


def _conditions(plan: PointPlan, chunk: Chunk, rule: Rule, selector: Selector) -> Iterator[str]:
    kinds = _OF_PROGRAMS if plan.point.kind in (PointKind.UPROBE, PointKind.USDT) else _AT_HAND
    for each, values in filtered(rule, selector):
        if len(values) == len(each.positions) and _is_at_hand(each, values, kinds):
            yield argument_condition(chunk, rule, each, values)


def _is_at_hand(each: ArgFilter, values: tuple[Value, ...], kinds: frozenset[InputKind]) -> bool:
    """Whether a filter only compares numbers that the program is entered with."""
    return number_set(each) is None and all(
        value.type.is_number
        and value.type is not ArgType.SYSCALL64
        and value.read.is_direct
        and value.read.index is None
        and value.read.input.kind in kinds
        for value in values
    )


def _renamed(text: str, chunk: Chunk, names: dict[Input, int]) -> str:
    def name(found: re.Match[str]) -> str:
        return f"a{names.setdefault(chunk.inputs[int(found[1])], len(names))}"

    return _KEPT.sub(name, text)
