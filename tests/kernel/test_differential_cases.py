# SPDX-License-Identifier: Apache-2.0
"""Policies and calls on which the kernel and the model did not agree once, each as small as it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agent.policy.cel import arguments, parse_cel
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    FilterValue,
    Hook,
    HookKind,
    Operator,
    Policy,
    PolicyKind,
    Selector,
    WorkloadSelector,
)
from tests.support.calls import Argument, MadeCall, Place, new_cgroup
from tests.support.calls_batch import FDS, FILES, Batch, gather
from tests.support.calls_kernel import start_rules
from tests.support.calls_main import FIRST_FD, SIGNALS
from tests.support.strategies import SOURCE

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

LONG_MIN, LONG_MAX = 1 << 63, (1 << 63) - 1
READ, DELETED = FIRST_FD, FIRST_FD + FILES.index("deleted")
USR1 = Action(ActionKind.SIGNAL, signal=int(SIGNALS[0]))
HOURLY = Action(ActionKind.POST, rate_ms=3_600_000)


@dataclass(frozen=True, slots=True)
class Case:
    """A hook, and calls that it is asked about."""

    name: str
    hook: Hook
    calls: tuple[tuple[Argument, ...], ...]


def hook(call: str, args: tuple[Arg, ...], *conditions: ArgFilter, at_return: bool = False) -> Hook:
    returned = Arg(0, ArgType.LONG) if at_return else None
    chosen = (Selector(args=conditions),)
    kind = HookKind.SYSCALL
    return Hook(kind, (call,), call, args, chosen, SOURCE, returns=at_return, return_arg=returned)


def expression(text: str) -> Hook:
    """Over fadvise64's second and third argument."""
    tree = parse_cel(text, lambda place: place < 2)
    args = (Arg(1, ArgType.LONG), Arg(2, ArgType.LONG))
    return hook("fadvise64", args, ArgFilter(arguments(tree), Operator.CEL_EXPR, (tree,)))


def text(operator: Operator, *values: FilterValue) -> Hook:
    return hook("access", (Arg(0, ArgType.STRING),), ArgFilter((0,), operator, values))


def file(operator: Operator, *values: FilterValue) -> Hook:
    return hook("lseek", (Arg(0, ArgType.FD),), ArgFilter((0,), operator, values))


EDGES = tuple((0, a, b, 0) for a in (0, 1, LONG_MIN, LONG_MAX) for b in (0, 1, LONG_MIN, LONG_MAX))
WORDS = ("µ", "\u039c", "É", "é", "あ", "éあ", "ÉあX", "ÃあX", "\u07c0", "a", "A")
SPOKEN = tuple((Place(word.encode()), 0) for word in WORDS)
LARGE = tuple((0, Place(letter * 4096), 4096, 0) for letter in (b"a", b"b"))
CASES = (
    Case("sum-beyond-the-end", expression("arg0 + 1 > arg0"), EDGES),
    Case("sum-below-the-end", expression("arg0 - 1 < arg1"), EDGES),
    Case("twice", expression("arg0 + arg0 < 0"), EDGES),
    Case("negation", expression("-arg0 < 0"), EDGES),
    Case("micro", text(Operator.SUBSTRING_IGNORE_CASE, "µ".encode()), SPOKEN),
    Case("nko", text(Operator.SUBSTRING_IGNORE_CASE, "\u07c0".encode()), SPOKEN),
    Case("kana", text(Operator.SUBSTRING_IGNORE_CASE, "éあx".encode()), SPOKEN),
    Case("latin", text(Operator.SUBSTRING_IGNORE_CASE, "ã".encode(), "Ã".encode(), "é".encode()), SPOKEN),
    Case(
        "large-return",
        hook(
            "pwrite64",
            (Arg(1, ArgType.CHAR_BUF, 2), Arg(1, ArgType.STRING), Arg(2, ArgType.ULONG), Arg(3, ArgType.LONG)),
            at_return=True,
        ),
        LARGE,
    ),
)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    tracefs, folder = (tmp_path_factory.mktemp(f"podgate-{name}") for name in ("tracefs", "cases"))
    with start_rules(tracefs) as rules, new_cgroup() as group, gather(group, folder) as crowd:
        gone = crowd.facts[0].files[DELETED].data
        deleted = Case("deleted", file(Operator.EQUAL, gone), tuple((fd, 0, 0) for fd in FDS.all))
        limited = Selector(actions=(HOURLY,), return_actions=(USR1,))
        late = Hook(
            HookKind.SYSCALL, ("dup",), "dup", (), (limited,), SOURCE, returns=True, return_arg=Arg(0, ArgType.INT)
        )
        hooks = [case.hook for case in (*CASES, deleted)]
        yield Batch(rules, group, crowd, [policy(n, each) for n, each in enumerate((*hooks, late))])


def policy(number: int, hook: Hook) -> Policy:
    return Policy(PolicyKind.CLUSTER, f"case-{number}", None, (hook,), WorkloadSelector(), SOURCE, "")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_kernel_and_model_agree(batch: Batch, case: Case) -> None:
    for given in case.calls:
        batch.check(MadeCall(case.hook.call, given))


def test_deleted_file_is_known_by_the_name_that_it_had(batch: Batch) -> None:
    for fd in FDS.all:
        batch.check(MadeCall("lseek", (fd, 0, 0)))


def test_rate_limit_of_the_entry_does_not_take_the_actions_of_the_return(batch: Batch) -> None:
    sent = [batch.make(MadeCall("dup", (READ,)))[0].signals for _ in range(3)]
    assert sent == [(USR1.signal,)] * 3
