# SPDX-License-Identifier: Apache-2.0
"""One guest: qemu with a kernel, a script that runs there, and what it brings back.

The guest's root is an overlay: below it this machine's root, read-only over 9P, above it memory. The script's own
folder is the only thing that the guest writes here. qemu ends with its guest, at the deadline, and with us.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tools.vm.emulator import Emulator
from tools.vm.errors import BootError, DeadlineError, EmulatorError, VmError
from tools.vm.initrd import build_initrd, modules_for_boot
from tools.vm.kernels import Kernel

# Boots take 4 to 8 s on a quiet machine, 30 s on a busy one.
BOOT_S = 120.0
ATTEMPTS = 2
_POLL_S = 0.5
_STRAY_TRAP = "Oops: int3:"  # exc_int3 of arch/x86/kernel/traps.c: nobody's breakpoint
_STARTED, _STATUS, _SCRIPT, _CONSOLE = "started", "status", "guest.sh", "console.log"
# cx16: the kernel's allocator uses cmpxchg16b from 6.12 on, for which qemu has computed wrong flags (7.2 did).
_CPU = "max,-cx16"
# no_timer_check: with the processor taken away at the wrong moment, "IO-APIC + timer doesn't work" ends the boot.
# The rest: a quiet console, an end after a panic, and no mitigations, which cost much under emulation.
_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check tsc=reliable "
    "lsm=landlock,lockdown,yama,bpf podgate.guest"
)
# The first cgroup with a cpuset turns a static key of the page allocator (cpuset_css_online), and an emulated processor
# that is in it dies of that now and then: here it is turned while nothing else runs, and stays.
_GUEST = """\
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
echo > /out/{started}
mkdir -p /lib/modules
{modules}
mkdir /sys/fs/cgroup/kept
for each in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$each" > /sys/fs/cgroup/cgroup.subtree_control; done
cd {folder} && {command} < /dev/null
echo $? > /out/{status}
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What runs in a guest: a command and its folder here, as root. out: it is /out there, and keeps the console."""

    command: Sequence[str]
    folder: Path
    out: Path
    deadline_s: float
    processors: int = 2
    memory: str = "3G"
    echo: Callable[[str], None] | None = None  # for each line of the console


def guest_script(kernel: Kernel, job: Job) -> str:
    """The bash script that a guest runs as its first process."""
    target = f"/lib/modules/{kernel.release}"
    link = f"ln -sfn {shlex.quote(str(kernel.modules))} {target}" if kernel.modules else ""
    return _GUEST.format(
        started=_STARTED,
        status=_STATUS,
        modules=link,
        folder=shlex.quote(str(job.folder)),
        command=shlex.join(job.command),
    )


def qemu_command(emulator: Emulator, kernel: Kernel, job: Job, initrd: Path) -> list[str]:
    """setpriv: the guest does not outlive whoever started it."""
    shared = "local,security_model=none"
    return [
        *("setpriv", "--pdeathsig", "KILL", *emulator.command),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", _CPU),
        *("-smp", str(job.processors), "-m", job.memory),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *(
            "-kernel",
            str(kernel.image),
            "-initrd",
            str(initrd),
            "-append",
            f'{_COMMAND_LINE} "podgate_folder={job.folder}"',
        ),
        *("-fsdev", f"{shared},id=root,path=/,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *("-fsdev", f"{shared},id=out,path={job.out}"),
        *("-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
    ]


def run_guest(emulator: Emulator, kernel: Kernel, job: Job) -> int:
    """The command's exit status. What the emulation fails at is tried once more. Raises a VmError that says what."""
    job.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"podgate-vm-{os.getpid()}-") as scratch:
        initrd = Path(scratch) / "initrd"
        initrd.write_bytes(build_initrd(modules_for_boot(kernel.modules)))
        command = qemu_command(emulator, kernel, job, initrd)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _run_once(command, kernel, job)
            except (BootError, EmulatorError) as error:
                if attempt == ATTEMPTS:
                    raise
                print(f"vm: {kernel.name}: {error}; trying again", flush=True)
    raise AssertionError("not reached")


def _run_once(command: Sequence[str], kernel: Kernel, job: Job) -> int:
    for name in (_STARTED, _STATUS):
        (job.out / name).unlink(missing_ok=True)
    script = job.out / _SCRIPT
    script.write_text(guest_script(kernel, job))
    script.chmod(0o755)
    with (job.out / _CONSOLE).open("w") as log:
        process = _start(command)
        reader = threading.Thread(target=_copy, args=(process, log, job.echo), daemon=True)
        reader.start()
        try:
            _await(process, job)
        finally:
            process.kill()
            process.wait()
            reader.join()
            if process.stdout:
                process.stdout.close()
    return _read_status(job)


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
        )
    except OSError as error:
        raise VmError(f"{command[0]}: {error.strerror}") from error


def _copy(process: subprocess.Popen[str], log: TextIO, echo: Callable[[str], None] | None) -> None:
    """What the guest says, until it ends."""
    for line in process.stdout or ():
        log.write(line)
        log.flush()
        if echo:
            echo(line.rstrip())


def _await(process: subprocess.Popen[str], job: Job) -> None:
    """Until qemu has ended by itself. Raises BootError, DeadlineError."""
    start = time.monotonic()
    while True:
        try:
            process.wait(_POLL_S)
            return
        except subprocess.TimeoutExpired:
            passed = time.monotonic() - start
        if passed > BOOT_S and not (job.out / _STARTED).exists():
            raise BootError(f"the guest did not reach its script within {BOOT_S:.0f} s: {_tail(job)}")
        if passed > job.deadline_s:
            raise DeadlineError(f"the guest was ended after {job.deadline_s:.0f} s: {_tail(job)}")


def _read_status(job: Job) -> int:
    if not (job.out / _STARTED).exists():
        raise BootError(f"the guest ended before it reached its script: {_tail(job)}")
    try:
        return int((job.out / _STATUS).read_text())
    except (OSError, ValueError) as error:
        if _STRAY_TRAP in (job.out / _CONSOLE).read_text(errors="replace"):
            raise EmulatorError(f"the emulated processor ran code that had been changed: {_tail(job)}") from error
        raise VmError(f"the guest ended in the middle of its command: {_tail(job)}") from error


def _tail(job: Job) -> str:
    lines = (job.out / _CONSOLE).read_text(errors="replace").splitlines()
    return f"{job.out / _CONSOLE} ends with:\n" + "\n".join(lines[-12:])
