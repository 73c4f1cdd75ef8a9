# SPDX-License-Identifier: Apache-2.0
"""The program that uprobes and USDT probes are tried on: tests/support/programs/probed.c."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.names import project_dir

SOURCES = ("probed.c", "probed_other.c")


def build_probed(folder: Path, *flags: str) -> Path:
    """A position-independent program with its symbols and BTF, unless `flags` of gcc say otherwise."""
    sources = [project_dir() / "tests/support/programs" / name for name in SOURCES]
    target = folder / "probed"
    subprocess.run(["gcc", "-O1", "-gbtf", "-Wall", "-Wextra", "-Werror", *flags, "-o", target, *sources], check=True)
    return target
