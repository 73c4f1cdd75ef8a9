# SPDX-License-Identifier: Apache-2.0
"""One connection to the runtime: its socket, its session, and what the runtime has said on it."""

import math
import socket
import time
from dataclasses import dataclass, field

from nri_plugin.budget import Budget
from nri_plugin.decision import MAX_REASON
from nri_plugin.runtime_info import RuntimeInfo
from nri_plugin.session import NriSession
from nri_plugin.synchronize import SynchronizeParts
from nri_plugin.ttrpc import Code, Request

RECEIVE_SIZE = 256 << 10


@dataclass(frozen=True, slots=True)
class Call:
    """One request. arrived: when it was read; since: the earliest time at which it can have come; both monotonic.

    timeout_ms: how long the runtime waits, 0 when it does not say.
    """

    request: Request
    arrived: float
    since: float
    timeout_ms: int

    @property
    def budget(self) -> Budget:
        """For this call: the request's own time limit is what is left of the runtime's, when it has one."""
        limits = [limit for limit in (self.request.timeout_ns / 1e9, self.timeout_ms / 1e3) if limit > 0]
        return Budget(min(limits, default=0.0))

    @property
    def spent_s(self) -> float:
        """Since the earliest time at which it can have come."""
        return time.monotonic() - self.since


@dataclass(slots=True)
class RuntimeConnection:
    """It is in service once the runtime has told its containers. answered_at: when the last answer was sent."""

    sock: socket.socket
    give_up_at: float
    session: NriSession = field(default_factory=NriSession)
    parts: SynchronizeParts = field(default_factory=SynchronizeParts)
    runtime: RuntimeInfo = field(default_factory=RuntimeInfo)
    timeout_ms: int = 0
    events: int = 0
    in_service: bool = False
    synchronized: bool = False
    announced: bool = False
    said_no_process: bool = False
    answered_at: float = 0.0

    @property
    def budget(self) -> Budget:
        """For what is done between calls."""
        return Budget(self.timeout_ms / 1e3)

    def configure(self, runtime: RuntimeInfo, events: int, request: Request, list_s: float) -> None:
        """containerd 1.7 does not tell its time limit in Configure, but it is that request's own, rounded up.

        list_s: how long its list is waited for at least.
        """
        self.runtime = runtime
        self.events = events
        self.timeout_ms = runtime.request_timeout_ms or math.ceil(request.timeout_ns / 1e6)
        self.give_up_at = time.monotonic() + max(list_s, runtime.registration_timeout_ms / 1e3)

    def receive(self, since: float) -> list[Call]:
        """Read once. OSError when the runtime is gone, TtrpcError for what breaks the protocol."""
        data = self.sock.recv(RECEIVE_SIZE)
        arrived = time.monotonic()
        if not data:
            raise ConnectionResetError("the runtime closed the connection")
        requests = self.session.receive_data(data)
        if refusals := self.session.data_to_send():
            self.sock.sendall(refusals)
        return [Call(request, arrived, min(since, arrived), self.timeout_ms) for request in requests]

    def answer(self, request: Request, payload: bytes = b"") -> None:
        self.sock.sendall(self.session.respond(request.stream_id, payload))
        self.answered_at = time.monotonic()

    def answer_error(self, request: Request, code: Code, reason: str) -> None:
        """The runtime shows the reason to whoever wanted the container."""
        answer = self.session.respond_error(request.stream_id, code, f"podgate: {reason}"[:MAX_REASON])
        self.sock.sendall(answer)
        self.answered_at = time.monotonic()
