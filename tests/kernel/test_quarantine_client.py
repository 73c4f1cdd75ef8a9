# SPDX-License-Identifier: Apache-2.0
"""Running pinned programs and reading pinned maps by bpf(2): the quarantine of a hook, the kernel's own."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel import bpf as agent_bpf
from agent.kernel.instructions import MOVE_CONSTANT, RETURN, encode
from agent.kernel.mounts import ensure_bpffs
from agent.kernel.pins import remove_tree
from rthook import bpf
from rthook.quarantine import NO_INIT, QuarantineError, put_in_quarantine
from tests.support.names import unique_name
from tests.support.workload import Node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

CGROUP_ID = 4711
INIT_PID = 77

LOAD_U64, SUB, OR = 0x79, 0x17, 0x4F


def load_argument(register: int, index: int) -> bytes:
    """Of the context, which is in register 1."""
    return encode(LOAD_U64, register, 1, 8 * index)


# 0 only when both arguments are as they should be.
COMPARE = (
    load_argument(0, 0)
    + encode(SUB, 0, immediate=CGROUP_ID)
    + load_argument(2, 1)
    + encode(SUB, 2, immediate=INIT_PID)
    + encode(OR, 0, 2)
    + RETURN
)


def give(value: int) -> bytes:
    return encode(MOVE_CONSTANT, immediate=value) + RETURN


def pin_program(folder: Path, instructions: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with agent_bpf.load_program(agent_bpf.ProgType.RAW_TRACEPOINT, instructions, "quarantine") as program:
        agent_bpf.pin(program.fileno(), str(folder / "quarantine"))


@pytest.fixture
def pins() -> Iterator[Path]:
    ensure_bpffs()
    folder = Path("/sys/fs/bpf") / unique_name("pin")
    yield folder
    remove_tree(folder)
    remove_tree(previous(folder))


def previous(pins: Path) -> Path:
    return pins.with_name(pins.name + "-previous")


def test_the_program_gets_both_arguments(pins: Path) -> None:
    pin_program(pins, COMPARE)
    assert put_in_quarantine(pins, CGROUP_ID, INIT_PID) == 1
    with pytest.raises(QuarantineError):
        put_in_quarantine(pins, CGROUP_ID, INIT_PID + 1)
    with pytest.raises(QuarantineError):
        put_in_quarantine(pins, CGROUP_ID + 1, INIT_PID)


def test_every_generation_has_to_agree(pins: Path) -> None:
    pin_program(pins, give(0))
    pin_program(previous(pins) / "1", give(0))
    pin_program(previous(pins) / "2", give(0))
    assert put_in_quarantine(pins, CGROUP_ID) == 3
    remove_tree(previous(pins) / "1")
    pin_program(previous(pins) / "1", give(-7))
    with pytest.raises(QuarantineError, match="Argument list too long"):
        put_in_quarantine(pins, CGROUP_ID)


def test_a_directory_without_the_program_is_no_generation(pins: Path) -> None:
    (pins / "maps").mkdir(parents=True)
    with pytest.raises(QuarantineError, match="no agent has left a quarantine program there"):
        put_in_quarantine(pins, CGROUP_ID)


def test_what_is_pinned_there_and_is_no_program_is_told(pins: Path) -> None:
    pins.mkdir()
    with agent_bpf.create_map(agent_bpf.MapType.ARRAY, 4, 4, 1, "x") as made:
        agent_bpf.pin(made.fileno(), str(pins / "quarantine"))
    with pytest.raises(QuarantineError, match="Invalid argument"):
        put_in_quarantine(pins, CGROUP_ID)


def test_maps_are_read_by_their_pins(pins: Path) -> None:
    pins.mkdir()
    with agent_bpf.create_map(agent_bpf.MapType.HASH, 4, 24, 8, "held") as made:
        agent_bpf.pin(made.fileno(), str(pins / "held"))
        for number in range(5):
            agent_bpf.update(made.fileno(), number.to_bytes(4, "little"), bytes([number] * 24))
    fd = bpf.open_object(pins / "held")
    try:
        shape = bpf.read_shape(fd)
        assert (shape.key_size, shape.value_size, shape.max_entries) == (4, 24, 8)
        assert sorted(bpf.read_keys(fd, shape)) == [number.to_bytes(4, "little") for number in range(5)]
        assert bpf.lookup(fd, (3).to_bytes(4, "little"), 24) == b"\3" * 24
        assert bpf.delete(fd, (3).to_bytes(4, "little"))
        assert not bpf.delete(fd, (3).to_bytes(4, "little"))
        assert bpf.lookup(fd, (3).to_bytes(4, "little"), 24) is None
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_errors_name_the_operation_and_the_reason(pins: Path) -> None:
    with pytest.raises(bpf.BpfError, match=r"bpf\(OBJ_GET .*/held\): No such file or directory") as caught:
        bpf.open_object(pins / "held")
    assert caught.value.errno == 2
    with pytest.raises(bpf.BpfError, match=r"bpf\(MAP_LOOKUP_ELEM\): Bad file descriptor"):
        bpf.lookup(1 << 20, b"\0" * 4, 4)


def test_the_agents_own_program_binds_a_cgroup_to_every_policy(node: Node) -> None:
    pin_dir = node.agent.pin_dir
    with node.cgroup() as group:
        group_id = group.id
        assert put_in_quarantine(pin_dir, group.id, NO_INIT) == 1
        assert put_in_quarantine(pin_dir, group.id, NO_INIT) == 1
        bindings = bpf.open_object(pin_dir / "maps" / "bindings")
        try:
            shape = bpf.read_shape(bindings)
            record = bpf.lookup(bindings, group.id.to_bytes(8, "little"), shape.value_size)
        finally:
            os.close(bindings)
    # bpf/maps/bindings.h: self, then the owner, which no cgroup has.
    assert record is not None
    assert struct.unpack_from("<QQ", record) == (group_id, (1 << 64) - 1)
