# SPDX-License-Identifier: Apache-2.0
"""Sets of values in their maps: agent/policy/sets.py says what is in them, bpf/lib/sets.h how programs ask."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.layout import MAX_LENGTH_TABLES, MAX_SET_PARTS, MAX_SET_RANGES, MAX_SET_TEXTS
from agent.kernel.maps import Maps
from agent.policy.sets import PARTS, ROOMS, ValueSet, rows_of

_BATCH = 1024  # entries in one call: some 4 MiB of keys at most
_FULL = (errno.E2BIG, errno.ENOSPC)
_ROOM = {
    **{f"texts_{room}": MAX_SET_TEXTS[room] for room in ROOMS},
    **{f"parts_{size}": MAX_SET_PARTS[size] for size in PARTS},
    "lengths": MAX_LENGTH_TABLES,
    "ranges": MAX_SET_RANGES,
}
_WHAT = {
    **{f"texts_{room}": f"different values of less than {room} bytes" for room in ROOMS},
    **{f"parts_{size}": f"different values of at most {size} bytes of Prefix and Postfix filters" for size in PARTS},
    "lengths": f"different Prefix and Postfix filters with values of more than {PARTS[-1]} bytes",
    "ranges": "networks and parts of ranges",
}


class SetsFullError(KernelError):
    """The maps have no room for a set; nothing of it stays. name: of the map; needed: entries in it."""

    def __init__(self, name: str, needed: int, used: int) -> None:
        super().__init__(
            f"{needed:,} {_WHAT[name]}, and room for {_ROOM[name] - used:,}",
            0,
            f"the policies of a node can have {_ROOM[name]:,} together, and a policy that is replaced keeps its own "
            "until the new one is in force",
        )
        self.name = name
        self.needed = needed


class ValueSets:
    """Entries by the numbers of their sets. Not thread-safe."""

    def __init__(self, maps: Maps) -> None:
        self._maps = {name: maps.fileno(name) for name in _ROOM}
        self._written: dict[int, ValueSet] = {}

    def write(self, wanted: ValueSet, number: int) -> None:
        """Before programs ask for it; what is there stays. Raises KernelError, and then nothing of it is there."""
        if self._written.get(number) == wanted:
            return
        rows = rows_of(wanted, number)
        for name, entries in rows.items():
            try:
                for batch in _batches(entries):
                    bpf.update_many(self._maps[name], batch)
            except KernelError as error:
                self._delete(wanted, number)
                if error.code not in _FULL:
                    raise
                raise SetsFullError(name, len(entries), self._count(name, len(entries[0][0]))) from error
        self._written[number] = wanted

    def remove(self, number: int) -> bool:
        """When no program asks any more. False when there is no such set."""
        wanted = self._written.get(number)
        if wanted is None:
            return False
        self._delete(wanted, number)
        del self._written[number]
        return True

    def _delete(self, wanted: ValueSet, number: int) -> None:
        for name, entries in rows_of(wanted, number).items():
            for batch in _batches(entries):
                bpf.delete_many(self._maps[name], [key for key, _ in batch])

    def _count(self, name: str, key: int) -> int:
        return len(bpf.keys(self._maps[name], key))


def _batches(entries: list[tuple[bytes, bytes]]) -> Sequence[list[tuple[bytes, bytes]]]:
    return [entries[at : at + _BATCH] for at in range(0, len(entries), _BATCH)]
