# SPDX-License-Identifier: Apache-2.0
"""C text of plans, compared with tests/data/codegen/*.c.

When a change of the text is meant, run `UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/unit/test_codegen.py` and read
the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.codegen import compile_module, compile_point, programs
from agent.policy.codegen_unit import Placement, ProgramName, Side
from agent.policy.model import (
    Action,
    ActionKind,
    ArgFilter,
    ArgType,
    HookKind,
    Network,
    Operator,
    Range,
    RateScope,
    Selector,
)
from agent.policy.plan import PointPlan, make_plan
from agent.policy.sockets import CLOSES
from tests.support.function_plans import FUNCTION_CASES
from tests.support.language import act, arg, condition, document
from tests.support.names import project_dir
from tests.support.planning import argument, hand_made, place_resolved, plan, plan_of, plans_of
from tests.support.workload import POST, kprobe, lseek_policy, match, policy, selector

GOLDEN = project_dir() / "tests/data/codegen"
USR1 = ({"action": "Signal", "argSig": 10},)
LOUD = ({"action": "NoPost"}, {"action": "Sigkill"})
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}
FUNCTION = HookPoint(PointKind.UPROBE, "/bin/x", 0x40)
PROBE = HookPoint(PointKind.USDT, "/bin/x", 0x80, 0x90)


def tracepoint(event: str, *selectors: dict[str, Any], args: list[dict[str, Any]], raw: bool = False) -> dict[str, Any]:
    subsystem, _, name = event.partition("/")
    hook = {"subsystem": subsystem, "event": name, "raw": raw, "args": args, "selectors": list(selectors)}
    return document("p", tracepoints=[hook])


def by_hand(
    kind: HookKind, point: HookPoint, values: list[Value], *selectors: Selector, returned: Value | None = None
) -> PointPlan:
    (made,) = plans_of(place_resolved([hand_made(kind, point, values, *selectors, returned=returned)])).values()
    return made


def uprobe() -> PointPlan:
    asks = (ArgFilter((), Operator.GT, (100,)),)
    kill = (Action(ActionKind.SIGKILL),)
    returned = Value(ArgType.LONG, Read(Input(InputKind.RETURN)), at_return=True)
    values = [argument(0), argument(1, ArgType.STRING)]
    return by_hand(
        HookKind.UPROBE, FUNCTION, values, Selector(return_args=asks, return_actions=kill), returned=returned
    )


def usdt() -> PointPlan:
    place = Read(Input(InputKind.REGISTER, 40), (-20,), memory=Memory.USER, size=4, signed=True)
    indexed = Read(
        Input(InputKind.REGISTER, 8, 4), (16,), False, Memory.USER, 1, index=Input(InputKind.REGISTER, 16), scale=8
    )
    values = [Value(ArgType.INT32, place), Value(ArgType.UINT8, indexed)]
    asks = ArgFilter((0,), Operator.EQUAL, (7,))
    return by_hand(
        HookKind.USDT, PROBE, values, Selector(args=(asks,), actions=(Action(ActionKind.SET, position=0, value=41),))
    )


def many_values() -> PointPlan:
    """Each operator with so many values that they are in maps, and texts of every size of a key."""
    texts = [f"{n}".ljust(length, "x") for n, length in enumerate([9, 80, 300, 2000] * 20)]
    filters = [match(0, operator, *texts) for operator in ("Equal", "NotPrefix", "Postfix")]
    filters += [match(1, "NotInMap", *range(0, 2000, 2)), match(1, "InRange", *(f"{n}0:{n}5" for n in range(99)))]
    binaries = {"matchBinaries": [{"operator": "NotIn", "values": texts}]}
    late = {"matchReturnArgs": [match(0, "Equal", *range(300))]}
    hook = kprobe("access", {0: "string", 1: "int"}, selector(*filters) | binaries | late)
    return plan_of(policy("p", hook | RETURNS))


def many_networks() -> PointPlan:
    ports = [Range(n, n + 3) for n in range(0, 1000, 9)]
    networks = [Network(bytes((10, n, 0, 0)), 16) for n in range(70)]
    networks.append(Network(bytes((0x20, 1, *[0] * 14)), 16))
    asked: list[tuple[Operator, Sequence[Network | Range]]] = [
        *((Operator.SADDR, networks), (Operator.NOT_DADDR, networks[:-1])),
        *((Operator.SPORT, ports), (Operator.NOT_DPORT, ports)),
    ]
    filters = tuple(ArgFilter((0,), operator, tuple(values)) for operator, values in asked)
    point = HookPoint(PointKind.RAW_TRACEPOINT, "inet_sock_set_state")
    return by_hand(HookKind.RAW_TRACEPOINT, point, [argument(0, ArgType.SOCK)], Selector(args=filters))


def every_number() -> PointPlan:
    many = [str(n) for n in range(5)]
    first = [
        match(0, "NotEqual", 1, 2),
        match(1, "GT", -(1 << 63)),
        match(2, "InMap", *many),
        match(0, "NotInRange", "-5:5"),
    ]
    second = [match(2, "Mask", 6, 1), match(1, "LT", 5), match(1, "InRange", "-9:9", "100:100")]
    cel = {"operator": "CelExpr", "values": ["arg0 + arg1 > 7 && !(int32(arg1) == 3)"]}
    return plan_of(
        policy(
            "p",
            kprobe(
                "lseek",
                {0: "int", 1: "long", 2: "uint"},
                selector(*first, actions=USR1),
                selector(*second, actions=LOUD),
                {"matchArgs": [cel]},
                selector(match(2, "NotInMap", *many), actions=POST),
            ),
        )
    )


def enforcer() -> dict[str, PointPlan]:
    actions = [[act("NotifyEnforcer", argSig=9)], [act("CleanupEnforcerNotification")]]
    hook = kprobe("lseek", {0: "int"}, *(selector(match(0, "Equal", n), actions=actions[n]) for n in range(2)))
    return plan(document("p", kprobes=[hook], enforcers=[{"calls": ["sys_getpgid"]}]))


def copied() -> PointPlan:
    buffer = arg(1, "char_buf", returnCopy=True, sizeArgIndex=3)
    post = {"matchReturnArgs": [condition(0, "NotEqual", 0)], "matchReturnActions": [act("Post", userStackTrace=True)]}
    hook = {"call": "read", "args": [arg(0, "fd"), buffer, arg(2, "size_t")], "selectors": [post]} | RETURNS
    return plan_of(document("p", kprobes=[hook]))


def process() -> PointPlan:
    asks = {
        "matchPIDs": [{"operator": "NotIn", "values": [1, 2], "followForks": True, "isNamespacePID": True}],
        "matchBinaries": [{"operator": "In", "values": ["/usr/bin/curl"], "followChildren": True}],
        "matchParentBinaries": [{"operator": "NotPostfix", "values": ["/sh"]}],
        "matchNamespaces": [{"namespace": "Pid", "operator": "NotIn", "values": ["host_ns"]}],
        "matchNamespaceChanges": [{"operator": "In", "values": ["Mnt", "Net"]}],
        "matchCapabilities": [{"operator": "In", "values": ["CAP_SYS_ADMIN"], "isNamespaceCapability": True}],
        "matchCapabilityChanges": [{"type": "Permitted", "operator": "NotIn", "values": ["CAP_CHOWN"]}],
        "matchWorkloads": {"podSelector": {"matchLabels": {"app": "a"}}},
    }
    return plan_of(policy("p", kprobe("lseek", {0: "int"}, asks)))


def network() -> PointPlan:
    asks = [
        condition(2, "DAddr", "10.0.0.0/9", "fe80::1"),
        condition(2, "NotDPort", "80", "8000:9000"),
        condition(2, "SPortPriv"),
        condition(2, "Family", "AF_INET"),
        condition(2, "State", "TCP_LISTEN"),
    ]
    args = [arg(1, "uint64"), arg(2, "sock")]
    return plan_of(tracepoint("x/bare_tp", {"matchArgs": asks}, args=args, raw=True))


def large() -> PointPlan:
    """One rule that reports at the return and one at once, which has a copy too; both with rates or lookups."""
    buffer = arg(1, "char_buf", sizeArgIndex=3, maxData=True)
    late = {"call": "write", "args": [buffer, arg(2, "size_t")]} | RETURNS
    late["selectors"] = [
        {"matchActions": [act("Post", rateLimit="5")], "matchReturnArgs": [condition(0, "GT", 9)]},
    ]
    lookup = {"matchArgs": [condition(0, "Equal", 7)], "matchActions": [act("NoPost"), act("DnsLookup", argFqdn="a")]}
    soon = {"call": "write", "args": [arg(0, "int"), buffer], "selectors": [lookup, selector(match(1, "Prefix", "ab"))]}
    copy = {"call": "write", "args": [buffer | {"returnCopy": True}]} | RETURNS
    return plan_of(document("p", kprobes=[late, soon, copy]))


def sockets() -> PointPlan:
    """A program that is asked of the process that runs, and one that is asked of a socket's owner."""
    track = [act("TrackSock", argSock=2), act("NoPost")]
    first = tracepoint(
        "x/bare_tp", selector(match(1, "Equal", 1), actions=track), args=[arg(1, "uint64"), arg(2, "sock")]
    )
    pids = {"matchPIDs": [{"operator": "In", "values": [7]}]}
    stacks = [act("Post", rateLimit="1", userStackTrace=True), act("Sigkill")]
    second = tracepoint("x/bare_tp", pids | {"matchActions": stacks}, args=[arg(2, "sock"), arg(1, "uint64")])
    third = tracepoint("x/bare_tp", selector(match(1, "Equal", 2)), args=[arg(1, "uint64")])
    documents = [each | {"metadata": {"name": name}} for name, each in zip("abc", (first, second, third), strict=True)]
    for each in documents:
        each["spec"]["tracepoints"][0]["raw"] = True
    return plan(*documents)["bare_tp"]


