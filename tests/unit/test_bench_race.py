# SPDX-License-Identifier: Apache-2.0
"""What the race counts as an escape, how it sums up, and what it tells the agent."""

from __future__ import annotations

import pytest

from agent.policy.model import Operator
from agent.policy.reader import parse_policies
from bench.parts.figures import Decision, Ended, Phase, find_faults, worst_of
from bench.parts.policies import FD_CALLS, join_policies, policy_text, unmatched_policies
from bench.parts.storm import Tally
from bench.parts.watcher import announcement
from rthook.api import hook_pb2

KILLED = Ended("a", True, 137, "")
UNTOUCHED = Ended("b", False, 0, "Bad file descriptor\n")


def make_phase(
    name: str, *ended: Ended, decisions: tuple[Decision, ...] = (Decision(1000, 300),), left: int = 0
) -> Phase:
    return Phase(name, ended, decisions, left, 1.0)


@pytest.mark.parametrize(
    ("ended", "escaped", "wrongly_killed", "failed"),
    [
        (KILLED, False, False, False),
        (UNTOUCHED, False, False, False),
        (Ended("c", True, 0, "Bad file descriptor\n"), True, False, False),
        (Ended("c", True, 137, "Bad file descriptor\n"), True, False, False),
        (Ended("c", True, 1, ""), True, False, False),
        (Ended("c", False, 137, ""), False, True, False),
        (Ended("c", False, 0, ""), False, True, False),
        (Ended("c", False, 137, "Bad file descriptor\n"), False, True, False),
        (Ended("c", True, None, "", "refused"), False, False, True),
        (Ended("c", False, None, "", "refused"), False, False, True),
    ],
)
def test_container_is_judged_by_its_exit_code_and_its_output(
    ended: Ended, escaped: bool, wrongly_killed: bool, failed: bool
) -> None:
    assert (ended.escaped, ended.wrongly_killed, ended.failed) == (escaped, wrongly_killed, failed)


def test_phase_without_a_fault_has_none() -> None:
    assert find_faults(make_phase("quiet", KILLED, UNTOUCHED)) == []


def test_each_broken_promise_is_one_line_with_an_example() -> None:
    escaped, stopped, refused = (
        Ended("e1", True, 0, "x"),
        Ended("w1", False, 137, ""),
        Ended("", True, None, "", "no pod"),
    )
    faults = find_faults(make_phase("storm", KILLED, escaped, stopped, refused, left=3))
    assert faults == [
        "storm: 1 of 4 containers escaped, the first: e1 (selected): exit code 0, output 'x'",
        "storm: 1 of 4 containers wrongly_killed, the first: w1 (not selected): exit code 137, output ''",
        "storm: 1 of 4 containers failed, the first:  (selected): no pod",
        "storm: 3 bindings left after all pods were removed",
    ]


def test_whole_run_is_as_bad_as_its_worst_phase() -> None:
    quiet = make_phase("quiet", KILLED, UNTOUCHED, decisions=(Decision(2000, 500),), left=2)
    escaped = Ended("c", True, 0, "")
    storm = make_phase("storm", KILLED, escaped, decisions=(Decision(1000, 900), Decision(9000, 400)))
    assert worst_of([quiet, storm]) == {
        "containers": 2,
        "selected": 1,
        "escaped": 1,
        "wrongly_killed": 0,
        "failed": 0,
        "hook_ms": {"p50": 2.0, "p99": 9.0},
        "bind_us": {"p50": 500, "p99": 900},
        "bindings_left": 2,
    }


def test_run_without_a_hook_has_no_hook_times() -> None:
    worst = worst_of([make_phase("quiet", KILLED, decisions=())])
    assert worst["hook_ms"] is None
    assert worst["bind_us"] is None


def test_phase_shows_its_own_figures_beside_the_common_ones() -> None:
    phase = Phase("storm", (KILLED, UNTOUCHED), (Decision(1500, 300),), 0, 2.04, {"events_seen": 7})
    fields = phase.fields()
    assert (fields["containers"], fields["selected"], fields["seconds"], fields["events_seen"]) == (2, 1, 2.0, 7)
    assert fields["hook_ms"] == {"p50": 1.5, "p99": 1.5}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tally_counts_events_however_the_stream_is_cut(size: int) -> None:
    stream = b"".join(
        (
            b'{"type":"policy","n":1}\n',
            b'{"type":"lost","reason":"slow reader","count":40}\n',
            b'{"type":"policy","n":2,"comm":"\\"type\\":\\"policy"}\n',
            b'{"type":"policy","n":3}\n',
            b'{"type":"lost","reason":"slow reader","count":2}\n',
            b'{"type":"policy","not":"complete',
        )
    )
    tally = Tally()
    for start in range(0, len(stream), size):
        tally.feed(stream[start : start + size])
    assert (tally.seen, tally.lost) == (3, 42)


def test_policies_are_what_the_agent_reads() -> None:
    texts = [policy_text(f"p-{n}", "idle", [-1, n], "Sigkill", call) for n, call in enumerate(FD_CALLS)]
    policies = parse_policies(join_policies(texts).encode(), "bench.yaml")
    assert [policy.hooks[0].syscall for policy in policies] == list(FD_CALLS)
    assert {policy.namespace for policy in policies} == {"idle"}
    match = policies[3].hooks[0].selectors[0].match_args[0]
    assert (match.operator, set(match.values)) == (Operator.EQUAL, {-1, 3})


def test_unmatched_policies_differ_and_never_name_the_descriptor_in_use() -> None:
    policies = parse_policies(unmatched_policies(5, "selected").encode(), "bench.yaml")
    values = [policy.hooks[0].selectors[0].match_args[0].values for policy in policies]
    assert len({policy.name for policy in policies}) == len(set(values)) == 5
    assert not any(-1 in value for value in values)


def test_watcher_announces_a_container_that_runs_already() -> None:
    labels = {
        "io.kubernetes.pod.name": "p",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": "u",
        "io.kubernetes.container.name": "main",
    }
    info = {"config": {"labels": labels}, "runtimeSpec": {"linux": {"cgroupsPath": "/kube/pod/c"}}, "pid": 42}
    told = announcement("abc", info)
    assert (told.id, told.name, told.pod_name, told.pod_namespace, told.pod_uid) == ("abc", "main", "p", "default", "u")
    assert (told.pid, told.cgroups_path, told.phase) == (42, "/kube/pod/c", hook_pb2.PHASE_RUNNING)
