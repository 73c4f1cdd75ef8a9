# SPDX-License-Identifier: Apache-2.0
"""The plugin's side of the agent: binding, and telling an agent that came back what it has missed.

The agent is *in step* while the connection lives on which it was last told the whole set. Any other connection may
lead to a new agent that knows nothing, so the set is told again, with backoff, between the runtime's calls.

A runtime may never list its containers (see `expect_no_list`). Then the whole set is not known, and an agent that was
told it would forget the rest; so what is known is bound again, one container after the other.
"""

import logging
import time

from nri_plugin.backoff import Backoff
from nri_plugin.budget import ASSUMED_TIMEOUT_S, BIND, MIN_CALL_S
from nri_plugin.config import PluginConfig
from nri_plugin.decision import MAX_REASON
from nri_plugin.known import KnownContainers
from nri_plugin.synchronize import Inventory
from rthook.api import hook_pb2
from rthook.client import AgentClient
from rthook.errors import AgentRefused, AgentUnreachable, HookError
from rthook.process import is_alive

log = logging.getLogger("podgate.nri")

# Of what the agent refuses in one Synchronize, how many are logged: a broken node would flood the log.
MAX_REFUSALS_LOGGED = 20


class AgentLink:
    """Calls the agent and keeps it in step with the containers that the runtime has told."""

    def __init__(self, config: PluginConfig) -> None:
        self._client = AgentClient(config.agent_socket, ASSUMED_TIMEOUT_S * BIND)
        self._known = KnownContainers()
        # Containers that exist but cannot be told: the agent must not take them for gone.
        self._keep: set[str] = set()
        self._backoff = Backoff(config.backoff_first_s, config.backoff_cap_s)
        self._synchronized_connect = 0
        self._refusing_connect = 0
        self._expects_list = True
        # Which containers were bound on which connection.
        self._bound: set[str] = set()
        self._bound_connect = 0
        self._outage = False

    def fileno(self) -> int:
        """The connection's descriptor, -1 without one. When it is readable between calls, call `lost`."""
        return self._client.fileno()

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()

    def lost(self) -> None:
        """The connection ended while idle: the agent stopped, or restarts."""
        self._client.close()
        self._report_outage("the connection ended")

    def has_room(self, container: hook_pb2.Container) -> bool:
        """Whether it can be kept besides those that are."""
        return self._known.has_room(container)

    def bind(
        self, container: hook_pb2.Container, deadline_s: float
    ) -> hook_pb2.BindResponse | AgentRefused | AgentUnreachable:
        """The agent's answer, or the error as a value: what it leads to is for the caller's failure rule."""
        try:
            response = self._client.bind(container, deadline_s)
        except AgentRefused as error:
            return error
        except AgentUnreachable as error:
            self._failed(str(error))
            return error
        if not self.in_step:
            self._backoff.reset()
        self._note_bound(container.id)
        return response

    def started(self, container: hook_pb2.Container) -> None:
        """Remember a container whose start was allowed, if there is room."""
        if self._known.has_room(container):
            self._known.add_started(container)

    def remove(self, container_id: str, deadline_s: float) -> None:
        """Forget a container here and at the agent; an agent out of step is told by the next synchronize instead."""
        self._known.remove(container_id)
        self._keep.discard(container_id)
        self._bound.discard(container_id)
        if self.in_step:
            try:
                self._client.unbind(container_id, deadline_s)
            except AgentRefused as error:
                log.warning("unbind_refused", extra={"fields": {"container_id": container_id, "reason": str(error)}})
            except AgentUnreachable as error:
                self._failed(str(error))

    def report(self, request: hook_pb2.ReportRequest, deadline_s: float) -> bool:
        """Tell the agent how the calls fare; False when it did not take it."""
        try:
            self._client.report(request, deadline_s)
        except AgentRefused as error:
            self._refusing_connect = self._client.connects
            log.warning("report_refused", extra={"fields": {"reason": str(error)[:MAX_REASON]}})
            return False
        except AgentUnreachable as error:
            self._failed(str(error))
            return False
        return True

    @property
    def takes_reports(self) -> bool:
        """Whether an agent is connected and in step, and has not refused a report: it would refuse the next too."""
        return self.in_step and self._client.connects != self._refusing_connect

    def replace(self, inventory: Inventory, deadline_s: float) -> str:
        """Take the runtime's whole list and tell it the agent, within the runtime's Synchronize call.

        Empty, or why the agent could not be told.
        """
        for rejection in inventory.rejected[:MAX_REFUSALS_LOGGED]:
            _warn_unbound(rejection.subject.container_id, rejection.reason)
        self._keep = {rejection.subject.container_id for rejection in inventory.rejected} - {""}
        self._known.replace(inventory.containers)
        return self._synchronize(deadline_s)

    def resync_left(self, now: float) -> float | None:
        """Seconds from `now` until `resync` is due; None when there is nothing to tell."""
        if self.in_step or not (self._known.complete or self._has_to_bind_again):
            return None
        return self._backoff.left(now)

    def resync(self, deadline_s: float) -> None:
        """Tell the agent all known containers, or as many as the time allows; what is left or fails is tried again."""
        if self._known.complete:
            self._synchronize(deadline_s)
        else:
            self._bind_again(time.monotonic() + deadline_s)

    def expect_no_list(self) -> None:
        """The runtime will not list its containers: NRI 0.6 does not, for a plugin that it has started."""
        self._expects_list = False

    @property
    def _has_to_bind_again(self) -> bool:
        return not self._expects_list and bool(self._known.containers)

    def _bind_again(self, deadline: float) -> None:
        """One after the other until `deadline`; all over on another connection, which may lead to another agent."""
        while (left := deadline - time.monotonic()) > 0:
            container = self._find_unbound()
            if container is None:
                self._all_bound()
                return
            result = self.bind(container, left)
            if isinstance(result, AgentUnreachable):
                return
            if isinstance(result, AgentRefused):
                _warn_unbound(container.id, str(result))
                self._note_bound(container.id)

    def _find_unbound(self) -> hook_pb2.Container | None:
        """One that lives and was not bound on this connection."""
        connected = self._client.fileno() >= 0 and self._client.connects == self._bound_connect
        bound = self._bound if connected else set()
        left = (container for container in self._known.containers if container.id not in bound)
        return next((container for container in left if _may_live(container.pid)), None)

    def _note_bound(self, container_id: str) -> None:
        if self._bound_connect != self._client.connects:
            self._bound_connect = self._client.connects
            self._bound.clear()
        self._bound.add(container_id)

    def _all_bound(self) -> None:
        """Without a connection there was nothing to bind, and there may be later."""
        if self._client.fileno() < 0:
            self._backoff.failed(time.monotonic())
            return
        self._synchronized_connect = self._client.connects
        self._backoff.reset()
        self._outage = False
        log.info("agent_bound_again", extra={"fields": {"known": len(self._known.containers)}})

    @property
    def in_step(self) -> bool:
        """Whether the agent that is connected knows what we know."""
        return self._client.fileno() >= 0 and self._client.connects == self._synchronized_connect

    @property
    def connects(self) -> int:
        """Changes when the agent may be another one."""
        return self._client.connects

    def _synchronize(self, deadline_s: float) -> str:
        """Those whose init process has ended are not told: the agent could only refuse them. What it has stays."""
        began = time.monotonic()
        alive = [container for container in self._known.containers if _may_live(container.pid)]
        keep = self._keep | ({container.id for container in self._known.containers} - {c.id for c in alive})
        left = max(MIN_CALL_S, deadline_s - (time.monotonic() - began))
        try:
            response = self._client.synchronize(alive, left, keep=keep)
        except (AgentUnreachable, AgentRefused) as error:
            # A refusal comes on a live connection: it must not count as in step.
            self._client.close()
            self._failed(str(error))
            return str(error)
        self._synchronized_connect = self._client.connects
        self._backoff.reset()
        self._outage = False
        self._report_synchronized(response)
        return ""

    def _report_synchronized(self, response: hook_pb2.SynchronizeResponse) -> None:
        for refusal in response.refused[:MAX_REFUSALS_LOGGED]:
            _warn_unbound(refusal.container_id, refusal.reason)
        counts = {"bound": response.bound, "forgotten": response.forgotten, "refused": len(response.refused)}
        log.info("agent_synchronized", extra={"fields": {"known": len(self._known.containers), **counts}})

    def _failed(self, reason: str) -> None:
        self._backoff.failed(time.monotonic())
        self._report_outage(reason)

    def _report_outage(self, reason: str) -> None:
        """Once per outage."""
        if not self._outage:
            self._outage = True
            log.error("agent_lost", extra={"fields": {"reason": reason[:MAX_REASON]}})


def _may_live(pid: int) -> bool:
    """False when the process has surely ended."""
    try:
        return is_alive(pid)
    except (HookError, OSError):
        return True


def _warn_unbound(container_id: str, reason: str) -> None:
    log.warning("not_bound", extra={"fields": {"container_id": container_id, "reason": reason[:MAX_REASON]}})
