# SPDX-License-Identifier: Apache-2.0
"""Runtimes that run, and what they say of themselves: /proc (proc(5)), their own binaries, cri-o's socket.

A daemon belongs to a host when its root directory is the one that the host is mounted at; so in an installer's
container with the host's pid namespace and its file system on /host, the host's containerd is found.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rthook.install.host import Host

PROC = Path("/proc")
ASK_DEADLINE_S = 10.0
# <linux/net.h>, __SO_ACCEPTCON: what /proc/net/unix shows of a socket that listens.
ACCEPTS = 0x10000
MAX_ANSWER = 1 << 20  # of cri-o's configuration, some 20 KiB

_VERSION = re.compile(r"^v?(\d+)\.(\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running process. `program`: its binary as it names it; `args`: its command line; `started`: Unix time."""

    pid: int
    program: str
    args: tuple[str, ...]
    cwd: str
    started: float

    def option(self, *names: str) -> str | None:
        """The value of `--name VALUE` or `--name=VALUE`, a relative path made absolute."""
        for number, word in enumerate(self.args):
            name, equals, value = word.partition("=")
            if name in names:
                value = value if equals else next(iter(self.args[number + 1 :]), "")
                return os.path.normpath(os.path.join(self.cwd, value))
        return None


def find_daemons(host: Host, name: str) -> list[Daemon]:
    """Processes whose command is `name` and whose root is the host's; what may not be looked at is left out."""
    root = os.stat(host.root)
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() == name and os.path.samestat(os.stat(entry / "root"), root):
                found.append(_read_daemon(entry))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, is a kernel thread, or belongs to somebody else
    return sorted(found, key=lambda daemon: daemon.pid)


def _read_daemon(entry: Path) -> Daemon:
    args = (entry / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    program = os.readlink(entry / "exe").removesuffix(" (deleted)")
    return Daemon(int(entry.name), program, tuple(args[1:]), os.readlink(entry / "cwd"), _start_time(entry))


def _start_time(entry: Path) -> float:
    """Field 22 of stat is in clock ticks since the boot; the boot's Unix time is in /proc/stat."""
    ticks = int((entry / "stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime "))
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def run_program(host: Host, daemon: Daemon | None, program: str, args: Sequence[str]) -> str:
    """Standard output of one of the host's programs, run with the host's root. OSError with what it said."""
    if _is_own_root(host):
        command = [f"{PROC}/{daemon.pid}/exe" if daemon else str(host.at(program)), *args]
    else:
        root = f"{PROC}/{daemon.pid}/root" if daemon else str(host.root)
        command = ["chroot", root, program, *args]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ASK_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{program} {' '.join(args)}: no answer in {ASK_DEADLINE_S:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise OSError(f"{program} {' '.join(args)}: {said}")
    return done.stdout


def _is_own_root(host: Host) -> bool:
    return os.path.samestat(os.stat(host.root), os.stat("/"))


def find_program(host: Host, name: str) -> str | None:
    """Where the host has a program of that name."""
    places = (f"{directory}/{name}" for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"))
    return next((path for path in places if os.access(host.at(path), os.X_OK)), None)


def parse_version(text: str) -> tuple[int, int] | None:
    """The first word that is a version: `containerd github.com/... v1.7.24 ...`, `podman version 4.3.1`."""
    found = next((match for word in text.split() if (match := _VERSION.match(word))), None)
    return (int(found[1]), int(found[2])) if found else None


def version_word(text: str) -> str:
    return next((word for word in text.split() if _VERSION.match(word)), "unknown")


def is_listening(daemon: Daemon | None, path: str) -> bool:
    """Whether a socket bound to `path` accepts connections, in the daemon's network namespace.

    Nothing connects: the runtime would take that for a plugin that fails.
    """
    table = PROC / (str(daemon.pid) if daemon else "self") / "net/unix"
    for line in table.read_text(errors="surrogateescape").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path and int(fields[3], 16) & ACCEPTS:
            return True
    return False


def ask_crio(path: Path) -> str:
    """What `crio status config` asks: the running daemon's configuration as TOML. OSError."""
    connection = http.client.HTTPConnection("crio", timeout=ASK_DEADLINE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(ASK_DEADLINE_S)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/config")
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER)
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {error!r}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise OSError(f"{path}: HTTP status {answer.status}")
    return data.decode(errors="replace")
