# SPDX-License-Identifier: Apache-2.0
"""What this node's kernel is: its tracepoints, from tracefs, its types, from BTF, and its functions.

BTF is read when it is first asked for and given up by `release`: a running kernel has megabytes of it, and the agent
has no use for it between two changes of policies. Hold one RunningKernel for a batch of policies, not for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from agent.kernel.btf_objects import KERNEL
from agent.kernel.btf_types import RAW_PREFIX, BtfTypes
from agent.kernel.formats import MAX_FORMAT_BYTES, parse_fields
from agent.kernel.functions import KernelFunctions
from agent.kernel.kernel_btf import KernelBtf, NoBtfError
from agent.policy.facts import Abilities, FactsError, KernelFunction, RawTracepoint, RecordField, Types
from agent.policy.syscalls import kernel_name

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ARGUMENTS: Final = "__syscall_nr"


class RunningKernel:
    """Implements `agent.policy.facts.Facts`. Not for several threads at a time."""

    def __init__(self, tracefs: Path, btf: KernelBtf | None = None) -> None:
        """`tracefs`: where it is mounted. btf: the agent's, which knows where its records are."""
        self._tracefs = tracefs
        self._events = tracefs / "events"
        self._source = btf or KernelBtf()
        self._btf: dict[str, BtfTypes] = {}
        self._formats: dict[str, tuple[RecordField, ...] | None] = {}
        self._names: frozenset[str] | None = None
        self._functions: KernelFunctions | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give up what was read. It is read again when it is asked for."""
        self._btf.clear()
        self._formats.clear()
        self._names = None
        self._functions = None

    def syscall(self, name: str) -> tuple[RecordField, ...] | None:
        """See `Facts.syscall`."""
        if not (self._events / "syscalls").is_dir():
            raise FactsError(
                f"there are no tracepoints of system calls in {self._events}",
                "mount tracefs, and use a kernel with CONFIG_FTRACE_SYSCALLS=y",
            )
        fields = self.tracepoint(f"syscalls/sys_enter_{kernel_name(name)}")
        if fields is None:
            return None
        names = [field.name for field in fields]
        if _ARGUMENTS not in names:
            raise FactsError(f"the format of sys_enter_{name} is not known", "report the kernel's version")
        # Later kernels add copies of texts (`__data_loc`) behind the arguments.
        return tuple(field for field in fields[names.index(_ARGUMENTS) + 1 :] if not field.is_dynamic)

    def tracepoint(self, name: str) -> tuple[RecordField, ...] | None:
        """See `Facts.tracepoint`."""
        if name not in self._formats:
            self._formats[name] = self._read_format(name)
        return self._formats[name]

    def tracepoint_names(self) -> Iterable[str]:
        """See `Facts.tracepoint_names`. Events of ftrace itself, which take no programs, have no `enable`."""
        if self._names is None:
            found = self._events.glob("*/*/enable")
            self._names = frozenset(f"{path.parent.parent.name}/{path.parent.name}" for path in found)
        return self._names

    def raw_tracepoint(self, event: str) -> RawTracepoint | None:
        """See `Facts.raw_tracepoint`. What the kernel does not have may be one of a module's."""
        found = self._kernel_types().raw_tracepoint(event)
        return self._module_raw_tracepoint(event) if found is None else found

    def raw_tracepoint_names(self) -> Iterable[str]:
        """See `Facts.raw_tracepoint_names`."""
        return self._kernel_types().raw_tracepoint_names()

    def types(self, module: str = "") -> Types:
        """See `Facts.types`."""
        return self._types(module)

    def function(self, name: str) -> KernelFunction:
        """See `Facts.function`."""
        return self._kernel_functions().function(name)

    def functions_like(self, pattern: str) -> tuple[str, ...]:
        """See `Facts.functions_like`."""
        return self._kernel_functions().functions_like(pattern)

    def lsm_hook(self, name: str) -> KernelFunction:
        """See `Facts.lsm_hook`."""
        return self._kernel_functions().lsm_hook(name)

    def abilities(self) -> Abilities:
        """See `Facts.abilities`."""
        return self._kernel_functions().abilities

    def override_refusal(self, function: str) -> str:
        """See `Facts.override_refusal`."""
        return self._kernel_functions().override_refusal(function)

    def _kernel_functions(self) -> KernelFunctions:
        if self._functions is None:
            self._functions = KernelFunctions(self._tracefs, self._types)
        return self._functions

    def _types(self, module: str) -> BtfTypes:
        return self._module_types(module) if module and module != KERNEL else self._kernel_types()

    def _read_format(self, name: str) -> tuple[RecordField, ...] | None:
        subsystem, _, event = name.partition("/")
        if not _NAME.fullmatch(subsystem) or not _NAME.fullmatch(event):
            return None
        folder = self._events / subsystem / event
        if not (folder / "enable").exists():
            return None
        try:
            with (folder / "format").open(errors="replace") as file:
                return parse_fields(file.read(MAX_FORMAT_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FactsError(f"{folder}/format: {error.strerror}", "the agent needs to read tracefs") from error

    def _kernel_types(self) -> BtfTypes:
        if KERNEL not in self._btf:
            try:
                self._btf[KERNEL] = BtfTypes(self._source.kernel())
            except NoBtfError as error:
                raise _facts_error(error) from error
        return self._btf[KERNEL]

    def _module_types(self, module: str) -> BtfTypes:
        if not _NAME.fullmatch(module):
            raise FactsError(f"{module!r} is no module's name", "write it as lsmod does")
        if module not in self._btf:
            self._kernel_types()
            try:
                self._btf[module] = BtfTypes(self._source.module(module))
            except NoBtfError as error:
                raise _facts_error(error) from error
        return self._btf[module]

    def _module_raw_tracepoint(self, event: str) -> RawTracepoint | None:
        """The first module's that has it. One with damaged BTF is in nobody's way, unless the name is only there."""
        word = f"{RAW_PREFIX}{event}".encode() + b"\0"
        fault: FactsError | None = None
        for module in self._modules_with(word):
            try:
                found = self._module_types(module).raw_tracepoint(event)
            except FactsError as error:
                fault = error
                continue
            if found is not None:
                return found
        if fault is not None:
            raise fault
        return None

    def _modules_with(self, word: bytes) -> list[str]:
        try:
            return [each for each in self._source.modules() if word in self._source.read_module(each)]
        except NoBtfError as error:
            raise _facts_error(error) from error


def _facts_error(error: NoBtfError) -> FactsError:
    return FactsError(str(NoBtfError(error.operation, error.code)), error.hint)
