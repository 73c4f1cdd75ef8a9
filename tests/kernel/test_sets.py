# SPDX-License-Identifier: Apache-2.0
"""Filters with thousands of values: what is met, what they take to load, and that nothing is left of them."""

from __future__ import annotations

import itertools
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.kernel import bpf
from agent.kernel.value_sets import SetsFullError, ValueSets
from agent.policy.model import Operator
from agent.policy.placed import PlacedPolicy
from agent.policy.sets import PARTS, ROOMS, TEXT_THRESHOLD, TextSet
from tests.support.calls import Caller, MadeCall, Place, new_cgroup
from tests.support.calls_kernel import Rules, start_rules
from tests.support.language import Document, act, arg, build_subject, document, subject
from tests.support.planning import read
from tests.support.workload import POST, Node, build_calls, kprobe, match, policy, selector, start_node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

CPU_S = 2.0  # of compiling and loading, Python's part included
MAPS = (*(f"texts_{room}" for room in ROOMS), *(f"parts_{size}" for size in PARTS), "lengths", "ranges")
KEYS = {name: 8 + int(name.rpartition("_")[2]) for name in MAPS if "_" in name} | {"lengths": 4, "ranges": 24}
watch = partial(selector, actions=POST)
ACCESS = {0: "string", 1: "int"}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rules]:
    with start_rules(tmp_path_factory.mktemp("sets")) as started:
        yield started


@pytest.fixture(scope="module")
def group() -> Iterator[Path]:
    with new_cgroup() as path:
        yield path


@pytest.fixture(scope="module")
def caller(group: Path) -> Iterator[Caller]:
    process = Caller()
    (group / "cgroup.procs").write_text(str(process.pid))
    yield process
    process.close()


class Force:
    """Policies in force for the caller."""

    def __init__(self, rules: Rules, group: Path, caller: Caller, *documents: dict[str, Any]) -> None:
        self._rules, self._group, self._caller = rules, group, caller
        self.placed: list[PlacedPolicy] = rules.put(rules.resolve(read(*documents)))
        rules.select(group, self.placed)

    def met(self, texts: Sequence[bytes], number: int = 0, call: str = "access") -> list[bool]:
        """Of each text, whether it was reported."""
        found = []
        for text in texts:
            arguments = (Place(text), number) if call == "access" else (0, Place(text), 0, 0)
            self._caller.make(MadeCall(call, arguments))
            found.append(bool(self._rules.events()))
        return found

    def end(self) -> None:
        self._rules.release(self._group)
        self._rules.remove(self.placed)


def entries(rules: Rules) -> Counter[str]:
    """How many there are in each map."""
    return +Counter({name: len(bpf.keys(rules.maps.fileno(name), KEYS[name])) for name in MAPS})


