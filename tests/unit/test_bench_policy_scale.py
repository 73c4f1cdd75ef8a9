# SPDX-License-Identifier: Apache-2.0
"""How policy_scale's figures are made, and the program whose children violate; nothing here needs the kernel's BPF."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from agent.policy.reader import parse_policies
from bench.parts.kernel_memory import KernelMemory
from bench.parts.predicates import Predicate, added
from bench.parts.samples import POLICIES
from bench.parts.scale import NAMESPACES, POINTS, Scale, scale_policy
from bench.parts.update_storm import ESCAPED, KILLED, Storm, version
from tests.support.image import FORKS, compile_program


def test_scale_takes_turns_in_hook_points_and_namespaces() -> None:
    policies = [parse_policies(scale_policy(n, n).encode(), "f")[0] for n in range(64)]
    assert len({policy.key for policy in policies}) == 64
    assert {hook.call for policy in policies for hook in policy.hooks} == {f"__x64_sys_{call}" for call in POINTS}
    assert {policy.key.namespace for policy in policies} == {f"scale-{n}" for n in range(NAMESPACES)}


def test_scale_counts_all_memory_for_each_policy() -> None:
    bare, loaded = KernelMemory(1000, 24), KernelMemory(3000, 1096)
    fields = Scale(4, 10.4, bare, loaded, 3 << 20, 1 << 20, [5, 7, 6], [8, 9, 10], 2, [1.0, 3.0, 2.0], 499.6).fields()
    assert fields["kernel_bytes_per_policy"] == 1024
    assert fields["kernel_bytes_without_policies"] == {"maps": 1000, "programs": 24}
    assert (fields["agent_rss_mb"], fields["events_rss_mb"]) == (4.0, 1.0)
    assert (fields["add_one_ms"], fields["update_one_ms"]) == ({"median": 6, "max": 7}, {"median": 9, "max": 10})
    assert (fields["map_updates_per_bind"], fields["bind_update_us"]) == (1.5, {"p50": 2.0, "p99": 3.0})


def test_storm_tells_what_happened_while_it_updated() -> None:
    fields = Storm(16, 100, 700, 3, [10.0, 30.0, 20.0]).fields()
    assert (fields["violations"], fields["violations_while_updating"], fields["escaped"]) == (703, 603, 3)
    assert (fields["updates"], fields["update_ms"]) == (3, {"median": 20, "max": 30})


def test_every_version_kills_and_differs() -> None:
    texts = {version(number) for number in range(3)}
    assert len(texts) == 3
    assert all('"-1"' in text and "Sigkill" in text for text in texts)


@pytest.mark.parametrize("predicate", Predicate)
def test_predicates_make_as_many_different_policies(predicate: Predicate) -> None:
    for count in POLICIES:
        policies = parse_policies(predicate.policies(count).encode(), "f")
        assert len({policy.hooks[0].selectors[0].args[0].values for policy in policies}) == count


def test_what_policies_add_is_told_against_the_bare_call() -> None:
    table = {"int": {"none": 100.0, "1": {"selected": 150.5, "unselected": 120.0}}}
    assert added(table) == {"int": {"1": {"selected": 50.5, "unselected": 20.0}}}


def test_forks_tells_of_every_child_that_lives_on(tmp_path: Path) -> None:
    """Nothing kills them here."""
    program = tmp_path / "forks"
    compile_program(FORKS.programs["forks"], program)
    assert subprocess.run([program], check=False, timeout=10).returncode == 2
    assert subprocess.run([program, "x"], check=False, timeout=10).returncode == 2
    with subprocess.Popen([program, "1"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        began = time.monotonic()
        said = [running.stdout.readline() for _ in range(20)]
        running.kill()
    assert said == [ESCAPED] * 20
    assert time.monotonic() - began >= 0.019
    assert KILLED.findall("killed 100\nescaped\nkilled 200\n") == ["100", "200"]
