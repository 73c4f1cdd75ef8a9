# SPDX-License-Identifier: Apache-2.0
"""Conditions on arguments whose type was only known on the node.

The reader takes any operator on an `auto`, and values of Equal and NotEqual as texts. Here the type is decided, and
with it which operators there are and what the values mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.policy.access import PointHook, Value
from agent.policy.errors import Problems, quote
from agent.policy.fields import one_of, suggest
from agent.policy.kernel_names import CAPABILITIES
from agent.policy.model import Arg, ArgFilter, ArgType, FilterValue, Hook, Range, Selector, Source
from agent.policy.operators import fitting
from agent.policy.values import number_range, parse_number


def decide_filters(found: PointHook, problems: Problems) -> PointHook:
    """The same with conditions as they are for the types that were decided; faults are reported."""
    hook = found.hook
    if (len(found.args), len(found.data)) != (len(hook.args), len(hook.data)):
        return found  # of those that are missing a fault was reported
    args = _decided(hook.args, found.args)
    data = _decided(hook.data, found.data)
    returned: dict[int, ArgType] = {}
    if hook.return_arg is not None and hook.return_arg.type is ArgType.AUTO and found.return_value is not None:
        returned[0] = found.return_value.type
    if not args and not data and not returned:
        return found
    selectors = tuple(_selector(each, _Decider(hook, problems), args, data, returned) for each in hook.selectors)
    return replace(found, hook=replace(hook, selectors=selectors))


def _decided(declared: tuple[Arg, ...], found: tuple[tuple[Arg, Value | None], ...]) -> dict[int, ArgType]:
    """The types of those that were `auto`, by place."""
    pairs = zip(declared, found, strict=True)
    return {place: arg.type for place, (old, (arg, _)) in enumerate(pairs) if old.type is ArgType.AUTO}


def _selector(
    selector: Selector,
    decider: _Decider,
    args: dict[int, ArgType],
    data: dict[int, ArgType],
    returned: dict[int, ArgType],
) -> Selector:
    return replace(
        selector,
        args=tuple(decider.decide(each, args) for each in selector.args),
        data=tuple(decider.decide(each, data) for each in selector.data),
        # A condition on the return value names no place.
        return_args=tuple(
            replace(decider.decide(replace(each, positions=(0,)), returned), positions=each.positions)
            for each in selector.return_args
        ),
    )


@dataclass(frozen=True, slots=True)
class _Decider:
    hook: Hook
    problems: Problems

    def decide(self, condition: ArgFilter, types: dict[int, ArgType]) -> ArgFilter:
        """The condition with its values as the type has them."""
        for place in condition.positions:
            kind = types.get(place)
            if kind is not None and condition.operator not in fitting(kind):
                self._refuse_operator(condition, kind)
                return condition
        kind = types.get(condition.positions[0]) if len(condition.positions) == 1 else None
        if kind is None or not kind.is_number:
            return condition
        source = condition.source or self.hook.source
        return replace(condition, values=tuple(self._value(value, kind, source) for value in condition.values))

    def _refuse_operator(self, condition: ArgFilter, kind: ArgType) -> None:
        operators = fitting(kind)
        what = f"{condition.operator.value} on an argument that is of type {kind.value} on this node"
        advice = f"use {one_of(each.value for each in operators)}" if operators else "leave the condition out"
        self.problems.report(condition.source or self.hook.source, what, advice)

    def _value(self, value: FilterValue, kind: ArgType, source: Source) -> FilterValue:
        if isinstance(value, bytes):
            number = self._number(value.decode(errors="replace"), kind, source)
            return value if number is None else self._checked(number, kind, source)
        if isinstance(value, Range):
            self._checked(value.first, kind, source)
            self._checked(value.last, kind, source)
        return self._checked(value, kind, source) if isinstance(value, int) else value

    def _number(self, text: str, kind: ArgType, source: Source) -> int | None:
        if kind.is_capability_set and text.startswith("CAP_"):
            if text in CAPABILITIES:
                return 1 << CAPABILITIES[text]
            advice = suggest(text, CAPABILITIES, "write one as CAP_SYS_ADMIN")
            self.problems.report(source, f"unknown capability {quote(text)}", advice)
            return None
        try:
            return parse_number(text)
        except ValueError:
            what = f"{quote(text)} is not a number, and the argument is of type {kind.value} on this node"
            self.problems.report(source, what, "write it in decimal or with 0x, 0o or 0b")
            return None

    def _checked(self, number: int, kind: ArgType, source: Source) -> int:
        least, greatest = number_range(kind.bits, kind.signed)
        if not least <= number <= greatest:
            what = f"{number} does not fit type {kind.value}, which the argument has on this node"
            self.problems.report(source, what, f"write a number from {least} to {greatest}")
        return number
