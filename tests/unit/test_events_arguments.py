# SPDX-License-Identifier: Apache-2.0
"""The values of events by their types: ranges, names, texts, paths, bytes, and what is missing."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.arguments import argument, make_argument, returned
from agent.events.decoder import Item
from agent.events.layout import CUT_HEAD, CUT_TAIL, DELETED, OUTSIDE, UNREADABLE
from agent.policy.model import ArgType

ALL = (1 << 64) - 1
ID = 16


def number(value: int, flags: int = 0) -> Item:
    return Item((value & ALL).to_bytes(8, "little"), flags, 0, True)


def show(kind: str, item: Item | None, **more: Any) -> dict[str, Any]:
    return argument({} if item is None else {ID: item}, make_argument(ArgType(kind), {}, ID, **more))


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("int", 0xDEADBEEF_80000000, -(1 << 31)),
        ("int", 0x1_7FFFFFFF, (1 << 31) - 1),
        ("uint", 0x1_00000000, 0),
        ("uint", ALL, (1 << 32) - 1),
        ("long", 1 << 63, -(1 << 63)),
        ("ulong", ALL, ALL),
        ("size_t", 1 << 63, 1 << 63),
        ("sint8", 0x1FF, -1),
        ("int8", 0x80, -128),
        ("uint8", 0x1FF, 255),
        ("int16", 0xFFFF, -1),
        ("uint16", 0x1_0001, 1),
        ("sint64", ALL, -1),
        ("uint64", ALL, ALL),
    ],
)
def test_numbers_have_their_types_width_and_sign(kind: str, raw: int, value: int) -> None:
    assert show(kind, number(raw)) == {"type": kind, "value": value}


@pytest.mark.parametrize(
    ("kind", "raw", "said"),
    [
        ("capability", 21, {"value": 21, "name": "CAP_SYS_ADMIN"}),
        ("capability", 63, {"value": 63, "name": None}),
        ("capability", -1, {"value": -1, "name": None}),
        ("bpf_cmd", 5, {"value": 5, "name": "BPF_PROG_LOAD"}),
        ("bpf_cmd", 36, {"value": 36, "name": "BPF_TOKEN_CREATE"}),
        ("bpf_cmd", 9999, {"value": 9999, "name": None}),
        ("syscall64", 59, {"value": {"id": 59, "name": "execve", "abi": "x64"}}),
        ("syscall64", 1 << 31 | 11, {"value": {"id": 11, "name": None, "abi": "i386"}}),
        ("syscall64", 1 << 30 | 1, {"value": {"id": 1, "name": "write", "abi": "x32"}}),
        ("syscall64", ALL >> 33, {"value": {"id": (1 << 30) - 1, "name": None, "abi": "x32"}}),
        ("cap_effective", 0b11, {"value": 3, "names": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]}),
        (
            "kernel_cap_t",
            1 << 40 | 1 << 63,
            {"value": 1 << 40 | 1 << 63, "names": ["CAP_CHECKPOINT_RESTORE", "CAP_63"]},
        ),
        ("cap_permitted", 0, {"value": 0, "names": []}),
        ("cap_inheritable", 1 << 39, {"value": 1 << 39, "names": ["CAP_BPF"]}),
    ],
)
def test_numbers_that_have_names_say_them(kind: str, raw: int, said: dict[str, Any]) -> None:
    assert show(kind, number(raw)) == {"type": kind} | said


@pytest.mark.parametrize("kind", [kind.value for kind in ArgType if kind.is_number])
@pytest.mark.parametrize("item", [None, number(1, UNREADABLE), Item(b"12345678")])
def test_a_number_that_is_not_there_is_null(kind: str, item: Item | None) -> None:
    assert show(kind, item) == {"type": kind, "value": None, "unreadable": True}


@pytest.mark.parametrize("kind", ["string", "filename", "data_loc"])
def test_texts(kind: str) -> None:
    assert show(kind, Item(b"/a\xff\x1b")) == {"type": kind, "value": "/a\\xff\x1b"}
    assert show(kind, Item(b"comm\0rest", CUT_TAIL)) == {"type": kind, "value": "comm", "truncated": True}
    for missing in (None, Item(b"x", UNREADABLE), number(5)):
        assert show(kind, missing) == {"type": kind, "value": None, "unreadable": True}


@pytest.mark.parametrize("kind", ["file", "path", "dentry", "kiocb", "linux_binprm"])
def test_paths_say_what_they_lead_to(kind: str) -> None:
    item = Item(b"/tmp/x", CUT_HEAD | DELETED | OUTSIDE, stat.S_IFREG | 0o4755)
    said = {"file_type": "regular", "mode": "4755", "deleted": True, "outside": True, "truncated": True}
    assert show(kind, item) == {"type": kind, "value": "/tmp/x"} | said
    assert show(kind, Item(b"/tmp")) == {"type": kind, "value": "/tmp"}
    assert show(kind, Item(b"", UNREADABLE | DELETED, 0o100000)) == {"type": kind, "value": None, "unreadable": True}


@pytest.mark.parametrize(
    ("mode", "word"),
    [
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFLNK, "link"),
        (stat.S_IFBLK, "block"),
        (stat.S_IFDIR, "dir"),
        (stat.S_IFCHR, "char"),
        (stat.S_IFIFO, "fifo"),
        (0o170000, None),
    ],
)
def test_each_type_of_file_has_its_word(mode: int, word: str | None) -> None:
    assert show("file", Item(b"/x", 0, mode | 0o600)) == {
        "type": "file",
        "value": "/x",
        "file_type": word,
        "mode": "0600",
    }


def test_a_descriptor_is_a_path_and_its_number_where_the_record_has_it() -> None:
    assert show("fd", Item(b"/d", CUT_HEAD)) == {"type": "fd", "path": "/d", "truncated": True}
    items = {ID: Item(b"/d"), 17: number(-100)}
    assert argument(items, make_argument(ArgType.FD, {}, ID, 17)) == {"type": "fd", "path": "/d", "value": -100}
    assert argument({17: number(7)}, make_argument(ArgType.FD, {}, ID, 17))["value"] == 7


@pytest.mark.parametrize("kind", ["char_buf", "const_buf", "char_iovec"])
def test_bytes(kind: str) -> None:
    assert show(kind, Item(b"\0\1", CUT_TAIL)) == {"type": kind, "base64": "AAE=", "truncated": True}
    assert show(kind, Item(b"\0\1", CUT_TAIL, 2)) == {"type": kind, "base64": "AAE=", "truncated": True}
    assert show(kind, Item(b"\0\1", CUT_TAIL, 3)) == {"type": kind, "base64": "AAE=", "truncated": True, "size": 3}
    assert show(kind, Item(b"\0\1", 0, 3)) == {"type": kind, "base64": "AAE="}
    for missing in (None, Item(b"x", UNREADABLE), number(5)):
        assert show(kind, missing) == {"type": kind, "base64": None, "unreadable": True}


def test_a_nop_has_no_value() -> None:
    assert argument({0: number(1)}, make_argument(ArgType.NOP, {"index": 3})) == {"index": 3, "type": "nop"}


@pytest.mark.parametrize(
    ("kind", "raw", "said"),
    [
        ("int", -2, {"value": -2, "error": "ENOENT"}),
        ("long", -4095, {"value": -4095, "error": None}),
        ("long", -4096, {"value": -4096}),
        ("int", 0, {"value": 0}),
        ("uint", -2, {"value": (1 << 32) - 2}),
    ],
)
def test_what_a_call_returned_says_which_error_it_is(kind: str, raw: int, said: dict[str, Any]) -> None:
    assert returned({ID: number(raw)}, make_argument(ArgType(kind), {}, ID)) == {"type": kind} | said


_VALUED = [kind for kind in ArgType if kind not in (ArgType.AUTO, ArgType.NOP)]


@given(
    st.sampled_from(_VALUED), st.binary(max_size=600), st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.booleans()
)
def test_any_bytes_of_any_type_are_json(kind: ArgType, data: bytes, flags: int, mode: int, is_number: bool) -> None:
    fields = argument({ID: Item(data, flags, mode, is_number)}, make_argument(kind, {"index": 0}, ID, ID))
    assert json.loads(json.dumps(fields)) == fields


@pytest.mark.parametrize("kind", ["sock", "cred", "bpf_map", "module", "sockaddr_un"])
def test_structures_are_fields_and_what_is_none_is_said_to_be(kind: str) -> None:
    assert show(kind, Item(b"\1"))["value"]
    for missing in (None, Item(b"x", UNREADABLE), number(5)):
        assert show(kind, missing) == {"type": kind, "value": None, "unreadable": True}


@pytest.mark.parametrize("kind", [ArgType.AUTO, ArgType.NOP])
def test_a_type_without_values_is_not_given_one(kind: ArgType) -> None:
    with pytest.raises(ValueError, match="has no value"):
        make_argument(kind, {}, ID)
