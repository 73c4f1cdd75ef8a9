# SPDX-License-Identifier: Apache-2.0
"""Events as JSON lines, and the tables that give the names."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.decoder import RawEvent, Text
from agent.events.encoder import action_names, encode_event, encode_unannounced, format_time
from agent.events.layout import CUT_HEAD, CUT_TAIL, UNREADABLE
from agent.events.tables import MAX_GONE, FeedError, Tables
from agent.workload.identity import WORKLOAD_QUARANTINED

ALL = (1 << 64) - 1
EVENT = RawEvent(5, 20, (ALL, ALL, ALL, 3, 0, 0), 30, 31, 0, 1, 2, 0, 0, 0, b"calls", False, {}, Text(b"/bin/x", 0))
POD = {"namespace": "n", "name": "p", "uid": "", "labels": {}}


def tables(args: list[tuple[int, str]] | None = None, actions: list[list[str]] | None = None) -> Tables:
    known = Tables()
    rule = {"function": "__x64_sys_lseek", "args": args or [], "actions": actions or [["POST"]]}
    known.apply(json.dumps({"op": "policy", "id": 2, "name": "pol", "namespace": None, "rules": [rule]}).encode())
    known.apply(json.dumps({"op": "workload", "id": 1, "pod": POD, "container": {"id": "c"}}).encode())
    return known


def encode(event: RawEvent, known: Tables) -> dict[str, Any]:
    line = encode_event(event, known, 0)
    assert line.endswith(b"\n")
    fields: dict[str, Any] = json.loads(line)
    return fields


@pytest.mark.parametrize(
    ("kind", "value"), [("int", -1), ("uint", 2**32 - 1), ("long", -1), ("ulong", ALL), ("size_t", ALL)]
)
def test_numbers_have_their_types_range(kind: str, value: int) -> None:
    assert encode(EVENT, tables([(1, kind)]))["args"] == [{"index": 1, "type": kind, "value": value}]


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("int", 0xDEADBEEF_80000000, -(1 << 31)),
        ("int", 0x1_7FFFFFFF, (1 << 31) - 1),
        ("uint", 0x1_00000000, 0),
        ("long", 1 << 63, -(1 << 63)),
        ("size_t", 1 << 63, 1 << 63),
        ("fd", 0xFFFFFF9C, -100),
    ],
)
def test_numbers_have_their_types_width_and_sign(kind: str, raw: int, value: int) -> None:
    event = replace(EVENT, args=(0, raw, 0, 0, 0, 0))
    assert encode(event, tables([(1, kind)]))["args"][0]["value"] == value


@given(st.binary(max_size=30), st.binary(max_size=15), st.binary(max_size=30))
def test_bytes_that_are_no_utf8_do_not_break_the_line(text: bytes, comm: bytes, binary: bytes) -> None:
    event = replace(EVENT, texts={(1, "string"): Text(text, 0)}, comm=comm, binary=Text(binary, 0))
    fields = encode(event, tables([(1, "string")]))
    shown = fields["args"][0]["value"], fields["process"]["comm"], fields["process"]["binary"]
    assert shown == tuple(raw.decode(errors="backslashreplace") for raw in (text, comm, binary))


def test_text_that_was_read_in_another_way_is_not_shown() -> None:
    event = replace(EVENT, texts={(1, "string"): Text(b"secret", 0)})
    assert encode(event, tables([(1, "char_buf")]))["args"][0]["unreadable"]


def test_observing_says_nothing_of_enforcement_and_a_signal_that_was_sent_does() -> None:
    assert "enforced" not in encode(EVENT, tables())
    assert encode(EVENT, tables(actions=[["SIGNAL SIGUSR1"]]))["enforced"] is True


def test_error_without_a_name_is_its_number() -> None:
    assert encode(replace(EVENT, error=-9999), tables(actions=[["SIGKILL"]]))["error"] == "-9999"


def test_boot_offset_is_added() -> None:
    line = encode_event(EVENT, tables(), 1_700_000_000_999_999_999)
    assert json.loads(line)["time"] == "2023-11-14T22:13:21.000000004Z"


def test_texts_say_what_is_missing() -> None:
    texts = {
        (0, "string"): Text(b"/a\xff", CUT_TAIL),
        (1, "char_buf"): Text(b"\0\1", 0),
        (3, "fd"): Text(b"/d", CUT_HEAD),
    }
    event = replace(EVENT, texts=texts)
    assert encode(event, tables([(0, "string"), (1, "char_buf"), (3, "fd"), (2, "string")]))["args"] == [
        {"index": 0, "type": "string", "value": "/a\\xff", "truncated": True},
        {"index": 1, "type": "char_buf", "base64": "AAE="},
        {"index": 3, "type": "fd", "value": 3, "path": "/d", "truncated": True},
        {"index": 2, "type": "string", "value": None, "unreadable": True},
    ]


def test_text_that_could_not_be_read_is_null() -> None:
    event = replace(EVENT, texts={(1, "char_buf"): Text(b"", UNREADABLE)}, binary=Text(b"", UNREADABLE))
    fields = encode(event, tables([(1, "char_buf")]))
    assert fields["args"] == [{"index": 1, "type": "char_buf", "base64": None, "unreadable": True}]
    assert fields["process"]["binary"] is None


def test_signal_that_was_refused_is_not_enforced() -> None:
    fields = encode(replace(EVENT, error=-11), tables(actions=[["POST", "SIGKILL"]]))
    assert (fields["action"], fields["enforced"], fields["error"]) == ("SIGKILL", False, "EAGAIN")


def test_numbers_without_names_say_so() -> None:
    fields = encode(replace(EVENT, policy=77, workload=78, deferred=True), tables())
    assert (fields["policy"], fields["function"], fields["args"]) == ({"serial": 77}, None, [])
    assert (fields["pod"], fields["workload"], fields["unresolved"], fields["deferred"]) == (None, 78, True, True)


def test_rule_and_selector_beyond_the_policys_are_no_error() -> None:
    assert encode(replace(EVENT, rule=9), tables())["function"] is None
    assert encode(replace(EVENT, selector=9), tables())["action"] is None


def test_host_process_has_no_pod() -> None:
    fields = encode(replace(EVENT, workload=0), tables())
    assert (fields["pod"], fields["container"], "unresolved" in fields) == (None, None, False)


def test_line_break_in_a_name_does_not_break_the_line() -> None:
    line = encode_event(replace(EVENT, comm=b"a\nb"), tables(), 0)
    assert line.count(b"\n") == 1


def test_time_is_rfc3339_with_nanoseconds() -> None:
    assert format_time(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"


def test_action_names() -> None:
    assert action_names(True, (9, 10, 64), {10: "SIGUSR1"}) == ("POST", "SIGKILL", "SIGNAL SIGUSR1", "SIGNAL 64")
    assert action_names(False, (), {}) == ()


def test_names_of_what_is_gone_stay_for_a_while() -> None:
    known = tables()
    known.apply(b'{"op": "workload_gone", "id": 1}')
    assert 1 in known.workloads
    for number in range(10, 10 + MAX_GONE):
        known.apply(json.dumps({"op": "workload_gone", "id": number}).encode())
    assert 1 not in known.workloads


def test_lost_count_is_told() -> None:
    assert Tables().apply(b'{"op": "lost", "id": 12}') == 12


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"op": "x", "id": 1}',
        b'{"op": "policy", "id": 1}',
        b'{"op": "lost", "id": []}',
        b"\xff",
    ],
)
def test_what_is_not_in_the_protocol_is_refused(message: bytes) -> None:
    known = tables()
    with pytest.raises(FeedError):
        known.apply(message)
    assert (list(known.workloads), list(known.policies)) == ([1], [2])


@given(st.binary())
def test_junk_is_refused_or_applied(message: bytes) -> None:
    known = Tables()
    try:
        known.apply(message)
    except FeedError:
        assert not known.workloads
        assert not known.policies


def test_a_quarantined_containers_event_says_so_and_names_its_cgroup() -> None:
    fields = encode(replace(EVENT, workload=WORKLOAD_QUARANTINED), tables())
    assert (fields["pod"], fields["container"], fields["quarantined"]) == (None, None, True)
    assert fields["cgroup"] == EVENT.cgroup
    assert "unresolved" not in fields
    assert "quarantined" not in encode(EVENT, tables())


def test_an_unannounced_container_is_a_line_of_its_own() -> None:
    event = {
        "time_ns": 1_000_000_005, "cgroup": {"id": 9, "name": "crio\n-\ud800"}, "process": {"pid": 7, "comm": "sh"},
        "treatment": "hold", "outcome": "identified", "pod": {"namespace": "shop"},
    }  # fmt: skip
    line = encode_unannounced(event, 2_000_000_000)
    assert line.startswith(b'{"type":"unannounced"')
    assert line.count(b"\n") == 1
    fields = json.loads(line)
    assert fields.pop("time") == "1970-01-01T00:00:03.000000005Z"
    assert fields.pop("cgroup")["id"] == 9
    assert fields == {
        "type": "unannounced", "process": {"pid": 7, "comm": "sh"}, "treatment": "hold", "outcome": "identified",
        "pod": {"namespace": "shop"},
    }  # fmt: skip
