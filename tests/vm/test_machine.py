# SPDX-License-Identifier: Apache-2.0
"""Guests: what runs there comes back, what is written there does not, and they end by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import system
from tests.support.names import cache_dir, project_dir, unique_name
from tools.vm.emulator import Emulator, find_emulator
from tools.vm.errors import BootError, DeadlineError, EmulatorError, VmError
from tools.vm.kernels import SUITES, Kernel, find_kernel
from tools.vm.machine import Job, run_guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """Any of those that are there."""
    return next(found for name in (*SUITES, "override") if (found := find_kernel(cache_dir(), name)))


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    found = find_emulator(cache_dir())
    assert found is not None
    return found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(("true",), project_dir(), tmp_path / unique_name("out"), 200.0, memory="1G")


def emulators(job: Job) -> list[int]:
    """Processes of qemu that serve the job's folder."""
    return system.find_processes(f"path={job.out}")


def test_a_guest_has_its_own_kernel_and_this_machines_files(emulator: Emulator, kernel: Kernel, job: Job) -> None:
    scratch = project_dir() / "build" / unique_name("written")
    script = (
        f"uname -r; pwd; cat /etc/os-release >/out/release; mkdir -p build; echo x >{scratch}; cat {scratch}; exit 7"
    )
    lines: list[str] = []
    status = run_guest(emulator, kernel, replace(job, command=("bash", "-c", script), echo=lines.append))
    assert status == 7
    said = [line for line in lines if line in (kernel.release, str(project_dir()), "x")]
    assert said == [kernel.release, str(project_dir()), "x"]
    assert (job.out / "release").read_text() == Path("/etc/os-release").read_text()
    assert not scratch.exists()
    assert emulators(job) == []


def test_a_guest_that_takes_too_long_is_ended(emulator: Emulator, kernel: Kernel, job: Job) -> None:
    hanging = replace(job, command=("bash", "-c", "echo here; exec sleep 1000"), deadline_s=30.0)
    with pytest.raises(DeadlineError, match="ended after 30 s"):
        run_guest(emulator, kernel, hanging)
    assert emulators(job) == []


def test_a_boot_that_fails_is_tried_twice(
    emulator: Emulator, kernel: Kernel, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "vmlinux"
    broken.write_bytes(b"no kernel")
    with pytest.raises(BootError, match="before it reached its script"):
        run_guest(emulator, replace(kernel, image=broken), job)
    assert capsys.readouterr().out.count("trying again") == 1
    assert emulators(job) == []


@pytest.mark.parametrize(
    ("said", "error", "again"), [("Oops: int3: 0000 [#1]", EmulatorError, 1), ("Oops: 0000 [#1]", VmError, 0)]
)
def test_a_guest_that_dies_of_the_emulator_is_tried_twice(
    emulator: Emulator,
    kernel: Kernel,
    job: Job,
    capsys: pytest.CaptureFixture[str],
    said: str,
    error: type[VmError],
    again: int,
) -> None:
    dying = replace(job, command=("bash", "-c", f"echo '{said}'; echo b >/proc/sysrq-trigger; sleep 60"))
    with pytest.raises(VmError) as raised:
        run_guest(emulator, kernel, dying)
    assert (type(raised.value), capsys.readouterr().out.count("trying again")) == (error, again)
    assert emulators(job) == []


# Calls on both processors of functions whose first instruction changes all the while.
CHANGED_CODE = """
cd /sys/kernel/tracing || exit 9
for each in 1 2 3; do dd if=/dev/zero of=/dev/null bs=1 count=2000000000 2>/dev/null & done
echo 'vfs_read vfs_write ksys_read ksys_write security_file_permission' >set_ftrace_filter || exit 9
for each in $(seq 5); do
    echo function >current_tracer && echo nop >current_tracer || exit 9
    echo 1 >events/syscalls/enable && echo 0 >events/syscalls/enable || exit 9
done
kill $(jobs -p)
"""


def test_processors_may_run_code_that_changes(emulator: Emulator, kernel: Kernel, job: Job) -> None:
    assert run_guest(emulator, kernel, replace(job, command=("bash", "-c", CHANGED_CODE))) == 0