CASES = {
    "plain": plan_of(lseek_policy("p")),
    "numbers": every_number(),
    "sets": many_values(),
    "network_sets": many_networks(),
    "texts": plan_of(
        policy(
            "p",
            kprobe(
                "openat",
                {0: "fd", 1: "string", 2: "char_buf:3"},
                selector(match(0, "Prefix", "/etc/"), match(1, "Equal", "", "passwd", "12345678", "shadow")),
                selector(match(1, "NotEqual", "abc"), match(2, "Postfix", "xyz", "uvw", "123456789")),
                selector(match(0, "FileType", "dir"), match(1, "SubString", "needle")),
            ),
        )
    ),
    "reported": plan_of(policy("p", kprobe("access", {0: "string", 1: "int"}, selector(match(1, "Equal", 4))))),
    "exec": plan_of(policy("p", kprobe("execve", {0: "string"}, selector(match(0, "Equal", "/bin/sh"))))),
    "several": plan_of(
        lseek_policy("a"), lseek_policy("b", match(0, "Equal", 7)), lseek_policy("c", actions=POST), bits=(0, 64, 1023)
    ),
    "chunks": make_plan(
        HookPoint(PointKind.SYSCALL, "access"),
        plan_of(*(policy(n, kprobe("access", {0: "string"}, selector(match(0, "Equal", n)))) for n in "ab")).rules,
        max_weight=1,
    ),
    "return": plan_of(
        policy(
            "p",
            kprobe(
                "lseek",
                {0: "int"},
                selector(match(0, "Equal", -1), actions=USR1)
                | {"matchReturnArgs": [condition(0, "Equal", -9)], "matchReturnActions": [act("Sigkill")]},
            )
            | RETURNS,
        )
    ),
    "copied": copied(),
    "tracepoint": plan_of(
        tracepoint(
            "sched/sched_process_exec", selector(match(4, "Postfix", "/sh")), args=[arg(4), arg(5)]
        )
    ),
    "raw_tracepoint": plan_of(
        tracepoint(
            "sched/sched_process_exec",
            selector(match(2, "Prefix", "/bin/")),
            args=[arg(0, "int", resolve="mm.owner.pid"), arg(2, "linux_binprm")],
            raw=True,
        )
    ),
    "network": network(),
    "uprobe": uprobe(),
    "usdt": usdt(),
    "limited": plan_of(
        policy(
            "p",
            kprobe(
                "access",
                {0: "string", 1: "int"},
                selector(
                    match(1, "Equal", 4),
                    actions=[act("Post", rateLimit="5", rateLimitScope="process", kernelStackTrace=True)],
                ),
            ),
        )
    ),
    "notifier": enforcer()["lseek"],
    "enforced": enforcer()["getpgid"],
    "process": process(),
    "large": large(),
    "sockets": sockets(),
    "closes": make_plan(CLOSES, (), forgets=True),
    **FUNCTION_CASES,
}  # fmt: skip


