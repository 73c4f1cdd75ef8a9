# SPDX-License-Identifier: Apache-2.0
"""C declarations from BTF: the types asked for, everything that they contain by value, and nothing else.

A kernel's BTF as one header is 3 MB of C, and every compilation would read it again. Here a type that is only pointed
to is declared but not defined, which leaves a few per cent of that. What the text keeps is layout: names, offsets,
sizes. It drops what does not change layout: const and volatile, tags, and the parameters of function pointers.

`CText.asserts` lets a compiler confirm every size and offset.
"""

from dataclasses import dataclass, replace
from typing import Final

from agent.kernel.btf import ALIASES, COMPOSITES, ENUMS, MAX_DEPTH, Btf, BtfError, Kind
from agent.kernel.btf_declarator import Declarators, unqualified

_ROOT_KINDS: Final = (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF, Kind.ENUM, Kind.ENUM64)
# The compiler gives every enum 4 bytes, or 8 if a value needs them, unless told the machine mode.
_ENUM_MODE: Final = {1: " __attribute__((mode(QI)))", 2: " __attribute__((mode(HI)))", 8: " __attribute__((mode(DI)))"}
# Defined by the compiler itself.
_BUILTIN_TYPEDEFS: Final = frozenset({"__builtin_va_list"})


@dataclass(frozen=True, slots=True)
class Roots:
    """What to declare.

    `required` and `optional` are names of structs, unions, typedefs or enums; a required one that the BTF lacks is an
    error. `constants` are enumerators, or with a final * their beginnings, whose anonymous enums are wanted. `members`
    are those of roots, as pairs of names, that not every kernel has.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    members: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CText:
    """`text` declares the types; `asserts`, after it, checks them; `enumerators` are the constants that it defines.
    `lacking`: optional roots that the BTF does not have, and members as `struct_member`.
    """

    text: str
    asserts: str
    enumerators: frozenset[str]
    lacking: tuple[str, ...] = ()


def declare(btf: Btf, roots: Roots) -> CText:
    """Write the declarations of `roots`. Raises BtfError for roots that are missing, and for BTF that C cannot say."""
    found = _find_roots(btf, roots)
    writer = _Writer(btf)
    for type_id in found:
        writer.reserve_name(type_id)
    for type_id in _constant_enums(btf, roots.constants):
        writer.define(type_id)
    for type_id in found:
        writer.define(type_id)
    return replace(writer.finish(), lacking=(*_absent(btf, roots.optional), *_absent_members(btf, roots.members)))


def _find_roots(btf: Btf, roots: Roots) -> tuple[int, ...]:
    ids, missing = [], []
    for name in dict.fromkeys(roots.required + roots.optional):
        type_id = _find(btf, name)
        if type_id is not None:
            ids.append(type_id)
        elif name in roots.required:
            missing.append(name)
    if missing:
        raise BtfError(f"it does not describe {', '.join(missing)}")
    return tuple(ids)


def _find(btf: Btf, name: str) -> int | None:
    candidates = (btf.find(kind, name) for kind in _ROOT_KINDS)
    return next((found for found in candidates if found is not None), None)


def _absent(btf: Btf, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if _find(btf, name) is None)


def _absent_members(btf: Btf, members: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Those of their own, not of anonymous structures in them."""
    absent = []
    for name, member in members:
        root = _find(btf, name)
        if root is None or all(each.name != member for each in btf.members(root)):
            absent.append(f"{name}_{member}")
    return tuple(absent)


def _constant_enums(btf: Btf, constants: tuple[str, ...]) -> list[int]:
    """The anonymous enums that hold one of the wanted constants."""
    exact = frozenset(c for c in constants if not c.endswith("*"))
    beginnings = tuple(c[:-1] for c in constants if c.endswith("*"))
    return [
        type_id
        for kind in (Kind.ENUM, Kind.ENUM64)
        for type_id in btf.ids(kind)
        if not btf.name(type_id)
        and any(e.name in exact or e.name.startswith(beginnings) for e in btf.enumerators(type_id))
    ]


