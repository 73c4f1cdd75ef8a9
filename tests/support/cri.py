# SPDX-License-Identifier: Apache-2.0
"""A client of the Container Runtime Interface that does what a kubelet does, for tests: pods, containers, their output.

Calls raise grpc.RpcError as the runtime answered (`error.code()`, `error.details()`). One Cri may be used by several
threads at once. Pods use the node's network namespace, so no CNI is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from tests.support import cri_pb2 as pb
from tests.support.image import BUSYBOX
from tests.support.wait import wait_until

Reply = TypeVar("Reply", bound=Message)

# A start held by a hook that waits is bounded by the hook's own deadline, well below this.
CALL_TIMEOUT_S = 60.0
CHANNEL_OPTIONS = (
    # grpc would put the socket's escaped path there, which containerd's Go server refuses.
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    # After a restart of the runtime: try again at once instead of after grpc's second.
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 200),
)
# The kubelet's default period of CPU quotas (--cpu-cfs-quota-period).
CPU_PERIOD_US = 100_000
# The labels that a kubelet gives every pod and container (pkg/kubelet/types/labels.go).
POD_NAME_LABEL = "io.kubernetes.pod.name"
POD_NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
POD_UID_LABEL = "io.kubernetes.pod.uid"
CONTAINER_NAME_LABEL = "io.kubernetes.container.name"
# The annotations that a kubelet gives a static pod, one from a file on the node (pkg/kubelet/types/pod_update.go).
CONFIG_HASH_ANNOTATION = "kubernetes.io/config.hash"
CONFIG_SEEN_ANNOTATION = "kubernetes.io/config.seen"
CONFIG_SOURCE_ANNOTATION = "kubernetes.io/config.source"
# How often the kubelet has started a container before (pkg/kubelet/kuberuntime/labels.go).
RESTARTS_ANNOTATION = "io.kubernetes.container.restartCount"


class State(Enum):
    """ContainerState of the CRI."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod to run. `labels` are the pod's own; the kubelet's are added. Without a uid, one is made from the name."""

    name: str
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    handler: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod sandbox that runs."""

    id: str
    spec: PodSpec
    config: pb.PodSandboxConfig
    logs: Path


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to create; `command` replaces the image's entrypoint, `args` follow it. `mounts`: inside → host.

    `attempt` counts the kubelet's restarts: a container of the same name in the same pod needs another one.
    Limits of 0 are none: `memory_bytes`, and `cpu_quota_us` in each 100 ms.
    """

    name: str = "main"
    image: str = BUSYBOX.reference
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    privileged: bool = False
    memory_bytes: int = 0
    cpu_quota_us: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was created."""

    id: str
    name: str
    pod: Pod
    attempt: int = 0

    @property
    def log(self) -> Path:
        """The log file that the runtime writes."""
        return self.pod.logs / log_name(self.name, self.attempt)


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of ListContainers."""

    id: str
    pod_id: str
    name: str
    attempt: int
    state: State
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PodStatus:
    """PodSandboxStatus of the CRI; `created_at` in nanoseconds since 1970."""

    ready: bool
    name: str
    namespace: str
    uid: str
    created_at: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """ContainerStatus of the CRI; times in nanoseconds since 1970, 0 where not reached."""

    state: State
    exit_code: int
    reason: str
    message: str
    started_at: int
    finished_at: int


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command run inside a container gave."""

    exit_code: int
    stdout: str
    stderr: str


class InitError(Exception):
    """A pod's init container did not end with 0; carries the container and what it left."""

    def __init__(self, container: Container, exit_code: int, log: str) -> None:
        super().__init__(container, exit_code, log)
        self.container = container
        self.exit_code = exit_code
        self.log = log

    def __str__(self) -> str:
        return f"init container {self.container.name} ended with {self.exit_code}: {self.log}"


def log_name(name: str, attempt: int) -> str:
    """Of a container's log file, in its pod's directory; each attempt has its own."""
    return f"{name}/{attempt}.log"


