# SPDX-License-Identifier: Apache-2.0
"""The policy store: what a change does, in which order, and that a change that fails is none."""

from __future__ import annotations

import logging
import re

import pytest

from agent.policy.errors import PolicyErrors
from agent.policy.gaps import GapReason
from agent.policy.model import PolicyKey
from agent.policy.plan import MAX_TEXTS
from agent.policy_entry import Change, FaultyPolicies, NoSuchPolicy, PolicyRejected, PolicyState
from agent.workload.identity import MAX_POLICIES
from agent.workload.scopes import Scope
from tests.support.planning import read
from tests.support.policy_stage import Stage, version
from tests.support.workload import kprobe, lseek_policy, match, policy, selector


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_rules_and_names_come_before_the_bits(stage: Stage) -> None:
    assert stage.add(lseek_policy("a"), lseek_policy("b", namespace="shop")) == [Change.ADDED, Change.ADDED]
    assert stage.log == [
        *("facts", "prepare 1", "prepare 2", "compile lseek [1, 2]"),
        *("added 1", "added 2", "select +[0, 1] -[]"),
    ]
    assert stage.selection.scopes == {0: Scope(), 1: Scope("shop")}
    assert stage.listed() == {"a": (PolicyState.ENABLED, False), "shop/b": (PolicyState.ENABLED, False)}


def test_the_same_policy_again_is_no_change(stage: Stage) -> None:
    stage.add(lseek_policy("a"))
    assert stage.add(lseek_policy("a"), lseek_policy("b")) == [Change.UNCHANGED, Change.ADDED]
    assert stage.log == ["facts", "prepare 2", "compile lseek [1, 2]", "added 2", "select +[1] -[]"]
    assert stage.add(lseek_policy("a")) == [Change.UNCHANGED]
    assert stage.log == []


def test_compiler_is_started_before_anything_is_looked_up_and_for_changes_alone(stage: Stage) -> None:
    stage.add(lseek_policy("a"))
    assert stage.compilers == ["begun after []", "over"]
    stage.add(lseek_policy("a"))
    assert len(stage.compilers) == 2


def test_a_replaced_policy_has_its_new_rules_before_its_old_ones_end(stage: Stage) -> None:
    stage.add(version("a", 1))
    assert stage.add(version("a", 2)) == [Change.REPLACED]
    assert stage.log == [
        *("facts", "prepare 2", "compile lseek [1, 2]", "added 2", "select +[1] -[0]"),
        *("compile lseek [2]", "forget 1", "removed 1"),
    ]
    assert stage.bits() == {"a": 1}


def test_a_replacement_on_another_call_takes_the_old_call_down(stage: Stage) -> None:
    stage.add(lseek_policy("a"))
    stage.add(policy("a", kprobe("access", {0: "string"}, selector())))
    assert stage.rules.slots == {"access": [2]}


def test_a_deleted_policy_ends_before_its_rules_go(stage: Stage) -> None:
    stage.add(version("a", 1), version("b", 2))
    stage.delete("a")
    assert stage.log == ["select +[] -[0]", "compile lseek [2]", "forget 1", "removed 1"]
    stage.delete("b")
    assert stage.log == ["select +[] -[1]", "compile lseek []", "forget 2", "removed 2"]
    assert (stage.listed(), stage.rules.slots, stage.selection.scopes) == ({}, {}, {})


def test_deleting_what_is_not_there_names_what_is(stage: Stage) -> None:
    stage.add(lseek_policy("a"), lseek_policy("b", namespace="shop"))
    with pytest.raises(NoSuchPolicy, match=r"no policy shop/a here; there are: a, shop/b"):
        stage.store.delete([PolicyKey("shop", "a")])
    assert len(stage.listed()) == 2


def test_several_are_deleted_in_one_change_or_none_is(stage: Stage) -> None:
    stage.add(version("a", 1), version("b", 2), version("c", 3))
    keys = [PolicyKey(None, name) for name in ("a", "b", "a")]
    with pytest.raises(NoSuchPolicy, match="no policy d here"):
        stage.store.delete([*keys, PolicyKey(None, "d")])
    assert stage.bits() == {"a": 0, "b": 1, "c": 2}
    stage.log.clear()
    assert [outcome.entry.policy.name for outcome in stage.store.delete(keys)] == ["a", "b"]
    assert stage.log == ["select +[] -[0, 1]", "compile lseek [3]", "forget 1", "forget 2", "removed 1", "removed 2"]
    assert stage.bits() == {"c": 2}


