# SPDX-License-Identifier: Apache-2.0
"""Paths through the kernel's types, from the calling task on."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.btf import Btf, Kind
from agent.kernel.btf_types import BtfTypes
from agent.policy.access import Input, InputKind, Memory, Read, Value
from agent.policy.facts import FactsError
from agent.policy.model import Arg, ArgType, HookKind
from agent.policy.resolve_btf import MAX_MEMBERS, MAX_POINTERS, Place, leaf_at, spell, walk
from agent.policy.resolve_faults import ResolveError
from tests.support.btf_blob import BtfBlob
from tests.support.kernel_facts import kernel_btf
from tests.support.resolving import data_of, faults, make_hook, task

TASK = Input(InputKind.TASK)


def number(kind: ArgType, *offsets: int, size: int = 4, signed: bool = False) -> Value:
    return Value(kind, Read(TASK, offsets, size=size, signed=signed))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pid", number(ArgType.INT32, 0, signed=True)),
        ("state", number(ArgType.UINT32, 48)),
        ("mm.owner.pid", number(ArgType.INT32, 24, 8, 0, signed=True)),
        ("mm.owner.mm.owner.pid", number(ArgType.INT32, 24, 8, 24, 8, 0, signed=True)),
        ("mm.arg_start", number(ArgType.UINT64, 24, 24, size=8)),
        ("cred.uid", number(ArgType.UINT32, 32, 4)),
        ("fds[2]", number(ArgType.UINT32, 72)),
        ("fds.[3]", number(ArgType.UINT32, 76)),
        ("table[3].f_mode", number(ArgType.UINT32, 80, 24, 0)),
        ("table.f_mode", number(ArgType.UINT32, 80, 0, 0)),
        ("numbers[2]", number(ArgType.INT32, 88, 8, signed=True)),
        ("mm", number(ArgType.UINT64, 24, size=8)),
        ("cred.cap_effective", number(ArgType.KERNEL_CAP_T, 32, 8, size=8)),
        ("caps", number(ArgType.KERNEL_CAP_T, 136, 0, size=8)),
        ("mm.exe_file", number(ArgType.FILE, 24, 40, size=8)),
        ("mm.exe_file.f_path", Value(ArgType.PATH, Read(TASK, (24, 40, 64), in_place=True))),
        ("mm.exe_file.f_path.dentry", number(ArgType.DENTRY, 24, 40, 72, size=8)),
        ("mm.exe_file.f_path.dentry.d_name.hash", number(ArgType.UINT32, 24, 40, 72, 32)),
        ("mm.exe_file.f_path.dentry.d_name.len", number(ArgType.UINT32, 24, 40, 72, 36)),
        ("path_text", Value(ArgType.STRING, Read(TASK, (56,)), Memory.USER)),
        ("text", Value(ArgType.STRING, Read(TASK, (128,), in_place=True))),
    ],
)
def test_a_path_and_its_type(path: str, value: Value) -> None:
    assert data_of(task(path)) == value


def test_a_name_in_the_structure_ends_at_its_nul() -> None:
    found = data_of(task("comm", ArgType.STRING))
    length = Read(Input(InputKind.CONSTANT, 16))
    assert found == Value(ArgType.CHAR_BUF, Read(TASK, (4,), in_place=True), length=length, is_string=True)
    assert data_of(task("comm", ArgType.CHAR_BUF)) == replace(found, is_string=False)


def test_bits_in_their_unit_and_across_it() -> None:
    inside = Read(TASK, (40,), size=4, bit_offset=5, bit_size=3)
    assert data_of(task("frozen")) == Value(ArgType.UINT32, inside)
    assert data_of(task("frozen", ArgType.UINT8)).read == inside
    assert data_of(task("frozen", ArgType.INT8)).read == replace(inside, signed=True)
    assert data_of(task("crossing", ArgType.UINT8)).read == Read(TASK, (43,), size=2, bit_offset=6, bit_size=7)


def test_a_number_behind_a_pointer() -> None:
    assert data_of(task("numbers", ArgType.INT)) == number(ArgType.INT, 88, 0, signed=True)
    assert data_of(task("numbers", ArgType.UINT64)) == number(ArgType.UINT64, 88, size=8)


def test_bytes_of_a_structure() -> None:
    found = data_of(task("mm.exe_file.f_path", ArgType.CONST_BUF))
    assert found == Value(
        ArgType.CONST_BUF, Read(TASK, (24, 40, 64), in_place=True), length=Read(Input(InputKind.CONSTANT, 16))
    )


def test_the_task_itself_cast() -> None:
    assert data_of(replace(task("f_mode"), btf_type="file")).read == Read(TASK, (0,), size=4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (task("mm.owner.pidd"), 'struct task_struct has no member "pidd", did you mean pid?'),
        (
            task("mm.nothing_like_it"),
            'struct mm_struct has no member "nothing_like_it", see the members of struct mm_struct',
        ),
        (task("mm.ownr"), 'has no member "ownr", did you mean owner?'),
        (task("pid.x"), "current_task.pid (pid_t) has no members"),
        (task("opaque.x"), "elsewhere) has no members"),
        (task("fds[4]"), "current_task.fds has 4 elements, use [0] to [3]"),
        (task("pid[1]"), "current_task.pid is no array"),
        (task("call[1]"), "the elements of current_task.call have no size"),
        (task("fds[99999999999]"), "is no member name"),
        (task("numbers[2000000000]"), "at most 2,147,483,647 can be read"),
        (task("a b"), "is no member name"),
        (task(""), '"" is no member name'),
        (task("mm..owner"), '"" is no member name'),
        (task("huge"), "no type is known for current_task.huge (__int128)"),
        (task("pid", ArgType.LONG), "current_task.pid (pid_t) cannot be read as type long, write type: int32"),
        (task("pid", ArgType.STRING), "cannot be read as type string, write type: int32"),
        (task("comm", ArgType.INT), "(char[16]) cannot be read as type int, write type: string"),
        (task("fds", ArgType.STRING), "write type: const_buf"),
        (task("mm.exe_file", ArgType.SOCK), "(struct file *) cannot be read as type sock, write type: file"),
        (task("mm", ArgType.INT), "(struct mm_struct *) cannot be read as type int, write type: uint64"),
        (task("path_text", ArgType.CHAR_BUF), "a char_buf of unknown length"),
        (task("path_text[0]"), "which cannot be followed further, end `resolve` at that pointer"),
        (replace(task("x"), btf_type="no_such"), 'no type "no_such" in BTF'),
        (task(".".join(["mm", "owner"] * 40 + ["pid"])), f"more than {MAX_POINTERS} pointers to follow"),
    ],
)
def test_what_is_not_there(entry: Arg, message: str) -> None:
    found = faults(replace(make_hook(HookKind.SYSCALL, "getpid"), data=(entry,)))
    assert found.startswith("policy.yaml:7:3: ")
    assert message in found


def one_type(blob: BtfBlob, type_id: int) -> tuple[BtfTypes, Place]:
    return BtfTypes(Btf.parse(blob.build())), Place(type_id, Read(TASK, (0,)), "x")


def test_anonymous_structures_without_end() -> None:
    """Each level has the next one twice: as many members as no kernel has."""
    blob = BtfBlob()
    inner = blob.composite("", 4, [("x", blob.integer("int", 4), 0)])
    for _ in range(30):
        inner = blob.composite("", 4, [("", inner, 0), ("", inner, 0)], Kind.UNION)
    types, place = one_type(blob, inner)
    with pytest.raises(ResolveError, match=f"more than {MAX_MEMBERS:,} members"):
        walk(types, place, ("y",))
    assert walk(types, place, ("x",)).read == Read(TASK, (0,))


def test_a_pointer_to_itself() -> None:
    types, place = one_type(blob := BtfBlob(), blob.add(Kind.PTR, "", 1))
    with pytest.raises(ResolveError, match=f"more than {MAX_POINTERS} pointers"):
        walk(types, place, ("x",))
    assert spell(types, 1).count("*") == 32


def test_what_is_no_type_of_a_value() -> None:
    blob = BtfBlob()
    variable = blob.add(Kind.VAR, "v", blob.integer("int", 4), body=bytes(4))
    types, _ = one_type(blob, variable)
    with pytest.raises(FactsError, match="a VAR is no type of a value"):
        types.describe(variable)
    with pytest.raises(FactsError, match="there is no type 99"):
        types.members(99)


def test_the_names_of_types() -> None:
    types = BtfTypes(Btf.parse(kernel_btf()))
    assert types.find("struct file") == types.find("file") != types.find("path")
    assert types.find("union file") is None
    assert types.find("pid_t") == types.find("typedef pid_t")
    assert types.find("enum state") is None
    assert types.find("fil\udce9") is None
    assert {"file", "task_struct"} <= set(types.names())


@given(st.lists(st.text(alphabet="mownerpidcadtabl[]0123.f_", max_size=12), max_size=6))
def test_any_path_is_a_value_or_a_reason(path: list[str]) -> None:
    types = BtfTypes(Btf.parse(kernel_btf()))
    start = types.find("task_struct")
    assert start is not None
    with contextlib.suppress(ResolveError):
        assert leaf_at(types, walk(types, Place(start, Read(TASK, (0,)), "task"), tuple(path))).text
