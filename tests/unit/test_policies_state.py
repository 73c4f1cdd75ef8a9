# SPDX-License-Identifier: Apache-2.0
"""The policy store: lineage, tables, workload bits and modes, which come and go with policies."""

from __future__ import annotations

from collections import Counter
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest

from agent.policy.lineage import MAX_PREDICATES
from agent.policy.model import PolicyMode
from agent.policy_entry import Change, NoSuchPolicy, PolicyRejected, PolicyState
from agent.workload.identity import MAX_POLICIES, PolicyId
from agent.workload.scopes import Scope, scope_of_selector
from tests.support.policy_stage import Stage, following, version
from tests.support.workload import POST, kprobe, lseek_policy, match, policy, selector


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_what_processes_descend_from_is_known_before_the_rules_ask(stage: Stage) -> None:
    stage.add(following("a", "/x"))
    assert stage.log[:3] == ["facts", "lineage 1", "prepare 1"]
    stage.add(following("a", "/y"))
    assert stage.log == [
        *("facts", "lineage 2", "prepare 2", "compile lseek [1, 2]", "added 2", "select +[1] -[0]"),
        *("compile lseek [2]", "forget 1", "lineage 1", "removed 1"),
    ]
    stage.delete("a")
    assert stage.log[-3:] == ["forget 2", "lineage 0", "removed 2"]


def test_lineage_of_a_policy_that_fails_is_given_back(stage: Stage) -> None:
    stage.add(following("a", "/x"))
    for broken in (stage.state, stage.rules):
        broken.fail = True
        stage.rejected(following("b", "/y"))
        broken.fail = False
        assert stage.log[-1] == "lineage 1"
    stage.store._burned = {PolicyId(bit) for bit in range(1, MAX_POLICIES)}
    assert "bits are in use" in stage.rejected(following("b", "/y"))
    assert stage.log == ["facts", "lineage 2", "lineage 1"]


def test_more_predicates_than_there_are_bits_are_refused(stage: Stage) -> None:
    refused = stage.rejected(following("a", *(f"/{number}" for number in range(MAX_PREDICATES + 1))))
    assert "257 more conditions with followChildren or followForks, and room for 256" in refused
    assert stage.log == ["facts"]
    assert stage.listed() == {"a": (PolicyState.LOAD_ERROR, True)}


def test_kernel_memory_is_that_of_programs_and_entries(stage: Stage) -> None:
    stage.add(version("a", 1), policy("b", kprobe("access", {0: "string"}, selector(), selector())))
    found = stage.store.memory()
    assert (found[1], found[2]) == (1000 + 192, 1000 + 2 * 192)
    stage.delete("b")
    assert stage.store.memory() == {1: 1000 + 192}


def test_a_preparation_that_fails_is_taken_back(stage: Stage) -> None:
    stage.state.fail = True
    assert "MAP_UPDATE_ELEM" in stage.rejected(version("a", 1))
    assert stage.log == ["facts", "forget 1"]
    assert stage.rules.slots == {}


def test_tables_last_as_long_as_somebody_searches(stage: Stage) -> None:
    def searching(name: str, *texts: str) -> dict[str, Any]:
        return policy(name, kprobe("access", {0: "string"}, *(selector(match(0, "SubString", text)) for text in texts)))

    stage.add(searching("a", "x", "y"), searching("b", "y"))
    assert stage.state.tables == {1, 2}
    stage.delete("a")
    assert stage.state.tables == {2}
    stage.delete("b")
    assert stage.state.tables == set()


def test_selectors_that_match_workloads_have_bits_of_their_own(stage: Stage) -> None:
    workloads = {"matchWorkloads": {"podSelector": {"matchLabels": {"app": "a"}}}}
    stage.add(policy("a", kprobe("lseek", {0: "int"}, workloads), namespace="shop"), version("b", 1))
    (placed,) = (each for each in stage.store.placed() if each.policy.name == "a")
    ((chosen, bit),) = placed.workload_bits.items()
    assert (placed.bit, bit, stage.bits()["b"]) == (0, 1, 2)
    assert stage.selection.scopes == {0: Scope("shop"), 1: scope_of_selector(placed.policy, chosen), 2: Scope()}
    stage.delete("a", "shop")
    assert stage.log[0] == "select +[] -[0, 1]"
    stage.add(version("c", 1))
    assert stage.bits() == {"b": 2, "c": 0}


