# SPDX-License-Identifier: Apache-2.0
"""The functions of a kernel that has kprobes: which there are, which can be hooked, what they take."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from agent.kernel.abilities import override_program_refusal, read_preemptible
from agent.kernel.errors import KernelError
from agent.kernel.mounts import ensure_tracefs, read_mounts, unmount
from agent.kernel.node_facts import NodeFacts
from agent.kernel.special_files import read_special
from agent.policy.access import PointKind
from agent.policy.errors import PolicyErrors
from agent.policy.facts import FactsError, NoFunctionError, Shape
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
    WorkloadSelector,
)
from agent.policy.resolve import resolve_policy
from tests.support.resolving import PLACE, make_hook

pytestmark = [pytest.mark.kernel, pytest.mark.guest, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def facts() -> Iterator[NodeFacts]:
    with tempfile.TemporaryDirectory(prefix="podgate-test-") as folder:
        point, mounted = ensure_tracefs(Path(folder) / "tracing")
        with NodeFacts(point) as node:
            yield node
        if mounted:
            unmount(point)


@cache
def symbols() -> tuple[tuple[str, str, str], ...]:
    """Address, name and module of every function."""
    lines = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
    return tuple((w[0], w[2], w[3].strip("[]") if len(w) > 3 else "") for w in lines if w[1] in "tTwW")


def test_a_function_with_its_prototype(facts: NodeFacts) -> None:
    found = facts.function("security_file_permission")
    assert (found.module, found.traceable) == ("", True)
    assert found.prototype is not None
    types = found.prototype.types
    file, mask = found.prototype.parameters
    assert types.describe(types.describe(file.type_id).target).names == ("file",)
    assert types.describe(mask.type_id).names == ("int",)
    assert types.describe(found.prototype.result).names == ("int",)


def test_a_function_without_a_result(facts: NodeFacts) -> None:
    found = facts.function("security_task_free").prototype
    assert found is not None
    assert found.types.describe(found.result).shape is Shape.VOID


def test_a_function_of_a_module(facts: NodeFacts) -> None:
    """The root directory of a guest is an overlay, whose module has a file system's functions."""
    modules = {module for _, name, module in symbols() if name == "ovl_open"}
    if not modules:
        pytest.skip("this kernel has no ovl_open")
    found = facts.function("ovl_open")
    assert {found.module} == modules
    if found.module:
        assert found.prototype is not None
        pointers = [found.prototype.types.describe(each.type_id) for each in found.prototype.parameters]
        assert [found.prototype.types.describe(each.target).names for each in pointers] == [("inode",), ("file",)]
    assert found.traceable


def test_functions_of_one_name(facts: NodeFacts) -> None:
    addresses = Counter(name for _, name, _ in {each for each in symbols() if "." not in each[1]})
    (name, count), *_ = addresses.most_common(1)
    assert count > 1
    with pytest.raises(FactsError, match=rf'there are {count} functions "{re.escape(name)}"') as caught:
        facts.function(name)
    assert not isinstance(caught.value, NoFunctionError)


def test_functions_that_the_compiler_has_changed(facts: NodeFacts) -> None:
    names = {name for _, name, _ in symbols()}
    changed = next(name for name in sorted(names) if ".isra." in name and name.partition(".")[0] not in names)
    with pytest.raises(NoFunctionError, match="the compiler has changed the function .*" + re.escape(changed)):
        facts.function(changed.partition(".")[0])


def test_the_nearest_name(facts: NodeFacts) -> None:
    with pytest.raises(NoFunctionError, match=r"did you mean security_file_open\?"):
        facts.function("security_fil_open")
    with pytest.raises(NoFunctionError, match="it is not there, or the compiler put it into its callers"):
        facts.function("qqqqqqqq")


def test_functions_that_take_no_probe(facts: NodeFacts) -> None:
    lines = read_special("debugfs", "kprobes/blacklist").decode().splitlines()
    names = Counter(name for _, name, _ in symbols())
    name = next(name for line in lines if names[name := line.rpartition("\t")[2]] == 1)
    with pytest.raises(FactsError, match=f'the kernel lets nobody probe "{name}"'):
        facts.function(name)


def test_functions_by_pattern(facts: NodeFacts) -> None:
    found = facts.functions_like("^vfs_(read|write)$")
    assert found == ("vfs_read", "vfs_write")
    assert set(facts.functions_like("fs_writ")) > {"vfs_write"}
    assert facts.functions_like("^no_such_function$") == ()


