# SPDX-License-Identifier: Apache-2.0
"""The agent's socket: every request is answered, whatever the service does, and peers cannot exhaust it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.hooks import server as module
from agent.hooks.calls import Answer, CallError
from agent.hooks.errors import HookError, Reason
from agent.hooks.peer import Peer, read_peer
from agent.hooks.server import MAX_CONNECTIONS, Server, listen
from nri_plugin.ttrpc import MAX_MESSAGE, ClientConnection, Code, RemoteError, Response
from tests.support.wait import wait_until

_DEADLINE_S = 20.0


class _Service:
    """Answers with what it was asked; some methods go wrong."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.threads: set[int] = set()
        self.free = threading.Event()
        self.peers: set[Peer] = set()
        self.finished: list[str] = []

    def call(self, method: str, payload: bytes, peer: Peer) -> Answer:
        self.methods.append(method)
        self.peers.add(peer)
        self.threads.add(threading.get_ident())
        if method == "Refuse":
            raise CallError(Code.FAILED_PRECONDITION, "not now", lambda: self._finish(method))
        if method == "Crash":
            raise ZeroDivisionError("secret detail")
        if method == "Large":
            return Answer(bytes(MAX_MESSAGE + 1))
        if method == "Wait":
            self.free.wait(_DEADLINE_S)
        return Answer(payload, lambda: self._finish(method))

    def _finish(self, method: str) -> None:
        if method == "CrashLater":
            raise ZeroDivisionError
        if method == "FinishLate":
            self.free.wait(_DEADLINE_S)
        self.finished.append(method)


@dataclass
class _Caller:
    """One that may not call what begins with `Forbidden`."""

    peer: Peer
    unwelcome: bool = False

    def is_unwelcome(self) -> bool:
        return self.unwelcome

    def check(self, service: str, method: str) -> None:
        if method.startswith("Forbidden"):
            raise HookError(Reason.DENIED, f"process {self.peer.pid} may not call {service}")


def _admit(channel: socket.socket) -> _Caller:
    return _Caller(read_peer(channel))


class _Client:
    def __init__(self, path: Path) -> None:
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.settimeout(_DEADLINE_S)
        try:
            self.channel.connect(str(path))
        except OSError:
            self.channel.close()
            raise
        self.connection = ClientConnection()

    def send(self, method: str, payload: bytes = b"", service: str = "test") -> None:
        self.channel.sendall(self.connection.request(service, method, payload)[1])

    def receive(self) -> Response:
        while data := self.channel.recv(1 << 16):
            for response in self.connection.receive_data(data):
                return response
        raise EOFError

    def call(self, method: str, payload: bytes = b"", service: str = "test") -> bytes:
        self.send(method, payload, service)
        return self.receive().result()

    def error(self, method: str, service: str = "test") -> tuple[Code, str]:
        with pytest.raises(RemoteError) as caught:
            self.call(method, b"", service)
        return caught.value.code, caught.value.message

    def is_closed(self) -> bool:
        try:
            return self.channel.recv(1) == b""
        except ConnectionResetError:
            return True


class _Stage:
    def __init__(self, folder: Path) -> None:
        self.path, self.service = folder / "agent.sock", _Service()
        self.server = Server(listen(self.path), {"test": self.service}, _admit)
        self.server.start()
        self._clients: list[_Client] = []
        self._stopped = False

    def stop(self) -> None:
        if not self._stopped:
            self.server.stop()
        self._stopped = True

    def connect(self) -> _Client:
        self._clients.append(_Client(self.path))
        return self._clients[-1]

    def close(self) -> None:
        self.service.free.set()
        self.stop()
        for client in self._clients:
            client.channel.close()
        wait_until(lambda: not self.server._open, _DEADLINE_S, "the connections' threads to end")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[_Stage]:
    made = _Stage(tmp_path)
    yield made
    made.close()


def test_requests_of_one_connection_are_answered_in_order(stage: _Stage) -> None:
    client = stage.connect()
    assert [client.call("Echo", bytes([n])) for n in range(5)] == [bytes([n]) for n in range(5)]


def test_requests_sent_at_once_are_all_answered(stage: _Stage) -> None:
    client = stage.connect()
    for number in range(50):
        client.send("Echo", str(number).encode())
    answers: list[bytes] = []
    while len(answers) < 50:
        answers += [each.result() for each in client.connection.receive_data(client.channel.recv(1 << 16))]
    assert answers == [str(number).encode() for number in range(50)]


def test_a_request_in_single_bytes_is_answered(stage: _Stage) -> None:
    client = stage.connect()
    for byte in client.connection.request("test", "Echo", b"slow")[1]:
        client.channel.sendall(bytes([byte]))
    assert client.receive().result() == b"slow"


