# SPDX-License-Identifier: Apache-2.0
"""CriClient on a unix socket: against a scripted HTTP/2 server that breaks off, stalls and talks nonsense, and against
grpc's own server, which owes nothing to our code."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import hpack
import pytest

from agent.cri.api import cri_pb2
from agent.cri.client import SERVICE, CriClient, find_socket
from agent.cri.errors import CriProtocolError, CriRefused, CriUnreachable
from agent.cri.frames import MAX_FRAME, Flag, FrameReader, FrameType, write_frame
from agent.cri.http2 import PREFACE
from agent.cri.messages import MAX_MESSAGE, encode_message
from agent.cri.model import CriProcess, CriVersion, State
from nri_plugin.ttrpc import Code
from tests.support.wait import wait_until

VERSION = cri_pb2.VersionResponse(runtime_name="fake", runtime_version="9.9", runtime_api_version="v1")
TOLD = CriVersion("fake", "9.9", "v1")
HELLO = ((":status", "200"), ("content-type", "application/grpc"))
SETTINGS = write_frame(FrameType.SETTINGS, 0, 0, b"")
DEADLINE_S = 0.3
# Nothing in these tests takes this long unless it is broken.
PATIENCE_S = 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
def client(path: Path) -> Iterator[CriClient]:
    made = CriClient(path, DEADLINE_S)
    yield made
    made.close()


class Wire:
    """The server's end of one connection, frame by frame."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._frames = FrameReader()
        self._encoder = hpack.Encoder()
        self._preface = b""

    def await_call(self) -> int:
        """The stream of the next call, once its request is whole; 0 when the client has gone."""
        while len(self._preface) < len(PREFACE):
            piece = self.sock.recv(len(PREFACE) - len(self._preface))
            if not piece:
                return 0
            self._preface += piece
        while True:
            while (frame := self._frames.next_frame()) is not None:
                if frame.type == FrameType.DATA and frame.flags & Flag.END_STREAM:
                    return frame.stream_id
            data = self.sock.recv(1 << 16)
            if not data:
                return 0
            self._frames.receive_data(data)

    def headers(self, stream_id: int, fields: tuple[tuple[str, str], ...], *, end: bool = False) -> bytes:
        flags = Flag.END_HEADERS | (Flag.END_STREAM if end else 0)
        return write_frame(FrameType.HEADERS, flags, stream_id, self._encoder.encode(fields))

    def answer(self, stream_id: int, message: bytes = VERSION.SerializeToString()) -> bytes:
        data = write_frame(FrameType.DATA, 0, stream_id, encode_message(message))
        return self.headers(stream_id, HELLO) + data + self.headers(stream_id, (("grpc-status", "0"),), end=True)

    def answer_calls(self) -> None:
        """As a healthy server does, until the client goes."""
        while stream_id := self.await_call():
            self.sock.sendall((SETTINGS if stream_id == 1 else b"") + self.answer(stream_id))

    def await_end(self) -> None:
        """Until the client has closed."""
        while self.sock.recv(1 << 16):
            pass


Script = Callable[[Wire], None]


@dataclass
class ScriptedServer:
    """Plays one script for each connection, the last one for all further ones."""

    path: Path
    scripts: list[Script]
    accepted: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> ScriptedServer:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self._listener.close()
        self.path.unlink()
        assert self.failures == []

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts[min(self.accepted, len(self.scripts) - 1)]
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._play, args=(sock, script)))
            self._threads[-1].start()

    def _play(self, sock: socket.socket, script: Script) -> None:
        sock.settimeout(PATIENCE_S)
        try:
            with sock, contextlib.suppress(ConnectionError):
                script(Wire(sock))
        except (TimeoutError, AssertionError) as error:
            self.failures.append(error)


def serving(path: Path, *scripts: Script) -> ScriptedServer:
    return ScriptedServer(path, list(scripts))


def reply_once(make: Callable[[Wire, int], bytes]) -> Script:
    """Answers the first call with these bytes, then waits until the client has closed."""

    def script(wire: Wire) -> None:
        stream_id = wire.await_call()
        wire.sock.sendall(SETTINGS + make(wire, stream_id))
        wire.await_end()

    return script


def test_a_kept_connection_carries_call_after_call(path: Path, client: CriClient) -> None:
    with serving(path, Wire.answer_calls) as server:
        assert [client.version() for _ in range(3)] == [TOLD] * 3
        client.close()
    assert server.accepted == 1


