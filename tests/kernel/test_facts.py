# SPDX-License-Identifier: Apache-2.0
"""What this machine's own tracefs and BTF say, and policies resolved against them."""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel.mounts import ensure_tracefs, unmount
from agent.kernel.node_facts import NodeFacts
from agent.policy.access import InputKind, PointHook, Value
from agent.policy.errors import PolicyErrors, Problems
from agent.policy.facts import Shape
from agent.policy.model import Arg, ArgType, Hook, HookKind
from agent.policy.resolve import resolve_hook
from agent.policy.resolve_btf import spell
from agent.policy.resolve_call import FILLED
from agent.policy.syscalls import NUMBERS
from tests.support.resolving import make_hook, task

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

# What a distribution's kernel has: 3.6 MB of records and 2.4 MB of names, four bytes of index for each type.
MAX_USED_KB = 40 << 10
# What malloc keeps to itself afterwards.
MAX_KEPT_KB = 8 << 10


@pytest.fixture(scope="module")
def facts() -> Iterator[NodeFacts]:
    with tempfile.TemporaryDirectory(prefix="podgate-test-") as folder:
        point, mounted = ensure_tracefs(Path(folder) / "tracing")
        with NodeFacts(point) as node:
            yield node
        if mounted:
            unmount(point)


def resolve(facts: NodeFacts, hook: Hook) -> tuple[PointHook, ...]:
    problems = Problems()
    found = resolve_hook(hook, 0, facts, problems)
    problems.check()
    return found


def value_of(facts: NodeFacts, kind: HookKind, call: str, arg: Arg) -> Value:
    ((_, value),) = resolve(facts, make_hook(kind, call, arg))[0].args
    assert value is not None
    return value


def test_every_argument_of_every_system_call(facts: NodeFacts) -> None:
    """Each has a type of its own, unless the call writes it, and those after the last are refused."""
    counted = 0
    for name in NUMBERS:
        fields = facts.syscall(name)
        for place in range(len(fields or ())):
            if (name, place) in FILLED:
                continue
            assert value_of(facts, HookKind.SYSCALL, name, Arg(place, ArgType.AUTO)).read.input.number == place
            counted += 1
        if fields is not None:
            with pytest.raises(PolicyErrors, match="no argument"):
                value_of(facts, HookKind.SYSCALL, name, Arg(len(fields), ArgType.INT))
    assert counted > 800


def test_every_field_of_every_tracepoint(facts: NodeFacts) -> None:
    """A value or a reason; a number where the kernel has one."""
    counted = 0
    for name in sorted(facts.tracepoint_names()):
        fields = facts.tracepoint(name)
        assert fields, name
        for place, field in enumerate(fields):
            if field.offset < 8 or (field.is_array and not field.size):
                continue
            if (name.removeprefix("syscalls/sys_enter_"), place - 5) in FILLED:
                continue
            try:
                value = value_of(facts, HookKind.TRACEPOINT, name, Arg(place, ArgType.AUTO))
            except PolicyErrors as errors:
                pytest.fail(f"{name} {field}: {errors}")
            scalar = not (field.is_array or field.is_dynamic or field.is_pointer)
            assert value.type.is_number or not scalar, (name, field)
            counted += 1
    assert counted > 5000


