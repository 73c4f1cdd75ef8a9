# SPDX-License-Identifier: Apache-2.0
"""Reader of ELF files: programs and shared libraries for 64-bit x86, as far as probes need them.

The file may be anybody's, a container image's own binary included. So every table is measured against its limit and
the file before it is read, and nothing is followed but indexes into such tables. The layouts are those of pyelftools;
only the tables with a record for each symbol are decoded here, since a program can have a million of them.
Whatever is wrong is an ElfError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.construct import Construct
from elftools.elf.elffile import ELFFile

from agent.kernel.errors import KernelError

# Linkers make tens of sections; with a section for each function, which only object files have, it would be more.
MAX_SECTIONS: Final = 4096
# load_elf_phdrs of the kernel takes no more than 64 KiB of program headers.
MAX_SEGMENTS: Final = 65536 // 56
# The largest symbol tables that we know, of browsers with all their static functions, are below these.
MAX_SYMBOL_BYTES: Final = 48 << 20
MAX_STRING_BYTES: Final = 64 << 20
MAX_NAME: Final = 4096  # bytes of a symbol's name; C++ templates reach a few thousand
MAX_SECTION_NAMES: Final = 1 << 20
MAX_NOTE_BYTES: Final = 16 << 20  # of all sections of one name: 200,000 of the smallest USDT notes
MAX_NOTE_SEGMENT_BYTES: Final = 1 << 20  # of all that are loaded: a few identifications of some tens of bytes
MAX_SAME_NAMES: Final = 16384  # static functions of one name; C++ has some hundreds
MAX_VERSIONS: Final = 0x7FFF  # an index has 15 bits

HEADER_SIZE: Final = 64
SEGMENT_SIZE: Final = 56
SECTION_SIZE: Final = 64
VERSION_SIZE: Final = 20
AUXILIARY_SIZE: Final = 8
NOTE: Final = struct.Struct("<III")  # Elf64_Nhdr: the sizes of name and description, type
SYMBOL: Final = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, section, value, size
NT_GNU_BUILD_ID: Final = 3
VERSION_HIDDEN: Final = 0x8000


class ElfError(KernelError):
    """The file is no ELF file that can be probed, or it is damaged: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section header; kind as pyelftools names it, link: the number of another section."""

    name: str
    kind: str | int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class ProgramHeader:
    """What the program headers say of a PT_LOAD or PT_NOTE; flags: 1 executable, 2 writable."""

    kind: str | int
    offset: int
    address: int
    size: int
    flags: int
    align: int


@dataclass(frozen=True, slots=True)
class RawSymbol:
    """One record of a symbol table. name: with `@VERSION` or `@@VERSION` where the table or its versions say one.
    kind: STT_*; section: its number, 0 when the symbol is not defined here.
    """

    name: bytes
    kind: int
    section: int
    value: int
    size: int


@dataclass(frozen=True, slots=True)
class Note:
    """One ELF note; owner: without its NUL."""

    owner: bytes
    kind: int
    description: bytes


class Elf:
    """read: that many bytes at an offset of the file, or ElfError. size: of the file."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read_file = read
        self._size = size
        head = self._read(0, HEADER_SIZE, HEADER_SIZE, "header")
        try:
            file = ELFFile(BytesIO(head))
        except ELFError as error:
            raise ElfError(f"it is no ELF file: {error}") from error
        _check_machine(file)
        self._structs = file.structs
        self._header = file.header
        self.program_headers = tuple(self._program_headers())
        self.sections = tuple(self._sections())

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def read_section(self, section: Section, most: int) -> bytes:
        """The content in the file, as it is there; no more than `most` bytes are accepted."""
        if section.kind == "SHT_NOBITS":
            return b""
        return self._read(section.offset, section.size, most, section.name or "section")

    def notes(self, name: str) -> Iterator[Note]:
        """The notes of all sections of that name, whose alignment is 4."""
        left = MAX_NOTE_BYTES
        for section in self.sections:
            if section.name == name and section.kind == "SHT_NOTE":
                data = self.read_section(section, left)
                left -= len(data)
                yield from iterate_notes(data, 4)

    def build_id(self) -> str:
        """In hexadecimal, "" when there is none."""
        left = MAX_NOTE_SEGMENT_BYTES
        for header in self.program_headers:
            if header.kind != "PT_NOTE":
                continue
            data = self._read(header.offset, header.size, left, "note segment")
            left -= len(data)
            for note in iterate_notes(data, 8 if header.align == 8 else 4):
                if note.owner == b"GNU" and note.kind == NT_GNU_BUILD_ID:
                    return note.description.hex()
        return ""

    def symbols(self, names: Collection[bytes] | None = None) -> Iterator[RawSymbol]:
        """The records of .symtab and .dynsym; with `names` those that are called so, their version aside."""
        for kind in ("SHT_SYMTAB", "SHT_DYNSYM"):  # a file has at most one of each
            section = next((section for section in self.sections if section.kind == kind), None)
            if section is not None:
                yield from self._symbols(section, names)

    def _symbols(self, section: Section, names: Collection[bytes] | None) -> Iterator[RawSymbol]:
        data = self.read_section(section, MAX_SYMBOL_BYTES)
        strings = self._strings(section)
        count = len(data) // SYMBOL.size
        suffix = self._suffixes(count) if section.kind == "SHT_DYNSYM" else _no_suffix
        found = 0
        for number, record in enumerate(SYMBOL.iter_unpack(memoryview(data)[: count * SYMBOL.size])):
            at, info, _, where, value, size = record
            name = _string(strings, at) if at else b""
            if not name or (names is not None and name.partition(b"@")[0] not in names):
                continue
            found += 1
            if names is not None and found > MAX_SAME_NAMES:
                raise ElfError(f"more than {MAX_SAME_NAMES} symbols have the names that are looked for")
            yield RawSymbol(name + suffix(number), info & 0xF, where, value, size)

    def _strings(self, section: Section) -> bytes:
        """The string table that a section is linked to."""
        if not 0 < section.link < len(self.sections):
            raise ElfError(f"{section.name} is linked to section {section.link}, which is not there")
        return self.read_section(self.sections[section.link], MAX_STRING_BYTES)

    def _suffixes(self, count: int) -> Callable[[int], bytes]:
        """What its version adds to the name of a dynamic symbol, by number."""
        indexes = next((section for section in self.sections if section.kind == "SHT_GNU_versym"), None)
        if indexes is None:
            return _no_suffix
        names = self._version_names()
        data = self.read_section(indexes, MAX_SYMBOL_BYTES // 12)
        if len(data) < 2 * count:
            raise ElfError(f"{indexes.name} has fewer entries than there are dynamic symbols")
        return lambda number: _suffix(int.from_bytes(data[2 * number : 2 * number + 2], "little"), names)

    def _version_names(self) -> dict[int, bytes]:
        """The versions that this file defines, by index. The first is the file itself, and the base of the others."""
        section = next((section for section in self.sections if section.kind == "SHT_GNU_verdef"), None)
        if section is None:
            return {}
        data, strings = self.read_section(section, MAX_STRING_BYTES), self._strings(section)
        names: dict[int, bytes] = {}
        at = 0
        for _ in range(MAX_VERSIONS):
            entry = self._parse(self._structs.Elf_Verdef, data, at, VERSION_SIZE, section.name)
            auxiliary = self._parse(self._structs.Elf_Verdaux, data, at + entry["vd_aux"], AUXILIARY_SIZE, section.name)
            names[int(entry["vd_ndx"])] = _string(strings, int(auxiliary["vda_name"]))
            if not entry["vd_next"]:
                break
            at += int(entry["vd_next"])
        return names

    def _program_headers(self) -> Iterator[ProgramHeader]:
        header = self._header
        count = int(header["e_phnum"])
        if count > MAX_SEGMENTS or (count and header["e_phentsize"] != SEGMENT_SIZE):
            raise ElfError(f"it has {count} program headers of {header['e_phentsize']} bytes")
        data = self._read(int(header["e_phoff"]), count * SEGMENT_SIZE, count * SEGMENT_SIZE, "program headers")
        for number in range(count):
            entry = self._parse(self._structs.Elf_Phdr, data, number * SEGMENT_SIZE, SEGMENT_SIZE, "program headers")
            if entry["p_type"] in ("PT_LOAD", "PT_NOTE"):
                yield ProgramHeader(
                    entry["p_type"],
                    int(entry["p_offset"]),
                    int(entry["p_vaddr"]),
                    int(entry["p_filesz"]),
                    int(entry["p_flags"]),
                    int(entry["p_align"]),
                )

    def _sections(self) -> Iterator[Section]:
        """All of them, so that their places are their numbers; none in a file without section headers."""
        header = self._header
        if not header["e_shoff"]:
            return
        count = int(header["e_shnum"])
        if not 0 < count <= MAX_SECTIONS or header["e_shentsize"] != SECTION_SIZE:
            raise ElfError(f"it has {count} section headers of {header['e_shentsize']} bytes")
        data = self._read(int(header["e_shoff"]), count * SECTION_SIZE, count * SECTION_SIZE, "section headers")
        entries = [
            self._parse(self._structs.Elf_Shdr, data, number * SECTION_SIZE, SECTION_SIZE, "section headers")
            for number in range(count)
        ]
        names = self._section_names(entries)
        for entry in entries:
            name = _string(names, int(entry["sh_name"])).decode("ascii", "replace")
            yield Section(
                name,
                entry["sh_type"],
                int(entry["sh_addr"]),
                int(entry["sh_offset"]),
                int(entry["sh_size"]),
                int(entry["sh_link"]),
            )

    def _section_names(self, entries: list[Any]) -> bytes:
        index = int(self._header["e_shstrndx"])
        if index >= len(entries):
            raise ElfError(f"the names of its sections are in section {index}, which is not there")
        entry = entries[index]
        return self._read(int(entry["sh_offset"]), int(entry["sh_size"]), MAX_SECTION_NAMES, "section names")

    def _parse(self, layout: Construct, data: bytes, offset: int, size: int, what: str) -> Any:
        """One record of pyelftools' layouts: a mapping from field names to numbers, or names for known numbers."""
        if offset + size > len(data):
            raise ElfError(f"{what}: a record at {offset} goes beyond the end")
        try:
            return struct_parse(layout, BytesIO(data[offset : offset + size]), 0)
        except ELFError as error:
            raise ElfError(f"{what}: {error}") from error

    def _read(self, offset: int, size: int, most: int, what: str) -> bytes:
        if size > most:
            raise ElfError(f"{what}: {size} bytes are more than the {most} that are read")
        if offset + size > self._size:
            raise ElfError(f"{what}: it goes beyond the end of the file")
        return self._read_file(offset, size)


def _check_machine(file: ELFFile) -> None:
    header = file.header
    if file.elfclass != 64 or not file.little_endian or header["e_machine"] != "EM_X86_64":
        raise ElfError(f"it is not for 64-bit x86: {file.elfclass} bits, machine {header['e_machine']}")
    if header["e_type"] not in ("ET_EXEC", "ET_DYN"):
        raise ElfError(f"it is neither a program nor a shared library: type {header['e_type']}")


def _string(strings: bytes, at: int) -> bytes:
    end = strings.find(b"\0", at, at + MAX_NAME + 1)
    if end < 0:
        raise ElfError(f"a name at {at} of a string table has no end, or more than {MAX_NAME} bytes")
    return strings[at:end]


def _no_suffix(number: int) -> bytes:  # noqa: ARG001 - a table without versions
    return b""


def _suffix(index: int, names: dict[int, bytes]) -> bytes:
    """0 and 1 are local and unversioned; imported symbols have versions of other files, which do not count here."""
    name = names.get(index & ~VERSION_HIDDEN, b"")
    if index & ~VERSION_HIDDEN <= 1 or not name:
        return b""
    return (b"@" if index & VERSION_HIDDEN else b"@@") + name


def iterate_notes(data: bytes, align: int) -> Iterator[Note]:
    """The notes of a section or segment. align: 4 or 8. Raises ElfError."""
    at = 0
    while at + NOTE.size <= len(data):
        name_size, size, kind = NOTE.unpack_from(data, at)
        name_at = at + NOTE.size
        start = _round_up(name_at + name_size, align)
        if start + size > len(data):
            raise ElfError(f"a note at {at} goes beyond the end of its section")
        owner = data[name_at : name_at + name_size].rstrip(b"\0")
        yield Note(owner, kind, data[start : start + size])
        at = _round_up(start + size, align)


def _round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step
