# SPDX-License-Identifier: Apache-2.0
"""Inputs to begin with, as real encoders write them."""

from __future__ import annotations

import json
import struct

from hpack import Encoder

from nri_plugin.api import nri_pb2
from nri_plugin.handlers import PLUGIN_SERVICE
from nri_plugin.ttrpc import (
    PLUGIN_CONNECTION,
    RUNTIME_CONNECTION,
    ClientConnection,
    Code,
    MessageType,
    Response,
    mux_frames,
    write_frame,
)
from nri_plugin.ttrpc.message import encode_response
from rthook.api import hook_pb2

ID = "0123456789abcdef" * 4
UID = "a5bd1d3e-2d3c-4b7d-8f0a-0d3f5b6c7d8e"
ANNOTATIONS_CONTAINERD = {
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.image-name": "registry.test/web:1",
    "io.kubernetes.cri.sandbox-id": ID[::-1],
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-namespace": "prod",
    "io.kubernetes.cri.sandbox-uid": UID,
}
ANNOTATIONS_CRIO = {
    "io.container.manager": "cri-o",
    "io.kubernetes.container.name": "main",
    "io.kubernetes.cri-o.ContainerID": ID,
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.ImageName": "registry.test/web:1",
    "io.kubernetes.cri-o.Labels": json.dumps({"io.kubernetes.pod.name": "web-0", "app": "web"}),
    "io.kubernetes.cri-o.SandboxID": ID[::-1],
    "io.kubernetes.cri-o.SandboxName": "k8s_web-0_prod",
    "io.kubernetes.pod.name": "web-0",
    "io.kubernetes.pod.namespace": "prod",
    "io.kubernetes.pod.uid": UID,
    "kubernetes.io/config.hash": ID[:32],
}
ANNOTATIONS_PODMAN = {
    "io.container.manager": "libpod",
    "io.kubernetes.cri-o.Created": "2025-01-01T00:00:00Z",
    "io.kubernetes.cri-o.TTY": "false",
    "io.podman.annotations.autoremove": "FALSE",
    "org.opencontainers.image.stopSignal": "15",
    "podgate.namespace": "prod",
}


def nri_pod() -> nri_pb2.PodSandbox:
    pod = nri_pb2.PodSandbox(id=ID, name="web-0", uid=UID, namespace="prod", labels={"app": "web"}, pid=4711)
    pod.linux.cgroup_parent = "/kubepods/burstable/pod" + UID
    pod.linux.cgroups_path = f"/kubepods/burstable/pod{UID}/{ID}"
    return pod


def nri_container(number: int = 0) -> nri_pb2.Container:
    container = nri_pb2.Container(
        id=f"{number:064x}",
        pod_sandbox_id=ID,
        name="main",
        state=nri_pb2.CONTAINER_RUNNING,
        pid=4712 + number,
        annotations=ANNOTATIONS_CONTAINERD,
    )
    container.linux.cgroups_path = f"/kubepods/burstable/pod{UID}/{container.id}"
    return container


def nri_calls() -> list[tuple[str, bytes]]:
    """Method and payload of each call that a runtime makes."""
    pod, container = nri_pod(), nri_container()
    event = nri_pb2.StateChangeEvent(event=nri_pb2.START_CONTAINER, pod=pod, container=container)
    removal = nri_pb2.StateChangeEvent(event=nri_pb2.REMOVE_CONTAINER, pod=pod, container=container)
    sandbox = nri_pb2.StateChangeEvent(event=nri_pb2.RUN_POD_SANDBOX, pod=pod)
    configure = nri_pb2.ConfigureRequest(config="", runtime_name="containerd", runtime_version="v2.1.9")
    listed = nri_pb2.SynchronizeRequest(pods=[pod], containers=[nri_container(number) for number in range(3)])
    part = nri_pb2.SynchronizeRequest(pods=[pod], containers=[container], more=True)
    start = nri_pb2.StartContainerRequest(pod=pod, container=container)
    remove = nri_pb2.RemoveContainerRequest(pod=pod, container=container)
    calls = [("Configure", configure), ("Synchronize", part), ("Synchronize", listed), ("StateChange", event)]
    calls += [("StateChange", removal), ("StateChange", sandbox), ("StartContainer", start)]
    calls += [("RemoveContainer", remove), ("Shutdown", nri_pb2.Empty())]
    return [(name, message.SerializeToString()) for name, message in calls]


