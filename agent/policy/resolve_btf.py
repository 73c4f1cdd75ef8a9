# SPDX-License-Identifier: Apache-2.0
"""From `mm.owner.pid` to "follow byte 1,096, then byte 1,120, then read four bytes", through the types of BTF.

A path begins at a value (an argument, the task) of a known type. Each name is a member of the structure reached so far;
members of anonymous structures inside it count as its own. A pointer in the middle is followed, as many in a row as
there are. `[3]`, behind a name or alone between dots, is an element of an array or of what a pointer points to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.policy.access import Memory, Read
from agent.policy.errors import quote
from agent.policy.facts import CMember, CType, Shape, Types
from agent.policy.fields import suggest
from agent.policy.leaf import Leaf, LeafKind, follow, narrow
from agent.policy.resolve_faults import ResolveError

MAX_POINTERS = 64  # of one path: each is a call of a helper in every event
MAX_DEPTH = 32  # anonymous structures inside one another: the kernel's own bound for types (MAX_RESOLVE_DEPTH)
MAX_MEMBERS = 20_000  # of one structure: task_struct has some 300
MAX_INDEX = (1 << 31) - 1  # offsets are signed 32-bit numbers in BPF's instructions
_STEP = re.compile(r"(?P<name>[A-Za-z_]\w*)?(?P<indexes>(?:\[\d{1,10}\])*)", re.ASCII)
_INDEX = re.compile(r"\[(\d+)\]", re.ASCII)
_WORDS = (1, 2, 4, 8)
_COMPOSITES = frozenset({Shape.STRUCT, Shape.UNION})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path has got to. read: without offsets the value itself, otherwise where it lies. text: the path, for
    people. memory: where pointers that are found here point.
    """

    type_id: int
    read: Read
    text: str
    memory: Memory = Memory.KERNEL


def walk(types: Types, place: Place, path: tuple[str, ...]) -> Place:
    """Raises ResolveError, naming the step that does not exist."""
    for text in path:
        step = _STEP.fullmatch(text)
        if step is None or not text:
            raise ResolveError(
                f"{quote(text)} is no member name", "write names with dots between, `mm.owner`, `cap[0]`"
            )
        if step["name"]:
            place = _member(types, place, step["name"])
        for index in _INDEX.findall(step["indexes"]):
            place = _element(types, place, int(index))
    return place


def leaf_at(types: Types, place: Place) -> Leaf:
    """What is to be read at a place."""
    described = types.describe(place.type_id)
    text = f"{place.text} ({spell(types, place.type_id)})"
    leaf = Leaf(LeafKind.OTHER, place.read, text, memory=place.memory)
    if described.shape in (Shape.INTEGER, Shape.ENUM):
        return _number(leaf, described)
    if described.shape is Shape.POINTER:
        return _pointer(types, leaf, described)
    # A structure that came in a register has no address.
    if not place.read.offsets or described.shape not in (*_COMPOSITES, Shape.ARRAY):
        return leaf
    leaf = replace(leaf, read=replace(place.read, in_place=True), size=described.size)
    if described.shape is Shape.ARRAY:
        return replace(_towards(types, leaf, described.target), kind=LeafKind.ARRAY)
    names, begins = described.names, _beginnings(types, place.type_id)
    return replace(leaf, kind=LeafKind.STRUCT, names=names, begins=begins)


def spell(types: Types, type_id: int) -> str:
    """The type as C has it, for people."""
    stars = ""
    for _ in range(MAX_DEPTH):
        described = types.describe(type_id)
        if described.shape is Shape.ARRAY:
            stars = f"[{described.count or ''}]{stars}"
        elif described.shape is Shape.POINTER and not described.names:
            stars = f"*{stars}"
        else:
            break
        type_id = described.target
    keyword = f"{described.shape.name.lower()} " if described.shape in (*_COMPOSITES, Shape.ENUM) else ""
    name = described.names[0] if described.names else "{…}" if keyword else described.shape.name.lower()
    return f"{keyword}{name}{' ' if stars.startswith('*') else ''}{stars}"


def cast(types: Types, place: Place, name: str) -> Place:
    """The structure of this name (`btfType`) that the address at a place points to. Raises ResolveError."""
    return replace(place, type_id=named_type(types, name), read=follow(place.read, place.memory))


def named_type(types: Types, name: str) -> int:
    """The type of this name. Raises ResolveError."""
    found = types.find(name)
    if found is None:
        advice = suggest(name, types.names(), "write the name of a struct, a union or a typedef")
        raise ResolveError(f"no type {quote(name)} in BTF", advice)
    return found


