# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of unannounced containers, read from its bytes; and which process a release reaches."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import bpf
from agent.kernel.doors import TICKS_NS, DoorPolicy, Doors, Fallback, Held, Notice, NoticeKind, Treatment, parse_notice
from agent.kernel.layout import DOORS, HELD, HOOK, NOTICE, TGID
from agent.workload.identity import CgroupId

NOTICE_VALUES = (2, 1, 2**64 - 2, 5, 1_000_000_007, 4711, 4700, 1, 1, b"sh", b"cri-containerd-abc.scope")


def test_notice_is_read_from_the_kernels_bytes() -> None:
    assert parse_notice(NOTICE.pack(*NOTICE_VALUES)) == Notice(
        kind=NoticeKind.EXEC,
        treatment=Treatment.STRICT,
        cgroup=CgroupId(2**64 - 2),
        above=CgroupId(5),
        time_ns=1_000_000_007,
        pid=4711,
        parent=4700,
        ns_pid=1,
        level=1,
        comm="sh",
        name="cri-containerd-abc.scope",
    )


def test_text_of_a_notice_ends_at_its_nul_and_is_any_bytes() -> None:
    values = (*NOTICE_VALUES[:-2], b"a\0rest", b"\xff" * 128)
    notice = parse_notice(NOTICE.pack(*values))
    assert (notice.comm, notice.name) == ("a", "\ufffd" * 128)


@pytest.mark.parametrize("size", [0, 1, NOTICE.size - 1, NOTICE.size + 1])
def test_notice_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a notice has 192 bytes, not {size}"):
        parse_notice(bytes(size))


@pytest.mark.parametrize(("kind", "treatment"), [(0, 0), (3, 0), (1, 4)])
def test_notice_of_an_unknown_kind_is_refused(kind: int, treatment: int) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        parse_notice(NOTICE.pack(kind, treatment, *NOTICE_VALUES[2:]))


@given(st.binary(max_size=400) | st.binary(min_size=NOTICE.size, max_size=NOTICE.size))
def test_junk_is_a_notice_or_a_value_error(data: bytes) -> None:
    try:
        notice = parse_notice(data)
    except ValueError:
        return
    assert NOTICE.unpack(data)[:2] == (notice.kind.value, notice.treatment)


class _Kernel:
    """The maps that Doors writes, as dictionaries by descriptor."""

    names = ("doors", "strangers", "held", "hook")

    def __init__(self) -> None:
        self.maps: dict[int, dict[bytes, bytes]] = {number: {} for number in range(len(self.names))}

    def fileno(self, name: str) -> int:
        return self.names.index(name)

    def update(self, fd: int, key: bytes, value: bytes, _flags: int = 0) -> None:
        self.maps[fd][key] = value

    def lookup(self, fd: int, key: bytes, _size: int) -> bytes | None:
        return self.maps[fd].get(key)

    def delete(self, fd: int, key: bytes) -> bool:
        return self.maps[fd].pop(key, None) is not None

    def keys(self, fd: int, _size: int) -> list[bytes]:
        return list(self.maps[fd])

    @property
    def settings(self) -> tuple[int, ...]:
        return DOORS.unpack(self.maps[0][bytes(4)])

    def hold(self, pid: int, cgroup: int, start_ns: int) -> None:
        self.maps[2][TGID.pack(pid)] = HELD.pack(cgroup, 77, start_ns)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    fake = _Kernel()
    for name in ("update", "lookup", "delete", "keys"):
        monkeypatch.setattr(bpf, name, getattr(fake, name))
    return fake


def make_doors(kernel: _Kernel, policy: DoorPolicy | None = None) -> Doors:
    return Doors(kernel, policy or DoorPolicy())  # type: ignore[arg-type]


def test_new_doors_hold_nobody(kernel: _Kernel) -> None:
    make_doors(kernel, DoorPolicy(Treatment.HOLD, Fallback.KILL, 1.5, 0.25))
    assert kernel.settings == (0, 2, 0, 1_500_000_000, 250_000_000, 0)
    make_doors(kernel, DoorPolicy(apart=True))
    assert kernel.settings == (0, 0, 0, 1_000_000_000, 500_000_000, 1)


