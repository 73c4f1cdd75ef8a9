# SPDX-License-Identifier: Apache-2.0
"""gRPC's prefix, headers and status; HPACK as it is written and read; what the runtime's JSON and messages become."""

from __future__ import annotations

import contextlib
import json

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cri.api import cri_pb2
from agent.cri.convert import MAX_INFO, MAX_PID, parse_info, read_container, read_container_process, read_pod
from agent.cri.errors import CriError, CriProtocolError, CriRefused, CriUnreachable
from agent.cri.headers import HeaderDecoder, encode_fields
from agent.cri.messages import (
    MAX_REQUEST,
    MAX_STATUS_TEXT,
    MessageReader,
    encode_message,
    encode_timeout,
    open_answer,
)
from agent.cri.model import CriProcess, State
from nri_plugin.ttrpc import Code

OCI = {"linux": {"cgroupsPath": "/kubepods/pod1/c1"}}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000001, "1u"),
        (0.25, "250000u"),
        (99.999999, "99999999u"),
        (100, "100000m"),
        (99_999, "99999000m"),
        (100_000, "100000S"),
        (1e12, "99999999S"),
    ],
)
def test_a_timeout_has_eight_digits_at_most(seconds: float, text: str) -> None:
    assert encode_timeout(seconds) == text


@given(st.lists(st.tuples(st.text("abc-", min_size=1, max_size=200), st.text("xyz/.", max_size=20_000)), max_size=4))
def test_fields_are_read_as_they_were_written(fields: list[tuple[str, str]]) -> None:
    read = hpack.Decoder(1 << 20).decode(encode_fields(fields), raw=True)
    assert [(name.decode(), value.decode()) for name, value in read] == fields


@given(st.binary(max_size=300))
def test_a_junk_header_block_is_fields_or_a_protocol_error(block: bytes) -> None:
    with contextlib.suppress(CriProtocolError):
        assert isinstance(HeaderDecoder().decode(block), dict)


def test_a_request_has_a_limit() -> None:
    assert len(encode_message(bytes(MAX_REQUEST))) == MAX_REQUEST + 5
    with pytest.raises(ValueError, match="the limit is"):
        encode_message(bytes(MAX_REQUEST + 1))


@given(st.binary(max_size=64), st.integers(1, 7))
def test_a_message_is_read_however_it_is_cut(payload: bytes, step: int) -> None:
    reader, body = MessageReader(), encode_message(payload)
    for start in range(0, len(body), step):
        reader.receive_data(body[start : start + step])
    assert reader.finish() == payload


def test_no_body_is_no_message() -> None:
    assert MessageReader().finish() is None


@pytest.mark.parametrize(
    ("status", "message", "code", "text"),
    [
        ("5", "no such pod", Code.NOT_FOUND, "no such pod"),
        ("14", "caf%C3%A9 50%25", Code.UNAVAILABLE, "café 50%"),
        ("13", "%ff%", Code.INTERNAL, "�%"),
        ("99", "odd", Code.UNKNOWN, "status 99: odd"),
        ("-1", "", Code.UNKNOWN, "status -1: "),
        ("junk" * 10, "", Code.UNKNOWN, "status junkjunkjunkjunk: "),
        ("٣", "", Code.UNKNOWN, "status ٣: "),
        ("8", "x" * 9000, Code.RESOURCE_EXHAUSTED, "x" * MAX_STATUS_TEXT),
    ],
)
def test_a_status_is_a_refusal(status: str, message: str, code: Code, text: str) -> None:
    with pytest.raises(CriRefused) as caught:
        open_answer("PodSandboxStatus", {"grpc-status": status, "grpc-message": message}, None)
    assert (caught.value.method, caught.value.code, caught.value.message) == ("PodSandboxStatus", code, text)


def test_status_ok_has_a_message_and_no_status_is_no_answer() -> None:
    assert open_answer("Version", {"grpc-status": "0"}, b"") == b""
    with pytest.raises(CriProtocolError, match="OK without a message"):
        open_answer("Version", {"grpc-status": "0"}, None)
    with pytest.raises(CriProtocolError, match="without grpc-status"):
        open_answer("Version", {}, b"x")


def test_errors_say_what_and_where() -> None:
    errors: tuple[CriError, ...] = (
        CriUnreachable("/run/c.sock", "Version: Connection refused"),
        CriRefused("Version", Code.INTERNAL, ""),
        CriRefused("Version", Code.INTERNAL, "no"),
        CriProtocolError("two messages"),
    )
    assert [str(error) for error in errors] == [
        "runtime at /run/c.sock: Version: Connection refused",
        "Version: INTERNAL",
        "Version: INTERNAL: no",
        "not understood: two messages",
    ]


