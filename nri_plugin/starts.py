# SPDX-License-Identifier: Apache-2.0
"""Deciding about a start: the agent binds the container, or else the failure rule of its namespace is applied."""

from pathlib import Path

from nri_plugin.agent_link import AgentLink
from nri_plugin.containers import Rejection, Subject
from nri_plugin.decision import Cause, Decision, Failure, admit, classify, close, open_unguarded, quarantine
from nri_plugin.rules import RuleFile
from nri_plugin.synchronize import MAX_CONTAINERS, MAX_SANDBOXES
from rthook.api import hook_pb2
from rthook.errors import HookError
from rthook.failure import Treatment
from rthook.process import find_cgroup_id
from rthook.quarantine import put_in_quarantine


class Starts:
    """Decides within the seconds that a caller gives for the agent's part; the rest is a few system calls."""

    def __init__(self, agent: AgentLink, rules: RuleFile, pin_dir: Path) -> None:
        self._agent = agent
        self._rules = rules
        self._pin_dir = pin_dir

    def decide(self, subject: Subject, container: hook_pb2.Container, deadline_s: float) -> Decision:
        """A container's start. One that is allowed is told to the agent whenever that comes back."""
        result = self._bind(container, deadline_s)
        if isinstance(result, Failure):
            decision = self._apply_rule(subject, result, container)
        else:
            decision = admit(subject, result)
        if decision.starts:
            self._agent.started(container)
        return decision

    def decide_unreadable(self, rejection: Rejection) -> Decision:
        """A start whose message does not say what it must."""
        return self._apply_rule(rejection.subject, Failure(Cause.INVALID, rejection.reason), None)

    def decide_sandbox(self, subject: Subject, sandbox: hook_pb2.Container | Rejection, deadline_s: float) -> Decision:
        """A pod's sandbox, which runs already: it is never kept from going on."""
        if isinstance(sandbox, Rejection):
            return open_unguarded(subject, Failure(Cause.INVALID, sandbox.reason))
        result = self._bind(sandbox, deadline_s)
        self._agent.started(sandbox)
        return open_unguarded(subject, result) if isinstance(result, Failure) else admit(subject, result)

    def _bind(self, container: hook_pb2.Container, deadline_s: float) -> hook_pb2.BindResponse | Failure:
        if not self._agent.has_room(container):
            return Failure(Cause.LIMIT, f"more than {MAX_CONTAINERS} containers or {MAX_SANDBOXES} sandboxes are known")
        result = self._agent.bind(container, deadline_s)
        return result if isinstance(result, hook_pb2.BindResponse) else classify(result)

    def _apply_rule(self, subject: Subject, failure: Failure, container: hook_pb2.Container | None) -> Decision:
        treatment = self._rules.refresh().treatment(subject.namespace or None)
        if treatment is Treatment.OPEN:
            return open_unguarded(subject, failure)
        if treatment is Treatment.QUARANTINE:
            return self._quarantine(subject, failure, container)
        return close(subject, failure)

    def _quarantine(self, subject: Subject, failure: Failure, container: hook_pb2.Container | None) -> Decision:
        """Without a quarantine that holds in every generation the container does not start."""
        try:
            if container is None:
                return close(subject, Failure(failure.cause, f"{failure.reason}; no process is named to quarantine"))
            cgroup_id = find_cgroup_id(container.pid, container.cgroups_path)
            put_in_quarantine(self._pin_dir, cgroup_id, container.pid)
        except (HookError, OSError) as error:
            return close(subject, Failure(failure.cause, f"{failure.reason}; not quarantined: {error}"))
        return quarantine(subject, failure, cgroup_id)
