# SPDX-License-Identifier: Apache-2.0
"""The RuntimeHook service: messages to the gate and back. With `starts`, `announced` and `stages` the only code on that
path that touches generated code.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agent.hooks.annotations import Runtime
from agent.hooks.announced import AnnouncedStarts
from agent.hooks.calls import Answer, CallError
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Bound, Gate, Start
from agent.hooks.limits import MAX_ID, MAX_NAME
from agent.hooks.oci import OciStarts, Stage
from agent.hooks.peer import HOOK_SERVICE, Peer
from agent.hooks.spec import parse_state
from agent.hooks.stages import StageTable, check_report
from agent.hooks.starts import parse_start
from agent.logs import fields
from agent.workload.identity import ContainerId, Door
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.latency import StageStats

SERVICE = HOOK_SERVICE
MAX_CONTAINERS = 10_000  # in one Synchronize: some 100 pods a node, generously

CODES = {
    Reason.INVALID: Code.INVALID_ARGUMENT,
    Reason.UNIDENTIFIED: Code.INVALID_ARGUMENT,
    Reason.NO_SPEC: Code.FAILED_PRECONDITION,
    Reason.NO_LABELS: Code.FAILED_PRECONDITION,
    Reason.NO_CGROUP: Code.FAILED_PRECONDITION,
    Reason.PROCESS_GONE: Code.FAILED_PRECONDITION,
    Reason.CONFLICT: Code.FAILED_PRECONDITION,
    Reason.KERNEL: Code.INTERNAL,
    Reason.DENIED: Code.PERMISSION_DENIED,
}
BOUND = "bound"
UNBOUND = "unbound"
SYNCHRONIZED = "synchronized"
SUPERSEDED = "superseded"
SUCCESSES = frozenset({BOUND, UNBOUND, SYNCHRONIZED})

log = logging.getLogger("podgate.hook")

_Value = TypeVar("_Value")
_Word = TypeVar("_Word", Stage, Runtime)


@dataclass(slots=True)
class _Decision:
    """What becomes of one call: filled in while it is decided, told once it is answered.

    stage: the key in the table of stages, empty for what is not measured. outcome: empty until it is known.
    """

    began_ns: int
    door: Door = Door.NRI
    stage: str = ""
    container: str = ""
    namespace: str = ""
    pod: str = ""
    outcome: str = ""
    detail: str = ""
    spent_us: int = 0

    def concerns(self, container: str, namespace: str = "", pod: str = "") -> None:
        self.container, self.namespace, self.pod = container[:MAX_ID], namespace[:MAX_NAME], pod[:MAX_NAME]

    def tell(self) -> None:
        if self.outcome == SYNCHRONIZED or (not self.stage and not self.detail):
            return
        told = fields(
            door=self.door.value,
            stage=self.stage,
            container_id=self.container,
            namespace=self.namespace,
            pod=self.pod,
            reason=self.outcome if self.detail else "",
            detail=self.detail,
            spent_us=self.spent_us,
        )
        if self.detail:
            log.warning("refused", extra=told)
        else:
            log.info(self.outcome, extra=told)


class HookEndpoint:
    """The service; its methods may run in several threads at once."""

    def __init__(self, gate: Gate, oci: OciStarts, announced: AnnouncedStarts) -> None:
        self._gate = gate
        self._oci = oci
        self._announced = announced
        self._one_list = threading.Lock()
        self._newest = 0
        self._table = StageTable()
        self._reports: dict[str, hook_pb2.ReportRequest] = {}
        self._methods: dict[str, Callable[[bytes, Peer, _Decision], Message]] = {
            "Bind": self._bind,
            "Unbind": self._unbind,
            "Synchronize": self._synchronize,
            "Hook": self._hook,
            "Announce": self._announce,
            "Report": self._report,
        }

    def call(self, method: str, payload: bytes, peer: Peer) -> Answer:
        """Raises CallError."""
        handler = self._methods.get(method)
        if handler is None:
            raise CallError(Code.UNIMPLEMENTED, f"no method {method[:MAX_NAME]} in {SERVICE}")
        decision = _Decision(time.monotonic_ns())
        try:
            return Answer(handler(payload, peer, decision).SerializeToString(), decision.tell)
        except CallError:
            decision.outcome = SUPERSEDED
            raise
        except DecodeError as error:
            self._gate.outcomes[Reason.INVALID.value] += 1
            text = f"{method}: not a message of {SERVICE}"
            decision.outcome, decision.detail = Reason.INVALID.value, text
            raise CallError(Code.INVALID_ARGUMENT, text, decision.tell) from error
        except HookError as error:
            decision.outcome, decision.detail = error.reason.value, error.detail
            raise CallError(CODES[error.reason], error.detail, decision.tell) from error
        finally:
            self._observe(decision)

    def _observe(self, decision: _Decision) -> None:
        decision.spent_us = (time.monotonic_ns() - decision.began_ns) // 1000
        if decision.stage:
            success = time.time_ns() // 1000 if decision.outcome in SUCCESSES else 0
            self._table.observe(decision.stage, decision.spent_us, decision.outcome or "internal", success)

    @property
    def lists(self) -> int:
        """How many Synchronize calls have come."""
        return self._newest

    @property
    def stages(self) -> Mapping[str, StageStats]:
        """What the agent itself spent: bind, synchronize, announce, and hook:STAGE of the OCI hook."""
        return self._table.snapshot()

    @property
    def reports(self) -> Mapping[str, hook_pb2.ReportRequest]:
        """The newest of each reporter."""
        return dict(self._reports)

    def _bind(self, payload: bytes, _: Peer, decision: _Decision) -> hook_pb2.BindResponse:
        decision.stage = "bind"
        container = hook_pb2.BindRequest.FromString(payload).container
        decision.concerns(container.id, container.pod_namespace, container.pod_name)
        bound = self._gate.bind(self._counted(lambda: parse_start(container)))
        decision.outcome = BOUND
        return _bind_response(bound)

    def _counted(self, make: Callable[[], _Value]) -> _Value:
        """The gate counts what it refuses itself."""
        try:
            return make()
        except HookError as error:
            self._gate.outcomes[error.reason.value] += 1
            raise

    def _unbind(self, payload: bytes, _: Peer, decision: _Decision) -> hook_pb2.UnbindResponse:
        container = hook_pb2.UnbindRequest.FromString(payload).container_id
        decision.concerns(container)
        return hook_pb2.UnbindResponse(was_bound=self._gate.unbind(ContainerId(container)))

    def _hook(self, payload: bytes, peer: Peer, decision: _Decision) -> hook_pb2.HookResponse:
        request = hook_pb2.HookRequest.FromString(payload)
        decision.door = Door.OCI
        stage = self._counted(lambda: _word(Stage, request.stage))
        decision.stage = f"hook:{stage.value}"
        runtime = self._counted(lambda: _word(Runtime, request.runtime))
        if stage is Stage.POSTSTOP:
            return self._after_stop(request, decision)
        start = self._counted(lambda: self._resolve(stage, runtime, request.state, peer, decision))
        bound = self._gate.bind(start)
        decision.outcome = BOUND
        return hook_pb2.HookResponse(
            cgroup_id=bound.cgroup, workload_id=bound.workload, policies=bound.policies, bind_us=bound.bind_us
        )

    def _resolve(self, stage: Stage, runtime: Runtime, state: bytes, peer: Peer, decision: _Decision) -> Start:
        known = parse_state(state)
        decision.concerns(known.id)
        container = self._oci.describe(runtime, known, peer)
        decision.concerns(known.id, container.identity.namespace, container.identity.pod_name)
        return self._oci.start(stage, container, peer)

    def _after_stop(self, request: hook_pb2.HookRequest, decision: _Decision) -> hook_pb2.HookResponse:
        container = self._counted(lambda: parse_state(request.state)).id
        decision.concerns(container)
        self._gate.unbind(ContainerId(container))
        decision.outcome = UNBOUND
        return hook_pb2.HookResponse()

    def _announce(self, payload: bytes, _: Peer, decision: _Decision) -> hook_pb2.BindResponse:
        decision.door, decision.stage = Door.UPSTREAM, "announce"
        request = hook_pb2.AnnounceRequest.FromString(payload)
        decision.concerns(request.id, request.pod_namespace, request.pod_name)
        bound = self._gate.bind(self._counted(lambda: self._announced.start(request)))
        decision.outcome = BOUND
        return _bind_response(bound)

    def _report(self, payload: bytes, _: Peer, __: _Decision) -> hook_pb2.ReportResponse:
        request = hook_pb2.ReportRequest.FromString(payload)
        self._counted(lambda: check_report(request))
        self._reports[request.door] = request
        return hook_pb2.ReportResponse()

    def _synchronize(self, payload: bytes, _: Peer, decision: _Decision) -> hook_pb2.SynchronizeResponse:
        """A container that is refused keeps what an earlier announcement bound: less would unguard it.

        A caller that has lost patience asks again: then the newer list counts, and the older call ends where it is.
        """
        decision.stage = "synchronize"
        request = hook_pb2.SynchronizeRequest.FromString(payload)
        if len(request.containers) > MAX_CONTAINERS:
            raise HookError(Reason.INVALID, f"{len(request.containers)} containers, at most {MAX_CONTAINERS}")
        self._newest += 1
        number = self._newest
        with self._one_list:
            answer = self._take_list(request, number)
        decision.outcome = SYNCHRONIZED
        return answer

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
        decision = _Decision(time.monotonic_ns(), stage="synchronize")
        decision.concerns(container.id, container.pod_namespace, container.pod_name)
        try:
            self._gate.bind(self._counted(lambda: parse_start(container)), nested=False)
            answer.bound += 1
        except HookError as error:
            answer.refused.add(container_id=container.id, reason=error.detail)
            decision.outcome, decision.detail = error.reason.value, error.detail
            decision.tell()


def _word(kind: type[_Word], text: str) -> _Word:
    """Raises HookError for a text that is none of the kind's."""
    try:
        return kind(text)
    except ValueError as error:
        known = ", ".join(word.value for word in kind)
        raise HookError(Reason.INVALID, f"{kind.__name__.lower()} {text[:MAX_NAME]!a} is none of {known}") from error


def _bind_response(bound: Bound) -> hook_pb2.BindResponse:
    return hook_pb2.BindResponse(
        cgroup_id=bound.cgroup, workload_id=bound.workload, policies=bound.policies, bind_us=bound.bind_us
    )
