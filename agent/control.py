# SPDX-License-Identifier: Apache-2.0
"""The Control service: what the command line asks. The only file that touches both the policies and their messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from google.protobuf.message import DecodeError, Message

from agent.api import control_pb2
from agent.hooks.calls import Answer, CallError
from agent.hooks.peer import Peer
from agent.kernel.attach import through
from agent.policies import PolicyStore
from agent.policy.codegen_unit import Side
from agent.policy.errors import PolicyErrors
from agent.policy.gaps import Gap
from agent.policy.model import PolicyKey, PolicyMode
from agent.policy.model_json import policy_document
from agent.policy.plan import str_point
from agent.policy.preview import preview_policy
from agent.policy_entry import Change, Entry, NoSuchPolicy, Outcome, PolicyRejected
from nri_plugin.ttrpc import MAX_MESSAGE, Code

SERVICE = "podgate.control.v1.Control"
MAX_FILE_NAME = 4096
MAX_TEXT = MAX_MESSAGE - (1 << 20)  # of a document and its C in one answer; the rest is the state's


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
            "DeletePolicies": self._delete,
            "SetPolicyMode": self._set_mode,
            "ListPolicies": self._list,
            "GetPolicy": self._get,
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
        memory = self._store.memory()
        return control_pb2.AddPoliciesResponse(policies=[self._outcome(each, memory) for each in outcomes])

    def _delete(self, payload: bytes) -> control_pb2.DeletePoliciesResponse:
        request = control_pb2.DeletePoliciesRequest.FromString(payload)
        outcomes = self._store.delete(PolicyKey(each.namespace or None, each.name) for each in request.policies)
        return control_pb2.DeletePoliciesResponse(policies=[self._outcome(each, {}) for each in outcomes])

    def _set_mode(self, payload: bytes) -> control_pb2.SetPolicyModeResponse:
        request = control_pb2.SetPolicyModeRequest.FromString(payload)
        key = PolicyKey(request.namespace or None, request.name)
        outcome = self._store.set_mode(key, _mode(request.mode))
        return control_pb2.SetPolicyModeResponse(policy=self._outcome(outcome, self._store.memory()))

    def _list(self, _: bytes) -> control_pb2.ListPoliciesResponse:
        memory = self._store.memory()
        return control_pb2.ListPoliciesResponse(policies=[self._policy(each, memory) for each in self._store.entries()])

    def _get(self, payload: bytes) -> control_pb2.GetPolicyResponse:
        request = control_pb2.GetPolicyRequest.FromString(payload)
        entry = self._store.find(PolicyKey(request.namespace or None, request.name))
        document = json.dumps(policy_document(entry.policy)).encode()
        c = _generate(entry) if request.c else b""
        if len(document) + len(c) > MAX_TEXT:
            what = f"{entry.policy.key}: {len(document) + len(c):,} bytes are more than the {MAX_TEXT:,} of an answer"
            raise CallError(Code.RESOURCE_EXHAUSTED, f"{what}: use podgate policy show with its file")
        status = self._policy(entry, self._store.memory())
        return control_pb2.GetPolicyResponse(policy=status, document=document, c=c)

    def _outcome(self, outcome: Outcome, memory: Mapping[int, int]) -> control_pb2.PolicyStatus:
        status = self._policy(outcome.entry, memory)
        status.change = outcome.change.value
        status.milliseconds = outcome.milliseconds
        if outcome.change is Change.DELETED:
            status.state, status.containers = "deleted", 0
        return status

    def _policy(self, entry: Entry, memory: Mapping[int, int]) -> control_pb2.PolicyStatus:
        """memory: by serial numbers."""
        policy = entry.policy
        serial = entry.placed.serial if entry.placed else 0
        return control_pb2.PolicyStatus(
            name=policy.name,
            namespace=policy.namespace or "",
            kind=policy.kind.value,
            state=entry.state.value,
            error=entry.error,
            hooks=_hooks(entry),
            attached=_attached(entry),
            containers=self._containers(entry) if entry.placed else 0,
            notes=self._notes if entry.placed else (),
            source=str(policy.source),
            mode=self._store.mode(entry).value,
            actions=self._store.counts(entry),
            selectors=self._selectors(entry),
            id=serial,
            not_enforced=map(_not_enforced, entry.gaps),
            kernel_memory_bytes=memory.get(serial, 0),
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


def _generate(entry: Entry) -> bytes:
    """Raises CallError."""
    if entry.placed is None:
        raise CallError(Code.FAILED_PRECONDITION, f"{entry.policy.key} is not in force: {entry.error}")
    return preview_policy(entry.placed).encode()


def _not_enforced(gap: Gap) -> control_pb2.NotEnforced:
    return control_pb2.NotEnforced(section=gap.section, name=gap.name, reason=gap.reason.value, source=str(gap.source))


def _attached(entry: Entry) -> list[str]:
    """What the programs of its hooks are attached to, those at the return where it asks for one."""
    hooks = entry.placed.hooks if entry.placed else ()
    sides = ((hook.point, side) for hook in hooks for side in Side if side is Side.ENTER or hook.hook.returns)
    return sorted({through(point, side) for point, side in sides})


def _hooks(entry: Entry) -> list[str]:
    """Where it hooks; of a policy that is not in force what it says."""
    if entry.placed:
        return sorted({str_point(hook.point) for hook in entry.placed.hooks})
    return sorted({call for hook in entry.policy.hooks for call in (hook.calls or (hook.call,))})
