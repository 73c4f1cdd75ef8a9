# SPDX-License-Identifier: Apache-2.0
"""Where the kernel's types come from, and that a module's damaged ones are in nobody else's way."""

from __future__ import annotations

import gc
import struct
from pathlib import Path

import pytest

from agent.kernel import kernel_btf as source
from agent.kernel.btf import Btf, BtfError, Kind
from agent.kernel.btf_files import PLACES, BtfFileError, Node, read_btf_file
from agent.kernel.btf_names import MAX_PLACES, MAX_SEARCHES
from agent.kernel.errors import KernelError
from agent.kernel.facts import RunningKernel
from agent.kernel.kernel_btf import BtfSources, KernelBtf, NoBtfError
from agent.policy.facts import FactsError
from tests.support.btf_blob import HEADER, BtfBlob
from tests.support.kernel_facts import btf_in, kernel_btf, split_blob

RELEASE = "6.12.0-test"
BUILD_ID = bytes(range(20))
NOTE = struct.pack("<III", 4, 20, 3) + b"GNU\0"


def image(btf: bytes | None, build_id: bytes | None = BUILD_ID) -> bytes:
    """A vmlinux of a header, a note, and sections for BTF and names."""
    note = NOTE + build_id if build_id is not None else b""
    names = b"\0.BTF\0.shstrtab\0"
    note_at = 64 + 56
    btf_at = note_at + len(note)
    names_at = btf_at + len(btf or b"")
    sections_at = names_at + len(names)
    sections = [bytes(64), struct.pack("<IIQQQQIIQQ", 6, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)]
    if btf is not None:
        sections.append(struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, btf_at, len(btf), 0, 0, 1, 0))
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, sections_at, 0, 64, 56, 1, 64, len(sections), 1)
    segment = struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    return header + segment + note + (btf or b"") + names + b"".join(sections)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    notes = tmp_path / "sys/kernel/notes"
    notes.parent.mkdir(parents=True)
    notes.write_bytes(struct.pack("<III", 6, 4, 256) + b"Linux\0\0\0" + bytes(4) + NOTE + BUILD_ID)
    return Node(RELEASE, tmp_path)


def from_files(tmp_path: Path, configured: Path | None = None) -> KernelBtf:
    return btf_in(tmp_path / "none", configured, tmp_path)