def _member(types: Types, place: Place, name: str) -> Place:
    place = _entered(types, place)
    found = next((member for member in _members(types, place.type_id) if member.name == name), None)
    if found is None:
        members = {member.name for member in _members(types, place.type_id)}
        owner = spell(types, place.type_id)
        raise ResolveError(
            f"{owner} has no member {quote(name)}", suggest(name, members, f"see the members of {owner}")
        )
    read = _bit_field(types, place.read, found) if found.bits else _moved(place.read, found.bit_offset // 8)
    memory = Memory.USER if "pt_regs" in types.describe(place.type_id).names else place.memory
    return Place(found.type_id, read, f"{place.text}.{name}", memory)


def _element(types: Types, place: Place, index: int) -> Place:
    described = types.describe(place.type_id)
    text = f"{place.text}[{index}]"
    if described.shape not in (Shape.ARRAY, Shape.POINTER):
        raise ResolveError(f"{place.text} is no array", "leave the index out")
    if described.shape is Shape.ARRAY and described.count and index >= described.count:
        raise ResolveError(f"{place.text} has {described.count} elements", f"use [0] to [{described.count - 1}]")
    size = types.describe(described.target).size
    if not size:
        raise ResolveError(f"the elements of {place.text} have no size", "leave the index out")
    if described.shape is Shape.POINTER:
        place = _followed(place, described)
    return replace(place, type_id=described.target, read=_moved(place.read, index * size), text=text)


def _entered(types: Types, place: Place) -> Place:
    """The structure at a place, or behind its pointers."""
    described = types.describe(place.type_id)
    while described.shape is Shape.POINTER:
        place = replace(_followed(place, described), type_id=described.target)
        described = types.describe(place.type_id)
    if described.shape not in _COMPOSITES or not place.read.offsets:
        raise ResolveError(f"{place.text} ({spell(types, place.type_id)}) has no members", "end `resolve` there")
    return place


def _followed(place: Place, pointer: CType) -> Place:
    if len(place.read.offsets) == MAX_POINTERS:
        raise ResolveError(f"more than {MAX_POINTERS} pointers to follow", "name something nearer")
    memory = Memory.USER if pointer.is_user else place.memory
    return replace(place, read=follow(place.read, memory), memory=memory)


def _moved(read: Read, offset: int) -> Read:
    *before, last = read.offsets
    if last + offset > MAX_INDEX:
        raise ResolveError(f"an offset of {last + offset:,} bytes", f"at most {MAX_INDEX:,} can be read")
    return replace(read, offsets=(*before, last + offset))


def _bit_field(types: Types, read: Read, member: CMember) -> Read:
    """The bits inside the unit of the member's type; where they cross it (a packed structure), in the fewest bytes."""
    unit = types.describe(member.type_id).size
    first = member.bit_offset // (8 * unit) * unit
    if member.bit_offset - 8 * first + member.bits > 8 * unit:
        first = member.bit_offset // 8
        unit = next((size for size in _WORDS if member.bit_offset % 8 + member.bits <= 8 * size), 0)
    if unit not in _WORDS:
        raise ResolveError(f"the bit field {quote(member.name)} lies in more than 8 bytes", "name another member")
    bit = member.bit_offset - 8 * first
    return replace(_moved(read, first), size=unit, bit_offset=bit, bit_size=member.bits)


def _members(types: Types, type_id: int) -> Iterator[CMember]:
    """The members with a name, those of anonymous structures in their places; offsets from the outermost begin."""
    inside = [(iter(types.members(type_id)), 0)]
    for _ in range(MAX_MEMBERS):
        members, base = inside[-1]
        member = next(members, None)
        if member is None:
            inside.pop()
            if not inside:
                return
        elif member.name:
            yield replace(member, bit_offset=base + member.bit_offset)
        elif types.describe(member.type_id).shape in _COMPOSITES and len(inside) < MAX_DEPTH:
            inside.append((iter(types.members(member.type_id)), base + member.bit_offset))
    raise ResolveError(f"a structure of more than {MAX_MEMBERS:,} members", "name a type that the kernel itself uses")


def _number(leaf: Leaf, described: CType) -> Leaf:
    if described.size not in _WORDS:
        return leaf
    if leaf.memory is Memory.USER and leaf.read.memory is Memory.KERNEL and described.size == 8:
        # A register that the kernel has saved.
        return replace(leaf, kind=LeafKind.REGISTER)
    read = leaf.read
    if not read.bit_size:
        read = narrow(read, described.size, described.signed)
    else:
        read = replace(read, signed=described.signed)
    return replace(leaf, kind=LeafKind.NUMBER, read=read, size=described.size, signed=described.signed)


def _pointer(types: Types, leaf: Leaf, described: CType) -> Leaf:
    memory = Memory.USER if described.is_user else leaf.memory
    return replace(_towards(types, leaf, described.target), kind=LeafKind.POINTER, memory=memory)


def _towards(types: Types, leaf: Leaf, target: int) -> Leaf:
    """What the leaf points to, or is made of."""
    described = types.describe(target)
    number = described.shape in (Shape.INTEGER, Shape.ENUM)
    structure = described.shape in (*_COMPOSITES, Shape.FORWARD)
    return replace(
        leaf,
        element=described.size,
        number=number,
        is_char=number and described.names[-1:] == ("char",),
        is_void=described.shape is Shape.VOID,
        names=described.names if structure else (),
        begins=_beginnings(types, target) if structure else (),
    )


def _beginnings(types: Types, type_id: int) -> tuple[str, ...]:
    """The names of the structures that begin this one, one inside the other."""
    found: list[str] = []
    for _ in range(MAX_DEPTH):
        described = types.describe(type_id)
        members = types.members(type_id) if described.shape is Shape.STRUCT else ()
        if not members or members[0].bits:
            break
        type_id = members[0].type_id
        if (inner := types.describe(type_id)).shape in _COMPOSITES:
            found += inner.names
    return tuple(found)
