# SPDX-License-Identifier: Apache-2.0
"""The plugin's side of the agent: binding, and telling an agent that came back what it has missed.

The agent is *in step* while the connection lives on which it was last told the whole set. Any other connection may
lead to a new agent that knows nothing, so the set is told again, with backoff, between the runtime's calls.
"""

import logging
import time

from nri_plugin.backoff import Backoff
from nri_plugin.config import PluginConfig
from nri_plugin.decision import MAX_REASON
from nri_plugin.known import KnownContainers
from nri_plugin.synchronize import Inventory
from rthook.api import hook_pb2
from rthook.client import AgentClient
from rthook.errors import AgentRefused, AgentUnreachable

log = logging.getLogger("podgate.nri")

# Of what the agent refuses in one Synchronize, how many are logged: a broken node would flood the log.
MAX_REFUSALS_LOGGED = 20


class AgentLink:
    """Calls the agent and keeps it in step with the containers that the runtime has told."""

    def __init__(self, config: PluginConfig) -> None:
        self._config = config
        self._client = AgentClient(config.agent_socket, config.bind_s)
        self._known = KnownContainers()
        # Containers that exist but cannot be told: the agent must not take them for gone.
        self._keep: set[str] = set()
        self._backoff = Backoff(config.backoff_first_s, config.backoff_cap_s)
        self._synchronized_connect = 0
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

    def has_room(self, container_id: str) -> bool:
        """Whether one more container can be kept."""
        return self._known.has_room(container_id)

    def bind(self, container: hook_pb2.Container) -> hook_pb2.BindResponse | AgentRefused | AgentUnreachable:
        """The agent's answer, or the error as a value: what it leads to is for the caller's failure rule."""
        try:
            response = self._client.bind(container)
        except AgentRefused as error:
            return error
        except AgentUnreachable as error:
            self._failed(str(error))
            return error
        if not self._in_step:
            self._backoff.reset()
        return response

    def started(self, container: hook_pb2.Container) -> None:
        """Remember a container whose start was allowed."""
        self._known.add_started(container)

    def remove(self, container_id: str) -> None:
        """Forget a container here and at the agent; an agent out of step is told by the next synchronize instead."""
        self._known.remove(container_id)
        self._keep.discard(container_id)
        if self._in_step:
            try:
                self._client.unbind(container_id, self._config.unbind_s)
            except AgentRefused as error:
                log.warning("unbind_refused", extra={"fields": {"container_id": container_id, "reason": str(error)}})
            except AgentUnreachable as error:
                self._failed(str(error))

    def replace(self, inventory: Inventory) -> None:
        """Take the runtime's whole list and tell it the agent, within the runtime's Synchronize call."""
        for rejection in inventory.rejected[:MAX_REFUSALS_LOGGED]:
            _warn_unbound(rejection.subject.container_id, rejection.reason)
        self._keep = {rejection.subject.container_id for rejection in inventory.rejected} - {""}
        self._known.replace(inventory.containers)
        self._synchronize(self._config.synchronize_s)

    def resync_left(self) -> float | None:
        """Seconds until `resync` is due; None when there is nothing to tell."""
        if self._in_step or not self._known.complete:
            return None
        return self._backoff.left(time.monotonic())

    def resync(self) -> None:
        """Tell the agent all known containers; a failure is tried again later."""
        self._synchronize(self._config.resync_s)

    @property
    def _in_step(self) -> bool:
        return self._client.fileno() >= 0 and self._client.connects == self._synchronized_connect

    def _synchronize(self, deadline_s: float) -> None:
        try:
            response = self._client.synchronize(self._known.containers, deadline_s, keep=self._keep)
        except (AgentUnreachable, AgentRefused) as error:
            # A refusal comes on a live connection: it must not count as in step.
            self._client.close()
            self._failed(str(error))
            return
        self._synchronized_connect = self._client.connects
        self._backoff.reset()
        self._outage = False
        self._report_synchronized(response)

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


def _warn_unbound(container_id: str, reason: str) -> None:
    log.warning("not_bound", extra={"fields": {"container_id": container_id, "reason": reason[:MAX_REASON]}})
