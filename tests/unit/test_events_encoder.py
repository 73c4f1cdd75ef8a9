# SPDX-License-Identifier: Apache-2.0
"""Events as JSON lines: what every kind of hook says, actions and modes, and bytes that nobody expects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.decoder import DecodeError, parse_event
from agent.events.encoder import encode_event, encode_line, encode_unannounced, event_fields, format_time, is_posted
from agent.events.layout import FLAG_CUT, FLAG_DEFERRED, FLAG_MONITOR, FLAG_RETURN, FLAG_SOCKET, UNREADABLE
from agent.events.tables import Tables
from agent.policy.model import ArgType
from agent.workload.identity import WORKLOAD_QUARANTINED
from tests.support.events import CONTAINER, POD, actions, arg, item, number_item, record, rule, selector, tables, tell

BINARY = item(1, b"/bin/x")


def encode(known: Tables, *items: bytes, **header: Any) -> dict[str, Any]:
    event = parse_event(record(*items, **header))
    line = encode_event(event, known, 0)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields: dict[str, Any] = json.loads(line)
    assert fields == event_fields(event, known, 0)
    return fields


def test_an_event_in_full() -> None:
    place = selector("POST", "SIGNAL SIGTERM", label="secrets")
    values = [arg(16, "int", 0), arg(17, "string", 1, "file")]
    known = tables(rule(*values, data=[arg(18, "uint", 0, "pid")], selectors=[place], message="m", tags=["t1"]))
    items = (BINARY, item(2, b"/bin/sh"), number_item(16, -100), item(17, b"/etc/shadow"), number_item(18, 7))
    assert encode(known, *items, time=1_000_000_005, start=1_000_000_000) == {
        "type": "policy",
        "time": "1970-01-01T00:00:01.000000005Z",
        "policy": {"name": "pol", "namespace": None},
        "hook": "syscall",
        "function": "__x64_sys_lseek",
        "message": "m",
        "tags": ["t1"],
        "selector": 0,
        "selector_label": "secrets",
        "args": [
            {"index": 0, "type": "int", "value": -100},
            {"index": 1, "label": "file", "type": "string", "value": "/etc/shadow"},
        ],
        "data": [{"index": 0, "label": "pid", "type": "uint", "value": 7}],
        "action": "SIGNAL SIGTERM",
        "actions": ["POST", "SIGNAL SIGTERM"],
        "enforced": True,
        "process": {
            "pid": 30,
            "tid": 31,
            "uid": 1000,
            "start": "1970-01-01T00:00:01.000000000Z",
            "binary": "/bin/x",
            "comm": "calls",
            "parent": {"binary": "/bin/sh"},
        },
        "pod": POD,
        "container": CONTAINER,
    }


def test_a_uprobe_says_where() -> None:
    known = tables(rule(kind="uprobe", function="main", symbol="main", path="/bin/y", offset=4))
    fields = encode(known)
    assert [fields[name] for name in ("hook", "path", "symbol", "offset")] == ["uprobe", "/bin/y", "main", 4]
    assert "function" not in fields


def test_what_a_call_returned_is_there_at_its_return_only() -> None:
    known = tables(rule(**{"return": arg(9, "int", 0, "fd")}))
    assert "return" not in encode(known, number_item(9, 3))
    said = encode(known, number_item(9, -13), flags=FLAG_RETURN)["return"]
    assert said == {"label": "fd", "type": "int", "value": -13, "error": "EACCES"}
    assert encode(known, flags=FLAG_RETURN)["return"] == {
        "label": "fd",
        "type": "int",
        "value": None,
        "unreadable": True,
    }


def test_actions_at_the_return_are_told_beside_those_of_the_entry() -> None:
    known = tables(rule(selectors=[selector(), selector(label="late", at_return=actions("POST", "SIGKILL"))]))
    fields = encode(known, return_selector=1)
    assert fields["return_selector_label"] == "late"
    assert "selector_label" not in fields
    assert "return_selector_label" not in encode(known, return_selector=0)
    assert (fields["selector"], fields["action"], fields["actions"]) == (0, "POST", ["POST"])
    assert (fields["return_selector"], fields["return_action"]) == (1, "SIGKILL")
    assert (fields["return_actions"], fields["enforced"]) == (["POST", "SIGKILL"], True)
    assert "return_actions" not in encode(known)
    assert encode(known, return_selector=9)["return_action"] is None


def test_monitor_mode_says_what_would_have_been_done_and_nothing_of_enforcement() -> None:
    at_return = actions("POST", "OVERRIDE EPERM")
    known = tables(rule(selectors=[selector("POST", "SIGKILL", "TRACKSOCK", at_return=at_return)]))
    fields = encode(known, flags=FLAG_MONITOR, return_selector=0)
    assert (fields["mode"], fields["would"]) == ("monitor", ["SIGKILL", "OVERRIDE EPERM"])
    assert (fields["actions"], fields["action"]) == (["POST", "TRACKSOCK"], "TRACKSOCK")
    assert (fields["return_actions"], fields["return_action"]) == (["POST"], "POST")
    assert "enforced" not in fields
    fields = encode(known)
    assert "mode" not in fields
    assert "would" not in fields


def test_observing_says_nothing_of_enforcement_and_what_was_done_does() -> None:
    assert "enforced" not in encode(tables())
    for action in ("SIGNAL SIGUSR1", "SIGKILL", "OVERRIDE EPERM", "NOTIFYENFORCER SIGKILL", "SET 5"):
        assert encode(tables(rule(selectors=[selector(action)])))["enforced"] is True
    assert "enforced" not in encode(tables(rule(selectors=[selector("POST", "GETURL")])))


@pytest.mark.parametrize(("error", "said"), [(-11, "EAGAIN"), (-9999, "-9999"), (5, "5")])
def test_what_was_refused_is_not_enforced(error: int, said: str) -> None:
    fields = encode(tables(rule(selectors=[selector("POST", "SIGKILL")])), error=error)
    assert (fields["action"], fields["enforced"], fields["error"]) == ("SIGKILL", False, said)


@pytest.mark.parametrize(
    ("entry", "late", "header", "posted"),
    [
        ("POST", None, {}, True),
        ("NOPOST", None, {}, False),
        ("NOPOST", actions("POST"), {"return_selector": 0}, True),
        ("POST", actions("NOPOST"), {"return_selector": 0}, False),
        ("NOPOST", None, {"policy": 77}, True),
        ("NOPOST", None, {"rule": 9}, True),
    ],
)
def test_the_last_actions_say_whether_there_is_an_event(
    entry: str, late: dict[str, Any] | None, header: dict[str, Any], posted: bool
) -> None:
    known = tables(rule(selectors=[selector(entry, at_return=late)]))
    assert is_posted(parse_event(record(**header)), known) is posted


@pytest.mark.parametrize(
    ("flag", "said"), [(FLAG_DEFERRED, "deferred"), (FLAG_CUT, "incomplete"), (FLAG_SOCKET, "socket_owner")]
)
def test_flags_are_said_when_they_are_set(flag: int, said: str) -> None:
    assert encode(tables(), flags=flag)[said] is True
    assert said not in encode(tables())


def test_numbers_without_names_say_so() -> None:
    fields = encode(tables(), policy=77, workload=78)
    assert (fields["policy"], fields["function"], fields["args"]) == ({"serial": 77}, None, [])
    assert (fields["pod"], fields["workload"], fields["unresolved"]) == (None, 78, True)


def test_rule_and_selector_beyond_the_policys_are_no_error() -> None:
    fields = encode(tables(), rule=9)
    assert (fields["function"], fields["rule"], fields["policy"]["name"]) == (None, 9, "pol")
    assert encode(tables(), selector=9)["action"] is None


def test_host_process_has_no_pod() -> None:
    fields = encode(tables(), workload=0)
    assert (fields["pod"], fields["container"], "unresolved" in fields) == (None, None, False)


def test_a_quarantined_containers_event_says_so_and_names_its_cgroup() -> None:
    fields = encode(tables(), workload=WORKLOAD_QUARANTINED)
    assert (fields["pod"], fields["container"], fields["quarantined"], fields["cgroup"]) == (None, None, True, 20)
    assert "unresolved" not in fields
    assert "quarantined" not in encode(tables())


def test_binaries_that_could_not_be_read_are_null() -> None:
    fields = encode(tables(), item(1, b"x", UNREADABLE), item(2, b"x", UNREADABLE), start=0)["process"]
    assert (fields["binary"], fields["parent"], fields["start"]) == (None, {"binary": None}, None)
    assert "parent" not in encode(tables())["process"]


@given(st.binary(max_size=30), st.binary(max_size=16), st.binary(max_size=30))
def test_bytes_that_are_no_utf8_do_not_break_the_line(text: bytes, comm: bytes, binary: bytes) -> None:
    fields = encode(tables(rule(arg(16, "string"))), item(1, binary), item(16, text), comm=comm)
    shown = fields["args"][0]["value"], fields["process"]["comm"], fields["process"]["binary"]
    ended = (text.partition(b"\0")[0], comm.partition(b"\0")[0], binary)
    assert shown == tuple(raw.decode(errors="backslashreplace") for raw in ended)


@pytest.mark.parametrize(
    "text", ["a\nb", "\x1b[2J", "\x7f", "\x9b2J", "\u202etxt.exe", "\u2028", "\u2066x", "\u200f", "\x00", "\ud800"]
)
def test_no_character_steers_a_terminal_or_the_order_of_reading(text: str) -> None:
    line = encode_line({"a": text, "é": 1})
    assert json.loads(line) == {"a": text, "é": 1}
    assert line.startswith(b'{"a":"')
    assert not set(line.decode()[:-1]) & set(text) - set("ab[2Jtx.e")


def test_boot_offset_is_added() -> None:
    line = encode_event(parse_event(record()), tables(), 1_700_000_000_999_999_999)
    assert json.loads(line)["time"] == "2023-11-14T22:13:21.000000004Z"


def test_time_is_rfc3339_with_nanoseconds() -> None:
    assert format_time(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"


def test_the_end_of_all_clocks_is_a_time_as_well() -> None:
    assert encode(tables(), time=(1 << 64) - 1)["time"].startswith("2554-07-21T")


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


# A rule with an argument of every type that has values, whose ids are those of the items that `_items` makes.
_TYPES = tuple(kind.value for kind in ArgType if kind not in (ArgType.AUTO, ArgType.NOP))
_RULE = rule(
    *(arg(16 + n, kind, n, f"l{n}") for n, kind in enumerate(_TYPES)),
    data=[arg(16, "string")],
    selectors=[selector("POST", "SIGKILL", label="a", at_return=actions("POST", "SIGNAL SIGTERM"))],
    **{"return": arg(17, "long")},
)
_KNOWN = tables(_RULE, _RULE)
_item = st.builds(
    item,
    st.one_of(st.integers(1, 4), st.integers(16, 16 + len(_TYPES)), st.integers(0, (1 << 32) - 1)),
    st.binary(max_size=200),
    st.integers(0, 255),
    st.integers(0, (1 << 32) - 1),
)
_number = st.builds(number_item, st.integers(1, 16 + len(_TYPES)), st.integers(0, (1 << 64) - 1), st.integers(0, 255))
_u16, _u32, _u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
_header = st.fixed_dictionaries(
    {},
    optional={
        "flags": _u16,
        "time": _u64,
        "cgroup": _u64,
        "pid": _u32,
        "tid": _u32,
        "uid": _u32,
        "workload": _u32,
        "policy": st.integers(0, 3),
        "rule": st.integers(0, 3),
        "selector": _u16,
        "return_selector": _u16,
        "error": st.integers(-(1 << 31), (1 << 31) - 1),
        "comm": st.binary(max_size=16),
        "start": _u64,
    },
)


def parse_line(line: bytes) -> None:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["type"] == "policy"


@given(st.lists(st.one_of(_item, _number), max_size=8), _header)
def test_whatever_a_record_says_makes_one_line_of_json(items: list[bytes], header: dict[str, Any]) -> None:
    parse_line(encode_event(parse_event(record(*items, **header)), _KNOWN, 1_700_000_000 * 10**9))


@given(st.data(), st.lists(st.one_of(_item, _number), min_size=1, max_size=4))
def test_a_damaged_record_is_refused_or_makes_one_line_of_json(data: st.DataObject, items: list[bytes]) -> None:
    damaged = bytearray(record(*items))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(4, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        event = parse_event(bytes(damaged))
    except DecodeError:
        return
    parse_line(encode_event(event, _KNOWN, 0))


def test_names_told_anew_are_those_of_later_events() -> None:
    known = tables(rule(function="a"))
    tell(known, op="policy", id=2, name="other", namespace="ns", rules=[rule(function="b")])
    fields = encode(known)
    assert (fields["policy"], fields["function"]) == ({"name": "other", "namespace": "ns"}, "b")