def test_only_the_calls_that_change_are_compiled(stage: Stage) -> None:
    stage.add(lseek_policy("a"))
    stage.add(policy("b", kprobe("access", {0: "string"}, selector())))
    assert stage.log[1:3] == ["prepare 2", "compile access [2]"]
    assert stage.rules.slots == {"lseek": [1], "access": [2]}


def test_a_compilation_that_fails_changes_nothing_and_is_listed(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.rules.fail = True
    assert "verifier's words" in stage.rejected(version("a", 2), version("b", 1))
    assert stage.log == ["facts", "prepare 2", "prepare 3", "forget 2", "forget 3"]
    assert stage.selection.scopes == {0: Scope()}
    assert stage.listed() == {"a": (PolicyState.ENABLED, True), "b": (PolicyState.LOAD_ERROR, True)}
    assert [placed.policy.hooks for placed in stage.store.placed()] == [read(version("a", 1))[0].hooks]


def test_a_policy_that_failed_can_be_tried_again(stage: Stage) -> None:
    stage.rules.fail = True
    stage.rejected(lseek_policy("a"))
    stage.rules.fail = False
    stage.add(lseek_policy("a"))
    assert stage.listed() == {"a": (PolicyState.ENABLED, False)}


def test_a_policy_that_never_was_in_force_is_deleted_without_a_trace(stage: Stage) -> None:
    stage.rules.fail = True
    stage.rejected(lseek_policy("a"))
    stage.delete("a")
    assert (stage.log, stage.listed()) == ([], {})


def test_what_this_node_cannot_do_is_told_with_its_place_and_listed(stage: Stage) -> None:
    stage.add(version("a", 1))
    refused = stage.rejected(policy("a", kprobe("fork", {0: "int"})), policy("b", kprobe("vfork", {0: "int"})))
    assert re.match(r'test:1:\d+: this kernel has no system call "fork"', refused)
    assert stage.log == ["facts"]
    assert stage.listed() == {"a": (PolicyState.ENABLED, True), "b": (PolicyState.LOAD_ERROR, True)}
    assert stage.rules.slots == {"lseek": [1]}


def test_every_fault_of_every_policy_is_told_at_once(stage: Stage) -> None:
    faulty = [policy(name, kprobe("fork", {0: "int"}), kprobe("vfork", {0: "int"})) for name in ("a", "b")]
    stage.log.clear()
    with pytest.raises(FaultyPolicies) as caught:
        stage.store.add(read(faulty[0], version("good", 1), faulty[1]))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].rpartition(":")[0] for line in lines] == ["test:1", "test:1", "test:5", "test:5"]
    assert all('this kernel has no system call "' in line for line in lines)
    errors = {str(entry.policy.key): entry.error for entry in stage.store.entries()}
    assert errors == {
        "a": "\n".join(lines[:2]),
        "b": "\n".join(lines[2:]),
        "good": "given together with policies that have faults: a, b",
    }
    assert (stage.log, stage.rules.slots) == (["facts"], {})
    assert stage.add(version("good", 1)) == [Change.ADDED]
    assert stage.listed()["good"] == (PolicyState.ENABLED, False)


