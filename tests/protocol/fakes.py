# SPDX-License-Identifier: Apache-2.0
"""The scripted peers: a container runtime, the agent, and a tap on the plugin's log."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

from nri_plugin.api import nri_pb2
from nri_plugin.config import PluginConfig
from nri_plugin.handlers import PLUGIN_SERVICE
from nri_plugin.plugin import Plugin
from nri_plugin.ttrpc import (
    PLUGIN_CONNECTION,
    RUNTIME_CONNECTION,
    ClientConnection,
    Code,
    MuxReader,
    Request,
    Response,
    ServerConnection,
    mux_frames,
)
from rthook.api import hook_pb2

# Nothing in these tests takes this long unless it is broken.
PATIENCE_S = 5.0


# A process that lives as long as the test: what has ended is not told to the agent again.
PID = os.getpid()
# What the runtime says that it waits, milliseconds: short enough for tests that run into the shares of it.
REQUEST_TIMEOUT_MS = 500


def make_pod(uid: str = "uid-1", pid: int = 0) -> nri_pb2.PodSandbox:
    return nri_pb2.PodSandbox(
        id="sandbox-1",
        name="web-0",
        uid=uid,
        namespace="shop",
        labels={"app": "web"},
        pid=pid,
        linux=nri_pb2.LinuxPodSandbox(cgroup_parent="/kubepods/pod1", cgroups_path="/kubepods/pod1/sandbox-1"),
    )


def make_container(
    container_id: str = "c1", pid: int = PID, state: "nri_pb2.ContainerState" = nri_pb2.CONTAINER_CREATED
) -> nri_pb2.Container:
    return nri_pb2.Container(
        id=container_id,
        pod_sandbox_id="sandbox-1",
        name="nginx",
        state=state,
        pid=pid,
        annotations={"io.kubernetes.cri.image-name": "registry/nginx:1"},
        linux=nri_pb2.LinuxContainer(cgroups_path="/kubepods/pod1/c1"),
    )


def start_event(container: nri_pb2.Container) -> bytes:
    """The payload of the StateChange that tells a container's start."""
    event = nri_pb2.StateChangeEvent(event=nri_pb2.START_CONTAINER, pod=make_pod(), container=container)
    return event.SerializeToString()


def configure_message(
    runtime: str = "fake", timeout_ms: int = REQUEST_TIMEOUT_MS, config: str = "", version: str = "1.0"
) -> bytes:
    """The payload of Configure."""
    request = nri_pb2.ConfigureRequest(
        runtime_name=runtime, runtime_version=version, request_timeout=timeout_ms, config=config
    )
    return request.SerializeToString()


@dataclass(frozen=True, slots=True)
class Generation:
    """How a runtime tells an event: up to NRI 0.11 as StateChange, later by a call of its own."""

    own_calls: bool

    def run_sandbox(self, pod: nri_pb2.PodSandbox) -> tuple[str, bytes]:
        """Method and payload; the others alike."""
        own = nri_pb2.RunPodSandboxRequest(pod=pod)
        return self._tell("RunPodSandbox", own, nri_pb2.RUN_POD_SANDBOX, pod)

    def remove_sandbox(self, pod: nri_pb2.PodSandbox) -> tuple[str, bytes]:
        own = nri_pb2.RemovePodSandboxRequest(pod=pod)
        return self._tell("RemovePodSandbox", own, nri_pb2.REMOVE_POD_SANDBOX, pod)

    def start(self, container: nri_pb2.Container, pod: nri_pb2.PodSandbox | None = None) -> tuple[str, bytes]:
        pod = make_pod() if pod is None else pod
        own = nri_pb2.StartContainerRequest(pod=pod, container=container)
        return self._tell("StartContainer", own, nri_pb2.START_CONTAINER, pod, container)

    def remove(self, container: nri_pb2.Container) -> tuple[str, bytes]:
        own = nri_pb2.RemoveContainerRequest(pod=make_pod(), container=container)
        return self._tell("RemoveContainer", own, nri_pb2.REMOVE_CONTAINER, make_pod(), container)

    def _tell(
        self,
        method: str,
        own: Message,
        event: "nri_pb2.Event",
        pod: nri_pb2.PodSandbox,
        container: nri_pb2.Container | None = None,
    ) -> tuple[str, bytes]:
        if self.own_calls:
            return method, own.SerializeToString()
        change = nri_pb2.StateChangeEvent(event=event, pod=pod, container=container)
        return "StateChange", change.SerializeToString()


GENERATIONS = (Generation(own_calls=False), Generation(own_calls=True))


