# SPDX-License-Identifier: Apache-2.0
"""The plugin's loop: one thread over the runtime's socket and the agent's.

Theory of operation
    A turn of the loop connects to the runtime if that is due, waits, and then serves what is ready. The runtime's
    calls come first; housekeeping (telling a restarted agent what it has missed) only when none is waiting, and each
    piece of it is short enough for a call that comes meanwhile to be answered within the runtime's 2 s.

    A start is answered only after the agent has bound the container. Whatever the runtime breaks ends that connection
    alone: the loop reconnects with backoff, and the runtime then tells all containers anew.
"""

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nri_plugin.agent_link import AgentLink
from nri_plugin.backoff import Backoff
from nri_plugin.config import PluginConfig
from nri_plugin.decision import MAX_REASON, Decision, Outcome, decide, refuse
from nri_plugin.handlers import Answer, Bind, Refuse, Synchronize, Unbind, handle
from nri_plugin.session import NriSession
from nri_plugin.synchronize import MAX_CONTAINERS, SynchronizeParts
from nri_plugin.ttrpc import Code, Request, TtrpcError
from rthook.unixsocket import open_unix

log = logging.getLogger("podgate.nri")

RECEIVE_SIZE = 256 << 10

_LEVELS = {
    Outcome.BOUND: logging.INFO,
    Outcome.REFUSED: logging.WARNING,
    Outcome.AGENT_DOWN_OPEN: logging.ERROR,
    Outcome.AGENT_DOWN_CLOSED: logging.ERROR,
}


@dataclass(slots=True)
class _Runtime:
    """One connection to the runtime. It is in service once the runtime has told its containers."""

    sock: socket.socket
    give_up_at: float
    session: NriSession = field(default_factory=NriSession)
    parts: SynchronizeParts = field(default_factory=SynchronizeParts)
    in_service: bool = False


