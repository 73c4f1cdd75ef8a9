# SPDX-License-Identifier: Apache-2.0
"""How attach_cost's batches become figures, and its policies; nothing here attaches anything."""

from __future__ import annotations

import pytest

from agent.policy.reader import parse_policies
from bench.attach_cost import Options, guest_command
from bench.parts.attach_figures import Batches, Turn, describe_turns
from bench.parts.attach_points import EMPTY_POINTS, retprobe_config
from bench.parts.attach_policies import LIMITS, SUBJECTS, Measured, Stage, Subject, describe_measured, targets_of
from bench.parts.cells import SELECTED, Call
from bench.parts.targets import judge


def batches(hooked: float, unhooked: float = 50.0) -> Batches:
    """The best of each; a busy machine spoils the other."""
    return Batches([hooked * 2, hooked], [unhooked, unhooked * 2])


def test_best_batch_counts_and_of_the_rounds_the_median() -> None:
    turns = [Turn(batches(100), batches(value, other)) for value, other in ((200, 51), (300, 50), (900, 80))]
    figures = describe_turns(turns)
    assert (figures["bare_ns"], figures["ns"], figures["ratio"]) == (100, 300, 3)
    assert (figures["unhooked_bare_ns"], figures["unhooked_ratio"]) == (50, 1.02)
    assert figures["ratio_median_batch"] == 3


def test_batches_are_joined_in_order() -> None:
    assert Batches([1.0], [2.0]) + Batches([3.0], [4.0]) == Batches([1.0, 3.0], [2.0, 4.0])


@pytest.mark.parametrize(("text", "config"), [("config:0\n", 1), ("config:3", 8)])
def test_bit_of_a_return_is_the_devices(text: str, config: int) -> None:
    assert retprobe_config(text) == config


def test_empty_points_have_names_of_their_own() -> None:
    assert len({point.name for point in EMPTY_POINTS}) == len(EMPTY_POINTS)
    assert {point.call for point in EMPTY_POINTS} == {Call.HOOKED, Call.CONTROL}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_policies_are_for_all_processes_and_differ(subject: Subject) -> None:
    policies = parse_policies(subject.policies(3, 13).encode(), "f")
    assert {policy.key.name for policy in policies} == {f"never-{number}" for number in range(3, 13)}
    assert {policy.key.namespace for policy in policies} == {None}
    assert len({policy.hooks[0].selectors[0].args[0].values for policy in policies}) == 10


def measured(*stages: Stage) -> Measured:
    return Measured("fentry", batches(100), batches(200), stages, 7.123)


def stage(policies: int, ns: float, unhooked: float = 50.0) -> Stage:
    return Stage(policies, batches(ns, unhooked), policies, 1.5)


def test_policies_are_told_against_one_and_against_the_empty_program() -> None:
    figures = describe_measured(measured(stage(1, 220), stage(10, 231, 55), stage(100, 660, 55)))
    assert figures["to_bare"] == {"1": 2.2, "10": 2.31, "100": 6.6}
    assert (figures["10_to_1"], figures["100_to_1"], figures["1_to_empty"]) == (1.05, 3, 1.1)
    assert (figures["unhooked_ratio"], figures["one_more_s"], figures["add_s"]["1"]) == (1.1, 7.12, 1.5)


def test_targets_are_looked_up_in_the_result() -> None:
    result = {"policies": {"lsm": describe_measured(measured(stage(1, 220), stage(10, 231, 55), stage(100, 660, 55)))}}
    judged = judge(result, targets_of(result["policies"]))
    assert len(judged) == len(LIMITS)
    missed = {path for path, verdict in judged.items() if not verdict["met"]}
    assert missed == {"policies.lsm.100_to_1", "policies.lsm.unhooked_ratio"}


def test_without_one_policy_there_is_nothing_to_compare() -> None:
    figures = describe_measured(measured(stage(10, 231)))
    assert "10_to_1" not in figures
    assert "1_to_empty" not in figures


def test_guest_is_given_what_was_asked_for() -> None:
    options = Options(1000, 2, 3, (1, 10), ("empty",), ("lsm",))
    words = " ".join(guest_command(options))
    assert " --here --program /out/calls --result /out/result.json " in words
    assert words.endswith("--count 1000 --batches 2 --rounds 3 --policies 1 --policies 10 --part empty --subject lsm")
    assert SELECTED not in words
