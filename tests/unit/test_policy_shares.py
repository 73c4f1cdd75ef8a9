# SPDX-License-Identifier: Apache-2.0
"""Programs that several policies have rules in are shared out by the rules' weight, to the last byte."""

from __future__ import annotations

from agent.policy.access import HookPoint, PointKind
from agent.policy.shares import share_out
from tests.support.planning import FIRST_SERIAL, place
from tests.support.workload import kprobe, lseek_policy, match, policy, selector

LSEEK, ACCESS, GETPGID = (HookPoint(PointKind.SYSCALL, name) for name in ("lseek", "access", "getpgid"))


def test_equal_rules_have_equal_shares_and_nothing_is_lost() -> None:
    placed = place(lseek_policy("a"), lseek_policy("b"), lseek_policy("c"))
    shares = share_out({LSEEK: 1000}, placed)
    assert sorted(shares.values()) == [333, 333, 334]
    assert set(shares) == {FIRST_SERIAL, FIRST_SERIAL + 1, FIRST_SERIAL + 2}


def test_a_heavier_rule_has_the_greater_share() -> None:
    heavy = selector(*(match(0, "NotPrefix", "/" + str(n) * 400) for n in range(5)))
    placed = place(
        policy("a", kprobe("access", {0: "string"}, heavy)),
        policy("b", kprobe("access", {0: "string"}, selector(match(0, "Equal", "/x")))),
    )
    shares = share_out({ACCESS: 100_000}, placed)
    assert shares.total() == 100_000
    assert shares[FIRST_SERIAL] > 5 * shares[FIRST_SERIAL + 1] > 0


def test_each_hook_point_is_shared_out_by_itself() -> None:
    placed = place(lseek_policy("a"), policy("b", kprobe("access", {}), kprobe("lseek", {0: "int"})))
    shares = share_out({LSEEK: 10_000, ACCESS: 500, GETPGID: 7}, placed)
    assert shares.total() == 10_500, "what no policy has rules at is nobody's"
    assert shares[FIRST_SERIAL + 1] > 500


def test_who_only_enforces_at_a_call_has_a_share_of_it() -> None:
    document = policy("a", kprobe("lseek", {0: "int"}, selector(actions=[{"action": "NotifyEnforcer", "argSig": 9}])))
    document["spec"]["enforcers"] = [{"calls": ["sys_getpgid"]}]
    assert share_out({GETPGID: 70}, place(document)) == {FIRST_SERIAL: 70}
