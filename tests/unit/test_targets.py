# SPDX-License-Identifier: Apache-2.0
"""What programs of each kind are loaded as, and for which function of BTF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from agent.kernel import bpf, targets
from agent.kernel.btf import Btf, Kind
from agent.kernel.errors import KernelError
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.loader import ProgramForm
from agent.kernel.targets import Targets
from agent.policy.access import TRAMPOLINES, HookPoint, PointKind
from agent.policy.codegen_unit import Side


class _Types:
    """A BTF with functions only."""

    def __init__(self, **functions: int) -> None:
        self._functions = functions

    def find(self, kind: Kind, name: str) -> int | None:
        return self._functions.get(name) if kind is Kind.FUNC else None


class _Source:
    """Counts what is read."""

    def __init__(self) -> None:
        self.reads: list[str] = []

    def kernel(self) -> Btf:
        self.reads.append("vmlinux")
        return cast(Btf, _Types(tcp_connect=7, bpf_lsm_file_open=8, __x64_sys_openat=9))

    def module(self, name: str) -> Btf:
        self.reads.append(name)
        return cast(Btf, _Types(ovl_open=100_001))


@pytest.fixture
def source() -> _Source:
    return _Source()


@pytest.fixture
def made(source: _Source) -> Targets:
    return Targets(cast(KernelBtf, source))


@pytest.mark.parametrize(
    ("kind", "name", "side", "form"),
    [
        (PointKind.FENTRY, "tcp_connect", Side.ENTER, (bpf.ProgType.TRACING, 24, 7)),
        (PointKind.FENTRY, "tcp_connect", Side.EXIT, (bpf.ProgType.TRACING, 25, 7)),
        (PointKind.FMOD_RET, "tcp_connect", Side.ENTER, (bpf.ProgType.TRACING, 26, 7)),
        (PointKind.FMOD_RET, "tcp_connect", Side.EXIT, (bpf.ProgType.TRACING, 25, 7)),
        (PointKind.SYSCALL_FENTRY, "openat", Side.ENTER, (bpf.ProgType.TRACING, 24, 9)),
        (PointKind.LSM, "file_open", Side.ENTER, (bpf.ProgType.LSM, 27, 8)),
    ],
)
def test_program_of_a_trampoline_is_for_its_function(
    made: Targets, kind: PointKind, name: str, side: Side, form: tuple[bpf.ProgType, int, int]
) -> None:
    assert made.form(HookPoint(kind, name), side) == ProgramForm(*form)


@pytest.mark.parametrize("kind", [kind for kind in PointKind if kind not in TRAMPOLINES])
def test_other_programs_are_for_any_place(made: Targets, source: _Source, kind: PointKind) -> None:
    assert made.form(HookPoint(kind, "tcp_connect"), Side.ENTER) == ProgramForm(targets.PROGRAM_TYPES[kind])
    assert source.reads == []


def test_ids_of_the_kernel_are_kept_and_its_btf_is_not(made: Targets, source: _Source) -> None:
    point = HookPoint(PointKind.FENTRY, "tcp_connect")
    with made:
        made.form(point, Side.ENTER)
        made.form(HookPoint(PointKind.LSM, "file_open"), Side.ENTER)
    with made:
        assert made.form(point, Side.EXIT).btf_id == 7
    assert source.reads == ["vmlinux"]


def test_program_of_a_module_has_its_btf_while_the_change_lasts(
    made: Targets, source: _Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = bpf.Fd(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    monkeypatch.setattr(targets, "module_btf", {"overlay": opened}.get)
    point = HookPoint(PointKind.FENTRY, "ovl_open", module="overlay")
    with made:
        forms = [made.form(point, side) for side in Side]
    (descriptor,) = {form.btf_fd for form in forms}
    assert forms == [ProgramForm(bpf.ProgType.TRACING, kind, 100_001, descriptor) for kind in (24, 25)]
    assert source.reads == ["overlay"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_module_without_btf_in_the_kernel_is_told(made: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "module_btf", lambda _name: None)
    with pytest.raises(KernelError, match="the kernel has no BTF of module overlay; load the module first"):
        made.form(HookPoint(PointKind.FENTRY, "ovl_open", module="overlay"), Side.ENTER)


def test_function_that_btf_does_not_have_is_told(made: Targets) -> None:
    with pytest.raises(KernelError, match=r"no function ksys_lseek in the BTF of vmlinux; .*by a kprobe only"):
        made.form(HookPoint(PointKind.FENTRY, "ksys_lseek"), Side.ENTER)
