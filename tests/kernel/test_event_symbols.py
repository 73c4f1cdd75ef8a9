# SPDX-License-Identifier: Apache-2.0
"""Symbols of real addresses, from the real helper: the kernel's, and those of a process in its own mount namespace."""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.events.helper import Helper, module_command
from agent.events.stacks import Frame, Symbols, Trace, encode_request, parse_answer
from tests.support.events import receive
from tests.support.wait import wait_until

pytestmark = pytest.mark.kernel

WAIT_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
# Its program and library are there in its own mount namespace only.
SCRIPT = 'mount -t tmpfs none "$1" && cp "$2" "$1/sleep" && cp "$3" "$1/" && LD_LIBRARY_PATH="$1" exec "$1/sleep" 600'


@pytest.fixture
def helper() -> Iterator[Helper]:
    made = Helper(module_command("agent.events.symbols_main"))
    yield made
    made.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    sleep = shutil.which("sleep")
    assert sleep
    command = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", str(tmp_path), sleep, str(libc_mapping(os.getpid())[1])]
    with subprocess.Popen(command) as started:
        wait_until(lambda: has_libc_below(started.pid, tmp_path), WAIT_S, "its library")
        yield started
        started.kill()


def libc_mapping(pid: int) -> tuple[int, Path]:
    """Where the C library begins, and its path as the process has it."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if words[-1].endswith("/libc.so.6"):
            return int(words[0].partition("-")[0], 16), Path(words[-1])
    raise LookupError(f"process {pid} has no libc")


def has_libc_below(pid: int, folder: Path) -> bool:
    try:
        return libc_mapping(pid)[1].is_relative_to(folder)
    except LookupError:
        return False


def start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]) * (10**9 // TICKS)


def function_in(pid: int, name: str) -> int:
    """The address of a function of the C library in another process."""
    own = ctypes.cast(getattr(ctypes.CDLL("libc.so.6"), name), ctypes.c_void_p).value
    assert own
    return own - libc_mapping(os.getpid())[0] + libc_mapping(pid)[0]


def ask(helper: Helper, kernel: tuple[int, ...] = (), user: tuple[int, ...] = (), **whose: Any) -> Symbols:
    trace = Trace(kernel, user, whose.get("pid", 0), whose.get("start", 0), whose.get("binary"))
    assert helper.send(encode_request(7, trace))
    number, symbols = parse_answer(receive(helper, 1, WAIT_S)[0])
    assert number == 7
    return symbols


def test_kernel_addresses_have_symbols(helper: Helper) -> None:
    lines = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
    address = next(int(words[0], 16) for words in lines if words[2] == "vfs_read")
    symbols = ask(helper, (address + 5, 0x1000, (1 << 64) - 1))
    assert symbols == Symbols((Frame("vfs_read", 5, "kernel"), None, None), None, "")


def test_addresses_of_a_process_in_its_own_mount_namespace_have_symbols(
    helper: Helper, process: subprocess.Popen[bytes]
) -> None:
    pid, library = process.pid, libc_mapping(process.pid)[1]
    address = function_in(pid, "getppid")
    binary = os.fsencode(library.parent / "sleep")
    symbols = ask(helper, (), (address + 2, 0x10), pid=pid, start=start_of(pid), binary=binary)
    assert symbols.user == (Frame("getppid", 2, str(library)), None)
    assert symbols.reason == ""


def test_of_a_process_that_has_ended_nothing_is_told(helper: Helper, process: subprocess.Popen[bytes]) -> None:
    whose = {"pid": process.pid, "start": start_of(process.pid)}
    address = function_in(process.pid, "getppid")
    assert ask(helper, (), (address,), **whose).user
    process.kill()
    assert ask(helper, (), (address,), **whose) == Symbols(None, None, "the process has ended")
    process.wait()
    assert ask(helper, (), (address,), **whose) == Symbols(None, None, "the process has ended")


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"start": 10**9}, "the process has ended"), ({"binary": b"/bin/other"}, "the process is another program by now")],
)
def test_of_another_process_with_that_pid_nothing_is_told(
    helper: Helper, process: subprocess.Popen[bytes], other: dict[str, Any], reason: str
) -> None:
    address = function_in(process.pid, "getppid")
    whose = {"pid": process.pid, "start": start_of(process.pid)} | other
    assert ask(helper, (), (address,), **whose) == Symbols(None, None, reason)


def test_the_helper_can_do_no_more_than_read(helper: Helper) -> None:
    ask(helper)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{helper.pid}/status").read_text().splitlines() if ":\t" in line
    )
    kept = "0000000400080004"  # DAC_READ_SEARCH, SYS_PTRACE, SYSLOG
    assert [status[name] for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs")] == [kept, kept, kept, "1"]


def test_the_helper_ends_with_its_socket(helper: Helper) -> None:
    ask(helper)
    channel, process = helper._channel, helper._process
    assert channel is not None
    assert process is not None
    channel.shutdown(1)
    assert process.wait(WAIT_S) == 0


def test_junk_ends_the_helper_and_nothing_else(helper: Helper) -> None:
    assert helper.send(json.dumps({"id": 1}).encode())
    select.select([helper.fileno()], [], [], WAIT_S)
    wait_until(lambda: helper.receive() or helper.pid == 0, WAIT_S, "its end")
    assert helper.lost == 1