def placement(made: PointPlan) -> Placement:
    count = len(made.chunks)
    slots = tuple(range(10, 10 + count)), tuple(range(20, 20 + count))
    return Placement(7, 3, slots[0], slots[1] if made.has_return else ())


@pytest.mark.parametrize("name", CASES)
def test_text_is_the_golden_file(name: str) -> None:
    text = compile_point(CASES[name], placement(CASES[name]))
    file = GOLDEN / f"{name}.c"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_has_a_case() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


OF_EVENTS = {f"PG_HIT_{what}" for what in ("POST", "KERNEL_STACK", "USER_STACK", "AWAITS", "AT_RETURN")}
MORE = (("PG_HIT_SIGNALS", r"pg_hit\(.*, 0x[1-9a-f]\w*\);"), ("PG_HIT_LIMITED", r"pg_limit(_subject)?\(|_LIMITED :"))


@pytest.mark.parametrize("name", CASES)
def test_what_a_hit_may_ask_for_is_done(name: str) -> None:
    """What is not in `may` of a program is not compiled: an action that is missing there would not be taken."""
    for function in compile_point(CASES[name], placement(CASES[name])).split("\n}\n"):
        hits = "".join(re.findall(r"pg_hit\(.*\);", function))
        may = re.findall(r"(?:pg_settle\w*|pg_send_hits)\(.*, \d+, ([\w |]+)[,)]", function)
        asked = {*re.findall(r"PG_HIT_\w+", hits), *(flag for flag, by in MORE if re.search(by, function))} - OF_EVENTS
        assert may or not hits
        assert all(asked <= set(each.split(" | ")) for each in may)
        assert len(set(may)) <= 1


