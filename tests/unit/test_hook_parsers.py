# SPDX-License-Identifier: Apache-2.0
"""The OCI hook's parsers of the state and of the agent's answer, called from here, against Python's own readers."""

from __future__ import annotations

import ctypes
import functools
import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nri_plugin.api import ttrpc_pb2
from nri_plugin.ttrpc import MessageType, Request, ServerConnection, write_frame
from rthook import build
from rthook.api import hook_pb2
from tests.fuzz.runner import TARGETS, corpus_of, run_target
from tests.support.hook import build_library

# From the headers below rthook/hook/.
MAX_STATE = (4 << 20) - (64 << 10)
MAX_ID = 255
MAX_NAMESPACE = 253
MAX_PID = 1 << 22
MAX_DEPTH = 32
MAX_ANSWER = 16 << 10

CONTAINERD_KEY = "io.kubernetes.cri.sandbox-namespace"
POD_KEY = "io.kubernetes.pod.namespace"


class Runtime(IntEnum):
    """enum runtime of state.h."""

    AUTO = 0
    CONTAINERD = 1
    CRIO = 2
    PODMAN = 3


class _State(ctypes.Structure):
    """struct state of state.h."""

    _fields_ = (
        ("fault", ctypes.c_char_p),
        ("pid", ctypes.c_uint32),
        ("has_id", ctypes.c_bool),
        ("has_namespace", ctypes.c_bool),
        ("id", ctypes.c_char * MAX_ID),
        ("id_length", ctypes.c_size_t),
        ("namespace", ctypes.c_char * MAX_NAMESPACE),
        ("namespace_length", ctypes.c_size_t),
    )


class _Status(ctypes.Structure):
    """struct ttrpc_status of ttrpc.h."""

    _fields_ = (("code", ctypes.c_int32), ("message", ctypes.c_void_p), ("message_length", ctypes.c_size_t))


class _Text(ctypes.Structure):
    """struct text of text.h."""

    _fields_ = (("bytes", ctypes.c_void_p), ("size", ctypes.c_size_t), ("length", ctypes.c_size_t))


class _Call(ctypes.Structure):
    """struct ttrpc_call of ttrpc.h."""

    _fields_ = (
        ("stage", ctypes.c_char_p),
        ("runtime", ctypes.c_char_p),
        ("state_length", ctypes.c_size_t),
        ("timeout_ns", ctypes.c_uint64),
    )


@functools.cache
def library() -> ctypes.CDLL:
    hook = ctypes.CDLL(str(build_library()))
    hook.state_parse.argtypes = (ctypes.POINTER(_State), ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    hook.state_parse.restype = None
    hook.ttrpc_parse_header.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t))
    hook.ttrpc_parse_header.restype = ctypes.c_char_p
    hook.ttrpc_parse_response.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(_Status))
    hook.ttrpc_parse_response.restype = ctypes.c_char_p
    hook.ttrpc_add_request_head.argtypes = (ctypes.POINTER(_Text), ctypes.POINTER(_Call))
    hook.ttrpc_add_request_head.restype = None
    hook.ttrpc_add_code.argtypes = (ctypes.POINTER(_Text), ctypes.c_int32)
    hook.ttrpc_add_code.restype = None
    hook.text_add_escaped.argtypes = (ctypes.POINTER(_Text), ctypes.c_char_p, ctypes.c_size_t)
    hook.text_add_escaped.restype = None
    return hook


@dataclass(frozen=True, slots=True)
class State:
    """namespace: None when it is not known, empty when the container has none."""

    fault: str | None
    id: bytes | None
    pid: int
    namespace: str | None


def parse_state(text: bytes, runtime: Runtime = Runtime.AUTO) -> State:
    raw = _State()
    library().state_parse(raw, text, len(text), runtime)
    held = bytes(raw)
    container_id = held[_State.id.offset :][: raw.id_length]
    namespace = held[_State.namespace.offset :][: raw.namespace_length].decode()
    assert bool(namespace) == raw.has_namespace
    return State(
        raw.fault.decode() if raw.fault else None,
        container_id if raw.has_id else None,
        raw.pid,
        None if raw.fault else namespace,
    )


def added(capacity: int, function: str, *arguments: object) -> bytes:
    """What a text_add function puts into a text of that size."""
    buffer = ctypes.create_string_buffer(max(1, capacity))
    text = _Text(ctypes.addressof(buffer), capacity, 0)
    getattr(library(), function)(text, *arguments)
    return buffer.raw[: text.length]


def with_annotations(**annotations: object) -> bytes:
    return json.dumps({"id": "c1", "pid": 7, "annotations": annotations}).encode()


