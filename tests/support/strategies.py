# SPDX-License-Identifier: Apache-2.0
"""Random hooks of policies, over a few system calls that do no harm, with every filter that a system call can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from hypothesis import strategies as st

from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    DataSource,
    Hook,
    HookKind,
    Operator,
    Policy,
    PolicyKind,
    PolicyMode,
    Selector,
    Source,
    WorkloadSelector,
)
from agent.policy.operators import fitting
from tests.support.calls_main import SIGNALS
from tests.support.strategies_filters import (
    NUMBERS,
    PROCESS_FILTERS,
    SEVERAL,
    Pool,
    arg_filters,
    filter_values,
    process_filters,
    return_filters,
)

SOURCE = Source("differential", 1, 1)
_ENTER = "syscalls/sys_enter_"
_FIRST_FIELD = 5  # of a tracepoint's record: the call's first argument


@dataclass(frozen=True, slots=True)
class Place:
    """What an argument of a call may be declared as. size: the argument that says how much there is."""

    types: tuple[ArgType, ...]
    size: int | None = None


NUMBER = Place(NUMBERS)
DESCRIPTOR = Place((ArgType.FD, ArgType.FD, ArgType.INT, ArgType.UINT, ArgType.UINT8))
STRING = Place((ArgType.STRING,))
_CAP_TYPES = (ArgType.KERNEL_CAP_T, ArgType.CAP_EFFECTIVE, ArgType.CAP_PERMITTED, ArgType.CAP_INHERITABLE)
# What the arguments of each call may be.
TARGETS: Mapping[str, tuple[Place, ...]] = {
    "lseek": (DESCRIPTOR, NUMBER, NUMBER),
    "fadvise64": (NUMBER, NUMBER, NUMBER, NUMBER),
    "access": (STRING, NUMBER),
    "faccessat": (DESCRIPTOR, STRING, NUMBER),
    "pwrite64": (DESCRIPTOR, Place((ArgType.CHAR_BUF, ArgType.CHAR_BUF, ArgType.STRING), 2), NUMBER, NUMBER),
    "writev": (DESCRIPTOR, Place((ArgType.CHAR_IOVEC,)), NUMBER),
    "connect": (DESCRIPTOR, Place((ArgType.SOCKADDR, ArgType.SOCKADDR_UN)), NUMBER),
    "dup": (DESCRIPTOR,),
    "kill": (NUMBER, NUMBER),
}
# Members of the structure that a buffer is taken for: read from the process's memory.
STRUCTURE = "cred"
MEMBERS = (
    (("cap_effective",), _CAP_TYPES),
    (("cap_inheritable",), _CAP_TYPES),
    (("uid", "val"), (ArgType.UINT32, ArgType.INT, ArgType.CAPABILITY)),
)
DATA = (
    (("tgid",), (ArgType.INT, ArgType.SINT32)),
    (("group_leader", "tgid"), (ArgType.INT,)),
    (("comm",), (ArgType.STRING,)),
    (("cred", "cap_effective"), _CAP_TYPES),
    (("cred", "uid", "val"), (ArgType.UINT32,)),
)


# Actions.

_SIGNAL = st.sampled_from(SIGNALS).map(lambda number: Action(ActionKind.SIGNAL, signal=int(number)))
_POST = Action(ActionKind.POST)
_STACK = Action(ActionKind.POST, kernel_stack=True, user_stack=True)
_NO_POST = Action(ActionKind.NO_POST)
_ACTIONS = st.one_of(
    st.just(()),
    st.just((_POST,)),
    st.just((_NO_POST,)),
    st.just((_STACK,)),
    st.tuples(_SIGNAL),
    st.tuples(_SIGNAL, st.just(_NO_POST)),
    st.tuples(_SIGNAL, _SIGNAL).filter(lambda pair: pair[0] != pair[1]),
)


# Hooks.


@st.composite
def _declared(draw: st.DrawFn, call: str, first: int) -> tuple[Arg, ...]:
    """One to four of a call's arguments, some of them more than once. first: what the policy calls the argument 0."""
    places = TARGETS[call]
    args = []
    for index in (draw(st.integers(0, len(places) - 1)) for _ in range(draw(st.integers(1, 3)))):
        place = places[index]
        if place.size is not None and draw(st.integers(0, 2)) == 0:
            path, kinds = draw(st.sampled_from(MEMBERS))
            args.append(Arg(index + first, draw(st.sampled_from(kinds)), resolve=path, btf_type=STRUCTURE))
            continue
        kind = draw(st.sampled_from(place.types))
        size = None if place.size is None or kind is not ArgType.CHAR_BUF else place.size + first
        args.append(Arg(index + first, kind, size))
    return tuple(args)


@st.composite
def _data(draw: st.DrawFn) -> tuple[Arg, ...]:
    chosen = draw(st.lists(st.sampled_from(DATA), max_size=2))
    return tuple(
        Arg(0, draw(st.sampled_from(kinds)), resolve=path, data_source=DataSource.CURRENT_TASK)
        for path, kinds in chosen
    )


def _few(each: st.SearchStrategy[ArgFilter]) -> st.SearchStrategy[list[ArgFilter]]:
    """Mostly one: without any, nothing comes behind it."""
    one = st.tuples(each).map(list)
    return st.one_of(one, one, one, one, st.tuples(each, each).map(list), st.just([]))