def test_heartbeat_is_the_time_since_boot(kernel: _Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime_ns", {time.CLOCK_BOOTTIME: 12_345}.__getitem__)
    keeper = make_doors(kernel)
    keeper.beat()
    assert kernel.settings[2] == 12_345
    keeper.rest()
    assert kernel.settings[2] == 0


def test_another_policy_is_in_force_from_the_next_beat(kernel: _Kernel) -> None:
    keeper = make_doors(kernel)
    keeper.policy = DoorPolicy(Treatment.STRICT, Fallback.STRICT)
    keeper.beat()
    assert kernel.settings[:2] == (1, 1)


def test_hooks_binary_is_known_by_its_inode(kernel: _Kernel, tmp_path: Path) -> None:
    """The kernel's dev_t: include/linux/kdev_t.h."""
    keeper = make_doors(kernel)
    binary = tmp_path / "podgate-hook"
    assert not keeper.exempt_hook(binary)
    assert HOOK.unpack(kernel.maps[3][bytes(4)]) == (0, 0, 0)
    binary.touch()
    assert keeper.exempt_hook(binary)
    status = binary.stat()
    device = (os.major(status.st_dev) << 20) + os.minor(status.st_dev)
    assert HOOK.unpack(kernel.maps[3][bytes(4)]) == (status.st_ino, device, 0)
    binary.unlink()
    assert not keeper.exempt_hook(binary)
    assert HOOK.unpack(kernel.maps[3][bytes(4)]) == (0, 0, 0)


def test_held_processes_are_listed(kernel: _Kernel) -> None:
    keeper = make_doors(kernel)
    kernel.hold(4711, 2**40, 5)
    kernel.hold(1, 7, 6)
    assert keeper.held() == [Held(4711, CgroupId(2**40), 77, 5), Held(1, CgroupId(7), 77, 6)]


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped, as a held one is."""
    with subprocess.Popen(["sleep", "60"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process
        process.kill()


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19])


def hold(kernel: _Kernel, pid: int, start_ns: int) -> Held:
    kernel.hold(pid, 5, start_ns)
    return Held(pid, CgroupId(5), 77, start_ns)


def test_release_continues_the_process(kernel: _Kernel, stopped: subprocess.Popen[bytes]) -> None:
    keeper = make_doors(kernel)
    # The kernel counts in nanoseconds: anywhere in the tick that /proc tells.
    one = hold(kernel, stopped.pid, start_ticks(stopped.pid) * TICKS_NS + TICKS_NS - 1)
    assert keeper.release(one)
    found = os.waitid(os.P_PID, stopped.pid, os.WCONTINUED)
    assert found is not None
    assert found.si_code == os.CLD_CONTINUED
    assert keeper.held() == []


def test_release_may_end_the_process(kernel: _Kernel, stopped: subprocess.Popen[bytes]) -> None:
    one = hold(kernel, stopped.pid, start_ticks(stopped.pid) * TICKS_NS)
    assert make_doors(kernel).release(one, signal.SIGKILL)
    assert stopped.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("late_ns", [-1, TICKS_NS])
def test_another_process_with_the_same_pid_is_let_be(
    kernel: _Kernel, stopped: subprocess.Popen[bytes], late_ns: int
) -> None:
    one = hold(kernel, stopped.pid, start_ticks(stopped.pid) * TICKS_NS + late_ns)
    keeper = make_doors(kernel)
    assert not keeper.release(one)
    assert not keeper.release(one, signal.SIGKILL)
    assert Path(f"/proc/{stopped.pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    assert keeper.held() == []


def test_process_that_ended_is_no_longer_held(kernel: _Kernel) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(10)
    keeper = make_doors(kernel)
    assert not keeper.release(hold(kernel, process.pid, 1))
    assert keeper.held() == []


def test_zombie_is_not_released(kernel: _Kernel, stopped: subprocess.Popen[bytes]) -> None:
    """Nothing of it can run; whoever waits for it may never do so."""
    one = hold(kernel, stopped.pid, start_ticks(stopped.pid) * TICKS_NS)
    stopped.kill()
    os.waitid(os.P_PID, stopped.pid, os.WEXITED | os.WNOWAIT)
    keeper = make_doors(kernel)
    keeper.release(one)
    assert keeper.held() == []
