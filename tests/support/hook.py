# SPDX-License-Identifier: Apache-2.0
"""podgate-hook as tests run it: compiled once for each state of its sources, with and without sanitizers."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rthook import build
from tests.support.names import project_dir

# What hangs is broken: no test gives the hook a longer deadline.
RUN_S = 20.0
# For programs of tests: sanitizers as the hook has them, and a callback at each edge of the control flow.
FUZZ_FLAGS = (*build.SANITIZERS, "-fsanitize-coverage=trace-pc", "-Wno-null-dereference")
LIBRARY_FLAGS = ("-shared", "-fPIC", "-O1", "-g")


def _fingerprint() -> str:
    """Of all that decides what is compiled."""
    sources = [Path(build.__file__), *build.SOURCE.glob("hook*.c"), *(build.SOURCE / "hook").iterdir()]
    sources += (project_dir() / "tests/fuzz").glob("*.c")
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def _folder() -> Path:
    return project_dir() / "build/hook" / _fingerprint()


@functools.cache
def build_program(*, sanitize: bool) -> Path:
    """The hook itself."""
    target = _folder() / ("podgate-hook-sanitized" if sanitize else "podgate-hook")
    if not target.exists():
        build.build_hook(target, sanitize=sanitize)
    return target


@functools.cache
def build_library() -> Path:
    """The hook without its main, to be called by way of ctypes."""
    target = _folder() / "libhook.so"
    if not target.exists():
        build.compile_c(target, build.part_sources(), LIBRARY_FLAGS)
    return target


@functools.cache
def build_fuzzer() -> Path:
    """tests/fuzz/hook_fuzz.c with the hook's parts."""
    target = _folder() / "hook_fuzz"
    if not target.exists():
        source = project_dir() / "tests/fuzz/hook_fuzz.c"
        build.compile_c(target, [source, *build.part_sources()], FUZZ_FLAGS)
    return target


def make_state(namespace: str | None = "shop", **members: object) -> bytes:
    """A state as the runtimes write it, with both annotations of the namespace; None for a container without one."""
    keys = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")
    annotations = {} if namespace is None else dict.fromkeys(keys, namespace)
    state = {"ociVersion": "1.0.2", "id": "c1", "status": "created", "pid": os.getpid(), "bundle": "/b"}
    return json.dumps({**state, "annotations": annotations, **members}).encode()


@dataclass(frozen=True, slots=True)
class Done:
    """A call of the hook that has ended."""

    status: int
    out: str
    errors: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class HookSetup:
    """A program, and the files that it is told to use, below one directory of the test's own."""

    program: Path
    folder: Path
    deadline_ms: int = 1000
    pin_dir: Path = Path("/sys/fs/bpf/podgate-no-such-directory")

    @property
    def socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def rule(self) -> Path:
        return self.folder / "failure-rule"

    @property
    def spool(self) -> Path:
        return self.folder / "hook.log"

    def options(self) -> list[str]:
        return [
            f"--agent-socket={self.socket}",
            f"--failure-rule={self.rule}",
            f"--pin-dir={self.pin_dir}",
            f"--spool={self.spool}",
            f"--deadline-ms={self.deadline_ms}",
        ]

    def command(self, *arguments: str) -> list[str]:
        """Later options win."""
        return [str(self.program), *self.options(), *arguments]

    def run(self, *arguments: str, state: bytes | None = None) -> Done:
        """Until it ends; `state` is a good one of namespace shop unless given."""
        begin = time.monotonic()
        done = subprocess.run(
            self.command(*(arguments or ("createContainer",))),
            input=make_state() if state is None else state,
            capture_output=True,
            env={},
            timeout=RUN_S,
            check=False,
        )
        elapsed = time.monotonic() - begin
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode(), elapsed)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """With a standard input that nobody has written to; it must have ended at the end."""
        with subprocess.Popen(
            self.command(*(arguments or ("createContainer",))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
        ) as process:
            try:
                yield process
                process.wait(RUN_S)
            finally:
                process.kill()

    def decisions(self) -> list[dict[str, Any]]:
        """What stands in the spool."""
        if not self.spool.exists():
            return []
        return [json.loads(line) for line in self.spool.read_text().splitlines()]

    def write_rule(self, *lines: str) -> None:
        self.rule.write_text("".join(f"{line}\n" for line in lines))


@dataclass(frozen=True, slots=True)
class Usage:
    """wall and cpu in seconds."""

    status: int
    wall_s: float
    cpu_s: float


def measure(command: Sequence[str], stdin: Path) -> Usage:
    """Runs it without a shell and with a file as its input, and asks the kernel what it took."""
    actions = [(os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    begin = time.perf_counter()
    pid = os.posix_spawn(command[0], list(command), {}, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    return Usage(os.waitstatus_to_exitcode(status), wall, used.ru_utime + used.ru_stime)


def resident_bytes(pid: int) -> int:
    """Counted page by page. The maximum that wait4 gives would not do: it includes that of the process which forked."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Rss")
