# SPDX-License-Identifier: Apache-2.0
"""Small BTF blobs for tests, one call a type. Ids are given in order from 1; 0 is void."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from agent.kernel.btf import Kind

HEADER = struct.Struct("<HBBIIIII")
# A member: name, type id, bit offset, and width for a bit-field.
MemberSpec = tuple[str, int, int] | tuple[str, int, int, int]


class BtfBlob:
    """Collects types; `build` gives the bytes."""

    def __init__(self) -> None:
        self._types: list[bytes] = []
        self._strings = bytearray(1)

    def integer(self, name: str, size: int, signed: bool = False, bits: int = 0, bit_offset: int = 0) -> int:
        word = int(signed) << 24 | bit_offset << 16 | (bits or 8 * size)
        return self.add(Kind.INT, name, size, body=struct.pack("<I", word))

    def real(self, name: str, size: int) -> int:
        return self.add(Kind.FLOAT, name, size)

    def pointer(self, target: int) -> int:
        return self.add(Kind.PTR, "", target)

    def alias(self, kind: Kind, target: int, name: str = "") -> int:
        return self.add(kind, name, target)

    def typedef(self, name: str, target: int) -> int:
        return self.alias(Kind.TYPEDEF, target, name)

    def array(self, element: int, count: int) -> int:
        return self.add(Kind.ARRAY, "", 0, body=struct.pack("<III", element, 0, count))

    def forward(self, name: str, union: bool = False) -> int:
        return self.add(Kind.FWD, name, 0, flag=union)

    def function(self) -> int:
        """void (void)"""
        return self.add(Kind.FUNC_PROTO, "", 0)

    def composite(self, name: str, size: int, members: Sequence[MemberSpec], kind: Kind = Kind.STRUCT) -> int:
        """Written with the bit-field flag, as today's encoders do, if a member has a width."""
        flag = any(len(member) == 4 for member in members)
        body = b"".join(self._member(*member) for member in members)
        return self.add(kind, name, size, len(members), flag, body)

    def enum(self, name: str, values: dict[str, int], size: int = 4, signed: bool = False) -> int:
        pack = struct.Struct("<Ii" if signed else "<II").pack
        body = b"".join(pack(self._string(n), v) for n, v in values.items())
        return self.add(Kind.ENUM, name, size, len(values), signed, body)

    def enum64(self, name: str, values: dict[str, int], signed: bool = False) -> int:
        words = ((self._string(n), v & 0xFFFFFFFF, v >> 32 & 0xFFFFFFFF) for n, v in values.items())
        return self.add(Kind.ENUM64, name, 8, len(values), signed, b"".join(struct.pack("<III", *w) for w in words))

    def add(self, kind: int, name: str, word: int, count: int = 0, flag: bool = False, body: bytes = b"") -> int:
        """Any record; `word` is its size or type id."""
        info = int(flag) << 31 | kind << 24 | count
        self._types.append(struct.pack("<III", self._string(name), info, word) + body)
        return len(self._types)

    def text(self, name: str) -> int:
        """The number of a name, for bodies."""
        return self._string(name)

    def build(self) -> bytes:
        types, strings = b"".join(self._types), bytes(self._strings)
        header = HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(strings))
        return header + types + strings

    def _member(self, name: str, type_id: int, offset: int, bits: int = 0) -> bytes:
        return struct.pack("<III", self._string(name), type_id, offset | bits << 24)

    def _string(self, text: str) -> int:
        if not text:
            return 0
        offset = len(self._strings)
        self._strings += text.encode() + b"\0"
        return offset
