# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the event process: starts it, tells it names, starts it again when it ends.

Telling never waits: what the socket does not take at once is kept in order, bounded, and sent later; what had to be
dropped is counted, and its events say "unresolved". Restarted, the process is told everything anew.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.events.lookups import ALLOW_LOOKUPS
from agent.events.messages import rule_message, split_policy, workload_message
from agent.logs import fields
from agent.policy.placed import PlacedPolicy
from agent.workload.identity import WorkloadId
from agent.workload.registry import Record

MAX_WAITING = 65536  # messages of some 300 bytes
SEND_BUFFER = 4 << 20
MAX_COUNTERS = 64 << 10
MAX_MESSAGE = 400 << 10  # a socket takes 416 KiB at once with the default net.core.wmem_max
RESTART_DELAY_S = 1.0

log = logging.getLogger("podgate.events")


@dataclass(frozen=True, slots=True)
class Ring:
    """The descriptor of the map events; size in bytes of its data."""

    fd: int
    size: int


class Feed:
    """snapshot gives every message that a new process must hear. guarded: the pin directory where processes may be
    held, which the event process looks after. allow_lookups: GetUrl and DnsLookup are done. Thread-safe.
    """

    def __init__(
        self,
        ring: Ring,
        listener: socket.socket,
        snapshot: Callable[[], Iterable[dict[str, Any]]],
        guarded: Path | None = None,
        allow_lookups: bool = False,
    ) -> None:
        self._allow_lookups = allow_lookups
        self._guarded = guarded
        self._ring = ring
        self._listener = listener
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._earlier: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()
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
            self._earlier, self._counters = self._earlier + self._counters, Counter()
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
        command += [ALLOW_LOOKUPS] if self._allow_lookups else []
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
            self._hear()

    @property
    def counters(self) -> dict[str, int]:
        """What became of stacks and lookups (stacks_*, lookups_*), as `check` last heard it; over all restarts."""
        with self._lock:
            return dict(self._earlier + self._counters)

    def _hear(self) -> None:
        """The event process tells its counters whenever they have changed: {"op": "counters", "counters": {…}}."""
        while self._channel:
            try:
                data = self._channel.recv(MAX_COUNTERS)
                if not data:
                    return
                self._counters = _parse_counters(data)
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                log.warning("the event process cannot be understood", extra=fields(error=str(error)))
                return

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
        parts = [(part["op"], json.dumps(part).encode()) for part in split_policy(message)]
        with self._lock:
            for operation, data in parts:
                self._send(operation, data)

    def _send(self, operation: str, data: bytes) -> None:
        if len(data) > MAX_MESSAGE:
            self.dropped += 1
            log.error("a name is too long for the event process", extra=fields(op=operation, bytes=len(data)))
            return
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


def _parse_counters(data: bytes) -> Counter[str]:
    """Raises ValueError."""
    try:
        return Counter({str(name): int(count) for name, count in json.loads(data)["counters"].items()})
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a message of counters: {data[:100]!r}") from error


def policy_message(placed: PlacedPolicy) -> dict[str, Any]:
    """One rule for each resolved hook, in their order: an event names it by its place."""
    policy = placed.policy
    rules = [rule_message(hook, placed.value_ids) for hook in placed.hooks]
    return {"op": "policy", "id": placed.serial, "name": policy.name, "namespace": policy.namespace, "rules": rules}
