# SPDX-License-Identifier: Apache-2.0
"""Where the agents have pinned their programs and maps: the one that runs, and earlier ones that are in force still.

A starting agent moves what an earlier one left to PIN_DIR-previous/NUMBER, and takes it down when its own rules hold.
"""

import os
from collections.abc import Iterator
from pathlib import Path

DEFAULT_PIN_DIR = Path("/sys/fs/bpf/podgate")


def iterate_generations(pin_dir: Path) -> Iterator[Path]:
    """Every generation's directory. Each may be missing, or go at any time; OSError when the list cannot be read.

    The earlier ones are listed after the caller is done with the first: one that moves meanwhile is met twice and not
    missed.
    """
    yield pin_dir
    previous = pin_dir.with_name(pin_dir.name + "-previous")
    try:
        names = os.listdir(previous)
    except FileNotFoundError:
        return
    yield from (previous / name for name in sorted(names))