def cpu() -> float:
    """Of this process and of the loaders that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def paths(count: int, lengths: Sequence[int]) -> list[str]:
    """Different paths; every one begins with its number."""
    return [f"/{n:05d}/".ljust(lengths[n % len(lengths)], "x") for n in range(count)]


def openat(*filters: dict[str, Any]) -> dict[str, Any]:
    return policy("p", kprobe("openat", {1: "string"}, watch(*filters)))


def test_ten_thousand_paths(rules: Rules, group: Path, caller: Caller) -> None:
    values = paths(10_000, range(20, 60))
    began = cpu()
    force = Force(rules, group, caller, openat(match(1, "Equal", *values)))
    spent = cpu() - began
    try:
        assert entries(rules) == Counter({"texts_64": 10_000})
        met = [values[n].encode() for n in (0, 1, 4999, 9999)]
        assert force.met(met, call="openat") == [True] * 4
        others = [each for text in met for each in (text + b"x", text[:-1], text[1:], text.upper()[:-1] + b"X")]
        assert not any(force.met([*others, b""], call="openat"))
    finally:
        force.end()
    assert entries(rules) == Counter()
    assert spent < CPU_S


def test_five_thousand_prefixes_of_thirty_lengths(rules: Rules, group: Path, caller: Caller) -> None:
    values = paths(5_000, range(8, 38))
    began = cpu()
    force = Force(rules, group, caller, openat(match(1, "Prefix", *values)))
    spent = cpu() - began
    try:
        met = [values[n].encode() for n in range(0, 5000, 311)]
        assert all(force.met([*met, *(text + b"/more" for text in met), met[0] + b"y" * 4090], call="openat"))
        assert not any(force.met([b"", *(text[:-1] for text in met), *(b"." + text for text in met)], call="openat"))
    finally:
        force.end()
    assert entries(rules) == Counter()
    assert spent < CPU_S


EDGES = (0, 1, 7, 8, 9, 55, 56, 57, 63, 64, 247, 248, 249, 255, 256, 1023, 1024, 4094, 4095)


@pytest.mark.parametrize("operator", ["Equal", "NotEqual", "Prefix", "NotPrefix", "Postfix", "NotPostfix"])
def test_texts_of_every_size_of_a_key(rules: Rules, group: Path, caller: Caller, operator: str) -> None:
    """A value of each length; texts that differ from one in their last, first and a middle byte."""
    letter = {length: chr(ord("A") + n) for n, length in enumerate(EDGES)}
    values = [letter[length] * length for length in EDGES if length]
    more = [f"#{n}#" for n in range(TEXT_THRESHOLD)]
    texts = [each for value in map(str.encode, values) for each in _near(value)]
    wanted = tuple(text.encode() for text in (*values, *more))
    force = Force(
        rules, group, caller, policy("p", kprobe("access", ACCESS, watch(match(0, operator, *values, *more))))
    )
    try:
        found = force.met([b"", *texts])
    finally:
        force.end()
    assert found == [_holds(operator, text, wanted) for text in (b"", *texts)]
    assert {True, False} == set(found)


def _near(value: bytes) -> Iterator[bytes]:
    half = len(value) // 2
    yield from (value, value[:-1], value + b"z", b"z" + value, b"z" + value[1:], value[:-1] + b"z")
    yield from (value[:half] + b"z" + value[half + 1 :], b"z" * 9 + value, value + b"z" * 9)


def _holds(operator: str, text: bytes, wanted: tuple[bytes, ...]) -> bool:
    """Of a text of more than 4,095 bytes the call itself sees less than there is: it is cut."""
    cut = len(text) > 4095
    met = {
        "Equal": not cut and text in wanted,
        "Prefix": text.startswith(wanted),
        "Postfix": not cut and text.endswith(wanted),
    }[operator.removeprefix("Not")]
    return met is not operator.startswith("Not")


NUMBERS = (*range(-3000, 3000, 7), -(1 << 31), (1 << 31) - 1)
RANGES = (*((n * 1000, n * 1000 + n) for n in range(1, 900)), (-70, -60), (-5, 5))


def test_numbers_and_ranges(rules: Rules, group: Path, caller: Caller) -> None:
    asked = sorted({near for n in (-3000, -7, 0, 4, 700, 2996, (1 << 31) - 1) for near in (n - 1, n, n + 1)})
    asked += [-71, -70, -60, -59, -6, 5, 6, 1000, 1001, 1002, 899_000, 899_899, 899_900, -(1 << 31)]
    ranges = [f"{first}:{last}" for first, last in RANGES]
    for operator, values, wanted in (
        ("InMap", NUMBERS, set(NUMBERS)),
        ("NotEqual", NUMBERS, set(NUMBERS)),
        ("InRange", ranges, {n for first, last in RANGES for n in range(first, last + 1)}),
    ):
        document = policy("p", kprobe("access", ACCESS, watch(match(1, operator, *values))))
        force = Force(rules, group, caller, document)
        try:
            assert entries(rules).keys() == {"ranges"}
            found = [force.met([b"/x"], number % (1 << 32)) for number in asked]
        finally:
            force.end()
        inside = [(number + (1 << 31)) % (1 << 32) - (1 << 31) in wanted for number in asked]
        assert found == [[each is not operator.startswith("Not")] for each in inside]
    assert entries(rules) == Counter()


def test_many_binaries(rules: Rules, group: Path, caller: Caller) -> None:
    """Of the caller and of its parent, which run the same interpreter, and of what they descend from."""
    own = str(Path(f"/proc/{caller.pid}/exe").readlink())
    others = paths(2000, range(10, 90))

    def asking(field: str, operator: str, *more: str, **fields: Any) -> dict[str, Any]:
        return {field: [{"operator": operator, "values": [*others, *more], **fields}]}

    cases = [
        (asking(field, operator, *more, **fields), bool(more) is not operator.startswith("Not"))
        for field, operator, fields in (
            *(("matchBinaries", operator, {}) for operator in ("In", "NotIn", "Prefix", "NotPostfix")),
            ("matchParentBinaries", "In", {}),
            ("matchBinaries", "NotIn", {"followChildren": True}),
        )
        for more in ((), (own,))
    ]
    for chosen, expected in cases:
        force = Force(rules, group, caller, policy("p", kprobe("access", ACCESS, chosen)))
        try:
            assert force.met([b"/x"]) == [expected]
        finally:
            force.end()
    assert entries(rules) == Counter()


def pinned_entries(node: Node) -> Counter[str]:
    """Of the agent's maps."""
    counts = {}
    for name in MAPS:
        with bpf.open_pinned(node.agent.pin_dir / "maps" / name) as fd:
            counts[name] = len(bpf.keys(fd.fileno(), KEYS[name]))
    return +Counter(counts)


