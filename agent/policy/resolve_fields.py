# SPDX-License-Identifier: Apache-2.0
"""The fields of tracepoints, from the text of their C types, which is all that a format file says of them."""

from __future__ import annotations

import re
from dataclasses import replace

from agent.policy.access import Input, InputKind, Memory, Read
from agent.policy.errors import quote
from agent.policy.facts import RecordField
from agent.policy.leaf import Leaf, LeafKind
from agent.policy.resolve_faults import ResolveError

# The first 8 bytes of a record, the common fields, are not the record's own where a program sees it: the kernel keeps
# a pointer there (perf_trace_run_bpf_submit).
FIRST_OFFSET = 8
_STRUCTURE = re.compile(r"(?:struct|union) (?P<name>\w+) \*", re.ASCII)
_INTEGERS = {
    "char": (1, True),
    "unsigned char": (1, False),
    "u8": (1, False),
    "__u8": (1, False),
    "uint8_t": (1, False),
    "s8": (1, True),
    "int8_t": (1, True),
    "umode_t": (2, False),
    "u16": (2, False),
    "__u16": (2, False),
    "int": (4, True),
    "s32": (4, True),
    "__s32": (4, True),
    "pid_t": (4, True),
    "clockid_t": (4, True),
    "timer_t": (4, True),
    "mqd_t": (4, True),
    "key_t": (4, True),
    "key_serial_t": (4, True),
    "rwf_t": (4, True),
    "unsigned int": (4, False),
    "unsigned": (4, False),
    "u32": (4, False),
    "__u32": (4, False),
    "uint32_t": (4, False),
    "uid_t": (4, False),
    "gid_t": (4, False),
    "qid_t": (4, False),
    "long": (8, True),
    "loff_t": (8, True),
    "off_t": (8, True),
    "ssize_t": (8, True),
    "u64": (8, False),
    "__u64": (8, False),
    "unsigned long": (8, False),
}
_WORD = (8, False)


def register_width(field: RecordField) -> tuple[int, bool]:
    """How many bytes of a system call's argument count and whether they are signed: what its C type says; 8 of a type
    that is not known here.
    """
    base = _base(field.type)
    if field.is_pointer:
        return _WORD
    return (4, False) if base.startswith("enum ") else _INTEGERS.get(base, _WORD)


def structure_name(field: RecordField) -> str | None:
    """`file` of a `const struct file *`; None of any other type."""
    found = _STRUCTURE.fullmatch(field.type.replace("const ", ""))
    return found["name"] if found else None


def register_leaf(field: RecordField, source: Input, text: str) -> Leaf:
    """An argument of a system call, which `source` gives whole."""
    size, signed = register_width(field)
    leaf = Leaf(LeafKind.REGISTER, Read(source), text, size, signed, memory=Memory.USER)
    return _towards(leaf, field) if field.is_pointer else leaf


def field_leaf(field: RecordField, text: str) -> Leaf:
    """A field of a record of the kernel's own. Raises ResolveError."""
    if field.is_dynamic:
        return _dynamic_leaf(field, text)
    if field.is_array:
        read = Read(Input(InputKind.RECORD, field.offset))
        return replace(_elements(field, read, text), size=field.size)
    read = Read(Input(InputKind.FIELD, field.offset, field.size, field.signed))
    if field.is_pointer:
        return _towards(Leaf(LeafKind.POINTER, Read(Input(InputKind.FIELD, field.offset)), text), field)
    is_number = field.size in (1, 2, 4, 8) and field.offset % field.size == 0
    return Leaf(LeafKind.NUMBER if is_number else LeafKind.OTHER, read, text, field.size, field.signed)


def check_place(field: RecordField) -> None:
    """Refuses what the kernel does not show to programs."""
    if field.offset < FIRST_OFFSET:
        advice = "every event has the process" if field.name == "common_pid" else "the record's own fields follow them"
        raise ResolveError(f"the kernel gives programs no common field of a record, {quote(field.name)}", advice)
    if field.is_array and not field.size:
        raise ResolveError(f"the format does not say how long {quote(field.name)} is", "leave it out")


def _dynamic_leaf(field: RecordField, text: str) -> Leaf:
    if not field.type.startswith("__data_loc "):
        raise ResolveError(f"{text} lies at a relative place (__rel_loc), which is not read", "leave it out")
    leaf = _elements(field, Read(Input(InputKind.DATA_LOC, field.offset)), text)
    return replace(leaf, size=0, length=Read(Input(InputKind.DATA_LOC_SIZE, field.offset)))


def _elements(field: RecordField, read: Read, text: str) -> Leaf:
    base = _base(field.type)
    element = _INTEGERS.get(base, (0, False))[0]
    return Leaf(LeafKind.ARRAY, read, text, number=element > 0, element=element, is_char=base == "char")


def _towards(leaf: Leaf, field: RecordField) -> Leaf:
    """What a pointer points to."""
    name, base = structure_name(field), _base(field.type)
    if name is not None:
        return replace(leaf, names=(name,))
    stars = field.type.count("*")
    element = _INTEGERS.get(base, (0, False))[0] if stars == 1 else 8
    return replace(
        leaf,
        element=element,
        number=stars == 1 and element > 0,
        is_char=stars == 1 and base == "char",
        is_void=stars == 1 and base == "void",
    )


def _base(text: str) -> str:
    """The C type without qualifiers, stars and brackets."""
    words = text.split("[")[0].replace("*", " ").split()
    return " ".join(word for word in words if word not in ("const", "volatile", "__data_loc"))