def test_connections_do_not_wait_for_each_other(stage: _Stage) -> None:
    slow, quick = stage.connect(), stage.connect()
    slow.send("Wait", b"late")
    assert quick.call("Echo", b"now") == b"now"
    stage.service.free.set()
    assert slow.receive().result() == b"late"
    assert len(stage.service.threads) == 2


def test_a_refusal_has_its_code_and_text(stage: _Stage) -> None:
    assert stage.connect().error("Refuse") == (Code.FAILED_PRECONDITION, "not now")


def test_a_service_is_told_who_calls(stage: _Stage) -> None:
    stage.connect().call("Echo")
    assert stage.service.peers == {Peer(os.getpid(), os.getuid(), os.getgid())}


def test_a_caller_that_may_not_call_is_told_and_may_call_something_else(stage: _Stage) -> None:
    client = stage.connect()
    assert client.error("Forbidden") == (Code.PERMISSION_DENIED, f"process {os.getpid()} may not call test")
    assert client.error("Forbidden", "nobody")[0] is Code.PERMISSION_DENIED
    assert client.call("Echo", b"x") == b"x"
    assert stage.service.methods == ["Echo"]


def test_a_caller_that_cannot_be_told_loses_its_connection(tmp_path: Path) -> None:
    def fail(_: socket.socket) -> _Caller:
        raise OSError("no credentials")

    server = Server(listen(tmp_path / "s"), {"test": _Service()}, fail)
    server.start()
    client = _Client(tmp_path / "s")
    assert client.is_closed()
    server.stop()
    client.channel.close()
    wait_until(lambda: not server._open, _DEADLINE_S, "the connection's thread to end")


def test_what_is_to_be_done_after_an_answer_does_not_delay_it(stage: _Stage) -> None:
    client = stage.connect()
    assert client.call("FinishLate", b"x") == b"x"
    assert stage.service.finished == []
    stage.service.free.set()
    wait_until(lambda: stage.service.finished == ["FinishLate"], _DEADLINE_S, "what comes after the answer")


def test_it_is_done_for_a_refusal_too_and_for_a_caller_that_has_gone(stage: _Stage) -> None:
    client = stage.connect()
    assert client.error("Refuse")[0] is Code.FAILED_PRECONDITION
    wait_until(lambda: stage.service.finished == ["Refuse"], _DEADLINE_S, "what comes after the refusal")
    client.send("Wait")
    wait_until(lambda: "Wait" in stage.service.methods, _DEADLINE_S, "the request")
    client.channel.close()
    stage.service.free.set()
    wait_until(lambda: stage.service.finished == ["Refuse", "Wait"], _DEADLINE_S, "what comes after the answer")


def test_what_goes_wrong_after_an_answer_ends_no_connection(stage: _Stage, caplog: pytest.LogCaptureFixture) -> None:
    client = stage.connect()
    assert client.call("CrashLater", b"x") == b"x"
    assert client.call("Echo", b"y") == b"y"
    assert [record.getMessage() for record in caplog.records] == ["internal error after an answer"]


@pytest.mark.parametrize(("method", "kind"), [("Crash", "ZeroDivisionError"), ("Large", "LocalProtocolError")])
def test_what_nobody_thought_of_is_answered_internal_and_the_connection_goes_on(
    stage: _Stage, method: str, kind: str
) -> None:
    client = stage.connect()
    assert client.error(method) == (Code.INTERNAL, f"internal error: {kind}")
    assert client.call("Echo", b"still here") == b"still here"


def test_an_unknown_service_is_unimplemented(stage: _Stage) -> None:
    client = stage.connect()
    assert client.error("Echo", "nobody") == (Code.UNIMPLEMENTED, "no service nobody")
    assert client.call("Echo", b"x") == b"x"