def put(tmp_path: Path, place: str, data: bytes) -> Path:
    path = tmp_path / place.format(release=RELEASE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# The kernel's own.


def test_what_the_kernel_shows_is_taken_before_anything_else(tmp_path: Path, node: Node) -> None:
    (tmp_path / "vmlinux").write_bytes(kernel_btf())
    other = put(tmp_path, PLACES[0], image(BtfBlob().build()))
    sources = BtfSources(tmp_path, other, node, lambda _: b"held")
    assert KernelBtf(sources).read() == kernel_btf()


def test_what_is_hidden_is_asked_for(tmp_path: Path, node: Node) -> None:
    held = {"vmlinux": kernel_btf(), "xfs": split_blob(kernel_btf())}
    found = KernelBtf(BtfSources(tmp_path / "none", None, node, held.get, lambda: ["xfs"]))
    assert found.read() == kernel_btf()
    assert found.modules() == ("xfs",)
    assert found.module("xfs").find(Kind.STRUCT, "module_struct") is not None


def test_a_kernel_that_refuses_is_told(tmp_path: Path, node: Node) -> None:
    def refuse(name: str) -> bytes:
        raise KernelError(f"bpf(BTF_GET_FD_BY_ID {name})", 1, "the agent needs CAP_SYS_ADMIN")

    with pytest.raises(NoBtfError, match=r"BTF_GET_FD_BY_ID vmlinux\): EPERM .*CAP_SYS_ADMIN"):
        KernelBtf(BtfSources(tmp_path, None, node, refuse)).kernel()


# Files, for a kernel that has none.


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("data", [kernel_btf(), image(kernel_btf()), image(kernel_btf(), None)])
def test_every_place_and_form(tmp_path: Path, node: Node, place: str, data: bytes) -> None:
    path = put(tmp_path, place, data)
    assert path in node.places()
    assert from_files(tmp_path).read() == kernel_btf()


def test_an_image_of_another_build_is_refused(tmp_path: Path, node: Node) -> None:
    path = put(tmp_path, PLACES[0], image(kernel_btf(), bytes(20)))
    with pytest.raises(BtfFileError, match=f"it is of the kernel with build id {'00' * 20}, the running one is 0001"):
        read_btf_file(path, node)
    with pytest.raises(NoBtfError, match=r"no file has it; .*boot/vmlinux-.* with build id"):
        from_files(tmp_path).kernel()


def test_a_refused_file_does_not_end_the_search(tmp_path: Path, node: Node) -> None:
    put(tmp_path, PLACES[0], image(None))
    put(tmp_path, PLACES[-1], image(kernel_btf()))
    assert node.build_id() == BUILD_ID.hex()
    assert from_files(tmp_path).read() == kernel_btf()


def test_an_image_is_refused_while_the_kernels_build_is_not_known(tmp_path: Path) -> None:
    path = put(tmp_path, PLACES[0], image(kernel_btf()))
    with pytest.raises(BtfFileError, match="sys/kernel/notes does not tell the running one's"):
        read_btf_file(path, Node(RELEASE, tmp_path))


@pytest.mark.parametrize("data", [kernel_btf(), image(kernel_btf(), None)])
def test_what_says_nothing_of_its_kernel_is_known_by_its_name(tmp_path: Path, data: bytes) -> None:
    foreign = put(tmp_path, "6.11.0.btf", data)
    with pytest.raises(NoBtfError, match=f"put the release, {RELEASE}, into its name; name the BTF of exactly this"):
        from_files(tmp_path, foreign).read()
    assert from_files(tmp_path, put(tmp_path, f"{RELEASE}.btf", data)).read() == kernel_btf()


@pytest.mark.parametrize(
    ("data", "problem"),
    [(image(None), "it has no section .BTF"), (image(kernel_btf())[:200], "goes beyond"), (b"\x7fELF", "header")],
)
def test_a_damaged_image_is_refused(tmp_path: Path, node: Node, data: bytes, problem: str) -> None:
    with pytest.raises(BtfFileError, match=problem):
        read_btf_file(put(tmp_path, PLACES[0], data), node)


def test_a_named_file_that_is_not_there(tmp_path: Path, node: Node) -> None:
    with pytest.raises(NoBtfError, match="nowhere"):
        KernelBtf(BtfSources(tmp_path, tmp_path / "nowhere", node, lambda _: None)).read()


# What is kept.


def test_records_are_found_once_and_the_bytes_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmlinux").write_bytes(kernel_btf())
    found = btf_in(tmp_path)
    first = found.kernel()
    assert found.kernel() is first
    records = first.records
    gc.disable()
    try:
        del first
        assert not list(found._live)
    finally:
        gc.enable()
    assert found.kernel().records is records
    (tmp_path / "vmlinux").write_bytes(BtfBlob().build())
    assert len(found.kernel()) == 1
    monkeypatch.setattr(source, "MAX_BTF_BYTES", 4)
    with pytest.raises(NoBtfError, match="more than 4 bytes"):
        found.read()


def functions(count: int, strings_each: int = 1) -> Btf:
    """A kernel of so many functions, each name's string so often there."""
    blob = BtfBlob()
    prototype = blob.function()
    for number in range(count):
        for _ in range(strings_each - 1):
            blob._string(f"function_{number}")
        blob.add(Kind.FUNC, f"function_{number}", prototype)
    blob.typedef("function_3", prototype)
    blob.composite("holder", 0, [("function_1", prototype, 0)])
    return Btf.parse(blob.build())


@pytest.mark.parametrize("strings_each", [1, 2, MAX_PLACES + 2])
def test_searching_finds_what_a_table_has(monkeypatch: pytest.MonkeyPatch, strings_each: int) -> None:
    monkeypatch.setattr("agent.kernel.btf_names.MAX_TABLE", 0)
    names = [*(f"function_{number}" for number in range(MAX_SEARCHES + 4)), "holder", "unction_1", "function_", "none"]
    for kind in (Kind.FUNC, Kind.TYPEDEF, Kind.STRUCT, Kind.UNION):
        searched, tabled = functions(MAX_SEARCHES + 4, strings_each), functions(MAX_SEARCHES + 4)
        found = [searched.find(kind, name) for name in names]
        with monkeypatch.context() as patch:
            patch.setattr("agent.kernel.btf_names.MAX_TABLE", 1 << 30)
            assert found == [tabled.find(kind, name) for name in names]


def test_words_that_look_like_a_name_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.kernel.btf_names.MAX_TABLE", 0)
    blob = BtfBlob()
    blob.integer("int", 4)
    blob.composite("r", 4, [("int", 1, 1)])
    blob.add(Kind.FUNC, "call", blob.function())
    btf = Btf.parse(blob.build())
    assert (btf.find(Kind.INT, "int"), btf.find(Kind.STRUCT, "int"), btf.find(Kind.FUNC, "call")) == (1, None, 4)


# Modules.


def test_the_types_of_a_module_are_numbered_on() -> None:
    base = Btf.parse(kernel_btf())
    both = Btf.parse_split(base, split_blob(kernel_btf()))
    assert len(both) == len(base) + 5
    assert both.find(Kind.STRUCT, "module_struct") == len(base) + 1
    assert both.find(Kind.STRUCT, "file") == base.find(Kind.STRUCT, "file")
    assert base.find(Kind.STRUCT, "module_struct") is None
    assert [both.name(type_id) for type_id in range(len(base))] == [base.name(type_id) for type_id in range(len(base))]


def test_a_module_with_no_names_of_its_own() -> None:
    base = Btf.parse(kernel_btf())
    file = base.find(Kind.STRUCT, "file")
    assert file is not None
    types = struct.pack("<III", 0, Kind.PTR << 24, file)
    blob = HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), 0) + types
    assert Btf.parse_split(base, blob).target(len(base)) == file