def test_what_a_runtime_writes_is_read() -> None:
    text = with_annotations(**{CONTAINERD_KEY: "shop", "other": "x"})
    assert parse_state(text) == State(None, b"c1", 7, "shop")


@pytest.mark.parametrize(
    ("runtime", "namespace"),
    [(Runtime.CONTAINERD, "a"), (Runtime.CRIO, "b"), (Runtime.PODMAN, "b"), (Runtime.AUTO, None)],
)
def test_each_runtime_has_its_annotation(runtime: Runtime, namespace: str | None) -> None:
    assert parse_state(with_annotations(**{CONTAINERD_KEY: "a", POD_KEY: "b"}), runtime).namespace == namespace


@pytest.mark.parametrize("runtime", Runtime)
def test_both_annotations_may_agree(runtime: Runtime) -> None:
    assert parse_state(with_annotations(**{CONTAINERD_KEY: "a", POD_KEY: "a"}), runtime).namespace == "a"


@pytest.mark.parametrize("other", ["ab", "b", ""])
def test_annotations_that_differ_leave_the_namespace_unknown(other: str) -> None:
    state = parse_state(with_annotations(**{CONTAINERD_KEY: "a", POD_KEY: other}))
    assert state == State("two annotations name different namespaces", b"c1", 7, None)


@pytest.mark.parametrize("value", [5, "Shop", "a" * (MAX_NAMESPACE + 1), None])
def test_another_runtimes_annotation_is_not_looked_at(value: object) -> None:
    assert parse_state(with_annotations(**{CONTAINERD_KEY: value, POD_KEY: "b"}), Runtime.CRIO).namespace == "b"


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize("text", [b"{}", b'{"annotations":{}}', b'{"annotations":null}', with_annotations(other="x")])
def test_a_container_may_have_no_namespace(text: bytes, runtime: Runtime) -> None:
    state = parse_state(text, runtime)
    assert (state.fault, state.namespace) == (None, "")


def test_an_empty_annotation_is_as_none() -> None:
    assert parse_state(with_annotations(**{CONTAINERD_KEY: "", POD_KEY: ""})).namespace == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "it ends too early"),
        (b"[]", "the state is no object"),
        (b"5", "the state is no object"),
        (b'"text"', "the state is no object"),
        (b'{"id":5}', "the state's id is no text"),
        (b'{"id":"a","id":"a"}', "the state has its id twice"),
        (b'{"i\\u0064":"a","id":"a"}', "the state has its id twice"),
        (b'{"pid":"7"}', "the state's pid is no process id"),
        (b'{"pid":-1}', "the state's pid is no process id"),
        (b'{"pid":1.0}', "the state's pid is no process id"),
        (b'{"pid":1e3}', "the state's pid is no process id"),
        (b'{"pid":4194305}', "the state's pid is no process id"),
        (b'{"pid":' + b"9" * 5000 + b"}", "the state's pid is no process id"),
        (b'{"pid":null}', "the state's pid is no process id"),
        (b'{"pid":1,"pid":1}', "the state has its pid twice"),
        (b'{"annotations":5}', "the state's annotations are no object"),
        (b'{"annotations":[]}', "the state's annotations are no object"),
        (b'{"annotations":"x"}', "the state's annotations are no object"),
        (b'{"annotations":{},"annotations":{}}', "the state has annotations twice"),
        (with_annotations(**{POD_KEY: 5}), "the namespace's annotation is no text"),
        (with_annotations(**{POD_KEY: None}), "the namespace's annotation is no text"),
        (with_annotations(**{POD_KEY: ["a"]}), "the namespace's annotation is no text"),
        (with_annotations(**{POD_KEY: "Shop"}), "the namespace's annotation is no namespace's name"),
        (with_annotations(**{POD_KEY: "a\0"}), "the namespace's annotation is no namespace's name"),
        (with_annotations(**{POD_KEY: "a" * 254}), "the namespace's annotation is no namespace's name"),
        (
            f'{{"annotations":{{"{POD_KEY}":"a","{POD_KEY}":"a"}}}}'.encode(),
            "the namespace's annotation is there twice",
        ),
        (
            f'{{"annotations":{{"{POD_KEY}":"a","io.kubernetes.p\\u006fd.namespace":"b"}}}}'.encode(),
            "the namespace's annotation is there twice",
        ),
        (b'{"a":"\xff"}', "a string that is no UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "a string that is no UTF-8"),
        (b'{"a":"\xc0\x80"}', "a string that is no UTF-8"),
        (b'{"a":"\xf4\x90\x80\x80"}', "a string that is no UTF-8"),
        (b'{"a":"\\ud800"}', "a wrong escape"),
        (b'{"a":"\\udc00"}', "a wrong escape"),
        (b'{"a":"\\ud800\\ud800"}', "a wrong escape"),
        (b'{"a":"\\x41"}', "a wrong escape"),
        (b'{"a":"\\u12g4"}', "a wrong escape"),
        (b'{"a":"\\\0"}', "a wrong escape"),
        (b'{"a":"\n"}', "a control character in a string"),
        (b'{"a":"\0"}', "a control character in a string"),
        (b'{"a":1}\0', "text behind its end"),
        (b'{"a":1}{"a":1}', "text behind its end"),
        (b'\0{"a":1}', "no value where one must be"),
        (b"\xef\xbb\xbf{}", "no value where one must be"),
        (b'{"a":01}', "a malformed number"),
        (b'{"a":1.}', "a malformed number"),
        (b'{"a":.5}', "no value where one must be"),
        (b'{"a":+1}', "no value where one must be"),
        (b'{"a":1e}', "a malformed number"),
        (b'{"a":-}', "a malformed number"),
        (b'{"a":NaN}', "no value where one must be"),
        (b'{"a":True}', "no value where one must be"),
        (b"{'a':1}", "no key where one must be"),
        (b"{a:1}", "no key where one must be"),
        (b'{"a":1,}', "no key where one must be"),
        (b'{"a" 1}', "no colon after a key"),
        (b'{"a":1 "b":2}', "no comma between two members"),
        (b'{"a":[1 2]}', "no comma between two members"),
        (b'{"a":[1,]}', "no value where one must be"),
        (b'{"a":[1}', "no comma between two members"),
        (b'{"a":1]', "no comma between two members"),
        (b'{"a":"x', "a string without an end"),
        (b'{"a":"x\\', "a wrong escape"),
        (b'{"a":1 // comment\n}', "no comma between two members"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too many levels"),
        (b"[" * 100_000, "the state is no object"),
        (b'{"a":' * 100_000, "too many levels"),
    ],
)
def test_what_cannot_be_right_leaves_the_namespace_unknown(text: bytes, fault: str) -> None:
    state = parse_state(text)
    assert (state.fault, state.namespace) == (fault, None)


