# SPDX-License-Identifier: Apache-2.0
"""Finding types by name in BTF.

A kind that has few types gets a table of all their names at the first question. Functions are more than half of a
kernel's types and a table of them takes 7 MB, for the two or three names that a policy hooks: those are searched for
among the strings, and what refers to the string among the records. Encoders write each string once and whole, so a name
has one place; one that has many is looked up in a table after all.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.kernel.btf_format import WORD, BtfError, Kind

# A kernel's structs are 10,000 to 13,000, its functions 50,000 and more.
MAX_TABLE: Final = 20_000
# A search reads 5 MB, 3 ms; a table of 56,000 functions takes 27 ms.
MAX_SEARCHES: Final = 16
MAX_PLACES: Final = 16  # of one name among the strings


@dataclass(frozen=True, slots=True)
class Section:
    """A section of strings: the number of its first byte, as records have it, and where it begins and ends."""

    first: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Strings:
    """The names in the data, a module's behind the kernel's."""

    data: bytes
    sections: tuple[Section, ...]

    @property
    def end(self) -> int:
        """The number of the first byte behind the last one."""
        last = self.sections[-1]
        return last.first + last.end - last.start

    def at(self, number: int, type_id: int) -> bytes:
        """The string that a record of a type names. Raises BtfError."""
        for section in reversed(self.sections):
            start = section.start + number - section.first
            if number >= section.first and start < section.end:
                return self.data[start : self.data.index(0, start)]
        raise BtfError("a name lies outside the string section", type_id)

    def places(self, name: bytes, most: int) -> list[int]:
        """The numbers of the strings that are this name, at most one more than `most` of a section."""
        places = []
        whole = b"\0" + name + b"\0"
        for section in self.sections:
            # The first of a module's has no NUL before it.
            if self.data.startswith(whole[1:], section.start, section.end):
                places.append(section.first)
            at = self.data.find(whole, section.start, section.end)
            while at >= 0 and len(places) <= most:
                places.append(section.first + at + 1 - section.start)
                at = self.data.find(whole, at + 1, section.end)
        return places


@dataclass(frozen=True, slots=True)
class Records:
    """Where the records lie in the data: begin and end of each section of types; begin and kind of each, void first."""

    spans: tuple[tuple[int, int], ...]
    offsets: array[int]
    kinds: bytes


class Names:
    """Of the types of one BTF."""

    def __init__(self, data: bytes, records: Records, strings: Strings) -> None:
        self._data = data
        self._records = records
        self._strings = strings
        self._tables: dict[Kind, dict[bytes, int]] = {}
        self._found: dict[bytes, tuple[int, ...] | None] = {}

    def find(self, kind: Kind, name: bytes) -> int | None:
        """The first type of this kind and name, which is not empty."""
        kinds = self._records.kinds
        if kind not in self._tables and kinds.count(kind) > MAX_TABLE:
            found = self._search(name)
            if found is not None:
                return next((type_id for type_id in found if kinds[type_id] == kind), None)
        return self._table(kind).get(name)

    def ids(self, kind: Kind) -> Iterator[int]:
        """The ids of all types of this kind, in order."""
        kinds = self._records.kinds
        type_id = kinds.find(kind, 1)
        while type_id >= 0:
            yield type_id
            type_id = kinds.find(kind, type_id + 1)

    def _table(self, kind: Kind) -> dict[bytes, int]:
        if kind not in self._tables:
            names: dict[bytes, int] = {}
            for type_id in self.ids(kind):
                (number,) = WORD.unpack_from(self._data, self._records.offsets[type_id])
                if number:
                    names.setdefault(self._strings.at(number, type_id), type_id)
            self._tables[kind] = names
        return self._tables[kind]

    def _search(self, name: bytes) -> tuple[int, ...] | None:
        """The types of this name, of any kind, in order; None when a table is the better way to them."""
        if name not in self._found:
            if len(self._found) >= MAX_SEARCHES:
                return None
            places = self._strings.places(name, MAX_PLACES)
            types = (type_id for place in places for type_id in self._named_by(place))
            self._found[name] = tuple(sorted(types)) if len(places) <= MAX_PLACES else None
        return self._found[name]

    def _named_by(self, place: int) -> Iterator[int]:
        """The types whose record begins with this number. Other words of records can be the same number."""
        offsets, word = self._records.offsets, WORD.pack(place)
        for start, end in self._records.spans:
            at = self._data.find(word, start, end)
            while at >= 0:
                type_id = bisect_left(offsets, at)
                if type_id < len(offsets) and offsets[type_id] == at:
                    yield type_id
                at = self._data.find(word, at + 1, end)
