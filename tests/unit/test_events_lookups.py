# SPDX-License-Identifier: Apache-2.0
"""What policies want looked up: which events ask, what is bounded, and the real helper against a local server."""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.events.decoder import parse_event
from agent.events.helper import Helper, module_command
from agent.events.lookups import BURST, MAX_KEPT, RATE, WAIT_S, Lookup, Lookups, wanted
from agent.events.lookups_main import MAX_PARALLEL, look_up
from tests.support.events import actions, receive, record, rule, selector, tables
from tests.support.wait import wait_until

SAID = {"policy": {"name": "pol", "namespace": None}, "process": {"pid": 30}}
PATIENCE_S = 30.0


def lookup(text: str = "http://x/", kind: str = "url") -> Lookup:
    return Lookup(kind, text, SAID)


def test_an_event_asks_for_what_its_actions_say() -> None:
    chosen = selector("POST", "GETURL", get_url=["http://a"], dns=["b"], at_return=actions(get_url=["http://c"]))
    known = tables(rule(selectors=[chosen]))
    assert [(each.kind, each.text) for each in wanted(parse_event(record()), known)] == [
        ("url", "http://a"),
        ("name", "b"),
    ]
    late = wanted(parse_event(record(return_selector=0)), known)
    assert [each.text for each in late] == ["http://a", "http://c", "b"]
    assert all(each.event == SAID for each in late)


@pytest.mark.parametrize("header", [{"policy": 7}, {"rule": 1}, {"selector": 1}])
def test_an_event_of_an_unknown_rule_asks_for_nothing(header: dict[str, int]) -> None:
    assert wanted(parse_event(record(**header)), tables(rule(selectors=[selector(dns=["b"])]))) == ()
    assert wanted(parse_event(record()), tables()) == ()


class _Helper:
    """Stands for Helper."""

    def __init__(self) -> None:
        self.pid, self.lost, self.takes = 0, 0, True
        self.asked: list[dict[str, Any]] = []
        self.answers: list[bytes] = []

    def send(self, message: bytes) -> bool:
        if self.takes:
            self.pid = 1
            self.asked.append(json.loads(message))
        return self.takes

    def receive(self) -> list[bytes]:
        answers, self.answers = self.answers, []
        return answers

    def end(self) -> None:
        self.pid = 0
        self.lost += 1

    def answer(self, place: int, outcome: Any = "done", status: Any = None, reason: str = "") -> None:
        fields = {"id": self.asked[place]["id"], "outcome": outcome, "status": status, "reason": reason}
        self.answers.append(json.dumps(fields).encode())


class _Stage:
    def __init__(self) -> None:
        self.now = 10.0
        self.helper = _Helper()
        self.lookups = Lookups(cast(Helper, self.helper), lambda: self.now, lambda: 1_000_000_000)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lookups.lines()]


@pytest.fixture
def stage() -> _Stage:
    return _Stage()


def test_each_outcome_is_a_line(stage: _Stage) -> None:
    stage.lookups.add(lookup())
    stage.lookups.add(lookup("a.example", "name"))
    assert [(asked["kind"], asked["text"]) for asked in stage.helper.asked] == [
        ("url", "http://x/"),
        ("name", "a.example"),
    ]
    assert stage.lines() == []
    stage.helper.answer(1, "failed", None, "no such name\x9b")
    stage.helper.answer(0, "done", 204)
    begin = {"type": "lookup", "time": "1970-01-01T00:00:01.000000000Z"} | SAID
    assert stage.lines() == [
        begin | {"name": "a.example", "outcome": "failed", "reason": "no such name\x9b"},
        begin | {"url": "http://x/", "outcome": "done", "status": 204},
    ]
    assert stage.lookups.counters == {"lookups_done": 1, "lookups_failed": 1}
    assert stage.lookups.wait_s() is None


def test_without_leave_nothing_is_asked_and_that_is_said() -> None:
    lookups = Lookups(None)
    lookups.add(lookup())
    (line,) = (json.loads(line) for line in lookups.lines())
    assert (line["url"], line["outcome"]) == ("http://x/", "off")
    assert "--allow-lookups" in line["reason"]
    assert lookups.counters == {"lookups_off": 1}
    assert (lookups.fileno(), lookups.is_allowed, lookups.wait_s()) == (-1, False, None)
    lookups.close()


def test_an_answer_that_does_not_come_is_a_timeout(stage: _Stage) -> None:
    stage.lookups.add(lookup())
    assert stage.lookups.wait_s() == WAIT_S
    stage.now += WAIT_S
    assert [line["outcome"] for line in stage.lines()] == ["timeout"]
    stage.helper.answer(0)
    assert stage.lines() == []
    assert stage.lookups.counters == {"lookups_timeout": 1}


def test_only_so_many_are_asked_at_once(stage: _Stage) -> None:
    for _ in range(MAX_KEPT):
        stage.lookups.add(lookup())
    assert len(stage.helper.asked) == MAX_KEPT
    stage.lookups.add(lookup())
    assert [(line["outcome"], line["reason"]) for line in stage.lines()] == [("dropped", "too many lookups at once")]


def test_only_so_many_are_asked_in_a_second(stage: _Stage) -> None:
    def add() -> list[str]:
        stage.lookups.add(lookup())
        if stage.lookups._kept:
            stage.helper.answer(-1)
        return [line["outcome"] for line in stage.lines()]

    assert [add() for _ in range(int(BURST))] == [["done"]] * int(BURST)
    assert add() == ["dropped"]
    stage.now += 1.0
    assert [add() for _ in range(int(RATE) + 1)] == [["done"]] * int(RATE) + [["dropped"]]


