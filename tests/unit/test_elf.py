# SPDX-License-Identifier: Apache-2.0
"""ELF files: what is found in real ones, and that damaged ones are refused and nothing else."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.kernel import elf, usdt
from agent.kernel.elf import Elf, ElfError
from agent.kernel.usdt import parse_probes
from agent.policy.user_facts import UsdtProbe
from tests.support.probed import build_probed

HEADER_SECTIONS = 0x28  # e_shoff


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_probed(tmp_path_factory.mktemp("probed"))


@pytest.fixture(scope="module")
def content(program: Path) -> bytes:
    return program.read_bytes()


def parse(data: bytes) -> Elf:
    return Elf(lambda offset, size: data[offset : offset + size], len(data))


def read_everything(data: bytes) -> int:
    """The number of things that were found."""
    file = parse(data)
    return sum(1 for _ in file.symbols()) + len(file.build_id()) + sum(1 for _ in parse_probes(file))


def sections(data: bytes) -> Iterator[tuple[str, int]]:
    """Names, and where the headers are."""
    start = struct.unpack_from("<Q", data, HEADER_SECTIONS)[0]
    for number, section in enumerate(parse(data).sections):
        yield section.name, start + elf.SECTION_SIZE * number


def patch(data: bytes, offset: int, layout: str, value: int) -> bytes:
    size = struct.calcsize(layout)
    return data[:offset] + struct.pack(layout, value) + data[offset + size :]


def patch_section(data: bytes, name: str, field: int, value: int) -> bytes:
    """field: the offset in the header; eight bytes are written, or four at an offset below 8."""
    header = next(at for found, at in sections(data) if found == name)
    return patch(data, header + field, "<I" if field < 8 else "<Q", value)


LINKERS_VIEW = re.compile(
    r"Provider: (\S+)\s+Name: (\S+)\s+Location: 0x(\w+), Base: 0x\w+, Semaphore: 0x(\w+)\s+Arguments: ?(.*)"
)


@pytest.mark.parametrize("path", ["/usr/bin/python3.11", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "own"])
def test_probes_are_those_that_readelf_shows(path: str, program: Path) -> None:
    chosen = program if path == "own" else Path(path)
    if not chosen.exists():
        pytest.skip(f"{chosen} is not there")
    shown = subprocess.check_output(["readelf", "-nW", chosen], text=True)
    expected = [
        UsdtProbe(provider, name, int(address, 16), int(semaphore, 16), arguments.strip())
        for provider, name, address, semaphore, arguments in LINKERS_VIEW.findall(shown)
    ]
    assert expected
    assert list(parse_probes(parse(chosen.read_bytes()))) == expected
    (build_id,) = re.findall(r"Build ID: (\w+)", shown)
    assert parse(chosen.read_bytes()).build_id() == build_id


@pytest.mark.parametrize("path", ["/lib/x86_64-linux-gnu/libc.so.6", "own"])
def test_symbols_are_those_that_readelf_shows(path: str, program: Path) -> None:
    chosen = program if path == "own" else Path(path)
    shown = subprocess.check_output(["readelf", "--symbols", "-W", chosen], text=True)
    rows = re.findall(r"^ +\d+: (\w{16}) +\S+ FUNC .* +\d+ (\S+)", shown, re.MULTILINE)
    found = {(f"{raw.value:016x}", raw.name.decode()) for raw in parse(chosen.read_bytes()).symbols() if raw.kind == 2}
    assert len(rows) > 5
    assert set(rows) <= found


def test_probes_move_with_their_base(content: bytes) -> None:
    """As after prelink: the section has moved, the notes say where it was."""
    file = parse(content)
    before = list(parse_probes(file))
    base = file.section(".stapsdt.base")
    assert base is not None
    moved = list(parse_probes(parse(patch_section(content, ".stapsdt.base", 0x10, base.address + 0x5000))))
    assert [probe.address - 0x5000 for probe in moved] == [probe.address for probe in before]
    assert [probe.semaphore for probe in moved] == [p.semaphore and p.semaphore + 0x5000 for p in before]


def test_stripped_file_keeps_its_probes(content: bytes, program: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", stripped, program], check=True)
    file = parse(stripped.read_bytes())
    assert list(parse_probes(file)) == list(parse_probes(parse(content)))
    assert not list(file.symbols({b"podgate_local"}))


def test_file_without_section_headers(content: bytes) -> None:
    file = parse(patch(content, HEADER_SECTIONS, "<Q", 0))
    assert file.sections == ()
    assert file.build_id() == parse(content).build_id()
    assert not list(file.symbols())


@pytest.mark.parametrize(
    ("offset", "layout", "value", "reason"),
    [
        (0, "<I", 0x41424344, "no ELF file"),
        (4, "<B", 1, "64-bit x86"),
        (5, "<B", 2, "64-bit x86"),
        (0x10, "<H", 1, "neither a program nor a shared library"),
        (0x12, "<H", 183, "64-bit x86"),
        (0x20, "<Q", 1 << 62, "program headers"),
        (0x36, "<H", 8, "program headers"),
        (0x38, "<H", 0xFFFF, "program headers"),
        (HEADER_SECTIONS, "<Q", 1 << 63, "section headers"),
        (0x3A, "<H", 8, "section headers"),
        (0x3C, "<H", 0, "section headers"),
        (0x3C, "<H", elf.MAX_SECTIONS + 1, "section headers"),
        (0x3E, "<H", 0xFFF0, "names of its sections"),
    ],
)
def test_damaged_header(content: bytes, offset: int, layout: str, value: int, reason: str) -> None:
    with pytest.raises(ElfError, match=reason):
        read_everything(patch(content, offset, layout, value))


@pytest.mark.parametrize(
    ("name", "field", "value", "reason"),
    [
        (".symtab", 0x20, 1 << 40, "more than the"),
        (".symtab", 0x20, elf.MAX_SYMBOL_BYTES, "beyond the end of the file"),
        (".symtab", 0x18, 1 << 63, "beyond the end of the file"),
        (".symtab", 0x28, 0xFFFF, "linked to section"),
        (".strtab", 0x20, 1 << 40, "more than the"),
        (".strtab", 0x20, 1, "has no end"),
        (".note.stapsdt", 0x20, elf.MAX_NOTE_BYTES + 1, "more than the"),
        (".note.stapsdt", 0x20, 40, "a note at 0 goes beyond the end of its section"),
        (".gnu.version", 0x20, 2, "fewer entries"),
        (".shstrtab", 0x20, 1 << 40, "more than the"),
    ],
)
def test_damaged_section(content: bytes, name: str, field: int, value: int, reason: str) -> None:
    with pytest.raises(ElfError, match=reason):
        read_everything(patch_section(content, name, field, value))


def test_cut_file(content: bytes) -> None:
    for length in range(0, len(content), 97):
        with pytest.raises(ElfError):
            read_everything(content[:length])


def note(description: bytes, owner: bytes = b"stapsdt\0", kind: int = 3) -> bytes:
    padded = description + b"\0" * (-len(description) % 4)
    return struct.pack("<III", len(owner), len(description), kind) + owner + padded


ADDRESSES = struct.pack("<QQQ", 1, 2, 3)


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (b"", "bytes is none"),
        (ADDRESSES, "bytes is none"),
        (ADDRESSES + b"provider\0name\0", "three texts"),
        (ADDRESSES + b"provider\0name\0arguments", "three texts"),
        (ADDRESSES + b"\xff\0name\0\0", "not ASCII"),
        (ADDRESSES + b"p\0n\0" + b" " * usdt.MAX_DESCRIPTION + b"\0", "bytes is none"),
    ],
)
def test_damaged_note(content: bytes, description: bytes, reason: str) -> None:
    with pytest.raises(ElfError, match=reason):
        list(parse_probes(parse(with_notes(content, note(description)))))


def test_notes_of_others_are_left_out(content: bytes) -> None:
    good = note(ADDRESSES + b"p\0n\0\0")
    notes = note(b"x", owner=b"GNU\0") + good + note(b"y", kind=2)
    assert [probe.name for probe in parse_probes(parse(with_notes(content, notes)))] == ["n"]


def test_number_of_probes(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usdt, "MAX_PROBES", 2)
    good = note(ADDRESSES + b"p\0n\0\0")
    assert len(list(parse_probes(parse(with_notes(content, 2 * good))))) == 2
    with pytest.raises(ElfError, match="more than 2 USDT probes"):
        list(parse_probes(parse(with_notes(content, 3 * good))))


def with_notes(content: bytes, notes: bytes) -> bytes:
    """The file with other notes, at its end."""
    content = patch_section(content, ".note.stapsdt", 0x18, len(content))
    return patch_section(content, ".note.stapsdt", 0x20, len(notes)) + notes


def test_number_of_symbols_of_one_name(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "MAX_SAME_NAMES", 1)
    assert len(list(parse(content).symbols({b"podgate_local"}))) == 1
    with pytest.raises(ElfError, match="more than 1 symbols"):
        list(parse(content).symbols({b"podgate_twin"}))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
@example([(0x3C, b"\0\0")])
def test_mutated_file_is_read_or_refused(content: bytes, changes: list[tuple[int, bytes]]) -> None:
    """The places are counted from the tables that lead everywhere: the header, then the section headers."""
    data = bytearray(content)
    start = struct.unpack_from("<Q", content, HEADER_SECTIONS)[0]
    for at, replacement in changes:
        place = at % 1024 if at % 2 else start + at % (len(content) - start)
        data[place : place + len(replacement)] = replacement
    with suppress(ElfError):
        assert read_everything(bytes(data)) >= 0
