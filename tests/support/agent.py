# SPDX-License-Identifier: Apache-2.0
"""The project's own processes as a user starts them: agent, NRI plugin, event reader; each with directories and names
of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.cli.client import ControlClient
from tests.support.names import project_dir, unique_name
from tests.support.patience import PATIENCE
from tests.support.wait import wait_until

READY_S = 60.0
STOP_S = 20.0 * PATIENCE
LOADER_S = 30.0 * PATIENCE


def command(name: str) -> str:
    """An installed command of this project, of the interpreter that runs us."""
    return str(Path(sys.executable).with_name(name))


def run_cli(run_dir: Path, *args: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command podgate, as a user would call it."""
    environment = os.environ | {"PODGATE_RUN_DIR": str(run_dir)}
    return subprocess.run(
        [command("podgate"), *args],
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        cwd=project_dir(),
        check=False,
    )


class ProcessFailedError(Exception):
    """A process ended before it was ready; the text is the end of its log."""


class Stoppable(ABC):
    """A context that ends with stop()."""

    @abstractmethod
    def stop(self) -> int | None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Background:
    """One process with its log in a file. Stopped by SIGTERM, at the latest by SIGKILL."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """The log's JSON lines; what is not JSON is left out."""
        return [
            json.loads(line)
            for line in self.log.read_text().splitlines()
            if line.startswith("{") and line.endswith("}")
        ]

    def await_event(self, event: str, deadline_s: float = READY_S, count: int = 1) -> None:
        def seen() -> bool:
            if self.process.poll() is not None:
                raise ProcessFailedError(f"ended with status {self.process.returncode}: {self.log.read_text()[-2000:]}")
            return len([line for line in self.lines() if line.get("event") == event]) >= count

        wait_until(seen, deadline_s, f"{event!r} in {self.log}")

    def stop(self) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                return self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class AgentProcess(Stoppable):
    """A running podgate-agent with a run directory and pins of its own. wrapper: a command that becomes it."""

    def __init__(
        self, *options: str, pin_dir: Path | None = None, wait: bool = True, wrapper: Sequence[str] = ()
    ) -> None:
        self._wrapper = wrapper
        self.run_dir = Path(tempfile.mkdtemp(prefix=f"{unique_name('run')}-", dir="/tmp"))
        self.pin_dir = pin_dir or Path("/sys/fs/bpf") / unique_name("pin")
        self._options = options
        self.background = self._start()
        if wait:
            self.await_ready()

    def _start(self) -> Background:
        own = ("--run-dir", str(self.run_dir), "--pin-dir", str(self.pin_dir), "--loader-deadline", f"{LOADER_S:g}")
        words = [*self._wrapper, command("podgate-agent"), *own, *self._options]
        return Background(words, self.run_dir / "agent.log")

    def await_ready(self, count: int = 1) -> None:
        try:
            self.background.await_event("ready", count=count)
        except BaseException:
            self.stop()
            raise

    def restart(self, *, crash: bool) -> None:
        """crash: by SIGKILL, so that pins and mounts stay."""
        if crash:
            self.background.process.kill()
            self.background.process.wait()
        else:
            self.background.stop()
        self.background.log.rename(self.run_dir / f"agent.{self.background.pid}.log")
        self.background = self._start()
        self.await_ready()

    @property
    def socket(self) -> Path:
        return self.run_dir / "agent.sock"

    @property
    def pid(self) -> int:
        return self.background.pid

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.run_dir)

    def cli(self, *args: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return run_cli(self.run_dir, *args, text=text)

    def add(self, text: str) -> None:
        """Raises RemoteError when the agent refuses."""
        self.control.add("<test>", text.encode())

    def stop(self) -> int:
        status = self.background.stop()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        return status


class PluginProcess(Stoppable):
    """A running podgate-nri between a node's runtime and an agent. failure_rule: the text of its file."""

    def __init__(
        self,
        agent: AgentProcess,
        nri_socket: Path,
        *options: str,
        failure_rule: str = "default open\n",
        wait: bool = True,
    ) -> None:
        name = unique_name("plugin")
        self.failure_rule = agent.run_dir / f"{name}.rule"
        self.failure_rule.write_text(failure_rule)
        sockets = ("--nri-socket", str(nri_socket), "--agent-socket", str(agent.socket))
        paths = ("--failure-rule", str(self.failure_rule), "--pin-dir", str(agent.pin_dir))
        log = agent.run_dir / f"{name}.log"
        self.background = Background([command("podgate-nri"), *sockets, *paths, *options], log)
        if wait:
            self.await_ready()

    def await_ready(self, count: int = 1) -> None:
        self.background.await_event("nri_ready", count=count)

    def decisions(self) -> list[dict[str, Any]]:
        """Its log lines of container starts."""
        return [line for line in self.background.lines() if line.get("event") == "start_container"]

    def stop(self) -> int:
        return self.background.stop()


class EventReader(Stoppable):
    """`podgate events` in the background."""

    def __init__(self, run_dir: Path) -> None:
        self._lines: list[dict[str, Any]] = []
        environment = os.environ | {"PODGATE_RUN_DIR": str(run_dir)}
        self._process = subprocess.Popen(
            [command("podgate"), "events"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        if self._process.stderr is None or self._process.stdout is None:
            raise ProcessFailedError("no pipes")
        if self._process.stderr.readline() != b"listening\n":
            raise ProcessFailedError("podgate events did not subscribe")
        self._thread = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, out: Iterator[bytes]) -> None:
        for line in out:
            self._lines.append(json.loads(line))

    def all(self) -> list[dict[str, Any]]:
        return list(self._lines)

    def find(self, wanted: Callable[[dict[str, Any]], bool], deadline_s: float = 10.0) -> dict[str, Any]:
        """The first event that is wanted, waited for."""
        return (
            wait_until(lambda: next((line for line in self.all() if wanted(line)), None), deadline_s, "an event") or {}
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(STOP_S)
        self._thread.join(STOP_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
