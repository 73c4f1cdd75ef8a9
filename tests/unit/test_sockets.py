# SPDX-License-Identifier: Apache-2.0
"""Sockets with owners, before the kernel: who tracks, which rules are asked of the owner, in which programs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agent.policy.codegen import compile_module, compile_point
from agent.policy.codegen_unit import Placement
from agent.policy.errors import PolicyErrors
from agent.policy.evaluate import evaluate
from agent.policy.evaluate_seen import Call, Net
from agent.policy.explain import explain_policy
from agent.policy.model import ActionKind, PolicyMode
from agent.policy.plan import MAX_RULES, PointPlan, changed_points, make_plan, plan_hooks
from agent.policy.sockets import CLOSES, owned_values, tracks
from agent.policy_entry import Change
from tests.support.language import Document, act, arg, condition, document
from tests.support.planning import place, plan, read, resolve
from tests.support.policy_stage import Stage
from tests.support.workload import kprobe, lseek_policy, selector

SOCK = arg(2, "sock")
TRACK, UNTRACK = act("TrackSock", argSock=2), act("UntrackSock", argSock=2)
EVENT = "x/bare_tp"


def bare(*actions: dict[str, Any], args: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    hook = {"subsystem": "x", "event": "bare_tp", "raw": True, "args": args or [SOCK]}
    return hook | {"selectors": [{"matchActions": list(actions or [act("Post")])} | more]}


def policy(name: str, *hooks: dict[str, Any]) -> Document:
    return document(name, tracepoints=list(hooks))


def bare_plan(*documents: Document) -> PointPlan:
    return plan(*documents)["bare_tp"]


def text_of(made: PointPlan) -> str:
    slots = tuple(range(10, 10 + len(made.chunks)))
    return compile_point(made, Placement(1, 1, slots, ()))


def test_who_tracks() -> None:
    assert [
        tracks(each) for each in read(policy("a", bare(TRACK)), policy("b", bare(UNTRACK)), policy("c", bare()))
    ] == [
        *(True, False, False),
    ]


def test_rules_are_asked_of_owners_while_somebody_tracks() -> None:
    watching, tracking = policy("a", bare()), policy("b", bare(TRACK))
    assert [rule.sockets for rule in bare_plan(watching).rules] == [()]
    (value,) = {value for rule in bare_plan(watching, tracking).rules for value in rule.sockets}
    assert (value.type.value, len(bare_plan(watching, tracking).chunks)) == ("sock", 1)


def test_who_tracks_nothing_pays_nothing() -> None:
    text = compile_module([(bare_plan(policy("a", bare())), Placement(1, 1, (10,), ()))])
    assert not re.search("owner|socks|subject", text)


def test_rules_of_one_process_are_in_one_program() -> None:
    """Those of the process that runs first; the order of each kind stays."""
    number, other = arg(1, "uint64"), arg(2, "sock", label="again")
    documents = [
        policy("a", bare(TRACK)),
        policy("b", bare(args=[number])),
        policy("c", bare(args=[other])),
        policy("d", bare(args=[number])),
    ]
    made = bare_plan(*documents)
    assert [[rule.placed.policy.name for rule in chunk.rules] for chunk in made.chunks] == [["b", "d"], ["a", "c"]]
    assert [bool(chunk.sockets) for chunk in made.chunks] == [False, True]
    text = text_of(made)
    assert text.count("pg_select(p, ") == 1
    assert text.count("pg_select_subject(p, ") == 1
    assert re.search(r"pg_tail_call\(ctx, slots_raw,", text)


def test_a_program_goes_on_for_owners_when_the_process_that_runs_is_not_selected() -> None:
    text = text_of(bare_plan(policy("a", bare(TRACK)), policy("b", bare(args=[arg(1, "uint64")]))))
    first = text[text.index("int pg_enter_1_0") : text.index("PG_INLINE struct pg_event *pg_record_1_1")]
    assert "if (!((p[" not in first


def test_every_program_of_owners_selects_anew() -> None:
    made = bare_plan(policy("a", bare(TRACK), *(bare() for _ in range(MAX_RULES))))
    assert [len(chunk.rules) for chunk in made.chunks] == [MAX_RULES, 1]
    assert text_of(made).count("pg_select_subject(p, ") == 2


def test_calls_of_processes_are_their_own() -> None:
    (placed,) = place(document("a", kprobes=[kprobe("lseek", {0: "int"}, selector())], tracepoints=[bare(TRACK)]))
    assert [bool(owned_values(hook)) for hook in placed.hooks] == [False, True]


def test_closing_is_watched_while_somebody_tracks() -> None:
    tracking, watching = place(policy("a", bare(TRACK)), policy("b", bare()))
    assert changed_points([watching], [tracking]) == {hook.point for hook in watching.hooks}
    assert changed_points([tracking], [watching]) == {hook.point for hook in tracking.hooks} | {CLOSES}
    made = plan_hooks([tracking, watching], [CLOSES])[CLOSES]
    assert (made.forgets, made.rules, plan_hooks([watching], [CLOSES])) == (True, (), {})
    assert "pg_forget_closed(ctx);\n\treturn 0;" in text_of(made)


def test_closing_is_watched_whatever_the_rules_there_do() -> None:
    """Each program of the chain forgets when the call does not go on in the next one."""
    rules = bare_plan(policy("a", bare(TRACK), bare())).rules
    made = make_plan(CLOSES, rules, max_weight=1, forgets=True)
    assert len(made.chunks) == 2
    assert text_of(made).count("\tpg_forget_closed(ctx);\n\treturn 0;\n}") == 2
    assert make_plan(CLOSES, rules, forgets=True).halve().forgets


@pytest.mark.parametrize(("action", "call"), [(TRACK, "pg_track_hit(call, hit, "), (UNTRACK, "pg_untrack_hit(hit, ")])
def test_actions_are_calls_of_the_library(action: dict[str, Any], call: str) -> None:
    text = text_of(bare_plan(policy("a", bare(action))))
    assert f"if (!error) {call}(const struct sock *)n);" in text
    assert "struct pg_hit *hit = pg_hit(" in text


def test_conditions_are_on_the_owner() -> None:
    asks: dict[str, Any] = {
        "matchPIDs": [{"operator": "In", "values": [5], "followForks": True}],
        "matchBinaries": [{"operator": "In", "values": ["/bin/a"], "followChildren": True}],
        "matchParentBinaries": [{"operator": "NotIn", "values": ["/bin/b"], "followChildren": True}],
        "matchNamespaces": [{"namespace": "Net", "operator": "NotIn", "values": ["host_ns"]}],
        "matchNamespaceChanges": [{"operator": "In", "values": ["Net"]}],
        "matchCapabilities": [{"operator": "In", "values": ["CAP_CHOWN"]}],
        "matchCapabilityChanges": [{"operator": "In", "values": ["CAP_CHOWN"]}],
    }
    limited = act("Post", rateLimit="1s", userStackTrace=True)
    text = text_of(bare_plan(policy("a", bare(TRACK), bare(limited, act("Sigkill"), **asks))))
    of_whoever_runs = (
        "pg_tgid() pg_in_lineage( pg_parent_outside_lineage( pg_ns_inum( pg_ns_changed( pg_caps( pg_caps_changed( "
    )
    of_whoever_runs += "pg_read_binary( pg_read_parent_binary( pg_settle( pg_limit( "
    assert [name for name in of_whoever_runs.split() if name in text] == []
    assert "flags & PG_HIT_USER_STACK && !pg_is_foreign(owner)" in text
    for name in (
        "pg_ns_inum_of(task,",
        "pg_in_lineage_of(tgid, start,",
        "pg_parent_outside_lineage_of(task, tgid, start,",
    ):
        assert name in text


def refused(*hooks: dict[str, Any]) -> str:
    with pytest.raises(PolicyErrors) as raised:
        resolve(read(policy("a", *hooks)))
    return str(raised.value)


def test_what_is_no_socket_is_refused_with_its_place() -> None:
    found = refused(bare(act("TrackSock", argSock=1), args=[arg(1, "uint64"), SOCK]))
    wanted = "argSock names argument 1, which is not declared as a sock or socket, add index 1 with its type to args"
    assert re.fullmatch(rf"test:1:\d+: {wanted}", found)
    found = refused(bare(act("UntrackSock", argSock=1), args=[arg(1), SOCK]))
    wanted = (
        r"test:1:\d+: UntrackSock needs a socket, and argSock 1 is of type uint64 here, name an argument of type sock "
    )
    assert re.match(wanted, found)


def test_a_policy_that_tracks_changes_the_rules_of_others() -> None:
    stage = Stage()
    stage.add(policy("a", bare()))
    assert stage.add(policy("b", bare(TRACK))) == [Change.ADDED]
    assert [line for line in stage.log if line.startswith("compile")] == [
        *("compile bare_tp [1, 2]", "compile inet_sock_set_state []"),
    ]
    stage.delete("b")
    assert stage.log[1:] == [
        *("compile bare_tp [1]", "compile inet_sock_set_state []", "forget 2", "forget sockets", "removed 2"),
    ]
    stage.add(lseek_policy("c"))
    stage.delete("c")
    assert "forget sockets" not in stage.log


def test_sockets_are_forgotten_when_the_last_one_goes() -> None:
    stage = Stage()
    stage.add(policy("a", bare(TRACK)), policy("b", bare(TRACK)))
    stage.delete("a")
    assert "forget sockets" not in stage.log
    stage.delete("b")
    assert "forget sockets" in stage.log


@pytest.mark.parametrize("mode", PolicyMode)
def test_nothing_is_done_to_another_process(mode: PolicyMode) -> None:
    (made,) = read(policy("a", bare(TRACK, act("Sigkill"), act("Signal", argSig=10))))
    seen = Call((Net(),), runs=False)
    outcome = evaluate(made.hooks[0], seen, mode).at_entry
    assert outcome
    assert [action.kind for action in outcome.done] == [ActionKind.TRACK_SOCK]
    withheld, failed = (
        (outcome.withheld, outcome.failed) if mode is PolicyMode.MONITOR else (outcome.failed, outcome.withheld)
    )
    assert ([action.kind for action in withheld], failed) == ([ActionKind.SIGKILL, ActionKind.SIGNAL], ())
    done = evaluate(made.hooks[0], Call((Net(),)), PolicyMode.ENFORCE).at_entry
    assert done
    assert (len(done.done), done.failed) == (3, ())


def explained(*hooks: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Traps, what is done, notes on the cost."""
    (made,) = read(policy("a", *hooks))
    found = explain_policy(made)
    done = [text for hook in found.hooks for each in hook.selectors for text in each.then]
    return [trap.text for trap in found.traps], done, list(found.cost.notes)


def test_what_is_explained() -> None:
    traps, done, notes = explained(bare(TRACK), bare(act("Sigkill")))
    assert "the socket in argument 2 is this process's from now on, unless it is another's who lives" in done
    assert any("TrackSock takes the process that runs for the owner" in text for text in traps)
    assert any("no signal is sent: the event says so" in text for text in traps)
    assert any("looks up its owner" in text for text in notes)
    state = condition(2, "State", "TCP_SYN_SENT")
    traps, _, _ = explained(bare(TRACK, matchArgs=[state]))
    assert not any("TrackSock takes" in text for text in traps)
    traps, _, notes = explained(bare(act("Sigkill")))
    assert not any("no signal is sent" in text for text in traps)
    assert not any("looks up its owner" in text for text in notes)
