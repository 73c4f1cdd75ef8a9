# SPDX-License-Identifier: Apache-2.0
"""Hooks on kernel functions and LSM hooks: their arguments and results, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.policy.access import Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.facts import Abilities
from agent.policy.gaps import find_gaps
from agent.policy.model import (
    ActionKind,
    Arg,
    ArgType,
    DataSource,
    Hook,
    HookKind,
    Policy,
    PolicyKind,
    WorkloadSelector,
)
from tests.support.kernel_functions import FunctionKernel, Given
from tests.support.resolving import PLACE, faults, make_hook, resolve

KERNEL = FunctionKernel()
NO_FENTRY = FunctionKernel(Given(Abilities(fentry="no fentry")))


def function(call: str, *args: Arg) -> Hook:
    return make_hook(HookKind.KPROBE, call, *args)


def returning(call: str, returned: Arg) -> Hook:
    return replace(function(call), returns=True, return_arg=returned)


def argument(number: int, size: int = 8, signed: bool = False) -> Read:
    return Read(Input(InputKind.ARGUMENT, number, size, signed))


def value_of(call: str, arg: Arg, kind: HookKind = HookKind.KPROBE, kernel: FunctionKernel = KERNEL) -> Value | None:
    (found,) = resolve(make_hook(kind, call, arg), facts=kernel)
    ((_, value),) = found.args
    return value


@pytest.mark.parametrize(
    ("call", "arg", "value"),
    [
        ("security_file_permission", Arg(0, ArgType.AUTO), Value(ArgType.FILE, argument(0))),
        ("security_file_permission", Arg(0, ArgType.FILE), Value(ArgType.FILE, argument(0))),
        ("security_file_permission", Arg(1, ArgType.INT), Value(ArgType.INT, argument(1, 4, signed=True))),
        ("security_file_permission", Arg(1, ArgType.AUTO), Value(ArgType.INT32, argument(1, 4, signed=True))),
        ("tcp_connect", Arg(0, ArgType.SOCK), Value(ArgType.SOCK, argument(0))),
        ("commit_creds", Arg(0, ArgType.CRED), Value(ArgType.CRED, argument(0))),
        ("tcp_sendmsg", Arg(2, ArgType.SIZE_T), Value(ArgType.SIZE_T, argument(2))),
        ("tcp_sendmsg", Arg(2, ArgType.INT), Value(ArgType.INT, argument(2, 4, signed=True))),
        ("vfs_read", Arg(1, ArgType.STRING), Value(ArgType.STRING, argument(1), Memory.USER)),
        (
            "vfs_read",
            Arg(1, ArgType.CHAR_BUF, 2),
            Value(ArgType.CHAR_BUF, argument(1), Memory.USER, argument(2)),
        ),
        ("security_path_chown", Arg(1, ArgType.AUTO), Value(ArgType.UINT32, argument(1, 4))),
        (
            "security_file_open",
            Arg(0, ArgType.AUTO, resolve=("f_path",)),
            Value(ArgType.PATH, Read(Input(InputKind.ARGUMENT, 0), (64,), in_place=True)),
        ),
        (
            "tcp_connect",
            Arg(0, ArgType.AUTO, resolve=("inet_num",), btf_type="inet_sock"),
            Value(ArgType.UINT32, Read(Input(InputKind.ARGUMENT, 0), (64,), size=4)),
        ),
    ],
)
def test_arguments_are_what_the_kernel_says(call: str, arg: Arg, value: Value) -> None:
    assert value_of(call, arg) == value


def test_a_nop_has_no_value() -> None:
    assert value_of("security_file_open", Arg(0, ArgType.NOP)) is None


def test_arguments_of_an_lsm_hook() -> None:
    (found,) = resolve(
        make_hook(HookKind.LSM, "file_permission", Arg(0, ArgType.FILE), Arg(1, ArgType.INT)), facts=KERNEL
    )
    assert [value and value.read for _, value in found.args] == [argument(0), argument(1, 4, signed=True)]
    assert (found.point.kind, found.point.name, found.point.function) == (
        PointKind.LSM,
        "file_permission",
        "bpf_lsm_file_permission",
    )


def test_structures_by_value_take_registers_or_none() -> None:
    """16 bytes are in two, more on the stack; what would begin in the sixth and end behind it is there whole."""
    assert value_of("wide", Arg(1, ArgType.INT)) == Value(ArgType.INT, argument(2, 4, signed=True))
    assert value_of("large", Arg(1, ArgType.INT)) == Value(ArgType.INT, argument(0, 4, signed=True))
    assert value_of("larger", Arg(1, ArgType.INT)) == Value(ArgType.INT, argument(0, 4, signed=True))
    assert value_of("tail", Arg(6, ArgType.INT)) == Value(ArgType.INT, argument(5, 4, signed=True))
    assert value_of("many", Arg(5, ArgType.LONG)) == Value(ArgType.LONG, argument(5, signed=True))


@pytest.mark.parametrize(
    ("call", "arg", "message"),
    [
        ("large", Arg(0, ArgType.FILE), "argument 0 of large, struct file by_value, is on the stack, only those in"),
        ("tail", Arg(5, ArgType.PATH), "argument 5 of tail, struct path where, is on the stack"),
        ("many", Arg(6, ArgType.LONG), "argument 6 of many, long a6, is on the stack"),
        ("many", Arg(8, ArgType.LONG), "many has no argument 8, it has 0 a0, 1 a1"),
        ("print", Arg(1, ArgType.LONG), "print has no argument 1, it has 0 format"),
        ("security_file_permission", Arg(0, ArgType.SOCK), "cannot be read as type sock, write type: file"),
        ("security_file_permission", Arg(1, ArgType.FILE), "cannot be read as type file, write type: int32"),
        ("security_file_permission", Arg(1, ArgType.LONG), "cannot be read as type long, write type: int32"),
        ("security_file_permission", Arg(1, ArgType.STRING), "cannot be read as type string"),
        ("security_file_permission", Arg(0, ArgType.INT), "cannot be read as type int, write type: file"),
        ("tcp_sendmsg", Arg(2, ArgType.INT16), "cannot be read as type int16"),
        ("wide", Arg(0, ArgType.PATH), "cannot be read as type path"),
        ("vfs_read", Arg(1, ArgType.CHAR_BUF, 0), "is no length, name an argument that is one"),
        ("vfs_read", Arg(1, ArgType.STRING, return_copy=True), "returnCopy without a return"),
        ("tcp_connect", Arg(0, ArgType.AUTO, resolve=("sk_stat",)), 'no member "sk_stat", did you mean sk_state?'),
        ("tcp_connect", Arg(0, ArgType.AUTO, resolve=("x",), btf_type="inet_soc"), "did you mean inet_sock?"),
        ("tcp_connect", Arg(0, ArgType.AUTO, btf_module="xfs"), "btfTypeModule without btfType"),
    ],
)
def test_what_an_argument_cannot_be(call: str, arg: Arg, message: str) -> None:
    found = faults(function(call, arg), facts=KERNEL)
    assert found.startswith("policy.yaml:10:5: ")
    assert message in found


@pytest.mark.parametrize(
    ("call", "returned", "value"),
    [
        ("tcp_connect", Arg(0, ArgType.INT), Value(ArgType.INT, Read(Input(InputKind.RETURN, 0, 4, True)))),
        ("vfs_read", Arg(0, ArgType.LONG), Value(ArgType.LONG, Read(Input(InputKind.RETURN, 0, 8, True)))),
        ("vfs_read", Arg(0, ArgType.INT), Value(ArgType.INT, Read(Input(InputKind.RETURN, 0, 4, True)))),
        ("vfs_read", Arg(0, ArgType.AUTO), Value(ArgType.INT64, Read(Input(InputKind.RETURN, 0, 8, True)))),
        ("is_bad", Arg(0, ArgType.UINT8), Value(ArgType.UINT8, Read(Input(InputKind.RETURN, 0, 1)))),
        ("sk_alloc", Arg(0, ArgType.SOCK), Value(ArgType.SOCK, Read(Input(InputKind.RETURN)))),
        (
            "sk_alloc",
            Arg(0, ArgType.AUTO, resolve=("sk_state",)),
            Value(ArgType.UINT8, Read(Input(InputKind.RETURN), (18,), size=1)),
        ),
    ],
)
def test_results(call: str, returned: Arg, value: Value) -> None:
    (found,) = resolve(returning(call, returned), facts=KERNEL)
    assert found.return_value == replace(value, at_return=True)


@pytest.mark.parametrize(
    ("call", "returned", "message"),
    [
        ("security_task_free", Arg(0, ArgType.INT), '"security_task_free" returns nothing, leave `return`'),
        ("tcp_connect", Arg(0, ArgType.SOCK), "what tcp_connect returns (int) cannot be read as type sock"),
        ("sk_alloc", Arg(0, ArgType.FILE), "cannot be read as type file, write type: sock"),
        ("do_exit", Arg(0, ArgType.INT), '"do_exit" never returns'),
    ],
)
def test_what_a_result_cannot_be(call: str, returned: Arg, message: str) -> None:
    assert message in faults(returning(call, returned), facts=KERNEL)


def test_a_socket_that_is_returned_can_be_tracked() -> None:
    action = ActionKind.TRACK_SOCK
    hook = replace(returning("sk_alloc", Arg(0, ArgType.SOCK)), return_arg_action=action)
    (found,) = resolve(hook, facts=KERNEL)
    assert found.return_value is not None
    number = replace(returning("tcp_connect", Arg(0, ArgType.INT)), return_arg_action=action)
    assert "returnArgAction TrackSock needs a socket, and what tcp_connect returns (int)" in faults(
        number, facts=KERNEL
    )


UNKNOWN = "secret_function"


@pytest.mark.parametrize(
    ("arg", "value"),
    [
        (Arg(0, ArgType.FILE), Value(ArgType.FILE, argument(0))),
        (Arg(1, ArgType.INT), Value(ArgType.INT, argument(1, 4, signed=True))),
        (Arg(2, ArgType.UINT64), Value(ArgType.UINT64, argument(2))),
        (Arg(3, ArgType.STRING), Value(ArgType.STRING, argument(3), Memory.ANY)),
        (Arg(4, ArgType.FD), Value(ArgType.FD, argument(4, 4, signed=True))),
        (Arg(5, ArgType.CHAR_BUF, 2), Value(ArgType.CHAR_BUF, argument(5), Memory.ANY, argument(2))),
        (
            Arg(0, ArgType.UINT32, resolve=("f_mode",), btf_type="file"),
            Value(ArgType.UINT32, Read(Input(InputKind.ARGUMENT, 0), (0,), size=4)),
        ),
    ],
)
def test_registers_of_a_function_that_btf_does_not_have(arg: Arg, value: Value) -> None:
    assert value_of(UNKNOWN, arg) == value


def test_a_length_is_as_wide_as_the_policy_declares_it() -> None:
    hook = function(UNKNOWN, Arg(0, ArgType.CHAR_BUF, 1), Arg(1, ArgType.UINT32))
    (found,) = resolve(hook, facts=KERNEL)
    buffer = found.args[0][1]
    assert buffer is not None
    assert buffer.length == argument(1, 4)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        (Arg(0, ArgType.AUTO), "BTF does not have this function, so that nothing is known of argument 0"),
        (Arg(0, ArgType.INT, resolve=("x",)), "add btfType"),
        (Arg(6, ArgType.INT), "argument 6 of secret_function is on the stack"),
        (Arg(0, ArgType.CHAR_BUF, 6), "argument 6 of secret_function is on the stack"),
    ],
)
def test_what_is_not_known_without_btf(arg: Arg, message: str) -> None:
    assert message in faults(function(UNKNOWN, arg), facts=KERNEL)


def test_a_result_that_btf_does_not_have() -> None:
    (found,) = resolve(returning(UNKNOWN, Arg(0, ArgType.INT)), facts=KERNEL)
    assert found.return_value == Value(ArgType.INT, Read(Input(InputKind.RETURN, 0, 4, True)), at_return=True)
    assert "nothing is known of the returned value" in faults(returning(UNKNOWN, Arg(0, ArgType.AUTO)), facts=KERNEL)


def test_entries_of_data_begin_at_the_task() -> None:
    entry = Arg(0, ArgType.AUTO, resolve=("pid",), data_source=DataSource.CURRENT_TASK)
    (found,) = resolve(replace(function("tcp_connect"), data=(entry,)), facts=KERNEL)
    ((_, value),) = found.data
    assert value is not None
    assert value.read.input.kind is InputKind.TASK


def test_functions_that_are_not_there() -> None:
    hook = replace(function("tcp_connect"), calls=("tcp_connect", "tcp_conect", "twice"))
    found = faults(hook, function("security_file_opem"), facts=KERNEL)
    assert "policy.yaml:7:3: this kernel has no function tcp_conect, did you mean tcp_connect?" in found
    assert "there are 2 functions twice" in found
    assert "security_file_opem" in found
    assert "no LSM hook file_opem, did you mean file_open?" in faults(
        make_hook(HookKind.LSM, "file_opem"), facts=KERNEL
    )


def test_missing_functions_are_left_out_where_the_policy_says_so() -> None:
    hook = replace(function("tcp_connect"), calls=("nosuch", "tcp_connect"), ignore_missing=True, section="kprobes[0]")
    found = resolve(hook, facts=KERNEL)
    assert [(each.point.name, each.number) for each in found] == [("tcp_connect", 0)]
    policy = Policy(PolicyKind.CLUSTER, "p", None, (hook,), WorkloadSelector(), PLACE, "")
    assert [gap.name for gap in find_gaps(policy, found)] == ["nosuch"]
    several = replace(hook, calls=("twice",))
    assert "there are 2 functions twice" in faults(several, facts=KERNEL)


def test_functions_by_pattern() -> None:
    hook = replace(function("list:f"), calls=(), call_pattern="^security_", generated=True, ignore_missing=True)
    found = resolve(hook, facts=KERNEL)
    assert [each.point.name for each in found] == ["security_file_open", "security_file_permission"]
    nothing = replace(hook, call_pattern="^udp_")
    assert 'no function that can be hooked and matches "^udp_"' in faults(nothing, facts=KERNEL)


def test_a_function_of_a_module() -> None:
    (found,) = resolve(function("ovl_open", Arg(1, ArgType.FILE)), facts=KERNEL)
    assert (found.point.kind, found.point.module) == (PointKind.KPROBE, "overlay")


def test_every_fault_is_told_with_its_place() -> None:
    hook = replace(
        function("many", Arg(6, ArgType.LONG), Arg(0, ArgType.FILE)), returns=True, return_arg=Arg(0, ArgType.SOCK)
    )
    lines = faults(hook, function("nosuch"), facts=NO_FENTRY).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "policy.yaml:7:3",
        "policy.yaml:7:3",
        "policy.yaml:10:5",
        "policy.yaml:11:5",
    ]