def static_pod(name: str, namespace: str = "kube-system", labels: Mapping[str, str] | None = None) -> PodSpec:
    """A pod as the kubelet runs it from a file on the node: the file's hash is its uid, and annotations say so."""
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:32]
    annotations = {
        CONFIG_HASH_ANNOTATION: digest,
        CONFIG_SEEN_ANNOTATION: "2025-01-01T00:00:00.000000000Z",
        CONFIG_SOURCE_ANNOTATION: "file",
    }
    return PodSpec(name, namespace, labels or {}, uid=digest, annotations=annotations)


def parse_cri_log(text: str) -> str:
    """The container's own output from a CRI log: lines of `TIME STREAM TAG TEXT`, where tag P means the line goes on.

    Raises ValueError for a line that has not these four parts.
    """
    out: list[str] = []
    for line in text.splitlines():
        parts = line.split(" ", 3)
        if len(parts) != 4 or parts[1] not in ("stdout", "stderr") or parts[2] not in ("P", "F"):
            raise ValueError(f"not a CRI log line: {line!r}")
        out.append(parts[3] + ("\n" if parts[2] == "F" else ""))
    return "".join(out)


class Cri:
    """One connection to a runtime's CRI socket. Pods go below `cgroup_parent`, logs below `logs`."""

    def __init__(self, socket: Path, cgroup_parent: str, logs: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}", options=CHANNEL_OPTIONS)
        self._cgroup_parent = cgroup_parent
        self._logs = logs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight fail."""
        self._channel.close()

    def _call(self, path: str, request: Message, reply: type[Reply], timeout_s: float = CALL_TIMEOUT_S) -> Reply:
        method: grpc.UnaryUnaryMultiCallable[Message, Reply] = self._channel.unary_unary(
            f"/runtime.v1.{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return method(request, timeout=timeout_s)

    def _runtime(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        return self._call(f"RuntimeService/{method}", request, reply)

    def version(self, timeout_s: float = CALL_TIMEOUT_S) -> str:
        """The runtime's version, such as 2.1.9."""
        reply = self._call("RuntimeService/Version", pb.VersionRequest(), pb.VersionResponse, timeout_s)
        return reply.runtime_version

    def images(self) -> set[str]:
        """The references of the images that containers can be made of."""
        reply = self._call("ImageService/ListImages", pb.ListImagesRequest(), pb.ListImagesResponse)
        return {tag for image in reply.images for tag in image.repo_tags}

    def run_pod(self, spec: PodSpec) -> Pod:
        """RunPodSandbox: returns when the sandbox process runs."""
        config = self._pod_config(spec)
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=spec.handler)
        reply = self._runtime("RunPodSandbox", request, pb.RunPodSandboxResponse)
        return Pod(reply.pod_sandbox_id, spec, config, Path(config.log_directory))

    def _pod_config(self, spec: PodSpec) -> pb.PodSandboxConfig:
        uid = spec.uid or f"uid-{spec.namespace}-{spec.name}"
        logs = self._logs / f"{spec.namespace}_{spec.name}_{uid}"
        logs.mkdir(parents=True, exist_ok=True)
        kubelet = {POD_NAME_LABEL: spec.name, POD_NAMESPACE_LABEL: spec.namespace, POD_UID_LABEL: uid}
        security = pb.LinuxSandboxSecurityContext(namespace_options=_namespaces())
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=spec.name, uid=uid, namespace=spec.namespace),
            log_directory=str(logs),
            labels={**spec.labels, **kubelet},
            annotations=dict(spec.annotations),
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"{self._cgroup_parent}/pod{uid}", security_context=security),
        )

    def create(self, pod: Pod, spec: ContainerSpec) -> Container:
        """CreateContainer in a pod that runs."""
        (pod.logs / log_name(spec.name, spec.attempt)).parent.mkdir(exist_ok=True)
        request = pb.CreateContainerRequest(
            pod_sandbox_id=pod.id, config=_container_config(pod, spec), sandbox_config=pod.config
        )
        reply = self._runtime("CreateContainer", request, pb.CreateContainerResponse)
        return Container(reply.container_id, spec.name, pod, spec.attempt)

    def start(self, container: Container) -> None:
        """StartContainer: returns when the entrypoint was let go."""
        self._runtime("StartContainer", pb.StartContainerRequest(container_id=container.id), pb.StartContainerResponse)

    def run(self, pod: Pod, spec: ContainerSpec) -> Container:
        """Create and start a container."""
        container = self.create(pod, spec)
        self.start(container)
        return container

    def run_init(self, pod: Pod, *specs: ContainerSpec) -> list[Container]:
        """Run init containers as the kubelet does: one after the other, each to its end. InitError: one failed."""
        done: list[Container] = []
        for spec in specs:
            container = self.run(pod, spec)
            if code := self.wait_exit(container):
                raise InitError(container, code, self.log_text(container))
            done.append(container)
        return done

    def restart(self, container: Container, spec: ContainerSpec) -> Container:
        """What the kubelet does when a container of `spec` has ended: run another, with the next attempt's number."""
        return self.run(container.pod, dataclasses.replace(spec, name=container.name, attempt=container.attempt + 1))

    def _status(self, container: Container, *, verbose: bool) -> pb.ContainerStatusResponse:
        request = pb.ContainerStatusRequest(container_id=container.id, verbose=verbose)
        return self._runtime("ContainerStatus", request, pb.ContainerStatusResponse)

    def status(self, container: Container) -> ContainerStatus:
        """The container's state now."""
        reply = self._status(container, verbose=False).status
        return ContainerStatus(
            State(reply.state), reply.exit_code, reply.reason, reply.message, reply.started_at, reply.finished_at
        )

    def wait_exit(self, container: Container, deadline_s: float = 20.0) -> int:
        """Wait until the container has ended; its exit code (128 + signal when one killed it).

        Its log is complete then: the runtime reports the end after the output was copied.
        """
        wait_until(
            lambda: self.status(container).state is State.EXITED, deadline_s, f"container {container.name} to exit"
        )
        return self.status(container).exit_code

    def log_text(self, container: Container) -> str:
        """What the container has written to stdout and stderr so far; empty before its first line."""
        try:
            return parse_cri_log(container.log.read_text())
        except FileNotFoundError:
            return ""

    def info(self, container: Container) -> dict[str, Any]:
        """The runtime's verbose information: among others `pid` and `runtimeSpec` (the OCI config)."""
        decoded: dict[str, Any] = json.loads(self._status(container, verbose=True).info["info"])
        return decoded

    def pid(self, container: Container) -> int:
        """The host PID of the container's first process; 0 when it does not run."""
        return int(self.info(container)["pid"])

    def exec(self, container: Container, *command: str, timeout_s: int = 20) -> ExecResult:
        """ExecSync: run a command inside a running container and wait for it."""
        request = pb.ExecSyncRequest(container_id=container.id, cmd=command, timeout=timeout_s)
        reply = self._runtime("ExecSync", request, pb.ExecSyncResponse)
        return ExecResult(reply.exit_code, reply.stdout.decode(errors="replace"), reply.stderr.decode(errors="replace"))

    def list_containers(self) -> dict[str, State]:
        """The state of each container that the runtime knows, by container id."""
        return {entry.id: entry.state for entry in self.list_entries()}

    def list_entries(self) -> list[Listed]:
        """ListContainers: every container of every pod, those that have ended included."""
        reply = self._runtime("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        return [
            Listed(
                entry.id,
                entry.pod_sandbox_id,
                entry.metadata.name,
                entry.metadata.attempt,
                State(entry.state),
                dict(entry.labels),
                dict(entry.annotations),
            )
            for entry in reply.containers
        ]

    def _pod_status(self, pod: Pod, *, verbose: bool) -> pb.PodSandboxStatusResponse:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=verbose)
        return self._runtime("PodSandboxStatus", request, pb.PodSandboxStatusResponse)

    def pod_status(self, pod: Pod) -> PodStatus:
        """PodSandboxStatus: the pod's state now, with its labels and annotations."""
        status = self._pod_status(pod, verbose=False).status
        return PodStatus(
            status.state == pb.SANDBOX_READY,
            status.metadata.name,
            status.metadata.namespace,
            status.metadata.uid,
            status.created_at,
            dict(status.labels),
            dict(status.annotations),
        )

    def pod_info(self, pod: Pod) -> dict[str, Any]:
        """The runtime's verbose information of a sandbox: among others `pid` and `runtimeSpec` (the OCI config)."""
        decoded: dict[str, Any] = json.loads(self._pod_status(pod, verbose=True).info["info"])
        return decoded

    def list_pods(self) -> list[str]:
        """The ids of all pod sandboxes."""
        reply = self._runtime("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        return [pod.id for pod in reply.items]

    def stop_pod(self, pod: Pod) -> None:
        """StopPodSandbox: its containers and its sandbox process end; it stays listed until it is removed."""
        self._stop_pod(pod.id)

    def _stop_pod(self, pod_id: str) -> None:
        self._runtime("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=pod_id), pb.StopPodSandboxResponse)

    def stop(self, container: Container, grace_s: int = 0) -> None:
        """StopContainer: SIGTERM, and SIGKILL after `grace_s` seconds; at once SIGKILL with 0."""
        request = pb.StopContainerRequest(container_id=container.id, timeout=grace_s)
        self._runtime("StopContainer", request, pb.StopContainerResponse)

    def remove(self, container: Container) -> None:
        """RemoveContainer; one that runs is killed first."""
        request = pb.RemoveContainerRequest(container_id=container.id)
        self._runtime("RemoveContainer", request, pb.RemoveContainerResponse)

    def remove_pod(self, pod: Pod) -> None:
        """Stop and remove a pod with all its containers."""
        self._remove_pod(pod.id)

    def _remove_pod(self, pod_id: str) -> None:
        self._stop_pod(pod_id)
        remove = pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id)
        self._runtime("RemovePodSandbox", remove, pb.RemovePodSandboxResponse)

    def remove_all_pods(self) -> None:
        """Stop and remove every pod of this runtime."""
        for pod_id in self.list_pods():
            self._remove_pod(pod_id)


def _namespaces() -> pb.NamespaceOption:
    return pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER, ipc=pb.POD)


