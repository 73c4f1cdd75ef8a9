# SPDX-License-Identifier: Apache-2.0
"""Other agents of this machine that meddle with containers which nobody announced to them: ours are among those.

What such an agent stops, binds to every policy of its own, or kills is no fault of the one that is watched.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rthook import bpf
from rthook.held import DOORS, TGID

TREATMENTS = {1: "strict", 2: "hold"}  # enum pg_treatment of bpf/maps/doors.h, but for report, which only looks


def find_meddlers(root: Path, ours: Iterable[Path]) -> list[str]:
    """`NAME: TREATMENT` of each. root: where agents have their pin directories; ours: of this bench."""
    own = {path.name for path in ours}
    found = []
    for pins in sorted(root.iterdir()):
        treatment = TREATMENTS.get(_read_treatment(pins)) if pins.name not in own else None
        if treatment:
            found.append(f"{pins.name}: {treatment}")
    return found


def _read_treatment(pins: Path) -> int:
    """0 of what is no agent's, or goes at this moment."""
    try:
        fd = bpf.open_object(pins / "maps" / "doors")
    except bpf.BpfError:
        return 0
    try:
        shape = bpf.read_shape(fd)
        value = bpf.lookup(fd, TGID.pack(0), DOORS.size) if shape.value_size == DOORS.size else None
    except bpf.BpfError:
        return 0
    finally:
        os.close(fd)
    return int(DOORS.unpack(value)[0]) if value else 0
