# SPDX-License-Identifier: Apache-2.0
"""Blocking client of the agent's Control service, one connection a call."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agent.api import control_pb2
from nri_plugin.ttrpc import ClientConnection, RemoteProtocolError

SERVICE = "podgate.control.v1.Control"
DEADLINE_S = 90.0  # the loader's own is 30 s, and a change can wait for another one

_Answer = TypeVar("_Answer", bound=Message)


class NoAgentError(Exception):
    """No agent answers on the socket."""


class ControlClient:
    """Every call raises RemoteError when the agent refuses, NoAgentError when there is none."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "agent.sock"

    def add(self, file: str, text: bytes, mode: str = "") -> control_pb2.AddPoliciesResponse:
        """mode: enforce or monitor, instead of what the policies say; empty: what they say."""
        request = control_pb2.AddPoliciesRequest(file=file, text=text, mode=mode)
        return self._call("AddPolicies", request, control_pb2.AddPoliciesResponse)

    def set_mode(self, name: str, namespace: str, mode: str) -> control_pb2.SetPolicyModeResponse:
        """mode: enforce or monitor."""
        request = control_pb2.SetPolicyModeRequest(name=name, namespace=namespace, mode=mode)
        return self._call("SetPolicyMode", request, control_pb2.SetPolicyModeResponse)

    def delete(self, name: str, namespace: str) -> control_pb2.DeletePoliciesResponse:
        return self.delete_all([(name, namespace)])

    def delete_all(self, names: Iterable[tuple[str, str]]) -> control_pb2.DeletePoliciesResponse:
        """names: name and namespace of each. All of them in one change, or none."""
        policies = [control_pb2.PolicyName(name=name, namespace=namespace) for name, namespace in names]
        request = control_pb2.DeletePoliciesRequest(policies=policies)
        return self._call("DeletePolicies", request, control_pb2.DeletePoliciesResponse)

    def get(self, name: str, namespace: str, *, c: bool = False) -> control_pb2.GetPolicyResponse:
        """c: the C as well."""
        request = control_pb2.GetPolicyRequest(name=name, namespace=namespace, c=c)
        return self._call("GetPolicy", request, control_pb2.GetPolicyResponse)

    def list(self) -> control_pb2.ListPoliciesResponse:
        return self._call("ListPolicies", control_pb2.ListPoliciesRequest(), control_pb2.ListPoliciesResponse)

    def status(self) -> control_pb2.GetStatusResponse:
        return self._call("GetStatus", control_pb2.GetStatusRequest(), control_pb2.GetStatusResponse)

    def _call(self, method: str, request: Message, answer: type[_Answer]) -> _Answer:
        connection = ClientConnection()
        _, data = connection.request(SERVICE, method, request.SerializeToString(), int(DEADLINE_S * 1e9))
        try:
            with connect(self._path, DEADLINE_S) as channel:
                channel.sendall(data)
                while part := channel.recv(1 << 16):
                    for response in connection.receive_data(part):
                        return answer.FromString(response.result())
        except (OSError, RemoteProtocolError, DecodeError) as error:
            raise NoAgentError(f"{self._path}: {error}") from error
        raise NoAgentError(f"{self._path}: the agent closed the connection")


def connect(path: Path, deadline_s: float | None) -> socket.socket:
    """Raises NoAgentError with what to do."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.settimeout(deadline_s)
    try:
        channel.connect(str(path))
    except OSError as error:
        channel.close()
        raise NoAgentError(
            f"no agent at {path} ({error.strerror}): start podgate-agent, or name its --run-dir"
        ) from error
    return channel
