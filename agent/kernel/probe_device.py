# SPDX-License-Identifier: Apache-2.0
"""The devices of perf events that are probes: `kprobe` and `uprobe` in sysfs, and how an event of theirs is written."""

from __future__ import annotations

import re
from pathlib import Path

from agent.kernel.errors import KernelError

DEVICES = Path("/sys/bus/event_source/devices")
_BITS = re.compile(r"config:(?P<first>\d+)(-(?P<last>\d+))?")


class ProbeDevice:
    """name: kprobe or uprobe. devices: the directory of all."""

    def __init__(self, name: str, devices: Path = DEVICES) -> None:
        self._name = name
        self._folder = devices / name

    def number(self) -> int:
        """The type of its events."""
        try:
            return int((self._folder / "type").read_text())
        except FileNotFoundError as error:
            option = f"CONFIG_{self._name.upper()}_EVENTS=y"
            raise KernelError(f"no {self._name} device", 0, f"the kernel needs {option}") from error

    def first_bit(self, field: str) -> int:
        """Of a field of the event's config, by its format file: `config:0`, `config:32-63`."""
        path = self._folder / "format" / field
        found = _BITS.fullmatch(path.read_text().strip()) if path.exists() else None
        if found is None:
            raise KernelError(f"no {path}", 0, f"this kernel's {self._name}s have no {field}")
        return int(found["first"])

    def at_return(self) -> int:
        """The config of a probe at the return."""
        return 1 << self.first_bit("retprobe")
