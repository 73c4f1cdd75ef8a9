# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of hooks of every kind, their calls and their arguments."""

from pathlib import Path
from typing import Any

import pytest

from agent.policy.hook_types import types_of
from agent.policy.model import (
    ActionKind,
    Arg,
    ArgType,
    DataSource,
    Hook,
    HookKind,
    UprobeTarget,
)
from agent.policy.reader import parse_policies
from agent.policy.syscalls import NUMBERS
from tests.support.policy_text import errors_of, kprobe_text, policy_text, read_hook, read_policy

_GOOD = Path(__file__).parent.parent / "data" / "policies" / "good"


def _hooks(name: str) -> tuple[Hook, ...]:
    (policy,) = parse_policies((_GOOD / f"{name}.yaml").read_bytes(), "p.yaml")
    return policy.hooks


@pytest.mark.parametrize("call", ["openat", "sys_openat", "__x64_sys_openat"])
def test_three_spellings_of_a_call_mean_one_system_call(call: str) -> None:
    hook = read_hook(call=call)
    assert (hook.kind, hook.calls, hook.call) == (HookKind.SYSCALL, ("openat",), call)


def _called(values: dict[str, Any], **kprobe: Any) -> Hook:
    policy = read_policy(lists=[{"name": "l", **values}], kprobes=[{"call": "list:l", **kprobe}])
    return policy.hooks[0]


def test_calls_of_a_list_are_read_each_once() -> None:
    hook = _called({"type": "syscalls", "values": ["sys_dup", "dup2", "__x64_sys_dup"]})
    assert (hook.calls, hook.call, hook.ignore_missing) == (("dup", "dup2"), "list:l", False)


def test_list_without_type_is_of_system_calls_where_the_hook_is() -> None:
    values = {"values": ["sys_read", "write"]}
    assert _called(values).calls == ("read", "write")
    assert _called(values, syscall=False).calls == ("sys_read", "write")


def test_generated_list_is_of_all_calls_or_those_that_match() -> None:
    everything = _called({"type": "generated_syscalls"})
    assert everything.calls == tuple(NUMBERS)
    assert everything.ignore_missing
    for pattern in ("^open", "^sys_open", "^__x64_sys_open"):
        assert set(_called({"type": "generated_syscalls", "pattern": pattern}).calls) == {
            "open",
            "openat",
            "openat2",
            "open_by_handle_at",
            "open_tree",
            "open_tree_attr",
        }


def test_generated_functions_are_left_to_the_node() -> None:
    hook = _called({"type": "generated_ftrace", "pattern": "^tcp_"}, syscall=False)
    assert (hook.kind, hook.calls, hook.call_pattern, hook.ignore_missing) == (HookKind.KPROBE, (), "^tcp_", True)


def test_call_that_does_not_exist_is_kept_when_that_is_ignored() -> None:
    hook = read_hook(call="sys_opnat", ignore={"callNotFound": True})
    assert (hook.calls, hook.ignore_missing) == (("opnat",), True)
    (error,) = errors_of(kprobe_text(call="sys_opnat", ignore={"callNotFound": False}))
    assert error.advice == "did you mean openat, openat2 or open?"


def test_every_kind_of_hook_is_read() -> None:
    found = {hook.section: (hook.kind, hook.calls) for hook in _hooks("other-hooks")}
    assert found == {
        "tracepoints[0]": (HookKind.TRACEPOINT, ("raw_syscalls/sys_enter",)),
        "tracepoints[1]": (HookKind.TRACEPOINT, ("sched/sched_process_exec",)),
        "tracepoints[2]": (HookKind.RAW_TRACEPOINT, ("sock/inet_sock_set_state",)),
        "uprobes[0]": (HookKind.UPROBE, ()),
        "uprobes[1]": (HookKind.UPROBE, ()),
        "uprobes[2]": (HookKind.UPROBE, ()),
        "usdts[0]": (HookKind.USDT, ("libc/setjmp",)),
        "lsmhooks[0]": (HookKind.LSM, ("file_open",)),
        "fentries[0]": (HookKind.FENTRY, ("tcp_connect",)),
        "kprobes[0]": (HookKind.KPROBE, ("security_file_open", "security_bprm_check")),
        "kprobes[1]": (HookKind.KPROBE, ()),
        "kprobes[2]": (HookKind.KPROBE, ("security_capset",)),
        "kprobes[3]": (HookKind.KPROBE, ("sk_alloc",)),
    }