class RuntimeSide:
    """The runtime's end of one NRI connection. Reads block for PATIENCE_S at most."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock
        self._mux = MuxReader()
        self.client = ClientConnection()
        self.server = ServerConnection()
        self._requests: list[Request] = []
        self._responses: dict[int, Response] = {}

    def read(self) -> bool:
        """Read once; False at EOF."""
        data = self.sock.recv(1 << 16)
        for conn_id, piece in self._mux.receive_data(data):
            if conn_id == RUNTIME_CONNECTION:
                self._requests += self.server.receive_data(piece)
            else:
                self._responses.update((answer.stream_id, answer) for answer in self.client.receive_data(piece))
        return bool(data)

    def read_to_end(self) -> None:
        """Return once the plugin has closed; TimeoutError if it does not."""
        with contextlib.suppress(ConnectionResetError):
            while self.read():
                pass

    def next_request(self) -> Request:
        """The plugin's next call."""
        while not self._requests:
            assert self.read(), "the plugin closed instead of calling"
        return self._requests.pop(0)

    def answer(self, stream_id: int) -> None:
        """An empty answer, as RegisterPlugin gets it."""
        self.sock.sendall(mux_frames(RUNTIME_CONNECTION, self.server.respond(stream_id, b"")))

    def ask(self, method: str, payload: bytes, timeout_ns: int = 0) -> int:
        """Send a call without waiting; its stream id."""
        stream_id, frame = self.client.request(PLUGIN_SERVICE, method, payload, timeout_ns)
        self.sock.sendall(mux_frames(PLUGIN_CONNECTION, frame))
        return stream_id

    def await_answer(self, stream_id: int) -> Response:
        while stream_id not in self._responses:
            assert self.read(), "the plugin closed instead of answering"
        return self._responses.pop(stream_id)

    def call(self, method: str, payload: bytes = b"", timeout_ns: int = 0) -> Response:
        return self.await_answer(self.ask(method, payload, timeout_ns))

    def bring_up(
        self,
        containers: Iterable[nri_pb2.Container] = (),
        configure: bytes | None = None,
        pod: nri_pb2.PodSandbox | None = None,
    ) -> None:
        """Registration, configuration and synchronization, as containerd does them."""
        self.answer(self.next_request().stream_id)
        configured = self.call("Configure", configure_message() if configure is None else configure)
        assert configured.code is Code.OK
        inventory = nri_pb2.SynchronizeRequest(pods=[make_pod() if pod is None else pod], containers=containers)
        assert self.call("Synchronize", inventory.SerializeToString()).code is Code.OK


class FakeRuntime:
    """Listens at `path` until closed; the socket file then goes away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(PATIENCE_S)
        self._listener.bind(str(path))
        self._listener.listen()
        self._sides: list[RuntimeSide] = []

    def accept(self) -> RuntimeSide:
        """The plugin's next connection."""
        side = RuntimeSide(self._listener.accept()[0])
        self._sides.append(side)
        return side

    def close(self) -> None:
        self._listener.close()
        for side in self._sides:
            side.sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection, `after_s` seconds later, after sending `first` of what is not an answer."""

    first: bytes = b""
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Raw:
    """Send this instead of an answer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Trickle:
    """Send this a byte at a time, `gap_s` seconds apart."""

    data: bytes
    gap_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    code: Code
    message: str


Reaction = bytes | Refusal | Hang | HangUp | Raw | Trickle


def agree(request: Request) -> Reaction:
    """What a healthy agent answers."""
    answers = {
        "Bind": hook_pb2.BindResponse(cgroup_id=77, workload_id=5, policies=3, bind_us=120),
        "Unbind": hook_pb2.UnbindResponse(was_bound=True),
        "Synchronize": hook_pb2.SynchronizeResponse(bound=1),
        "Report": hook_pb2.ReportResponse(),
    }
    return answers[request.method].SerializeToString()


@dataclass
class FakeAgent:
    """Answers at `path`, in a thread, as `react` says; keeps what it was asked."""

    path: Path
    react: Callable[[Request], Reaction] = agree
    requests: list[Request] = field(default_factory=list)
    accepted: int = 0

    def __enter__(self) -> "FakeAgent":
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gone, with its socket file and all connections, when this returns."""
        self._ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE_S)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()
        os.unlink(self.path)

    def await_requests(self, method: str, count: int = 1) -> list[Request]:
        """The first `count` requests of `method`, once they have come."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self._of(method)) >= count, PATIENCE_S)
            assert came, f"{len(self._of(method))} of {count} {method} calls came"
            return self._of(method)[:count]

    def _of(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        connection = ServerConnection()
        with sock, contextlib.suppress(ConnectionError):
            while data := sock.recv(1 << 16):
                for request in connection.receive_data(data):
                    if not self._react(sock, connection, request):
                        return

    def _react(self, sock: socket.socket, connection: ServerConnection, request: Request) -> bool:
        """False to hang up."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        match self.react(request):
            case bytes() as payload:
                sock.sendall(connection.respond(request.stream_id, payload))
            case Refusal(code, message):
                sock.sendall(connection.respond_error(request.stream_id, code, message))
            case Raw(data):
                sock.sendall(data)
            case Trickle(data, gap_s):
                for i in range(len(data)):
                    sock.sendall(data[i : i + 1])
                    self._ending.wait(gap_s)
            case HangUp(first, after_s):
                self._ending.wait(after_s)
                sock.sendall(first)
                return False
        return True


class LogTap(logging.Handler):
    """Keeps the plugin's log records and waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def named(self, event: str) -> list[logging.LogRecord]:
        return [record for record in self._records if record.getMessage() == event]

    def await_event(self, event: str, count: int = 1) -> logging.LogRecord:
        """The record number `count` of this event, once it has come."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.named(event)) >= count, PATIENCE_S)
            assert came, f"no {event}: {[record.getMessage() for record in self._records]}"
            return self.named(event)[count - 1]


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The structured part of a record."""
    return dict(vars(record)["fields"])


@contextlib.contextmanager
def running(config: PluginConfig) -> Iterator[Plugin]:
    """The plugin's loop in a thread, stopped at the end; it must end by itself then."""
    plugin = Plugin(config)
    thread = threading.Thread(target=plugin.run)
    thread.start()
    try:
        yield plugin
    finally:
        plugin.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the plugin did not stop"