def test_levels_are_allowed_up_to_the_limit() -> None:
    inner = MAX_DEPTH - 1
    assert parse_state(b'{"a":' + b"[" * inner + b"]" * inner + b"}").fault is None


def test_every_cut_of_a_good_state_leaves_the_namespace_unknown() -> None:
    text = with_annotations(**{POD_KEY: "shop", "é\U0001f600": '"\\\n'})
    assert parse_state(text).fault is None
    for length in range(len(text)):
        state = parse_state(text[:length])
        assert (state.namespace, state.pid) == (None, 0), text[:length]


def test_a_broken_state_names_nobody_to_act_on_though_its_id_may_help() -> None:
    assert parse_state(b'{"id":"c1","pid":7,"annotations":5}') == State(
        "the state's annotations are no object", b"c1", 0, None
    )


def test_escapes_are_resolved() -> None:
    assert (
        parse_state(rb'{"id":"\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t\u0000x"}').id
        == 'é\U0001f600"\\/\b\f\n\r\t\0x'.encode()
    )


@pytest.mark.parametrize("length", [0, 1, MAX_ID, MAX_ID + 1])
def test_an_id_that_is_too_long_is_not_known(length: int) -> None:
    state = parse_state(json.dumps({"id": "a" * length}).encode())
    assert state == State(None, b"a" * length if 0 < length <= MAX_ID else None, 0, "")


def test_the_largest_values_are_read() -> None:
    text = with_annotations(**{POD_KEY: "a" * MAX_NAMESPACE}).replace(b"7", str(MAX_PID).encode())
    assert parse_state(text) == State(None, b"c1", MAX_PID, "a" * MAX_NAMESPACE)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
_DOCUMENTS = st.dictionaries(st.text(max_size=4).filter(lambda key: key not in ("id", "pid")), _VALUES, max_size=4)


@given(_DOCUMENTS, st.text(max_size=8), st.booleans(), st.sampled_from([None, 1]))
def test_whatever_json_surrounds_them_the_members_are_found(
    document: dict[str, Any], container_id: str, ascii_only: bool, indent: int | None
) -> None:
    whole = {**document, "id": container_id, "pid": 3, "annotations": {"\U0001f600": "x", POD_KEY: "shop"}}
    text = json.dumps(whole, ensure_ascii=ascii_only, indent=indent).encode()
    assert parse_state(text) == State(None, container_id.encode() or None, 3, "shop")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _python_accepts(text: bytes) -> bool:
    """Python's own reader, made as strict as RFC 8259 is."""
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not text.startswith(b"\xef\xbb\xbf")


