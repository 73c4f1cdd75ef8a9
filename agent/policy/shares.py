# SPDX-License-Identifier: Apache-2.0
"""Whose are the programs of a hook point that several policies have rules at: shared out by the weight of their rules.

That is the plan's own estimate of how much of a program a rule takes. What a program has once for all of them, the
look-up of who is selected above all, is shared out with the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from agent.policy.access import HookPoint
from agent.policy.placed import RULE_WEIGHT, PlacedPolicy, Rule
from agent.policy.plan import enforced_points


def share_out(totals: Mapping[HookPoint, int], policies: Iterable[PlacedPolicy]) -> Counter[int]:
    """By the serial numbers of policies: their shares of each hook point's total, which are it together. What no policy
    has rules at is nobody's.
    """
    shares: Counter[int] = Counter()
    for point, weights in _weights(policies).items():
        shares += _divide(totals.get(point, 0), weights)
    return shares


def _weights(policies: Iterable[PlacedPolicy]) -> dict[HookPoint, Counter[int]]:
    weights: dict[HookPoint, Counter[int]] = defaultdict(Counter)
    for placed in policies:
        for number, hook in enumerate(placed.hooks):
            weights[hook.point][placed.serial] += Rule(placed, number, hook).weight
        for point in enforced_points(placed.policy):
            weights[point][placed.serial] += RULE_WEIGHT
    return weights


def _divide(total: int, weights: Counter[int]) -> Counter[int]:
    """Whole numbers that are `total` together."""
    shares: Counter[int] = Counter()
    before = seen = 0
    for serial, weight in sorted(weights.items()):
        seen += weight
        until = total * seen // weights.total()
        shares[serial] = until - before
        before = until
    return shares
