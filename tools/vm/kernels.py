# SPDX-License-Identifier: Apache-2.0
"""The kernels that the tests run under, in CACHE/vm/NAME: `vmlinux`, and `root` with the modules."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.fetch_runtimes import run
from tools.vm.errors import VmError
from tools.vm.image import unpack_image
from tools.vm.packages import Package, Suites, mirror_of, same_source, scratch, unpack

# The one with 9P; Debian's cloud kernels are without it.
META = Package("linux-image-amd64")
# Written last: a kernel without it is not complete.
_RELEASE_FILE = "RELEASE"

# By what `make test-vm KERNEL=` calls them: the suites whose newest linux-image-amd64 it is.
SUITES: Mapping[str, tuple[str, ...]] = {
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("trixie", "trixie-security"),
    "7.x": ("trixie-backports",),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel in the cache. modules: its /lib/modules/RELEASE, None when it has none."""

    name: str
    release: str
    image: Path
    modules: Path | None


def kernel_folder(cache: Path, name: str) -> Path:
    """Where a kernel's files are."""
    return cache / "vm" / name


def find_kernel(cache: Path, name: str) -> Kernel | None:
    """None when it has not been made yet."""
    folder = kernel_folder(cache, name)
    stamp = folder / _RELEASE_FILE
    if not stamp.is_file():
        return None
    release = stamp.read_text().strip()
    modules = folder / "root/lib/modules" / release
    return Kernel(name, release, folder / "vmlinux", modules if modules.is_dir() else None)


def finish_kernel(folder: Path, release: str) -> None:
    """Says that a kernel's files are all there."""
    (folder / _RELEASE_FILE).write_text(f"{release}\n")


def fetch_kernel(cache: Path, name: str) -> Kernel:
    """Download and unpack one of SUITES, if the cache does not have it. Raises VmError, FetchError."""
    if kernel := find_kernel(cache, name):
        return kernel
    folder = kernel_folder(cache, name)
    print(f"vm: {name}: downloading Debian's kernel of {SUITES[name][0]}", flush=True)
    with scratch() as private:
        suites = Suites(Path(private), SUITES[name], mirror_of)
        unpack(suites.download(same_source(META, suites.depends)), folder / "root")
    _prepare(folder)
    kernel = find_kernel(cache, name)
    if kernel is None:
        raise VmError(f"{folder} went away while it was prepared")
    return kernel


def _prepare(folder: Path) -> None:
    """From the packages' files to what a guest needs of them."""
    root = folder / "root"
    _merge_usr(root)
    release, image = find_image(root)
    (folder / "vmlinux").write_bytes(unpack_image(image.read_bytes()))
    run(["depmod", "--basedir", str(root), release])
    finish_kernel(folder, release)


def find_image(root: Path) -> tuple[str, Path]:
    """The release and its image: in /boot, or with the modules since Debian's 7.x. Raises VmError."""
    for folder in (root / "lib/modules").glob("*"):
        for image in (root / "boot" / f"vmlinuz-{folder.name}", folder / "vmlinuz"):
            if image.is_file():
                return folder.name, image
    raise VmError(f"there is no kernel image for any of the modules in {root}: its packages are laid out anew")


def _merge_usr(root: Path) -> None:
    """Newer packages have their modules in /usr/lib, where /lib leads to on an installed system."""
    merged = root / "usr/lib/modules"
    if merged.is_dir():
        (root / "lib").mkdir(exist_ok=True)
        shutil.move(merged, root / "lib/modules")
