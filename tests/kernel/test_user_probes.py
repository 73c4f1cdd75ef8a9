# SPDX-License-Identifier: Apache-2.0
"""Uprobes and USDT probes as they are resolved, on a running program: each place is reached as often as the program
goes there, and each argument is read as what the program has there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.policy.access import InputKind, Memory, PointHook
from agent.policy.model import Arg, ArgType, DataSource, Hook, UprobeTarget
from agent.policy.registers import REGISTERS
from tests.support.perf import Uprobe, evaluate, read_memory
from tests.support.probed import build_probed
from tests.support.user_hooks import UserFacts, resolve, uprobe, usdt

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=["-pie", "-no-pie"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ["-fno-pie", "-no-pie"] if request.param == "-no-pie" else []
    return build_probed(tmp_path_factory.mktemp("probed"), *flags)


@dataclass
class Run:
    """The program after its calls, alive; output: what it printed."""

    pid: int
    output: str


@contextmanager
def run(
    program: Path, points: list[PointHook], *, at_return: bool = False, path: str = ""
) -> Iterator[tuple[Run, list[Uprobe]]]:
    """Watches the points, lets the program do its calls, and holds it there."""
    child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "ready\n"
        probes = [Uprobe(point.point, child.pid, at_return=at_return, path=path) for point in points]
        child.stdin.write("\n")
        child.stdin.flush()
        try:
            yield Run(child.pid, child.stdout.readline()), probes
        finally:
            for probe in probes:
                probe.close()
            child.stdin.close()
    assert child.returncode == 0


def counts(program: Path, hook: Hook, *, at_return: bool = False) -> list[int]:
    points = list(resolve(hook))
    with run(program, points, at_return=at_return) as (_, probes):
        return [probe.count() for probe in probes]


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [("podgate_add", 5), ("podgate_alias", 5), ("podgate_local", 3), ("podgate_other", 1), ("podgate_struct", 1)],
)
def test_function_is_reached_once_a_call(program: Path, symbol: str, expected: int) -> None:
    assert counts(program, uprobe(program, symbol)) == [expected]


def test_return_is_reached_once_a_call(program: Path) -> None:
    hook = uprobe(program, "podgate_add", return_arg=Arg(0, ArgType.INT))
    (point,) = resolve(hook)
    with run(program, [point], at_return=True) as (running, (probe,)):
        assert point.return_value is not None
        assert [evaluate(point.return_value.read, hit, running.pid) for hit in probe.hits()] == [2, 3, 4, 5, 6]


def test_offset_and_address_are_the_same_place(program: Path) -> None:
    (named,) = resolve(uprobe(program, "podgate_add"))
    by_offset = uprobe(UprobeTarget(str(program), offsets=(named.point.offset,)))
    symbols = subprocess.check_output(["nm", program], text=True).splitlines()
    (address,) = (int(line.split()[0], 16) for line in symbols if line.endswith(" T podgate_add"))
    by_address = uprobe(UprobeTarget(str(program), addresses=(address,)))
    assert counts(program, by_offset) == counts(program, by_address) == [5]


def test_offset_in_a_function(program: Path) -> None:
    """The first instruction of a function that adds two numbers, `lea (%rdi,%rsi,1),%eax`, has three bytes."""
    assert counts(program, uprobe(program, "podgate_add+3")) == [5]


def test_every_location_of_a_usdt_probe(program: Path) -> None:
    assert sorted(counts(program, usdt(program, "places"))) == [1, 3]


def test_semaphore_is_raised_while_watched(program: Path) -> None:
    """Without it the program does not go to the probe at all."""
    points = list(resolve(usdt(program, "counted")))
    assert [point.point.ref_counter > 0 for point in points] == [True]
    with run(program, points) as (running, (probe,)):
        assert probe.count() == 2
        assert running.output.startswith("semaphore 1 ")
    with run(program, []) as (running, _):
        assert running.output.startswith("semaphore 0 ")


def test_reference_counter_of_a_uprobe(program: Path) -> None:
    (counted,) = resolve(usdt(program, "counted"))
    target = UprobeTarget(str(program), ("podgate_add",), ref_counters=(counted.point.ref_counter,))
    with run(program, list(resolve(uprobe(target)))) as (running, _):
        assert running.output.startswith("semaphore 1 ")


def test_arguments_of_a_function(program: Path) -> None:
    args = (Arg(0, ArgType.INT), Arg(1, ArgType.INT))
    (point,) = resolve(uprobe(program, "podgate_add", args=args))
    with run(program, [point]) as (running, (probe,)):
        reads = [value.read for _, value in point.args if value]
        found = [tuple(evaluate(read, hit, running.pid) for read in reads) for hit in probe.hits()]
    assert found == [(n, 2) for n in range(5)]


def test_member_of_a_structure(program: Path) -> None:
    """outer->inner->number, by the BTF in the program itself."""
    number = Arg(0, ArgType.INT, resolve=("inner", "number"), btf_type="outer")
    (point,) = resolve(uprobe(program, "podgate_struct", args=(number,)))
    with run(program, [point]) as (running, (probe,)):
        (value,) = (value for _, value in point.args)
        assert value is not None
        assert [evaluate(value.read, hit, running.pid) for hit in probe.hits()] == [42]


def test_text_of_a_usdt_probe(program: Path) -> None:
    args = (Arg(0, ArgType.AUTO), Arg(1, ArgType.STRING))
    (point,) = resolve(usdt(program, "plain", args=args))
    with run(program, [point]) as (running, (probe,)):
        (hit,) = probe.hits()
        number, text = (evaluate(value.read, hit, running.pid) for _, value in point.args if value)
        assert number == -7 % (1 << 64)
        assert read_memory(running.pid, text, 11) == b"plain text\0"
    assert point.args[0][0].type is ArgType.INT32


def test_operands(program: Path) -> None:
    """Constants, half registers, and memory: of a variable, and of an element of a table."""
    args = tuple(Arg(index, ArgType.AUTO) for index in range(1, 6))
    (point,) = resolve(usdt(program, "operands", args=args))
    with run(program, [point]) as (running, (probe,)):
        (hit,) = probe.hits()
        found = [evaluate(value.read, hit, running.pid) for _, value in point.args if value]
    assert found == [-77 % (1 << 64), 12, 0xAB, -9 % (1 << 64), 0xABCD]


def test_scaled_operand_and_address(program: Path) -> None:
    """A base and an index times a scale; an address that members can be resolved from."""
    (point,) = resolve(usdt(program, "scaled", args=(Arg(0, ArgType.INT64), Arg(1, ArgType.UINT64))))
    with run(program, [point]) as (running, (probe,)):
        (hit,) = probe.hits()
        element, address = (evaluate(value.read, hit, running.pid) for _, value in point.args if value)
        assert element == 12
        assert int.from_bytes(read_memory(running.pid, address, 4), "little", signed=True) == -77


def test_place_of_set_is_the_argument(program: Path) -> None:
    (point,) = resolve(usdt(program, "operands", args=(Arg(1, ArgType.INT32),)))
    (value,) = (value for _, value in point.args)
    assert value is not None
    with run(program, [point]) as (running, (probe,)):
        (hit,) = probe.hits()
        address = evaluate(value.read.address, hit, running.pid)
        assert int.from_bytes(read_memory(running.pid, address, 4), "little", signed=True) == -77


def test_descriptor_leads_to_the_file_that_was_looked_at(program: Path, tmp_path: Path) -> None:
    """Between looking and attaching another file may be put under the path; that of a descriptor stays."""
    (point,) = resolve(uprobe(program, "podgate_add"))
    other = tmp_path / "other"
    other.write_bytes(program.read_bytes())
    with program.open("rb") as file:
        same = f"/proc/self/fd/{file.fileno()}"
        with run(program, [point], path=same) as (_, (probe,)):
            assert probe.count() == 5
    with other.open("rb") as file, run(program, [point], path=f"/proc/self/fd/{file.fileno()}") as (_, (probe,)):
        assert probe.count() == 0


def test_data_of_the_task(program: Path) -> None:
    entry = Arg(0, ArgType.INT, resolve=("tgid",), data_source=DataSource.CURRENT_TASK)
    (point,) = resolve(uprobe(program, "podgate_add", data=(entry,)))
    (value,) = (value for _, value in point.data)
    assert value is not None
    assert (value.read.input.kind, value.read.memory, value.read.size) == (InputKind.TASK, Memory.KERNEL, 4)


def test_registers_are_where_the_kernel_has_them() -> None:
    types = UserFacts().types()
    found = types.find("struct pt_regs")
    assert found is not None
    places = {member.name: member.bit_offset // 8 for member in types.members(found) if member.name}
    ours = {name: register.offset for name, register in REGISTERS.items() if register.size == 8}
    assert {name: ours[name] for name in ("orig_rax", "r8", "r15")} == {
        "orig_rax": places["orig_ax"],
        "r8": places["r8"],
        "r15": places["r15"],
    }
    plain = {"ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip"}
    assert {name: ours[f"r{name}"] for name in plain} == {name: places[name] for name in plain}
    assert ours["eflags"] == ours["rflags"] == places["flags"]