def test_a_change_that_succeeds_ends_what_is_told_of_one_that_failed(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.rejected(policy("a", kprobe("fork", {0: "int"})))
    assert stage.listed() == {"a": (PolicyState.ENABLED, True)}
    assert stage.add(version("a", 1)) == [Change.UNCHANGED]
    assert stage.listed() == {"a": (PolicyState.ENABLED, False)}


def test_a_policy_whose_probes_are_on_earlier_files_is_in_force_in_part(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.store.note(stage.store.find(PolicyKey(None, "a")), "/bin/x is gone")
    assert stage.listed() == {"a": (PolicyState.PARTIAL, True)}
    assert stage.add(version("a", 1)) == [Change.UNCHANGED]
    assert stage.listed() == {"a": (PolicyState.PARTIAL, True)}, "that is true still"
    assert stage.add(version("a", 2)) == [Change.REPLACED]
    assert stage.listed() == {"a": (PolicyState.ENABLED, False)}


IGNORED = {"ignore": {"callNotFound": True}}


def test_what_this_node_leaves_out_is_told_and_never_called_enabled(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    fork = kprobe("fork", {0: "int"}) | IGNORED
    stage.add(policy("part", kprobe("lseek", {0: "int"}), fork), policy("none", fork), version("all", 1))
    assert stage.listed() == {
        "all": (PolicyState.ENABLED, False),
        "none": (PolicyState.NOT_HOOKED, False),
        "part": (PolicyState.PARTIAL, False),
    }
    (gap,) = stage.store.find(PolicyKey(None, "part")).gaps
    assert (gap.section, gap.name, gap.reason) == ("kprobes[1]", "fork", GapReason.CALL_NOT_FOUND)
    told = [vars(record)["fields"] for record in caplog.records]
    assert [(each["policy"], each["state"], each["count"]) for each in told] == [
        ("part", "partial", 1),
        ("none", "not_hooked", 1),
    ]
    assert told[0]["not_enforced"] == [str(gap)]


def test_what_cannot_be_planned_is_rejected_and_leaves_nothing(stage: Stage) -> None:
    kinds = [(index, kind) for kind in ("string", "fd", "sockaddr") for index in range(4)] + [(0, "sockaddr_un")]
    texts = {"args": [{"index": index, "type": kind} for index, kind in kinds]}
    assert len(kinds) == MAX_TEXTS + 1
    refused = stage.rejected(policy("a", kprobe("openat", {}, selector()) | texts))
    assert "openat: a hook of policy a has" in refused
    assert stage.log == ["facts", "prepare 1", "forget 1"]


def test_a_faulty_text_is_told_with_its_place_and_changes_nothing(stage: Stage) -> None:
    with pytest.raises(PolicyErrors, match=r"^file\.yaml:1:1: "):
        stage.store.add_text(b"kind: Pod", "file.yaml")
    assert (stage.log, stage.listed()) == ([], {})


def test_twins_are_refused_before_anything(stage: Stage) -> None:
    twins = read(version("a", 1)) + read(version("a", 2))
    with pytest.raises(PolicyRejected, match=r"given more than once: a \(test:1:1, test:1:1\)"):
        stage.store.add(twins)
    assert (stage.log, stage.listed()) == ([], {})


def test_the_bit_of_a_deleted_policy_is_given_out_again_its_serial_never(stage: Stage) -> None:
    stage.add(version("a", 1), version("b", 1))
    stage.delete("a")
    stage.add(version("c", 1))
    assert stage.bits() == {"b": 1, "c": 0}
    assert stage.rules.slots == {"lseek": [2, 3]}


def test_a_bit_that_old_rules_still_have_is_not_given_out(stage: Stage) -> None:
    """The compilation without them failed: they would act for the bit's next owner."""
    stage.add(version("a", 1), version("b", 1))
    stage.rules.fail = True
    stage.delete("a")
    assert stage.log == ["select +[] -[0]", "removed 1"], "its state is still needed"
    stage.rules.fail = False
    stage.add(version("c", 1))
    assert stage.bits() == {"b": 1, "c": 2}


def test_as_many_policies_as_there_are_bits_fit(stage: Stage) -> None:
    calls = ("lseek", "fsync")  # the rules of one alone are more than its programs
    hooks = (kprobe(calls[n % 2], {0: "int"}, selector(match(0, "Equal", n))) for n in range(MAX_POLICIES))
    stage.add(*(policy(f"p{n}", hook) for n, hook in enumerate(hooks)))
    refused = stage.rejected(version("more", 1))
    assert "2048 of 2048 bits are in use, and 1 more are needed" in refused
    stage.delete("p7")
    stage.add(version("more", 1))
    assert stage.bits()["more"] == 7
    assert "2048 of 2048 bits" in stage.rejected(version("more", 2))


def test_bindings_that_cannot_be_written_leave_the_old_policies_selected(stage: Stage) -> None:
    stage.add(version("a", 1))
    stage.selection.fail = 1
    assert "MAP_UPDATE_ELEM" in stage.rejected(version("a", 2), version("b", 1))
    assert stage.selection.scopes == {0: Scope()}
    assert stage.rules.slots == {"lseek": [1]}
    assert stage.listed() == {"a": (PolicyState.ENABLED, True), "b": (PolicyState.LOAD_ERROR, True)}
    assert stage.log[-4:] == ["forget 2", "forget 3", "removed 2", "removed 3"]
    assert stage.add(version("a", 2), version("b", 1)) == [Change.REPLACED, Change.ADDED]


def test_bits_that_may_be_left_in_a_binding_are_not_given_out(stage: Stage) -> None:
    stage.selection.fail = 2  # putting the old bits back fails too
    stage.rejected(version("a", 1))
    stage.add(version("a", 1))
    assert stage.bits() == {"a": 1}


def test_a_deleted_policy_ends_even_when_bindings_cannot_be_written(stage: Stage) -> None:
    """Its rules go, so what is left of its bits selects nothing; they are not given out again."""
    stage.add(version("a", 1))
    stage.selection.fail = 1
    stage.delete("a")
    assert (stage.rules.slots, stage.listed()) == ({}, {})
    stage.add(version("b", 1))
    assert stage.bits() == {"b": 1}
