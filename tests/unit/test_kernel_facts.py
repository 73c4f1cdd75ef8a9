# SPDX-License-Identifier: Apache-2.0
"""What is read of tracefs and BTF, from directories that look like them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from agent.kernel.btf import Btf, BtfError, Kind, Parameter
from agent.kernel.facts import RunningKernel
from agent.kernel.formats import parse_fields
from agent.policy.facts import FactsError, RecordField
from tests.support.btf_blob import BtfBlob
from tests.support.kernel_facts import btf_in, format_text, kernel_btf, split_blob

EXEC = "sched/sched_process_exec"


@pytest.fixture
def facts(tmp_path: Path) -> RunningKernel:
    for name in (EXEC, "syscalls/sys_enter_read", "syscalls/sys_enter_getpid"):
        folder = tmp_path / "tracing/events" / name
        folder.mkdir(parents=True)
        (folder / "format").write_text(format_text(name))
        (folder / "enable").write_text("0\n")
    internal = tmp_path / "tracing/events/ftrace/function"
    internal.mkdir(parents=True)
    (internal / "format").write_text(format_text(EXEC))
    (tmp_path / "btf").mkdir()
    (tmp_path / "btf/vmlinux").write_bytes(kernel_btf())
    (tmp_path / "btf/xfs").write_bytes(split_blob(kernel_btf()))
    return RunningKernel(tmp_path / "tracing", btf_in(tmp_path / "btf"))


def test_lines_of_a_format_file() -> None:
    text = (
        "name: x\nID: 1\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:const char *const * argv;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:char comm[TASK_COMM_LEN];\toffset:16;\tsize:16;\tsigned:0;\n"
        "\tfield:__data_loc  char[]  name;\toffset:32;\tsize:4;\tsigned:0;\n"
        "\tfield:long ret;\toffset:40;\tsize:8;\n"
        "\tfield:int x;\toffset:-1;\tsize:4;\tsigned:1;\n"
        "\tfield:;\toffset:1;\tsize:4;\tsigned:1;\n"
        '\nprint fmt: "%s", REC->argv\n'
    )
    assert parse_fields(text) == (
        RecordField("common_type", "unsigned short", 0, 2, signed=False),
        RecordField("argv", "const char *const *", 8, 8, signed=False),
        RecordField("comm", "char[TASK_COMM_LEN]", 16, 16, signed=False),
        RecordField("name", "__data_loc char[]", 32, 4, signed=False),
        RecordField("ret", "long", 40, 8, signed=False),
    )


def test_kinds_of_fields() -> None:
    def field(text: str) -> tuple[bool, bool, bool]:
        found = RecordField("x", text, 8, 8, signed=False)
        return found.is_array, found.is_dynamic, found.is_pointer

    assert field("char[16]") == (True, False, False)
    assert field("__data_loc char[]") == (False, True, False)
    assert field("__rel_loc char[]") == (False, True, False)
    assert field("struct file *") == (False, False, True)
    assert field("u32") == (False, False, False)


def test_system_calls_and_their_arguments(facts: RunningKernel) -> None:
    fields = facts.syscall("read")
    assert fields is not None
    assert [field.text for field in fields] == ["unsigned int fd", "char * buf", "size_t count"]
    assert facts.syscall("getpid") == ()
    assert facts.syscall("openat") is None


def test_copies_of_texts_are_no_arguments(facts: RunningKernel, tmp_path: Path) -> None:
    path = tmp_path / "tracing/events/syscalls/sys_enter_read/format"
    path.write_text(path.read_text() + "\tfield:__data_loc char[] __buf_val;\toffset:40;\tsize:4;\tsigned:0;\n")
    fields = facts.syscall("read")
    assert fields is not None
    assert len(fields) == 3


def test_the_format_of_a_call_that_is_none(facts: RunningKernel, tmp_path: Path) -> None:
    (tmp_path / "tracing/events/syscalls/sys_enter_read/format").write_text(format_text(EXEC))
    with pytest.raises(FactsError, match="the format of sys_enter_read is not known"):
        facts.syscall("read")


def test_a_kernel_without_tracepoints_of_calls(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="CONFIG_FTRACE_SYSCALLS"):
        RunningKernel(tmp_path).syscall("read")


def test_tracepoints(facts: RunningKernel) -> None:
    fields = facts.tracepoint(EXEC)
    assert fields is not None
    assert (fields[4].name, fields[4].offset) == ("filename", 8)
    assert set(facts.tracepoint_names()) == {EXEC, "syscalls/sys_enter_read", "syscalls/sys_enter_getpid"}
    for name in (
        "sched/other",
        "ftrace/function",
        "../events/sched",
        "sched/../sched/sched_process_exec",
        "sched/..",
        "sched",
        "/",
        "",
    ):
        assert facts.tracepoint(name) is None


def test_a_format_that_cannot_be_read(facts: RunningKernel, tmp_path: Path) -> None:
    path = tmp_path / "tracing/events" / EXEC / "format"
    path.unlink()
    path.mkdir()
    with pytest.raises(FactsError, match="Is a directory"):
        facts.tracepoint(EXEC)


def test_what_was_read_is_given_up(facts: RunningKernel, tmp_path: Path) -> None:
    with facts:
        assert facts.tracepoint("sched/late") is None
        assert facts.types().find("file") is not None
        folder = tmp_path / "tracing/events/sched/late"
        folder.mkdir()
        (folder / "enable").touch()
        (folder / "format").write_text(format_text(EXEC))
        (tmp_path / "btf/vmlinux").unlink()
        assert facts.tracepoint("sched/late") is None
        assert facts.types().find("file") is not None
    assert facts.tracepoint("sched/late") is not None
    with pytest.raises(FactsError, match=r"the kernel has no BTF .*, boot a kernel with CONFIG_DEBUG_INFO_BTF=y"):
        facts.types()


def test_raw_tracepoints_of_the_kernel_and_of_modules(facts: RunningKernel) -> None:
    found = facts.raw_tracepoint("sched_process_exec")
    assert found is not None
    assert len(found.parameters) == 3
    assert set(facts.raw_tracepoint_names()) == {"sched_process_exec", "sys_enter", "bare_tp", "empty_tp"}
    assert facts.raw_tracepoint("sched_process") is None
    of_module = facts.raw_tracepoint("module_event")
    assert of_module is not None
    (parameter,) = of_module.parameters
    pointer = of_module.types.describe(parameter.type_id)
    assert of_module.types.describe(pointer.target).names == ("file",)


def test_the_types_of_a_module(facts: RunningKernel) -> None:
    types = facts.types("xfs")
    structure = types.find("module_struct")
    assert structure is not None
    (member,) = types.members(structure)
    assert member.name == "member"
    assert types.describe(types.describe(member.type_id).target).names == ("file",)
    assert facts.types().find("module_struct") is None
    assert facts.types("vmlinux") is facts.types()


@pytest.mark.parametrize(
    ("module", "message"),
    [("ext4", "there is no BTF of ext4, load the module"), ("../vmlinux", "is no module's name")],
)
def test_a_module_that_is_not_there(facts: RunningKernel, module: str, message: str) -> None:
    with pytest.raises(FactsError, match=message):
        facts.types(module)


@pytest.mark.parametrize("name", ["vmlinux", "xfs"])
def test_broken_types(facts: RunningKernel, tmp_path: Path, name: str) -> None:
    (tmp_path / "btf" / name).write_bytes(b"\x9f\xeb\x01")
    with pytest.raises(FactsError, match=f"{name} cannot be read: BTF: 3 bytes are shorter than the header"):
        facts.types(name)


def test_parameters_and_names() -> None:
    blob = BtfBlob()
    number = blob.integer("int", 4, signed=True)
    body = struct.pack("<IIII", 0, number, 0, 0)
    prototype = blob.add(Kind.FUNC_PROTO, "", 0, 2, body=body)
    blob.typedef("first", number)
    blob.typedef("second", number)
    btf = Btf.parse(blob.build())
    assert btf.parameters(prototype) == (Parameter("", number), Parameter("", 0))
    assert list(btf.names(Kind.TYPEDEF)) == ["first", "second"]
    with pytest.raises(BtfError, match="expected FUNC_PROTO"):
        btf.parameters(number)
