# SPDX-License-Identifier: Apache-2.0
"""The public gRPC interface as its clients see it, in front of a scripted agent; and the life of its process."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from agent.grpc_api.addresses import Address, TcpAddress, UnixAddress
from agent.grpc_api.errors import StartError
from agent.grpc_api.server import MAX_CALLS, MAX_MESSAGE, WORKERS, GrpcServer
from agent.grpc_api.service import RuntimeHookService
from agent.grpc_api.tetragon import tetragon_pb2
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2
from rthook.client import SERVICE
from tests.protocol.fakes import PATIENCE_S, FakeAgent, Hang, Reaction, Refusal
from tests.support.system import is_running
from tests.support.wait import wait_until

METHOD = "/tetragon.FineGuidanceSensors/RuntimeHook"
LIMIT_S = 0.4
CREATED = tetragon_pb2.CreateContainer(
    cgroupsPath="/kubepods/pod1/c1",
    rootDir="/run/c1/rootfs",
    annotations={"k": "v"},
    containerName="nginx",
    containerID="c1",
    podName="web-0",
    podUID="uid-1",
    podNamespace="shop",
    containerImage="registry/nginx:1",
    mounts=[tetragon_pb2.Mount(destination="/data")],
)
REQUEST = tetragon_pb2.RuntimeHookRequest(createContainer=CREATED).SerializeToString()
BOUND = hook_pb2.BindResponse(cgroup_id=77, workload_id=5, policies=3, bind_us=120).SerializeToString()


def agree(_request: Request) -> Reaction:
    return BOUND


@pytest.fixture
def announced(agent: FakeAgent) -> FakeAgent:
    """An agent that binds whatever is announced."""
    agent.react = agree
    return agent


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "public.sock"


@contextlib.contextmanager
def served(agent_path: Path, *addresses: Address, limit_s: float = LIMIT_S) -> Iterator[list[Address]]:
    """In this process."""
    server = GrpcServer(RuntimeHookService(str(agent_path), limit_s, WORKERS))
    try:
        yield server.start(addresses)
    finally:
        server.stop()


class Caller:
    """A client of the interface, as a runtime's hook is one."""

    def __init__(self, target: str) -> None:
        options = (
            ("grpc.default_authority", "localhost"),
            ("grpc.enable_http_proxy", 0),
            # A connection of its own, as each hook process has one.
            ("grpc.use_local_subchannel_pool", 1),
        )
        self._channel = grpc.insecure_channel(target, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, payload: bytes = REQUEST, timeout_s: float | None = PATIENCE_S, method: str = METHOD) -> bytes:
        """The answer's bytes; grpc.RpcError."""
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        return unary(payload, timeout=timeout_s)

    def refusal(self, payload: bytes = REQUEST, timeout_s: float | None = PATIENCE_S, method: str = METHOD) -> Any:
        """The error, with code() and details()."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(payload, timeout_s, method)
        return caught.value


@pytest.fixture
def caller(agent_path: Path, socket_path: Path) -> Iterator[Caller]:
    """Of an interface that is served on a unix socket; the agent may be there or not."""
    with served(agent_path, UnixAddress(socket_path)), Caller(f"unix://{socket_path}") as made:
        yield made


def test_a_created_container_is_announced_and_answered(announced: FakeAgent, caller: Caller) -> None:
    assert caller.call() == b""
    (request,) = announced.requests
    assert (request.service, request.method) == (SERVICE, "Announce")
    assert hook_pb2.AnnounceRequest.FromString(request.payload) == hook_pb2.AnnounceRequest(
        id="c1",
        name="nginx",
        pod_name="web-0",
        pod_namespace="shop",
        pod_uid="uid-1",
        image="registry/nginx:1",
        cgroups_path="/kubepods/pod1/c1",
        root_dir="/run/c1/rootfs",
        annotations={"k": "v"},
    )


def test_the_socket_is_its_owners_alone(caller: Caller, announced: FakeAgent, socket_path: Path) -> None:
    caller.call()
    found = socket_path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.getuid())
    assert announced.requests


def test_without_a_callers_deadline_the_agent_has_ours(announced: FakeAgent, caller: Caller) -> None:
    caller.call(timeout_s=None)
    assert LIMIT_S * 0.9 < announced.requests[0].timeout_ns / 1e9 <= LIMIT_S


def test_a_callers_shorter_deadline_is_kept(announced: FakeAgent, caller: Caller) -> None:
    caller.call()  # the connection is there
    caller.call(timeout_s=0.25)
    assert 0 < announced.requests[1].timeout_ns / 1e9 < 0.25


def test_an_agent_that_hangs_is_unavailable_at_our_deadline(announced: FakeAgent, caller: Caller) -> None:
    announced.react = lambda _: Hang()
    began = time.monotonic()
    error = caller.refusal()
    assert LIMIT_S <= time.monotonic() - began < LIMIT_S + 1
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"no answer to Announce within {LIMIT_S:g} s" in error.details()


def test_an_agent_that_is_down_is_unavailable_and_found_when_it_is_back(caller: Caller, agent_path: Path) -> None:
    error = caller.refusal()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == f"agent at {agent_path}: Announce: No such file or directory"
    with FakeAgent(agent_path, agree) as agent:
        assert caller.call() == b""
    assert len(agent.requests) == 1


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_an_agents_refusal_keeps_code_and_text(announced: FakeAgent, caller: Caller, code: Code) -> None:
    announced.react = lambda _: Refusal(code, "no cgroup: «c1»")
    error = caller.refusal()
    assert error.code().value[0] == code.value
    assert error.details() == "no cgroup: «c1»"


@pytest.mark.parametrize("payload", [b"", b"\xff\xff", b"\x12\x05other", b"\x0a\x03\x0a\x01\xff"])
def test_a_request_that_announces_nothing_is_invalid(announced: FakeAgent, caller: Caller, payload: bytes) -> None:
    error = caller.refusal(payload)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "RuntimeHookRequest" in error.details()
    assert announced.requests == []


def test_a_request_above_the_limit_is_refused_and_one_below_is_not(announced: FakeAgent, caller: Caller) -> None:
    created = tetragon_pb2.CreateContainer(annotations={"k": "x" * (MAX_MESSAGE - 100)})
    assert caller.call(tetragon_pb2.RuntimeHookRequest(createContainer=created).SerializeToString()) == b""
    created.annotations["k"] += "x" * 100
    error = caller.refusal(tetragon_pb2.RuntimeHookRequest(createContainer=created).SerializeToString())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(announced.requests) == 1


@pytest.mark.parametrize("method", ["/tetragon.FineGuidanceSensors/GetVersion", "/other.Service/RuntimeHook"])
def test_other_methods_are_unimplemented(announced: FakeAgent, caller: Caller, method: str) -> None:
    assert caller.refusal(method=method).code() is grpc.StatusCode.UNIMPLEMENTED
    assert announced.requests == []


def test_calls_at_once_are_served_beside_each_other(announced: FakeAgent, caller: Caller) -> None:
    """As many as there are workers reach the agent before any is answered."""
    numbers = itertools.count(1)

    def react(_request: Request) -> Reaction:
        if next(numbers) >= WORKERS:
            return BOUND
        announced.await_requests("Announce", WORKERS)
        return BOUND

    announced.react = react
    with ThreadPoolExecutor(WORKERS) as pool:
        assert list(pool.map(lambda _: caller.call(), range(WORKERS))) == [b""] * WORKERS


def test_more_calls_than_the_limit_are_refused_at_once(
    announced: FakeAgent, agent_path: Path, socket_path: Path
) -> None:
    """The agent answers once a call was refused: those that came before it are served."""
    refused = threading.Event()

    def react(_request: Request) -> Reaction:
        refused.wait(PATIENCE_S)
        return BOUND

    def call(_number: int) -> grpc.StatusCode:
        with Caller(f"unix://{socket_path}") as caller:
            try:
                caller.call()
            except grpc.RpcError as error:
                refused.set()
                return error.code()
        return grpc.StatusCode.OK

    announced.react = react
    serving = served(agent_path, UnixAddress(socket_path), limit_s=PATIENCE_S)
    with serving, ThreadPoolExecutor(MAX_CALLS + 4) as pool:
        codes = Counter(pool.map(call, range(MAX_CALLS + 4)))
    assert codes[grpc.StatusCode.OK] >= MAX_CALLS
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] >= 1
    assert len(codes) == 2


def test_several_addresses_serve_the_same(announced: FakeAgent, agent_path: Path, socket_path: Path) -> None:
    addresses = (UnixAddress(socket_path), TcpAddress("127.0.0.1", 0))
    with served(agent_path, *addresses) as bound:
        assert bound[0] == addresses[0]
        assert isinstance(bound[1], TcpAddress)
        assert bound[1].port
        for address in bound:
            with Caller(str(address)) as caller:
                assert caller.call() == b""
        with pytest.raises(StartError, match="cannot be bound"), served(agent_path, bound[1]):
            pass
    assert len(announced.requests) == 2
    assert not socket_path.exists()


@dataclass
class Process:
    """The interface's process; its log's lines as they come."""

    command: subprocess.Popen[str]

    def next_line(self) -> dict[str, Any]:
        assert self.command.stderr is not None
        line: dict[str, Any] = json.loads(self.command.stderr.readline())
        return line

    def await_event(self, event: str) -> dict[str, Any]:
        while (line := self.next_line())["event"] != event:
            pass
        return line


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "agent.grpc_api.main", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_until_a_signal(
    announced: FakeAgent, agent_path: Path, socket_path: Path, number: signal.Signals
) -> None:
    address = f"unix://{socket_path}"
    arguments = ("--address", address, "--agent-socket", str(agent_path), "--parent", str(os.getpid()))
    with process(*arguments) as running, Caller(address) as caller:
        assert running.await_event("ready")["addresses"] == [address]
        assert caller.call() == b""
        line = running.await_event("runtime_hook")
        told = {"outcome": "bound", "container": "c1", "namespace": "shop", "pod": "web-0", "cgroup_id": 77}
        assert told.items() <= line.items()
        running.command.send_signal(number)
        assert running.await_event("stopping")["reason"] == "signal"
        assert running.command.wait(PATIENCE_S) == 0
    assert not socket_path.exists()
    assert announced.requests


def test_the_process_ends_with_its_parent(tmp_path: Path, socket_path: Path) -> None:
    log = tmp_path / "log"
    arguments = ("--address", f"unix://{socket_path}", "--log-file", str(log))
    command = [sys.executable, "-m", "agent.grpc_api.main", *arguments]
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([*sys.argv[1:], '--parent', str(os.getpid())])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: log.exists() and '"ready"' in log.read_text(), PATIENCE_S, "the process to be ready")
        parent.kill()
    wait_until(lambda: not is_running(child), PATIENCE_S, "the process to end")
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["event"], last["reason"]) == ("stopping", "parent ended")
    assert not socket_path.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(agent_path: Path, socket_path: Path) -> None:
    address = f"unix://{socket_path}"
    with process("--address", address, "--agent-socket", str(agent_path)) as killed:
        killed.await_event("ready")
        killed.command.kill()
        killed.command.wait(PATIENCE_S)
        assert socket_path.is_socket()
    with process("--address", address, "--agent-socket", str(agent_path)) as running, Caller(address) as caller:
        running.await_event("ready")
        assert "agent at" in caller.refusal().details()
        with process("--address", address) as second:
            line = second.await_event("cannot start")
            assert line["reason"] == f"{socket_path}: somebody serves there already"
            assert second.command.wait(PATIENCE_S) == 1
        assert "agent at" in caller.refusal().details()


def test_a_parent_that_is_none_is_not_waited_for(socket_path: Path) -> None:
    with process("--address", f"unix://{socket_path}", "--parent", "1") as running:
        assert "is not this process's parent" in running.await_event("cannot start")["reason"]
        assert running.command.wait(PATIENCE_S) == 1
    assert not socket_path.exists()


def test_an_open_port_is_warned_of(agent_path: Path) -> None:
    with process("--address", "127.0.0.1:0", "--agent-socket", str(agent_path)) as running:
        assert "host's network" in running.next_line()["event"]
        (address,) = running.await_event("ready")["addresses"]
        with Caller(address) as caller:
            assert caller.refusal().code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("arguments", [(), ("--address", "0.0.0.0:54321"), ("--address", "unix:/a", "--deadline", "0")])
def test_wrong_arguments_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent.grpc_api.main", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Error:" in done.stderr
