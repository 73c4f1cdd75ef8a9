# SPDX-License-Identifier: Apache-2.0
"""Tracepoints by their names, and the layout of those of system calls."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.errors import KernelError
from agent.kernel.tracepoint import Tracepoints, check_layout, parse_format
from agent.policy.codegen_unit import Side

_COMMON = """name: {name}
ID: 700
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;
"""
_ENTER = _COMMON + (
    "\tfield:unsigned int fd;\toffset:16;\tsize:8;\tsigned:0;\n"
    "\tfield:const char * const * argv;\toffset:24;\tsize:8;\tsigned:0;\n"
    '\nprint fmt: "fd: 0x%08lx", ((unsigned long)(REC->fd))\n'
)
_EXIT = _COMMON + "\tfield:long ret;\toffset:16;\tsize:8;\tsigned:1;\n"


def test_fields_have_their_offsets_and_sizes() -> None:
    fields = parse_format(_ENTER)
    assert (fields["__syscall_nr"], fields["fd"], fields["argv"]) == ((8, 4), (16, 8), (24, 8))
    assert len(fields) == 7


@pytest.mark.parametrize("text", [_ENTER, _EXIT, _COMMON])
def test_the_layout_that_the_rules_read_is_accepted(text: str) -> None:
    check_layout(text, "sys_x")
    assert parse_format(text)["__syscall_nr"] == (8, 4)


@pytest.mark.parametrize(
    ("old", "new"),
    [("offset:8;", "offset:12;"), ("offset:16;", "offset:12;"), ("__syscall_nr", "nr"), ("offset:16;", "offset:24;")],
)
def test_another_layout_is_refused(old: str, new: str) -> None:
    with pytest.raises(KernelError, match="tracepoint sys_x has an unknown layout"):
        check_layout(_EXIT.replace(old, new), "sys_x")


@given(st.text(max_size=100))
def test_junk_is_no_layout(junk: str) -> None:
    with pytest.raises(KernelError):
        check_layout(junk, "sys_x")


@pytest.fixture
def tracefs(tmp_path: Path) -> Path:
    for name, text in (("sys_enter_lseek", _ENTER), ("sys_exit_lseek", _EXIT), ("sys_enter_odd", _ENTER)):
        folder = tmp_path / "events/syscalls" / name
        folder.mkdir(parents=True)
        (folder / "format").write_text(text)
        (folder / "id").write_text(f"{len(name)}\n")
    return tmp_path


def test_a_call_that_the_kernel_has_exists(tracefs: Path) -> None:
    points = Tracepoints(tracefs)
    assert points.exists("lseek")
    assert not points.exists("nothing")


def test_the_id_of_each_side_is_read(tracefs: Path) -> None:
    points = Tracepoints(tracefs)
    assert [points.event_id("lseek", side) for side in Side] == [15, 14]


def test_a_call_without_a_tracepoint_is_an_error_that_names_it(tracefs: Path) -> None:
    with pytest.raises(KernelError, match="no tracepoint syscalls/sys_exit_odd"):
        Tracepoints(tracefs).event_id("odd", Side.EXIT)


def test_a_tracepoint_with_another_layout_has_no_id(tracefs: Path) -> None:
    (tracefs / "events/syscalls/sys_exit_lseek/format").write_text(_EXIT.replace("offset:16", "offset:20"))
    with pytest.raises(KernelError, match="unknown layout"):
        Tracepoints(tracefs).event_id("lseek", Side.EXIT)


def test_other_tracepoints_are_found_by_subsystem_and_event(tracefs: Path) -> None:
    folder = tracefs / "events/sched/sched_switch"
    folder.mkdir(parents=True)
    (folder / "id").write_text("300\n")
    assert Tracepoints(tracefs).id_of("sched/sched_switch") == 300


@pytest.mark.parametrize("event", ["sched/none", "../x/y", "sched", "sched/..", "a/b/c", "", "sched/a b", "/etc/x"])
def test_event_that_is_none_is_an_error(tracefs: Path, event: str) -> None:
    (tracefs / "x").mkdir()
    (tracefs / "x" / "id").write_text("1")
    with pytest.raises(KernelError, match="no tracepoint"):
        Tracepoints(tracefs).id_of(event)