def test_frames_may_come_torn(path: Path, client: CriClient) -> None:
    def script(wire: Wire) -> None:
        for byte in SETTINGS + wire.answer(wire.await_call()):
            wire.sock.sendall(bytes((byte,)))
        wire.await_end()

    with serving(path, script):
        assert client.version() == TOLD
        client.close()


def test_no_socket_and_nobody_listening_are_unreachable(path: Path, client: CriClient) -> None:
    with pytest.raises(CriUnreachable, match="No such file"):
        client.version()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(CriUnreachable, match="Version: Connection refused") as caught:
            client.version()
    assert caught.value.path == str(path)


def test_a_listener_that_never_accepts_is_given_up(path: Path, client: CriClient) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(str(path))
        began = time.monotonic()
        with pytest.raises(CriUnreachable, match="no answer to Version in time"):
            client.version()
        assert DEADLINE_S <= time.monotonic() - began < DEADLINE_S + 1


def test_silence_ends_at_the_deadline_and_so_does_a_trickle(path: Path, client: CriClient) -> None:
    def trickle(wire: Wire) -> None:
        wire.await_call()
        wire.sock.sendall(SETTINGS)
        wire.sock.settimeout(0.02)
        while True:
            with contextlib.suppress(TimeoutError):
                wire.await_end()
                return
            wire.sock.sendall(write_frame(FrameType.PING, 0, 0, bytes(8)))

    with serving(path, Wire.await_end, trickle) as server:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(CriUnreachable, match="no answer to Version in time"):
                client.version()
            assert DEADLINE_S <= time.monotonic() - began < DEADLINE_S + 1
    assert server.accepted == 2


def test_a_late_answer_is_never_the_next_calls(path: Path, client: CriClient) -> None:
    def late(wire: Wire) -> None:
        stream_id = wire.await_call()
        wire.await_end()
        wire.sock.sendall(wire.answer(stream_id, b"late"))

    with serving(path, late, Wire.answer_calls):
        with pytest.raises(CriUnreachable, match="in time"):
            client.version()
        assert client.version() == TOLD
        client.close()


