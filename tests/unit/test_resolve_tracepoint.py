# SPDX-License-Identifier: Apache-2.0
"""Hooks on tracepoints and raw tracepoints: fields by their format, parameters by BTF."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.model import Arg, ArgFilter, ArgType, Hook, HookKind, Operator, Range, Selector
from tests.support.kernel_facts import SmallKernel
from tests.support.resolving import faults, make_hook, resolve, value_of

MIXED = "mixed/everything"


def field(offset: int, size: int = 8, signed: bool = False) -> Read:
    return Read(Input(InputKind.FIELD, offset, size, signed))


def tracepoint(name: str, *args: Arg) -> Hook:
    return make_hook(HookKind.TRACEPOINT, name, *args)


def raw(name: str, *args: Arg) -> Hook:
    return make_hook(HookKind.RAW_TRACEPOINT, name, *args)


def constant(number: int) -> Read:
    return Read(Input(InputKind.CONSTANT, number))


def test_a_tracepoint_is_a_hook_point() -> None:
    (found,) = resolve(tracepoint("sched/sched_process_exec"))
    assert found.point == HookPoint(PointKind.TRACEPOINT, "sched/sched_process_exec")


def test_fields_are_counted_with_the_common_ones() -> None:
    assert value_of(HookKind.TRACEPOINT, "sched/sched_process_exec", Arg(5, ArgType.AUTO)) == Value(
        ArgType.INT32, field(12, 4, signed=True)
    )


SIZE = Read(Input(InputKind.DATA_LOC_SIZE, 8))


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        (
            "sched/sched_process_exec",
            4,
            Value(ArgType.CHAR_BUF, Read(Input(InputKind.DATA_LOC, 8)), length=SIZE, is_string=True),
        ),
        ("raw_syscalls/sys_enter", 4, Value(ArgType.INT64, field(8, 8, signed=True))),
        ("raw_syscalls/sys_enter", 5, Value(ArgType.CONST_BUF, Read(Input(InputKind.RECORD, 16)), length=constant(48))),
        (MIXED, 4, Value(ArgType.CHAR_BUF, Read(Input(InputKind.RECORD, 8)), length=constant(16), is_string=True)),
        (MIXED, 5, Value(ArgType.STRING, field(24))),
        (MIXED, 6, Value(ArgType.UINT64, field(32))),
        (MIXED, 7, Value(ArgType.FILE, field(40))),
        (MIXED, 8, Value(ArgType.CONST_BUF, Read(Input(InputKind.RECORD, 48)), length=constant(4))),
        (MIXED, 11, Value(ArgType.UINT8, field(60, 1))),
        (MIXED, 12, Value(ArgType.UINT16, field(62, 2))),
    ],
)
def test_auto_is_what_the_format_says(name: str, place: int, value: Value) -> None:
    assert value_of(HookKind.TRACEPOINT, name, Arg(place, ArgType.AUTO)) == value


@pytest.mark.parametrize(
    ("name", "arg", "value"),
    [
        (
            MIXED,
            Arg(4, ArgType.CHAR_BUF),
            Value(ArgType.CHAR_BUF, Read(Input(InputKind.RECORD, 8)), length=constant(16)),
        ),
        (MIXED, Arg(5, ArgType.CHAR_BUF, 13), Value(ArgType.CHAR_BUF, field(24), length=field(64))),
        (MIXED, Arg(6, ArgType.SOCK), Value(ArgType.SOCK, field(32))),
        (MIXED, Arg(12, ArgType.INT16), Value(ArgType.INT16, field(62, 2, signed=True))),
        ("raw_syscalls/sys_enter", Arg(4, ArgType.SYSCALL64), Value(ArgType.SYSCALL64, field(8))),
        (
            "sched/sched_process_exec",
            Arg(4, ArgType.DATA_LOC),
            Value(ArgType.CHAR_BUF, Read(Input(InputKind.DATA_LOC, 8)), length=SIZE, is_string=True),
        ),
        ("syscalls/sys_exit_openat", Arg(5, ArgType.INT), Value(ArgType.INT, field(16, 4, signed=True))),
        ("syscalls/sys_enter_read", Arg(5, ArgType.FD), Value(ArgType.FD, field(16, 4, signed=True))),
        ("syscalls/sys_enter_read", Arg(4, ArgType.INT), Value(ArgType.INT, field(8, 4, signed=True))),
        ("syscalls/sys_enter_openat", Arg(6, ArgType.STRING), Value(ArgType.STRING, field(24), Memory.USER)),
        (
            "syscalls/sys_enter_execve",
            Arg(5, ArgType.AUTO),
            Value(ArgType.STRING, field(16), Memory.USER, exec_path=True),
        ),
        (
            "syscalls/sys_enter_write",
            Arg(6, ArgType.CHAR_BUF, 7),
            Value(ArgType.CHAR_BUF, field(24), Memory.USER, field(32)),
        ),
        (
            "syscalls/sys_enter_connect",
            Arg(6, ArgType.SOCKADDR),
            Value(ArgType.SOCKADDR, field(24), Memory.USER, field(32, 4)),
        ),
    ],
)
def test_types_that_the_policy_gives(name: str, arg: Arg, value: Value) -> None:
    assert value_of(HookKind.TRACEPOINT, name, arg) == value


def test_members_behind_a_field() -> None:
    found = value_of(HookKind.TRACEPOINT, MIXED, Arg(7, ArgType.AUTO, resolve=("f_path",)))
    assert found == Value(ArgType.PATH, Read(Input(InputKind.FIELD, 40), (64,), in_place=True))
    cast = Arg(15, ArgType.UINT32, resolve=("inet_num",), btf_type="inet_sock")
    assert value_of(HookKind.TRACEPOINT, MIXED, cast).read == Read(Input(InputKind.FIELD, 72), (64,), size=4)


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        (MIXED, Arg(99, ArgType.INT), f"{MIXED} has no field 99, the last is 15, it has 4 comm, 5 name"),
        (MIXED, Arg(3, ArgType.INT), 'no common field of a record, "common_pid", every event has the process'),
        (MIXED, Arg(0, ArgType.UINT16), 'no common field of a record, "common_type"'),
        (MIXED, Arg(12, ArgType.INT), "(u16 port) cannot be read as type int, write type: uint16"),
        (MIXED, Arg(12, ArgType.UINT64), "(u16 port) cannot be read as type uint64"),
        (MIXED, Arg(4, ArgType.INT), "(char[16] comm) cannot be read as type int, write type: string"),
        (MIXED, Arg(12, ArgType.STRING), "(u16 port) cannot be read as type string"),
        (MIXED, Arg(7, ArgType.SOCK), "(const struct file * filp) cannot be read as type sock, write type: file"),
        (MIXED, Arg(5, ArgType.DATA_LOC), "(const char * name) cannot be read as type data_loc"),
        (MIXED, Arg(5, ArgType.CHAR_BUF), "a char_buf of unknown length"),
        (MIXED, Arg(5, ArgType.CHAR_BUF, 4), "is no length, name a field that is one"),
        (MIXED, Arg(5, ArgType.CHAR_BUF, 3), "no common field"),
        (MIXED, Arg(10, ArgType.AUTO), "lies at a relative place"),
        (MIXED, Arg(14, ArgType.AUTO), 'the format does not say how long "tail" is'),
        (MIXED, Arg(12, ArgType.INT, resolve=("x",)), "(u16 port) is no address"),
        (MIXED, Arg(6, ArgType.INT, resolve=("x",)), "add btfType"),
        (MIXED, Arg(5, ArgType.CHAR_BUF, 13, return_copy=True), "returnCopy on a tracepoint, which has no return"),
        ("syscalls/sys_enter_read", Arg(9, ArgType.INT), "has no field 9"),
        ("syscalls/sys_enter_read", Arg(6, ArgType.CHAR_BUF, 9), "read has no argument 9, it has 5 fd, 6 buf, 7 count"),
        ("syscalls/sys_enter_read", Arg(6, ArgType.CHAR_BUF, 4), "read has no argument 4, it has 5 fd, 6 buf, 7 count"),
        ("syscalls/sys_enter_chdir", Arg(6, ArgType.STRING), "chdir has no argument 6, it has 5 filename"),
        ("syscalls/sys_enter_read", Arg(6, ArgType.FILE), "use type: fd for a descriptor"),
    ],
)
def test_what_a_field_cannot_be(name: str, arg: Arg, message: str) -> None:
    found = faults(tracepoint(name, arg))
    assert found.startswith("policy.yaml:10:5: ")
    assert message in found


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("sched/sched_process_exe", "did you mean sched/sched_process_exec?"),
        ("../../etc/passwd", "see `events`"),
        ("sched", "see `events`"),
        ("", "see `events`"),
    ],
)
@pytest.mark.parametrize("kind", [HookKind.TRACEPOINT, HookKind.RAW_TRACEPOINT])
def test_a_tracepoint_that_is_not_there(kind: HookKind, name: str, advice: str) -> None:
    found = faults(make_hook(kind, name))
    assert found.startswith("policy.yaml:7:3: this kernel has no ")
    assert advice in found


EXEC = "sched/sched_process_exec"


@pytest.mark.parametrize(
    ("name", "arg", "value"),
    [
        (EXEC, Arg(1, ArgType.AUTO), Value(ArgType.INT32, Read(Input(InputKind.ARGUMENT, 1, 4, True)))),
        (EXEC, Arg(1, ArgType.UINT32), Value(ArgType.UINT32, Read(Input(InputKind.ARGUMENT, 1, 4)))),
        (EXEC, Arg(2, ArgType.AUTO), Value(ArgType.LINUX_BINPRM, Read(Input(InputKind.ARGUMENT, 2)))),
        (EXEC, Arg(0, ArgType.AUTO), Value(ArgType.UINT64, Read(Input(InputKind.ARGUMENT, 0)))),
        (
            EXEC,
            Arg(2, ArgType.AUTO, resolve=("file", "f_path", "dentry", "d_name", "name")),
            Value(ArgType.UINT64, Read(Input(InputKind.ARGUMENT, 2), (0, 72, 40))),
        ),
        (
            EXEC,
            Arg(2, ArgType.STRING, resolve=("file", "f_path", "dentry", "d_name", "name")),
            Value(ArgType.STRING, Read(Input(InputKind.ARGUMENT, 2), (0, 72, 40))),
        ),
        (
            "raw_syscalls/sys_enter",
            Arg(0, ArgType.STRING, resolve=("di",)),
            Value(ArgType.STRING, Read(Input(InputKind.ARGUMENT, 0), (112,)), Memory.USER),
        ),
        (
            "raw_syscalls/sys_enter",
            Arg(0, ArgType.INT, resolve=("di",)),
            Value(ArgType.INT, Read(Input(InputKind.ARGUMENT, 0), (112,), size=4, signed=True)),
        ),
        ("any/bare_tp", Arg(0, ArgType.AUTO), Value(ArgType.STRING, Read(Input(InputKind.ARGUMENT, 0)))),
        ("any/bare_tp", Arg(2, ArgType.SOCK), Value(ArgType.SOCK, Read(Input(InputKind.ARGUMENT, 2)))),
        (
            "any/bare_tp",
            Arg(0, ArgType.CHAR_BUF, 1),
            Value(ArgType.CHAR_BUF, Read(Input(InputKind.ARGUMENT, 0)), length=Read(Input(InputKind.ARGUMENT, 1))),
        ),
        (
            "any/bare_tp",
            Arg(1, ArgType.AUTO, resolve=("f_mode",), btf_type="file"),
            Value(ArgType.UINT32, Read(Input(InputKind.ARGUMENT, 1), (0,), size=4)),
        ),
    ],
)
def test_parameters_of_raw_tracepoints(name: str, arg: Arg, value: Value) -> None:
    assert value_of(HookKind.RAW_TRACEPOINT, name, arg) == value


def test_a_raw_tracepoint_goes_by_its_name_alone() -> None:
    assert resolve(raw(EXEC))[0].point == HookPoint(PointKind.RAW_TRACEPOINT, "sched_process_exec")


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        (EXEC, Arg(3, ArgType.AUTO), "sched_process_exec has no argument 3, it has 0 "),
        ("any/empty_tp", Arg(0, ArgType.AUTO), "empty_tp has no argument 0, leave `args` out"),
        (EXEC, Arg(1, ArgType.UINT64), "cannot be read as type uint64, write type: int32"),
        (EXEC, Arg(2, ArgType.FILE), "cannot be read as type file, write type: linux_binprm"),
        (EXEC, Arg(2, ArgType.AUTO, resolve=("fil",)), 'struct linux_binprm has no member "fil", did you mean file?'),
        (EXEC, Arg(1, ArgType.AUTO, resolve=("x",)), "argument 1 of sched_process_exec (pid_t) has no members"),
        (EXEC, Arg(0, ArgType.CHAR_BUF, 2), "is no length"),
        ("any/bare_tp", Arg(3, ArgType.AUTO), "no type is known for argument 3 of bare_tp (struct file)"),
        (EXEC, Arg(0, ArgType.STRING, return_copy=True), "which has no return"),
    ],
)
def test_what_a_parameter_cannot_be(name: str, arg: Arg, message: str) -> None:
    found = faults(raw(name, arg))
    assert found.startswith("policy.yaml:10:5: ")
    assert message in found


def test_raw_tracepoints_of_other_subsystems_and_of_calls() -> None:
    assert "did you mean sched/sched_process_exec?" in faults(raw("shed/sched_process_exec"))
    assert "leave `raw` out" in faults(raw("syscalls/sys_enter_read"))


def test_a_kernel_without_types() -> None:
    bare = SmallKernel(btf=b"")
    assert "policy.yaml:7:3: there is no BTF of vmlinux" in faults(raw(EXEC), facts=bare)
    behind = Arg(7, ArgType.AUTO, resolve=("f_mode",))
    assert "policy.yaml:10:5: there is no BTF of vmlinux" in faults(tracepoint(MIXED, behind), facts=bare)
    assert len(resolve(tracepoint(MIXED, Arg(7, ArgType.FILE)), facts=bare)) == 1


def condition(operator: Operator, *values: int | bytes | Range) -> tuple[Selector, ...]:
    return (Selector(args=(ArgFilter((0,), operator, values),)),)


@pytest.mark.parametrize(
    ("place", "operator", "written", "meant"),
    [
        (5, Operator.EQUAL, (b"17", b"-1"), (17, -1)),
        (5, Operator.GT, (17,), (17,)),
        (5, Operator.IN_RANGE, (Range(1, 5),), (Range(1, 5),)),
        (4, Operator.EQUAL, (b"17",), (b"17",)),
        (4, Operator.PREFIX, (b"/usr",), (b"/usr",)),
    ],
)
def test_conditions_on_what_is_known_now(
    place: int, operator: Operator, written: tuple[bytes, ...], meant: tuple[int, ...]
) -> None:
    hook = replace(tracepoint(EXEC, Arg(place, ArgType.AUTO)), selectors=condition(operator, *written))
    (found,) = resolve(hook)
    assert found.hook.selectors[0].args[0].values == meant


@pytest.mark.parametrize(
    ("place", "operator", "values", "message"),
    [
        (5, Operator.PREFIX, (b"1",), "Prefix on an argument that is of type int32 on this node, use Equal, NotEqual"),
        (5, Operator.EQUAL, (b"one",), '"one" is not a number, and the argument is of type int32 on this node'),
        (5, Operator.EQUAL, (b"4294967295",), "4294967295 does not fit type int32"),
        (5, Operator.IN_RANGE, (Range(0, 1 << 40),), "does not fit type int32"),
        (4, Operator.GT, (1,), "GT on an argument that is of type string on this node"),
        (4, Operator.SADDR, (), "SAddr on an argument that is of type string on this node"),
    ],
)
def test_conditions_that_do_not_fit(
    place: int, operator: Operator, values: tuple[int | bytes | Range, ...], message: str
) -> None:
    hook = replace(tracepoint(EXEC, Arg(place, ArgType.AUTO)), selectors=condition(operator, *values))
    assert message in faults(hook)


def test_conditions_on_declared_types_are_left_alone() -> None:
    hook = replace(tracepoint(EXEC, Arg(5, ArgType.INT)), selectors=condition(Operator.EQUAL, 17))
    assert resolve(hook)[0].hook is hook


def test_capabilities_by_name() -> None:
    hook = raw("any/bare_tp", Arg(1, ArgType.AUTO, resolve=("cap_effective",), btf_type="cred"))
    (found,) = resolve(replace(hook, selectors=condition(Operator.EQUAL, b"CAP_SYS_ADMIN")))
    assert found.hook.selectors[0].args[0].values == (1 << 21,)
    wrong = replace(hook, selectors=condition(Operator.EQUAL, b"CAP_SYS_ADMN"))
    assert 'unknown capability "CAP_SYS_ADMN", did you mean CAP_SYS_ADMIN?' in faults(wrong)


def test_a_condition_on_a_return_that_is_a_number() -> None:
    hook = replace(make_hook(HookKind.SYSCALL, "read"), returns=True, return_arg=Arg(0, ArgType.AUTO))
    asking = (Selector(return_args=(ArgFilter((), Operator.EQUAL, (b"-2",)),)),)
    (found,) = resolve(replace(hook, selectors=asking))
    assert found.hook.selectors[0].return_args == (ArgFilter((), Operator.EQUAL, (-2,)),)
