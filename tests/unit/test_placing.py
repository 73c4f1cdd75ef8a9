# SPDX-License-Identifier: Apache-2.0
"""Bits, serial numbers and ids: what is given out again, and what never is."""

from __future__ import annotations

from typing import Any

import pytest

from agent.kernel.errors import KernelError
from agent.placing import FIRST_VALUE, Placer, bits_of, substrings_of, workload_selectors
from agent.policy.lineage import LineageTable
from agent.policy.placed import PlacedPolicy, values_of
from agent.policy.sets import TEXT_THRESHOLD
from agent.workload.identity import MAX_POLICIES, PolicyId
from tests.support.planning import HOST_NAMESPACES, read, resolve
from tests.support.workload import kprobe, lseek_policy, match, policy, selector

TABLE = LineageTable()
FOR_A = {"matchWorkloads": {"podSelector": {"matchLabels": {"app": "a"}}}}
FOR_B = {"matchWorkloads": {"podSelector": {"matchLabels": {"app": "b"}}}}


def searching(name: str, *texts: str) -> dict[str, Any]:
    return policy(name, kprobe("access", {0: "string"}, *(selector(match(0, "SubString", text)) for text in texts)))


class _Placing:
    def __init__(self) -> None:
        self.placer = Placer(HOST_NAMESPACES)
        self.taken: set[PolicyId] = set()

    def place(self, *documents: dict[str, Any]) -> list[PlacedPolicy]:
        placed = self.placer.place(resolve(read(*documents)), self.taken, TABLE)
        self.taken |= {bit for each in placed for bit in bits_of(each)}
        return placed


@pytest.fixture
def placing() -> _Placing:
    return _Placing()


def test_bits_are_the_lowest_free_ones(placing: _Placing) -> None:
    placing.taken = {PolicyId(0), PolicyId(2)}
    assert [each.bit for each in placing.place(lseek_policy("a"), lseek_policy("b"))] == [1, 3]


def test_each_match_of_workloads_has_a_bit_of_its_own(placing: _Placing) -> None:
    hook = kprobe("lseek", {0: "int"}, FOR_A, FOR_B, FOR_A)
    first, second = placing.place(policy("p", hook), policy("q", kprobe("lseek", {0: "int"}, FOR_A)))
    assert workload_selectors(first.policy) == tuple(first.workload_bits)
    assert (bits_of(first), bits_of(second)) == ((0, 1, 2), (3, 4))


def test_serial_numbers_and_what_all_policies_share(placing: _Placing) -> None:
    first, second = placing.place(lseek_policy("a"), lseek_policy("b"))
    (third,) = placing.place(lseek_policy("a"))
    assert [each.serial for each in (first, second, third)] == [1, 2, 3]
    assert first.lineage is TABLE
    assert first.host_namespaces == HOST_NAMESPACES


def test_equal_values_have_one_id(placing: _Placing) -> None:
    first, second = placing.place(
        policy("a", kprobe("lseek", {0: "int", 1: "long"}, selector())), policy("b", kprobe("access", {1: "long"}))
    )
    assert sorted(first.value_ids.values()) == [FIRST_VALUE, FIRST_VALUE + 1]
    assert second.value_ids.items() <= first.value_ids.items()
    assert set(first.value_ids) == set(values_of(first.hooks[0]))


def test_tables_are_shared_by_equal_values(placing: _Placing) -> None:
    first, second = placing.place(searching("a", "x", "y"), searching("b", "y"))
    assert sorted(first.automata.values()) == [1, 2]
    assert second.automata.items() <= first.automata.items()
    assert set(substrings_of(first.policy)) == set(first.automata)


def test_what_nobody_has_any_more_is_never_given_to_another(placing: _Placing) -> None:
    first, second = placing.place(searching("a", "x", "y"), searching("b", "y"))
    assert placing.placer.forget([second]) == [
        first.automata[table] for table in set(first.automata) - {*second.automata}
    ]
    (third,) = placing.place(searching("c", "x"))
    assert list(third.automata.values()) == [3]
    assert placing.placer.forget([]) == sorted({*second.automata.values(), 3})
    (fourth,) = placing.place(searching("d", "x"))
    assert list(fourth.automata.values()) == [4]
    assert min(fourth.value_ids.values()) > max(first.value_ids.values())


def choosing(name: str, first: int, operator: str = "Equal") -> dict[str, Any]:
    texts = [f"/{number}" for number in range(first, first + TEXT_THRESHOLD + 1)]
    chosen = selector(match(0, operator, *texts), match(0, "SubString", f"{first}"))
    return policy(name, kprobe("access", {0: "string"}, chosen))


def test_sets_are_shared_and_numbered_with_the_tables(placing: _Placing) -> None:
    first, second, third = placing.place(choosing("a", 0), choosing("b", 0, "NotEqual"), choosing("c", 5))
    assert [len(each.sets) for each in (first, second, third)] == [1, 1, 1]
    assert first.sets == second.sets
    assert len({*first.sets.values(), *third.sets.values(), *first.automata.values(), *third.automata.values()}) == 4
    assert set(placing.placer.forget([second])) == {*third.sets.values(), *third.automata.values()}
    (again,) = placing.place(choosing("d", 5))
    assert min(*again.sets.values(), *again.automata.values()) == 5
    assert set(placing.placer.forget([again])) == {*second.sets.values(), *second.automata.values()}


def test_as_many_as_there_are_bits_fit_and_one_more_is_refused(placing: _Placing) -> None:
    placing.taken = {PolicyId(bit) for bit in range(MAX_POLICIES - 2)}
    with pytest.raises(KernelError, match="2046 of 2048 bits are in use, and 3 more are needed"):
        placing.place(policy("p", kprobe("lseek", {0: "int"}, FOR_A, FOR_B)))
    (placed,) = placing.place(policy("p", kprobe("lseek", {0: "int"}, FOR_A)))
    assert (bits_of(placed), placed.serial) == ((2046, 2047), 1)
