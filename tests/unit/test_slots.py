# SPDX-License-Identifier: Apache-2.0
"""Slots of a PROG_ARRAY: who has them, and what the kernel is asked."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.slots import Grace, SlotArray

MAP = 77


def test_lowest_free_slots_are_taken_first() -> None:
    array = SlotArray("slots", MAP, 8)
    assert (array.take(2), array.take(3), array.free) == ((0, 1), (2, 3, 4), 3)
    array.give_back((3, 0))
    assert (array.take(3), array.free) == ((0, 3, 5), 2)


def test_more_than_there_are_is_an_error_and_takes_none() -> None:
    array = SlotArray("slots_raw", MAP, 4)
    array.take(3)
    with pytest.raises(KernelError, match="slots_raw has 1 of 4 slots left, 2 needed; fewer hook points"):
        array.take(2)
    assert array.take(1) == (3,)


@given(st.lists(st.integers(0, 5), max_size=30))
def test_nobody_gets_a_slot_that_another_one_has(counts: list[int]) -> None:
    array, held = SlotArray("slots", MAP, 16), []
    for number, count in enumerate(counts):
        if count <= array.free:
            held.append(array.take(count))
        elif held:
            array.give_back(held.pop(number % len(held)))
        taken = [slot for group in held for slot in group]
        assert len(set(taken)) == len(taken) == 16 - array.free


class _Kernel:
    """A PROG_ARRAY's part of bpf(2)."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def update(self, fd: int, key: bytes, value: bytes) -> None:
        self.asked.append(("update", fd, struct.unpack("<I", key)[0], struct.unpack("<I", value)[0]))

    def delete(self, fd: int, key: bytes) -> bool:
        self.asked.append(("delete", fd, struct.unpack("<I", key)[0]))
        return False

    def lookup(self, _fd: int, key: bytes, _size: int) -> bytes | None:
        return None if struct.unpack("<I", key)[0] else struct.pack("<I", 4711)

    def program_by_id(self, number: int) -> bpf.Fd:
        self.asked.append(("program", number))
        return bpf.Fd(-1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    kernel = _Kernel()
    for name in ("update", "delete", "lookup", "program_by_id"):
        monkeypatch.setattr(bpf, name, getattr(kernel, name))
    return kernel


class _Program(bpf.Fd):
    def __init__(self) -> None:
        super().__init__(-1)

    def fileno(self) -> int:
        return 5


def test_a_slot_is_the_key_and_a_descriptor_the_value(kernel: _Kernel) -> None:
    array = SlotArray("slots", MAP, 8)
    array.put(3, _Program())
    array.empty(3)
    assert kernel.asked == [("update", MAP, 3, 5), ("delete", MAP, 3)]


def test_what_is_in_a_slot_is_found_by_its_id(kernel: _Kernel) -> None:
    array = SlotArray("slots", MAP, 8)
    assert (array.get(0) is not None, array.get(1), array.instructions(1)) == (True, None, 0)
    assert kernel.asked == [("program", 4711)]


def test_grace_period_is_an_update_of_a_map_of_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[bpf.MapType, int]] = []

    def create(
        kind: bpf.MapType, _key: int, _value: int, _entries: int, _name: str, _flags: int = 0, inner: int = 0
    ) -> _Program:
        made.append((kind, inner))
        return _Program()

    kernel = _Kernel()
    monkeypatch.setattr(bpf, "create_map", create)
    monkeypatch.setattr(bpf, "update", kernel.update)
    Grace().wait()
    assert made == [(bpf.MapType.ARRAY, 0), (bpf.MapType.ARRAY_OF_MAPS, 5)]
    assert kernel.asked == [("update", 5, 0, 5)]
