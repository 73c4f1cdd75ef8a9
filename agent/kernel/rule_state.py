# SPDX-License-Identifier: Apache-2.0
"""What rules need in maps before they run, and what they leave there: counters, modes, tables of substrings."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator

from agent.kernel import bpf
from agent.kernel.layout import MODES, POLICY_WORDS, STAT, STAT_RETURN, STATS, entry_bytes
from agent.kernel.maps import ZERO, Maps
from agent.kernel.value_sets import ValueSets
from agent.policy.automaton import TABLE_BYTES, build_table
from agent.policy.model import PolicyMode
from agent.policy.placed import PlacedPolicy
from agent.policy.sets import set_bytes

_KEY = struct.Struct("<Q")
_ID = struct.Struct("<I")


class RuleState:
    """Not thread-safe where it writes: policies change one at a time. Reading may go on meanwhile."""

    def __init__(self, maps: Maps) -> None:
        self._stats = maps.fileno("stats")
        self._modes = maps.fileno("modes")
        self._automata = maps.fileno("automata")
        self._socks = maps.fileno("socks")
        self._sets = ValueSets(maps)
        self._monitored = 0

    def prepare(self, placed: PlacedPolicy) -> None:
        """Before its rules run. Raises KernelError; `forget` takes back what was done."""
        for table, number in placed.automata.items():
            bpf.update(self._automata, _ID.pack(number), build_table(table))
        for wanted, number in placed.sets.items():
            self._sets.write(wanted, number)
        for key in stat_keys(placed):
            bpf.update(self._stats, _KEY.pack(key), bytes(STAT.size))
        self.set_mode(placed, placed.policy.mode)

    def set_mode(self, placed: PlacedPolicy, mode: PolicyMode) -> None:
        """In force with the one write. Raises KernelError; the mode is then what it was."""
        bit = 1 << placed.bit
        monitored = self._monitored & ~bit | (bit if mode is PolicyMode.MONITOR else 0)
        words = [(monitored >> (64 * word)) & (2**64 - 1) for word in range(POLICY_WORDS)]
        bpf.update(self._modes, ZERO, MODES.pack(*words))
        self._monitored = monitored

    def mode(self, placed: PlacedPolicy) -> PolicyMode:
        """The one in force."""
        return PolicyMode.MONITOR if self._monitored >> placed.bit & 1 else PolicyMode.ENFORCE

    def forget(self, gone: Iterable[PlacedPolicy], tables: Iterable[int]) -> None:
        """What no rule uses any more. tables: numbers of automata and of sets."""
        for placed in gone:
            for key in stat_keys(placed):
                bpf.delete(self._stats, _KEY.pack(key))
        for number in tables:
            if not self._sets.remove(number):
                bpf.delete(self._automata, _ID.pack(number))

    def forget_sockets(self) -> None:
        """When no policy tracks any: nobody would notice that they are closed."""
        bpf.delete_many(self._socks, bpf.keys(self._socks, _KEY.size))

    def counts(self, placed: PlacedPolicy) -> Counter[str]:
        """What a policy's rules did, by the names of layout.STATS; those that are 0 are left out."""
        total: Counter[str] = Counter()
        for found in self.selector_counts(placed).values():
            total += found
        return total

    def selector_counts(self, placed: PlacedPolicy) -> dict[tuple[int, int, bool], Counter[str]]:
        """By (rule, selector, whether it is one of the return's); those that did nothing are left out."""
        found = {}
        for key in stat_keys(placed):
            data = bpf.lookup(self._stats, _KEY.pack(key), STAT.size)
            counts = Counter({name: n for name, n in zip(STATS, STAT.unpack(data), strict=True) if n}) if data else None
            if counts:
                selector = key & 0xFFFF
                found[key >> 16 & 0xFFFF, selector & ~STAT_RETURN, bool(selector & STAT_RETURN)] = counts
        return found


def entries_memory(placed: PlacedPolicy) -> int:
    """Bytes of kernel memory that a policy's entries in maps take. A table that several policies have is counted for
    each: it is there for as long as any of them is.
    """
    stats = sum(1 for _ in stat_keys(placed)) * entry_bytes(_KEY.size, STAT.size)
    sets = sum(map(set_bytes, placed.sets))
    return stats + len(placed.automata) * entry_bytes(_ID.size, TABLE_BYTES) + sets


def stat_keys(placed: PlacedPolicy) -> Iterator[int]:
    """The keys of a policy's entries in the map stats: bpf/maps/stats.h."""
    for rule, hook in enumerate(placed.hooks):
        first = placed.serial << 32 | rule << 16
        for number, selector in enumerate(hook.hook.selectors):
            yield first | number
            if hook.hook.returns and selector.asks_return:
                yield first | number | STAT_RETURN
