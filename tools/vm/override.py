# SPDX-License-Identifier: Apache-2.0
"""The kernel `override`: Debian's 6.12 sources with function error injection, which none of Debian's own kernels has.

Built once into the cache, from the package linux-source-6.12 and the options of override.config: some 1,800 files,
about 15 minutes of processor time. It has no modules.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from tools.fetch_runtimes import read_codename, run
from tools.vm.errors import VmError
from tools.vm.kernels import Kernel, find_kernel, finish_kernel, kernel_folder
from tools.vm.packages import Package, fetch

NAME = "override"
SOURCE = Package("linux-source-6.12")
ARCHIVE = "usr/src/linux-source-6.12.tar.xz"
OPTIONS = Path(__file__).with_name("override.config")
_SETTING = re.compile(r"^(CONFIG_\w+)=(.+)$", re.MULTILINE)
_NO = "n"


def missing_options(wanted: str, found: str) -> list[str]:
    """What a .config does not have of the wanted settings: an option whose dependencies are not met goes silently."""
    have = dict(_SETTING.findall(found))
    return [f"{name}={value}" for name, value in _SETTING.findall(wanted) if have.get(name, _NO) != value]


def build_kernel(cache: Path) -> Kernel:
    """The kernel, built if the cache does not have it. Raises VmError, FetchError."""
    if kernel := find_kernel(cache, NAME):
        return kernel
    folder = kernel_folder(cache, NAME)
    print(f"vm: {NAME}: building a kernel, once; it takes about 15 minutes of processor time", flush=True)
    begin = time.monotonic()
    tree = _unpack_source(folder / "source")
    _configure(tree)
    run(["make", f"-j{os.cpu_count() or 1}", "vmlinux"], cwd=tree)
    # Without the debug information, of which BTF is made, and with the note that qemu boots by.
    run(["objcopy", "--strip-debug", str(tree / "vmlinux"), str(folder / "vmlinux")])
    release = run(["make", "-s", "kernelrelease"], cwd=tree).strip()
    shutil.rmtree(folder / "source")
    finish_kernel(folder, release)
    print(f"vm: {NAME}: Linux {release} was built in {(time.monotonic() - begin) / 60:.0f} minutes", flush=True)
    kernel = find_kernel(cache, NAME)
    if kernel is None:
        raise VmError(f"{folder} went away while it was prepared")
    return kernel


def _unpack_source(folder: Path) -> Path:
    """The source tree in a folder of its own."""
    release = read_codename()
    fetch((release, f"{release}-security"), [SOURCE], folder)
    run(["tar", "-xf", str(folder / ARCHIVE), "-C", str(folder)])
    (tree,) = folder.glob("linux-source-*")
    return tree


def _configure(tree: Path) -> None:
    """Raises VmError when an option did not survive."""
    run(["make", "tinyconfig"], cwd=tree)
    run(["scripts/kconfig/merge_config.sh", "-m", ".config", str(OPTIONS)], cwd=tree)
    run(["make", "olddefconfig"], cwd=tree)
    if missing := missing_options(OPTIONS.read_text(), (tree / ".config").read_text()):
        raise VmError(f"the kernel's sources do not take {', '.join(missing)}: see {OPTIONS}")
