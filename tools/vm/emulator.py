# SPDX-License-Identifier: Apache-2.0
"""qemu of this release's backports, in CACHE/vm/qemu; its libraries and its BIOS are those of the release's own qemu.

The release's own, 7.2, translates a page of code while another processor writes to it, and keeps what was there before;
newer ones lock the page (tb_lock_page0 of accel/tcg). A kernel writes to its code whenever a program is attached, a
breakpoint first: guests ran into breakpoints that were gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.fetch_runtimes import read_codename, run
from tools.vm.packages import Package, fetch

PACKAGES = (Package("qemu-system-x86"), Package("qemu-system-common"), Package("qemu-system-data"))
# Of the package seabios.
BIOS = Path("/usr/share/seabios")
_PROGRAM, _DATA, _DONE = "usr/bin/qemu-system-x86_64", "usr/share/qemu", "VERSION"


@dataclass(frozen=True, slots=True)
class Emulator:
    """Where its packages are unpacked."""

    root: Path

    @property
    def command(self) -> tuple[str, ...]:
        """The program, and where it finds its files."""
        return (str(self.root / _PROGRAM), "-L", str(self.root / _DATA), "-L", str(BIOS))


def find_emulator(cache: Path) -> Emulator | None:
    """None when it has not been fetched yet."""
    root = cache / "vm/qemu"
    return Emulator(root) if (root / _DONE).is_file() else None


def fetch_emulator(cache: Path) -> Emulator:
    """Download and unpack it, if the cache does not have it. Raises VmError, FetchError."""
    if emulator := find_emulator(cache):
        return emulator
    suite = f"{read_codename()}-backports"
    print(f"vm: downloading qemu of {suite}", flush=True)
    emulator = Emulator(cache / "vm/qemu")
    fetch((suite,), PACKAGES, emulator.root)
    (emulator.root / _DONE).write_text(run([emulator.command[0], "--version"]))
    return emulator