def test_uprobe_is_read_whole() -> None:
    first, second, third = (hook for hook in _hooks("other-hooks") if hook.kind is HookKind.UPROBE)
    assert first.target == UprobeTarget(
        "/usr/bin/bash",
        symbols=("readline", "main+0x10"),
        ref_counters=(0, 4096),
        digests=("build-id:0a1b", "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ignore_digest=True,
        btf_path="/usr/lib/debug/bash.btf",
    )
    assert (first.returns, first.return_arg) == (True, Arg(0, ArgType.STRING))
    assert first.data == (Arg(0, ArgType.INT, resolve=("pid",), data_source=DataSource.CURRENT_TASK),)
    assert second.target == UprobeTarget("/usr/bin/a", offsets=(16, 32))
    assert third.target == UprobeTarget("/usr/bin/a", addresses=(4198400,))


def test_usdt_is_read_whole() -> None:
    (hook,) = (hook for hook in _hooks("other-hooks") if hook.kind is HookKind.USDT)
    assert (hook.target, hook.call) == (UprobeTarget("/usr/lib/libc.so.6"), "libc/setjmp")
    assert (hook.tags, hook.args) == (("libc",), (Arg(0, ArgType.INT64), Arg(11, ArgType.INT32)))


def test_arguments_are_read_whole() -> None:
    hook = _hooks("system-calls")[0]
    assert hook.args == (
        Arg(1, ArgType.STRING, label="path"),
        Arg(0, ArgType.FD),
        Arg(2, ArgType.INT),
        Arg(
            3,
            ArgType.UINT16,
            resolve=("a", "b", "3", "c"),
            btf_type="some_struct",
            btf_module="some_module",
        ),
    )
    assert hook.data == (
        Arg(0, ArgType.UINT32, resolve=("mm", "owner", "pid"), label="owner", data_source=DataSource.CURRENT_TASK),
        Arg(0, ArgType.UINT64, resolve=("rsp",), data_source=DataSource.PT_REGS),
    )
    assert (hook.returns, hook.return_arg, hook.return_arg_action) == (True, Arg(0, ArgType.INT, label="file"), None)
    assert (hook.message, hook.tags) == ("a file was opened", ("files", "ünïcode"))
    (copied,) = (hook.args[0] for hook in _hooks("system-calls") if hook.call == "list:untyped")
    assert copied == Arg(1, ArgType.CHAR_BUF, 2, max_data=True, return_copy=True)


@pytest.mark.parametrize(
    ("resolve", "expected"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        ("a[3]", ("a", "3")),
        ("a[3][4].b", ("a", "3", "4", "b")),
        ("[2].x", ("2", "x")),
        ("a.0.b", ("a", "0", "b")),
        (".".join("a" * 32), tuple("a" * 32)),
    ],
)
def test_resolve_is_members_and_indexes(resolve: str, expected: tuple[str, ...]) -> None:
    assert read_hook(args=[{"index": 0, "type": "int", "resolve": resolve}]).args[0].resolve == expected


def test_action_on_the_returned_socket() -> None:
    hook = next(hook for hook in _hooks("other-hooks") if hook.calls == ("sk_alloc",))
    assert hook.return_arg_action is ActionKind.TRACK_SOCK


@pytest.mark.parametrize(
    ("section", "entry", "kind"),
    [
        ("kprobes", {"call": "openat"}, HookKind.SYSCALL),
        ("kprobes", {"call": "do_exit", "syscall": False}, HookKind.KPROBE),
        ("fentries", {"call": "do_exit"}, HookKind.FENTRY),
        ("lsmhooks", {"hook": "file_open"}, HookKind.LSM),
        ("tracepoints", {"subsystem": "a", "event": "b"}, HookKind.TRACEPOINT),
        ("tracepoints", {"subsystem": "a", "event": "b", "raw": True}, HookKind.RAW_TRACEPOINT),
        ("uprobes", {"path": "/a", "symbols": ["f"]}, HookKind.UPROBE),
        ("usdts", {"path": "/a", "provider": "p", "name": "n"}, HookKind.USDT),
    ],
)
@pytest.mark.parametrize("arg_type", ArgType)
def test_each_kind_takes_the_types_that_it_can_carry(
    section: str, entry: dict[str, Any], kind: HookKind, arg_type: ArgType
) -> None:
    arg = {"index": 0, "type": arg_type.value, "sizeArgIndex": 2 if arg_type in _SIZED else 0}
    spec: dict[str, Any] = {section: [{**entry, "args": [arg]}]}
    text = policy_text(**spec)
    if arg_type in types_of(kind).args:
        (policy,) = parse_policies(text, "f")
        assert policy.hooks[0].args[0].type is arg_type
    else:
        (error,) = errors_of(text)
        assert "cannot have type" in error.what or "cannot be found out" in error.what


_SIZED = (ArgType.CHAR_BUF, ArgType.CHAR_IOVEC)


def test_kernel_objects_are_never_read_from_a_process() -> None:
    for kind in (HookKind.SYSCALL, HookKind.UPROBE, HookKind.USDT):
        carried = types_of(kind).args
        assert not carried & {ArgType.FILE, ArgType.PATH, ArgType.SOCK, ArgType.CRED, ArgType.AUTO, ArgType.DATA_LOC}
        assert {ArgType.INT, ArgType.STRING, ArgType.CHAR_BUF, ArgType.FD, ArgType.SOCKADDR} <= carried


def test_buffer_of_a_tracepoint_needs_no_length() -> None:
    arg = {"index": 0, "type": "char_buf"}
    hook = read_policy(tracepoints=[{"subsystem": "a", "event": "b", "args": [arg]}]).hooks[0]
    assert hook.args == (Arg(0, ArgType.CHAR_BUF),)


def test_type_of_a_tracepoints_field_is_auto_by_default() -> None:
    hook = read_policy(tracepoints=[{"subsystem": "a", "event": "b", "args": [{"index": 3}]}]).hooks[0]
    assert hook.args == (Arg(3, ArgType.AUTO),)


def test_one_argument_may_be_read_in_two_ways() -> None:
    args = [{"index": 0, "type": "int"}, {"index": 0, "type": "fd"}, {"index": 0, "type": "int", "resolve": "a"}]
    assert len(read_hook(args=args).args) == 3


def test_defaults_that_the_api_server_writes_into_a_fentry() -> None:
    hook = read_policy(fentries=[{"call": "do_exit", "syscall": True, "return": False}]).hooks[0]
    assert hook.kind is HookKind.FENTRY
