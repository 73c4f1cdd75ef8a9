# SPDX-License-Identifier: Apache-2.0
"""What programs of a hook point's side are loaded as: their type, and the one function that programs of trampolines are
for, as the kernel's BTF numbers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from agent.kernel import bpf
from agent.kernel.btf import Btf, Kind
from agent.kernel.btf_objects import KERNEL, module_btf
from agent.kernel.errors import KernelError
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.loader import ProgramForm
from agent.policy.access import TRAMPOLINES, HookPoint, PointKind
from agent.policy.codegen_unit import Side, form_kind

TRACE_FENTRY, TRACE_FEXIT, MODIFY_RETURN, LSM_MAC = 24, 25, 26, 27  # enum bpf_attach_type

PROGRAM_TYPES: Mapping[PointKind, bpf.ProgType] = {
    PointKind.SYSCALL: bpf.ProgType.TRACEPOINT,
    PointKind.SYSCALL_FENTRY: bpf.ProgType.TRACING,
    PointKind.SYSCALL_KPROBE: bpf.ProgType.KPROBE,
    PointKind.SYSCALL_OVERRIDE: bpf.ProgType.KPROBE,
    PointKind.TRACEPOINT: bpf.ProgType.TRACEPOINT,
    PointKind.RAW_TRACEPOINT: bpf.ProgType.RAW_TRACEPOINT,
    PointKind.UPROBE: bpf.ProgType.KPROBE,
    PointKind.USDT: bpf.ProgType.KPROBE,
    PointKind.KPROBE: bpf.ProgType.KPROBE,
    PointKind.OVERRIDE: bpf.ProgType.KPROBE,
    PointKind.FENTRY: bpf.ProgType.TRACING,
    PointKind.FMOD_RET: bpf.ProgType.TRACING,
    PointKind.LSM: bpf.ProgType.LSM,
}
# Which map of agent/kernel/layout.py has the slots of hook points that share one: a PROG_ARRAY takes programs of one
# type. The others' are those of point_arrays.py.
SLOT_MAPS: Mapping[bpf.ProgType, str] = {
    bpf.ProgType.TRACEPOINT: "slots",
    bpf.ProgType.RAW_TRACEPOINT: "slots_raw",
    bpf.ProgType.KPROBE: "slots_probe",
}
ATTACH_TYPES: Mapping[tuple[PointKind, Side], int] = {
    (PointKind.SYSCALL_FENTRY, Side.ENTER): TRACE_FENTRY,
    (PointKind.FENTRY, Side.ENTER): TRACE_FENTRY,
    (PointKind.FENTRY, Side.EXIT): TRACE_FEXIT,
    (PointKind.FMOD_RET, Side.ENTER): MODIFY_RETURN,
    (PointKind.FMOD_RET, Side.EXIT): TRACE_FEXIT,
    (PointKind.LSM, Side.ENTER): LSM_MAC,
}


class Targets:
    """A context: BTF is read when the first function is asked for, and given up at its end. Not for several threads at
    a time. btf: the agent's, which knows where its records are.
    """

    def __init__(self, btf: KernelBtf | None = None) -> None:
        self._source = btf or KernelBtf()
        self._kernel_ids: dict[str, int] = {}  # they are the same for as long as the kernel runs
        self._btf: dict[str, Btf] = {}
        self._modules: dict[str, bpf.Fd] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def form(self, point: HookPoint, side: Side) -> ProgramForm:
        """Of the programs on one side of a hook point; a module's BTF stays open until `release`. Raises KernelError
        when BTF does not have the function.
        """
        kind = form_kind(point, side)
        program = PROGRAM_TYPES[kind]
        if kind not in TRAMPOLINES:
            return ProgramForm(program)
        attach_type = ATTACH_TYPES[point.kind, side]
        if not point.module:
            return ProgramForm(program, attach_type, self._kernel_id(point.function))
        found = self._find(point.module, point.function)
        return ProgramForm(program, attach_type, found, self._module(point.module).fileno())

    def release(self) -> None:
        """Gives up what was read and opened."""
        self._btf.clear()
        for fd in self._modules.values():
            fd.close()
        self._modules.clear()

    def _kernel_id(self, function: str) -> int:
        if function not in self._kernel_ids:
            self._kernel_ids[function] = self._find(KERNEL, function)
        return self._kernel_ids[function]

    def _module(self, name: str) -> bpf.Fd:
        if name not in self._modules:
            found = module_btf(name)
            if found is None:
                raise KernelError(f"the kernel has no BTF of module {name}", 0, "load the module first")
            self._modules[name] = found
        return self._modules[name]

    def _find(self, owner: str, function: str) -> int:
        found = self._types(owner).find(Kind.FUNC, function)
        if found is None:
            hint = "programs can be attached to it by a kprobe only"
            raise KernelError(f"no function {function} in the BTF of {owner}", 0, hint)
        return found

    def _types(self, owner: str) -> Btf:
        if owner not in self._btf:
            self._btf[owner] = self._source.kernel() if owner == KERNEL else self._source.module(owner)
        return self._btf[owner]
