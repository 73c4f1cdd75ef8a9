# SPDX-License-Identifier: Apache-2.0
"""The RuntimeHook service: messages to the gate and back. The only file on that path that touches generated code."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from google.protobuf.message import DecodeError, Message

from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Gate, Start
from agent.logs import fields
from agent.workload.identity import ContainerId, ContainerIdentity, PodUid, freeze_labels
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2

SERVICE = "podgate.hook.v1.RuntimeHook"
MAX_NAME = 253  # DNS-1123 subdomain: the longest name that Kubernetes gives anything
MAX_ID = 256  # container ids have 64 characters; room for other runtimes
MAX_LABELS_BYTES = 256 << 10  # of one pod; the API server's own limit is on annotations, as large
MAX_CONTAINERS = 10_000  # in one Synchronize: some 100 pods a node, generously

CODES = {
    Reason.INVALID: Code.INVALID_ARGUMENT,
    Reason.UNIDENTIFIED: Code.INVALID_ARGUMENT,
    Reason.NO_CGROUP: Code.FAILED_PRECONDITION,
    Reason.PROCESS_GONE: Code.FAILED_PRECONDITION,
    Reason.CONFLICT: Code.FAILED_PRECONDITION,
    Reason.KERNEL: Code.INTERNAL,
}

log = logging.getLogger("podgate.hook")


class CallError(Exception):
    """A call is answered with this code and text."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def parse_start(container: hook_pb2.Container) -> Start:
    """Raises HookError when it does not say which container of which pod it is."""
    lengths = (
        (container.id, MAX_ID),
        (container.pod_name, MAX_NAME),
        (container.pod_namespace, MAX_NAME),
        (container.name, MAX_NAME),
    )
    if any(len(text) > limit for text, limit in lengths):
        raise HookError(
            Reason.INVALID, f"container {container.id[:MAX_ID]!r}: a name is longer than {MAX_NAME} characters"
        )
    if not container.id:
        raise HookError(Reason.UNIDENTIFIED, "no container id")
    if not container.pod_namespace or not container.pod_name:
        raise HookError(Reason.UNIDENTIFIED, f"container {container.id}: no pod is named")
    labels = dict(container.pod_labels)
    if sum(len(key) + len(value) for key, value in labels.items()) > MAX_LABELS_BYTES:
        raise HookError(Reason.INVALID, f"container {container.id}: labels are larger than {MAX_LABELS_BYTES} bytes")
    if container.phase not in (hook_pb2.PHASE_HELD, hook_pb2.PHASE_RUNNING):
        raise HookError(Reason.INVALID, f"container {container.id}: unknown phase {container.phase}")
    identity = ContainerIdentity(
        ContainerId(container.id),
        container.name,
        container.pod_namespace,
        container.pod_name,
        PodUid(container.pod_uid),
        freeze_labels(labels),
        container.image,
    )
    return Start(identity, container.pid, container.cgroups_path, container.phase == hook_pb2.PHASE_HELD)


class HookEndpoint:
    """The service; its methods may run in several threads at once."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._one_list = threading.Lock()
        self._newest = 0
        self._methods: dict[str, Callable[[bytes], Message]] = {
            "Bind": self._bind,
            "Unbind": self._unbind,
            "Synchronize": self._synchronize,
        }

    def call(self, method: str, payload: bytes) -> bytes:
        """The answer's bytes. Raises CallError."""
        handler = self._methods.get(method)
        if handler is None:
            raise CallError(Code.UNIMPLEMENTED, f"no method {method} in {SERVICE}")
        try:
            return handler(payload).SerializeToString()
        except DecodeError as error:
            self._gate.outcomes[Reason.INVALID.value] += 1
            raise CallError(Code.INVALID_ARGUMENT, f"{method}: not a message of {SERVICE}") from error
        except HookError as error:
            log.warning("refused", extra=fields(method=method, reason=error.reason.value, detail=error.detail))
            raise CallError(CODES[error.reason], error.detail) from error

    @property
    def lists(self) -> int:
        """How many Synchronize calls have come."""
        return self._newest

    def _bind(self, payload: bytes) -> hook_pb2.BindResponse:
        bound = self._gate.bind(self._parse(hook_pb2.BindRequest.FromString(payload).container))
        return hook_pb2.BindResponse(
            cgroup_id=bound.cgroup, workload_id=bound.workload, policies=bound.policies, bind_us=bound.bind_us
        )

    def _parse(self, container: hook_pb2.Container) -> Start:
        try:
            return parse_start(container)
        except HookError as error:
            self._gate.outcomes[error.reason.value] += 1
            raise

    def _unbind(self, payload: bytes) -> hook_pb2.UnbindResponse:
        container = hook_pb2.UnbindRequest.FromString(payload).container_id
        return hook_pb2.UnbindResponse(was_bound=self._gate.unbind(ContainerId(container)))

    def _synchronize(self, payload: bytes) -> hook_pb2.SynchronizeResponse:
        """A container that is refused keeps what an earlier announcement bound: less would unguard it.

        A caller that has lost patience asks again: then the newer list counts, and the older call ends where it is.
        """
        request = hook_pb2.SynchronizeRequest.FromString(payload)
        if len(request.containers) > MAX_CONTAINERS:
            raise HookError(Reason.INVALID, f"{len(request.containers)} containers, at most {MAX_CONTAINERS}")
        self._newest += 1
        number = self._newest
        with self._one_list:
            return self._take_list(request, number)

    def _take_list(self, request: hook_pb2.SynchronizeRequest, number: int) -> hook_pb2.SynchronizeResponse:
        answer = hook_pb2.SynchronizeResponse()
        began, mark = time.monotonic(), self._gate.mark()
        for container in request.containers:
            if number != self._newest:
                raise CallError(Code.ABORTED, "a newer list of containers has come")
            self._take_one(container, answer)
        self._gate.link_nested()
        named = (*(container.id for container in request.containers), *request.keep)
        answer.forgotten = self._gate.retain(map(ContainerId, named), mark)
        counts = {"bound": answer.bound, "refused": len(answer.refused), "forgotten": answer.forgotten}
        log.info("synchronized", extra=fields(**counts, ms=round((time.monotonic() - began) * 1000, 1)))
        return answer

    def _take_one(self, container: hook_pb2.Container, answer: hook_pb2.SynchronizeResponse) -> None:
        try:
            self._gate.bind(self._parse(container), nested=False)
            answer.bound += 1
        except HookError as error:
            answer.refused.add(container_id=container.id, reason=error.detail)
            why = fields(method="Synchronize", reason=error.reason.value, detail=error.detail)
            log.warning("refused", extra=why)