class _Writer:
    """Writes each type once, after the types that its text needs."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._say = Declarators(btf)
        self._text: list[str] = []
        self._asserts: list[str] = []
        self._enumerators: set[str] = set()
        self._declared: set[int] = set()
        self._defined: set[int] = set()
        self._open: set[int] = set()

    def reserve_name(self, type_id: int) -> None:
        if self._btf.kind(type_id) is Kind.TYPEDEF:
            self._say.typedef_name(type_id)
        else:
            self._say.tag(type_id)

    def define(self, type_id: int) -> None:
        self._require(type_id, True, 0)

    def finish(self) -> CText:
        lines, checks = "\n".join(self._text), "\n".join(self._asserts)
        return CText(lines + "\n", checks + "\n", frozenset(self._enumerators))

    # What has to stand before a type can be used: in full where `complete`, else so that it can be pointed to.

    def _require(self, type_id: int, complete: bool, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise BtfError(f"types nest deeper than {MAX_DEPTH}", type_id)
        kind = self._btf.kind(type_id)
        if kind is Kind.TYPEDEF:
            self._require_typedef(type_id, complete, depth)
        elif kind in ALIASES:
            self._require(self._btf.target(type_id), complete, depth + 1)
        elif kind is Kind.PTR:
            self._require_pointee(type_id, depth)
        elif kind is Kind.ARRAY:
            self._require(self._btf.array(type_id).element, True, depth + 1)
        elif kind in COMPOSITES:
            self._require_composite(type_id, complete, depth)
        elif kind in ENUMS:
            self._define_enum(type_id)
        elif kind is Kind.FWD:
            self._forward(self._say.forward_target(type_id))

    def _require_typedef(self, type_id: int, complete: bool, depth: int) -> None:
        target = self._btf.target(type_id)
        if type_id not in self._declared:
            self._enter(type_id)
            # The struct that the typedef names may itself use the typedef: hence the typedef before the struct.
            self._require(target, False, depth + 1)
            name = self._say.typedef_name(type_id)
            if name not in _BUILTIN_TYPEDEFS:
                self._text.append(f"typedef {self._say.declarator(target, name, depth + 1)};")
            self._open.discard(type_id)
            self._declared.add(type_id)
        if complete:
            self._require(target, True, depth + 1)

    def _require_pointee(self, type_id: int, depth: int) -> None:
        target = unqualified(self._btf, self._btf.target(type_id))
        if self._btf.kind(target) not in (Kind.ARRAY, Kind.FUNC_PROTO):
            self._require(target, False, depth + 1)

    def _require_composite(self, type_id: int, complete: bool, depth: int) -> None:
        named = bool(self._btf.name(type_id))
        if named and not complete:
            self._forward(type_id)
        elif type_id not in self._defined:
            self._enter(type_id)
            for member in self._btf.members(type_id):
                self._require(member.type_id, True, depth + 1)
            if named:
                self._text.append(f"{self._say.body(type_id, self._say.tag(type_id), depth)};")
                self._check_composite(type_id)
            self._open.discard(type_id)
            self._defined.add(type_id)

    def _enter(self, type_id: int) -> None:
        if type_id in self._open:
            raise BtfError("the type contains itself", type_id)
        self._open.add(type_id)

    def _forward(self, type_id: int) -> None:
        if type_id not in self._declared and type_id not in self._defined:
            self._declared.add(type_id)
            self._text.append(f"{self._say.tag(type_id)};")

    def _define_enum(self, type_id: int) -> None:
        enumerators = self._btf.enumerators(type_id)
        if type_id in self._defined or not enumerators:
            return
        self._defined.add(type_id)
        self._say.spend(len(enumerators))
        size = self._btf.size(type_id)
        suffix = ("" if self._btf.is_signed_enum(type_id) else "U") + ("LL" if size == 8 else "")
        values = ", ".join(f"{self._enumerator(e.name)} = {_literal(e.value, suffix)}" for e in enumerators)
        tag = self._say.tag(type_id) if self._btf.name(type_id) else "enum"
        self._text.append(f"{tag} {{ {values} }}{_ENUM_MODE.get(size, '')};")
        if self._btf.name(type_id):
            self._check(f"sizeof({tag}) == {size}", tag)

    def _enumerator(self, name: str) -> str:
        unique = self._say.enumerator(name)
        self._enumerators.add(unique)
        return unique

    # What a compiler is asked to confirm.

    def _check_composite(self, type_id: int) -> None:
        tag = self._say.tag(type_id)
        self._check(f"sizeof({tag}) == {self._btf.size(type_id)}", tag)
        self._check_members(type_id, tag, "", 0)

    def _check_members(self, type_id: int, tag: str, path: str, base: int) -> None:
        for member in self._btf.members(type_id):
            offset, name = base + member.bit_offset, path + member.name
            if member.name and not member.bits:
                self._check(f"__builtin_offsetof({tag}, {name}) == {offset // 8}", f"{tag} {name}")
            inner = unqualified(self._btf, member.type_id)
            if self._btf.kind(inner) in COMPOSITES and not (member.name and self._btf.name(inner)):
                self._check_members(inner, tag, f"{name}." if member.name else path, offset)

    def _check(self, condition: str, subject: str) -> None:
        self._asserts.append(f'_Static_assert({condition}, "{subject}");')


def _literal(value: int, suffix: str) -> str:
    """The most negative number of a width has no literal in C: its magnitude is not a value of that width."""
    if value < 0:
        return f"({value + 1}{suffix} - 1)"
    return f"{value}{suffix}"
