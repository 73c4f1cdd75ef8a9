# SPDX-License-Identifier: Apache-2.0
"""The public gRPC interface's parts that need no server: addresses, conversion, deadlines, the bytes on the wire."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from agent.grpc_api.addresses import MAX_SOCKET_PATH, TcpAddress, UnixAddress, clear_socket, parse_address
from agent.grpc_api.convert import parse_request
from agent.grpc_api.errors import RequestError, StartError
from agent.grpc_api.service import MARGIN_S, SERVICE, budget
from agent.grpc_api.tetragon import tetragon_pb2
from rthook.api import hook_pb2
from tools.gen_proto import complete_imports


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("unix:///run/a.sock", UnixAddress(Path("/run/a.sock")), "unix:///run/a.sock"),
        ("unix:/run/a.sock", UnixAddress(Path("/run/a.sock")), "unix:///run/a.sock"),
        ("127.0.0.1:54321", TcpAddress("127.0.0.1", 54321), "127.0.0.1:54321"),
        ("127.8.8.8:0", TcpAddress("127.8.8.8", 0), "127.8.8.8:0"),
        ("localhost:65535", TcpAddress("127.0.0.1", 65535), "127.0.0.1:65535"),
        ("[::1]:80", TcpAddress("::1", 80), "[::1]:80"),
    ],
)
def test_an_address_is_read_and_written(text: str, address: UnixAddress | TcpAddress, written: str) -> None:
    assert parse_address(text) == address
    assert str(address) == written


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.0.0.0:54321", "not a loopback address"),
        ("[::]:54321", "not a loopback address"),
        ("10.0.0.1:54321", "not a loopback address"),
        ("[::ffff:10.0.0.1]:1", "not a loopback address"),
        (":54321", "'' is no IP address"),
        ("example.org:1", "is no IP address"),
        ("127.0.0.1", "is neither"),
        ("127.0.0.1:", "is no port"),
        ("127.0.0.1:65536", "is no port"),
        ("127.0.0.1:-1", "is no port"),
        ("127.0.0.1:٣", "is no port"),
        ("unix:relative.sock", "no absolute path"),
        ("unix:///folder/", "no absolute path"),
        ("unix://", "no absolute path"),
        ("unix:///a\0b", "no absolute path"),
        ("unix-abstract:name", "is no IP address"),
        ("unix:///" + "a" * MAX_SOCKET_PATH, f"longer than {MAX_SOCKET_PATH} bytes"),
        ("", "is neither"),
    ],
)
def test_another_address_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_address(text)


@given(st.text(alphabet="unix:/127.01[]", max_size=20) | st.text(max_size=20))
def test_a_junk_address_is_a_value_error_or_read_back(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


def test_way_is_made_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.sock"
    clear_socket(path)
    assert path.parent.is_dir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    clear_socket(path)
    assert not path.exists()


def test_what_is_no_stale_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("mine")
    with pytest.raises(StartError, match=r"a\.sock: there is a file that is no socket"):
        clear_socket(path)
    with pytest.raises(StartError, match="File exists"):
        clear_socket(path / "below")
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        for _ in ("accepted", "its queue is full"):
            with pytest.raises(StartError, match="somebody serves there already"):
                clear_socket(path)
    assert path.is_socket()


@pytest.mark.parametrize(
    ("remaining", "limit", "seconds"),
    [(None, 1.8, 1.8), (10.0, 1.8, 1.8), (1.0, 1.8, 1.0 - MARGIN_S), (0.0, 1.8, -MARGIN_S), (float("inf"), 0.5, 0.5)],
)
def test_the_agent_gets_what_the_caller_leaves(remaining: float | None, limit: float, seconds: float) -> None:
    assert budget(remaining, limit) == pytest.approx(seconds)


def encode(number: int, value: bytes) -> bytes:
    """A length-delimited field by hand, for values below 128 bytes."""
    assert len(value) < 128
    return bytes((number << 3 | 2, len(value))) + value


MOUNT = encode(1, b"/data") + encode(2, b"bind") + encode(3, b"/srv") + encode(4, b"ro") + encode(4, b"rbind")
CREATE_CONTAINER = b"".join(
    (
        encode(1, b"/kubepods/pod1/c1"),
        encode(2, b"/run/c1/rootfs"),
        encode(3, encode(1, b"a") + encode(2, b"b")),
        encode(3, encode(1, b"k") + encode(2, b"v")),
        encode(4, b"nginx"),
        encode(5, b"c1"),
        encode(6, b"web-0"),
        encode(7, b"uid-1"),
        encode(8, b"shop"),
        encode(9, b"registry/nginx:1"),
        encode(10, MOUNT),
    )
)
REQUEST = bytes((1 << 3 | 2, 0x80 | len(CREATE_CONTAINER) & 0x7F, len(CREATE_CONTAINER) >> 7)) + CREATE_CONTAINER


def test_the_bytes_on_the_wire_are_the_public_interfaces() -> None:
    """Field by field, encoded by hand from the interface's table."""
    mount = tetragon_pb2.Mount(destination="/data", type="bind", source="/srv", options=["ro", "rbind"])
    made = tetragon_pb2.CreateContainer(
        cgroupsPath="/kubepods/pod1/c1",
        rootDir="/run/c1/rootfs",
        annotations={"a": "b", "k": "v"},
        containerName="nginx",
        containerID="c1",
        podName="web-0",
        podUID="uid-1",
        podNamespace="shop",
        containerImage="registry/nginx:1",
        mounts=[mount],
    )
    request = tetragon_pb2.RuntimeHookRequest(createContainer=made)
    assert request.SerializeToString(deterministic=True) == REQUEST
    assert tetragon_pb2.RuntimeHookRequest.FromString(REQUEST) == request
    assert tetragon_pb2.RuntimeHookResponse().SerializeToString() == b""


