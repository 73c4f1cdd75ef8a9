# SPDX-License-Identifier: Apache-2.0
"""What this node's kernel is: its tracepoints, from tracefs, and its types, from BTF.

BTF is read when it is first asked for and given up by `release`: a running kernel has megabytes of it, and the agent
has no use for it between two changes of policies. Hold one RunningKernel for a batch of policies, not for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from agent.kernel.btf import Btf, BtfError
from agent.kernel.btf_format import MAX_BTF_BYTES, merge
from agent.kernel.btf_types import RAW_PREFIX, BtfTypes
from agent.kernel.formats import MAX_FORMAT_BYTES, parse_fields
from agent.policy.facts import FactsError, RawTracepoint, RecordField, Types
from agent.policy.syscalls import kernel_name

BTF_DIR: Final = Path("/sys/kernel/btf")
KERNEL: Final = "vmlinux"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ARGUMENTS: Final = "__syscall_nr"


class RunningKernel:
    """Implements `agent.policy.facts.Facts`. Not for several threads at a time."""

    def __init__(self, tracefs: Path, btf_dir: Path = BTF_DIR) -> None:
        """`tracefs`: where it is mounted."""
        self._events = tracefs / "events"
        self._btf_dir = btf_dir
        self._btf: dict[str, BtfTypes] = {}
        self._formats: dict[str, tuple[RecordField, ...] | None] = {}
        self._names: frozenset[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give up what was read. It is read again when it is asked for."""
        self._btf.clear()
        self._formats.clear()
        self._names = None

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
        module = self._module_of(RAW_PREFIX + event) if found is None else None
        return found if module is None else self._module_types(module).raw_tracepoint(event)

    def raw_tracepoint_names(self) -> Iterable[str]:
        """See `Facts.raw_tracepoint_names`."""
        return self._kernel_types().raw_tracepoint_names()

    def types(self, module: str = "") -> Types:
        """See `Facts.types`."""
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
            self._btf[KERNEL] = self._parse(self._read_btf(KERNEL), KERNEL)
        return self._btf[KERNEL]

    def _module_types(self, module: str) -> BtfTypes:
        if not _NAME.fullmatch(module):
            raise FactsError(f"{module!r} is no module's name", "write it as lsmod does")
        if module not in self._btf:
            split = self._read_btf(module)
            try:
                self._btf[module] = self._parse(merge(self._read_btf(KERNEL), split), module)
            except BtfError as error:
                raise self._unreadable(module, error) from error
        return self._btf[module]

    def _module_of(self, name: str) -> str | None:
        """The module whose BTF has this name."""
        for path in sorted(self._btf_dir.iterdir()):
            if path.name != KERNEL and b"\0" + name.encode() + b"\0" in self._read_btf(path.name):
                return path.name
        return None

    def _parse(self, data: bytes, name: str) -> BtfTypes:
        try:
            return BtfTypes(Btf.parse(data))
        except BtfError as error:
            raise self._unreadable(name, error) from error

    def _read_btf(self, name: str) -> bytes:
        path = self._btf_dir / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BTF_BYTES + 1)
        except FileNotFoundError as error:
            advice = "load the module" if name != KERNEL else "use a kernel with CONFIG_DEBUG_INFO_BTF=y"
            raise FactsError(f"there is no BTF of {name}", f"{advice}, or leave out what needs types") from error
        except OSError as error:
            raise FactsError(f"{path}: {error.strerror}", "the agent needs to read BTF") from error
        if len(data) > MAX_BTF_BYTES:
            raise FactsError(f"{path} has more than {MAX_BTF_BYTES:,} bytes", "report the kernel's version")
        return data

    def _unreadable(self, name: str, error: BtfError) -> FactsError:
        return FactsError(f"{self._btf_dir / name} cannot be read: {error}", "report the kernel's version")