def test_lsm_hooks(facts: NodeFacts) -> None:
    found = facts.lsm_hook("file_open")
    assert found.name == "bpf_lsm_file_open"
    assert found.prototype is not None
    assert len(found.prototype.parameters) == 1
    with pytest.raises(NoFunctionError, match=r"no LSM hook .*, did you mean file_open\?"):
        facts.lsm_hook("file_opem")


def test_what_this_kernel_can_do(facts: NodeFacts) -> None:
    """A guest's is booted with the security module `bpf`, and has everything but bpf_override_return."""
    found = facts.abilities()
    assert (found.kprobe, found.fentry, found.fmod_ret, found.lsm) == ("", "", "", "")
    assert found.preemptible == read_preemptible()


def test_preemption_is_what_the_kernel_says_of_itself(facts: NodeFacts) -> None:
    try:
        chosen = re.search(r"\((\w+)\)", read_special("debugfs", "sched/preempt").decode())
    except KernelError:
        assert facts.abilities().preemptible == ("PREEMPT" in os.uname().version)
        return
    assert chosen is not None
    assert facts.abilities().preemptible == (chosen[1] in ("full", "lazy"))


def test_functions_that_cannot_be_overridden(facts: NodeFacts) -> None:
    refusal = facts.override_refusal("security_file_open")
    if override_program_refusal():
        assert "CONFIG_BPF_KPROBE_OVERRIDE=y" in refusal
    else:
        assert "error_injection/list" in refusal
        assert facts.override_refusal("__x64_sys_lseek") == ""


def test_nothing_stays_mounted(facts: NodeFacts) -> None:
    before = read_mounts()
    facts.release()
    assert facts.function("vfs_read").name == "vfs_read"
    read_special("securityfs", "lsm")
    assert read_mounts() == before


def resolved(facts: NodeFacts, hook: Hook) -> PointKind:
    policy = Policy(PolicyKind.CLUSTER, "p", None, (hook,), WorkloadSelector(), PLACE, "")
    return resolve_policy(policy, facts)[0].point.kind


def test_what_hooks_are_attached_to(facts: NodeFacts) -> None:
    """The cheapest where the kernel cannot be preempted, what misses nothing where it can."""
    preemptible = facts.abilities().preemptible
    permission = make_hook(HookKind.KPROBE, "security_file_permission", Arg(0, ArgType.FILE), Arg(1, ArgType.INT))
    overriding = Selector(actions=(Action(ActionKind.OVERRIDE, error=1),))
    assert resolved(facts, permission) is (PointKind.KPROBE if preemptible else PointKind.FENTRY)
    blocked = replace(permission, selectors=(overriding,))
    assert resolved(facts, blocked) is (PointKind.LSM if preemptible else PointKind.FMOD_RET)
    lseek = make_hook(HookKind.SYSCALL, "lseek", Arg(0, ArgType.FD))
    assert resolved(facts, lseek) is (PointKind.SYSCALL if preemptible else PointKind.SYSCALL_FENTRY)
    assert resolved(facts, make_hook(HookKind.LSM, "file_open", Arg(0, ArgType.FILE))) is PointKind.LSM
    refused = replace(make_hook(HookKind.KPROBE, "tcp_sendmsg"), selectors=(overriding,))
    with pytest.raises(PolicyErrors, match="Override is not possible on"):
        resolved(facts, refused)


@pytest.mark.parametrize(
    ("call", "types"),
    [
        ("security_bprm_creds_from_file", (ArgType.NOP, ArgType.FILE)),
        ("commit_creds", (ArgType.CRED,)),
        ("tcp_connect", (ArgType.SOCK,)),
        ("security_file_open", (ArgType.FILE,)),
        ("security_capable", (ArgType.CRED, ArgType.USER_NAMESPACE, ArgType.CAPABILITY)),
        ("bpf_prog_load", (ArgType.BPF_ATTR,)),
        ("vfs_write", (ArgType.FILE, ArgType.NOP, ArgType.SIZE_T)),
        ("ip_output", (ArgType.NOP, ArgType.SOCK, ArgType.SKB)),
        ("dev_get_by_name", (ArgType.NOP, ArgType.STRING)),
        ("security_socket_connect", (ArgType.SOCKET, ArgType.SOCKADDR, ArgType.INT)),
    ],
)
def test_arguments_that_policies_declare(facts: NodeFacts, call: str, types: tuple[ArgType, ...]) -> None:
    args = [Arg(number, kind) for number, kind in enumerate(types)]
    assert resolved(facts, make_hook(HookKind.KPROBE, call, *args)) in (PointKind.FENTRY, PointKind.KPROBE)