def test_an_error_in_a_module_has_the_type_that_it_is_in() -> None:
    base = Btf.parse(kernel_btf())
    data = split_blob(kernel_btf())
    broken = data[: HEADER.size + 12 + 7] + b"\x1f" + data[HEADER.size + 12 + 8 :]
    with pytest.raises(BtfError, match=rf"unknown kind 31 \(type {len(base) + 1}\)"):
        Btf.parse_split(base, broken)


def cyclic(base: bytes) -> bytes:
    """A structure that contains itself, by way of a typedef."""
    first, shift = len(Btf.parse(base)), HEADER.unpack_from(base)[7]
    types = struct.pack("<III", shift, Kind.TYPEDEF << 24, first + 1)
    types += struct.pack("<IIIIII", shift, Kind.STRUCT << 24 | 1, 8, shift, first, 0)
    types += struct.pack("<III", shift + 2, Kind.TYPEDEF << 24, first + 2)
    names = b"x\0loop\0"
    return HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(names)) + types + names


def read_module(facts: RunningKernel, name: str) -> None:
    """Everything of it. Raises FactsError."""
    types = facts.types(name)
    for each in ("module_struct", "x", "loop", "struct x"):
        found = types.find(each)
        if found is not None:
            types.describe(found)
            types.members(found)
    facts.raw_tracepoint("module_event")
    tuple(types.names())


def test_a_module_damaged_anywhere_hurts_nobody_else(tmp_path: Path) -> None:
    """Each byte in turn: what is asked of it has an answer or is a FactsError; the kernel and a sound module answer."""
    base, sound = kernel_btf(), split_blob(kernel_btf())
    for name, data in (("vmlinux", base), ("xfs", sound), ("bad", sound), ("loop", cyclic(base))):
        (tmp_path / name).write_bytes(data)
    facts = RunningKernel(tmp_path, btf_in(tmp_path))
    kept = facts.types()
    errors = 0
    damages = [sound[:length] for length in range(0, len(sound), 7)] + [
        sound[:at] + bytes((value,)) + sound[at + 1 :] for at in range(len(sound)) for value in (0, 0xFF)
    ]
    for data in damages:
        (tmp_path / "bad").write_bytes(data)
        facts._btf.pop("bad", None)
        facts._btf.pop("xfs", None)
        try:
            read_module(facts, "bad")
        except FactsError:
            errors += 1
        assert facts.types("xfs").find("module_struct") is not None
        assert facts.raw_tracepoint("module_event") is not None
        assert facts.types() is kept
    assert errors > len(sound) // 7
    with pytest.raises(FactsError, match="a TYPEDEF is no type of a value"):
        facts.types("loop").describe(facts.types("loop").find("loop") or 0)


def test_a_damaged_module_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(kernel_btf())
    (tmp_path / "bad").write_bytes(split_blob(kernel_btf())[:-1])
    with pytest.raises(NoBtfError, match=r"the BTF of bad cannot be read: BTF: .*; load the module again, or hook"):
        btf_in(tmp_path).module("bad")
