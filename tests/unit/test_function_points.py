# SPDX-License-Identifier: Apache-2.0
"""What programs for functions and system calls are attached to: by capability, preemption, BTF and what is wanted."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from agent.policy.access import HookPoint, PointKind
from agent.policy.errors import PolicyErrors
from agent.policy.facts import Abilities
from agent.policy.function_points import choose_syscall_point, hooked_function
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgType,
    Hook,
    HookKind,
    Policy,
    PolicyKind,
    Selector,
    Source,
    WorkloadSelector,
)
from agent.policy.resolve import resolve_policy
from tests.support.kernel_facts import SmallKernel
from tests.support.kernel_functions import ALL, FunctionKernel, Given
from tests.support.resolving import PLACE, faults, make_hook, resolve

OPEN = "security_file_open"
PREEMPTIBLE = replace(ALL, preemptible=True)
OVERRIDE = Action(ActionKind.OVERRIDE, error=1, source=Source("policy.yaml", 20, 9))
KPROBE, FENTRY, LSM, SYSCALL = HookKind.KPROBE, HookKind.FENTRY, HookKind.LSM, HookKind.SYSCALL


def overriding(kind: HookKind, call: str) -> Hook:
    return replace(make_hook(kind, call), selectors=(Selector(actions=(OVERRIDE,)),))


def returning(kind: HookKind, call: str) -> Hook:
    return replace(make_hook(kind, call), returns=True, return_arg=Arg(0, ArgType.INT))


def reading(arg: Arg) -> Hook:
    return replace(make_hook(SYSCALL, "read"), args=(arg,))


def kind_of(hook: Hook, given: Given) -> PointKind:
    (found,) = resolve(hook, facts=FunctionKernel(given))
    return found.point.kind


@pytest.mark.parametrize(
    ("hook", "given", "kind"),
    [
        (make_hook(KPROBE, OPEN), Given(), PointKind.FENTRY),
        (make_hook(KPROBE, OPEN), Given(PREEMPTIBLE), PointKind.KPROBE),
        (make_hook(KPROBE, OPEN), Given(Abilities(fentry="no")), PointKind.KPROBE),
        (make_hook(KPROBE, OPEN), Given(Abilities(kprobe="no")), PointKind.FENTRY),
        (make_hook(KPROBE, OPEN), Given(untraceable=frozenset({OPEN})), PointKind.KPROBE),
        (make_hook(KPROBE, OPEN), Given(unknown=frozenset({OPEN})), PointKind.KPROBE),
        (make_hook(KPROBE, "many"), Given(), PointKind.KPROBE),
        (make_hook(KPROBE, "wide"), Given(), PointKind.KPROBE),
        (make_hook(KPROBE, "print"), Given(), PointKind.KPROBE),
        (returning(KPROBE, OPEN), Given(), PointKind.FENTRY),
        (make_hook(FENTRY, OPEN), Given(), PointKind.FENTRY),
        (make_hook(FENTRY, OPEN), Given(PREEMPTIBLE), PointKind.KPROBE),
        (make_hook(LSM, "file_open"), Given(), PointKind.LSM),
        (make_hook(LSM, "task_free"), Given(), PointKind.LSM),
        (overriding(LSM, "file_open"), Given(PREEMPTIBLE), PointKind.LSM),
        (overriding(KPROBE, OPEN), Given(), PointKind.FMOD_RET),
        (overriding(FENTRY, OPEN), Given(), PointKind.FMOD_RET),
        (overriding(KPROBE, OPEN), Given(PREEMPTIBLE), PointKind.LSM),
        (overriding(KPROBE, "security_path_chown"), Given(PREEMPTIBLE), PointKind.FMOD_RET),
        (overriding(KPROBE, OPEN), Given(replace(PREEMPTIBLE, lsm="no")), PointKind.FMOD_RET),
        (overriding(KPROBE, OPEN), Given(Abilities(fmod_ret="no"), frozenset({OPEN})), PointKind.OVERRIDE),
        (overriding(KPROBE, OPEN), Given(injectable=None, untraceable=frozenset()), PointKind.FMOD_RET),
        (overriding(KPROBE, "tcp_connect"), Given(injectable=frozenset({"tcp_connect"})), PointKind.OVERRIDE),
        (make_hook(SYSCALL, "read"), Given(), PointKind.SYSCALL_FENTRY),
        (make_hook(SYSCALL, "read"), Given(PREEMPTIBLE), PointKind.SYSCALL_KPROBE),
        (make_hook(SYSCALL, "read"), Given(Abilities(fentry="no")), PointKind.SYSCALL_KPROBE),
        (make_hook(SYSCALL, "read"), Given(untraceable=frozenset({"__x64_sys_read"})), PointKind.SYSCALL_KPROBE),
        (make_hook(SYSCALL, "read"), Given(Abilities("no", "no")), PointKind.SYSCALL),
        (returning(SYSCALL, "read"), Given(PREEMPTIBLE), PointKind.SYSCALL),
        (reading(Arg(1, ArgType.CHAR_BUF, 2)), Given(PREEMPTIBLE), PointKind.SYSCALL),
        (reading(Arg(0, ArgType.INT)), Given(PREEMPTIBLE), PointKind.SYSCALL_KPROBE),
        # A trampoline on a function that is overridden loses the error, and a call has all its hooks in one place.
        (make_hook(KPROBE, "tcp_connect"), Given(injectable=frozenset({"tcp_connect"})), PointKind.KPROBE),
        (make_hook(FENTRY, "tcp_connect"), Given(injectable=frozenset({"tcp_connect"})), PointKind.KPROBE),
        (make_hook(SYSCALL, "read"), Given(injectable=frozenset({"__x64_sys_read"})), PointKind.SYSCALL_OVERRIDE),
        (returning(SYSCALL, "read"), Given(injectable=frozenset({"__x64_sys_read"})), PointKind.SYSCALL_OVERRIDE),
        (make_hook(SYSCALL, "write"), Given(), PointKind.SYSCALL),
        (overriding(SYSCALL, "read"), Given(injectable=frozenset({"__x64_sys_read"})), PointKind.SYSCALL_OVERRIDE),
    ],
)
def test_the_cheapest_that_does_all_is_taken(hook: Hook, given: Given, kind: PointKind) -> None:
    assert kind_of(hook, given) is kind


def test_a_return_is_not_looked_for_at_an_lsm_hook() -> None:
    hook = replace(returning(KPROBE, OPEN), selectors=(Selector(actions=(OVERRIDE,)),))
    assert kind_of(hook, Given(PREEMPTIBLE)) is PointKind.FMOD_RET


@pytest.mark.parametrize("hook", [returning(KPROBE, "tcp_connect"), returning(SYSCALL, "read")])
def test_no_kprobe_sees_the_return_of_what_did_not_run(hook: Hook) -> None:
    given = Given(injectable=frozenset({"tcp_connect", "__x64_sys_read"}))
    found = faults(replace(hook, selectors=(Selector(actions=(OVERRIDE,)),)), facts=FunctionKernel(given))
    assert found.startswith("policy.yaml:20:9: ")
    assert "passes by the return of what bpf_override_return keeps from running" in found


def test_an_lsm_hook_in_a_functions_place_keeps_the_functions_name() -> None:
    (found,) = resolve(overriding(KPROBE, OPEN), facts=FunctionKernel(Given(PREEMPTIBLE)))
    assert found.point == HookPoint(PointKind.LSM, "file_open")
    assert hooked_function(found) == OPEN
    (own,) = resolve(make_hook(LSM, "file_open"), facts=FunctionKernel())
    assert hooked_function(own) == "file_open"


@pytest.mark.parametrize(
    ("hook", "given", "message"),
    [
        (make_hook(FENTRY, OPEN), Given(Abilities(fentry="no trampolines")), "fentry is not possible on .*: no tramp"),
        (make_hook(FENTRY, OPEN), Given(untraceable=frozenset({OPEN})), "does not begin with a place for ftrace"),
        (make_hook(FENTRY, OPEN), Given(unknown=frozenset({OPEN})), "BTF does not have it, hook it with kprobes"),
        (make_hook(FENTRY, "many"), Given(), "it has 8 arguments, and at most 6 are possible"),
        (make_hook(FENTRY, "wide"), Given(), "its argument 0 is given in several registers, or in none"),
        (
            make_hook(KPROBE, OPEN),
            Given(Abilities("no kprobes", "no trampolines")),
            "kprobe: no kprobes; fentry: no tr",
        ),
        (
            make_hook(KPROBE, OPEN),
            Given(replace(PREEMPTIBLE, kprobe="none")),
            "can be preempted, so that it would miss",
        ),
        (
            make_hook(LSM, "file_open"),
            Given(Abilities(lsm="boot with lsm=bpf")),
            "not possible on this node: boot with",
        ),
    ],
)
def test_hooks_that_this_node_cannot_have(hook: Hook, given: Given, message: str) -> None:
    found = faults(hook, facts=FunctionKernel(given))
    assert found.startswith("policy.yaml:7:3: ")
    assert message.replace(".*", '"security_file_open"') in found


@pytest.mark.parametrize(
    ("hook", "given", "messages"),
    [
        (
            overriding(KPROBE, OPEN),
            Given(Abilities(fmod_ret="no trampolines")),
            ("fmod-ret: no trampolines; override-return: no helper", "see `podgate doctor`"),
        ),
        (
            overriding(KPROBE, "tcp_connect"),
            Given(),
            ("override-return: no helper", "hook a function that begins with"),
        ),
        (overriding(KPROBE, "tcp_connect"), Given(injectable=frozenset()), ("error_injection/list",)),
        (
            overriding(KPROBE, "file_open"),
            Given(several=frozenset(), unknown=frozenset({"file_open"})),
            ("BTF does not",),
        ),
        (overriding(KPROBE, "security_task_free"), Given(), ('"security_task_free" returns nothing',)),
        (overriding(KPROBE, "sk_alloc"), Given(injectable=frozenset({"sk_alloc"})), ("returns struct sock *",)),
        (overriding(KPROBE, "is_bad"), Given(injectable=frozenset({"is_bad"})), ("returns bool",)),
        (overriding(KPROBE, "larger"), Given(injectable=frozenset({"larger"})), ("returns unsigned long",)),
        (overriding(LSM, "task_free"), Given(), ('"task_free" returns nothing',)),
        (
            overriding(SYSCALL, "read"),
            Given(),
            ("Override is not possible here: no helper", "CONFIG_BPF_KPROBE_OVERRIDE"),
        ),
        (overriding(SYSCALL, "read"), Given(Abilities(kprobe="no PMU"), frozenset({"__x64_sys_read"})), ("no PMU",)),
    ],
)
def test_where_override_is_impossible_it_is_refused_at_its_place(
    hook: Hook, given: Given, messages: tuple[str, ...]
) -> None:
    found = faults(hook, facts=FunctionKernel(given))
    assert found.startswith("policy.yaml:20:9: ")
    assert [message for message in messages if message not in found] == []


def test_a_security_function_is_named_where_another_cannot_be_overridden() -> None:
    found = faults(overriding(KPROBE, "tcp_sendmsg"), facts=_Sockets())
    assert "hook a function that begins with security_, security_socket_sendmsg perhaps, or use Sigkill" in found


class _Sockets(FunctionKernel):
    def functions_like(self, pattern: str) -> tuple[str, ...]:
        assert pattern == "^security_"
        return ("security_file_permission", "security_socket_sendmsg")


def resolve_with(method: str, hook: Hook, given: Given) -> PointKind:
    options = MappingProxyType({"override-method": method})
    policy = Policy(PolicyKind.CLUSTER, "p", None, (hook,), WorkloadSelector(), PLACE, "", options=options)
    return resolve_policy(policy, FunctionKernel(given))[0].point.kind


def test_the_option_override_method_is_obeyed_or_refused() -> None:
    both = Given(injectable=frozenset({OPEN, "tcp_connect", "__x64_sys_read"}))
    assert resolve_with("override-return", overriding(KPROBE, OPEN), both) is PointKind.OVERRIDE
    assert resolve_with("fmod-ret", overriding(KPROBE, OPEN), both) is PointKind.FMOD_RET
    assert resolve_with("fmod-ret", overriding(KPROBE, OPEN), Given(PREEMPTIBLE)) is PointKind.FMOD_RET
    assert resolve_with("fmod-ret", overriding(KPROBE, "tcp_connect"), both) is PointKind.FMOD_RET
    assert resolve_with("override-return", overriding(SYSCALL, "read"), both) is PointKind.SYSCALL_OVERRIDE
    assert resolve_with("override-return", make_hook(KPROBE, OPEN), both) is PointKind.KPROBE
    with pytest.raises(PolicyErrors, match=r"override-return: no helper .*, leave the option override-method out"):
        resolve_with("override-return", overriding(KPROBE, OPEN), Given())
    with pytest.raises(PolicyErrors, match="fmod-ret: the kernel does not let it be overridden"):
        resolve_with("fmod-ret", overriding(KPROBE, "tcp_sendmsg"), both)
    with pytest.raises(PolicyErrors, match="and the policy wants override-method fmod-ret, leave the option out"):
        resolve_with("fmod-ret", overriding(SYSCALL, "read"), both)


def test_calls_that_do_not_return_are_watched_at_their_entry() -> None:
    hook = make_hook(SYSCALL, "exit")
    assert choose_syscall_point("exit", hook, FunctionKernel(), "").kind is PointKind.SYSCALL_KPROBE


def test_a_files_digest_is_not_to_be_had() -> None:
    hook = make_hook(LSM, "file_open")
    post = Action(ActionKind.POST, ima_hash=True, source=Source("policy.yaml", 20, 9))
    found = faults(replace(hook, selectors=(Selector(actions=(post,)),)), facts=FunctionKernel())
    assert found.startswith("policy.yaml:20:9: imaHash is not supported by this version")


def test_a_node_without_any_of_it_keeps_its_tracepoints() -> None:
    (found,) = resolve(make_hook(SYSCALL, "read"), facts=SmallKernel())
    assert found.point.kind is PointKind.SYSCALL
    assert "no kprobe PMU" in faults(overriding(SYSCALL, "read"), facts=SmallKernel())


def test_the_function_of_a_call_that_has_another_name_there() -> None:
    assert HookPoint(PointKind.SYSCALL_FENTRY, "stat").function == "__x64_sys_newstat"
    assert HookPoint(PointKind.SYSCALL, "stat").function == ""