def ttrpc_requests() -> list[bytes]:
    """What a runtime sends to a plugin: each call by itself, and all on one connection."""
    single = [ClientConnection().request(PLUGIN_SERVICE, method, payload)[1] for method, payload in nri_calls()]
    client = ClientConnection()
    joined = [client.request(PLUGIN_SERVICE, method, payload, 2 * 10**9)[1] for method, payload in nri_calls()]
    return [*single, b"".join(joined)]


def ttrpc_responses() -> list[bytes]:
    """What answers the first requests of a client: a message, an error, a status that gRPC lacks."""
    good = encode_response(Response(1, Code.OK, "", hook_pb2.BindResponse(cgroup_id=1 << 40).SerializeToString()))
    bad = encode_response(Response(3, Code.FAILED_PRECONDITION, "container c1: no cgroup", b""))
    frames = [write_frame(MessageType.RESPONSE, 1, good), write_frame(MessageType.RESPONSE, 3, bad)]
    return [*frames, b"".join(frames)]


def mux_streams() -> list[bytes]:
    """Both connections of NRI, interleaved."""
    requests, responses = ttrpc_requests(), ttrpc_responses()
    calls = [mux_frames(PLUGIN_CONNECTION, request) for request in requests]
    answers = [mux_frames(RUNTIME_CONNECTION, response) for response in responses]
    return [*calls, *answers, b"".join(map(b"".join, zip(calls, answers, strict=False)))]


def hook_container(number: int = 0) -> hook_pb2.Container:
    return hook_pb2.Container(
        id=f"{number:064x}",
        name="main",
        pod_name="web-0",
        pod_namespace="prod",
        pod_uid=UID,
        pod_labels={"app": "web", "tier": "front"},
        cgroups_path=f"/kubepods/pod{UID}/{number:064x}",
        pid=4712,
        image="registry.test/web:1",
        sandbox_id=ID,
        phase=hook_pb2.PHASE_HELD,
    )


def hook_calls() -> list[tuple[str, bytes]]:
    """Method and payload of each call of the agent's hook protocol."""
    container = hook_container()
    sandbox = hook_container(1)
    sandbox.kind, sandbox.cgroup_parent = hook_pb2.KIND_SANDBOX, "kubepods-pod1.slice"
    announced = hook_pb2.AnnounceRequest(id=ID, cgroups_path="a.slice:cri-containerd:" + ID, root_dir="/run/x/rootfs")
    announced.annotations.update(ANNOTATIONS_CRIO)
    stats = hook_pb2.StageStats(stage="bind", buckets=[0, 4, 2, 1], sum_us=900, max_us=400, outcomes={"bound": 7})
    calls = [
        ("Bind", hook_pb2.BindRequest(container=container)),
        ("Bind", hook_pb2.BindRequest(container=sandbox)),
        ("Unbind", hook_pb2.UnbindRequest(container_id=ID)),
        ("Synchronize", hook_pb2.SynchronizeRequest(containers=[container, sandbox], keep=[ID])),
        ("Announce", announced),
        ("Report", hook_pb2.ReportRequest(door="nri", stages=[stats])),
        *(("Hook", hook_pb2.HookRequest(stage=stage, runtime=runtime, state=state_json(known)))
          for stage in ("createRuntime", "createContainer", "poststop")
          for runtime, known in (("containerd", ANNOTATIONS_CONTAINERD), ("auto", ANNOTATIONS_CRIO))),
    ]  # fmt: skip
    return [(name, message.SerializeToString()) for name, message in calls]


def state_json(annotations: dict[str, str], pid: int = 4712) -> bytes:
    """State JSON as runc writes it to a hook's standard input."""
    state = {"ociVersion": "1.2.1", "id": ID, "status": "creating", "pid": pid, "bundle": f"/run/containers/{ID}"}
    return json.dumps(state | {"annotations": annotations}, separators=(",", ":")).encode()


def states() -> list[bytes]:
    known = (ANNOTATIONS_CONTAINERD, ANNOTATIONS_CRIO, ANNOTATIONS_PODMAN)
    stopped = {"ociVersion": "1.2.1", "id": ID, "status": "stopped", "bundle": "/run/b"}
    return [*map(state_json, known), state_json(known[0], 1), json.dumps(stopped).encode()]


