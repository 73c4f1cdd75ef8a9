# SPDX-License-Identifier: Apache-2.0
"""Which predicates policies need, the bits that stand for them, and the C text of the programs that keep them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.codegen_process import lineage_condition, namespace_condition, pid_condition
from agent.policy.lineage import (
    MAX_PREDICATES,
    PROGRAMS,
    BinaryPredicate,
    LineageError,
    LineageNeeds,
    LineageTable,
    PidPredicate,
    Placed,
    Predicate,
    binary_predicate,
    compile_lineage,
    needs_of,
)
from agent.policy.model import (
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityType,
    NamespaceFilter,
    NamespaceType,
    Operator,
    PidFilter,
    Selector,
)

SHELLS = BinaryFilter(Operator.IN, (b"/bin/sh", b"/bin/bash", b"/bin/sh"), follow_children=True)
NO_SHELLS = BinaryFilter(Operator.NOT_IN, (b"/bin/bash", b"/bin/sh"), follow_children=True)
FORKS = PidFilter(Operator.IN, (7, 5), follow_forks=True)
SHELL = BinaryPredicate("In", (b"/bin/bash", b"/bin/sh"))


def pids(*numbers: int) -> frozenset[Predicate]:
    return frozenset(PidPredicate((number,), False) for number in numbers)


def needs(predicates: frozenset[Predicate]) -> LineageNeeds:
    return LineageNeeds(predicates)


def test_both_operators_and_parents_share_a_predicate() -> None:
    own, parent = Selector(binaries=(SHELLS,)), Selector(parent_binaries=(NO_SHELLS,))
    assert needs_of([own, parent]) == LineageNeeds(frozenset({SHELL}))


def test_what_is_not_followed_needs_nothing() -> None:
    plain = BinaryFilter(Operator.IN, (b"/bin/sh",))
    assert needs_of([Selector(binaries=(plain,), pids=(PidFilter(Operator.IN, (1,)),))]).is_empty


def test_pids_and_changes_are_needs() -> None:
    change = CapabilityChangeFilter(CapabilityType.EFFECTIVE, Operator.IN, 1)
    assert needs_of([Selector(pids=(FORKS,))]).predicates == {PidPredicate((5, 7), False)}
    assert needs_of([Selector(capability_changes=(change,))]) == LineageNeeds(changes=True)


@pytest.mark.parametrize(
    ("operator", "values", "path", "holds"),
    [
        (Operator.NOT_IN, (b"/bin/sh",), b"/bin/sh", True),
        (Operator.IN, (b"/bin/sh",), b"/bin/sh2", False),
        (Operator.PREFIX, (b"/opt/", b"/bin/"), b"/bin/sh", True),
        (Operator.NOT_POSTFIX, (b"sh",), b"/bin/ash", True),
        (Operator.POSTFIX, (b"sh",), b"/bin/sha", False),
    ],
)
def test_predicate_is_the_positive_operator(
    operator: Operator, values: tuple[bytes, ...], path: bytes, holds: bool
) -> None:
    assert binary_predicate(BinaryFilter(operator, values, follow_children=True)).holds(path) is holds


def test_pid_predicate_asks_its_own_number() -> None:
    assert PidPredicate((3,), False).holds(3, 1)
    assert not PidPredicate((3,), True).holds(3, 1)
    assert PidPredicate((1,), True).holds(3, 1)


def test_kept_predicates_keep_their_bits() -> None:
    first = LineageTable().change(needs(pids(1, 2)), 10)
    second = first.change(needs(pids(2, 3)), 20)
    kept = next(iter(pids(2)))
    assert second.find(kept) == first.find(kept)
    assert [each.predicate for each in second.added_to(first)] == list(pids(3))
    assert second.find(next(iter(pids(3)))).since == 20


def test_freed_bit_waits_until_all_others_were_given_out() -> None:
    first = LineageTable().change(needs(pids(1)), 10)
    gone = first.change(needs(frozenset()), 20)
    full = gone.change(needs(pids(*range(10, 9 + MAX_PREDICATES))), 30)
    assert gone.is_empty
    assert first.placed[0].bit not in {each.bit for each in full.placed}


def test_freed_bit_is_not_given_out_by_the_change_that_frees_it() -> None:
    full = LineageTable().change(needs(pids(*range(MAX_PREDICATES))), 10)
    with pytest.raises(LineageError, match=r"1 more conditions with .*, and room for 0"):
        full.change(needs(pids(*range(1, MAX_PREDICATES + 1))), 20)
    freed = full.change(needs(pids(*range(1, MAX_PREDICATES))), 20)
    assert freed.change(needs(pids(*range(1, MAX_PREDICATES + 1))), 30).placed[0] == Placed(
        PidPredicate((MAX_PREDICATES,), False), full.find(PidPredicate((0,), False)).bit, 30
    )


@given(st.lists(st.sets(st.integers(0, 20)), max_size=12))
def test_bits_are_never_shared(changes: list[set[int]]) -> None:
    table = LineageTable()
    for number, wanted in enumerate(changes):
        before, table = table, table.change(needs(pids(*wanted)), number + 1)
        bits = [each.bit for each in table.placed]
        assert len(set(bits)) == len(bits)
        assert sorted([*bits, *table.free]) == list(range(MAX_PREDICATES))
        assert {each.predicate for each in table.placed} == pids(*wanted)
        assert not {each.bit for each in table.added_to(before)} & {each.bit for each in before.placed}


def text(name: str, operator: Operator, values: tuple[bytes, ...]) -> str:
    return f"text({name}, {operator.value}, {len(values)})"


def test_text_of_the_programs() -> None:
    table = LineageTable(
        (
            Placed(SHELL, 0, 100),
            Placed(PidPredicate((5, 7), False), 1, 200),
            Placed(PidPredicate((1,), True), 64, 100),
        ),
        changes=True,
    )
    written = compile_lineage(table, text)
    assert written.startswith('#define PG_SNAPSHOTS 1\n#include "lib/lineage.h"\n')
    for line in (
        "if (text(binary, In, 2))\n\t\tdraft->bits[0] |= 0x1ULL;",
        "if (tgid == 5U || tgid == 7U)\n\t\tdraft->bits[0] |= 0x2ULL;",
        "if (ns_tgid == 1U)\n\t\tdraft->bits[1] |= 0x1ULL;",
        "if (word == 0) {\n\t\tif (time >= 200ULL)\n\t\t\treturn 0x3ULL;\n"
        "\t\tif (time >= 100ULL)\n\t\t\treturn 0x1ULL;",
        "if (word == 1) {\n\t\tif (time >= 100ULL)\n\t\t\treturn 0x1ULL;",
        *(f"int {name}(struct bpf_raw_tracepoint_args *ctx)" for name in PROGRAMS),
    ):
        assert line in written


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4))
def test_no_text_of_a_policy_is_in_the_programs(values: list[bytes]) -> None:
    plain = BinaryFilter(Operator.IN, (b"/x",), follow_children=True)
    hostile = BinaryFilter(Operator.IN, tuple(values), follow_children=True)
    written = [
        compile_lineage(LineageTable().change(needs(frozenset({binary_predicate(each)})), 1), lambda *_: "1")
        for each in (plain, hostile)
    ]
    assert written[0] == written[1]


def test_conditions_name_the_bit_and_its_time() -> None:
    table = LineageTable((Placed(SHELL, 3, 99), Placed(PidPredicate((5, 7), False), 4, 98)))
    assert lineage_condition(SHELLS, table, of_parent=False) == "pg_in_lineage(3, 99ULL)"
    assert lineage_condition(NO_SHELLS, table, of_parent=True) == "pg_parent_outside_lineage(3, 99ULL)"
    own = "({ __u32 v_ = pg_tgid(); v_ == 5U || v_ == 7U; })"
    assert pid_condition(FORKS, table) == f"({own} || pg_in_lineage(4, 98ULL))"


def test_condition_of_a_predicate_that_is_not_kept_is_refused() -> None:
    with pytest.raises(KeyError):
        lineage_condition(SHELLS, LineageTable(), of_parent=False)


def test_host_namespace_is_a_number_among_the_others() -> None:
    condition = NamespaceFilter(NamespaceType.NET, Operator.NOT_IN, (7,), host=True)
    expected = "!(({ __u32 v_ = pg_ns_inum(5); v_ == 7U || v_ == 40U; }))"
    assert namespace_condition(condition, {NamespaceType.NET: 40}) == expected
