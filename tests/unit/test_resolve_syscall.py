# SPDX-License-Identifier: Apache-2.0
"""Hooks on system calls: their arguments, lengths and returns, and what they cannot give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.policy.access import HookPoint, Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.model import ActionKind, Arg, ArgType, Hook, HookKind
from tests.support.resolving import data_of, faults, make_hook, register, resolve, value_of


def argument(index: int, size: int = 8, signed: bool = False) -> Read:
    return Read(Input(InputKind.ARGUMENT, index, size, signed))


def syscall(call: str, *args: Arg) -> Hook:
    return make_hook(HookKind.SYSCALL, call, *args)


def returning(call: str, *args: Arg, kind: ArgType = ArgType.LONG) -> Hook:
    return replace(syscall(call, *args), returns=True, return_arg=Arg(0, kind))


@pytest.mark.parametrize(
    ("kind", "size", "signed"),
    [
        (ArgType.INT, 4, True),
        (ArgType.UINT, 4, False),
        (ArgType.LONG, 8, True),
        (ArgType.SIZE_T, 8, False),
        (ArgType.INT8, 1, True),
        (ArgType.UINT16, 2, False),
        (ArgType.CAPABILITY, 4, True),
        (ArgType.BPF_CMD, 4, True),
    ],
)
def test_a_number_is_as_wide_as_its_type(kind: ArgType, size: int, signed: bool) -> None:
    value = value_of(HookKind.SYSCALL, "write", Arg(2, kind))
    assert value == Value(kind, argument(2, size, signed))


def test_every_call_of_a_list_is_a_hook_point() -> None:
    hook = replace(syscall("read", Arg(0, ArgType.FD)), calls=("read", "write"))
    first, second, third = resolve(hook, syscall("getpid"))
    assert [each.point for each in (first, second, third)] == [
        HookPoint(PointKind.SYSCALL, name) for name in ("read", "write", "getpid")
    ]
    assert [each.number for each in (first, second, third)] == [0, 1, 2]
    assert first.args == second.args


def test_texts_are_in_user_memory_and_the_path_of_an_exec_is_known() -> None:
    value = value_of(HookKind.SYSCALL, "openat", Arg(1, ArgType.STRING))
    assert value == Value(ArgType.STRING, argument(1), Memory.USER)
    assert value_of(HookKind.SYSCALL, "execve", Arg(0, ArgType.STRING)).exec_path
    assert not value_of(HookKind.SYSCALL, "execve", Arg(1, ArgType.UINT64)).exec_path


def test_a_descriptor_is_32_bits() -> None:
    assert value_of(HookKind.SYSCALL, "writev", Arg(0, ArgType.FD)).read == argument(0, 4, signed=True)


@pytest.mark.parametrize(
    ("call", "place", "kind"),
    [
        ("openat", 0, ArgType.INT32),
        ("openat", 1, ArgType.STRING),
        ("openat", 3, ArgType.UINT16),
        ("read", 0, ArgType.UINT32),
        ("read", 2, ArgType.UINT64),
        ("execve", 1, ArgType.UINT64),
        ("connect", 1, ArgType.SOCKADDR),
        ("bpf", 1, ArgType.BPF_ATTR),
    ],
)
def test_auto_is_what_the_kernel_declares(call: str, place: int, kind: ArgType) -> None:
    (found,) = resolve(syscall(call, Arg(place, ArgType.AUTO)))
    ((arg, value),) = found.args
    assert value is not None
    assert (arg.type, value.type) == (kind, kind)


@pytest.mark.parametrize(
    ("call", "index", "size_arg", "declared", "length"),
    [
        ("write", 1, 2, None, argument(2, 8)),
        ("write", 1, 2, ArgType.INT, argument(2, 4)),
        ("sethostname", 0, 1, None, argument(1, 4)),
        ("sethostname", 0, 1, ArgType.LONG, argument(1, 4)),
        ("getsockopt", 3, 4, None, Read(Input(InputKind.ARGUMENT, 4), (0,), memory=Memory.USER, size=4)),
    ],
)
def test_a_buffer_is_as_long_as_the_kernel_takes_it(
    call: str, index: int, size_arg: int, declared: ArgType | None, length: Read
) -> None:
    others = () if declared is None else (Arg(size_arg, declared),)
    (found,) = resolve(syscall(call, Arg(index, ArgType.CHAR_BUF, size_arg), *others))
    value = found.args[0][1]
    assert value == Value(ArgType.CHAR_BUF, argument(index), Memory.USER, length)


@pytest.mark.parametrize(
    ("call", "index", "kind", "length"),
    [
        ("connect", 1, ArgType.SOCKADDR, argument(2, 4)),
        ("connect", 1, ArgType.SOCKADDR_UN, argument(2, 4)),
        ("bpf", 1, ArgType.BPF_ATTR, argument(2, 4)),
        ("writev", 1, ArgType.CHAR_IOVEC, argument(2, 4)),
        ("process_vm_readv", 1, ArgType.CHAR_IOVEC, argument(2, 4)),
        ("process_vm_readv", 3, ArgType.CHAR_IOVEC, argument(4, 8)),
    ],
)
def test_structures_are_as_long_as_their_call_says(call: str, index: int, kind: ArgType, length: Read) -> None:
    assert value_of(HookKind.SYSCALL, call, Arg(index, kind)) == Value(kind, argument(index), Memory.USER, length)


@pytest.mark.parametrize("copied", [False, True])
def test_max_data_is_a_larger_limit(copied: bool) -> None:
    arg = Arg(1, ArgType.CHAR_BUF, 2, max_data=True, return_copy=copied)
    (found,) = resolve(returning("write", arg))
    value = found.args[0][1]
    assert value
    assert (value.limit, value.is_large, value.at_return) == (327_360, True, copied)
    assert value_of(HookKind.SYSCALL, "write", Arg(1, ArgType.CHAR_BUF, 2)) == replace(
        value, limit=4096, at_return=False
    )


def test_a_copy_at_the_return_is_as_long_as_what_was_read() -> None:
    copied = Arg(1, ArgType.CHAR_BUF, return_copy=True)
    (found,) = resolve(returning("read", copied))
    returned = Read(Input(InputKind.RETURN, signed=True))
    assert found.args[0][1] == Value(ArgType.CHAR_BUF, argument(1), Memory.USER, returned, at_return=True)


def test_an_address_that_the_call_writes_is_read_at_the_return() -> None:
    written = Arg(1, ArgType.SOCKADDR, return_copy=True)
    (found,) = resolve(returning("accept", written))
    length = Read(Input(InputKind.ARGUMENT, 2), (0,), memory=Memory.USER, size=4)
    assert found.args[0][1] == Value(ArgType.SOCKADDR, argument(1), Memory.USER, length, at_return=True)
    assert "is written by the call, add `returnCopy: true`" in faults(syscall("accept", Arg(1, ArgType.SOCKADDR)))


@pytest.mark.parametrize(
    ("kind", "type_", "size"),
    [(ArgType.LONG, ArgType.LONG, 8), (ArgType.INT, ArgType.INT, 4), (ArgType.AUTO, ArgType.INT64, 8)],
)
def test_a_returned_number(kind: ArgType, type_: ArgType, size: int) -> None:
    (found,) = resolve(returning("read", kind=kind))
    value = found.return_value
    assert value is not None
    assert (value.type, value.at_return) == (type_, True)
    assert value.read == Read(Input(InputKind.RETURN, 0, size, signed=True))


def test_a_returned_descriptor_is_a_file() -> None:
    (found,) = resolve(returning("openat", kind=ArgType.FD))
    assert found.return_value is not None
    assert found.return_value.type is ArgType.FD
    (nothing,) = resolve(returning("openat", kind=ArgType.NOP))
    assert nothing.return_value is None


def test_nop_has_no_value() -> None:
    (found,) = resolve(syscall("openat", Arg(0, ArgType.NOP)))
    assert found.args[0][1] is None


def test_a_call_that_is_not_there() -> None:
    hook = replace(syscall("uselib"), calls=("uselib", "read"))
    message = (
        'policy.yaml:7:3: this kernel has no system call "uselib", leave it out, or set `ignore.callNotFound: true`'
    )
    assert faults(hook) == message
    (found,) = resolve(replace(hook, ignore_missing=True), syscall("getpid"))[:1]
    assert (found.point.name, found.number) == ("read", 0)
    assert resolve(replace(hook, calls=("uselib",), ignore_missing=True)) == ()


def test_members_of_a_structure_of_the_process() -> None:
    expected = Read(Input(InputKind.ARGUMENT, 1), (0,), memory=Memory.USER, size=4)
    found = value_of(HookKind.SYSCALL, "connect", Arg(1, ArgType.UINT, resolve=("sin_family",), btf_type="sockaddr_in"))
    assert found == Value(ArgType.UINT, expected)
    declared = value_of(HookKind.SYSCALL, "connect", Arg(1, ArgType.STRING, resolve=("sa_data",)))
    assert declared.read == Read(Input(InputKind.ARGUMENT, 1), (2,), in_place=True, memory=Memory.USER)
    assert (declared.type, declared.memory, declared.is_string) == (ArgType.CHAR_BUF, Memory.USER, True)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        (Arg(3, ArgType.INT), "write has no argument 3, it has 0 fd, 1 buf, 2 count"),
        (Arg(1, ArgType.CHAR_BUF, 5), "write has no argument 5"),
        (Arg(1, ArgType.CHAR_BUF), "a char_buf of unknown length, add sizeArgIndex"),
        (Arg(1, ArgType.CHAR_IOVEC), "a char_iovec of unknown length, add sizeArgIndex"),
        (
            Arg(1, ArgType.FILE),
            "process's own number or address, use type: fd for a descriptor, type: string for a path",
        ),
        (Arg(1, ArgType.FILENAME), "use type: string"),
        (Arg(1, ArgType.SKB), "hook a tracepoint with `raw: true`"),
        (Arg(1, ArgType.CONST_BUF), "use type: char_buf with sizeArgIndex"),
        (Arg(1, ArgType.DATA_LOC), "use type: string"),
        (Arg(1, ArgType.KERNEL_CAP_T), "cannot be read as type kernel_cap_t, write type: string"),
        (Arg(0, ArgType.SYSCALL64), "use the tracepoint raw_syscalls/sys_enter"),
        (Arg(1, ArgType.CHAR_BUF, 2, return_copy=True), "returnCopy without a return, add `return: true`"),
        (Arg(1, ArgType.STRING, max_data=True), "maxData does not belong to type string"),
        (Arg(1, ArgType.STRING, 2), "sizeArgIndex does not belong to type string"),
        (Arg(1, ArgType.INT, resolve=("x",)), "add btfType, the name of its structure"),
        (Arg(1, ArgType.AUTO, resolve=("cap_effective",), btf_type="cred"), "no type is known for argument 1 of write"),
        (Arg(1, ArgType.INT, btf_module="xfs"), "btfTypeModule without btfType"),
        (
            Arg(1, ArgType.INT, resolve=("x",), btf_type="y", btf_module="xfs"),
            "there is no BTF of xfs, load the module",
        ),
        (
            Arg(1, ArgType.INT, resolve=("x",), btf_type="sockadr_in"),
            'no type "sockadr_in" in BTF, did you mean sockaddr_in?',
        ),
    ],
)
def test_what_an_argument_cannot_be(arg: Arg, message: str) -> None:
    found = faults(syscall("write", arg))
    assert found.startswith("policy.yaml:10:5: ")
    assert message in found
    assert "\n" not in found


def test_a_call_without_arguments() -> None:
    assert "getpid has no arguments, leave `args` out" in faults(syscall("getpid", Arg(0, ArgType.INT)))


def test_a_number_cannot_be_copied_at_the_return() -> None:
    hook = returning("read", Arg(0, ArgType.INT, return_copy=True))
    assert "returnCopy does not belong to type int, which a call does not fill" in faults(hook)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"return_arg": Arg(0, ArgType.STRING)}, "a system call does not return type string, use type: long"),
        ({"return_arg": Arg(0, ArgType.SOCK)}, "a system call does not return type sock"),
        ({"return_arg": Arg(0, ArgType.SYSCALL64)}, "a system call does not return type syscall64"),
        ({"return_arg": Arg(0, ArgType.LONG, resolve=("x",))}, "without members and length"),
        ({"return_arg_action": ActionKind.TRACK_SOCK}, "returnArgAction TrackSock needs a sock"),
    ],
)
def test_what_a_call_does_not_return(changes: dict[str, object], message: str) -> None:
    assert message in faults(replace(returning("read"), **changes))  # type: ignore[arg-type]


def test_all_faults_are_told_with_their_places() -> None:
    hook = syscall("write", Arg(9, ArgType.INT), Arg(0, ArgType.FD), Arg(1, ArgType.FILE))
    assert [line.split(" ")[0] for line in faults(hook).splitlines()] == ["policy.yaml:10:5:", "policy.yaml:12:5:"]


def test_registers_of_the_process() -> None:
    assert data_of(register("rdi", ArgType.UINT)).read == Read(Input(InputKind.REGISTER, 112, 4))
    assert data_of(register("al")) == Value(ArgType.UINT8, Read(Input(InputKind.REGISTER, 80, 1)))
    assert data_of(register("rsi", ArgType.STRING)) == Value(
        ArgType.STRING, Read(Input(InputKind.REGISTER, 104)), Memory.USER
    )
    found = data_of(register("rsi.sin_family", ArgType.UINT32, "struct sockaddr_in"))
    assert found.read == Read(Input(InputKind.REGISTER, 104), (0,), memory=Memory.USER, size=4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (register("rdx1"), 'no register "rdx1", did you mean rdx?'),
        (register("edi.x", btf_type="sock"), "edi holds no address, use the whole register"),
        (register("edi", ArgType.LONG), "the register edi cannot be read as type long, write type: uint32"),
        (register("rdi.x"), "add btfType"),
        (replace(register("rdi"), resolve=()), "an entry of data without resolve"),
        (register("rdi", ArgType.SOCK), "use type: fd"),
    ],
)
def test_what_is_no_register(entry: Arg, message: str) -> None:
    assert message in faults(replace(syscall("getpid"), data=(entry,)))
