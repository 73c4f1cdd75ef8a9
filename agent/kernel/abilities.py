# SPDX-License-Identifier: Apache-2.0
"""What programs can be attached to on this kernel: each is tried, by loading and attaching a program of a few
instructions, and taken down again.

A configuration option or a version number says nothing certain: distributions patch, hypervisors and lockdown refuse.
Why something is refused is said with what would make it work.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.instructions import (
    CALL,
    GET_CURRENT_PID_TGID,
    JUMP_UNEQUAL,
    MOVE,
    MOVE_CONSTANT,
    OVERRIDE_RETURN,
    RETURN_0,
    encode,
)
from agent.kernel.special_files import ReadSpecial, read_special
from agent.policy.facts import Abilities

KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
FUNCTION: Final = "security_file_open"  # an LSM hook's entry: kprobe, fentry and fmod_ret may attach there
LSM_FUNCTION: Final = "bpf_lsm_file_open"
BPF_TRACE_FENTRY: Final = 24  # enum bpf_attach_type
BPF_MODIFY_RETURN: Final = 26
BPF_LSM_MAC: Final = 27
_LOCKED = "the kernel refuses it to everybody (lockdown), or to this process, which needs CAP_BPF and CAP_PERFMON"
_TRAMPOLINES = "the kernel needs CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y and the JIT compiler of BPF"
_NO_OVERRIDE = "the kernel needs CONFIG_FUNCTION_ERROR_INJECTION=y and CONFIG_BPF_KPROBE_OVERRIDE=y"
_NOT_LISTED = "it is not among the functions that allow it, see error_injection/list of debugfs"

# r6 = context; if bpf_get_current_pid_tgid() is -1, which no thread has: bpf_override_return(r6, -1); return 0
_NEVER_OVERRIDE: Final = b"".join(
    (
        encode(MOVE, 6, 1),
        encode(CALL, immediate=GET_CURRENT_PID_TGID),
        encode(JUMP_UNEQUAL, 0, offset=3, immediate=-1),
        encode(MOVE, 1, 6),
        encode(MOVE_CONSTANT, 2, immediate=-1),
        encode(CALL, immediate=OVERRIDE_RETURN),
        RETURN_0,
    )
)


def try_kprobe() -> None:
    """Raises KernelError."""
    with _hinted(), bpf.load_program(bpf.ProgType.KPROBE, RETURN_0, "pg_probe") as program:
        _attach_kprobe(program, FUNCTION)


def try_tracing(function: int, attach_type: int) -> None:
    """function: the id of FUNCTION in the kernel's BTF. Raises KernelError."""
    with (
        _hinted(_TRAMPOLINES),
        bpf.load_program(bpf.ProgType.TRACING, RETURN_0, "pg_probe", attach_type, function) as program,
    ):
        bpf.open_raw_tracepoint("", program.fileno()).close()


def try_lsm(function: int, read: ReadSpecial = read_special) -> None:
    """function: the id of LSM_FUNCTION in the kernel's BTF. Loading is not enough: without `bpf` among the active
    security modules the hook is never called. Raises KernelError.
    """
    with (
        _hinted(f"{_TRAMPOLINES}, and CONFIG_BPF_LSM=y"),
        bpf.load_program(bpf.ProgType.LSM, RETURN_0, "pg_probe", BPF_LSM_MAC, function) as program,
    ):
        bpf.open_raw_tracepoint("", program.fileno()).close()
    active = read("securityfs", "lsm").decode(errors="replace").strip()
    if "bpf" not in active.split(","):
        raise KernelError("bpf is not among the active security modules", 0, f"boot with lsm={active},bpf")


@cache
def override_program_refusal() -> str:
    """Why no program may call bpf_override_return; "" when one may. Tried once."""
    return _reason(lambda: _load_override().close())


def override_refusal(function: str) -> str:
    """Why bpf_override_return is not possible on a function of this kernel; "" when it was tried and is."""
    return override_program_refusal() or _reason(lambda: _try_override(function))


def _try_override(function: str) -> None:
    with _load_override() as program:
        try:
            _attach_kprobe(program, function)
        except KernelError as error:
            if error.code == errno.EINVAL:
                raise KernelError(f"the kernel does not let {function} be overridden", 0, _NOT_LISTED) from error
            raise


def _load_override() -> bpf.Fd:
    with _hinted():
        try:
            return bpf.load_program(bpf.ProgType.KPROBE, _NEVER_OVERRIDE, "pg_probe")
        except KernelError as error:
            if error.code == errno.EINVAL:
                raise KernelError("no helper bpf_override_return", 0, _NO_OVERRIDE) from error
            raise


def _attach_kprobe(program: bpf.Fd, function: str) -> None:
    if not KPROBE_TYPE.exists():
        raise KernelError("no kprobe PMU", 0, "the kernel needs CONFIG_KPROBE_EVENTS=y")
    with bpf.open_kprobe_event(int(KPROBE_TYPE.read_text()), function) as event:
        bpf.link_perf_event(program.fileno(), event).close()


class _hinted:  # noqa: N801 - a context
    """Adds to a refusal what would make it work."""

    def __init__(self, hint: str = "") -> None:
        self._hint = hint

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KernelError) and error.code:
            hint = _LOCKED if error.code == errno.EPERM else self._hint
            words = "; ".join(filter(None, (error.hint, hint)))
            raise KernelError(error.operation, error.code, words) from error


@cache
def try_abilities(function: int | None, lsm_function: int | None) -> Abilities:
    """The two by their ids in the kernel's BTF; None: it has none. Tried once for each process. Of preemption nothing
    is said, for that can be changed while the kernel runs.
    """
    return Abilities(
        kprobe=_reason(try_kprobe),
        fentry=_of_btf(FUNCTION, function, lambda found: try_tracing(found, BPF_TRACE_FENTRY)),
        fmod_ret=_of_btf(FUNCTION, function, lambda found: try_tracing(found, BPF_MODIFY_RETURN)),
        lsm=_of_btf(LSM_FUNCTION, lsm_function, try_lsm),
    )


def _of_btf(name: str, found: int | None, attempt: Callable[[int], None]) -> str:
    return no_function(name) if found is None else _reason(lambda: attempt(found))


def no_function(name: str) -> str:
    """What is said where the kernel's BTF does not have a function that every kernel has which can do more."""
    option = "CONFIG_BPF_LSM=y and " if name == LSM_FUNCTION else ""
    return f"no function {name} in the kernel's BTF; the kernel needs {option}CONFIG_DEBUG_INFO_BTF=y"


def _reason(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (KernelError, OSError) as error:
        return str(error)
    return ""


def read_preemptible(read: ReadSpecial = read_special, version: str | None = None) -> bool:
    """Whether the kernel takes a processor away from a process that is in the kernel, by what it says of itself:
    `none (voluntary) full lazy` in debugfs, else its version. What it does not say is taken for yes.
    """
    try:
        text = read("debugfs", "sched/preempt").decode(errors="replace")
    except (KernelError, OSError):
        text = ""
    chosen = re.search(r"\((\w+)\)", text)
    if chosen:
        return chosen[1] not in ("none", "voluntary")
    return "PREEMPT" in (os.uname().version if version is None else version)