@st.composite
def selectors(
    draw: st.DrawFn, args: tuple[Arg, ...], data: tuple[Arg, ...], returned: Arg | None, pool: Pool
) -> Selector:
    """Few conditions, so that they are met. returned: None without a return."""
    on_args = draw(_few(arg_filters(args, pool, True)))
    on_data = draw(st.lists(arg_filters(data, pool, False), max_size=1)) if data else []
    process: dict[str, Any] = draw(process_filters(pool)) if draw(st.integers(0, 3)) == 0 else {}
    return_args: tuple[ArgFilter, ...] = ()
    return_actions: tuple[Action, ...] = ()
    if returned is not None and draw(st.booleans()):
        return_args = tuple(draw(st.lists(return_filters(returned.type, pool), max_size=2)))
        return_actions = draw(_ACTIONS)
    return Selector(
        args=tuple(on_args),
        data=tuple(on_data),
        actions=draw(_ACTIONS),
        return_args=return_args,
        return_actions=return_actions,
        **process,
    )


@st.composite
def hooks(draw: st.DrawFn, pool: Pool) -> Hook:
    """On a system call, with or without its return, or on its tracepoint."""
    call = draw(st.sampled_from(sorted(TARGETS)))
    is_record = draw(st.integers(0, 7)) == 0
    args = draw(_declared(call, _FIRST_FIELD if is_record else 0))
    data = draw(_data()) if draw(st.integers(0, 3)) == 0 else ()
    returned = None
    if not is_record and draw(st.integers(0, 2)) == 0:
        kinds = (ArgType.LONG, ArgType.INT, ArgType.UINT8, ArgType.SINT16)
        returned = Arg(0, draw(st.sampled_from((*kinds, ArgType.FD) if call == "dup" else kinds)))
    chosen = [draw(selectors(args, data, returned, pool)) for _ in range(draw(st.integers(1, 3)))]
    kind, name = (HookKind.TRACEPOINT, _ENTER + call) if is_record else (HookKind.SYSCALL, call)
    return Hook(
        kind, (name,), name, args, tuple(chosen), SOURCE, data=data, returns=returned is not None, return_arg=returned
    )


# One of each, so that no operator depends on luck.


@dataclass(frozen=True, slots=True)
class Focus:
    """What one hook is to ask: an operator of an argument of a call, or a filter on the process."""

    call: str
    arg: Arg | None = None
    operator: Operator | None = None
    filter: str = ""


def focuses() -> Iterator[Focus]:
    """Every operator of every kind of value there is, and every filter on the process."""
    calls = cycle(sorted(TARGETS))
    for kind in dict.fromkeys(kind for places in TARGETS.values() for place in places for kind in place.types):
        if kind in NUMBERS:
            continue
        call, index, place = next(_declaring(kind))
        size = place.size if kind is ArgType.CHAR_BUF else None
        yield from (Focus(call, Arg(index, kind, size), operator) for operator in _operators(kind))
    for operator in _operators(ArgType.INT):
        yield from (
            Focus(call, Arg(1, kind), operator) for call, kind in zip(("fadvise64", "lseek"), NUMBERS, strict=False)
        )
        path, kinds = MEMBERS[0]
        yield Focus("pwrite64", Arg(1, kinds[0], resolve=path, btf_type=STRUCTURE), operator)
    for name in PROCESS_FILTERS:
        yield from (Focus(next(calls), filter=name) for _ in range(4))


def _declaring(kind: ArgType) -> Iterator[tuple[str, int, Place]]:
    for call, places in TARGETS.items():
        for index, place in enumerate(places):
            if kind in place.types:
                yield call, index, place


def _operators(kind: ArgType) -> list[Operator]:
    return [each for each in fitting(kind) if each not in SEVERAL]


@st.composite
def focused_hooks(draw: st.DrawFn, focus: Focus, pool: Pool) -> Hook:
    """What is asked, and behind it what is done else."""
    number = next(n for n, place in enumerate(TARGETS[focus.call]) if place in (NUMBER, DESCRIPTOR))
    args, first = (Arg(number, draw(st.sampled_from(NUMBERS))),), Selector()
    if focus.arg is not None and focus.operator is not None:
        kind = draw(st.sampled_from(NUMBERS)) if focus.arg.type in NUMBERS else focus.arg.type
        args = (replace(focus.arg, type=kind),)
        values = draw(filter_values(focus.operator, kind, pool))
        first = Selector(args=(ArgFilter((0,), focus.operator, values),), actions=draw(_ACTIONS))
    else:
        filters: dict[str, Any] = {focus.filter: (draw(PROCESS_FILTERS[focus.filter](pool)),)}
        first = Selector(actions=draw(_ACTIONS), **filters)
    rest = draw(st.lists(selectors(args, (), None, pool), max_size=1))
    return Hook(HookKind.SYSCALL, (focus.call,), focus.call, args, (first, *rest), SOURCE)


@st.composite
def policies(draw: st.DrawFn, pool: Pool, focus: Focus) -> Policy:
    """A hook about something given, and perhaps another one. Its name is to be given."""
    chosen = (draw(focused_hooks(focus, pool)), *draw(st.lists(hooks(pool), max_size=1)))
    mode = draw(st.sampled_from((PolicyMode.ENFORCE, PolicyMode.ENFORCE, PolicyMode.MONITOR)))
    return Policy(PolicyKind.CLUSTER, "", None, chosen, WorkloadSelector(), SOURCE, "", mode)
