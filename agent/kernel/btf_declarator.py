# SPDX-License-Identifier: Apache-2.0
"""How a type of BTF is said in C: its name, and what is declared to be of it.

C has one name space for all tags and one for all typedefs and enumerators, BTF has neither: the second type of a name
gets the suffix ___2. A name is given when it is first asked for and stays.
"""

import re
from collections import Counter
from typing import Final

from agent.kernel.btf import ALIASES, COMPOSITES, ENUMS, MAX_DEPTH, Btf, BtfError, Kind, Member
from agent.kernel.btf_layout import Padding, plan_layout

# Members and enumerators written, anonymous types counted each time: a kernel's roots need about 6,000. Anonymous types
# that contain one another twice would otherwise double the text at each level.
MAX_WRITTEN: Final = 200_000

_KEYWORD: Final = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum"}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTEGER_NAME: Final = re.compile(r"(?:(?:signed|unsigned|char|short|int|long|_Bool|__int128)(?: |$))+")
_INTEGER_BY_SIZE: Final = {1: "char", 2: "short", 4: "int", 8: "long long", 16: "__int128"}
_FLOAT_BY_SIZE: Final = {4: "float", 8: "double", 16: "long double"}


class _Names:
    """Gives types and enumerators names that are unique in C."""

    def __init__(self) -> None:
        self.ordinary: set[str] = set()
        self._tags: set[str] = set()
        self._of_type: dict[int, str] = {}
        self._repeats: Counter[str] = Counter()

    def tag(self, type_id: int, name: str) -> str:
        return self._remember(type_id, self._tags, name)

    def typedef(self, type_id: int, name: str) -> str:
        return self._remember(type_id, self.ordinary, name)

    def enumerator(self, name: str) -> str:
        return self._claim(self.ordinary, name)

    def _remember(self, type_id: int, taken: set[str], name: str) -> str:
        if type_id not in self._of_type:
            self._of_type[type_id] = self._claim(taken, name)
        return self._of_type[type_id]

    def _claim(self, taken: set[str], name: str) -> str:
        if not _IDENTIFIER.fullmatch(name):
            raise BtfError(f"{name!r} is not a name in C")
        unique = name
        while unique in taken:
            self._repeats[name] += 1
            unique = f"{name}___{self._repeats[name] + 1}"
        taken.add(unique)
        return unique


