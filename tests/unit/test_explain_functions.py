# SPDX-License-Identifier: Apache-2.0
"""Hooks on functions of the kernel, and Override, in words: how they are done on a node, what is to be known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.cli.node import look_at
from agent.policy.access import FUNCTIONS, SYSCALLS
from agent.policy.explain import Explanation, explain_policy
from agent.policy.explain_cost import functions_of
from agent.policy.explain_points import WAYS
from agent.policy.facts import Abilities
from agent.policy.model import Policy
from agent.policy.reader import parse_policies
from tests.support.kernel_functions import FunctionKernel, Given

FILE, MASK = "{index: 0, type: file}", "{index: 1, type: int}"
OVERRIDE, SIGKILL = "{action: Override, argError: -1}", "{action: Sigkill}"
NO_LSM = "bpf is not among the active security modules; boot with lsm=…,bpf"
RETURNS = ", return: true, returnArg: {index: 0, type: int}"


def parse(spec: str) -> Policy:
    head = "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicy\nmetadata: {name: p}\n"
    (policy,) = parse_policies(f"{head}spec: {{podSelector: {{}}, {spec}}}\n".encode(), "p.yaml")
    return policy


def explain(spec: str, given: Given | None = None) -> Explanation:
    """given: the node that is asked; None: none is."""
    policy = parse(spec)
    return explain_policy(policy, look_at(policy, FunctionKernel(given)) if given else None)


def kprobe(call: str, args: str = "", actions: str = "", more: str = "") -> str:
    """A hook on a function."""
    selectors = f", selectors: [{{matchActions: [{actions}]}}]" if actions else ""
    return f"kprobes: [{{call: {call}, syscall: false, args: [{args}]{selectors}{more}}}]"


def lsm(hook: str, args: str = "", actions: str = "") -> str:
    selectors = f", selectors: [{{matchActions: [{actions}]}}]" if actions else ""
    return f"lsmhooks: [{{hook: {hook}, args: [{args}]{selectors}}}]"


def syscall(actions: str, more: str = "") -> str:
    return f"kprobes: [{{call: sys_read, selectors: [{{matchActions: [{actions}]}}]{more}}}]"


def through(explanation: Explanation) -> str:
    assert [str(error) for error in explanation.refusals] == []
    (hook,) = explanation.hooks
    (text,) = hook.through
    return text


def told(explanation: Explanation, words: str) -> list[str]:
    """The traps that have these words."""
    return [trap.text for trap in explanation.traps if words in trap.text]


def test_every_kind_of_hook_point_has_words() -> None:
    assert set(WAYS) == FUNCTIONS | SYSCALLS


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (kprobe("vfs_read"), "the kernel function vfs_read"),
        ("fentries: [{call: vfs_read}]", "the kernel function vfs_read"),
        (lsm("file_open"), "the LSM hook file_open"),
        ("kprobes: [{call: openat}]", "the system call openat"),
        (
            'lists: [{name: l, type: generated_ftrace, pattern: "^vfs_"}], kprobes: [{call: "list:l", syscall: false}]',
            'all kernel functions that match "^vfs_"',
        ),
    ],
)
def test_without_a_node_a_hook_is_what_the_policy_names(spec: str, text: str) -> None:
    assert through(explain(spec)) == text


@pytest.mark.parametrize(
    ("spec", "given", "text"),
    [
        (kprobe("vfs_read"), Given(), "the kernel function vfs_read, by fentry"),
        (kprobe("vfs_read", more=RETURNS), Given(), "the kernel function vfs_read, by fentry and fexit"),
        ("fentries: [{call: vfs_read}]", Given(), "the kernel function vfs_read, by fentry"),
        (kprobe("vfs_read"), Given(Abilities(preemptible=True)), "the kernel function vfs_read, by a kprobe"),
        (kprobe("many", more=RETURNS), Given(), "the kernel function many, by a kprobe and a kretprobe"),
        (
            kprobe("security_file_open", FILE, OVERRIDE),
            Given(Abilities(lsm=NO_LSM)),
            "the kernel function security_file_open, by fmod_ret",
        ),
        (
            kprobe("security_file_open", FILE, OVERRIDE, RETURNS),
            Given(),
            "the kernel function security_file_open, by fmod_ret and fexit",
        ),
        (
            kprobe("security_file_open", FILE, OVERRIDE),
            Given(Abilities(preemptible=True)),
            "the kernel function security_file_open, by a program of the security module bpf at its hook file_open",
        ),
        (
            kprobe("tcp_connect", actions=OVERRIDE),
            Given(injectable=frozenset({"tcp_connect"})),
            "the kernel function tcp_connect, by a kprobe with bpf_override_return",
        ),
        (lsm("file_open", FILE), Given(), "the LSM hook file_open, by a program of the security module bpf"),
        (syscall("{action: Post}"), Given(), "the system call read, by fentry of __x64_sys_read"),
        (
            syscall("{action: Post}", RETURNS),
            Given(Abilities(preemptible=True)),
            "the system call read, at syscalls/sys_enter_read and syscalls/sys_exit_read",
        ),
        (
            syscall(OVERRIDE),
            Given(injectable=frozenset({"__x64_sys_read"})),
            "the system call read, by a kprobe with bpf_override_return of __x64_sys_read",
        ),
    ],
)
def test_on_a_node_it_is_told_by_what_a_hook_is_attached(spec: str, given: Given, text: str) -> None:
    assert through(explain(spec, given)) == text


def test_a_function_of_a_module_is_told_as_one() -> None:
    given = Given(unknown=frozenset({"ovl_open"}))
    assert (
        through(explain(kprobe("ovl_open"), given)) == "the kernel function ovl_open of the module overlay, by a kprobe"
    )


def done(explanation: Explanation) -> str:
    return explanation.hooks[0].selectors[0].then[1]


START = "the call returns -EPERM without being carried out, by"
REFUSES = "; a node that cannot do that refuses the policy"


@pytest.mark.parametrize(
    ("spec", "means"),
    [
        (
            kprobe("security_file_open", FILE, OVERRIDE),
            "fmod_ret, the verdict of the security module bpf or bpf_override_return",
        ),
        (lsm("file_open", FILE, OVERRIDE), "the verdict of the security module bpf"),
        (kprobe("tcp_connect", actions=OVERRIDE), "bpf_override_return"),
        (syscall(OVERRIDE), "bpf_override_return"),
        (
            f"options: [{{name: override-method, value: fmod-ret}}], {kprobe('security_file_open', FILE, OVERRIDE)}",
            "fmod_ret",
        ),
    ],
)
def test_without_a_node_override_says_what_it_takes(spec: str, means: str) -> None:
    assert done(explain(spec)) == f"{START} {means}{REFUSES}"


def test_on_a_node_override_says_how_it_is_done() -> None:
    hook = kprobe("security_file_open", FILE, OVERRIDE)
    assert done(explain(hook, Given(Abilities(lsm=NO_LSM)))) == f"{START} fmod_ret"
    by_lsm = Given(Abilities(preemptible=True))
    assert done(explain(hook, by_lsm)) == f"{START} the verdict of the security module bpf"


def test_override_where_it_is_impossible_is_a_refusal_of_that_node_alone() -> None:
    for spec in (syscall(OVERRIDE), kprobe("vfs_read", actions=OVERRIDE)):
        assert explain(spec).refusals == ()
        (refusal,) = explain(spec, Given()).refusals
        assert "Override is not possible" in refusal.what
        assert explain(spec, Given()).hooks[0].places == ()


@pytest.mark.parametrize(("make", "hook"), [(kprobe, "security_file_open"), (lsm, "file_open")])
def test_what_overrides_is_not_told_to_be_late(make: Callable[[str, str, str], str], hook: str) -> None:
    late, goes_on = "kill is not prevent", "the call fails and the process"
    (text,) = told(explain(make(hook, FILE, SIGKILL)), late)
    assert text.endswith("Override beside it keeps the call from being made")
    both = explain(make(hook, FILE, f"{OVERRIDE}, {SIGKILL}"))
    assert (told(both, late), told(both, goes_on)) == ([], [])
    alone = explain(make(hook, FILE, OVERRIDE))
    assert (told(alone, late), len(told(alone, goes_on))) == ([], 1)


def test_calls_that_fail_are_told_once_with_their_places() -> None:
    hook = f"{{call: %s, syscall: false, args: [{FILE}], selectors: [{{matchActions: [{OVERRIDE}]}}]}}"
    two = explain(f"kprobes: [{hook % 'security_file_open'}, {hook % 'security_file_receive'}]")
    (text,) = told(two, "the call fails and the process")
    assert text.startswith("where kprobes[0].selectors[0] and kprobes[1].selectors[0] match, ")


def test_override_is_advised_where_it_may_be_possible() -> None:
    (inner,) = told(explain(kprobe("tcp_connect", actions=SIGKILL)), "kill is not prevent")
    assert "Override" not in inner


def test_a_selector_that_only_kills_is_told_beside_one_that_overrides() -> None:
    selectors = f"[{{matchActions: [{OVERRIDE}, {SIGKILL}]}}, {{matchActions: [{SIGKILL}]}}]"
    hook = f"kprobes: [{{call: security_file_open, syscall: false, args: [{FILE}], selectors: {selectors}}}]"
    assert len(told(explain(hook), "kill is not prevent")) == 1


@pytest.mark.parametrize(
    ("call", "args", "interrupts"),
    [
        ("tcp_v4_rcv", "{index: 0, type: skb}", True),
        ("tcp_rcv_established", "{index: 0, type: sock}", True),
        ("security_sock_rcv_skb", "{index: 0, type: sock}", True),
        ("my_filter", "{index: 1, type: skb}", True),
        ("tcp_connect", "{index: 0, type: sock}", False),
        ("security_socket_connect", "{index: 0, type: socket}", False),
        ("security_file_open", FILE, False),
    ],
)
def test_functions_that_run_in_interrupts_are_told(call: str, args: str, interrupts: bool) -> None:
    found = told(explain(kprobe(call, args)), "may run in an interrupt")
    assert bool(found) is interrupts
    assert all("TrackSock" in text for text in found)


def test_who_tracks_sockets_needs_not_be_told_of_interrupts() -> None:
    actions = "selectors: [{matchActions: [{action: TrackSock, argSock: 0}]}]"
    track = f"{{call: tcp_connect, syscall: false, args: [{{index: 0, type: sock}}], {actions}}}"
    rcv = "{call: tcp_v4_rcv, syscall: false, args: [{index: 0, type: skb}]}"
    assert told(explain(f"kprobes: [{track}, {rcv}]"), "may run in an interrupt") == []


HOT = "an event for nearly every call of security_file_permission"


def test_hot_functions_are_told_and_what_they_cost() -> None:
    assert len(told(explain(kprobe("security_file_permission", FILE)), HOT)) == 1
    assert len(told(explain(lsm("file_permission", FILE)), HOT)) == 1
    narrowed = "selectors: [{matchArgs: [{index: 0, operator: Prefix, values: [/etc]}]}]"
    few = explain(f"kprobes: [{{call: security_file_permission, syscall: false, args: [{FILE}], {narrowed}}}]")
    assert told(few, HOT) == []
    for each in (few, explain(lsm("file_permission", FILE))):
        assert any("every process of the node pays" in note for note in each.cost.notes)
    assert not any("every process" in note for note in explain(kprobe("commit_creds")).cost.notes)


def comparing(call: str, arg: str, value: str = "/etc/passwd") -> str:
    """A hook on a function that compares its first argument."""
    selector = f"{{matchArgs: [{{index: 0, operator: Equal, values: [{value}]}}]}}"
    return f"kprobes: [{{call: {call}, syscall: false, args: [{{index: 0, type: {arg}}}], selectors: [{selector}]}}]"


@pytest.mark.parametrize("arg", ["file", "path", "dentry"])
def test_paths_of_open_files_cannot_be_changed_after_the_check(arg: str) -> None:
    explanation = explain(comparing("security_inode_unlink", arg))
    assert told(explanation, "time of check") == []
    assert len(told(explanation, "a dentry does not know where")) == (arg == "dentry")


def test_what_is_compared_in_the_processs_memory_is_told_on_a_node() -> None:
    buffer = "{index: 1, type: char_buf, sizeArgIndex: 3}"
    selector = "{matchArgs: [{index: 1, operator: Prefix, values: [x]}]}"
    hook = f"kprobes: [{{call: vfs_read, syscall: false, args: [{buffer}], selectors: [{selector}]}}]"
    assert len(told(explain(hook, Given()), "no second check")) == 1
    assert told(explain(comparing("security_file_open", "file"), Given()), "no second check") == []


@pytest.mark.parametrize(
    ("call", "words", "beside"),
    [
        ("security_file_permission", "memory that is mapped", "security_mmap_file"),
        ("vfs_read", "io_uring read without it", "security_file_permission"),
        ("security_bprm_creds_from_file", "it is given the interpreter", "security_bprm_check"),
        ("security_kernel_read_file", "init_module", "security_kernel_load_data"),
        ("security_socket_connect", "datagrams", "security_socket_sendmsg"),
    ],
)
def test_what_does_not_come_by_a_function_is_told_unless_it_is_hooked_too(call: str, words: str, beside: str) -> None:
    (text,) = told(explain(kprobe(call)), words)
    assert text.startswith(f"{call}: ")
    both = f"kprobes: [{{call: {call}, syscall: false}}, {{call: {beside}, syscall: false}}]"
    assert told(explain(both), words) == []


def test_a_security_hook_is_known_by_the_function_that_calls_it() -> None:
    assert functions_of(parse(lsm("bprm_check_security")).hooks[0]) == ("security_bprm_check",)
    assert len(told(explain(lsm("file_permission", FILE)), "memory that is mapped")) == 1


def test_credentials_are_the_new_ones_in_the_argument_alone() -> None:
    assert len(told(explain(kprobe("commit_creds", "{index: 0, type: cred}")), "every execve comes by here")) == 1


def test_the_binary_at_an_execve_is_the_callers() -> None:
    binaries = "selectors: [{matchBinaries: [{operator: In, values: [/bin/sh]}]}]"
    hook = f"kprobes: [{{call: security_bprm_check, syscall: false, {binaries}}}]"
    assert len(told(explain(hook), "matchBinaries means who calls execve")) == 1
    assert told(explain(hook.replace("bprm_check", "file_open")), "matchBinaries means") == []


@pytest.mark.parametrize(("call", "told_so"), [("vfs_read", True), ("security_file_open", False)])
def test_functions_inside_are_told_to_be_no_interface(call: str, told_so: bool) -> None:
    assert bool(told(explain(kprobe(call)), "no interface of the kernel")) is told_so
    ignored = explain(kprobe(call, more=", ignore: {callNotFound: true}"))
    assert told(ignored, "no interface of the kernel") == []


@pytest.mark.parametrize(
    ("beside", "told_so"),
    [("security_file_open", False), ("security_file_permission", True)],
)
def test_other_calls_come_by_a_function_that_is_hooked_too(beside: str, told_so: bool) -> None:
    hooks = f"kprobes: [{{call: openat}}, {{call: {beside}, syscall: false, args: [{FILE}]}}]"
    assert bool(told(explain(hooks), "to open a file there are other calls")) is told_so
    assert told(explain(f"kprobes: [{{call: openat}}], {lsm('file_open', FILE)}"), "to open a file") == []


def test_override_of_a_system_call_is_too_late_for_what_is_not_resident() -> None:
    path = "args: [{index: 1, type: string}]"
    selector = "matchArgs: [{index: 1, operator: Equal, values: [/x]}], matchActions: [%s]"
    late = "Override comes too late for what is not in memory"
    compared = f"kprobes: [{{call: openat, {path}, selectors: [{{{selector}}}]}}]"
    assert len(told(explain(compared % OVERRIDE), late)) == 1
    assert told(explain(compared % SIGKILL), late) == []
    assert told(explain(syscall(OVERRIDE)), late) == []


def test_hook_points_of_one_function_are_two_costs() -> None:
    """One that observes and one that overrides the same function, which is the heavier one."""
    equal = f"matchArgs: [{{index: 0, operator: Equal, values: [/{'long/' * 40}]}}]"
    watching = f"{{call: security_file_open, syscall: false, args: [{FILE}]}}"
    selector = f"{{{equal}, matchActions: [{OVERRIDE}]}}"
    refusing = f"{{call: security_file_open, syscall: false, args: [{FILE}], selectors: [{selector}]}}"
    given = Given(Abilities(lsm=NO_LSM))
    alone = [explain(f"kprobes: [{hook}]", given).cost.weight for hook in (watching, refusing)]
    assert alone[0] < alone[1]
    for hooks in (f"{watching}, {refusing}", f"{refusing}, {watching}"):
        cost = explain(f"kprobes: [{hooks}]", given).cost
        assert (cost.hook_points, cost.programs, cost.weight) == (2, 2, alone[1])