@pytest.mark.parametrize("junk", [b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_ttrpc_loses_its_connection_alone(stage: _Stage, junk: bytes) -> None:
    good, bad = stage.connect(), stage.connect()
    bad.channel.sendall(junk)
    assert bad.is_closed()
    assert good.call("Echo", b"x") == b"x"


def test_a_message_above_the_limit_is_answered_without_being_kept(stage: _Stage) -> None:
    client = stage.connect()
    header = (MAX_MESSAGE + 1).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\1\0"
    client.connection.request("test", "Echo", b"")  # stream 1
    client.channel.sendall(header + bytes(MAX_MESSAGE + 1))
    response = client.receive()
    assert response.code is Code.RESOURCE_EXHAUSTED
    assert client.call("Echo", b"next") == b"next"


def test_a_peer_that_goes_in_the_middle_of_a_request_frees_its_place(stage: _Stage) -> None:
    for _ in range(module.MAX_CONNECTIONS + 5):
        client = stage.connect()
        client.channel.sendall(client.connection.request("test", "Echo", b"cut")[1][:7])
        client.channel.close()
        wait_until(lambda: not stage.server._open, _DEADLINE_S, "the connection to be taken down")
    assert stage.connect().call("Echo", b"x") == b"x"


def test_one_connection_too_many_is_closed_and_the_others_go_on(stage: _Stage) -> None:
    clients = [stage.connect() for _ in range(module.MAX_CONNECTIONS)]
    assert {client.call("Echo", b"x") for client in clients} == {b"x"}
    assert stage.connect().is_closed()
    assert clients[0].call("Echo", b"y") == b"y"
    clients[1].channel.close()
    wait_until(lambda: len(stage.server._open) < module.MAX_CONNECTIONS, _DEADLINE_S, "a free place")

    def served() -> bool:
        try:
            return stage.connect().call("Echo", b"z") == b"z"
        except (EOFError, OSError):
            return False

    assert wait_until(served, _DEADLINE_S, "to be served again")


def test_what_a_caller_asked_before_it_hung_up_is_not_done(stage: _Stage) -> None:
    """Its container has started without us: binding it as held now would unguard it."""
    client = stage.connect()
    client.send("Wait")
    client.send("Bind")
    wait_until(lambda: stage.service.methods == ["Wait"], _DEADLINE_S, "the first request")
    client.channel.close()
    stage.service.free.set()
    wait_until(lambda: not stage.server._open, _DEADLINE_S, "the connection to end")
    assert stage.service.methods == ["Wait"]


def test_a_connection_without_a_thread_is_closed_and_the_next_one_served(
    stage: _Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", refuse)
        assert stage.connect().is_closed()
    assert stage.connect().call("Echo", b"x") == b"x"


def test_stopping_closes_every_connection(stage: _Stage) -> None:
    client = stage.connect()
    assert client.call("Echo", b"x") == b"x"
    stage.stop()
    assert client.is_closed()
    with pytest.raises(OSError, match=r"refused"):
        stage.connect()


def test_the_socket_is_for_its_owner_and_group(stage: _Stage) -> None:
    assert stage.path.stat().st_mode & 0o777 == 0o660
    assert os.listdir(stage.path.parent) == ["agent.sock"]


def test_what_an_earlier_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep/agent.sock"
    old = listen(path)
    new = listen(path)
    client = _Client(path)
    accepted, _ = new.accept()
    old.setblocking(False)
    with pytest.raises(BlockingIOError):
        old.accept()
    for each in (old, new, accepted, client.channel):
        each.close()


def test_only_a_connection_of_an_urgent_service_hurries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried: list[int] = []

    def note() -> str:
        hurried.append(threading.get_ident())
        return ""

    monkeypatch.setattr(module, "set_realtime", note)
    calm, hook = _Service(), _Service()
    server = Server(listen(tmp_path / "s"), {"calm": calm, "hook": hook}, _admit, frozenset({"hook"}))
    server.start()
    clients = [_Client(tmp_path / "s") for _ in range(2)]
    assert clients[0].error("Forbidden", "hook")[0] is Code.PERMISSION_DENIED
    for client, service in zip(clients, ("calm", "hook"), strict=True):
        for _ in range(3):
            client.call("Echo", b"", service)
    assert hurried == list(hook.threads)
    server.stop()
    for client in clients:
        client.channel.close()
    wait_until(lambda: not server._open, _DEADLINE_S, "the connections' threads to end")


def test_one_that_may_call_nothing_is_told_so_once(stage: _Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Caller, "is_unwelcome", lambda _: True)
    client = stage.connect()
    assert client.error("Forbidden")[0] is Code.PERMISSION_DENIED
    assert client.is_closed()


def test_those_that_may_call_nothing_keep_nobody_out(stage: _Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Caller, "is_unwelcome", lambda _: True)
    silent = [stage.connect() for _ in range(MAX_CONNECTIONS + 8)]
    wait_until(lambda: stage.server._unwelcome._value == 0, _DEADLINE_S, "as many as are let wait")
    monkeypatch.setattr(_Caller, "is_unwelcome", lambda _: False)

    def answers() -> bool:
        client = stage.connect()
        try:
            return client.call("Echo", b"x") == b"x"
        except (EOFError, OSError):
            return False

    wait_until(answers, _DEADLINE_S, "an answer beside them")
    assert len(silent) > MAX_CONNECTIONS


def test_one_that_says_nothing_is_not_waited_for(stage: _Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.hooks.server.FIRST_REQUEST_S", 1)
    assert stage.connect().is_closed()
