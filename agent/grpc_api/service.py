# SPDX-License-Identifier: Apache-2.0
"""The service FineGuidanceSensors of the public interface, of which runtimes' hooks call RuntimeHook.

A call is answered when the agent has bound the container, or with the reason why not; the hook decides what that means
for the container's start.
"""

from __future__ import annotations

import logging
import queue
import time
from typing import NoReturn

import grpc

from agent.grpc_api.convert import parse_request
from agent.grpc_api.errors import RequestError
from agent.grpc_api.tetragon import sensors_pb2, tetragon_pb2
from agent.logs import fields
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.client import AgentClient
from rthook.errors import AgentRefused, AgentUnreachable

SERVICE = sensors_pb2.DESCRIPTOR.services_by_name["FineGuidanceSensors"]
# What is left for our own answer's way back before the caller gives up.
MARGIN_S = 0.05

_STATUS = {status.value[0]: status for status in grpc.StatusCode}

log = logging.getLogger("podgate.grpc")


def budget(remaining_s: float | None, limit_s: float) -> float:
    """Seconds to give the agent: within the caller's deadline, if it has one, and within our own."""
    return limit_s if remaining_s is None else min(limit_s, remaining_s - MARGIN_S)


class RuntimeHookService:
    """Forwards to the agent's socket, over as many connections as there are calls at once."""

    def __init__(self, agent_socket: str, limit_s: float, callers: int) -> None:
        self._limit_s = limit_s
        self._clients: queue.LifoQueue[AgentClient] = queue.LifoQueue()
        for _ in range(callers):
            self._clients.put(AgentClient(agent_socket, limit_s))

    def handlers(self) -> grpc.GenericRpcHandler:
        """For grpc's server, which answers every other method with UNIMPLEMENTED. Requests come unread: a message that
        cannot be read is the caller's error, and grpc would call it ours."""
        method = SERVICE.methods_by_name["RuntimeHook"].name
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self.runtime_hook)
        return grpc.method_handlers_generic_handler(SERVICE.full_name, {method: handler})

    def runtime_hook(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        """One call; may run in as many threads as there are callers."""
        try:
            announced = parse_request(payload)
        except RequestError as error:
            log.warning("runtime_hook", extra=fields(outcome="invalid", reason=str(error)))
            _abort(context, Code.INVALID_ARGUMENT, str(error))
        seconds = budget(context.time_remaining(), self._limit_s)
        if seconds <= 0:
            _refuse(
                context, announced, "late", Code.DEADLINE_EXCEEDED, "the deadline passed before the agent was asked"
            )
        self._forward(announced, seconds, context)
        return tetragon_pb2.RuntimeHookResponse().SerializeToString()

    def _forward(self, announced: hook_pb2.AnnounceRequest, seconds: float, context: grpc.ServicerContext) -> None:
        client = self._clients.get()
        began = time.monotonic()
        try:
            bound = client.announce(announced, seconds)
        except AgentRefused as error:
            _refuse(context, announced, "refused", error.code, error.message)
        except AgentUnreachable as error:
            _refuse(context, announced, "agent_down", Code.UNAVAILABLE, str(error))
        finally:
            self._clients.put(client)
        took = {"hook_us": int((time.monotonic() - began) * 1e6), "bind_us": bound.bind_us}
        ids = {"cgroup_id": bound.cgroup_id, "workload_id": bound.workload_id, "policies": bound.policies}
        log.info("runtime_hook", extra=fields(outcome="bound", **_names(announced), **ids, **took))

    def close(self) -> None:
        """Drop the connections of the clients that no call uses."""
        while True:
            try:
                self._clients.get_nowait().close()
            except queue.Empty:
                return


def _names(announced: hook_pb2.AnnounceRequest) -> dict[str, str]:
    return {"container": announced.id, "namespace": announced.pod_namespace, "pod": announced.pod_name}


def _refuse(
    context: grpc.ServicerContext, announced: hook_pb2.AnnounceRequest, outcome: str, code: Code, reason: str
) -> NoReturn:
    log.error("runtime_hook", extra=fields(outcome=outcome, reason=reason, **_names(announced)))
    _abort(context, code, reason)


def _abort(context: grpc.ServicerContext, code: Code, text: str) -> NoReturn:
    context.abort(_STATUS[code.value], text)
