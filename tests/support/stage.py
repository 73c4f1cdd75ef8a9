# SPDX-License-Identifier: Apache-2.0
"""An agent that is a few answers on a socket, and the command line that asks it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result
from google.protobuf.message import Message

from agent.api import control_pb2
from agent.cli.client import SERVICE
from agent.cli.main import main
from agent.hooks.calls import Answer, CallError
from agent.hooks.peer import Peer
from agent.hooks.server import Server, listen
from nri_plugin.ttrpc import Code
from tests.support.callers import admit_anyone
from tests.support.wait import wait_until


def policy_status(name: str = "guard", state: str = "enabled", **fields: object) -> control_pb2.PolicyStatus:
    """One of a policy that selects two containers."""
    known = {
        "namespace": "shop",
        "kind": "TracingPolicyNamespaced",
        "containers": 2,
        "hooks": ["access", "lseek"],
        "mode": "enforce",
        "id": 7,
    }
    return control_pb2.PolicyStatus(name=name, state=state, **(known | fields))  # type: ignore[arg-type]


class FakeControl:
    """What an agent answers; calls are kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.answers: dict[str, Callable[[], Message]] = {}

    def call(self, method: str, payload: bytes, peer: Peer) -> Answer:
        assert peer.pid == os.getpid()
        self.calls.append((method, payload))
        return Answer(self.answers[method]().SerializeToString())


class Stage:
    """A run directory with sockets. What an agent would answer is said by `serve`; its calls are in `control`."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.control = folder / "run", FakeControl()
        self.run_dir.mkdir()
        self._server: Server | None = None
        self._threads: list[threading.Thread] = []

    def serve(self, method: str, answer: Callable[[], Message]) -> None:
        self.control.answers[method] = answer
        if self._server is None:
            self._server = Server(listen(self.run_dir / "agent.sock"), {SERVICE: self.control}, admit_anyone)
            self._server.start()

    def stream(self, *parts: bytes, keep: bool = True) -> None:
        """An event process that sends these to its first reader; keep: and waits until that goes."""
        listener = listen(self.run_dir / "events.sock")

        def run() -> None:
            channel, _ = listener.accept()
            with listener, channel:
                for part in (b'{"type":"subscribed"}\n', *parts):
                    channel.sendall(part)
                if keep:
                    channel.recv(1)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def run(self, *args: str, text: str | None = None) -> Result:
        return CliRunner().invoke(main, ["--run-dir", str(self.run_dir), *args], input=text)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(20.0)
            assert not thread.is_alive()
        if server := self._server:
            server.stop()
            wait_until(lambda: not server._open, 20.0, "the connections' threads to end")


def refuse(code: Code, text: str) -> Callable[[], Message]:
    def answer() -> Message:
        raise CallError(code, text)

    return answer
