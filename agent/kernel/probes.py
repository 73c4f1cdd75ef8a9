# SPDX-License-Identifier: Apache-2.0
"""What this node's kernel can do: each capability is tried, by loading and attaching a two-instruction program, and
taken down again.

A configuration option or a version number says nothing certain: distributions patch, hypervisors and lockdown refuse.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.btf import Btf, BtfError, Kind
from agent.kernel.errors import KernelError
from agent.kernel.mounts import BPFFS, cgroup2_root, ensure_bpffs, ensure_tracefs, release_bpffs, unmount
from agent.kernel.tracepoint import Side, Tracepoints

BTF_PATH = Path("/sys/kernel/btf/vmlinux")
KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
FUNCTION = "security_file_open"  # an LSM hook's entry: kprobe, fentry and fmod_ret may attach there
LSM_FUNCTION = "bpf_lsm_file_open"
BPF_TRACE_FENTRY = 24  # enum bpf_attach_type
BPF_MODIFY_RETURN = 26
BPF_LSM_MAC = 27

_RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
# r1 = 0; call bpf_send_signal; exit: the signal 0 asks whether one could be sent
_SIGNAL_0 = (
    struct.pack("<BBhi", 0xB7, 1, 0, 0) + struct.pack("<BBhi", 0x85, 0, 0, 109) + struct.pack("<BBhi", 0x95, 0, 0, 0)
)


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


def probe_all() -> list[ProbeResult]:
    """Every probe, in the order in which the agent needs them. Leaves nothing mounted or attached."""
    btf = _read_btf()
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
        _Probe("kprobe", False, "function hooks (not supported yet)", _try_kprobe),
        _Probe("fentry", False, "function hooks (not supported yet)", lambda: _try_tracing(btf, BPF_TRACE_FENTRY)),
        _Probe("fmod_ret", False, "Override (not supported yet)", lambda: _try_tracing(btf, BPF_MODIFY_RETURN)),
        _Probe("lsm", False, "LSM hooks (not supported yet)", lambda: _try_lsm(btf)),
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


def _read_btf() -> Btf | KernelError:
    try:
        return Btf.parse(BTF_PATH.read_bytes())
    except (OSError, BtfError) as error:
        return KernelError(
            f"{BTF_PATH}: {error}", 0, "a kernel with CONFIG_DEBUG_INFO_BTF=y, or its headers in /lib/modules"
        )


def _try_btf(btf: Btf | KernelError) -> None:
    if isinstance(btf, KernelError) and not Path(f"/lib/modules/{os.uname().release}/build").exists():
        raise btf


def _function(btf: Btf | KernelError, name: str) -> int:
    if isinstance(btf, KernelError):
        raise btf
    found = btf.find(Kind.FUNC, name)
    if found is None:
        raise KernelError(f"no function {name} in BTF")
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
    with bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, _RETURN_0, "pg_probe") as program:
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
        bpf.load_program(bpf.ProgType.TRACEPOINT, _RETURN_0, "pg_probe") as program,
        bpf.open_tracepoint_event(identifier) as event,
    ):
        bpf.link_perf_event(program.fileno(), event).close()


def _try_signal() -> None:
    with bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, _SIGNAL_0, "pg_probe") as program:
        result = bpf.run_raw_tracepoint(program.fileno())
    if result:
        raise KernelError("bpf_send_signal", -result)


def _try_kprobe() -> None:
    if not KPROBE_TYPE.exists():
        raise KernelError("no kprobe PMU", 0, "the kernel needs CONFIG_KPROBE_EVENTS=y")
    with (
        bpf.load_program(bpf.ProgType.KPROBE, _RETURN_0, "pg_probe") as program,
        bpf.open_kprobe_event(int(KPROBE_TYPE.read_text()), FUNCTION) as event,
    ):
        bpf.link_perf_event(program.fileno(), event).close()


def _try_tracing(btf: Btf | KernelError, attach_type: int) -> None:
    function = _function(btf, FUNCTION)
    with bpf.load_program(bpf.ProgType.TRACING, _RETURN_0, "pg_probe", attach_type, function) as program:
        bpf.open_raw_tracepoint("", program.fileno()).close()


def _try_lsm(btf: Btf | KernelError) -> None:
    """Loading is not enough: without `bpf` among the active security modules the hook is never called."""
    function = _function(btf, LSM_FUNCTION)
    with bpf.load_program(bpf.ProgType.LSM, _RETURN_0, "pg_probe", BPF_LSM_MAC, function) as program:
        bpf.open_raw_tracepoint("", program.fileno()).close()
    active = Path("/sys/kernel/security/lsm")
    if active.exists() and "bpf" not in active.read_text().split(","):
        raise KernelError("bpf is not an active security module", 0, "boot with lsm=…,bpf")
