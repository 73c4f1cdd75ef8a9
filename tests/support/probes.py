# SPDX-License-Identifier: Apache-2.0
"""Capability probes: each tries what a group of tests needs, and says what is missing.

A test marked `kernel`, `container`, `vm` or `guest` is skipped with the probe's reason; REQUIRE=kernel,container,vm in
the environment turns those skips into failures.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.support import system
from tests.support.containerd_config import Runc, Runtime
from tests.support.names import cache_dir
from tools.vm.emulator import find_emulator

# bpf(2): the system call's number on x86_64, BPF_MAP_CREATE and BPF_MAP_TYPE_ARRAY.
SYS_BPF = 321
BPF_MAP_CREATE = 0
BPF_MAP_TYPE_ARRAY = 2
BTF = Path("/sys/kernel/btf/vmlinux")
CONTAINER_PROGRAMS = (
    Path("/usr/bin/gcc"),
    Path("/bin/busybox"),
    Path("/usr/bin/podman"),
    Path("/usr/bin/conmon"),
)
VM_PROGRAMS = ("busybox", "zstd", "depmod", "setpriv")


class _MapAttr(ctypes.Structure):
    """The head of union bpf_attr for BPF_MAP_CREATE (linux/bpf.h)."""

    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def probe_root() -> str | None:
    """None, or why this process may not do what root does."""
    return None if os.geteuid() == 0 else f"root is needed, this is uid {os.geteuid()}"


def probe_bpf() -> str | None:
    """Create a map and close it again."""
    attr = _MapAttr(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_BPF, BPF_MAP_CREATE, ctypes.byref(attr), ctypes.sizeof(attr))
    if fd < 0:
        return f"bpf(BPF_MAP_CREATE) is refused: {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return None


def probe_btf() -> str | None:
    """Read the first bytes of the kernel's own type information."""
    try:
        with BTF.open("rb") as btf:
            magic = btf.read(2)
    except OSError as error:
        return f"{BTF}: {error.strerror} (CONFIG_DEBUG_INFO_BTF)"
    return None if magic == b"\x9f\xeb" else f"{BTF} does not start with the BTF magic"


def probe_bcc() -> str | None:
    """Import bcc in a process of its own: LLVM is not to be loaded into the tests."""
    done = subprocess.run([sys.executable, "-c", "import bcc"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return f"bcc cannot be imported (package python3-bpfcc): {done.stderr.strip().splitlines()[-1]}"


def probe_mount(kind: str) -> str | None:
    """Mount a file system of this kind on a scratch directory and take it away again."""
    with tempfile.TemporaryDirectory(prefix="podgate-probe-") as folder:
        try:
            system.mount(kind, Path(folder), kind)
        except OSError as error:
            return f"{kind} cannot be mounted: {error.strerror}"
        system.unmount(folder)
    return None


def probe_programs() -> str | None:
    """The programs that a container node, of containerd or of podman, is made of."""
    daemons = [runtime.binaries / "containerd" for runtime in Runtime]
    runcs = [runc.path for runc in Runc]
    missing = [str(path) for path in (*CONTAINER_PROGRAMS, *daemons, *runcs) if not os.access(path, os.X_OK)]
    return f"not there (run `make setup`): {', '.join(missing)}" if missing else None


def probe_runc(runc: Runc) -> str | None:
    """Ask an OCI runtime for its version: the newer one needs the libraries beside it, at the place it was made for."""
    try:
        done = subprocess.run([runc.path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{runc.path} does not run: {error.strerror} (run `make setup`)"
    return None if done.returncode == 0 else f"{runc.path} does not run: {done.stderr.strip()} (run `make setup`)"


def probe_cgroup2() -> str | None:
    """A cgroup v2 hierarchy, pure or beside version 1."""
    mounts = Path("/proc/mounts").read_text()
    mounted = any(line.split(" ")[2] == "cgroup2" for line in mounts.splitlines())
    return None if mounted else "no cgroup2 hierarchy is mounted"


def probe_guest() -> str | None:
    """Whether this is a guest of `make test-vm`, by the word that it has on its kernel's command line."""
    inside = "podgate.guest" in Path("/proc/cmdline").read_text().split()
    return None if inside else "this is no guest of `make test-vm`, with a kernel and cgroups of its own"


def probe_qemu() -> str | None:
    """The emulator, and what a guest is put together of."""
    missing = [program for program in VM_PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not there (run `tools/setup vm`): {', '.join(missing)}"
    return None if find_emulator(cache_dir()) else f"no qemu in {cache_dir() / 'vm'} (run `make test-vm`)"


def probe_kernels() -> str | None:
    """A kernel in the cache, whichever."""
    if any((cache_dir() / "vm").glob("*/RELEASE")):
        return None
    return f"no kernel in {cache_dir() / 'vm'} (run `make test-vm`)"


Probe = Callable[[], str | None]
PROBES: Mapping[str, tuple[Probe, ...]] = {
    "kernel": (
        probe_root,
        probe_bpf,
        probe_btf,
        probe_bcc,
        lambda: probe_mount("bpf"),
        lambda: probe_mount("tracefs"),
    ),
    "container": (
        probe_root,
        probe_programs,
        lambda: probe_runc(Runc.SYSTEM),
        lambda: probe_runc(Runc.NEW),
        lambda: probe_mount("tmpfs"),
        probe_cgroup2,
    ),
    "vm": (probe_root, probe_qemu, probe_kernels),
    "guest": (probe_root, probe_guest),
}


def run_probe(name: str) -> str | None:
    """The first thing that is missing for the marker `name` of PROBES; None when the machine has everything."""
    return next((reason for probe in PROBES[name] if (reason := probe()) is not None), None)


def parse_require(text: str) -> frozenset[str]:
    """The marker names in REQUIRE, separated by commas; ValueError for a name that is no marker with a probe."""
    names = frozenset(filter(None, (name.strip() for name in text.split(","))))
    if unknown := names - PROBES.keys():
        raise ValueError(f"REQUIRE has {', '.join(sorted(unknown))}; known: {', '.join(PROBES)}")
    return names


class Action(Enum):
    """What to do with a test."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action and, unless the test is to run, the reason."""

    action: Action
    reason: str = ""


def judge(marker: str, missing: str | None, required: frozenset[str]) -> Verdict:
    """What becomes of a test with `marker`, given what its probe found missing."""
    if missing is None:
        return Verdict(Action.RUN)
    return Verdict(Action.FAIL if marker in required else Action.SKIP, f"{marker}: {missing}")
