# SPDX-License-Identifier: Apache-2.0
"""Which PROG_ARRAY has the slots of a hook point's side.

Programs on tracepoints and probes share one array for each type. Those that are loaded for one function cannot: an
array takes the programs of one function only, and newer kernels want all of one attach type (bpf_prog_map_compatible of
kernel/bpf/core.c). So each side of such a hook point has an array of its own, made with the first slot that is asked
for and closed with the last one that is given back. It is pinned: the kernel empties an array that no process and no
pin holds, and then the dispatcher would lead nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.kernel import bpf
from agent.kernel.slots import SlotArray
from agent.kernel.targets import PROGRAM_TYPES
from agent.policy.access import TRAMPOLINES, HookPoint
from agent.policy.codegen_unit import Side, form_kind

# A head, and three times as many further programs as a chain has (plan.MAX_CHUNKS): the old chain, the new one, and
# one whose grace period is not over. A slot is 8 bytes of memory.
OWN_SLOTS: Final = 128


class OwnArray(SlotArray):
    """One side's own, pinned."""

    def __init__(self, name: str, pin: Path) -> None:
        self._map = bpf.create_map(bpf.MapType.PROG_ARRAY, 4, 4, OWN_SLOTS, f"pg_{name}")
        self._pin = pin
        try:
            bpf.pin(self._map.fileno(), str(pin))
        except BaseException:
            self._map.close()
            raise
        super().__init__(name, self._map.fileno(), OWN_SLOTS)

    def close(self) -> None:
        """Unpins; the kernel takes it down when no program refers to it any more."""
        self._pin.unlink(missing_ok=True)
        self._map.close()


class PointArrays:
    """shared: by program type. pins: the directory for those of single hook points."""

    def __init__(self, shared: Mapping[bpf.ProgType, SlotArray], pins: Path) -> None:
        self._shared = dict(shared)
        self._pins = pins
        self._own: dict[tuple[int, Side], OwnArray] = {}

    def of(self, point: HookPoint, attachment: int, side: Side) -> SlotArray:
        """attachment: the hook point's serial number. Raises KernelError when one cannot be made."""
        kind = form_kind(point, side)
        if kind not in TRAMPOLINES:
            return self._shared[PROGRAM_TYPES[kind]]
        key = attachment, side
        if key not in self._own:
            name = f"slots_{attachment}_{side.value}"
            self._own[key] = self._make(name)
        return self._own[key]

    def descriptors(self, attachment: int) -> dict[str, int]:
        """Those of a hook point's own, by the names that its programs have for them."""
        return {array.name: array.fd for (owner, _), array in self._own.items() if owner == attachment}

    def close_unused(self) -> None:
        """Those of which no slot is taken."""
        for key in [key for key, array in self._own.items() if array.is_unused]:
            self._own.pop(key).close()

    def _make(self, name: str) -> OwnArray:
        return OwnArray(name, self._pins / name)
