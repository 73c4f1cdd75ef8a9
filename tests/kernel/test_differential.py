# SPDX-License-Identifier: Apache-2.0
"""Random policies and calls: what the kernel does is what the plain evaluator of the model says.

The policies of a batch are compiled together; then calls are drawn near what they compare with, and for each the events
that came have to be those that `evaluate` names, with the values that the call had, and the signals those that its
outcomes send. At the end the kernel's counters have to be the sum of all that was worked out.

DIFFERENTIAL=N in the environment runs N batches more, each from another seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agent.policy.model import SIGKILL, Action, ActionKind, Hook, Policy, PolicyMode
from tests.support.calls import MadeCall, new_cgroup
from tests.support.calls_batch import FDS, Batch, Crowd, gather
from tests.support.calls_kernel import Rules, start_rules
from tests.support.strategies import focuses, policies
from tests.support.strategies_calls import Near, calls
from tests.support.strategies_filters import Pool

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

ROUNDS = 160
IN_ROUND = 8  # calls
QUICK = settings(database=None, deadline=None, suppress_health_check=[*HealthCheck])
BATCHES = range(1 + int(os.environ.get("DIFFERENTIAL", "0")))
KILLED = 60  # calls that may be the last ones of a process
KILL = Action(ActionKind.SIGKILL)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rules]:
    with start_rules(tmp_path_factory.mktemp("podgate-rules")) as started:
        yield started


@pytest.fixture(scope="module")
def group() -> Iterator[Path]:
    with new_cgroup() as path:
        yield path


@pytest.fixture
def crowd(group: Path, tmp_path: Path) -> Iterator[Crowd]:
    with gather(group, tmp_path) as callers:
        yield callers


def draw_policies(batch: int, pool: Pool) -> list[Policy]:
    """One for each thing that a policy can ask."""
    drawn = (draw_policy(batch << 20 | n, policies(pool, focus)) for n, focus in enumerate(focuses()))
    return [replace(policy, name=f"p{n}") for n, policy in enumerate(drawn)]


def draw_policy(number: int, strategy: st.SearchStrategy[Policy]) -> Policy:
    """Each is drawn on its own: hypothesis begins with the simplest, and varies what it has drawn before."""
    found: list[Policy] = []

    @seed(number)
    @settings(QUICK, max_examples=2, phases=[Phase.generate])
    @given(strategy)
    def collect(policy: Policy) -> None:
        found.append(policy)

    collect()
    return found[-1]


@pytest.mark.parametrize("number", BATCHES)
def test_kernel_does_what_the_model_says(rules: Rules, group: Path, crowd: Crowd, number: int) -> None:
    chosen = draw_policies(number, crowd.pool)
    batch = Batch(rules, group, crowd, chosen)
    crowd.change()

    @seed(number)
    @settings(QUICK, max_examples=ROUNDS, phases=[Phase.generate])
    @given(st.lists(calls(Near(chosen), FDS, len(crowd.callers)), min_size=IN_ROUND, max_size=IN_ROUND))
    def check(made: list[MadeCall]) -> None:
        for each in made:
            batch.check(each)

    try:
        check()
        batch.check_counters()
    finally:
        batch.end()
    assert PolicyMode.MONITOR in {policy.mode for policy in chosen}


def kill_instead(policy: Policy) -> Policy:
    """The first hook alone, which kills whom it matches."""

    def changed(hook: Hook) -> Hook:
        return replace(
            hook,
            selectors=tuple(
                replace(s, actions=(*quiet(s.actions), Action(ActionKind.SIGKILL))) for s in hook.selectors
            ),
        )

    return replace(policy, hooks=(changed(policy.hooks[0]),))


def quiet(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    return tuple(action for action in actions if action.kind is ActionKind.NO_POST)


def test_who_is_killed_is_whom_the_model_kills(rules: Rules, group: Path, crowd: Crowd) -> None:
    """Each call is the only one of its process, which ends with it."""
    asked = [(n, focus) for n, focus in enumerate(focuses()) if focus.arg][::4]
    chosen = [kill_instead(draw_policy(n, policies(crowd.pool, focus))) for n, focus in asked]
    chosen = [replace(policy, name=f"p{n}") for n, policy in enumerate(chosen)]
    batch = Batch(rules, group, crowd, chosen)
    ends = set()

    @seed(1)
    @settings(QUICK, max_examples=KILLED, phases=[Phase.generate])
    @given(calls(Near(chosen), FDS, 1))
    def check(made: MadeCall) -> None:
        ends.add(batch.check_end(made.warm()))

    try:
        check()
    finally:
        batch.end()
    assert ends == {0, SIGKILL}