def test_a_containers_fields_are_those_of_the_interface() -> None:
    """The numbers of k8s.io/cri-api, written by hand."""
    raw = b"\x0a\x02c1\x12\x02s1\x1a\x05\x0a\x03web\x22\x04\x0a\x02im\x2a\x03ref\x30\x01"
    raw += b"\x42\x06\x0a\x01k\x12\x01v" + b"\x4a\x06\x0a\x01a\x12\x01b"
    found = read_container(cri_pb2.Container.FromString(raw))
    assert (found.id, found.sandbox, found.name, found.image) == ("c1", "s1", "web", "im")
    assert (found.state, found.labels, found.annotations) == (State.RUNNING, {"k": "v"}, {"a": "b"})


def test_a_container_without_an_image_name_has_its_reference_and_odd_states_are_unknown() -> None:
    found = read_container(cri_pb2.Container.FromString(b"\x2a\x03ref\x30\x09"))
    assert (found.image, found.state) == ("ref", State.UNKNOWN)


def test_an_image_that_is_told_by_its_id_has_the_name_that_the_pods_author_wrote() -> None:
    image = b"\x0a\x09sha256:0a" + b"\x92\x01\x07nginx:1"  # fields 1 and 18
    raw = b"\x0a\x02c1\x22" + bytes([len(image)]) + image + b"\x2a\x09sha256:0a"
    assert read_container(cri_pb2.Container.FromString(raw)).image == "nginx:1"
    unnamed = cri_pb2.Container(image=cri_pb2.ImageSpec(image="sha256:0a"), image_ref="quay.io/a@sha256:0a")
    assert read_container(unnamed).image == "quay.io/a@sha256:0a"


def test_a_pods_fields_are_those_of_the_interface() -> None:
    raw = (
        b"\x0a\x02s1\x12\x0f\x0a\x03web\x12\x02u1\x1a\x04shop" + b"\x3a\x06\x0a\x01k\x12\x01v\x42\x06\x0a\x01a\x12\x01b"
    )
    pod = read_pod(cri_pb2.PodSandboxStatus.FromString(raw))
    assert (pod.sandbox, pod.namespace, pod.name, pod.uid) == ("s1", "shop", "web", "u1")
    assert (pod.labels, pod.annotations) == ({"k": "v"}, {"a": "b"})


def test_requests_have_the_interfaces_numbers() -> None:
    state = cri_pb2.ContainerStateValue(state=cri_pb2.CONTAINER_RUNNING)
    listing = cri_pb2.ListContainersRequest(filter=cri_pb2.ContainerFilter(id="c1", state=state))
    assert listing.SerializeToString() == b"\x0a\x08\x0a\x02c1\x12\x02\x08\x01"
    assert cri_pb2.PodSandboxStatusRequest(pod_sandbox_id="s1").SerializeToString() == b"\x0a\x02s1"
    status = cri_pb2.ContainerStatusRequest(container_id="c1", verbose=True)
    assert status.SerializeToString() == b"\x0a\x02c1\x10\x01"


def test_a_verbose_status_names_process_and_cgroups_path() -> None:
    reply = cri_pb2.ContainerStatusResponse(info={"info": json.dumps({"pid": 42, "runtimeSpec": OCI})})
    assert read_container_process(reply) == CriProcess(42, "/kubepods/pod1/c1")


@pytest.mark.parametrize(
    "info", [{"pid": 42}, {"pid": 42, "runtimeSpec": None}, {"pid": 42, "runtimeSpec": {"linux": {}}}]
)
def test_a_cgroups_path_may_be_absent(info: dict[str, object]) -> None:
    assert parse_info("c1", json.dumps(info)) == CriProcess(42, "")


@pytest.mark.parametrize("info", [{"pid": 0, "runtimeSpec": OCI}, {"runtimeSpec": OCI}])
def test_a_container_that_does_not_run_has_no_process(info: dict[str, object]) -> None:
    assert parse_info("c1", json.dumps(info)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('"pid"', "names no pid"),
        ('{"pid": "42"}', "names no pid"),
        ('{"pid": true}', "names no pid"),
        ('{"pid": -1}', "names no pid"),
        ('{"pid": 4.2}', "names no pid"),
        (json.dumps({"pid": MAX_PID + 1}), "names no pid"),
        ('{"pid": 42, "runtimeSpec": {"linux": {"cgroupsPath": 7}}}', "is no text"),
        (" " * (MAX_INFO + 1), "the limit is"),
    ],
)
def test_a_junk_verbose_status_is_a_protocol_error(text: str, words: str) -> None:
    with pytest.raises(CriProtocolError, match=f"container c1: .*{words}"):
        parse_info("c1", text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.dictionaries(st.sampled_from(["pid", "runtimeSpec", "linux", "cgroupsPath"]), inner) | st.lists(inner)
        ),
    )
)
def test_any_json_is_a_process_none_or_a_protocol_error(info: object) -> None:
    with contextlib.suppress(CriProtocolError):
        found = parse_info("c1", json.dumps(info))
        assert found is None or 0 < found.pid <= MAX_PID
