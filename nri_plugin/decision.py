# SPDX-License-Identifier: Apache-2.0
"""What is decided about one start, and how it is logged. Pure."""

from dataclasses import dataclass, field
from enum import Enum

from nri_plugin.containers import Subject
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.errors import AgentRefused, AgentUnreachable

# The text may be the agent's; the runtime shows it in the pod's events, which hold 1,024 characters.
MAX_REASON = 1024


class Outcome(Enum):
    """What became of a container: the agent bound it, or the failure rule decided."""

    BOUND = "bound"
    OPEN = "open"
    CLOSED = "closed"
    QUARANTINED = "quarantined"


class Cause(Enum):
    """Why the failure rule had to decide."""

    AGENT_DOWN = "agent_down"  # not there, hung, or too slow
    REFUSED = "refused"  # the agent's answer
    INVALID = "invalid"  # the runtime's message does not say what it must
    LIMIT = "limit"  # more containers than the plugin keeps


# FAILED_PRECONDITION whatever the agent's own code: UNIMPLEMENTED would make the runtime ask again.
_CODES = {
    Cause.AGENT_DOWN: Code.UNAVAILABLE,
    Cause.REFUSED: Code.FAILED_PRECONDITION,
    Cause.INVALID: Code.INVALID_ARGUMENT,
    Cause.LIMIT: Code.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a container was not bound."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one start. `code` is OK if the container may start, else that of the error answer."""

    subject: Subject
    outcome: Outcome
    cause: Cause | None = None
    reason: str = ""
    binding: hook_pb2.BindResponse = field(default_factory=hook_pb2.BindResponse)

    @property
    def starts(self) -> bool:
        """Whether the container may start."""
        return self.outcome is not Outcome.CLOSED

    @property
    def code(self) -> Code:
        """Of the answer."""
        return Code.OK if self.starts or self.cause is None else _CODES[self.cause]

    def fields(self, hook_us: int, timeout_us: int) -> dict[str, object]:
        """The log line's fields.

        hook_us: from the request's last byte to the answer's, microseconds. timeout_us: how long the runtime would have
        waited, 0 when it does not say.
        """
        return {
            "container_id": self.subject.container_id,
            "pod": self.subject.pod,
            "namespace": self.subject.namespace,
            "outcome": self.outcome.value,
            "cause": None if self.cause is None else self.cause.value,
            "reason": self.reason,
            "hook_us": hook_us,
            "headroom_us": timeout_us - hook_us if timeout_us else None,
            "bind_us": self.binding.bind_us,
            "cgroup_id": self.binding.cgroup_id,
            "workload_id": self.binding.workload_id,
            "policies": self.binding.policies,
        }


def classify(error: AgentRefused | AgentUnreachable) -> Failure:
    """The agent's error as the failure rule sees it."""
    cause = Cause.REFUSED if isinstance(error, AgentRefused) else Cause.AGENT_DOWN
    return Failure(cause, str(error))


def admit(subject: Subject, binding: hook_pb2.BindResponse) -> Decision:
    """The agent has bound it."""
    return Decision(subject, Outcome.BOUND, binding=binding)


def open_unguarded(subject: Subject, failure: Failure) -> Decision:
    """It starts, and no policy is in force for it."""
    return Decision(subject, Outcome.OPEN, failure.cause, f"started unguarded: {failure.reason}"[:MAX_REASON])


def close(subject: Subject, failure: Failure) -> Decision:
    """It does not start."""
    return Decision(subject, Outcome.CLOSED, failure.cause, failure.reason[:MAX_REASON])


def quarantine(subject: Subject, failure: Failure, cgroup_id: int) -> Decision:
    """It starts, and every policy is in force for it."""
    reason = f"started in quarantine: {failure.reason}"[:MAX_REASON]
    return Decision(subject, Outcome.QUARANTINED, failure.cause, reason, hook_pb2.BindResponse(cgroup_id=cgroup_id))
