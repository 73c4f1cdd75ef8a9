# SPDX-License-Identifier: Apache-2.0
"""Quarantine by the agent's pinned program: which generations it is run in, and what counts as done."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rthook import quarantine
from rthook.bpf import BpfError
from rthook.quarantine import NO_INIT, QuarantineError, put_in_quarantine

CGROUP_ID = 4711


@dataclass
class FakeKernel:
    """Pinned programs by path: what each gives, or the errno of running it as an exception."""

    pins: dict[Path, int | BpfError] = field(default_factory=dict)
    opened: list[Path] = field(default_factory=list)
    runs: list[tuple[Path, bytes]] = field(default_factory=list)
    at_open: Callable[[Path], None] = lambda _: None

    def open_object(self, path: Path) -> int:
        self.at_open(path)
        self.opened.append(path)
        if path not in self.pins:
            raise BpfError(f"bpf(OBJ_GET {path})", 2)
        # Something that can be closed; the number says which program it is.
        fd = os.open("/dev/null", os.O_RDONLY)
        self._open = (fd, path)
        return fd

    def run_program(self, fd: int, context: bytes) -> int:
        opened, path = self._open
        assert fd == opened
        self.runs.append((path, context))
        result = self.pins[path]
        if isinstance(result, BpfError):
            raise result
        return result


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setattr(quarantine, "open_object", fake.open_object)
    monkeypatch.setattr(quarantine, "run_program", fake.run_program)
    return fake


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    return tmp_path / "podgate"


def earlier(pins: Path, *numbers: int) -> list[Path]:
    """The directories of earlier generations, made."""
    folders = [pins.with_name("podgate-previous") / str(number) for number in numbers]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_every_generation_is_asked_with_the_same_arguments(kernel: FakeKernel, pins: Path) -> None:
    generations = [pins, *earlier(pins, 1, 2)]
    kernel.pins = {folder / "quarantine": 0 for folder in generations}
    assert put_in_quarantine(pins, CGROUP_ID, 77) == 3
    arguments = CGROUP_ID.to_bytes(8, "little") + (77).to_bytes(8, "little")
    assert kernel.runs == [(folder / "quarantine", arguments) for folder in (*generations, pins)]


def test_a_workload_that_runs_has_no_init_process_to_wait_for(kernel: FakeKernel, pins: Path) -> None:
    kernel.pins = {pins / "quarantine": 0}
    put_in_quarantine(pins, CGROUP_ID)
    assert NO_INIT == 2**64 - 1
    assert kernel.runs[0][1][8:] == b"\xff" * 8


def test_an_earlier_generation_alone_is_enough(kernel: FakeKernel, pins: Path) -> None:
    [folder] = earlier(pins, 1)
    kernel.pins = {folder / "quarantine": 0}
    assert put_in_quarantine(pins, CGROUP_ID) == 1


@pytest.mark.parametrize("numbers", [(), (1,)])
def test_without_any_program_nothing_is_in_quarantine(kernel: FakeKernel, pins: Path, numbers: tuple[int, ...]) -> None:
    earlier(pins, *numbers)
    with pytest.raises(QuarantineError, match="no agent has left a quarantine program there"):
        put_in_quarantine(pins, CGROUP_ID)
    assert len(kernel.opened) == 2 + len(numbers)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (-7, "the program gave Argument list too long"),
        (3, "the program gave 3, which means nothing"),
        (BpfError("bpf(PROG_TEST_RUN)", 22), "bpf\\(PROG_TEST_RUN\\): Invalid argument"),
    ],
)
def test_one_generation_that_fails_is_a_failure(
    kernel: FakeKernel, pins: Path, result: int | BpfError, reason: str
) -> None:
    [folder] = earlier(pins, 1)
    kernel.pins = {pins / "quarantine": 0, folder / "quarantine": result}
    with pytest.raises(QuarantineError, match=f"{folder}: {reason}"):
        put_in_quarantine(pins, CGROUP_ID)


def test_a_generation_that_may_not_be_opened_is_a_failure(
    kernel: FakeKernel, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.pins = {pins / "quarantine": 0}

    def refuse(path: Path) -> int:
        raise BpfError(f"bpf(OBJ_GET {path})", 13)

    monkeypatch.setattr(quarantine, "open_object", refuse)
    with pytest.raises(QuarantineError, match="Permission denied"):
        put_in_quarantine(pins, CGROUP_ID)


def test_an_agent_that_starts_meanwhile_moves_its_predecessor_and_it_is_met_again(
    kernel: FakeKernel, pins: Path
) -> None:
    """The directory moves after it was looked at: it is run twice there, which is once."""
    [folder] = [pins.with_name("podgate-previous") / "1"]
    kernel.pins = {pins / "quarantine": 0, folder / "quarantine": 0}

    def move(path: Path) -> None:
        if path == pins / "quarantine" and not folder.exists():
            earlier(pins, 1)

    kernel.at_open = move
    assert put_in_quarantine(pins, CGROUP_ID) == 2
    assert kernel.opened == [pins / "quarantine", folder / "quarantine", pins / "quarantine"]


def test_an_agent_whose_policies_come_into_force_meanwhile_is_asked_too(kernel: FakeKernel, pins: Path) -> None:
    """It has taken over what was bound in the earlier one before, and would not see this container."""
    [folder] = earlier(pins, 1)
    kernel.pins = {folder / "quarantine": 0}

    def begin(path: Path) -> None:
        if path == folder / "quarantine":
            kernel.pins[pins / "quarantine"] = 0

    kernel.at_open = begin
    assert put_in_quarantine(pins, CGROUP_ID) == 2


def test_no_descriptor_is_left_open(kernel: FakeKernel, pins: Path) -> None:
    kernel.pins = {pins / "quarantine": -1}
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(QuarantineError):
            put_in_quarantine(pins, CGROUP_ID)
    assert os.listdir("/proc/self/fd") == before