def test_bits_of_rules_that_calls_may_still_come_to_are_not_given_out(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.rules.settled = False
    stage.delete("a")
    stage.add(version("b", 1))
    stage.store.settle()
    stage.add(version("c", 1))
    assert stage.bits() == {"b": 1, "c": 2}
    stage.rules.settled = True
    stage.store.settle()
    stage.add(version("d", 1))
    assert stage.bits()["d"] == 0


def test_mode_is_switched_and_told(stage: Stage) -> None:
    stage.add(version("a", 1))
    assert stage.switch("a", PolicyMode.MONITOR) is Change.MODE
    assert (stage.log, stage.modes()) == (["mode 1 monitor"], {"a": "monitor"})


def test_a_switched_policy_that_is_added_again_is_what_it_says(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.switch("a", PolicyMode.MONITOR)
    assert stage.add(version("a", 1)) == [Change.REPLACED]
    assert stage.modes() == {"a": "enforce"}


def test_mode_that_is_given_with_the_text_counts(stage: Stage) -> None:
    text = b"""{"apiVersion": "cilium.io/v1alpha1", "kind": "TracingPolicy", "metadata": {"name": "a"},
        "spec": {"kprobes": [{"call": "lseek", "selectors": [{"matchActions": [{"action": "Sigkill"}]}]}]}}"""
    stage.store.add_text(text, "f", PolicyMode.MONITOR)
    assert stage.modes() == {"a": "monitor"}
    assert stage.store.add_text(text, "f", PolicyMode.MONITOR)[0].change is Change.UNCHANGED
    assert stage.store.add_text(text, "f")[0].change is Change.REPLACED


def test_a_policy_that_enforces_nothing_has_no_mode_to_switch(stage: Stage) -> None:
    stage.add(lseek_policy("a", actions=POST))
    with pytest.raises(PolicyRejected, match="a has no action that enforces: there is nothing to switch"):
        stage.switch("a", PolicyMode.MONITOR)


def test_a_switch_that_fails_or_has_no_rules_is_none(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.state.fail = True
    with pytest.raises(PolicyRejected, match="MAP_UPDATE_ELEM"):
        stage.switch("a", PolicyMode.MONITOR)
    assert stage.modes() == {"a": "enforce"}
    stage.rejected(version("b", 1))
    with pytest.raises(PolicyRejected, match="b is not in force: bpf"):
        stage.switch("b", PolicyMode.MONITOR)
    with pytest.raises(NoSuchPolicy):
        stage.switch("c", PolicyMode.MONITOR)


def test_counts_are_those_of_what_is_in_force(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.rules.fail = True
    stage.rejected(version("b", 1))
    first, second = stage.store.entries()
    assert (stage.store.counts(first), stage.store.counts(second)) == (Counter(post=1), Counter())
    assert (stage.store.selector_counts(first), stage.store.selector_counts(second)) == (
        {(0, 0, False): Counter(post=1)},
        {},
    )


def test_lineage_is_settled(stage: Stage) -> None:
    assert stage.store.settle_lineage() == 3


def test_settling_does_not_wait_for_a_change(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks looks after starting containers as well, and a change can compile for minutes."""
    began, ended = Event(), Event()

    def compile_slowly(_: object) -> None:
        began.set()
        ended.wait(30)

    monkeypatch.setattr(stage.rules, "apply", compile_slowly)
    change = Thread(target=stage.add, args=(version("a", 1),))
    change.start()
    try:
        assert began.wait(10)
        asked = monotonic()
        stage.store.settle()
        assert stage.store.settle_lineage() is None
        assert monotonic() - asked < 5
    finally:
        ended.set()
        change.join()
    assert stage.store.settle_lineage() == 3
