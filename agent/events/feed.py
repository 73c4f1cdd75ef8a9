# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the event process: starts it, tells it names, starts it again when it ends.

Telling never waits: what the socket does not take at once is kept in order, bounded, and sent later; what had to be
dropped is counted, and its events say "unresolved". Restarted, the process is told everything anew.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.events.encoder import action_names
from agent.logs import fields
from agent.policy.plan import PlacedPolicy
from agent.policy.syscalls import kernel_name
from agent.workload.identity import WorkloadId
from agent.workload.registry import Record

MAX_WAITING = 65536  # messages of some 300 bytes
SEND_BUFFER = 4 << 20
MAX_MESSAGE = 400 << 10  # a socket takes 416 KiB at once with the default net.core.wmem_max
RESTART_DELAY_S = 1.0
SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}

log = logging.getLogger("podgate.events")


@dataclass(frozen=True, slots=True)
class Ring:
    """The descriptor of the map events; size in bytes of its data."""

    fd: int
    size: int


class Feed:
    """snapshot gives every message that a new process must hear. guarded: the pin directory where processes may be
    held, which the event process looks after. Thread-safe.
    """

    def __init__(
        self,
        ring: Ring,
        listener: socket.socket,
        snapshot: Callable[[], Iterable[dict[str, Any]]],
        guarded: Path | None = None,
    ) -> None:
        self._guarded = guarded
        self._ring = ring
        self._listener = listener
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self.dropped = 0
        self.restarts = 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """A name that comes while the snapshot is told is told twice; none is missed."""
        channel, process = self._spawn()
        with self._lock:
            if self._channel:
                self._channel.close()
            self._channel, self._process, self._started = channel, process, time.monotonic()
            self._waiting.clear()
        for message in self._snapshot():
            self.tell(message)

    def _spawn(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        ours.setblocking(False)
        ring = self._ring
        numbers = (theirs.fileno(), ring.fd, ring.size, self._listener.fileno())
        command = [sys.executable, "-I", "-m", "agent.events.main", *map(str, numbers)]
        command += [str(self._guarded)] if self._guarded else []
        keep = (theirs.fileno(), ring.fd, self._listener.fileno())
        with theirs:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=keep, cwd="/", start_new_session=True
            )
        return ours, process

    def check(self) -> None:
        """Starts the process again when it has ended; sends what is waiting."""
        process = self._process
        if process and process.poll() is not None and time.monotonic() - self._started >= RESTART_DELAY_S:
            self.restarts += 1
            log.error(
                "the event process ended, starting it again",
                extra=fields(status=process.returncode, restarts=self.restarts),
            )
            self.start()
        with self._lock:
            self._flush()

    def workload_added(self, record: Record) -> None:
        self.tell(workload_message(record))

    def workload_removed(self, workload: WorkloadId) -> None:
        self.tell({"op": "workload_gone", "id": workload})

    def policy_added(self, placed: PlacedPolicy) -> None:
        self.tell(policy_message(placed))

    def policy_removed(self, serial: int) -> None:
        self.tell({"op": "policy_gone", "id": serial})

    def events_lost(self, count: int) -> None:
        self.tell({"op": "lost", "id": count})

    def unannounced(self, event: dict[str, Any]) -> None:
        self.tell({"op": "unannounced", "id": 0, "event": event})

    def tell(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        with self._lock:
            if len(data) > MAX_MESSAGE:
                self.dropped += 1
                log.error("a name is too long for the event process", extra=fields(op=message["op"], bytes=len(data)))
                return
            self._send(data)

    def _send(self, data: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(data)
        self._flush()

    def _flush(self) -> None:
        if not self._channel:
            return
        try:
            while self._waiting:
                self._channel.send(self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("the event process does not listen", extra=fields(error=str(error)))

    def close(self) -> None:
        """Ends the feed, which ends the process; waits for it, and kills it when it does not go."""
        self.tell({"op": "end", "id": 0})
        with self._lock:
            if self._channel:
                self._channel.close()
                self._channel = None
        if self._process:
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._listener.close()


def workload_message(record: Record) -> dict[str, Any]:
    identity = record.identity
    return {
        "op": "workload",
        "id": record.workload,
        "pod": {
            "namespace": identity.namespace,
            "name": identity.pod_name,
            "uid": identity.pod_uid,
            "labels": dict(identity.labels),
        },
        "container": {"id": identity.container_id, "name": identity.container_name, "image": identity.image},
    }


def policy_message(placed: PlacedPolicy) -> dict[str, Any]:
    policy = placed.policy
    rules = [
        {
            "function": f"__x64_sys_{kernel_name(hook.syscall)}",
            "args": [[arg.index, arg.type.value] for arg in hook.args],
            "actions": [action_names(selector.posts, selector.signals, SIGNAL_NAMES) for selector in hook.selectors],
        }
        for hook in policy.hooks
    ]
    return {"op": "policy", "id": placed.serial, "name": policy.name, "namespace": policy.namespace, "rules": rules}