def configs() -> list[bytes]:
    """A bundle's config.json, with both forms of a cgroups path."""
    paths = (f"/kubepods/pod{UID}/{ID}", f"kubepods-pod1.slice:cri-containerd:{ID}")
    return [json.dumps(_config(path)).encode() for path in paths]


def _config(cgroups_path: str) -> dict[str, object]:
    return {
        "ociVersion": "1.2.1",
        "process": {"args": ["/bin/web"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]},
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "web-0",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "annotations": ANNOTATIONS_CONTAINERD,
        "linux": {
            "cgroupsPath": cgroups_path,
            "namespaces": [{"type": "pid"}, {"type": "cgroup"}, {"type": "network", "path": "/proc/1/ns/net"}],
            "resources": {"memory": {"limit": 1 << 26}},
        },
    }


def annotation_maps() -> list[bytes]:
    known = (ANNOTATIONS_CONTAINERD, ANNOTATIONS_CRIO, ANNOTATIONS_PODMAN)
    return [json.dumps(each).encode() for each in known]


def all_keys() -> list[str]:
    """Every annotation that some runtime writes."""
    return [*ANNOTATIONS_CONTAINERD, *ANNOTATIONS_CRIO, *ANNOTATIONS_PODMAN]


def cgroups_paths() -> list[bytes]:
    """A path, and systemd's form of slice, prefix and name."""
    paths = (f"/kubepods/burstable/pod{UID}/{ID}", f"kubepods-burstable-pod1.slice:cri-containerd:{ID}", f":crio:{ID}")
    return [path.encode() for path in (*paths, "machine.slice:libpod:1", "-.slice:a:b.slice", "user.slice/a/..")]


def hooksd_files() -> list[bytes]:
    hook = {"path": "/usr/libexec/podgate/podgate-hook", "args": ["podgate-hook", "createContainer"], "timeout": 2}
    new = {"version": "1.0.0", "hook": hook, "when": {"always": True}, "stages": ["createContainer"]}
    chosen = {"annotations": {"^a$": "^b$"}, "commands": [".*"], "hasBindMounts": False}
    old = {"hook": "/usr/bin/old", "stage": ["prestart"], "cmds": [".*"]}
    return [json.dumps(each, indent=2).encode() for each in (new, new | {"when": chosen}, old)]


def failure_rules() -> list[bytes]:
    full = """\
# what becomes of starts
default open
namespace payments closed    # exact
pattern team-* quarantine
pattern ?-test open

exempt kube-system
exempt podgate
"""
    return [full.encode(), b"default closed\n", b"", b"exempt a\nnamespace b quarantine\nnamespace b open\n"]


def http2_responses() -> list[bytes]:
    """What a gRPC server sends to a client's first call: an answer, an error at once, a goodbye, a reset."""
    settings, ack = _http2(4, 0, 0, struct.pack(">HIHI", 3, 100, 4, 65_535)), _http2(4, 1, 0, b"")
    window, ping = _http2(8, 0, 0, struct.pack(">I", 1 << 20)), _http2(6, 0, 0, b"pingpong")
    greeting = settings + ack + window + ping
    encoder = Encoder()
    first = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    last = encoder.encode([("grpc-status", "0"), ("grpc-message", "")])
    message = b"\0" + struct.pack(">I", 12) + b"x" * 12
    data, trailers = _http2(0, 0, 1, message), _http2(1, 5, 1, last)
    answer = _http2(1, 4, 1, first) + data + trailers
    cut = _http2(1, 0, 1, first[:3]) + _http2(9, 4, 1, first[3:]) + data[:9] + data[9:] + trailers
    padded = _http2(1, 0x2C, 1, b"\x03" + bytes(5) + first + bytes(3)) + _http2(0, 8, 1, b"\x02" + message + bytes(2))
    failed = Encoder().encode([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")])
    ends = [answer, cut, padded + trailers, _http2(1, 5, 1, failed), _http2(3, 0, 1, struct.pack(">I", 7))]
    ends += [_http2(7, 0, 0, struct.pack(">II", 0, 0) + b"bye"), b""]
    return [greeting + end for end in ends]


def _http2(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload
