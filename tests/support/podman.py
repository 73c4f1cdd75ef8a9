# SPDX-License-Identifier: Apache-2.0
"""A node with podman: hooks.d, conmon and an OCI runtime below, as with cri-o; it shares nothing with the machine.

podman keeps no daemon. Its whole state (images, containers, locks, sockets, the OCI runtime's own) lives below one
directory in /tmp, its containers below one cgroup of the same name in each hierarchy. `stop` removes both.

Two things are not as on a node: file descriptors and processes have limits of 1,024 where podman would raise them,
which takes CAP_SYS_RESOURCE; and the OCI runtime is called through a script that gives it a state directory of ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import system
from tests.support.containerd_config import Runc
from tests.support.image import BUSYBOX, FIRST, Image, build_image
from tests.support.names import unique_name
from tests.support.oci_hooks import Hook, render_hooksd
from tests.support.wait import wait_until

PODMAN = Path("/usr/bin/podman")
IMAGES = (BUSYBOX, FIRST)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# A start that a hook holds is bounded by the hook's own deadline, well below this.
COMMAND_S = 60.0
STOP_S = 10.0
# podman-run(1), "Exit Status": podman itself failed; a command cannot be invoked; a command was not found.
PODMAN_FAILED = (125, 126, 127)
# Ids of the first mapped user and how many follow: what a user namespace of a container gets.
USER_MAP = "0:100000:65536"


class PodmanError(Exception):
    """A podman command that must work failed; `stderr` is its own words."""

    def __init__(self, command: Sequence[str], stderr: str) -> None:
        super().__init__(command, stderr)
        self.command = tuple(command)
        self.stderr = stderr

    def __str__(self) -> str:
        return f"podman {' '.join(self.command)}: {self.stderr.strip()}"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A container to make; without a command the image's entrypoint runs. `mounts`: inside → host.

    `user_namespace` maps its root to uid 100000. `cgroup_namespace` gives it one, as cri-o does under cgroup v2; podman
    does not on a hybrid machine. `hooks_dir` replaces the node's. A memory limit of 0 is none.
    """

    image: str = BUSYBOX.reference
    command: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    network: str = "none"
    memory_bytes: int = 0
    user_namespace: bool = False
    cgroup_namespace: bool = False
    hooks_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command gave. `status` is the container's own, or one of PODMAN_FAILED."""

    status: int
    stdout: str
    stderr: str


