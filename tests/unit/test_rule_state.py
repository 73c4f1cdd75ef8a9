# SPDX-License-Identifier: Apache-2.0
"""What rules need in maps before they run: counters, modes and tables, with maps that are dictionaries."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Any, cast

import pytest

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.layout import MODES, STAT, STAT_RETURN, STATS
from agent.kernel.maps import Maps
from agent.kernel.rule_state import RuleState, stat_keys
from agent.policy.automaton import build_table
from agent.policy.model import PolicyMode
from agent.policy.plan import PlacedPolicy
from tests.support.planning import place
from tests.support.workload import kprobe, lseek_policy, match, policy, selector

NAMES = ("stats", "modes", "automata")
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "long"}}
AT_RETURN = {"matchReturnArgs": [match(0, "Equal", 1)]}


class _Kernel:
    """Maps by the place of their name. fail: the map whose next update is refused."""

    def __init__(self) -> None:
        self.maps: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.fail = ""

    def fileno(self, name: str) -> int:
        return NAMES.index(name)

    def update(self, fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
        assert flags == 0
        if NAMES[fd] == self.fail:
            raise KernelError("bpf(MAP_UPDATE_ELEM)", 7)
        self.maps[fd][key] = value

    def lookup(self, fd: int, key: bytes, size: int) -> bytes | None:
        value = self.maps[fd].get(key)
        assert value is None or len(value) == size
        return value

    def delete(self, fd: int, key: bytes) -> bool:
        return self.maps[fd].pop(key, None) is not None

    def of(self, name: str) -> dict[bytes, bytes]:
        return self.maps[NAMES.index(name)]

    def monitored(self) -> set[int]:
        (data,) = self.of("modes").values()
        words = MODES.unpack(data)
        return {bit for bit in range(1024) if words[bit // 64] >> bit % 64 & 1}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    kernel = _Kernel()
    for name in ("update", "lookup", "delete"):
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


@pytest.mark.parametrize("fail", NAMES)
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
