# SPDX-License-Identifier: Apache-2.0
"""What rules need in maps before they run: counters, modes and tables, with maps that are dictionaries."""

from __future__ import annotations

import errno
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import pytest

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.layout import MODES, STAT, STAT_RETURN, STATS
from agent.kernel.maps import Maps
from agent.kernel.rule_state import RuleState, entries_memory, stat_keys
from agent.kernel.value_sets import SetsFullError
from agent.policy.automaton import build_table
from agent.policy.model import PolicyMode
from agent.policy.placed import PlacedPolicy
from agent.policy.sets import PARTS, ROOMS, rows_of
from tests.support.planning import place
from tests.support.workload import kprobe, lseek_policy, match, policy, selector

SETS = (*(f"texts_{room}" for room in ROOMS), *(f"parts_{size}" for size in PARTS), "lengths", "ranges")
NAMES = ("stats", "modes", "automata", "socks", *SETS)
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}
AT_RETURN = {"matchReturnArgs": [match(0, "Equal", 1)]}


class _Kernel:
    """Maps by the place of their name. fail: the map whose next update is refused."""

    def __init__(self) -> None:
        self.maps: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.fail = ""
        self.code = errno.E2BIG

    def fileno(self, name: str) -> int:
        return NAMES.index(name)

    def update(self, fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
        assert flags == 0
        if NAMES[fd] == self.fail:
            raise KernelError("bpf(MAP_UPDATE_ELEM)", self.code)
        self.maps[fd][key] = value

    def update_many(self, fd: int, rows: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in rows:
            self.update(fd, key, value)

    def delete_many(self, fd: int, wanted: Sequence[bytes]) -> None:
        for key in wanted:
            self.delete(fd, key)

    def lookup(self, fd: int, key: bytes, size: int) -> bytes | None:
        value = self.maps[fd].get(key)
        assert value is None or len(value) == size
        return value

    def delete(self, fd: int, key: bytes) -> bool:
        return self.maps[fd].pop(key, None) is not None

    def keys(self, fd: int, size: int) -> list[bytes]:
        assert all(len(key) == size for key in self.maps[fd])
        return list(self.maps[fd])

    def of(self, name: str) -> dict[bytes, bytes]:
        return self.maps[NAMES.index(name)]

    def monitored(self) -> set[int]:
        (data,) = self.of("modes").values()
        words = MODES.unpack(data)
        return {bit for bit in range(1024) if words[bit // 64] >> bit % 64 & 1}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    kernel = _Kernel()
    for name in ("update", "lookup", "delete", "update_many", "delete_many", "keys"):
        monkeypatch.setattr(bpf, name, getattr(kernel, name))
    return kernel


@pytest.fixture
def state(kernel: _Kernel) -> RuleState:
    return RuleState(cast(Maps, kernel))


def watching(document: dict[str, Any]) -> dict[str, Any]:
    document["spec"]["options"] = [{"name": "policy-mode", "value": "monitor"}]
    return document


def returning() -> PlacedPolicy:
    """Two hooks: one with three selectors, two of them asked at the return, and one without a return."""
    hook = kprobe("lseek", {0: "int"}, selector() | AT_RETURN, selector(), AT_RETURN) | RETURNS
    return place(policy("p", hook, kprobe("access", {0: "string"}, selector())))[0]


def test_every_selector_has_its_entry(kernel: _Kernel, state: RuleState) -> None:
    placed = returning()
    state.prepare(placed)
    first, second = 100 << 32, 100 << 32 | 1 << 16
    wanted = [first, first | STAT_RETURN, first | 1, first | 2, first | 2 | STAT_RETURN, second]
    assert list(stat_keys(placed)) == wanted
    assert list(kernel.of("stats")) == [struct.pack("<Q", key) for key in wanted]
    assert set(kernel.of("stats").values()) == {bytes(STAT.size)}


def test_tables_are_there_before_rules_that_need_them(kernel: _Kernel, state: RuleState) -> None:
    (placed,) = place(policy("p", kprobe("access", {0: "string"}, selector(match(0, "SubString", "needle")))))
    state.prepare(placed)
    ((table, number),) = placed.automata.items()
    assert kernel.of("automata") == {struct.pack("<I", number): build_table(table)}


def test_counts_are_told_by_selector_and_together(kernel: _Kernel, state: RuleState) -> None:
    placed = returning()
    state.prepare(placed)
    keys = list(kernel.of("stats"))
    kernel.of("stats")[keys[0]] = STAT.pack(*range(1, len(STATS) + 1))
    kernel.of("stats")[keys[1]] = STAT.pack(*([5] + [0] * (len(STATS) - 1)))
    del kernel.of("stats")[keys[5]]
    assert state.selector_counts(placed) == {
        (0, 0, False): {name: number for number, name in enumerate(STATS, 1)},
        (0, 0, True): {"post": 5},
    }
    assert state.counts(placed)["post"] == 6
    assert state.counts(placed)["nopost"] == 2


def test_mode_is_that_of_the_policy_and_can_be_switched(kernel: _Kernel, state: RuleState) -> None:
    bits = (0, 63, 64, 1023)
    documents = [watching(lseek_policy(name)) if name in "bd" else lseek_policy(name) for name in "abcd"]
    placed = place(*documents, bits=bits)
    for each in placed:
        state.prepare(each)
    assert kernel.monitored() == {63, 1023}
    assert [state.mode(each) for each in placed] == [each.policy.mode for each in placed]
    state.set_mode(placed[2], PolicyMode.MONITOR)
    state.set_mode(placed[3], PolicyMode.ENFORCE)
    assert kernel.monitored() == {63, 64}


def test_a_bit_that_was_monitored_is_its_next_owners(kernel: _Kernel, state: RuleState) -> None:
    (old,), (new,) = place(watching(lseek_policy("a"))), place(lseek_policy("b"))
    state.prepare(old)
    state.forget([old], [])
    state.prepare(new)
    assert (kernel.monitored(), state.mode(new)) == (set(), PolicyMode.ENFORCE)


def test_a_switch_that_fails_is_none(kernel: _Kernel, state: RuleState) -> None:
    (placed,) = place(lseek_policy("a"))
    state.prepare(placed)
    kernel.fail = "modes"
    with pytest.raises(KernelError):
        state.set_mode(placed, PolicyMode.MONITOR)
    assert state.mode(placed) is PolicyMode.ENFORCE


def many_values() -> PlacedPolicy:
    """Sets of two rooms, of both tries, of lengths and of ranges."""
    texts = [f"{n}".ljust(length, "x") for n, length in enumerate([9, 80, 300] * 20)]
    chosen = selector(match(0, "Equal", *texts), match(0, "Prefix", *texts), match(1, "InMap", *range(1000)))
    return place(policy("p", kprobe("access", {0: "string", 1: "int"}, chosen)))[0]


def test_sets_are_there_before_rules_that_need_them(kernel: _Kernel, state: RuleState) -> None:
    placed = many_values()
    state.prepare(placed)
    wanted: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for each, number in placed.sets.items():
        for name, rows in rows_of(each, number).items():
            wanted[name] |= dict(rows)
    assert len(placed.sets) == 3
    assert set(wanted) == {"texts_64", "texts_256", "texts_1024", "parts_56", "parts_248", "lengths", "ranges"}
    assert {name: kernel.of(name) for name in wanted} == wanted


def test_sets_that_stay_are_not_written_anew(kernel: _Kernel, state: RuleState) -> None:
    placed = many_values()
    state.prepare(placed)
    for name in SETS:
        kernel.of(name).clear()
    state.prepare(placed)
    assert [kernel.of(name) for name in SETS] == [{}] * len(SETS)


@pytest.mark.parametrize("fail", [name for name in SETS if name != "texts_4096"])
@pytest.mark.parametrize("code", [errno.E2BIG, errno.ENOSPC, errno.ENOMEM])
def test_sets_that_do_not_fit_leave_nothing(kernel: _Kernel, state: RuleState, fail: str, code: int) -> None:
    placed = many_values()
    kernel.fail, kernel.code = fail, code
    with pytest.raises(KernelError) as caught:
        state.prepare(placed)
    assert isinstance(caught.value, SetsFullError) is (code != errno.ENOMEM)
    state.forget([placed], placed.sets.values())
    assert [kernel.of(name) for name in SETS] == [{}] * len(SETS)


def test_memory_of_sets_is_counted() -> None:
    placed = many_values()
    assert entries_memory(placed) > entries_memory(returning()) + 60 * 250


@pytest.mark.parametrize("fail", ["stats", "modes", "automata"])
def test_what_is_forgotten_leaves_nothing(kernel: _Kernel, state: RuleState, fail: str) -> None:
    """Also after a preparation that failed half-way."""
    (placed,) = place(policy("p", kprobe("access", {0: "string"}, selector(match(0, "SubString", "needle")))))
    kernel.fail = fail
    with pytest.raises(KernelError):
        state.prepare(placed)
    state.forget([placed], placed.automata.values())
    assert (kernel.of("stats"), kernel.of("automata")) == ({}, {})
    kernel.fail = ""
    state.prepare(placed)
    state.forget([placed], placed.automata.values())
    assert (kernel.of("stats"), kernel.of("automata")) == ({}, {})
