# SPDX-License-Identifier: Apache-2.0
"""The agent and the plugin of one node, as the faults handle them: killed, stopped, started again. All that they write
is below one directory, and stays when they are started again.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from bench.faults.patience import Patience
from bench.faults.told import Told, parse_line, read_told
from tests.support import system
from tests.support.agent import Background, ProcessFailedError, command

READY_S = 60.0
# Of the agent that is slow: it runs for a quarter of the time, and an answer comes within the plugin's patience.
STOPPED_S = 0.3
RUNNING_S = 0.1


@dataclass(frozen=True, slots=True)
class Paths:
    """run: the agent's run directory, which has the spool and both logs too, on a disk of its own."""

    folder: Path
    pin_dir: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def spool(self) -> Path:
        return self.run / "hook.log"

    @property
    def agent_log(self) -> Path:
        return self.run / "agent.log"

    @property
    def plugin_log(self) -> Path:
        return self.run / "plugin.log"

    @property
    def rule(self) -> Path:
        return self.folder / "failure-rule"

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    @property
    def logs(self) -> tuple[Path, ...]:
        return (self.agent_log, self.plugin_log)

    @property
    def spools(self) -> tuple[Path, ...]:
        """The hook's file, and the one that the agent has taken and not read yet."""
        return (self.spool, self.spool.with_name(self.spool.name + ".taken"))


def read_lines(path: Path, offset: int = 0) -> list[str]:
    """From `offset` bytes on; none of a file that is not there."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


class Guard:
    """runtime: the socket of the CRI. nri: the runtime's NRI socket, None where the OCI hook stands at the door."""

    def __init__(self, paths: Paths, patience: Patience, runtime: Path, nri: Path | None) -> None:
        self.paths = paths
        self._patience = patience
        self._runtime = runtime
        self._nri = nri
        self._agent: Background | None = None
        self._plugin: Background | None = None
        self._stutter: threading.Thread | None = None
        self._steady = threading.Event()
        self._offsets: dict[Path, int] = {}
        self.unannounced = ""

    def start(self, unannounced: str) -> None:
        """An agent with this treatment, and the plugin if it does not run; returns when both serve."""
        self.unannounced = unannounced
        ready = self._count("ready")
        self.start_agent()
        self._patience.until(lambda: self._agent_serves(ready), READY_S, f"the agent: {self.paths.agent_log}")
        if self._nri and not self._plugin:
            self.start_plugin()

    def restart(self, unannounced: str) -> None:
        """In order, so that nothing of an earlier agent is left."""
        self.stop_agent()
        self.start(unannounced)

    def start_agent(self) -> None:
        """Does not wait for it."""
        paths = self.paths
        arguments = [command("podgate-agent"), "--run-dir", str(paths.run), "--pin-dir", str(paths.pin_dir)]
        arguments += ["--policy-dir", str(paths.policies), "--cri-socket", str(self._runtime)]
        self._agent = Background([*arguments, "--unannounced", self.unannounced], paths.agent_log)

    def start_plugin(self) -> None:
        """Does not wait for it."""
        paths = self.paths
        arguments = [command("podgate-nri"), "--nri-socket", str(self._nri), "--agent-socket", str(paths.socket)]
        arguments += ["--failure-rule", str(paths.rule), "--pin-dir", str(paths.pin_dir)]
        self._plugin = Background(arguments, paths.plugin_log)

    def stop_agent(self) -> None:
        """In order."""
        self.calm_agent()
        if self._agent:
            self._agent.stop()

    def kill_agent(self) -> None:
        _kill(self._agent)

    def kill_plugin(self) -> None:
        _kill(self._plugin)

    def freeze_agent(self) -> None:
        _send(self._agent, signal.SIGSTOP)

    def disturb_agent(self) -> None:
        """Stops it and lets it go on, over and over, until `calm_agent`."""
        self._steady.clear()
        self._stutter = threading.Thread(target=self._alternate, daemon=True)
        self._stutter.start()

    def _alternate(self) -> None:
        for number, seconds in itertools.cycle(((signal.SIGSTOP, STOPPED_S), (signal.SIGCONT, RUNNING_S))):
            _send(self._agent, number)
            if self._steady.wait(seconds):
                return

    def calm_agent(self) -> None:
        """It goes on, however it was stopped."""
        self._steady.set()
        if self._stutter:
            self._stutter.join()
            self._stutter = None
        _send(self._agent, signal.SIGCONT)

    def listen(self) -> None:
        """What the logs have so far is of no interest any more."""
        self._offsets = {path: path.stat().st_size for path in self.paths.logs if path.exists()}

    def lines(self) -> list[str]:
        """Of all files, since `listen`."""
        files = (*self.paths.logs, *self.paths.spools)
        return [line for path in files for line in read_lines(path, self._offsets.get(path, 0))]

    def told(self) -> list[Told]:
        """What was said of containers since `listen`."""
        return read_told(self.lines())

    def close(self) -> None:
        """Ends both, and takes away what a killed agent has left in the kernel."""
        if self._plugin:
            self._plugin.stop()
        self.stop_agent()
        system.kill_processes(system.find_processes(f"{self.paths.folder}/"))
        for pins in (self.paths.pin_dir, self.paths.pin_dir.with_name(f"{self.paths.pin_dir.name}-previous")):
            if pins.exists():
                shutil.rmtree(pins)

    def _agent_serves(self, before: int) -> bool:
        if self._agent and self._agent.process.poll() is not None:
            raise ProcessFailedError(f"the agent ended: {self.paths.agent_log.read_text()[-2000:]}")
        return self._count("ready") > before

    def _count(self, event: str) -> int:
        lines = (parse_line(line) for line in read_lines(self.paths.agent_log))
        return sum(line is not None and line.get("event") == event for line in lines)


def _send(process: Background | None, number: signal.Signals) -> None:
    """Nothing to one that has ended: its pid may be another's."""
    if process and process.process.poll() is None:
        os.kill(process.pid, number)


def _kill(process: Background | None) -> None:
    if process:
        process.process.kill()
        process.process.wait()