_PIECES = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b'"b":', b" ", b"\n", b"\\", b"\\n", b"\\u0041"),
        *(b"\\ud83d\\ude00", b"\\ud83d", b"0", b"-", b"1", b".5", b"e+9", b"true", b"false", b"null", b"\xc3\xa9"),
        *(b"\xc3", b"\xa9", b"\0", b"\x7f", b"/"),
    ]
)


@settings(max_examples=1000)
@given(st.lists(_PIECES, max_size=10).map(b"".join))
@example(b"")
@example(b'"b":[1,2]')
def test_the_same_texts_are_json_as_to_python(middle: bytes) -> None:
    for text in (b"{" + middle + b"}", b'{"x":' + middle + b"}", b'{"x":"' + middle + b'"}', middle):
        assert (parse_state(text).fault is None) == _python_accepts(text), text


def ask_status(payload: bytes) -> tuple[int, bytes] | str:
    """Code and message of a response's bytes, or what is wrong with them."""
    buffer = ctypes.create_string_buffer(payload, max(1, len(payload)))
    status = _Status()
    fault = library().ttrpc_parse_response(ctypes.addressof(buffer), len(payload), status)
    if fault:
        return str(fault.decode())
    return status.code, ctypes.string_at(status.message, status.message_length)


@given(st.integers(-(2**31), 2**31 - 1), st.text(max_size=20), st.binary(max_size=20))
def test_what_protobuf_writes_is_read(code: int, message: str, payload: bytes) -> None:
    response = ttrpc_pb2.Response(payload=payload)
    response.status.code, response.status.message = code, message
    assert ask_status(response.SerializeToString()) == (code, message.encode())


def test_a_response_without_a_status_is_ok() -> None:
    assert ask_status(b"") == (0, b"")
    assert ask_status(ttrpc_pb2.Response(payload=b"xyz").SerializeToString()) == (0, b"")


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"\x08\x05", "a response whose status is none"),  # field 1 is a number
        (b"\x0a\x00\x0a\x02\x08\x05", "a response whose status is none"),  # twice
        (b"\x10\x05", "a response whose payload is none"),
        (b"\x12\x00\x12\x00", "a response whose payload is none"),
        (b"\x0a\x02\x0a\x00", "a status whose code is none"),  # the code is a text
        (b"\x0a\x04\x08\x05\x08\x00", "a status whose code is none"),  # and then OK
        (b"\x0a\x07\x08\x80\x80\x80\x80\x80\x01", "a status whose code is none"),  # beyond 32 bits, low ones 0
        (b"\x0a\x06\x08\x80\x80\x80\x80\x10", "a status whose code is none"),  # 2^32
        (b"\x0a\x02\x10\x05", "a status whose message is none"),
        (b"\x0a\x05\x08\x05", "a response that is no message"),  # cut
        (b"\x0a", "a response that is no message"),
        (b"\x0a\x01\x08", "a status that is no message"),
        (b"\x00\x00", "a response that is no message"),  # field 0
        (b"\x0b\x0c", "a response that is no message"),  # groups
        (b"\x0e\x00", "a response that is no message"),  # a wire type that there is not
        (b"\x08" + b"\x80" * 10 + b"\x00", "a response that is no message"),
        (b"\x18" + b"\xff" * 9 + b"\x02", "a response that is no message"),  # 2^64 and more
        (b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a response that is no message"),
        (b"\x80\x80\x80\x80\x80\x01\x00", "a response that is no message"),  # a key beyond 32 bits
        (b"\x19\x00", "a response that is no message"),
        (b"\x1d\x00", "a response that is no message"),
    ],
)
def test_a_response_that_is_none_is_not_taken_for_ok(payload: bytes, fault: str) -> None:
    assert ask_status(payload) == fault


def test_fields_that_are_not_known_are_passed_over() -> None:
    unknown = b"\x1a\x02hi\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\x30\x96\x01"
    assert ask_status(unknown + b"\x0a\x02\x08\x05" + unknown) == (5, b"")
    status = unknown + b"\x08\x05\x12\x01x" + unknown
    assert ask_status(b"\x0a" + bytes([len(status)]) + status) == (5, b"x")


