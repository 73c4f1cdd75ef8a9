# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the loader process, where bcc compiles and loads; the other side is loader_main.py.

One request, one process: it gets C text and the descriptors of the maps, and sends back the descriptors of the loaded
programs (SCM_RIGHTS) or the compiler's and verifier's words. LLVM's memory goes with it. A deadline and an address
space limit hold whatever the text is; the process is killed at the deadline and waited for in every case.

A process can be started before its request is known: it loads the compiler meanwhile.

On the socket: u32 little-endian length and JSON, one message each way. The request's own descriptors follow it, on a
byte for each MAX_PASSED of them; those of the answer ride on its first byte.
"""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.errors import LoaderError

BPF_SOURCES = Path(__file__).resolve().parents[2] / "bpf"
LENGTH = struct.Struct("<I")
MAX_ANSWER = 1 << 20
MAX_PASSED = 250  # descriptors in one message: SCM_MAX_FD is 253
MAX_PROGRAMS = MAX_PASSED
LOG_LINES = 12
LOG_BYTES = 65536
# LLVM's BPF back end ends the process when a function's variables do not fit: more of them than registers, in one that
# is too long.
_STACK = re.compile(r"in function (?P<program>\w+).*BPF stack limit")
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)


@dataclass(frozen=True, slots=True)
class LoaderLimits:
    deadline_s: float = 30.0
    memory_bytes: int = 2 << 30  # address space: LLVM maps some 600 MiB before it compiles anything


@dataclass(frozen=True, slots=True)
class ProgramForm:
    """What the kernel is told of a program when it is loaded. attach_type: enum bpf_attach_type, of those that are for
    one function; btf_id: that function's, in the kernel's BTF or in the module's that the descriptor btf_fd is.
    """

    type: bpf.ProgType
    attach_type: int = 0
    btf_id: int = 0
    btf_fd: int = 0

    def described(self, descriptors: Sequence[int]) -> tuple[int, int, int, int | None]:
        """For a request: its BTF by the place among these descriptors, None when it has none."""
        return (self.type, self.attach_type, self.btf_id, descriptors.index(self.btf_fd) if self.btf_fd else None)


@dataclass(frozen=True, slots=True)
class ProgramSource:
    """C text and the programs in it, by name. maps: name -> descriptor of those that only this text has, beside the
    loader's own; they and the BTF of the forms stay their owners'. thorough: compiled with all passes at once, which
    takes twice as long and is easier on the verifier.
    """

    text: str
    programs: Mapping[str, ProgramForm]
    maps: Mapping[str, int] = field(default_factory=dict)
    thorough: bool = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it names: the maps', in their order, then those of BTF, each once."""
        btf = dict.fromkeys(form.btf_fd for form in self.programs.values() if form.btf_fd)
        return (*self.maps.values(), *btf)