def test_every_parameter_of_every_raw_tracepoint(facts: NodeFacts) -> None:
    names = {name.partition("/")[2]: name for name in facts.tracepoint_names()}
    counted = 0
    for event in sorted(facts.raw_tracepoint_names()):
        found = facts.raw_tracepoint(event)
        assert found is not None, event
        for place, parameter in enumerate(found.parameters):
            shape = found.types.describe(parameter.type_id).shape
            if shape in (Shape.STRUCT, Shape.UNION):
                continue  # by value
            try:
                arg = Arg(place, ArgType.AUTO)
                value_of(facts, HookKind.RAW_TRACEPOINT, names.get(event, f"any/{event}"), arg)
            except PolicyErrors as errors:
                pytest.fail(f"{event} {spell(found.types, parameter.type_id)}: {errors}")
            counted += 1
    assert counted > 2000


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("pid", ArgType.INT32),
        ("comm", ArgType.CHAR_BUF),
        ("real_parent.comm", ArgType.CHAR_BUF),
        ("mm.exe_file", ArgType.FILE),
        ("mm.exe_file.f_path", ArgType.PATH),
        ("mm.exe_file.f_path.dentry.d_name.len", ArgType.UINT32),
        ("mm.exe_file.f_inode.i_ino", ArgType.UINT64),
        ("cred.uid.val", ArgType.UINT32),
        ("cred.cap_effective", ArgType.KERNEL_CAP_T),
        ("cred.user_ns", ArgType.USER_NAMESPACE),
        ("nsproxy.uts_ns.name.nodename[0]", ArgType.UINT8),
        ("nsproxy.uts_ns.name.nodename", ArgType.CHAR_BUF),
        ("files.fdt.fd[1].f_mode", ArgType.UINT32),
        ("sched_reset_on_fork", ArgType.UINT32),
        ("real_parent.real_parent.real_parent.real_parent.real_parent.real_parent.tgid", ArgType.INT32),
    ],
)
def test_members_of_the_task(facts: NodeFacts, path: str, kind: ArgType) -> None:
    hook = replace(make_hook(HookKind.SYSCALL, "getpid"), data=(task(path),))
    ((_, value),) = resolve(facts, hook)[0].data
    assert value is not None
    assert value.type is kind
    assert value.read.input.kind is InputKind.TASK


def test_members_of_sockets_and_structures(facts: NodeFacts) -> None:
    state = Arg(0, ArgType.AUTO, resolve=("__sk_common", "skc_family"))
    assert value_of(facts, HookKind.RAW_TRACEPOINT, "sock/inet_sock_set_state", state).type is ArgType.UINT16
    port = Arg(0, ArgType.UINT16, resolve=("inet_sport",), btf_type="inet_sock")
    assert value_of(facts, HookKind.RAW_TRACEPOINT, "sock/inet_sock_set_state", port).read.size == 2
    family = Arg(1, ArgType.UINT16, resolve=("sin_family",), btf_type="sockaddr_in")
    assert value_of(facts, HookKind.SYSCALL, "connect", family).read.offsets == (0,)


def test_suggestions_of_this_kernel(facts: NodeFacts) -> None:
    def message(kind: HookKind, call: str, *args: Arg) -> str:
        with pytest.raises(PolicyErrors) as caught:
            resolve(facts, make_hook(kind, call, *args))
        return str(caught.value)

    assert "did you mean sched/sched_process_exec?" in message(HookKind.TRACEPOINT, "sched/sched_proces_exec")
    assert "did you mean sched/sched_process_exec?" in message(HookKind.RAW_TRACEPOINT, "shed/sched_process_exec")
    wrong = Arg(0, ArgType.INT, resolve=("pdi",), btf_type="task_strct")
    assert "did you mean task_struct?" in message(HookKind.RAW_TRACEPOINT, "sched/sched_process_exec", wrong)


def test_events_of_ftrace_take_no_programs(facts: NodeFacts) -> None:
    assert facts.tracepoint("ftrace/function") is None
    assert not any(name.startswith("ftrace/") for name in facts.tracepoint_names())


def _resident_kb() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_memory_is_given_back(facts: NodeFacts) -> None:
    """However often the types are read."""
    facts.release()
    facts.types().find("task_struct")
    facts.release()
    gc.collect()
    before = _resident_kb()
    for _ in range(5):
        facts.types().find("task_struct")
        assert set(facts.types().names())
        assert _resident_kb() - before < MAX_USED_KB
        facts.release()
        gc.collect()
    assert _resident_kb() - before < MAX_KEPT_KB