@given(st.binary(max_size=24))
@example(b"\x0a\x04\x08\x00\x12\x00")
def test_nothing_is_read_otherwise_than_protobuf_reads_it(payload: bytes) -> None:
    answer = ask_status(payload)
    expected = _protobuf_status(payload)
    if not isinstance(answer, str) and _is_utf8(answer[1]):
        assert answer == expected


def _protobuf_status(payload: bytes) -> tuple[int, bytes] | None:
    """None for what it refuses."""
    try:
        response = ttrpc_pb2.Response.FromString(payload)
    except DecodeError:
        return None
    return response.status.code, response.status.message.encode()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def ask_header(header: bytes) -> int | str:
    length = ctypes.c_size_t()
    fault = library().ttrpc_parse_header(header, length)
    return str(fault.decode()) if fault else length.value


def test_a_header_is_read() -> None:
    assert ask_header(write_frame(MessageType.RESPONSE, 1, bytes(MAX_ANSWER))[:10]) == MAX_ANSWER


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (write_frame(MessageType.RESPONSE, 3, b"")[:10], "a response on a stream that was not asked on"),
        (write_frame(MessageType.RESPONSE, 1 << 24, b"")[:10], "a response on a stream that was not asked on"),
        (write_frame(MessageType.REQUEST, 1, b"")[:10], "a frame that is no response"),
        (write_frame(MessageType.DATA, 1, b"")[:10], "a frame that is no response"),
        (write_frame(MessageType.RESPONSE, 1, bytes(MAX_ANSWER + 1))[:10], "a response of more than 16 KiB"),
        (b"\xff\xff\xff\xff\0\0\0\1\2\0", "a response of more than 16 KiB"),
    ],
)
def test_a_header_that_is_none(header: bytes, fault: str) -> None:
    assert ask_header(header) == fault


@given(
    st.sampled_from(["createRuntime", "createContainer", "poststop"]),
    st.sampled_from(["auto", "containerd"]),
    st.integers(0, 60_000_000_000),
    st.sampled_from([0, 1, 127, 128, 300, MAX_STATE]),
)
def test_the_request_is_read_by_the_agents_side(stage: str, runtime: str, timeout_ns: int, length: int) -> None:
    call = _Call(stage.encode(), runtime.encode(), length, timeout_ns)
    head = added(266, "ttrpc_add_request_head", call)
    assert len(head) < 266
    state = b"s" * length
    (request,) = ServerConnection().receive_data(head + state)
    assert request == Request(1, "podgate.hook.v1.RuntimeHook", "Hook", request.payload, timeout_ns)
    asked = hook_pb2.HookRequest.FromString(request.payload)
    assert asked == hook_pb2.HookRequest(stage=stage, runtime=runtime, state=state)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, b"OK"),
        (9, b"FAILED_PRECONDITION"),
        (16, b"UNAUTHENTICATED"),
        (17, b"code 17"),
        (-(2**31), b"code -2147483648"),
    ],
)
def test_codes_have_their_names(code: int, words: bytes) -> None:
    assert added(64, "ttrpc_add_code", code) == words


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_what_is_escaped_is_json_of_one_line(data: bytes) -> None:
    escaped = added(6 * len(data), "text_add_escaped", data, len(data)).decode("utf-8")
    assert escaped.isprintable() or not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in escaped)
    decoded = json.loads(f'"{escaped}"')
    if _is_utf8(data):
        assert decoded == data.decode()
    else:
        assert "\ufffd" in decoded


@given(st.binary(max_size=20), st.integers(0, 40))
def test_what_is_cut_is_still_json(data: bytes, capacity: int) -> None:
    cut = added(capacity, "text_add_escaped", data, len(data))
    whole = added(6 * len(data), "text_add_escaped", data, len(data))
    assert whole.startswith(cut)
    assert len(cut) == len(whole) or len(cut) > capacity - 6
    json.loads(f'"{cut.decode("utf-8")}"')


@pytest.mark.parametrize("target", TARGETS)
def test_two_seconds_of_fuzzing_finds_nothing(target: str) -> None:
    outcome = run_target(target, 2, 1)
    assert outcome.found is None, f"{outcome.report}\nthe input is in {outcome.found}"
    runs, edges = _counts(outcome.summary)
    assert runs > 1000
    assert edges > 50


def _counts(summary: str) -> tuple[int, int]:
    words = summary.replace(",", "").split()
    return int(words[1]), int(words[3])


def test_every_corpus_has_inputs() -> None:
    assert all(corpus_of(target) for target in TARGETS)


def test_all_parts_are_compiled() -> None:
    assert {path.name for path in build.part_sources()} >= {"json.c", "ttrpc.c", "rule.c", "quarantine.c"}
