# SPDX-License-Identifier: Apache-2.0
"""Names and places of what tests create outside the tree, so that leftovers can be told from another session's work.

Directories, cgroups and BPF pins are named podgate-KIND-PID-N: PID is the process that made them.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

_OWNED = re.compile(r"podgate-[a-z]+-(\d+)-")
_counter = itertools.count()


def unique_name(kind: str) -> str:
    """`podgate-KIND-PID-N`, new at each call; `kind` is one lower-case word."""
    return f"podgate-{kind}-{os.getpid()}-{next(_counter)}"


def owner_pid(text: str) -> int | None:
    """The PID in the first name of the above form in `text` (a path, a mount line); None when there is none."""
    found = _OWNED.search(text)
    return int(found.group(1)) if found else None


def cache_dir() -> Path:
    """Where downloaded runtimes and built images are kept: $PODGATE_CACHE or /var/cache/podgate."""
    return Path(os.environ.get("PODGATE_CACHE", "/var/cache/podgate"))


def project_dir() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parents[2]
