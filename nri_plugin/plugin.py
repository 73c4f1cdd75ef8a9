# SPDX-License-Identifier: Apache-2.0
"""The plugin's loop: one thread over the runtime's socket and the agent's.

Theory of operation
    A turn of the loop connects to the runtime if that is due, waits, and then serves what is ready. The runtime's
    calls come first; a chore only when none is waiting, one a turn, and each is short enough for a call that comes
    meanwhile to be answered in time.

    A start is answered only after the agent has bound the container, or the failure rule was applied. The deadline of
    an answer counts from the earliest moment at which the call can have come: when the loop last knew that none was
    waiting. Whatever the runtime breaks ends that connection alone: the loop reconnects with backoff, and the runtime
    then tells all containers anew. A plugin that the runtime has started ends with its connection.
"""

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Callable

from nri_plugin.backoff import Backoff
from nri_plugin.budget import Budget
from nri_plugin.config import PluginConfig
from nri_plugin.connection import RuntimeConnection
from nri_plugin.decision import MAX_REASON
from nri_plugin.service import Service
from nri_plugin.ttrpc import TtrpcError
from rthook.unixsocket import open_unix

log = logging.getLogger("podgate.nri")

# A wait that ends sooner than this found the request waiting already.
INSTANT_S = 0.001


class Plugin:
    """Runs until `stop`, or the end of the connection that it was started with; no other error ends it."""

    def __init__(self, config: PluginConfig) -> None:
        self._config = config
        self._service = Service(config)
        self._runtime: RuntimeConnection | None = None
        self._backoff = Backoff(config.backoff_first_s, config.backoff_cap_s)
        self._outage = False
        self._stopping = False
        # When the loop last saw that no call was waiting, monotonic.
        self._quiet_at = 0.0
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_sender.setblocking(False)

    def stop(self) -> None:
        """End `run` soon. May be called from a signal handler or another thread."""
        self._stopping = True
        # A full socket wakes the loop as well, and one that is closed has no loop any more.
        with contextlib.suppress(OSError):
            self._wake_sender.send(b"\0")

    def run(self) -> None:
        """Serve until the end, then close everything."""
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._close()

    def _close(self) -> None:
        if self._runtime is not None:
            self._runtime.sock.close()
            self._runtime = None
        self._service.agent.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _turn(self) -> None:
        if self._runtime is None and not self._backoff.left(time.monotonic()):
            self._guarded(self._connect)
        runtime = self._runtime
        began = time.monotonic()
        ready = self._wait()
        # First, so that a bind in this turn goes to the new agent at once.
        if self._service.agent.fileno() in ready:
            self._service.agent.lost()
        if runtime is not None and runtime.sock.fileno() in ready:
            since = self._find_earliest(runtime, began)
            self._guarded(lambda: self._serve(runtime, since))
        else:
            self._quiet_at = time.monotonic()
            self._tidy(runtime)

    def _find_earliest(self, runtime: RuntimeConnection, began: float) -> float:
        """The earliest time at which what is ready can have come; `began`: when the loop began to wait."""
        now = time.monotonic()
        return now if now - began > INSTANT_S else max(self._quiet_at, runtime.answered_at)

    def _tidy(self, runtime: RuntimeConnection | None) -> None:
        """No call is waiting: one thing that is due."""
        now = time.monotonic()
        if runtime is not None and not runtime.in_service:
            if now >= runtime.give_up_at:
                self._give_up(runtime)
        elif chore := self._service.find_chore(now):
            chore.run(Budget() if runtime is None else runtime.budget)

    def _give_up(self, runtime: RuntimeConnection) -> None:
        """Waiting for the rest of the registration; NRI 0.6 does not synchronize a plugin that it has started."""
        if self._config.preconnected is None or not runtime.events:
            self._drop("the runtime did not complete the registration")
            return
        reason = "this runtime does not list its containers to a plugin that it starts: those that ran are not bound"
        log.warning("not_synchronized", extra={"fields": {"reason": reason}})
        self._service.agent.expect_no_list()
        runtime.in_service = True
        self._enter_service(runtime)

    def _wait(self) -> set[int]:
        """The descriptors that are readable. A selector of its own each time: the agent's changes within calls."""
        descriptors = {self._wake_receiver.fileno(), self._service.agent.fileno()}
        if self._runtime is not None:
            descriptors.add(self._runtime.sock.fileno())
        with selectors.PollSelector() as selector:
            for descriptor in descriptors - {-1}:
                selector.register(descriptor, selectors.EVENT_READ)
            return {key.fd for key, _ in selector.select(self._wait_s())}

    def _wait_s(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        if self._runtime is None:
            return min(self._backoff.left(now), self._service.chore_left(now))
        if not self._runtime.in_service:
            return max(0.0, self._runtime.give_up_at - now)
        return self._service.chore_left(now)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do something with the runtime; what it breaks ends the connection, not the plugin."""
        try:
            step()
        except OSError as error:
            self._drop(error.strerror or str(error))
        except TtrpcError as error:
            self._drop(str(error))

    def _connect(self) -> None:
        sock = self._open()
        sock.settimeout(self._config.io_s)
        self._runtime = RuntimeConnection(sock, time.monotonic() + self._config.registration_s)
        sock.sendall(self._runtime.session.register(self._config.name, self._config.index))

    def _open(self) -> socket.socket:
        if self._config.preconnected is None:
            return open_unix(self._config.nri_socket, self._config.io_s)
        sock = socket.socket(fileno=self._config.preconnected)
        sock.set_inheritable(False)
        return sock

    def _drop(self, reason: str) -> None:
        """End the connection, if there is one, and try again later. Said once per outage."""
        if self._runtime is not None:
            self._runtime.sock.close()
            self._runtime = None
        self._backoff.failed(time.monotonic())
        if self._config.preconnected is not None:
            self._stopping = True
        if not self._outage:
            self._outage = True
            log.error("nri_lost", extra={"fields": {"socket": self._socket, "reason": reason[:MAX_REASON]}})

    @property
    def _socket(self) -> str:
        """For the log."""
        fd = self._config.preconnected
        return self._config.nri_socket if fd is None else f"descriptor {fd}"

    def _serve(self, runtime: RuntimeConnection, since: float) -> None:
        for call in runtime.receive(since):
            self._service.carry_out(runtime, call)
            if runtime.in_service and not runtime.announced:
                self._enter_service(runtime)

    def _enter_service(self, runtime: RuntimeConnection) -> None:
        runtime.announced = True
        self._outage = False
        self._backoff.reset()
        fields = {
            "socket": self._socket,
            "runtime": runtime.runtime.name,
            "version": runtime.runtime.version,
            "nri_version": runtime.runtime.nri_version,
            "events": f"{runtime.events:#x}",
            "request_timeout_ms": runtime.timeout_ms,
            "synchronized": runtime.synchronized,
            "adjusts": "nothing",
        }
        log.info("nri_ready", extra={"fields": fields})
