# SPDX-License-Identifier: Apache-2.0
"""The C of some rules for people, without loading it. What an agent gives as it goes is made up: the numbers of hook
points, generations and slots.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from agent.policy.codegen import compile_module
from agent.policy.codegen_unit import Placement
from agent.policy.placed import PlacedPolicy
from agent.policy.plan import PointPlan, hook_points, plan_hooks


def preview(plans: Iterable[PointPlan]) -> str:
    """The C text of some plans."""
    slots = itertools.count()
    return compile_module([(plan, _place(number, plan, slots)) for number, plan in enumerate(plans, 1)])


def preview_policy(placed: PlacedPolicy) -> str:
    """The C text of one policy's rules, as if no other policy had any at its hook points."""
    return preview(plan_hooks([placed], hook_points(placed)).values())


def _place(number: int, plan: PointPlan, slots: Iterator[int]) -> Placement:
    enter, leave = (tuple(itertools.islice(slots, len(plan.chunks))) for _ in range(2))
    return Placement(number, 1, enter, leave if plan.has_return else ())