def test_a_lost_helper_is_a_failure(stage: _Stage) -> None:
    stage.lookups.add(lookup())
    stage.helper.end()
    assert [line["outcome"] for line in stage.lines()] == ["failed"]
    stage.helper.takes = False
    stage.lookups.add(lookup())
    assert [line["outcome"] for line in stage.lines()] == ["dropped"]


@pytest.mark.parametrize("outcome", ["off", 5, None, ["done"]])
def test_a_helper_that_says_nonsense_is_ended(stage: _Stage, outcome: Any) -> None:
    stage.lookups.add(lookup())
    stage.helper.answer(0, outcome)
    assert [line["outcome"] for line in stage.lines()] == ["failed"]
    assert stage.helper.lost == 1


@pytest.mark.parametrize("junk", [b"", b"{}", b"7", b"[" * 100_000, b'{"id":[]}'])
def test_junk_from_the_helper_ends_it(stage: _Stage, junk: bytes) -> None:
    stage.lookups.add(lookup())
    stage.helper.answers.append(junk)
    assert [line["outcome"] for line in stage.lines()] == ["failed"]


class _Server(http.server.BaseHTTPRequestHandler):
    requests: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.requests.append((self.path, dict(self.headers)))
        if self.path == "/drip":
            self.drip()
            return
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def drip(self) -> None:
        """One byte of a header now and then, for ever."""
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.server.stopping.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing to standard error."""


class _Web:
    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        handler = type("_Handler", (_Server,), {"requests": self.requests})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.stopping = threading.Event()  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.stopping.set()  # type: ignore[attr-defined]
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[_Web]:
    made = _Web()
    yield made
    made.close()


def test_a_url_is_asked_for_and_its_answer_is_not_followed(web: _Web) -> None:
    outcome = look_up("url", f"{web.url}/away?q=1")
    assert (outcome.word, outcome.status, outcome.reason) == ("done", 200, "")
    assert look_up("url", f"{web.url}/away").status == 302
    assert [path for path, _ in web.requests] == ["/away?q=1", "/away"]
    assert set(web.requests[0][1]) == {"Host", "Accept-Encoding", "User-Agent", "Connection"}


def test_no_proxy_is_asked(web: _Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, web.url)
    assert look_up("url", "http://127.0.0.1:1/").word == "failed"
    assert web.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "http://",
        "http://user:word@127.0.0.1/",
        "http://user@127.0.0.1/",
    ],
)
def test_only_urls_of_web_servers_without_credentials_are_asked_for(url: str) -> None:
    outcome = look_up("url", url)
    assert (outcome.word, outcome.reason.partition(":")[0]) == ("failed", "ValueError")
    assert "not an http or https URL" in outcome.reason


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://127.0.0.1:1/a b",
        "http://127.0.0.1:1/\x00",
        "http://127.0.0.1:1/é",
        "https://127.0.0.1:1/",
    ],
)
def test_what_is_no_url_for_it_fails(url: str) -> None:
    outcome = look_up("url", url)
    assert outcome.word == "failed"
    assert outcome.reason


def test_names_are_resolved() -> None:
    assert look_up("name", "localhost").word == "done"
    for name in ("a" * 300, "\x00", "a..b"):
        assert look_up("name", name).word == "failed"


@pytest.fixture
def helper() -> Iterator[Helper]:
    made = Helper(module_command("agent.events.lookups_main"))
    yield made
    made.close()


def answers(helper: Helper, count: int) -> dict[int, dict[str, Any]]:
    return {fields["id"]: fields for fields in map(json.loads, receive(helper, count, PATIENCE_S))}


def ask(helper: Helper, number: int, url: str, kind: str = "url") -> None:
    assert helper.send(json.dumps({"id": number, "kind": kind, "text": url}).encode())


def test_the_helper_looks_up_more_than_it_does_at_once(helper: Helper, web: _Web) -> None:
    for number in range(3 * MAX_PARALLEL):
        ask(helper, number, f"{web.url}/{number}")
    got = answers(helper, 3 * MAX_PARALLEL)
    assert {fields["status"] for fields in got.values()} == {200}
    assert sorted(int(path[1:]) for path, _ in web.requests) == list(range(3 * MAX_PARALLEL))
    assert helper.lost == 0


def test_the_helper_can_do_nothing_else(helper: Helper, web: _Web) -> None:
    ask(helper, 1, web.url)
    answers(helper, 1)
    status = Path(f"/proc/{helper.pid}/status").read_text()
    assert "CapEff:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status


def test_a_lookup_that_dies_is_a_failure_of_its_own(helper: Helper, web: _Web) -> None:
    ask(helper, 1, f"{web.url}/drip")
    wait_until(lambda: web.requests, PATIENCE_S, "the request")
    for child in children(helper.pid):
        os.kill(child, signal.SIGKILL)
    ask(helper, 2, web.url)
    got = answers(helper, 2)
    assert (got[1]["outcome"], got[1]["reason"]) == ("failed", "ended with status -9")
    assert got[2]["outcome"] == "done"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# The helper with less patience.
_HASTY = "import sys; from agent.events import lookups_main as m; m.DEADLINE_S = 1; sys.exit(m.main())"


def test_a_server_that_answers_for_ever_is_a_timeout(web: _Web) -> None:
    helper = Helper(lambda fd: [sys.executable, "-I", "-c", _HASTY, str(fd)])
    try:
        ask(helper, 5, f"{web.url}/drip")
        (fields,) = answers(helper, 1).values()
    finally:
        helper.close()
    assert fields == {"id": 5, "outcome": "timeout", "status": None, "reason": "no answer in 1 s"}
