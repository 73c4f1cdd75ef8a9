# SPDX-License-Identifier: Apache-2.0
"""Plans of kernel functions, made by hand: this machine need not have them."""

from __future__ import annotations

from dataclasses import replace

from agent.placing import Resolved
from agent.policy.access import HookPoint, Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.model import Action, ActionKind, ArgFilter, ArgType, HookKind, Operator, Selector
from agent.policy.plan import PointPlan, make_plan
from tests.support.planning import argument, hand_made, place_resolved, plans_of

KILL = Action(ActionKind.SIGKILL)
DENY = Action(ActionKind.OVERRIDE, error=1)
RETURNED = Value(ArgType.LONG, Read(Input(InputKind.RETURN, signed=True)), at_return=True)
FILE = Value(ArgType.FILE, Read(Input(InputKind.ARGUMENT, 0)), Memory.KERNEL)
COUNT = argument(2)
_KILL_LATE = Selector(return_args=(ArgFilter((), Operator.LT, (0,)),), return_actions=(KILL,))


def _is(path: bytes, *actions: Action) -> Selector:
    return Selector(args=(ArgFilter((0,), Operator.EQUAL, (path,)),), actions=actions)


def _made(
    kind: HookKind, point: HookPoint, values: list[Value], *selectors: Selector, returned: Value | None = None
) -> PointPlan:
    (made,) = plans_of(place_resolved([hand_made(kind, point, values, *selectors, returned=returned)])).values()
    return made


def _chained(point: HookPoint, kind: HookKind, *paths: bytes) -> PointPlan:
    """A policy for each path, and a program for each."""
    hooks = [hand_made(kind, point, [FILE], _is(path, DENY, KILL), name=path.decode()) for path in paths]
    (made,) = plans_of(place_resolved(hooks, bits=(3, 70))).values()
    return make_plan(point, made.rules, max_weight=1)


def _call(kind: PointKind, *actions: Action, returned: Value | None = None) -> PointPlan:
    point = HookPoint(kind, "access")
    values = [argument(0, ArgType.STRING), argument(1)]
    return _made(HookKind.SYSCALL, point, values, _is(b"/etc/shadow", *actions), returned=returned)


def _tracking() -> PointPlan:
    """Of the owner of a socket at the return too; the socket that is returned is tracked."""
    sock = Value(ArgType.SOCK, Read(Input(InputKind.ARGUMENT, 0)), Memory.KERNEL)
    returned = Value(ArgType.SOCK, Read(Input(InputKind.RETURN)), Memory.KERNEL, at_return=True)
    point = HookPoint(PointKind.FENTRY, "inet_csk_accept")
    made = hand_made(HookKind.FENTRY, point, [sock], Selector(), returned=returned)
    hook = replace(made.hooks[0].hook, return_arg_action=ActionKind.TRACK_SOCK)
    hooks = (replace(made.hooks[0], hook=hook),)
    return plans_of(place_resolved([Resolved(replace(made.policy, hooks=(hook,)), hooks)]))[point]


FUNCTION_CASES = {
    "kprobe": _made(
        HookKind.KPROBE,
        HookPoint(PointKind.KPROBE, "vfs_write"),
        [FILE, COUNT],
        replace(_KILL_LATE, args=(ArgFilter((0,), Operator.PREFIX, (b"/etc/",)),)),
        returned=RETURNED,
    ),
    "fentry": _made(
        HookKind.FENTRY, HookPoint(PointKind.FENTRY, "vfs_read"), [FILE, COUNT], _KILL_LATE, returned=RETURNED
    ),
    "fmod_ret": _chained(HookPoint(PointKind.FMOD_RET, "security_file_open"), HookKind.KPROBE, b"/a", b"/b"),
    "fmod_ret_return": _made(
        HookKind.KPROBE,
        HookPoint(PointKind.FMOD_RET, "security_file_permission"),
        [FILE, argument(1, ArgType.INT)],
        _is(b"/etc/shadow", DENY),
        returned=RETURNED,
    ),
    "fentry_socket": _tracking(),
    "fentry_text": _made(
        HookKind.FENTRY,
        HookPoint(PointKind.FENTRY, "do_sys_openat2"),
        [Value(ArgType.STRING, Read(Input(InputKind.ARGUMENT, 1)), Memory.ANY)],
        _is(b"/etc/shadow", KILL),
    ),
    "lsm": _chained(HookPoint(PointKind.LSM, "file_open"), HookKind.LSM, b"/a", b"/b"),
    "override": _chained(HookPoint(PointKind.OVERRIDE, "security_file_open"), HookKind.KPROBE, b"/a", b"/b"),
    "syscall_fentry": _call(PointKind.SYSCALL_FENTRY, KILL, returned=RETURNED),
    "syscall_kprobe": _made(
        HookKind.SYSCALL,
        HookPoint(PointKind.SYSCALL_KPROBE, "lseek"),
        [argument(0, ArgType.INT)],
        Selector(args=(ArgFilter((0,), Operator.EQUAL, (-1,)),), actions=(KILL,)),
    ),
    "syscall_override": _call(PointKind.SYSCALL_OVERRIDE, DENY, KILL),
}