def test_module_includes_the_library_once_and_has_the_programs_that_it_says() -> None:
    made = [(CASES[name], replace(placement(CASES[name]), attachment=n)) for n, name in enumerate(CASES)]
    text = compile_module(made)
    said = [program.name for each in made for program in programs(*each)]
    assert re.findall(r'#include "([a-z/_]+\.h)"', text) == [
        f"lib/{name}.h" for name in ("syscall", "function", "data", "socks")
    ]
    assert sorted(re.findall(r"^(?:int|long) (\w+)\(", text, re.MULTILINE)) == sorted(said)


def test_programs_have_their_side_and_chunk() -> None:
    assert programs(CASES["chunks"], placement(CASES["chunks"])) == (
        ProgramName("pg_enter_7_0", Side.ENTER, 0),
        ProgramName("pg_enter_7_1", Side.ENTER, 1),
        ProgramName("pg_exit_7_0", Side.EXIT, 0),
        ProgramName("pg_exit_7_1", Side.EXIT, 1),
    )
    assert [program.side for program in programs(CASES["plain"], placement(CASES["plain"]))] == [Side.ENTER]


def test_returns_are_watched_where_something_asks() -> None:
    watched = {name for name, made in CASES.items() if made.has_return}
    assert watched == {
        *("texts", "exec", "chunks", "return", "copied", "uprobe", "limited", "enforced", "large", "sets"),
        *("kprobe", "fentry", "fentry_socket", "fmod_ret_return", "syscall_fentry", "syscall_override"),
    }


@pytest.mark.parametrize("name", CASES)
def test_large_values_cost_only_those_who_ask_for_them(name: str) -> None:
    text = compile_module([(CASES[name], placement(CASES[name]))])
    found = [word in text for word in ("lib/data.h", "pg_note_source", "pg_item_rest", "pg_will_report")]
    assert found == [name == "large"] * 4


@pytest.mark.parametrize(
    ("name", "slots"),
    [("chunks", "slots"), ("network", "slots_raw"), ("uprobe", "slots_probe"), ("usdt", "slots_probe")],
)
def test_further_programs_are_in_the_array_of_their_type(name: str, slots: str) -> None:
    made = make_plan(CASES[name].point, CASES[name].rules * 2, max_weight=1)
    assert len(made.chunks) >= 2
    text = compile_point(made, placement(made))
    assert set(re.findall(r"pg_tail_call\(ctx, (\w+),", text)) == {slots}
    assert "pg_once(call->slot) = 11;" in text


SCOPES = {RateScope.THREAD: "THREAD", RateScope.PROCESS: "PROCESS", RateScope.GLOBAL: "GLOBAL"}


@pytest.mark.parametrize("scope", RateScope)
def test_rate_limits_are_in_nanoseconds(scope: RateScope) -> None:
    limited = [act("Post", rateLimit="2m", rateLimitScope=scope.value)]
    text = compile_point(plan_of(lseek_policy("p", actions=limited)), Placement(1, 1, (1,), ()))
    assert f"pg_limit(hit, PG_RATE_{SCOPES[scope]}, " in text
    assert "120000000000ULL" in text


# Characters that would end a C string, a comment or a line.
hostile = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xD7FF, exclude_characters="\x7f"), min_size=1, max_size=40
)


@settings(max_examples=50)
@given(hostile, hostile)
def test_nothing_of_a_policys_text_is_in_the_c_text(first: str, second: str) -> None:
    marked = [f'zqj"{first}', f"*/zqj{second}\\\n"]
    hook = kprobe(
        "access",
        {0: "string"},
        selector(match(0, "Equal", *marked))
        | {"label": marked[0], "matchBinaries": [{"operator": "Prefix", "values": marked}]},
        selector(match(0, "Postfix", *marked)),
        selector(match(0, "SubString", *(text.encode("ascii", "ignore").decode() for text in marked))),
    )
    hook["message"], hook["tags"], hook["args"][0]["label"] = marked[0], marked, marked[1]
    made = plan_of(policy("zqj", hook))
    text = compile_point(made, placement(made))
    assert "zqj" not in text
    assert text.isascii()
    assert set(re.findall(r'["\\]', text)) == set()
