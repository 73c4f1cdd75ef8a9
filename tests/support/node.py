# SPDX-License-Identifier: Apache-2.0
"""A node with a real container runtime: a private containerd whose files, sockets, mounts and cgroups are all its own.

Everything lives below one short directory in /tmp (a unix socket's path has 108 bytes at most) and below one cgroup of
the same name. `stop` removes both, whatever state the runtime is in, and touches nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from tests.support import system
from tests.support.containerd_config import NodeOptions, Runc, Runtime, render_config
from tests.support.cri import Cri
from tests.support.image import BUSYBOX, FIRST, PAUSE, Image, build_image
from tests.support.names import unique_name
from tests.support.oci_hooks import add_hooks
from tests.support.wait import DeadlineError, wait_until

__all__ = ["Node", "NodeError", "NodeOptions", "Runc", "Runtime"]

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0
IMAGES = (PAUSE, FIRST, BUSYBOX)
# containerd's CRI looks at this containerd namespace only.
CRI_NAMESPACE = "k8s.io"


class NodeError(Exception):
    """A node could not be started or cleaned; `log` is the end of the runtime's own log."""

    def __init__(self, what: str, log: str) -> None:
        super().__init__(what, log)
        self.what = what
        self.log = log

    def __str__(self) -> str:
        return f"{self.what}\n{self.log}"


class Node:
    """A containerd that runs from construction until `stop`; use it as a context manager."""

    def __init__(
        self,
        runtime: Runtime = Runtime.CONTAINERD_2,
        options: NodeOptions = NodeOptions(),  # noqa: B008 - frozen
        images: Sequence[Image] = IMAGES,
    ) -> None:
        self.runtime = runtime
        self.name = unique_name("node")
        self.folder = Path(tempfile.mkdtemp(prefix=self.name + "-", dir="/tmp"))
        self.socket = self.folder / "c.sock"
        self.nri_socket = self.folder / "nri.sock"
        self.cri = Cri(self.socket, f"/{self.name}", self.folder / "logs")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._configure(options)
            self._start()
            self._import(images)
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The PID of containerd; 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def version(self) -> str:
        """The version that containerd says it has."""
        return self.cri.version()

    def log_text(self) -> str:
        """containerd's own log so far."""
        return (self.folder / "containerd.log").read_text(errors="replace")

    def restart(self, *, crash: bool = False) -> None:
        """Stop containerd alone, by SIGTERM or (a crash) SIGKILL, and start it again; containers go on meanwhile."""
        self._terminate(signal.SIGKILL if crash else signal.SIGTERM)
        self._start()

    def stop(self) -> None:
        """Remove all pods, end the runtime, and remove what it made. NodeError when pods could not be removed.

        A second call does nothing.
        """
        failure: NodeError | None = None
        if self.pid:
            try:
                self.cri.remove_all_pods()
            except grpc.RpcError as error:
                failure = NodeError(f"{self.name}: pods could not be removed: {error}", self._log_tail())
        self._clean()
        if failure is not None:
            raise failure

    def _configure(self, options: NodeOptions) -> None:
        """Write config.toml, and the spec with hooks if there are any."""
        if options.hooks:
            spec = write_hooked_spec(self.runtime, options, self.folder / "base-spec.json")
            options = dataclasses.replace(options, base_spec=spec)
        (self.folder / "config.toml").write_text(render_config(self.runtime, self.folder, options))

    def _start(self) -> None:
        """Start containerd and wait until its CRI answers; NodeError with its log when it does not."""
        binaries = self.runtime.binaries
        # containerd looks for its shim in PATH, the shim for the mount helpers.
        env = {"PATH": f"{binaries}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        with open(self.folder / "containerd.log", "ab") as log:
            self._process = subprocess.Popen(
                [binaries / "containerd", "--config", self.folder / "config.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.folder,
                start_new_session=True,  # an interrupt from the terminal reaches the tests, which then clean up
            )
        try:
            wait_until(self._answers, START_DEADLINE_S, "containerd's CRI")
        except DeadlineError as error:
            raise NodeError(f"{self.name}: {error}", self._log_tail()) from error

    def _answers(self) -> bool:
        if not self.pid:
            raise NodeError(f"{self.name}: containerd ended while starting", self._log_tail())
        try:
            return bool(self.cri.version(timeout_s=2.0))
        except grpc.RpcError:
            return False

    def _import(self, images: Sequence[Image]) -> None:
        ctr = (self.runtime.binaries / "ctr", "--address", self.socket, "--namespace", CRI_NAMESPACE)
        for image in images:
            tar = build_image(image)
            done = subprocess.run([*ctr, "images", "import", tar], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise NodeError(f"{self.name}: cannot import {image.reference}: {done.stderr}", self._log_tail())
        # The CRI learns of new images by an event.
        wanted = {image.reference for image in images}
        wait_until(lambda: wanted <= self.cri.images(), START_DEADLINE_S, f"images {sorted(wanted)}")

    def _log_tail(self) -> str:
        log = self.folder / "containerd.log"
        return "\n".join(self.log_text().splitlines()[-15:]) if log.exists() else ""

    def _terminate(self, number: signal.Signals) -> None:
        """Send containerd a signal and wait for its end; SIGKILL when SIGTERM was not enough."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_DEADLINE_S)
        self._process = None

    def _clean(self) -> None:
        """Remove every trace, in the order in which one thing keeps the next busy."""
        self.cri.close()
        self._terminate(signal.SIGTERM)
        sockets = self._shim_sockets()
        # Shims name our socket, a runc that hangs in a hook our folder; what ran in containers goes with the cgroups.
        for marker in (f"-address {self.socket}", f"--root {self.folder}/runc"):
            system.kill_processes(system.find_processes(marker), STOP_DEADLINE_S)
        system.remove_cgroups(self.name, STOP_DEADLINE_S)
        system.unmount_below(self.folder)
        for path in sockets:
            path.unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _shim_sockets(self) -> list[Path]:
        """The sockets of shims that did not end by themselves; containerd puts them in /run, whatever its state path.

        1.7 writes the address to `address`, 2.x into bootstrap.json, both in the container's bundle.
        """
        found: list[Path] = []
        for bundle in (self.folder / "state" / "io.containerd.runtime.v2.task").glob("*/*"):
            for name in ("address", "bootstrap.json"):
                if (bundle / name).is_file():
                    found.append(_parse_shim_address((bundle / name).read_text()))
        return found


def default_spec(runtime: Runtime) -> dict[str, Any]:
    """The OCI config.json that this containerd starts from when no base spec is named. NodeError when ctr fails."""
    command = (runtime.binaries / "ctr", "oci", "spec")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"{runtime.name}: ctr cannot say the default spec", done.stderr)
    decoded: dict[str, Any] = json.loads(done.stdout)
    return decoded


def write_hooked_spec(runtime: Runtime, options: NodeOptions, target: Path) -> Path:
    """Write `options.base_spec`, or the runtime's default, with `options.hooks` to `target`, and give that back."""
    base = default_spec(runtime) if options.base_spec is None else json.loads(options.base_spec.read_text())
    target.write_text(json.dumps(add_hooks(base, options.hooks)))
    return target


def _parse_shim_address(text: str) -> Path:
    """The socket path in a shim's address file (`unix:///path`) or bootstrap.json (`{"address": "unix:///path"}`)."""
    address = str(json.loads(text)["address"]) if text.startswith("{") else text.strip()
    return Path(os.path.normpath(address.removeprefix("unix://")))