def versions(program: Path) -> Iterator[Document]:
    """All say the same of the program's lseek(-1), each with other values beside."""
    for number in itertools.count():
        binaries = [str(program), *(f"/{number}/{each}" for each in range(2000))]
        numbers = [str(each) for each in (-1, *range(1000 * number + 2, 1000 * number + 2000, 2))]
        chosen = {
            "matchBinaries": [{"operator": "In", "values": binaries}],
            "matchArgs": [{"index": 0, "operator": "Equal", "values": numbers}],
            "matchActions": [act("Signal", argSig=10), act("NoPost")],
        }
        hook = {"call": "lseek", "args": [arg(0, "int")], "selectors": [chosen]}
        yield document("stormy", "stormy", kprobes=[hook])


def test_no_call_escapes_while_sets_change(tmp_path: Path) -> None:
    """The old values are there until the swap, the new ones before it; none is left at the end."""
    program, made = build_subject(tmp_path), versions(tmp_path / "subject")
    with start_node(build_calls(tmp_path)) as node:
        node.add(next(made))
        with node.container("stormy") as group, subject(program, group) as storm:
            first = pinned_entries(node)
            storm.say("storm")
            for _ in range(5):
                node.add(next(made))
            calls, signals = storm.stop_storm()
        assert first["texts_64"] + first["texts_256"] == 2001
        assert first["ranges"] == 1000
        assert pinned_entries(node) == first
        node.clear()
        assert pinned_entries(node) == Counter()
    assert calls == signals > 0


def test_a_set_without_room_is_refused_and_leaves_nothing(rules: Rules, group: Path, caller: Caller) -> None:
    sets = ValueSets(rules.maps)
    filling = TextSet(Operator.EQUAL, tuple(b"%d" % n + b"x" * 1100 for n in range(4000)))
    force = Force(
        rules,
        group,
        caller,
        policy("p", kprobe("access", ACCESS, watch(match(0, "Equal", "/met", *paths(99, [9]))))),
    )
    try:
        sets.write(filling, 1 << 30)
        before = entries(rules)
        values = [f"{n}".ljust(1100, "y") for n in range(400)]
        with pytest.raises(
            SetsFullError, match=r"400 different values of less than 4096 bytes, and room for 96; .* 4,096"
        ):
            Force(rules, group, caller, policy("q", kprobe("access", ACCESS, watch(match(0, "Equal", "/a", *values)))))
        assert entries(rules) == before
        assert force.met([b"/met"]) == [True]
    finally:
        assert sets.remove(1 << 30)
        force.end()
    assert entries(rules) == Counter()


def test_keys_that_are_not_there_do_not_matter(rules: Rules) -> None:
    fd = rules.maps.fileno("texts_64")
    rows = [(bytes([n]) * KEYS["texts_64"], bytes(4)) for n in range(1, 9)]
    bpf.update_many(fd, rows[::2])
    bpf.delete_many(fd, [key for key, _ in rows])
    assert bpf.keys(fd, KEYS["texts_64"]) == []
