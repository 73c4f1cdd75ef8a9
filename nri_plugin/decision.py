# SPDX-License-Identifier: Apache-2.0
"""What is decided about one container's start, and how it is logged. Pure."""

from dataclasses import dataclass, field
from enum import Enum

from nri_plugin.config import OnAgentDown
from nri_plugin.containers import Subject
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.errors import AgentRefused, AgentUnreachable

# The text may be the agent's; the runtime shows it in the pod's events, which hold 1,024 characters.
MAX_REASON = 1024


class Outcome(Enum):
    """The four ways in which a start is answered."""

    BOUND = "bound"
    REFUSED = "refused"
    AGENT_DOWN_OPEN = "agent_down_open"
    AGENT_DOWN_CLOSED = "agent_down_closed"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one start. `code` is OK if the container may start, else that of the error answer."""

    subject: Subject
    outcome: Outcome
    code: Code = Code.OK
    reason: str = ""
    binding: hook_pb2.BindResponse = field(default_factory=hook_pb2.BindResponse)

    @property
    def starts(self) -> bool:
        """Whether the container may start."""
        return self.code is Code.OK

    def fields(self, hook_us: int) -> dict[str, object]:
        """The log line's fields; `hook_us` is the time from the request's last byte to the answer's, microseconds."""
        return {
            "container_id": self.subject.container_id,
            "pod": self.subject.pod,
            "namespace": self.subject.namespace,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "hook_us": hook_us,
            "bind_us": self.binding.bind_us,
            "cgroup_id": self.binding.cgroup_id,
            "workload_id": self.binding.workload_id,
            "policies": self.binding.policies,
        }


def refuse(subject: Subject, reason: str) -> Decision:
    """FAILED_PRECONDITION whatever the agent's own code: UNIMPLEMENTED would make the runtime ask again."""
    return Decision(subject, Outcome.REFUSED, Code.FAILED_PRECONDITION, reason[:MAX_REASON])


def decide(
    subject: Subject, result: hook_pb2.BindResponse | AgentRefused | AgentUnreachable, on_agent_down: OnAgentDown
) -> Decision:
    """What becomes of the start, by what came of the agent's bind."""
    if isinstance(result, hook_pb2.BindResponse):
        return Decision(subject, Outcome.BOUND, binding=result)
    if isinstance(result, AgentRefused):
        return refuse(subject, str(result))
    reason = str(result)[:MAX_REASON]
    if on_agent_down is OnAgentDown.CLOSED:
        return Decision(subject, Outcome.AGENT_DOWN_CLOSED, Code.UNAVAILABLE, reason)
    return Decision(subject, Outcome.AGENT_DOWN_OPEN, reason=f"started unguarded: {reason}"[:MAX_REASON])