@dataclass(frozen=True, slots=True)
class _Process:
    """A loader process, and the file that it writes its words to."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    log: int

    def is_running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """It ends, too."""
        self.end()
        self.channel.close()
        os.close(self.log)


class Loader:
    """headers: the tree for BCC_KERNEL_SOURCE. maps: name -> descriptor, PG_FD_<name> in the C text. One load at a
    time.
    """

    def __init__(self, headers: Path, maps: Mapping[str, int], limits: LoaderLimits) -> None:
        self._headers = headers
        self._maps = dict(maps)
        self._limits = limits
        self._lock = threading.Lock()
        self._started: _Process | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """For what ends with a load: its process is started now. It is ended if nothing was loaded. Raises LoaderError
        when there can be none.
        """
        with self._lock:
            self._started = self._started or self._start()
        try:
            yield
        finally:
            with self._lock:
                if unused := self._take_started():
                    unused.close()

    def load(self, source: ProgramSource) -> dict[str, bpf.Fd]:
        """Compiles and loads; the descriptors by program name. Raises LoaderError, and then nothing stays loaded."""
        if len(source.programs) > MAX_PROGRAMS:
            raise LoaderError("start", f"{len(source.programs)} programs in one request, at most {MAX_PROGRAMS}")
        with self._lock:
            loader = self._take_started() or self._start()
            try:
                return self._load(loader, source)
            finally:
                loader.close()

    def _take_started(self) -> _Process | None:
        """The one that waits, if it still does."""
        started, self._started = self._started, None
        if started and not started.is_running():
            started.close()
            return None
        return started

    def _load(self, loader: _Process, source: ProgramSource) -> dict[str, bpf.Fd]:
        try:
            answer, fds = self._exchange(loader.channel, source)
        except (OSError, EOFError) as error:
            raise self._failure(loader, error) from error
        loader.end()
        return _take(answer, fds, source, loader.log)

    def _start(self) -> _Process:
        ours, theirs = socket.socketpair()
        log = os.memfd_create("podgate-loader", os.MFD_CLOEXEC)
        try:
            return _Process(self._spawn(theirs, log), ours, log)
        except OSError as error:
            ours.close()
            os.close(log)
            raise LoaderError("start", f"no process for the compiler: {error.strerror}") from error
        finally:
            theirs.close()

    def _spawn(self, socket_: socket.socket, log: int) -> subprocess.Popen[bytes]:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "BCC_KERNEL_SOURCE": str(self._headers)}
        command = [
            sys.executable,
            "-I",
            "-m",
            "agent.kernel.loader_main",
            str(socket_.fileno()),
            str(self._limits.memory_bytes),
        ]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(socket_.fileno(), *self._maps.values()),
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def _exchange(self, channel: socket.socket, source: ProgramSource) -> tuple[dict[str, object], list[int]]:
        passed = source.descriptors
        own = {name: fd for name, fd in self._maps.items() if name not in source.maps}
        request = {
            "text": source.text,
            "flags": [f"-DPG_FD_{name}={fd}" for name, fd in own.items()] + [f"-I{BPF_SOURCES}"],
            "thorough": source.thorough,
            "programs": {name: form.described(passed) for name, form in source.programs.items()},
            "maps": list(source.maps),
            "descriptors": len(passed),
        }
        end = time.monotonic() + self._limits.deadline_s
        data = json.dumps(request).encode()
        channel.settimeout(self._limits.deadline_s)
        channel.sendall(LENGTH.pack(len(data)) + data)
        for first in range(0, len(passed), MAX_PASSED):
            socket.send_fds(channel, [b"\0"], passed[first : first + MAX_PASSED])
        return _receive(channel, end)

    def _failure(self, loader: _Process, error: Exception) -> LoaderError:
        """What a loader that did not answer died of."""
        if isinstance(error, TimeoutError):
            return LoaderError("deadline", f"no answer in {self._limits.deadline_s:g} s; it was ended", True)
        try:
            status = loader.process.wait(2.0)
        except subprocess.TimeoutExpired:
            loader.end()
            status = loader.process.returncode
        limit = f"address space limit {self._limits.memory_bytes >> 20} MiB"
        words = log_tail(loader.log)
        if "bad_alloc" in words or "MemoryError" in words or "out of memory" in words.lower():
            return LoaderError("memory", f"{limit} reached; {words}", True)
        if -status in CRASHES:
            ended = f"the compiler died of {signal.Signals(-status).name}: the rules of a call may be too many for it"
            return LoaderError("compile", f"{ended} ({limit}); {words}", True)
        if found := _STACK.search(words):
            return LoaderError("compile", words, True, (found["program"],))
        return LoaderError("start", f"it ended with status {status} ({limit}); {words}")


def _receive(channel: socket.socket, end: float) -> tuple[dict[str, object], list[int]]:
    fds: list[int] = []
    data = b""
    needed = LENGTH.size
    try:
        while len(data) < needed:
            channel.settimeout(max(0.001, end - time.monotonic()))
            part, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(4 * (MAX_PROGRAMS + 3)))
            fds += _descriptors(ancillary)
            if not part:
                raise EOFError("the loader closed the connection")
            data += part
            if len(data) >= LENGTH.size:
                needed = LENGTH.size + min(LENGTH.unpack_from(data)[0], MAX_ANSWER)
        answer = json.loads(data[LENGTH.size : needed])
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return answer, fds


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for fd in found:
        os.set_inheritable(fd, False)
    return found.tolist()


def _take(answer: dict[str, object], fds: list[int], source: ProgramSource, log: int) -> dict[str, bpf.Fd]:
    owned = [bpf.Fd(fd) for fd in fds]
    if answer.get("stage"):
        raise _refusal(answer, log_tail(log))
    if len(owned) != len(source.programs):
        raise LoaderError("load", f"{len(owned)} descriptors for {len(source.programs)} programs")
    return dict(zip(source.programs, owned, strict=True))


def _refusal(answer: dict[str, object], log: str) -> LoaderError:
    programs = answer.get("programs")
    names = tuple(map(str, programs)) if isinstance(programs, list) else ()
    words = f"{answer.get('error', '')}: {log}".strip(": ")
    return LoaderError(str(answer["stage"]), words, answer.get("too_large") is True, names)


def log_tail(log: int) -> str:
    """The last lines that the compiler or the verifier wrote, in one line."""
    size = os.fstat(log).st_size
    text = os.pread(log, LOG_BYTES, max(0, size - LOG_BYTES)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-LOG_LINES:])
