# SPDX-License-Identifier: Apache-2.0
"""What the race counts as an escape, how it sums up, and what it tells the agent."""

from __future__ import annotations

import click
import pytest

from agent.policy.model import Operator
from agent.policy.reader import parse_policies
from bench.parts.figures import Ended, Phase, find_faults, worst_of
from bench.parts.others import is_other
from bench.parts.policies import FD_CALLS, join_policies, policy_text, unmatched_policies
from bench.parts.sites import Door
from bench.parts.starts import Line, Starts, join_starts, read_hold, read_nri, read_oci
from bench.parts.storm import Tally
from bench.parts.targets import Target, judge
from bench.parts.watcher import announcement
from bench.race import choose_door
from rthook.api import hook_pb2

KILLED = Ended("a", True, 137, "")
UNTOUCHED = Ended("b", False, 0, "Bad file descriptor\n")


HOOK = Starts({"hook_ms": [1.0], "bind_us": [300]})


def make_phase(name: str, *ended: Ended, starts: Starts = HOOK, left: int = 0) -> Phase:
    return Phase(name, ended, starts, left, 1.0)


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
    starts = Starts(unbound=("0123456789abcdef", "u2"))
    faults = find_faults(make_phase("storm", KILLED, escaped, stopped, refused, starts=starts, left=3))
    assert faults == [
        "storm: 1 of 4 containers escaped, the first: e1 (selected): exit code 0, output 'x'",
        "storm: 1 of 4 containers wrongly_killed, the first: w1 (not selected): exit code 137, output ''",
        "storm: 1 of 4 containers failed, the first:  (selected): no pod",
        "storm: 2 containers ran and were not bound, the first: 0123456789ab",
        "storm: 3 bindings left after all pods were removed",
    ]


def test_whole_run_is_as_bad_as_its_worst_phase() -> None:
    quiet = make_phase("quiet", KILLED, UNTOUCHED, starts=Starts({"hook_ms": [2.0], "bind_us": [500]}, ("u",)), left=2)
    escaped = Ended("c", True, 0, "")
    storm = make_phase("storm", KILLED, escaped, starts=Starts({"hook_ms": [1.0, 9.0], "bind_us": [900, 400]}))
    assert worst_of([quiet, storm]) == {
        "containers": 2,
        "selected": 1,
        "escaped": 1,
        "wrongly_killed": 0,
        "failed": 0,
        "unbound": 1,
        "hook_ms": {"p50": 2.0, "p99": 9.0},
        "bind_us": {"p50": 500, "p99": 900},
        "bindings_left": 2,
    }


def test_time_that_was_not_measured_is_none() -> None:
    assert worst_of([make_phase("quiet", KILLED, starts=Starts({"held_ms": []}))])["held_ms"] is None


def test_phase_shows_its_own_figures_beside_the_common_ones() -> None:
    starts = Starts({"held_ms": [1.5]}, counts={"held": 1})
    fields = Phase("storm", (KILLED, UNTOUCHED), starts, 0, 2.04, {"events_seen": 7}).fields()
    assert (fields["containers"], fields["selected"], fields["seconds"], fields["events_seen"]) == (2, 1, 2.0, 7)
    assert (fields["held_ms"], fields["held"]) == ({"p50": 1.5, "p99": 1.5}, 1)


def line(event: str, container: str, **fields: object) -> Line:
    return {"event": event, "container_id": container, **fields}


def test_nri_door_is_read_from_the_plugins_log() -> None:
    lines = [
        {"event": "nri_ready"},
        line("start_container", "a", outcome="bound", hook_us=1500, bind_us=300),
        line("start_container", "b", outcome="open", hook_us=9000, bind_us=0),
        line("start_container", "other", outcome="bound", hook_us=7000, bind_us=700),
    ]
    assert read_nri(lines, ["a", "b", "c"]) == Starts({"hook_ms": [1.5], "bind_us": [300]}, ("b", "c"))


