# SPDX-License-Identifier: Apache-2.0
"""Uprobes and USDT probes: from policies to places and reads, and what is refused."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel.user_files import UserFiles
from agent.policy.access import Input, InputKind, Memory, PointKind, Read, Value
from agent.policy.errors import PolicyErrors
from agent.policy.model import Action, ActionKind, Arg, ArgType, DataSource, Hook, UprobeTarget
from agent.policy.registers import REGISTERS
from agent.policy.user_facts import SymbolKind
from tests.support.probed import build_probed
from tests.support.user_hooks import SOURCE, UserFacts, refused, resolve, uprobe, usdt

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
INT32 = Arg(1, ArgType.INT32)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_probed(tmp_path_factory.mktemp("probed"))


def read_of(hook: Hook) -> Value:
    """Of the first argument, at the first place."""
    value = resolve(hook)[0].args[0][1]
    assert value is not None
    return value


def argument(index: int, size: int = 8, signed: bool = False) -> Read:
    return Read(Input(InputKind.ARGUMENT, index, size, signed))


def test_places_are_numbered_in_the_order_of_the_policy(program: Path) -> None:
    found = resolve(uprobe(program, "podgate_struct", "podgate_add", "podgate_local"))
    assert [point.number for point in found] == [3, 4, 5]
    assert [point.symbol for point in found] == ["podgate_struct", "podgate_add", "podgate_local"]
    assert {(point.point.kind, point.point.name) for point in found} == {(PointKind.UPROBE, str(program))}
    assert len({point.point.offset for point in found}) == 3


def test_two_names_of_one_function_are_one_place(program: Path) -> None:
    (found,) = resolve(uprobe(program, "podgate_alias", "podgate_add"))
    assert found.symbol == "podgate_alias"


def test_addresses_become_offsets(tmp_path: Path) -> None:
    """In a program without PIE they are far apart."""
    program = build_probed(tmp_path, "-no-pie", "-fno-pie")
    with UserFiles().open_file(str(program)) as file:
        (code,) = (part for part in file.segments if part.executable)
        others = [part for part in file.segments if not part.executable]
    target = UprobeTarget(str(program), addresses=(code.address, code.address + code.size - 1))
    assert [p.point.offset for p in resolve(uprobe(target))] == [code.offset, code.offset + code.size - 1]
    assert code.address != code.offset
    for address in (0, code.offset, code.address - 1, code.address + code.size, *(part.address for part in others)):
        refused(uprobe(UprobeTarget(str(program), addresses=(address,))), "is not in the file's code")
    inside = UprobeTarget(str(program), offsets=(code.offset, code.offset + code.size - 1))
    assert [p.point.offset for p in resolve(uprobe(inside))] == [code.offset, code.offset + code.size - 1]
    for offset in (code.address, code.offset - 1, code.offset + code.size, *(part.offset for part in others)):
        refused(uprobe(UprobeTarget(str(program), offsets=(offset,))), "is not in the file's code")


def test_offset_inside_a_function(program: Path) -> None:
    (begin,), (inside,) = resolve(uprobe(program, "podgate_add")), resolve(uprobe(program, "podgate_add+0x3"))
    assert inside.point.offset == begin.point.offset + 3
    assert inside.symbol == "podgate_add+0x3"
    assert resolve(uprobe(program, "podgate_add+3"))[0].point == inside.point
    refused(uprobe(program, "podgate_add+0x400"), "is not inside the function, which has 4 bytes")


@pytest.mark.parametrize(
    ("symbol", "reason"),
    [
        ("podgate_twin", "is 2 functions, podgate_twin at 0x"),
        ("podgate_chosen", "is an indirect function"),
        ("puts", "is imported from a library"),
        ("counter", "is a variable"),
        ("podgate_ad", "did you mean podgate_add?"),
        ("xyzzy_of_no_program", "may have been stripped"),
        ("podgate_add@V1", "has no symbol"),
        ("@V1", "is no symbol"),
        ("podgate_add+", "has no symbol"),
        ("podgate_add+0x", "has no symbol"),
        ("podgate_add+-1", "has no symbol"),
    ],
)
def test_refused_symbol(program: Path, symbol: str, reason: str) -> None:
    refused(uprobe(program, symbol), reason)


def test_versions_of_a_symbol() -> None:
    (old,) = resolve(uprobe(LIBC, "realpath@GLIBC_2.2.5"))
    (new,) = resolve(uprobe(LIBC, "realpath@@GLIBC_2.3"))
    assert old.point.offset != new.point.offset
    refused(uprobe(LIBC, "realpath"), "realpath@GLIBC_2.2.5 at 0x")
    refused(uprobe(LIBC, "realpath@GLIBC_9"), "its versions are GLIBC_2.2.5, GLIBC_2.3")
    assert resolve(uprobe(LIBC, "malloc"))[0].symbol == "malloc"


def test_kinds_of_symbols(program: Path) -> None:
    with UserFiles().open_file(str(program)) as file:
        found = {symbol.name: symbol for symbol in file.symbols(["counter", "podgate_chosen", "_start", "puts"])}
    assert found["counter"].kind is SymbolKind.DATA
    assert found["podgate_chosen"].kind is SymbolKind.INDIRECT
    assert found["_start"].kind is SymbolKind.FUNCTION
    assert not found["puts"].defined


def test_reference_counters(program: Path) -> None:
    (counted,) = resolve(usdt(program, "counted"))
    counter = counted.point.ref_counter
    target = UprobeTarget(str(program), ("podgate_add", "podgate_local"), ref_counters=(counter, 0))
    assert [point.point.ref_counter for point in resolve(uprobe(target))] == [counter, 0]
    refused(uprobe(replace(target, ref_counters=(counter,))), "1 refCtrOffsets for 2 places")
    refused(uprobe(replace(target, ref_counters=(counter + 1, 0))), "odd offset")
    refused(uprobe(replace(target, ref_counters=(2, 0))), "not in the file's data")
    twice = replace(target, symbols=("podgate_add", "podgate_alias"))
    refused(uprobe(twice), "has two reference counters")


def test_semaphore_in_code_is_refused(program: Path, tmp_path: Path) -> None:
    with UserFiles().open_file(str(program)) as file:
        (probe,) = (probe for probe in file.probes() if probe.name == "counted")
    content = program.read_bytes()
    there, code = struct.pack("<Q", probe.semaphore), struct.pack("<Q", probe.address)
    assert content.count(code + content[content.index(code) + 8 :][:8] + there) == 1
    damaged = tmp_path / "damaged"
    at = content.index(code) + 16
    damaged.write_bytes(content[:at] + code + content[at + 8 :])
    refused(usdt(damaged, "counted"), "the semaphore of podgate_test/counted")


def test_arguments_are_registers(program: Path) -> None:
    args = (
        Arg(0, ArgType.INT),
        Arg(5, ArgType.UINT64),
        Arg(1, ArgType.STRING),
        Arg(2, ArgType.CHAR_BUF, size_arg=3),
        Arg(3, ArgType.UINT16),
        Arg(4, ArgType.FD),
        Arg(0, ArgType.NOP),
    )
    (point,) = resolve(uprobe(program, "podgate_add", args=args))
    user = Memory.USER
    assert [value for _, value in point.args] == [
        Value(ArgType.INT, argument(0, 4, True)),
        Value(ArgType.UINT64, argument(5)),
        Value(ArgType.STRING, argument(1), user),
        Value(ArgType.CHAR_BUF, argument(2), user, length=argument(3, 2)),
        Value(ArgType.UINT16, argument(3, 2)),
        Value(ArgType.FD, argument(4, 4, True)),
        None,
    ]


def test_lengths_that_c_has_as_int(program: Path) -> None:
    args = (Arg(1, ArgType.CHAR_IOVEC, size_arg=2), Arg(0, ArgType.SOCKADDR, size_arg=3))
    (point,) = resolve(uprobe(program, "podgate_add", args=args))
    assert [value and value.length for _, value in point.args] == [argument(2, 4), argument(3, 4)]


@pytest.mark.parametrize(
    ("arg", "reason"),
    [
        (Arg(6, ArgType.INT), "argument 6 of a function is on the stack"),
        (Arg(0, ArgType.CHAR_BUF, size_arg=7), "argument 7 of a function is on the stack"),
        (Arg(0, ArgType.AUTO), "does not say which type"),
        (Arg(0, ArgType.FILE), "object of the kernel"),
        (Arg(0, ArgType.CHAR_BUF), "unknown length"),
        (Arg(0, ArgType.CHAR_BUF, size_arg=1, return_copy=True), "returnCopy without a return"),
        (Arg(0, ArgType.INT, resolve=("number",)), "add btfType"),
        (Arg(0, ArgType.INT, btf_type="outer"), "btfType without resolve"),
        (Arg(0, ArgType.INT, resolve=("x",), btf_type="outer", btf_module="ext4"), "btfTypeModule"),
        (Arg(0, ArgType.INT, resolve=("innner",), btf_type="outer"), "did you mean inner?"),
        (Arg(0, ArgType.INT, resolve=("number",), btf_type="inner_"), "did you mean inner?"),
        (Arg(0, ArgType.INT, resolve=("inner", "name"), btf_type="outer"), "type"),
    ],
)
def test_refused_argument(program: Path, arg: Arg, reason: str) -> None:
    refused(uprobe(program, "podgate_add", "podgate_local", args=(arg,)), reason)


def test_position_of_an_argument(program: Path) -> None:
    arg = Arg(6, ArgType.INT, source=replace(SOURCE, line=9, column=11))
    with pytest.raises(PolicyErrors, match=r"^p\.yaml:9:11: argument 6"):
        resolve(uprobe(program, "podgate_add", args=(arg,)))


def test_return_value_and_copies(program: Path) -> None:
    copy = Arg(1, ArgType.CHAR_BUF, size_arg=2, return_copy=True)
    (point,) = resolve(uprobe(program, "podgate_add", args=(copy,), return_arg=Arg(0, ArgType.INT)))
    assert point.return_value == Value(ArgType.INT, Read(Input(InputKind.RETURN, 0, 4, True)), at_return=True)
    (value,) = (value for _, value in point.args)
    assert value is not None
    assert value.at_return
    hook = uprobe(program, "podgate_add", return_arg=Arg(0, ArgType.STRING))
    (point,) = resolve(hook)
    assert point.return_value == Value(ArgType.STRING, Read(Input(InputKind.RETURN)), Memory.USER, at_return=True)
    refused(uprobe(program, "podgate_add", return_arg=Arg(0, ArgType.AUTO)), "which type the function returns")
    refused(replace(hook, return_arg_action=ActionKind.TRACK_SOCK), "needs a sock")
    refused(uprobe(program, "podgate_add", return_arg=Arg(0, ArgType.CHAR_BUF, size_arg=1)), "sizeArgIndex")


def test_members_of_a_structure(program: Path) -> None:
    """struct outer of probed.c, as the compiler has laid it out."""
    user = Memory.USER
    number = Arg(0, ArgType.INT, resolve=("inner", "number"), btf_type="outer")
    assert read_of(uprobe(program, "podgate_struct", args=(number,))) == Value(
        ArgType.INT, Read(Input(InputKind.ARGUMENT), (8, 0), memory=user, size=4, signed=True)
    )
    name = Arg(0, ArgType.AUTO, resolve=("inner", "name"), btf_type="outer")
    assert read_of(uprobe(program, "podgate_struct", args=(name,))) == Value(
        ArgType.STRING, Read(Input(InputKind.ARGUMENT), (8, 8), memory=user), user
    )
    high = Arg(0, ArgType.UINT8, resolve=("high",), btf_type="outer")
    read = read_of(uprobe(program, "podgate_struct", args=(high,))).read
    assert (read.offsets, read.bit_offset, read.bit_size) == ((16,), 3, 5)
    assert read_of(usdt(program, "scaled", args=(replace(number, index=1),))).read.offsets == (8, 0)


def test_types_of_another_file(program: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.btf"
    subprocess.run(["objcopy", "--dump-section", f".BTF={raw}", program, tmp_path / "rest"], check=True)
    stripped = tmp_path / "stripped"
    subprocess.run(["objcopy", "--remove-section=.BTF", program, stripped], check=True)
    number = Arg(0, ArgType.INT, resolve=("inner", "number"), btf_type="outer")
    refused(uprobe(stripped, "podgate_struct", args=(number,)), "no section .BTF")
    target = UprobeTarget(str(stripped), ("podgate_struct",), btf_path=str(raw))
    expected = read_of(uprobe(program, "podgate_struct", args=(number,)))
    assert read_of(uprobe(target, args=(number,))) == expected
    raw.write_bytes(b"\x9f\xebjunk")
    refused(uprobe(target, args=(number,)), "name a file of BTF")
    refused(uprobe(replace(target, btf_path=str(tmp_path)), args=(number,)), "no regular file")


def test_registers_as_data(program: Path) -> None:
    data = (
        Arg(0, ArgType.UINT64, resolve=("rdi",), data_source=DataSource.PT_REGS),
        Arg(0, ArgType.UINT8, resolve=("ah",), data_source=DataSource.PT_REGS),
    )
    (point,) = resolve(uprobe(program, "podgate_add", data=data))
    assert [value and value.read for _, value in point.data] == [
        Read(Input(InputKind.REGISTER, REGISTERS["rdi"].offset)),
        Read(Input(InputKind.REGISTER, REGISTERS["rax"].offset + 1, 1)),
    ]
    wrong = Arg(0, ArgType.UINT64, resolve=("rdx2",), data_source=DataSource.PT_REGS)
    refused(uprobe(program, "podgate_add", data=(wrong,)), "no register")


def test_usdt_places_have_their_own_operands(program: Path) -> None:
    first, second = resolve(usdt(program, "places", args=(Arg(0, ArgType.AUTO),)))
    assert [first.point.kind, first.number, second.number, first.symbol] == [PointKind.USDT, 3, 4, ""]
    assert [point.args[0][0].type for point in (first, second)] == [ArgType.UINT64, ArgType.INT32]
    value = second.args[0][1]
    assert value is not None
    assert value.read == Read(Input(InputKind.CONSTANT, (1 << 64) - 5))
    refused(usdt(program, "places", args=(Arg(0, ArgType.UINT64),)), "write type: int32")


def test_usdt_values(program: Path) -> None:
    args = (Arg(0, ArgType.UINT32), Arg(1, ArgType.STRING), Arg(1, ArgType.CHAR_BUF, size_arg=0), Arg(0, ArgType.FD))
    (point,) = resolve(usdt(program, "plain", args=args))
    rdi = Read(Input(InputKind.REGISTER, REGISTERS["rdi"].offset, 4))
    rsi = Read(Input(InputKind.REGISTER, REGISTERS["rsi"].offset))
    signed = replace(rdi, input=replace(rdi.input, signed=True))
    assert [value for _, value in point.args] == [
        Value(ArgType.UINT32, rdi),
        Value(ArgType.STRING, rsi, Memory.USER),
        Value(ArgType.CHAR_BUF, rsi, Memory.USER, length=signed),
        Value(ArgType.FD, signed),
    ]


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("plane", (), "did you mean podgate_test/plain?"),
        ("xyzzy/q", (), 'it has "podgate_test/counted"'),
        ("plain", (Arg(2, ArgType.INT32),), "has 2 arguments, and none 2, use 0 to 1"),
        ("counted", (Arg(0, ArgType.INT32),), "has 0 arguments, and none 0"),
        ("plain", (Arg(0, ArgType.INT16),), "write type: int32"),
        ("plain", (Arg(0, ArgType.INT64),), "write type: int32"),
        ("plain", (Arg(0, ArgType.STRING),), "argument 0 (-4@%edi)"),
        ("plain", (Arg(1, ArgType.INT32),), "write type: uint64"),
        ("plain", (Arg(1, ArgType.FILE),), "object of the kernel"),
        ("plain", (Arg(0, ArgType.INT32, resolve=("a",), btf_type="outer"),), "is no address"),
        ("plain", (Arg(1, ArgType.CHAR_BUF, size_arg=0, return_copy=True),), "returnCopy without a return"),
    ],
)
def test_refused_usdt(program: Path, name: str, args: tuple[Arg, ...], reason: str) -> None:
    refused(usdt(program, name, args), reason)


def test_symbol_of_an_operand_is_needed_only_where_it_is_read(program: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", stripped, program], check=True)
    assert resolve(usdt(stripped, "operands", args=(Arg(2, ArgType.INT64),)))
    refused(usdt(stripped, "operands", args=(INT32,)), 'symbol "counter", which the file does not have')


def test_set(program: Path) -> None:
    action = Action(ActionKind.SET, value=7)
    assert resolve(usdt(program, "operands", args=(INT32,), actions=(action,)))
    for arg in (Arg(2, ArgType.INT64), Arg(3, ArgType.UINT8), Arg(5, ArgType.UINT16)):
        refused(usdt(program, "operands", args=(arg,), actions=(action,)), "four bytes in memory")
    refused(usdt(program, "plain", args=(Arg(0, ArgType.INT32),), actions=(action,)), "four bytes in memory")
    refused(uprobe(program, "podgate_add", args=(Arg(0, ArgType.INT),), actions=(action,)), "USDT probes only")


def test_set_is_refused_where_no_program_may_write_to_processes(program: Path) -> None:
    class LockedDown(UserFacts):
        refusal = "the kernel refuses it"

    action = Action(ActionKind.SET, value=7, source=replace(SOURCE, line=20))
    hook = usdt(program, "operands", args=(INT32,), actions=(action,))
    told = "p.yaml:20:3: Set is not possible on this node: the kernel refuses it, leave it out, or"
    refused(hook, told, facts=LockedDown())
    other = replace(action, kind=ActionKind.SIGKILL)
    assert resolve(usdt(program, "operands", args=(INT32,), actions=(other,)), LockedDown())


def test_override_is_refused(program: Path) -> None:
    where = replace(SOURCE, line=20)
    action = Action(ActionKind.OVERRIDE, registers=("rax=1",), source=where)
    refused(uprobe(program, "podgate_add", actions=(action,)), "p.yaml:20:3: Override of a uprobe would change")
    refused(usdt(program, "plain", actions=(action,)), "Override of a usdt would change")
