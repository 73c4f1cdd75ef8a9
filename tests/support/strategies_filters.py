# SPDX-License-Identifier: Apache-2.0
"""Random filters of selectors: on arguments, on what is returned, and on processes.

Values are drawn from small pools, so that calls whose arguments are drawn from the same meet them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from agent.policy.cel import arguments
from agent.policy.kernel_names import FILE_TYPES
from agent.policy.model import (
    Arg,
    ArgFilter,
    ArgType,
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    Cel,
    FilterValue,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    Network,
    Operator,
    PidFilter,
    Range,
    WorkloadSelector,
)
from agent.policy.operators import fitting
from agent.policy.sets import NUMBER_THRESHOLD, RANGE_THRESHOLD, TEXT_THRESHOLD
from agent.policy.values import number_range
from tests.support.calls import AF_INET, AF_INET6, AF_UNIX

NUMBERS = tuple(
    kind
    for kind in ArgType
    if kind.is_number and not kind.is_capability_set and kind not in (ArgType.SYSCALL64, ArgType.AUTO)
)
SEVERAL = (Operator.CEL_EXPR, Operator.CAPABILITIES_GAINED)


@dataclass(frozen=True, slots=True)
class Pool:
    """What is true of the callers, so that filters are not about others only. paths: of open files; binaries: of the
    callers and of those that made them.
    """

    paths: tuple[bytes, ...] = ()
    binaries: tuple[bytes, ...] = ()
    pids: tuple[int, ...] = ()
    namespaces: Mapping[NamespaceType, tuple[int, ...]] | None = None


# Values.

_LETTERS = tuple(text.encode() for text in ("a", "b", "/", "A", "é", "あ", "ß", "µ"))
_WORDS = st.lists(st.sampled_from(_LETTERS[:4]), min_size=1, max_size=20).map(b"".join)
_SHORT = st.lists(st.sampled_from(_LETTERS), min_size=1, max_size=3).map(b"".join)
_LENGTHS = (*3 * (7, 8, 9, 15, 16, 17), 500, 4095)  # around the words of a comparison; the longest there is
TEXTS = st.one_of(_SHORT, _SHORT, _WORDS, st.sampled_from([b"a" * length for length in _LENGTHS]))
_MAX_SUBSTRING = 500  # a table has room for more; larger ones make more programs
ADDRESSES = (
    bytes([127, 0, 0, 1]),
    bytes([127, 0, 0, 2]),
    bytes([127, 64, 0, 1]),
    bytes(15) + b"\1",
    b"\xfe\x80" + bytes(13) + b"\1",
    bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]),
)
PORTS = (0, 1, 22, 80, 1023, 1024, 8080, 65535)


def numbers(arg_type: ArgType) -> st.SearchStrategy[int]:
    """Of a type: small ones, its ends, single bits, and any."""
    least, greatest = number_range(arg_type.bits, arg_type.signed)
    edges = {least, least + 1, greatest - 1, greatest, *(1 << n for n in range(0, 64, 7)), *range(-3, 6)}
    chosen = sorted(edge for edge in edges if least <= edge <= greatest)
    return st.one_of(
        st.sampled_from(chosen), st.integers(max(least, -3), min(greatest, 9)), st.integers(least, greatest)
    )


def _ranges(arg_type: ArgType) -> st.SearchStrategy[Range]:
    return st.tuples(numbers(arg_type), numbers(arg_type)).map(lambda pair: Range(min(pair), max(pair)))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Around the addresses that calls use."""
    address = draw(st.sampled_from(ADDRESSES))
    bits = draw(st.integers(0, 8 * len(address)))
    unused = 8 * len(address) - bits
    return Network((int.from_bytes(address, "big") >> unused << unused).to_bytes(len(address), "big"), bits)


MORE_TEXTS = tuple(b"~" * (n * n) + b"%d~" % n for n in range(TEXT_THRESHOLD))

_PORT_RANGES = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(lambda pair: Range(min(pair), max(pair)))
_FAMILIES = st.sampled_from((0, AF_UNIX, AF_INET, AF_INET6))
_NETS: Mapping[Operator, st.SearchStrategy[FilterValue]] = {
    Operator.SADDR: networks(),
    Operator.SPORT: _PORT_RANGES,
    Operator.FAMILY: _FAMILIES,
}


def _parts(path: bytes) -> tuple[bytes, ...]:
    return (path, path[:-1], path[1:], path[: len(path) // 2], path[len(path) // 2 :], path + b"x", path.swapcase())


def _texts(arg_type: ArgType, pool: Pool) -> st.SearchStrategy[bytes]:
    if not arg_type.is_path:
        return TEXTS
    parts = st.sampled_from([part for path in pool.paths for part in _parts(path) if part])
    whole = st.sampled_from(pool.paths)
    return st.one_of(whole, whole, parts, TEXTS)


def filter_values(operator: Operator, arg_type: ArgType, pool: Pool) -> st.SearchStrategy[tuple[FilterValue, ...]]:
    """What a condition with this operator on an argument of this type may compare with."""
    positive = operator.positive
    if positive in (Operator.SPORT_PRIV, Operator.DPORT_PRIV):
        return st.just(())
    each: st.SearchStrategy[FilterValue]
    if positive is Operator.FILE_TYPE:
        each = st.sampled_from(sorted(set(FILE_TYPES.values())))
    elif positive in _NETS:
        each = _NETS[positive]
    elif positive is Operator.IN_RANGE:
        each = _ranges(arg_type)
    elif arg_type.is_number:
        each = numbers(arg_type)
    else:
        each = _texts(arg_type, pool)
        if positive in (Operator.SUBSTRING, Operator.SUBSTRING_IGNORE_CASE):
            each = each.filter(lambda text: len(text) <= _MAX_SUBSTRING)
    many = 12 if positive is Operator.IN_MAP else 3
    drawn = st.lists(each, min_size=1, max_size=many).map(tuple)
    return st.builds(tuple.__add__, drawn, st.sampled_from(((), (), (), more_values(positive, arg_type))))


def more_values(operator: Operator, arg_type: ArgType) -> tuple[FilterValue, ...]:
    """So many others that values go into maps (agent/policy/sets.py), where the type has as many."""
    if operator in (Operator.SPORT, Operator.DPORT):
        return tuple(Range(n, n + n % 3) for n in range(2000, 2000 + 5 * RANGE_THRESHOLD, 5))
    if operator in (Operator.SADDR, Operator.DADDR):
        return tuple(Network(bytes((10, n, 0, 0)), 16) for n in range(RANGE_THRESHOLD))
    if operator in (Operator.EQUAL, Operator.IN_MAP, Operator.IN_RANGE) and arg_type.is_number:
        least, greatest = number_range(arg_type.bits, arg_type.signed)
        step = (greatest - least) // (NUMBER_THRESHOLD + 1)
        numbers_ = range(least + step // 3, greatest, step) if step else ()
        return tuple(Range(n, n + step // 9) for n in numbers_) if operator is Operator.IN_RANGE else tuple(numbers_)
    return MORE_TEXTS if operator in (Operator.EQUAL, Operator.PREFIX, Operator.POSTFIX) else ()


# Expressions.

_SUMS = st.sampled_from(("+", "-", "and", "or", "xor"))
_RELATIONS = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))


def _terms(positions: tuple[int, ...]) -> st.SearchStrategy[Cel]:
    edges = (-(1 << 63), (1 << 63) - 1, (1 << 32) - 1, 1 << 31)
    leaf = st.one_of(
        st.sampled_from(positions).map(lambda n: Cel("arg", value=n)),
        st.one_of(st.integers(-3, 5), st.sampled_from(edges)).map(lambda n: Cel("const", value=n)),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(lambda op, one: Cel(op, (one,)), st.sampled_from(("int32", "uint32", "not")), inner),
            st.builds(lambda op, a, b: Cel(op, (a, b)), _SUMS, inner, inner),
        ),
        max_leaves=3,
    )


def expressions(positions: tuple[int, ...]) -> st.SearchStrategy[Cel]:
    """Conditions over these places of `args`, of which they name one at least."""
    terms = _terms(positions)
    relation = st.builds(lambda op, a, b: Cel(op, (a, b)), _RELATIONS, terms, terms)
    condition = st.recursive(
        relation,
        lambda inner: st.one_of(
            st.builds(lambda one: Cel("!", (one,)), inner),
            st.builds(lambda op, a, b: Cel(op, (a, b)), st.sampled_from(("&&", "||")), inner, inner),
        ),
        max_leaves=2,
    )
    return condition.filter(lambda tree: bool(arguments(tree)))


# Filters on arguments.


@st.composite
def arg_filters(draw: st.DrawFn, declared: tuple[Arg, ...], pool: Pool, in_args: bool) -> ArgFilter:
    """A condition on one of the declared values, or on several."""
    sets = tuple(n for n, arg in enumerate(declared) if arg.type.is_capability_set)
    plain = tuple(n for n, arg in enumerate(declared) if arg.type.is_number)
    if in_args and len(sets) > 1 and draw(st.integers(0, 2)) == 0:
        mask = draw(st.lists(numbers(ArgType.KERNEL_CAP_T), max_size=1))
        return ArgFilter(sets[:2], Operator.CAPABILITIES_GAINED, tuple(mask))
    if in_args and plain and draw(st.integers(0, 5)) == 0:
        tree = draw(expressions(plain))
        return ArgFilter(arguments(tree), Operator.CEL_EXPR, (tree,))
    position = draw(st.integers(0, len(declared) - 1))
    arg_type = declared[position].type
    operator = draw(st.sampled_from([each for each in fitting(arg_type) if each not in SEVERAL]))
    return ArgFilter((position,), operator, draw(filter_values(operator, arg_type, pool)))


@st.composite
def return_filters(draw: st.DrawFn, arg_type: ArgType, pool: Pool) -> ArgFilter:
    """A condition on what is returned."""
    operator = draw(st.sampled_from([each for each in fitting(arg_type) if each not in SEVERAL]))
    return ArgFilter((), operator, draw(filter_values(operator, arg_type, pool)))


# Filters on the process.

_MEMBERSHIP = st.sampled_from((Operator.IN, Operator.NOT_IN))
_BINARY = st.sampled_from(
    (Operator.IN, Operator.NOT_IN, Operator.PREFIX, Operator.NOT_PREFIX, Operator.POSTFIX, Operator.NOT_POSTFIX)
)
_CAPABILITIES = st.integers(0, 40).map(lambda bit: 1 << bit)
_MASKS = st.one_of(_CAPABILITIES, st.sampled_from((1 << 13, 1 << 21, 1 << 22, (1 << 41) - 1)))


def _pid_filters(pool: Pool) -> st.SearchStrategy[PidFilter]:
    values = st.lists(st.sampled_from((1, 2, *pool.pids)), min_size=1, max_size=3).map(tuple)
    return st.builds(PidFilter, _MEMBERSHIP, values, st.booleans(), st.booleans())


def _binary_filters(pool: Pool) -> st.SearchStrategy[BinaryFilter]:
    parts = [part for path in pool.binaries for part in _parts(path) if part]
    few = st.lists(st.sampled_from(parts), min_size=1, max_size=3).map(tuple)
    values = st.builds(tuple.__add__, few, st.sampled_from(((), (), (), MORE_TEXTS)))
    return st.builds(BinaryFilter, _BINARY, values, st.integers(0, 3).map(lambda n: n == 0))


@st.composite
def _namespace_filters(draw: st.DrawFn, pool: Pool) -> NamespaceFilter:
    kind = draw(st.sampled_from(tuple(NamespaceType)))
    known = (pool.namespaces or {}).get(kind, (1,))
    values = tuple(draw(st.lists(st.sampled_from((5, *known)), max_size=2)))
    return NamespaceFilter(kind, draw(_MEMBERSHIP), values, draw(st.booleans()) or not values)


_NAMESPACES = st.lists(st.sampled_from(tuple(NamespaceType)), min_size=1, max_size=3, unique=True).map(tuple)
_KINDS = st.sampled_from(tuple(CapabilityType))


PROCESS_FILTERS: Mapping[str, Callable[[Pool], st.SearchStrategy[Any]]] = {
    "pids": _pid_filters,
    "binaries": _binary_filters,
    "parent_binaries": _binary_filters,
    "namespaces": _namespace_filters,
    "namespace_changes": lambda _: st.builds(NamespaceChangeFilter, _MEMBERSHIP, _NAMESPACES),
    "capabilities": lambda _: st.builds(CapabilityFilter, _KINDS, _MEMBERSHIP, _MASKS, st.booleans()),
    "capability_changes": lambda _: st.builds(CapabilityChangeFilter, _KINDS, _MEMBERSHIP, _MASKS, st.booleans()),
    "workloads": lambda _: st.sampled_from((WorkloadSelector(host=True), WorkloadSelector())),
}


def process_filters(pool: Pool) -> st.SearchStrategy[dict[str, tuple[Any, ...]]]:
    """One filter of a selector that asks about the process, by the name of its field."""
    each = [kind(pool).map(partial(_named, name)) for name, kind in PROCESS_FILTERS.items()]
    return st.one_of(each)


def _named(name: str, found: object) -> dict[str, tuple[Any, ...]]:
    return {name: (found,)}
