# SPDX-License-Identifier: Apache-2.0
"""What the plugin is told at its start. Pure."""

from dataclasses import dataclass
from enum import Enum


class OnAgentDown(Enum):
    """What becomes of a container's start when the agent cannot be reached."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """Paths, names, and time limits in seconds.

    The runtime waits 2 s for an answer and then drops the plugin, so what can delay one answer must stay below that
    together: one piece of housekeeping under way when the request comes (`resync_s` or `unbind_s`), then `bind_s`.
    """

    nri_socket: str
    agent_socket: str
    name: str = "podgate"
    index: str = "10"
    on_agent_down: OnAgentDown = OnAgentDown.OPEN
    bind_s: float = 1.0
    # Within the runtime's own Synchronize call, when no other call can come.
    synchronize_s: float = 1.5
    # On our own account, when the agent has come back.
    resync_s: float = 0.8
    unbind_s: float = 0.5
    # The runtime answers RegisterPlugin, configures and synchronizes within 5 s or never.
    registration_s: float = 10.0
    # Connecting to the runtime, and sending one answer.
    io_s: float = 1.0
    backoff_first_s: float = 0.1
    backoff_cap_s: float = 0.5