@pytest.mark.parametrize("farewell", ["eof", "goaway", "refused", "goaway after", "reset by death"])
def test_a_kept_connection_that_has_ended_is_made_anew_once(path: Path, client: CriClient, farewell: str) -> None:
    def old(wire: Wire) -> None:
        wire.sock.sendall(SETTINGS + wire.answer(wire.await_call()))
        if farewell == "goaway after":
            wire.sock.sendall(write_frame(FrameType.GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0"))
        elif farewell == "reset by death":
            wire.await_call()
            wire.sock.sendall(wire.headers(3, HELLO))
        elif farewell == "goaway":
            wire.await_call()
            wire.sock.sendall(write_frame(FrameType.GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0"))
        elif farewell == "refused":
            wire.await_call()
            wire.sock.sendall(write_frame(FrameType.RST_STREAM, 0, 3, b"\0\0\0\7"))

    with serving(path, old, Wire.answer_calls) as server:
        assert client.version() == TOLD
        assert client.version() == TOLD
        assert client.version() == TOLD
        client.close()
    assert server.accepted == 2


def test_a_fresh_connection_that_ends_is_not_tried_again(path: Path, client: CriClient) -> None:
    def script(wire: Wire) -> None:
        wire.await_call()

    with serving(path, script) as server, pytest.raises(CriUnreachable, match="ended before the answer"):
        client.version()
    assert server.accepted == 1


def test_goaway_on_a_fresh_connection_says_so(path: Path, client: CriClient) -> None:
    farewell = write_frame(FrameType.GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0b")
    with serving(path, reply_once(lambda _wire, _id: farewell)) as server:
        with pytest.raises(CriUnreachable, match="Version: the runtime ends the connection: ENHANCE_YOUR_CALM"):
            client.version()
        assert server.accepted == 1


def test_goaway_in_the_middle_lets_the_call_end_and_the_next_connects(path: Path, client: CriClient) -> None:
    def middle(wire: Wire, stream_id: int) -> bytes:
        whole = wire.answer(stream_id)
        head = 9 + int.from_bytes(whole[:3], "big")
        return whole[:head] + write_frame(FrameType.GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0") + whole[head:]

    with serving(path, reply_once(middle), Wire.answer_calls) as server:
        assert client.version() == TOLD
        assert client.version() == TOLD
        client.close()
    assert server.accepted == 2


def test_a_reset_call_is_unreachable_and_not_made_again(path: Path, client: CriClient) -> None:
    def reset(_wire: Wire, stream_id: int) -> bytes:
        return write_frame(FrameType.RST_STREAM, 0, stream_id, b"\0\0\0\2")

    with serving(path, reply_once(reset)) as server:
        with pytest.raises(CriUnreachable, match="Version: the call was reset: INTERNAL_ERROR"):
            client.version()
        assert server.accepted == 1


NONSENSE: dict[str, tuple[Callable[[Wire, int], bytes], str]] = {
    "huge frame": (lambda _w, _s: b"\xff\xff\xff\0\0\0\0\0\1", "16777215 bytes announced"),
    "huge message": (
        lambda w, s: w.headers(s, HELLO) + write_frame(FrameType.DATA, 0, s, b"\0\xff\xff\xff\xff"),
        "4294967295 bytes announced",
    ),
    "endless continuation": (
        lambda _w, s: (
            write_frame(FrameType.HEADERS, 0, s, b"") + write_frame(FrameType.CONTINUATION, 0, s, b"\0" * 9) * 5000
        ),
        "a header block of more than",
    ),
    "another protocol": (lambda _w, _s: b"HTTP/1.1 400 Bad Request\r\n\r\n", "bytes announced"),
    "no message of the interface": (lambda w, s: w.answer(s, b"\xff"), "Version: not a VersionResponse"),
    "http error": (lambda w, s: w.headers(s, ((":status", "503"),), end=True), "HTTP status '503'"),
}


@pytest.mark.parametrize("name", sorted(NONSENSE))
def test_nonsense_is_a_protocol_error_and_ends_the_connection(path: Path, client: CriClient, name: str) -> None:
    make, words = NONSENSE[name]

    def script(wire: Wire) -> None:
        wire.sock.sendall(SETTINGS + make(wire, wire.await_call()))
        if name != "no message of the interface":
            wire.await_end()

    with serving(path, script, Wire.answer_calls):
        with pytest.raises(CriProtocolError, match=words):
            client.version()
        assert client.version() == TOLD
        client.close()


def test_a_runtime_whose_windows_are_shut_is_given_up_at_the_deadline(path: Path, client: CriClient) -> None:
    def shut(wire: Wire) -> None:
        wire.sock.sendall(write_frame(FrameType.SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
        wire.await_end()

    def then_open(wire: Wire) -> None:
        shut_first = write_frame(FrameType.SETTINGS, 0, 0, b"\0\4\0\0\0\1")
        wire.sock.sendall(shut_first + write_frame(FrameType.WINDOW_UPDATE, 0, 0, b"\0\0\0\x64"))
        wire.answer_calls()

    with serving(path, shut, then_open):
        # The first call's request is out before the peer's settings are read; an answer never comes.
        with pytest.raises(CriUnreachable, match="in time"):
            client.version()
        assert client.version() == TOLD
        client.close()


def test_callers_at_once_have_a_connection_each(path: Path) -> None:
    """Every call is in flight before any is answered."""
    together = threading.Barrier(6, timeout=PATIENCE_S)

    def script(wire: Wire) -> None:
        stream_id = wire.await_call()
        if stream_id == 1:
            together.wait()
        wire.sock.sendall(SETTINGS + wire.answer(stream_id))
        wire.answer_calls()

    client = CriClient(path, PATIENCE_S)
    with serving(path, script) as server:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda _: client.version(), range(6))) == [TOLD] * 6
        assert server.accepted == 6
        assert client.version() == TOLD
        assert server.accepted == 6
        client.close()


class Runtime:
    """grpc's own server with a runtime's answers."""

    def __init__(self, path: Path) -> None:
        self.containers = [
            make_container("c1", "s1"),
            make_container("c10", "s1"),
            make_container("c2", "gone"),
            make_container("c3", "s1", cri_pb2.CONTAINER_EXITED),
        ]
        self.pods = {"s1": make_pod("s1")}
        self.calls: list[tuple[str, Any]] = []
        self.metadata: dict[str, Any] = {}
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, lambda reply: reply)
            for name, behaviour, request in (
                ("Version", self._version, cri_pb2.VersionRequest),
                ("ListContainers", self._list, cri_pb2.ListContainersRequest),
                ("PodSandboxStatus", self._pod, cri_pb2.PodSandboxStatusRequest),
                ("ContainerStatus", self._status, cri_pb2.ContainerStatusRequest),
            )
        }
        options = (("grpc.max_send_message_length", -1),)
        self.server = grpc.server(ThreadPoolExecutor(4), options=options)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def _version(self, _request: Any, context: grpc.ServicerContext) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        self.metadata["left"] = context.time_remaining()
        return VERSION.SerializeToString()

    def _list(self, request: cri_pb2.ListContainersRequest, _context: grpc.ServicerContext) -> bytes:
        """The beginning of an id is taken for it, as containerd does."""
        wanted = request.filter
        self.calls.append(("ListContainers", wanted))
        found = [
            container
            for container in self.containers
            if container.id.startswith(wanted.id) and wanted.state.state in (0, container.state)
        ]
        return cri_pb2.ListContainersResponse(containers=found).SerializeToString()

    def _pod(self, request: cri_pb2.PodSandboxStatusRequest, context: grpc.ServicerContext) -> bytes:
        if request.pod_sandbox_id not in self.pods:
            context.abort(grpc.StatusCode.NOT_FOUND, f'sandbox "{request.pod_sandbox_id}" — not found')
        status = self.pods[request.pod_sandbox_id]
        return cri_pb2.PodSandboxStatusResponse(status=status).SerializeToString()

    def _status(self, request: cri_pb2.ContainerStatusRequest, context: grpc.ServicerContext) -> bytes:
        if request.container_id == "denied":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you: 50% of «calls»")
        known = {container.id for container in self.containers}
        if request.container_id not in known:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        info = {"pid": 4242, "runtimeSpec": {"linux": {"cgroupsPath": "kubepods.slice:cri-containerd:c1"}}}
        status = cri_pb2.ContainerStatus(id=request.container_id)
        return cri_pb2.ContainerStatusResponse(status=status, info={"info": json.dumps(info)}).SerializeToString()


def make_container(
    container_id: str, sandbox: str, state: cri_pb2.ContainerState = cri_pb2.CONTAINER_RUNNING
) -> cri_pb2.Container:
    return cri_pb2.Container(
        id=container_id,
        pod_sandbox_id=sandbox,
        metadata=cri_pb2.ContainerMetadata(name="web"),
        image=cri_pb2.ImageSpec(image="registry/nginx:1"),
        state=state,
        labels={"io.kubernetes.container.name": "web"},
        annotations={"hash": "1"},
    )


def make_pod(sandbox: str) -> cri_pb2.PodSandboxStatus:
    metadata = cri_pb2.PodSandboxMetadata(name="web-0", uid="u-1", namespace="shop")
    return cri_pb2.PodSandboxStatus(id=sandbox, metadata=metadata, labels={"app": "web"}, annotations={"a": "b"})


@pytest.fixture
def runtime(path: Path) -> Iterator[Runtime]:
    made = Runtime(path)
    yield made
    made.server.stop(None).wait(PATIENCE_S)


@pytest.fixture
def patient(path: Path) -> Iterator[CriClient]:
    made = CriClient(path, PATIENCE_S)
    yield made
    made.close()


def test_grpcs_own_server_understands_the_call(runtime: Runtime, patient: CriClient) -> None:
    assert patient.version() == TOLD
    assert runtime.metadata["user-agent"] == "podgate"
    assert PATIENCE_S - 1 < runtime.metadata["left"] <= PATIENCE_S


def test_identify_gives_container_and_pod(runtime: Runtime, patient: CriClient) -> None:
    found = patient.identify("c1")
    assert found is not None
    assert found.container is not None
    assert not found.is_sandbox
    assert (found.container.id, found.container.name, found.container.state) == ("c1", "web", State.RUNNING)
    assert found.container.labels == {"io.kubernetes.container.name": "web"}
    assert (found.container.image, found.container.annotations) == ("registry/nginx:1", {"hash": "1"})
    assert (found.pod.namespace, found.pod.name, found.pod.uid) == ("shop", "web-0", "u-1")
    assert (found.pod.labels, found.pod.annotations) == ({"app": "web"}, {"a": "b"})
    assert [name for name, _ in runtime.calls] == ["ListContainers"]


@pytest.mark.usefixtures("runtime")
def test_a_sandboxs_own_id_is_the_pods_pause_container(patient: CriClient) -> None:
    found = patient.identify("s1")
    assert found is not None
    assert found.is_sandbox
    assert found.pod.name == "web-0"


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("container_id", ["nobody", "c", ""])
def test_what_the_runtime_does_not_know_is_none(patient: CriClient, container_id: str) -> None:
    """The beginning of an id names nothing, though the runtime takes it."""
    assert patient.identify(container_id) is None
    assert patient.find_container(container_id) is None
    assert patient.find_pod(container_id) is None
    assert patient.pid_of(container_id) is None


@pytest.mark.usefixtures("runtime")
def test_a_container_whose_pod_is_gone_is_not_identified(patient: CriClient) -> None:
    assert patient.find_container("c2") is not None
    assert patient.identify("c2") is None


def test_a_pod_of_another_id_is_not_taken(runtime: Runtime, patient: CriClient) -> None:
    runtime.pods["s"] = make_pod("s1")
    assert patient.find_pod("s") is None


@pytest.mark.usefixtures("runtime")
def test_running_containers_are_listed(patient: CriClient) -> None:
    assert [container.id for container in patient.running()] == ["c1", "c10", "c2"]


@pytest.mark.usefixtures("runtime")
def test_the_process_comes_from_the_verbose_status(patient: CriClient) -> None:
    assert patient.find_process("c1") == CriProcess(4242, "kubepods.slice:cri-containerd:c1")
    assert patient.pid_of("c1") == 4242


@pytest.mark.usefixtures("runtime")
def test_a_refusal_carries_code_and_text(patient: CriClient) -> None:
    with pytest.raises(CriRefused, match="ContainerStatus: PERMISSION_DENIED: not you: 50% of «calls»") as caught:
        patient.pid_of("denied")
    assert caught.value.code is Code.PERMISSION_DENIED
    assert patient.version() == TOLD


def test_a_method_that_the_runtime_lacks_is_refused(runtime: Runtime, path: Path) -> None:
    runtime.server.stop(None).wait(PATIENCE_S)
    bare = grpc.server(ThreadPoolExecutor(1))
    bare.add_insecure_port(f"unix:{path}")
    bare.start()
    client = CriClient(path, PATIENCE_S)
    with pytest.raises(CriRefused) as caught:
        client.version()
    assert caught.value.code is Code.UNIMPLEMENTED
    client.close()
    bare.stop(None).wait(PATIENCE_S)


def test_a_large_nodes_list_comes_through_and_a_larger_one_is_refused(runtime: Runtime, patient: CriClient) -> None:
    """Of 15 MiB, through windows of 1 MiB; then one above the limit."""
    large = [make_container(f"x{number}", "s1") for number in range(1500)]
    for container in large:
        container.annotations["big"] = "y" * 10_000
    runtime.containers = large
    assert MAX_MESSAGE * 0.9 < cri_pb2.ListContainersResponse(containers=large).ByteSize() < MAX_MESSAGE
    found = patient.running()
    assert [container.id for container in found] == [container.id for container in large]
    assert found[-1].annotations["big"] == "y" * 10_000
    runtime.containers = large + large
    with pytest.raises(CriProtocolError, match=f"bytes announced, the limit is {MAX_MESSAGE}"):
        patient.running()
    assert patient.version() == TOLD


def test_a_runtime_that_restarts_is_reached_again(path: Path, patient: CriClient) -> None:
    first = Runtime(path)
    assert patient.version() == TOLD
    first.server.stop(None).wait(PATIENCE_S)
    wait_until(lambda: not path.exists(), PATIENCE_S, "the old socket to go")
    second = Runtime(path)
    assert patient.version() == TOLD
    second.server.stop(None).wait(PATIENCE_S)


def test_threads_share_a_client(runtime: Runtime, patient: CriClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: patient.identify(f"c{number % 2 * 9 + 1}"), range(200)))
    ids = [identified.container.id for identified in found if identified and identified.container]
    assert ids == ["c1", "c10"] * 100
    assert len(runtime.calls) == 200


def test_the_first_socket_at_which_somebody_accepts_is_found(tmp_path: Path) -> None:
    plain, dead, alive = (tmp_path / name for name in ("plain", "dead", "alive"))
    plain.touch()
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as listener:
        silent.bind(str(dead))
        candidates = (tmp_path / "absent", plain, dead, alive)
        assert find_socket(candidates) is None
        listener.bind(str(alive))
        listener.listen()
        assert find_socket(candidates) == alive
        assert find_socket(()) is None


def test_frames_of_the_largest_size_are_taken(path: Path, client: CriClient) -> None:
    """An unknown frame of 16,384 bytes before the answer."""
    unknown = MAX_FRAME.to_bytes(3, "big") + b"\xfa\0\0\0\0\0" + bytes(MAX_FRAME)
    with serving(path, reply_once(lambda wire, stream_id: unknown + wire.answer(stream_id))):
        assert client.version() == TOLD
        client.close()
