# SPDX-License-Identifier: Apache-2.0
"""How long the plugin may take for each thing, from how long the runtime waits. Pure.

The runtime drops a plugin that does not answer in time, and starts the container. So an answer is due well before that,
whatever the agent does: after `answer_s`, counted from the earliest moment at which the call can have come. One piece
of housekeeping may have been under way then; that piece, a call of the agent and the quarantine fit in together.
"""

from dataclasses import dataclass

# NRI's default (pkg/api/timeouts.go of containerd/nri), for runtimes that do not tell.
ASSUMED_TIMEOUT_S = 2.0
# Below this a bind would be given less than 50 ms, which a healthy agent on a busy node can need.
MIN_TIMEOUT_S = 0.125

# Shares of the runtime's patience.
ANSWER = 0.75
HOUSEKEEPING = 0.3
BIND = 0.4
SYNCHRONIZE = 0.42
REPORT = 0.1
# Of ANSWER, for what comes behind the agent's call: the quarantine, and sending.
RESERVE = 0.03
# The agent is asked even when the deadline is gone already: it needs a fraction of this.
MIN_CALL_S = 0.01


@dataclass(frozen=True, slots=True)
class Budget:
    """told_s: the runtime's patience as it says, 0 when it does not. All times in seconds."""

    told_s: float = 0.0

    @property
    def timeout_s(self) -> float:
        """What is reckoned with."""
        return max(self.told_s, MIN_TIMEOUT_S) if self.told_s else ASSUMED_TIMEOUT_S

    @property
    def is_short(self) -> bool:
        """Whether answers may come too late though everything works."""
        return 0 < self.told_s < MIN_TIMEOUT_S

    @property
    def answer_s(self) -> float:
        """Until the answer, at the latest."""
        return ANSWER * self.timeout_s

    @property
    def housekeeping_s(self) -> float:
        """For one piece of it: telling the agent all containers, or one that is gone."""
        return HOUSEKEEPING * self.timeout_s

    @property
    def report_s(self) -> float:
        """For telling the agent how the plugin fares."""
        return REPORT * self.timeout_s

    def bind_left(self, spent_s: float) -> float:
        """For binding one container, when the call may have come `spent_s` ago."""
        return self._left(BIND, spent_s)

    def synchronize_left(self, spent_s: float) -> float:
        """For telling all containers within the runtime's Synchronize, when that may have come `spent_s` ago."""
        return self._left(SYNCHRONIZE, spent_s)

    def _left(self, share: float, spent_s: float) -> float:
        left = (ANSWER - RESERVE) * self.timeout_s - spent_s
        return max(MIN_CALL_S, min(share * self.timeout_s, left))