class Declarators:
    """Says the types of one BTF, under names that are unique in one C text."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._names = _Names()
        self._written = 0
        self._gaps = 0

    def enumerator(self, name: str) -> str:
        return self._names.enumerator(name)

    def declarator(self, type_id: int, name: str, depth: int) -> str:
        """`name` declared to be of the type."""
        if depth > MAX_DEPTH:
            raise BtfError(f"types nest deeper than {MAX_DEPTH}", type_id)
        type_id = unqualified(self._btf, type_id)
        kind = self._btf.kind(type_id)
        if kind is Kind.PTR:
            return self._pointer(type_id, name, depth)
        if kind is Kind.ARRAY:
            array = self._btf.array(type_id)
            return self.declarator(array.element, f"{name}[{array.count}]", depth + 1)
        if kind is Kind.FUNC_PROTO:
            return f"void {name}(void)"
        return f"{self._specifier(type_id, kind, depth)} {name}"

    def _pointer(self, type_id: int, name: str, depth: int) -> str:
        target = unqualified(self._btf, self._btf.target(type_id))
        kind = self._btf.kind(target)
        if kind is Kind.FUNC_PROTO:
            return f"void (*{name})(void)"
        if kind is Kind.ARRAY:
            # A pointer to an array would need the element's definition; pointers are all of one size.
            return f"void *{name}"
        return self.declarator(target, f"*{name}", depth + 1)

    def _specifier(self, type_id: int, kind: Kind, depth: int) -> str:
        if kind is Kind.VOID:
            return "void"
        if kind is Kind.INT:
            return self._integer(type_id)
        if kind is Kind.FLOAT:
            return _by_size(_FLOAT_BY_SIZE, self._btf.size(type_id), type_id)
        if kind is Kind.TYPEDEF:
            return self.typedef_name(type_id)
        if kind is Kind.FWD:
            return self.tag(self.forward_target(type_id))
        if kind in ENUMS:
            return self._enum_specifier(type_id)
        if kind in COMPOSITES:
            return self.tag(type_id) if self._btf.name(type_id) else self.body(type_id, _KEYWORD[kind], depth)
        raise BtfError(f"a {kind.name} is not a type of data", type_id)

    def _integer(self, type_id: int) -> str:
        name = self._btf.name(type_id)
        if _INTEGER_NAME.fullmatch(name):
            return name
        integer = self._btf.integer(type_id)
        sign = "signed" if integer.signed else "unsigned"
        return f"{sign} {_by_size(_INTEGER_BY_SIZE, integer.size, type_id)}"

    def _enum_specifier(self, type_id: int) -> str:
        """An enum without name or values is an integer: written here, its constants would be defined twice."""
        if self._btf.name(type_id) and self._btf.enumerators(type_id):
            return self.tag(type_id)
        sign = "signed" if self._btf.is_signed_enum(type_id) else "unsigned"
        return f"{sign} {_by_size(_INTEGER_BY_SIZE, self._btf.size(type_id), type_id)}"

    def body(self, type_id: int, head: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise BtfError(f"types nest deeper than {MAX_DEPTH}", type_id)
        fields = plan_layout(self._btf, type_id)
        self.spend(len(fields) + 1)
        lines = "".join(f"\t{self._field(field, depth)};\n" for field in fields)
        return f"{head} {{\n{lines}}}" + (" __attribute__((packed))" if self._btf.is_packed(type_id) else "")

    def _field(self, field: Member | Padding, depth: int) -> str:
        if isinstance(field, Padding):
            return self._gap(f"[{field.bytes}]") if field.bytes else f"unsigned char : {field.bits}"
        resolved = self._btf.resolve(field.type_id)
        kind = self._btf.kind(resolved)
        if field.bits:
            if kind is not Kind.INT and kind not in ENUMS:
                raise BtfError(f"a bit-field of a {kind.name}", field.type_id)
            return f"{self.declarator(field.type_id, _member_name(field), depth + 1)} : {field.bits}"
        if field.name:
            return self.declarator(field.type_id, _member_name(field), depth + 1)
        # Members of a named struct become members of this one only with -fms-extensions; without its tag always.
        return self.body(resolved, _KEYWORD[kind], depth + 1) if kind in COMPOSITES else self._unnamed(field, depth)

    def _unnamed(self, field: Member, depth: int) -> str:
        self._gaps += 1
        return self.declarator(field.type_id, f"__btf_gap{self._gaps}", depth + 1)

    def _gap(self, dimension: str) -> str:
        # Numbered through the whole text: the members of an anonymous struct share the name space of its outer one.
        self._gaps += 1
        return f"char __btf_gap{self._gaps}{dimension}"

    def tag(self, type_id: int) -> str:
        kind = self._btf.kind(type_id)
        if kind is Kind.FWD:
            kind = Kind.UNION if self._btf.is_union_forward(type_id) else Kind.STRUCT
        return f"{_KEYWORD[kind]} {self._names.tag(type_id, self._btf.name(type_id))}"

    def typedef_name(self, type_id: int) -> str:
        return self._names.typedef(type_id, self._btf.name(type_id))

    def forward_target(self, type_id: int) -> int:
        """A forward declaration is of the type of its name, if the BTF has that."""
        kind = Kind.UNION if self._btf.is_union_forward(type_id) else Kind.STRUCT
        found = self._btf.find(kind, self._btf.name(type_id))
        return type_id if found is None else found

    def spend(self, count: int) -> None:
        """Count what is written, and stop a text that grows beyond reason."""
        self._written += count
        if self._written > MAX_WRITTEN:
            raise BtfError(f"the declarations would exceed {MAX_WRITTEN} members")


def unqualified(btf: Btf, type_id: int) -> int:
    """The type behind qualifiers and tags, but not behind a typedef."""
    for _ in range(MAX_DEPTH):
        kind = btf.kind(type_id)
        if kind is Kind.TYPEDEF or kind not in ALIASES:
            return type_id
        type_id = btf.target(type_id)
    raise BtfError(f"more than {MAX_DEPTH} qualifiers", type_id)


def _member_name(member: Member) -> str:
    if not _IDENTIFIER.fullmatch(member.name):
        raise BtfError(f"{member.name!r} is not a name in C", member.type_id)
    return member.name


def _by_size(names: dict[int, str], size: int, type_id: int) -> str:
    if size not in names:
        raise BtfError(f"C has no such type of {size} bytes", type_id)
    return names[size]