def _container_config(pod: Pod, spec: ContainerSpec) -> pb.ContainerConfig:
    kubelet = {
        POD_NAME_LABEL: pod.config.metadata.name,
        POD_NAMESPACE_LABEL: pod.config.metadata.namespace,
        POD_UID_LABEL: pod.config.metadata.uid,
        CONTAINER_NAME_LABEL: spec.name,
    }
    security = pb.LinuxContainerSecurityContext(privileged=spec.privileged, namespace_options=_namespaces())
    resources = pb.LinuxContainerResources(
        cpu_period=CPU_PERIOD_US if spec.cpu_quota_us else 0,
        cpu_quota=spec.cpu_quota_us,
        memory_limit_in_bytes=spec.memory_bytes,
    )
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=spec.name, attempt=spec.attempt),
        image=pb.ImageSpec(image=spec.image, user_specified_image=spec.image),
        command=spec.command,
        args=spec.args,
        envs=[pb.KeyValue(key=key, value=value) for key, value in spec.env.items()],
        mounts=[pb.Mount(container_path=inside, host_path=str(host)) for inside, host in spec.mounts.items()],
        labels={**spec.labels, **kubelet},
        annotations={**spec.annotations, RESTARTS_ANNOTATION: str(spec.attempt)},
        log_path=log_name(spec.name, spec.attempt),
        linux=pb.LinuxContainerConfig(security_context=security, resources=resources),
    )
