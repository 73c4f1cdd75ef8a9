# SPDX-License-Identifier: Apache-2.0
"""What a guest takes, whichever kernel it is: in the cache once, however many ask for it at the same time."""

from __future__ import annotations

from pathlib import Path

from tools.vm.crun import fetch_crun
from tools.vm.emulator import Emulator, fetch_emulator
from tools.vm.kernels import Kernel, fetch_kernel
from tools.vm.lock import hold
from tools.vm.override import NAME as OVERRIDE
from tools.vm.override import build_kernel

CRUN, QEMU = "crun", "qemu"


def get_emulator(cache: Path) -> Emulator:
    """From the cache or from Debian. Raises VmError, FetchError."""
    with hold(cache, QEMU):
        return fetch_emulator(cache)


def get_kernel(cache: Path, name: str) -> Kernel:
    """From the cache, from Debian, or built here. Raises VmError, FetchError."""
    with hold(cache, CRUN):
        fetch_crun(cache)
    with hold(cache, name):
        return build_kernel(cache) if name == OVERRIDE else fetch_kernel(cache, name)
