# SPDX-License-Identifier: Apache-2.0
"""A storm of events: containers that make one event after the other, and a reader that wants to see all of them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from bench._common import Say
from bench.parts.policies import policy_text
from tests.support.agent import AgentProcess, command
from tests.support.cri import ContainerSpec, Cri, PodSpec
from tests.support.image import FIRST
from tests.support.wait import wait_until

NAMESPACE = "storm"
ENDLESS = str(10**17)  # calls: decades of them
CONTAINERS = 2
FIRST_EVENT_S = 20.0
STOP_S = 20.0
CHUNK = 1 << 18
EVENT = b'{"type":"policy"'
LOST = b'{"type":"lost"'
SLOW = "slow reader"

OBSERVE = policy_text("storm", NAMESPACE, [-1], "Post")


class Tally:
    """Counts the lines of an event stream that comes in parts: events, and those that were lost because the reader was
    slow. It is told of those for which the ring had no room as well, and the agent counts them.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.lost = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """`data` may end anywhere in a line."""
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        self.seen += whole.count(b"\n" + EVENT) + whole.startswith(EVENT)
        if LOST in whole:
            lines = [json.loads(line) for line in whole.split(b"\n") if line.startswith(LOST)]
            self.lost += sum(line["count"] for line in lines if line["reason"] == SLOW)


class CountingReader:
    """`podgate events` in the background; its output is counted and let go."""

    def __init__(self, run_dir: Path) -> None:
        self.tally = Tally()
        environment = os.environ | {"PODGATE_RUN_DIR": str(run_dir)}
        self._process = subprocess.Popen(
            [command("podgate"), "events"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._err = self._process.stderr
        if self._err is None or self._process.stdout is None or self._err.readline() != b"listening\n":
            self._process.kill()
            raise RuntimeError("podgate events did not subscribe")
        self._out = self._process.stdout.fileno()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._out, CHUNK):
            self.tally.feed(data)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(STOP_S)
        self._thread.join(STOP_S)
        for pipe in (self._process.stdout, self._err):
            if pipe:
                pipe.close()


class Storm:
    """A context manager: within it, events flow. The policy OBSERVE must be in force."""

    def __init__(self, cri: Cri, agent: AgentProcess, say: Say) -> None:
        self._cri = cri
        self._agent = agent
        self._say = say
        self._lost_before = self._lost()

    def _lost(self) -> int:
        """Events that found the ring full, since the agent started."""
        return int(self._agent.control.status().counters["events_lost"])

    def __enter__(self) -> Self:
        self._reader = CountingReader(self._agent.run_dir)
        try:
            self._pod = self._cri.run_pod(PodSpec("storm", NAMESPACE))
            for name in _names():
                self._cri.run(self._pod, ContainerSpec(name, FIRST.reference, args=("storm", ENDLESS)))
            wait_until(lambda: self._reader.tally.seen > 0, FIRST_EVENT_S, "the storm's first event")
        except BaseException:
            self._reader.stop()
            raise
        self._say(f"  {CONTAINERS} containers make events, one reader prints them")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._cri.remove_pod(self._pod)
        finally:
            self._reader.stop()

    def figures(self) -> dict[str, int]:
        """After the end. events_lost: for want of room in the ring or before the reader (named apart, too)."""
        tally = self._reader.tally
        lost = self._lost() - self._lost_before
        return {"events_seen": tally.seen, "events_lost": lost + tally.lost, "events_lost_by_reader": tally.lost}


def _names() -> Iterable[str]:
    return (f"storm-{n}" for n in range(CONTAINERS))