class Plugin:
    """Runs until `stop`; no error of the runtime or the agent ends it."""

    def __init__(self, config: PluginConfig) -> None:
        self._config = config
        self._agent = AgentLink(config)
        self._runtime: _Runtime | None = None
        self._backoff = Backoff(config.backoff_first_s, config.backoff_cap_s)
        self._outage = False
        self._stopping = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_sender.setblocking(False)

    def stop(self) -> None:
        """End `run` soon. May be called from a signal handler or another thread."""
        self._stopping = True
        # A full socket wakes the loop as well.
        with contextlib.suppress(BlockingIOError):
            self._wake_sender.send(b"\0")

    def run(self) -> None:
        """Serve until `stop`, then close everything."""
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._close()

    def _close(self) -> None:
        if self._runtime is not None:
            self._runtime.sock.close()
            self._runtime = None
        self._agent.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _turn(self) -> None:
        if self._runtime is None and not self._backoff.left(time.monotonic()):
            self._guarded(self._connect)
        runtime = self._runtime
        ready = self._wait()
        # First, so that a bind in this turn goes to the new agent at once.
        if self._agent.fileno() in ready:
            self._agent.lost()
        if runtime is not None and runtime.sock.fileno() in ready:
            self._guarded(lambda: self._serve(runtime))
        elif runtime is not None and not runtime.in_service and time.monotonic() >= runtime.give_up_at:
            self._drop("the runtime did not complete the registration")
        elif self._agent.resync_left() == 0:
            self._agent.resync()

    def _wait(self) -> set[int]:
        """The descriptors that are readable. A selector of its own each time: the agent's changes within calls."""
        descriptors = {self._wake_receiver.fileno(), self._agent.fileno()}
        if self._runtime is not None:
            descriptors.add(self._runtime.sock.fileno())
        with selectors.PollSelector() as selector:
            for descriptor in descriptors - {-1}:
                selector.register(descriptor, selectors.EVENT_READ)
            return {key.fd for key, _ in selector.select(self._wait_s())}

    def _wait_s(self) -> float | None:
        """Seconds until something is due, None for never."""
        now = time.monotonic()
        dues = [self._agent.resync_left()]
        if self._runtime is None:
            dues.append(self._backoff.left(now))
        elif not self._runtime.in_service:
            dues.append(max(0.0, self._runtime.give_up_at - now))
        return min((due for due in dues if due is not None), default=None)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do something with the runtime; what it breaks ends the connection, not the plugin."""
        try:
            step()
        except OSError as error:
            self._drop(error.strerror or str(error))
        except TtrpcError as error:
            self._drop(str(error))

    def _connect(self) -> None:
        sock = open_unix(self._config.nri_socket, self._config.io_s)
        sock.settimeout(self._config.io_s)
        self._runtime = _Runtime(sock, time.monotonic() + self._config.registration_s)
        sock.sendall(self._runtime.session.register(self._config.name, self._config.index))

    def _drop(self, reason: str) -> None:
        """End the connection, if there is one, and try again later. Said once per outage."""
        if self._runtime is not None:
            self._runtime.sock.close()
            self._runtime = None
        self._backoff.failed(time.monotonic())
        if not self._outage:
            self._outage = True
            fields = {"socket": self._config.nri_socket, "reason": reason[:MAX_REASON]}
            log.error("nri_lost", extra={"fields": fields})

    def _entered_service(self, runtime: _Runtime) -> None:
        if not runtime.in_service:
            runtime.in_service = True
            self._outage = False
            self._backoff.reset()
            log.info("nri_ready", extra={"fields": {"socket": self._config.nri_socket}})

    def _serve(self, runtime: _Runtime) -> None:
        data = runtime.sock.recv(RECEIVE_SIZE)
        arrived = time.monotonic()
        if not data:
            raise ConnectionResetError("the runtime closed the connection")
        requests = runtime.session.receive_data(data)
        if refusals := runtime.session.data_to_send():
            runtime.sock.sendall(refusals)
        for request in requests:
            self._carry_out(runtime, request, arrived)

    def _carry_out(self, runtime: _Runtime, request: Request, arrived: float) -> None:
        match handle(request, runtime.parts):
            case Answer(payload):
                self._answer(runtime, request, payload)
            case Bind() as bind:
                self._settle(runtime, request, self._decide(bind), arrived)
            case Refuse(code, reason, None):
                log.warning("request_refused", extra={"fields": {"method": request.method[:64], "reason": reason}})
                self._answer_error(runtime, request, code, reason)
            case Refuse(_, reason, subject) if subject is not None:
                self._settle(runtime, request, refuse(subject, reason), arrived)
            case Unbind(container_id):
                self._answer(runtime, request, b"")
                self._agent.remove(container_id)
            case Synchronize(inventory):
                self._agent.replace(inventory)
                self._answer(runtime, request, b"")
                self._entered_service(runtime)

    def _answer(self, runtime: _Runtime, request: Request, payload: bytes) -> None:
        runtime.sock.sendall(runtime.session.respond(request.stream_id, payload))

    def _answer_error(self, runtime: _Runtime, request: Request, code: Code, reason: str) -> None:
        answer = runtime.session.respond_error(request.stream_id, code, f"podgate: {reason}"[:MAX_REASON])
        runtime.sock.sendall(answer)

    def _decide(self, bind: Bind) -> Decision:
        if not self._agent.has_room(bind.container.id):
            return refuse(bind.subject, f"more than {MAX_CONTAINERS} containers are known")
        decision = decide(bind.subject, self._agent.bind(bind.container), self._config.on_agent_down)
        if decision.starts:
            self._agent.started(bind.container)
        return decision

    def _settle(self, runtime: _Runtime, request: Request, decision: Decision, arrived: float) -> None:
        """Answer a start, then log the decision, also when the runtime has given up waiting for it."""
        try:
            if decision.starts:
                self._answer(runtime, request, b"")
            else:
                self._answer_error(runtime, request, decision.code, decision.reason)
        finally:
            _log_decision(decision, int((time.monotonic() - arrived) * 1e6))


def _log_decision(decision: Decision, hook_us: int) -> None:
    log.log(_LEVELS[decision.outcome], "start_container", extra={"fields": decision.fields(hook_us)})
