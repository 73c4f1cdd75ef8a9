# SPDX-License-Identifier: Apache-2.0
"""The Control service: what the command line asks. The only file that touches both the policies and their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError, Message

from agent.api import control_pb2
from agent.hooks.calls import Answer, CallError
from agent.hooks.peer import Peer
from agent.policies import Change, Entry, NoSuchPolicy, Outcome, PolicyRejected, PolicyStore
from agent.policy.errors import PolicyErrors
from agent.policy.model import PolicyKey, PolicyMode
from agent.policy.plan import str_point
from nri_plugin.ttrpc import Code

SERVICE = "podgate.control.v1.Control"
MAX_FILE_NAME = 4096


class ControlEndpoint:
    """containers: how many a policy selects. notes: what is not enforced here. status: fills GetStatusResponse."""

    def __init__(
        self,
        store: PolicyStore,
        containers: Callable[[Entry], int],
        notes: tuple[str, ...],
        status: Callable[[], control_pb2.GetStatusResponse],
    ) -> None:
        self._store = store
        self._containers = containers
        self._notes = notes
        self._status = status
        self._methods: dict[str, Callable[[bytes], Message]] = {
            "AddPolicies": self._add,
            "DeletePolicy": self._delete,
            "SetPolicyMode": self._set_mode,
            "ListPolicies": lambda _: control_pb2.ListPoliciesResponse(
                policies=map(self._policy, self._store.entries())
            ),
            "GetStatus": lambda _: self._status(),
        }

    def call(self, method: str, payload: bytes, _: Peer) -> Answer:
        """Raises CallError: INVALID_ARGUMENT for a policy's faults, FAILED_PRECONDITION for what the kernel refused,
        NOT_FOUND.
        """
        handler = self._methods.get(method)
        if handler is None:
            raise CallError(Code.UNIMPLEMENTED, f"no method {method} in {SERVICE}")
        try:
            return Answer(handler(payload).SerializeToString())
        except (DecodeError, PolicyErrors) as error:
            raise CallError(Code.INVALID_ARGUMENT, str(error)) from error
        except PolicyRejected as error:
            raise CallError(Code.FAILED_PRECONDITION, str(error)) from error
        except NoSuchPolicy as error:
            raise CallError(Code.NOT_FOUND, str(error)) from error

    def _add(self, payload: bytes) -> control_pb2.AddPoliciesResponse:
        request = control_pb2.AddPoliciesRequest.FromString(payload)
        mode = _mode(request.mode) if request.mode else None
        outcomes = self._store.add_text(request.text, request.file[:MAX_FILE_NAME] or "<input>", mode)
        return control_pb2.AddPoliciesResponse(policies=map(self._outcome, outcomes))

    def _delete(self, payload: bytes) -> control_pb2.DeletePolicyResponse:
        request = control_pb2.DeletePolicyRequest.FromString(payload)
        outcome = self._store.delete(PolicyKey(request.namespace or None, request.name))
        return control_pb2.DeletePolicyResponse(policy=self._outcome(outcome))

    def _set_mode(self, payload: bytes) -> control_pb2.SetPolicyModeResponse:
        request = control_pb2.SetPolicyModeRequest.FromString(payload)
        key = PolicyKey(request.namespace or None, request.name)
        outcome = self._store.set_mode(key, _mode(request.mode))
        return control_pb2.SetPolicyModeResponse(policy=self._outcome(outcome))

    def _outcome(self, outcome: Outcome) -> control_pb2.PolicyStatus:
        status = self._policy(outcome.entry)
        status.change = outcome.change.value
        status.milliseconds = outcome.milliseconds
        if outcome.change is Change.DELETED:
            status.state, status.containers = "deleted", 0
        return status

    def _policy(self, entry: Entry) -> control_pb2.PolicyStatus:
        policy = entry.policy
        return control_pb2.PolicyStatus(
            name=policy.name,
            namespace=policy.namespace or "",
            kind=policy.kind.value,
            state=entry.state.value,
            error=entry.error,
            hooks=_hooks(entry),
            containers=self._containers(entry) if entry.placed else 0,
            notes=self._notes if entry.placed else (),
            source=str(policy.source),
            mode=self._store.mode(entry).value,
            actions=self._store.counts(entry),
            selectors=self._selectors(entry),
            id=entry.placed.serial if entry.placed else 0,
        )

    def _selectors(self, entry: Entry) -> Iterator[control_pb2.SelectorStatus]:
        for (rule, selector, at_return), actions in sorted(self._store.selector_counts(entry).items()):
            hook = entry.placed.hooks[rule] if entry.placed else None
            if hook:
                yield control_pb2.SelectorStatus(
                    function=str_point(hook.point),
                    selector=selector,
                    label=hook.hook.selectors[selector].label,
                    at_return=at_return,
                    actions=actions,
                )


def _mode(text: str) -> PolicyMode:
    """Raises CallError."""
    try:
        return PolicyMode(text)
    except ValueError as error:
        raise CallError(Code.INVALID_ARGUMENT, f"no mode {text[:64]!r}: enforce or monitor") from error


def _hooks(entry: Entry) -> list[str]:
    """Where it hooks; of a policy that is not in force what it says."""
    if entry.placed:
        return sorted({str_point(hook.point) for hook in entry.placed.hooks})
    return sorted({call for hook in entry.policy.hooks for call in (hook.calls or (hook.call,))})