def test_service_files_and_methods_are_named_as_clients_expect() -> None:
    described = descriptor_pb2.FileDescriptorProto()
    SERVICE.file.CopyToProto(described)
    assert (described.name, described.package) == ("tetragon/sensors.proto", "tetragon")
    assert list(described.dependency) == ["tetragon/tetragon.proto"]
    assert SERVICE.full_name == "tetragon.FineGuidanceSensors"
    method = SERVICE.methods_by_name["RuntimeHook"]
    types = (method.input_type.full_name, method.output_type.full_name)
    assert types == ("tetragon.RuntimeHookRequest", "tetragon.RuntimeHookResponse")


def test_every_field_reaches_the_announcement() -> None:
    assert parse_request(REQUEST) == hook_pb2.AnnounceRequest(
        id="c1",
        name="nginx",
        pod_name="web-0",
        pod_namespace="shop",
        pod_uid="uid-1",
        image="registry/nginx:1",
        cgroups_path="/kubepods/pod1/c1",
        root_dir="/run/c1/rootfs",
        annotations={"a": "b", "k": "v"},
    )


def test_an_id_that_was_not_sent_is_the_cgroups() -> None:
    created = tetragon_pb2.CreateContainer(cgroupsPath="kubepods.slice:cri-containerd:0123ab")
    request = tetragon_pb2.RuntimeHookRequest(createContainer=created)
    assert parse_request(request.SerializeToString()).id == "0123ab"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "without createContainer"),
        (encode(2, b"another event"), "without createContainer"),
        (b"\xff", "not a RuntimeHookRequest"),
        (encode(1, encode(1, b"\xff")), "not a RuntimeHookRequest"),
    ],
)
def test_another_request_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse_request(payload)


@given(st.binary(max_size=80))
def test_a_junk_request_is_an_announcement_or_a_request_error(payload: bytes) -> None:
    try:
        announced = parse_request(payload)
    except RequestError:
        return
    assert isinstance(announced, hook_pb2.AnnounceRequest)


def test_generated_modules_import_each_other_where_they_are() -> None:
    text = "from tetragon import a_pb2 as x\nfrom tetragonal import b\n  from tetragon import c\n"
    completed = complete_imports(text, "tetragon", "agent.grpc_api.tetragon")
    assert completed == text.replace("from tetragon import a_pb2", "from agent.grpc_api.tetragon import a_pb2")
