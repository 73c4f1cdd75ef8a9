# SPDX-License-Identifier: Apache-2.0
"""Random calls whose arguments are near what policies compare with. None does any harm, whatever is drawn."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from hypothesis import strategies as st

from agent.policy.evaluate_values import wrap
from agent.policy.model import Arg, Cel, FilterValue, Hook, HookKind, Policy, Range
from tests.support.calls import AF_INET, AF_INET6, AF_UNIX, Argument, MadeCall, Vector
from tests.support.calls import Place as Memory
from tests.support.calls_seen import FIRST_FIELD, MANY_SEGMENTS
from tests.support.strategies import DESCRIPTOR, STRING, TARGETS
from tests.support.strategies_filters import ADDRESSES, PORTS, TEXTS

_U64 = (1 << 64) - 1
_AT_FDCWD = -100
_LONG = 5000
_PAGE = 4096
_MAX_SIGNAL = 64
_FEW_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Fds:
    """Descriptors of the callers. silent: those where writing means nothing."""

    all: tuple[int, ...]
    silent: tuple[int, ...]


MAX_NEAR = 16  # of a condition: it may have many more, which the strategies put behind those that they draw


class Near:
    """What policies compare the arguments of each call with, by the call and the argument's place."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._texts: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        for policy in policies:
            for hook in policy.hooks:
                self._learn(hook)

    def _learn(self, hook: Hook) -> None:
        first = FIRST_FIELD if hook.kind is HookKind.TRACEPOINT else 0
        call = hook.call.rpartition("sys_enter_")[2]
        for selector in hook.selectors:
            for condition in selector.args:
                for position in condition.positions:
                    self._keep(call, hook.args[position], first, condition.values)

    def _keep(self, call: str, arg: Arg, first: int, values: Iterable[FilterValue]) -> None:
        place = (call, arg.index - first)
        for value in islice(values, MAX_NEAR):
            if isinstance(value, bytes):
                self._texts[place].add(value)
            else:
                self._numbers[place].update(_numbers_in(value))

    def numbers(self, call: str, index: int) -> st.SearchStrategy[int]:
        """Registers; what is above a narrow type's bits is anything."""
        known = sorted(self._numbers[call, index] | {0, 1})
        near = st.builds(int.__add__, st.sampled_from(known), st.sampled_from((0, 0, 0, 1, -1)))
        filled = st.builds(lambda low, high: low & 0xFFFFFFFF | high << 32, near, st.sampled_from((0, 1, 0xFFFFFFFF)))
        return st.one_of(near, near, filled).map(lambda value: value & _U64)

    def texts(self, call: str, index: int) -> st.SearchStrategy[bytes]:
        known = sorted(self._texts[call, index])
        if not known:
            return TEXTS
        return st.one_of(st.builds(_change, st.sampled_from(known), st.sampled_from(_CHANGES), TEXTS), TEXTS)


def _numbers_in(value: FilterValue) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, Range):
        yield from (value.first, value.last)
    elif isinstance(value, Cel):
        if value.op == "const":
            yield value.value
        for operand in value.operands:
            yield from _numbers_in(operand)


_CHANGES: tuple[Callable[[bytes, bytes], bytes], ...] = (
    *4 * (lambda text, _: text,),
    lambda text, other: text + other,
    lambda text, other: other + text,
    lambda text, other: other + text + other,
    lambda text, _: text[:-1],
    lambda text, _: text[1:],
    lambda text, _: text[:-1] + text,
    lambda text, _: text.swapcase(),
    lambda text, _: b"x" + text.upper() + b"x",
    lambda text, _: text + b"x" * _LONG,
    lambda text, _: b"x" * _LONG + text,
    lambda text, _: text.rjust(_PAGE - 1, b"x"),
)


def _change(text: bytes, change: Callable[[bytes, bytes], bytes], other: bytes) -> bytes:
    return change(text, other)


def _memory(data: bytes, cold: bool) -> Memory:
    return Memory(data, cold and len(data) < _PAGE)


def _pointers(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[Argument]:
    """Mostly to something; else null, or to where nothing is."""
    cold = st.integers(0, 4).map(lambda n: n == 0)
    there: st.SearchStrategy[Argument] = st.builds(_memory, texts, cold)
    return st.one_of(there, there, there, there, there, st.sampled_from((0, 1)))


def _registers(numbers: tuple[int, ...]) -> st.SearchStrategy[int]:
    high = st.sampled_from((0, 0, 1, 0xFFFFFFFF))
    return st.builds(lambda low, above: low & 0xFFFFFFFF | above << 32, st.sampled_from(numbers), high)


_FAMILIES = st.sampled_from((0, AF_UNIX, AF_INET, AF_INET6))


@st.composite
def _socket_addresses(draw: st.DrawFn, near: Near) -> Memory:
    family, port = draw(_FAMILIES), draw(st.sampled_from(PORTS))
    address = draw(st.sampled_from(ADDRESSES))
    if family == AF_INET6:
        return Memory(struct.pack("<H", family) + struct.pack(">HI", port, 0) + address.rjust(16, b"\0") + bytes(4))
    if family == AF_INET:
        return Memory(struct.pack("<H", family) + struct.pack(">H", port) + address[-4:] + bytes(8))
    name = draw(near.texts("connect", 1))
    return Memory(struct.pack("<H", family) + draw(st.sampled_from((b"", b"\0"))) + name[:150])


def _is_harmless_signal(number: int) -> bool:
    return not 1 <= wrap(number, 32, signed=True) <= _MAX_SIGNAL


def _is_harmless_length(number: int) -> bool:
    return number <= _FEW_BYTES or bool(number >> 63)


def _is_harmless_count(number: int) -> bool:
    return number & 0xFFFFFFFF <= 8 or number & 0xFFFFFFFF >= MANY_SEGMENTS


_LENGTHS = st.one_of(st.integers(0, 40), st.sampled_from((_PAGE - 1, _PAGE, _PAGE + 1, _FEW_BYTES)))
_SIZES = st.sampled_from((0, 1, 2, 3, 7, 8, 15, 16, 23, 24, 28, 60, 110, 111, 128, 129, 0xFFFFFFFF, 1 << 32 | 16))


def calls(near: Near, fds: Fds, callers: int) -> st.SearchStrategy[MadeCall]:
    """callers: how many processes there are to make it."""
    strategies = [_call(near, fds, name) for name in TARGETS]
    return st.builds(MadeCall, st.just(""), st.just(()), st.integers(0, callers - 1)).flatmap(
        lambda whose: st.one_of(strategies).map(lambda made: MadeCall(made.name, made.arguments, whose.caller))
    )


def _call(near: Near, fds: Fds, name: str) -> st.SearchStrategy[MadeCall]:
    arguments = [_argument(near, fds, name, index) for index in range(len(TARGETS[name]))]
    return st.tuples(*arguments).map(lambda given: MadeCall(name, given)).map(_fit_length)


def _argument(near: Near, fds: Fds, name: str, index: int) -> st.SearchStrategy[Argument]:
    special = _SPECIAL.get((name, index))
    if special:
        return special(near, fds)
    place = TARGETS[name][index]
    if place == DESCRIPTOR:
        return st.one_of(_registers((*fds.all, -1, _AT_FDCWD, 1 << 20)), near.numbers(name, index))
    return _pointers(near.texts(name, index)) if place == STRING else near.numbers(name, index)


_Special = Callable[[Near, Fds], st.SearchStrategy[Argument]]
_SPECIAL: Mapping[tuple[str, int], _Special] = {
    ("kill", 1): lambda near, _: near.numbers("kill", 1).filter(_is_harmless_signal),
    ("pwrite64", 0): lambda _, fds: _registers((*fds.silent, -1, 1 << 20)),
    ("pwrite64", 1): lambda near, _: _pointers(near.texts("pwrite64", 1)),
    ("pwrite64", 2): lambda near, _: st.one_of(
        st.just(_U64), _LENGTHS, near.numbers("pwrite64", 2).filter(_is_harmless_length)
    ),
    ("writev", 0): lambda _, fds: _registers((*fds.silent, -1, 1 << 20)),
    ("writev", 1): lambda near, _: st.one_of(
        st.lists(near.texts("writev", 1), max_size=4).map(lambda parts: Vector(tuple(parts))), st.sampled_from((0, 1))
    ),
    ("writev", 2): lambda near, _: st.one_of(
        st.sampled_from((0, 1, 2, 4, 1 << 32 | 2)), near.numbers("writev", 2).filter(_is_harmless_count)
    ),
    ("connect", 1): lambda near, _: st.one_of(
        _socket_addresses(near), _socket_addresses(near), st.sampled_from((0, 1))
    ),
    ("connect", 2): lambda near, _: st.one_of(_SIZES, _SIZES, near.numbers("connect", 2)),
}


def _fit_length(made: MadeCall) -> MadeCall:
    """A buffer's length is mostly right: all bits set stand for that."""
    if made.name != "pwrite64":
        return made
    fd, buffer, length, offset = made.arguments
    if length == _U64 and isinstance(buffer, Memory):
        length = len(buffer.data)
    return MadeCall(made.name, (fd, buffer, length, offset), made.caller)