class PodmanNode:
    """A podman of its own from construction until `stop`; use it as a context manager."""

    def __init__(self, runc: Runc = Runc.SYSTEM, images: Sequence[Image] = IMAGES) -> None:
        self.runc = runc
        self.name = unique_name("podman")
        self.folder = Path(tempfile.mkdtemp(prefix=self.name + "-", dir="/tmp"))
        self.hooks_dir = self.folder / "hooks.d"
        try:
            self._prepare()
            for image in images:
                self._must("load", "--quiet", "--input", str(build_image(image)))
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add_hook(self, hook: Hook, name: str = "test") -> Path:
        """Write NAME-STAGE.json into the node's hooks.d; podman runs them in the order of their names."""
        path = self.hooks_dir / f"{name}-{hook.stage}.json"
        path.write_text(render_hooksd(hook))
        return path

    def clear_hooks(self) -> None:
        """Take everything out of the node's hooks.d."""
        for path in self.hooks_dir.iterdir():
            path.unlink()

    def new_folder(self) -> Path:
        """An empty directory of the node's, which users in containers and hooks can reach."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o755)
        return folder

    def run(self, spec: RunSpec = RunSpec()) -> Outcome:
        """Create a container, run it to its end, remove it."""
        return self._podman(*_global_options(spec), "run", "--rm", *self._options(spec))

    def create(self, spec: RunSpec = RunSpec()) -> str:
        """The id of a container that was made and does not run. PodmanError when podman refuses."""
        return self._must(*_global_options(spec), "create", *self._options(spec)).strip()

    def init(self, container: str) -> None:
        """Have the OCI runtime create a container that was made, hooks included, and not start it."""
        self._must("init", container)

    def start(self, container: str) -> Outcome:
        """Start a container in the background; a status other than 0 says why not. Hooks that may refuse run here."""
        return self._podman("start", container)

    def launch(self, spec: RunSpec = RunSpec()) -> str:
        """The id of a container that was made and started in the background. PodmanError when either is refused."""
        container = self.create(spec)
        self._must("start", container)
        return container

    def popen(self, spec: RunSpec) -> subprocess.Popen[bytes]:
        """Begin `run` and do not wait: for a start that a hook holds. Output is dropped; the caller waits for it."""
        return subprocess.Popen(
            [PODMAN, *_global_options(spec), "run", "--rm", *self._options(spec)],
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def exec(self, container: str, *command: str) -> Outcome:
        """Run a command in a running container."""
        return self._podman("exec", container, *command)

    def inspect(self, container: str) -> dict[str, Any]:
        """podman-inspect(1) of a container. PodmanError when there is none."""
        decoded: list[dict[str, Any]] = json.loads(self._must("container", "inspect", container))
        return decoded[0]

    def pid(self, container: str) -> int:
        """The host's pid of its first process; 0 when it does not run."""
        return int(self.inspect(container)["State"]["Pid"])

    def bundle(self, container: str) -> Path:
        """The directory of its config.json, which exists once it was started."""
        return Path(self.inspect(container)["StaticDir"])

    def wait_exit(self, container: str, deadline_s: float = 20.0) -> int:
        """Wait until a container has ended; its exit code."""
        wait_until(lambda: self._state(container) == "exited", deadline_s, f"container {container} to exit")
        return int(self.inspect(container)["State"]["ExitCode"])

    def log_text(self, container: str) -> str:
        """What a container that runs in the background has written to stdout so far."""
        return self._must("logs", container)

    def kill(self, container: str, signal_name: str = "KILL") -> None:
        """Send a signal to its first process."""
        self._must("kill", "--signal", signal_name, container)

    def remove(self, container: str) -> None:
        """Remove a container; one that runs is killed first."""
        self._must("rm", "--force", "--time", "0", container)

    def list_containers(self) -> list[str]:
        """The ids of all containers, running or not."""
        return self._must("ps", "--all", "--quiet", "--no-trunc").split()

    def stop(self) -> None:
        """Kill all containers and remove whatever the node made; hooks do not run any more. A second call does nothing.

        Nothing is asked of podman, which would wait for the lock of a container whose start hangs in a hook.
        """
        if self.folder.exists():
            self._clean()

    def _state(self, container: str) -> str:
        return str(self.inspect(container)["State"]["Status"])

    def _prepare(self) -> None:
        """Write the configuration; nothing of the machine's is read beside it."""
        # A container in a user namespace has to reach its root from uid 100000. podman 4.3 makes these folders 0700 and
        # hands them to the root of the container it is busy with: another podman at that moment, such as the one that
        # conmon calls at a container's end, would lock that container out.
        for path in ("", "root", "root/vfs", "root/vfs/dir"):
            (self.folder / path).mkdir(exist_ok=True)
            (self.folder / path).chmod(0o711)
        self.hooks_dir.mkdir()
        for name in ("bin", "tmp"):
            (self.folder / name).mkdir()
        runc = self.folder / "bin/runc"
        runc.write_text(f'#!/bin/sh\nexec {self.runc.path} --root {self.folder}/runc "$@"\n')
        runc.chmod(0o755)
        (self.folder / "containers.conf").write_text(render_config(self.folder))
        (self.folder / "storage.conf").write_text(render_storage(self.folder))

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": PATH,
            "LC_ALL": "C",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            **_configuration(self.folder),
        }

    def _options(self, spec: RunSpec) -> tuple[str, ...]:
        """The options and arguments of `run` and `create`."""
        options = ["--pull=never", f"--network={spec.network}", f"--cgroup-parent=/{self.name}"]
        options += [f"--annotation={quote_field(f'{key}={value}')}" for key, value in spec.annotations.items()]
        options += [f"--label={key}={value}" for key, value in spec.labels.items()]
        options += [f"--volume={host}:{inside}" for inside, host in spec.mounts.items()]
        if spec.memory_bytes:
            options.append(f"--memory={spec.memory_bytes}b")
        if spec.user_namespace:
            options += [f"--uidmap={USER_MAP}", f"--gidmap={USER_MAP}"]
        options.append(f"--cgroupns={'private' if spec.cgroup_namespace else 'host'}")
        return (*options, spec.image, *spec.command)

    def _podman(self, *args: str) -> Outcome:
        """Run podman; subprocess.TimeoutExpired when it takes longer than COMMAND_S."""
        done = subprocess.run(
            [PODMAN, *args],
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_S,
            check=False,
        )
        return Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def _must(self, *args: str) -> str:
        outcome = self._podman(*args)
        if outcome.status != 0:
            raise PodmanError(args, outcome.stderr)
        return outcome.stdout

    def _clean(self) -> None:
        """Remove every trace, in the order in which one thing keeps the next busy."""
        system.kill_processes(self._processes(), STOP_S)
        system.remove_cgroups(self.name, STOP_S)
        system.unmount_below(self.folder)
        shutil.rmtree(self.folder)

    def _processes(self) -> list[int]:
        """podman, conmon and runc of this node: each has our folder in its arguments or in its environment."""
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in pids if f"{self.folder}/".encode() in _read_process(pid)]


def _read_process(pid: int) -> bytes:
    """A process's arguments and environment; empty for this one, for one that is gone or has more rights."""
    folder = Path(f"/proc/{pid}")
    try:
        return b"" if pid == os.getpid() else (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _global_options(spec: RunSpec) -> tuple[str, ...]:
    return () if spec.hooks_dir is None else (f"--hooks-dir={spec.hooks_dir}",)


def _configuration(folder: Path) -> dict[str, str]:
    """The variables that make podman read our files instead of the machine's."""
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }


def quote_field(text: str) -> str:
    """A field of the comma-separated values that podman takes an annotation for (RFC 4180)."""
    return '"' + text.replace('"', '""') + '"' if any(char in text for char in '",\n') else text


def render_config(folder: Path) -> str:
    """containers.conf(5). Locks are files: those in shared memory are one set for all podmans of the machine.

    conmon calls podman at a container's end, with no other environment than what stands here.
    """
    inherited = [f"PATH={PATH}", *(f"{name}={value}" for name, value in _configuration(folder).items())]
    return f"""\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]

[engine]
cgroup_manager = "cgroupfs"
conmon_env_vars = {json.dumps(inherited)}
events_logger = "none"
hooks_dir = [{json.dumps(str(folder / "hooks.d"))}]
lock_type = "file"
runtime = {json.dumps(str(folder / "bin/runc"))}
tmp_dir = {json.dumps(str(folder / "libpod"))}
volume_path = {json.dumps(str(folder / "volumes"))}

[network]
network_config_dir = {json.dumps(str(folder / "networks"))}
"""


def render_storage(folder: Path) -> str:
    """containers-storage.conf(5). The driver vfs copies files and makes no mounts of its own."""
    return f"""\
[storage]
driver = "vfs"
graphroot = {json.dumps(str(folder / "root"))}
runroot = {json.dumps(str(folder / "run"))}
"""