def test_oci_door_is_read_from_the_agents_log() -> None:
    lines = [
        line("bound", "a", door="oci", stage="hook:createContainer", spent_us=2500),
        line("bound", "b", door="nri", stage="bind", spent_us=100),
        line("unbound", "a", door="oci", stage="hook:poststop", spent_us=90),
        line("bound", "other", door="oci", stage="hook:createContainer", spent_us=1),
    ]
    assert read_oci(lines, ["a", "b"]) == Starts({"agent_ms": [2.5]}, ("b",))


def test_hold_door_tells_stops_fallbacks_and_who_was_never_stopped() -> None:
    lines = [
        line("released", "a", held_us=900, outcome="continued"),
        line("released", "a", held_us=1100, outcome="continued"),
        line("unannounced", "a", treatment="hold", outcome="identified"),
        line("released", "b", held_us=500_000, outcome="continued"),
        line("unannounced", "b", treatment="hold", outcome="unidentified_open"),
        line("unannounced", "c", treatment="report", outcome="unidentified"),
        line("released", "other", held_us=7, outcome="continued"),
    ]
    starts = read_hold(lines, ["a", "b", "c", "d"])
    assert starts.times == {"held_ms": [0.9, 1.1, 500.0]}
    assert starts.unbound == ("b", "c")
    assert starts.counts == {"held": 2, "stops": 3, "bound_before": 1, "fell_back": 2}


def test_groups_of_starts_are_joined() -> None:
    parts = [Starts({"hook_ms": [1.0]}, ("u",), {"n": 1}), Starts({"hook_ms": [2.0, 3.0]}), Starts()]
    assert join_starts(parts) == Starts({"hook_ms": [1.0, 2.0, 3.0]}, ("u",))


def test_target_is_met_by_what_was_measured_and_is_not_above_it() -> None:
    result = {"held_ms": {"p50": 1.0, "p99": 10.1}, "hook_ms": None}
    targets = (Target("held_ms.p50", 1), Target("held_ms.p99", 10), Target("hook_ms.p50", 1), Target("no.such", 1))
    judged = judge(result, targets)
    assert {path: one["met"] for path, one in judged.items()} == {
        "held_ms.p50": True,
        "held_ms.p99": False,
        "hook_ms.p50": False,
        "no.such": False,
    }
    assert judged["held_ms.p99"] == {"value": 10.1, "at_most": 10, "met": False}


@pytest.mark.parametrize(
    ("door", "identity", "chosen"),
    [(None, "hook", Door.NRI), ("oci", "hook", Door.OCI), ("hold", "hook", Door.HOLD), (None, "late", Door.LATE)],
)
def test_one_door_is_open(door: str | None, identity: str, chosen: Door) -> None:
    assert choose_door(door, identity) is chosen


def test_no_door_is_open_when_a_watcher_comes_late() -> None:
    with pytest.raises(click.BadParameter, match="every door is shut"):
        choose_door("oci", "late")


@pytest.mark.parametrize(
    ("command_line", "other"),
    [
        ("python /bin/podgate-agent --run-dir /tmp/podgate-run-42-1-x", False),
        ("python /bin/podgate-agent --run-dir /tmp/podgate-run-421-1-x", True),
        ("python /bin/podgate-agent", True),
        ("python -m bench.race", False),
    ],
)
def test_other_agent_is_one_with_another_run_directory(command_line: str, other: bool) -> None:
    assert is_other(command_line, 42) is other


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tally_counts_events_however_the_stream_is_cut(size: int) -> None:
    stream = b"".join(
        (
            b'{"type":"policy","n":1}\n',
            b'{"type":"lost","reason":"slow reader","count":40}\n',
            b'{"type":"lost","reason":"ring buffer full","count":9}\n',
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
    assert [policy.hooks[0].calls for policy in policies] == [(call,) for call in FD_CALLS]
    assert {policy.namespace for policy in policies} == {"idle"}
    match = policies[3].hooks[0].selectors[0].args[0]
    assert (match.operator, set(match.values)) == (Operator.EQUAL, {-1, 3})


def test_unmatched_policies_differ_and_never_name_the_descriptor_in_use() -> None:
    policies = parse_policies(unmatched_policies(5, "selected").encode(), "bench.yaml")
    values = [policy.hooks[0].selectors[0].args[0].values for policy in policies]
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
