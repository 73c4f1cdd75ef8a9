# SPDX-License-Identifier: Apache-2.0
"""What this node's kernel can do: each capability is tried, by loading and attaching a two-instruction program, and
taken down again.

A configuration option or a version number says nothing certain: distributions patch, hypervisors and lockdown refuse.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.abilities import (
    BPF_MODIFY_RETURN,
    BPF_TRACE_FENTRY,
    FUNCTION,
    LSM_FUNCTION,
    no_function,
    override_program_refusal,
    read_preemptible,
    try_kprobe,
    try_lsm,
    try_tracing,
)
from agent.kernel.btf import Btf, Kind
from agent.kernel.errors import KernelError
from agent.kernel.instructions import CALL, MOVE_CONSTANT, RETURN, RETURN_0, SEND_SIGNAL, encode
from agent.kernel.kernel_btf import KernelBtf, NoBtfError
from agent.kernel.mounts import BPFFS, cgroup2_root, ensure_bpffs, ensure_tracefs, release_bpffs, unmount
from agent.kernel.tracepoint import Side, Tracepoints

# r1 = 0; call bpf_send_signal; exit: the signal 0 asks whether one could be sent
_SIGNAL_0 = encode(MOVE_CONSTANT, 1) + encode(CALL, immediate=SEND_SIGNAL) + RETURN


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """needed: podgate does not run without it. detail: what it is for, or why it is not there."""

    name: str
    ok: bool
    needed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    needed: bool
    used_for: str
    attempt: Callable[[], None]


def probe_all(source: KernelBtf | None = None) -> list[ProbeResult]:
    """Every probe, in the order in which the agent needs them. Leaves nothing mounted or attached. source: where BTF
    is.
    """
    btf = _read_btf(source or KernelBtf())
    probes = [
        _Probe("bpf", True, "maps and programs", _try_bpf),
        _Probe("btf", True, "compiling against this kernel", lambda: _try_btf(btf)),
        _Probe("bpffs", True, "pins", _try_bpffs),
        _Probe("cgroup2", True, "telling containers apart", lambda: _ignore(cgroup2_root())),
        _Probe(
            "ring_buffer", True, "events", lambda: bpf.create_map(bpf.MapType.RINGBUF, 0, 0, 4096, "pg_probe").close()
        ),
        _Probe("raw_tracepoint", True, "bindings that follow cgroups, arming", _try_raw_tracepoint),
        _Probe("tracepoint", True, "system call hook points", _try_tracepoint),
        _Probe("send_signal", True, "Sigkill and Signal", _try_signal),
        _Probe("kprobe", False, "function hooks", try_kprobe),
        _Probe("fentry", False, "function hooks at a lower cost", lambda: _try_tracing(btf, BPF_TRACE_FENTRY)),
        _Probe("fmod_ret", False, "Override on security_ functions", lambda: _try_tracing(btf, BPF_MODIFY_RETURN)),
        _Probe("lsm", False, "LSM hooks", lambda: try_lsm(_function(btf, LSM_FUNCTION))),
        _Probe("override_return", False, "Override on system calls and other functions", _try_override),
        _Probe("no_preemption", False, "fentry in place of kprobes and tracepoints", _try_no_preemption),
    ]
    return [_run(probe) for probe in probes]


def _run(probe: _Probe) -> ProbeResult:
    try:
        probe.attempt()
    except (KernelError, OSError) as error:
        return ProbeResult(probe.name, False, probe.needed, f"{probe.used_for}: {error}")
    return ProbeResult(probe.name, True, probe.needed, probe.used_for)


def _ignore(_value: object) -> None:
    """The attempt is what counts."""


def _read_btf(source: KernelBtf) -> Btf | KernelError:
    try:
        return source.kernel()
    except NoBtfError as error:
        return error


def _try_btf(btf: Btf | KernelError) -> None:
    if isinstance(btf, KernelError):
        raise btf


def _function(btf: Btf | KernelError, name: str) -> int:
    if isinstance(btf, KernelError):
        raise btf
    found = btf.find(Kind.FUNC, name)
    if found is None:
        raise KernelError(no_function(name))
    return found


def _try_bpf() -> None:
    bpf.create_map(bpf.MapType.HASH, 8, 8, 1, "pg_probe").close()


def _try_bpffs() -> None:
    mounted = ensure_bpffs()
    path = BPFFS / f"podgate-probe-{os.getpid()}"
    try:
        with bpf.create_map(bpf.MapType.HASH, 8, 8, 1, "pg_probe") as fd:
            bpf.pin(fd.fileno(), str(path))
        path.unlink()
    finally:
        if mounted:
            release_bpffs()


def _try_raw_tracepoint() -> None:
    with bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, RETURN_0, "pg_probe") as program:
        bpf.open_raw_tracepoint("cgroup_mkdir", program.fileno()).close()


def _try_tracepoint() -> None:
    private = Path(tempfile.mkdtemp(prefix="podgate-probe-"))
    try:
        tracefs, mounted = ensure_tracefs(private)
        try:
            _attach_to_lseek(tracefs)
        finally:
            if mounted:
                unmount(tracefs)
    finally:
        private.rmdir()


def _attach_to_lseek(tracefs: Path) -> None:
    identifier = Tracepoints(tracefs).event_id("lseek", Side.ENTER)
    with (
        bpf.load_program(bpf.ProgType.TRACEPOINT, RETURN_0, "pg_probe") as program,
        bpf.open_tracepoint_event(identifier) as event,
    ):
        bpf.link_perf_event(program.fileno(), event).close()


def _try_signal() -> None:
    with bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, _SIGNAL_0, "pg_probe") as program:
        result = bpf.run_raw_tracepoint(program.fileno())
    if result:
        raise KernelError("bpf_send_signal", -result)


def _try_tracing(btf: Btf | KernelError, attach_type: int) -> None:
    try_tracing(_function(btf, FUNCTION), attach_type)


def _try_override() -> None:
    if refusal := override_program_refusal():
        raise KernelError(refusal)


def _try_no_preemption() -> None:
    """A program of fentry that is interrupted lets a call of another process by. So does, for kprobes and tracepoints,
    a process that is interrupted while it changes a map by bpf(2) (bpf_disable_instrumentation).
    """
    if read_preemptible():
        hint = "boot with preempt=voluntary or preempt=none, where the kernel has them"
        what = "fentry miss calls, and in rare moments kprobes and tracepoints"
        raise KernelError(f"the kernel can be preempted, which lets {what}", 0, hint)
