# SPDX-License-Identifier: Apache-2.0
"""The faults, by name: how each begins and ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.faults.site import Door, Site

# Longer than the OCI hook waits for an agent that hangs.
HANG_S = 3.0
AWAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """end: returns when what was wrong is put right; does not wait until it works again.

    lasts_s: at least. doors: at which it can happen. unannounced: nobody announces containers while it lasts, so what
    the kernel does with those is what guards. leaves: an earlier agent's rules are left at the end. runtime_away: the
    runtime does not answer meanwhile.
    """

    name: str
    begin: Callable[[Site], None]
    end: Callable[[Site], None]
    lasts_s: float = AWAY_S
    doors: frozenset[Door] = frozenset(Door)
    unannounced: bool = False
    leaves: bool = False
    runtime_away: bool = False


def _nothing(_site: Site) -> None:
    """What began has ended by itself."""


def _restart_agent(site: Site) -> None:
    site.guard.stop_agent()
    site.guard.start_agent()


NRI_ALONE = frozenset({Door.NRI})
# Those that leave nothing behind come first: the agent is not started anew between them.
FAULTS = (
    Fault("agent_stopped", lambda site: site.guard.freeze_agent(), lambda site: site.guard.calm_agent(), HANG_S),
    Fault("agent_slow", lambda site: site.guard.disturb_agent(), lambda site: site.guard.calm_agent(), HANG_S),
    Fault("disk_full", lambda site: site.disk.fill(), lambda site: site.disk.free()),
    Fault("socket_removed", lambda site: site.guard.paths.socket.unlink(), _restart_agent),
    Fault("agent_restarted", lambda site: site.guard.stop_agent(), lambda site: site.guard.start_agent(), 0.0),
    Fault("agent_killed", lambda site: site.guard.kill_agent(), lambda site: site.guard.start_agent(), leaves=True),
    Fault(
        "plugin_killed",
        lambda site: site.guard.kill_plugin(),
        lambda site: site.guard.start_plugin(),
        doors=NRI_ALONE,
        unannounced=True,
    ),
    Fault(
        "containerd_restarted",
        lambda site: site.node.restart(),
        _nothing,
        0.0,
        NRI_ALONE,
        unannounced=True,
        runtime_away=True,
    ),
)
